//! Labels of the kernel's security modules: AppArmor's profile, SELinux's process and key labels.
//! Owns writing them, while this process is still who it was when it was cloned and sees the host's procfs: only then the
//! files are its own and nothing of a container is mounted on them. What cannot be set is an error, never a warning.

use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::launch::Launch;

const PROFILE: &str = "process.apparmorProfile";
const LABEL: &str = "process.selinuxLabel";

/// Whether SELinux is in force.
pub(crate) fn selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

/// Whether AppArmor is in force.
fn apparmor() -> bool {
    let read = std::fs::read("/sys/module/apparmor/parameters/enabled");
    read.is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// The error of a label for a module that is not there.
pub(crate) fn absent(field: &str, label: &str, module: &str) -> Error {
    Error::unsupported(format!("{field}: {label:?}: {module} is not in force on this machine"))
}

/// Sets what the program will have after its execve, and what keys made until then have.
pub(crate) fn set(launch: &Launch) -> Result<()> {
    if let Some(profile) = launch.apparmor.as_deref() {
        match (apparmor(), profile) {
            // No module, no profile: as was asked for.
            (false, "unconfined") => {}
            (false, _) => return Err(absent(PROFILE, profile, "AppArmor")),
            (true, _) => change_profile(profile)?,
        }
    }
    if let Some(label) = launch.selinux.as_deref() {
        if !selinux() {
            return Err(absent(LABEL, label, "SELinux"));
        }
        write("attr/exec", label, LABEL)?;
        // Of the session keyring.
        write("attr/keycreate", label, LABEL)?;
    }
    Ok(())
}

fn change_profile(profile: &str) -> Result<()> {
    let order = format!("exec {profile}");
    // Kernels before 5.8 have one directory for whichever module came first.
    match brig_sys::procfs::write_own("attr/apparmor/exec", &order) {
        Err(error) if error.errno == Errno::NOENT && error.call.starts_with("openat2") => {
            write("attr/exec", &order, PROFILE)
        }
        Err(error) if error.errno == Errno::NOENT => {
            Err(Error::invalid(format!("{PROFILE}: {profile:?}: no such profile is loaded: {error}")))
        }
        done => done.step(|| format!("{PROFILE}: apparmor failed to apply profile")),
    }
}

fn write(file: &str, text: &str, field: &str) -> Result<()> {
    brig_sys::procfs::write_own(file, text).step(|| field.to_owned())
}
