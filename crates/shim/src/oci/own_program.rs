//! Running this program again from where no container can write it.
//!
//! Owns: which verbs need that. Must not: change what the program was asked for.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::oci::Fault;

/// What a container may get to see of this process must not be a file that it could write to (CVE-2019-5736).
pub(crate) fn protect(verb: &str) -> Result<(), Fault> {
    if !matches!(verb, "create" | "run" | "exec" | "restore") {
        return Ok(());
    }
    let text = |text: OsString| {
        CString::new(text.into_vec()).map_err(|_| Fault::new("an argument or a variable contains a NUL byte"))
    };
    let arguments = std::env::args_os().map(text).collect::<Result<_, _>>()?;
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        text(name)
    };
    let environment = std::env::vars_os().map(variable).collect::<Result<_, _>>()?;
    Ok(brig_sys::own_program::protect(arguments, environment)?)
}
