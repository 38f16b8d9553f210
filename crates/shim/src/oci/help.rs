//! What the OCI command line says about itself.
//!
//! Owns: the texts of `--help` and `--version`, in the form that callers of runc look for. Must not: know what a verb does.

use crate::oci::Fault;
use crate::oci::describe::print;
use crate::oci::verbs::{self, Flag, GLOBAL, VERBS};

/// The release of runc whose command line this is.
const RUNC: &str = "1.3.6";

/// What this program was called as: in place of runc it may well be called so.
pub(crate) fn name() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The name as a title that says what the program stands for.
fn title(name: &str) -> String {
    if name == "runc" { name.to_owned() } else { format!("{name}, in place of runc") }
}

/// `--version`: callers parse the lines.
pub(crate) fn version() -> Result<u8, Fault> {
    print(&format!(
        "brig-rt (does what runc version {RUNC} does) version {}\ncommit: {}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("BRIG_BUILD").unwrap_or("unknown"),
        brig_oci::runtime::VERSION
    ))
}

/// Help for a verb, or for all if `verb` is empty.
///
/// Errors: there is no such verb.
pub(crate) fn help(verb: &str) -> Result<u8, Fault> {
    let name = name();
    if verb.is_empty() {
        return print(&overview(&name));
    }
    let Some(verb) = verbs::find(verb) else { return Err(Fault::new(format!("No help topic for '{verb}'"))) };
    let mut text =
        format!("NAME:\n   {} {} - {}\n\nUSAGE:\n   {name} {}", title(&name), verb.name, verb.about, verb.name);
    if !verb.flags.is_empty() {
        text.push_str(" [FLAG...]");
    }
    if !verb.operands.is_empty() {
        text.push_str(&format!(" {}", verb.operands));
    }
    text.push('\n');
    text.push_str(&flags("FLAGS", verb.flags));
    print(&text)
}

fn overview(name: &str) -> String {
    let mut text = format!(
        "NAME:\n   {} - Open Container Initiative runtime\n\nUSAGE:\n   {name} [GLOBAL FLAG...] VERB [FLAG...] [ID] [MORE...]\n\nVERBS:\n",
        title(name)
    );
    for verb in VERBS {
        text.push_str(&format!("   {:<12} {}\n", verb.name, verb.about));
    }
    text.push_str(&format!("   {:<12} show help for a verb\n", "help"));
    text.push_str(&flags("GLOBAL FLAGS", GLOBAL));
    text.push_str("\nFor the brig daemon only:\n   shim         --dir DIR\n   clean-up     --dir DIR\n");
    text
}

fn flags(title: &str, flags: &[Flag]) -> String {
    // Those without a text are taken for old callers' sake.
    let lines: String = flags.iter().filter(|flag| !flag.about.is_empty()).map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{title}:\n{lines}") }
}

fn line(flag: &Flag) -> String {
    let short = if flag.short.is_empty() { String::new() } else { format!(", -{}", flag.short) };
    let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
    format!("   {:<36} {}\n", format!("--{}{short}{value}", flag.long), flag.about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_there() {
        let text = overview("brig-rt");
        assert!(text.contains("   create       make a container"), "{text}");
        assert!(text.contains("   --version, -v                        show the version"), "{text}");
        assert!(!text.contains("criu "), "{text}");
        assert!(help("nonsense").unwrap_err().to_string().contains("No help topic for 'nonsense'"));
    }
}
