//! The names and numbers of Linux capabilities, Docker's default set, and what `--cap-add`/`--cap-drop` make of it.
//!
//! Owns: the table (capability.h, up to 6.18) and the merge rules (moby `daemon/pkg/oci/caps/utils.go`).
//! Must not: ask the kernel or set anything. Callers pass the last capability that the kernel knows.

/// Every capability, the index being its number.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container gets unless told otherwise, in Docker's order.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The word that stands for all of them.
const EVERYTHING: &str = "ALL";

/// A capability that nobody knows, or that this kernel lacks; the text is Docker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCapability {
    /// `CapAdd` or `CapDrop`.
    field: &'static str,
    /// As it was given.
    given: String,
    /// Known, but newer than the kernel.
    unavailable: bool,
}

impl std::fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let problem = if self.unavailable {
            "capability not supported by your kernel or not available in the current environment"
        } else {
            "unknown capability"
        };
        write!(f, "invalid {}: {problem}: {:?}", self.field, self.given)
    }
}

impl std::error::Error for UnknownCapability {}

/// The number of a capability by its full name (`CAP_CHOWN` → 0).
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    ALL.iter().position(|known| *known == name).and_then(|index| u8::try_from(index).ok())
}

/// The full name of a number.
#[must_use]
pub fn name(number: u8) -> Option<&'static str> {
    ALL.get(usize::from(number)).copied()
}

/// `chown`, `Cap_Chown`, `CAP_CHOWN` → `CAP_CHOWN`; `None` when there is no such capability.
#[must_use]
pub fn normalize(given: &str) -> Option<&'static str> {
    let upper = given.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.iter().copied().find(|known| known.strip_prefix("CAP_") == Some(bare))
}

/// The set of a container: `default` changed by `add` and `drop`, or everything for a privileged one.
///
/// `last` is the kernel's `/proc/sys/kernel/cap_last_cap`; what is newer does not exist for this kernel: `ALL` leaves it
/// out and naming it is an error. Rules as Docker's: `--cap-add ALL` is everything but what is dropped; `--cap-drop ALL`
/// is exactly what is added; else the default without what is dropped, then what is added. The order is deterministic.
///
/// # Errors
/// [`UnknownCapability`] for a name that is none, in either list, even for a privileged container.
pub fn tweak(
    default: &[&'static str],
    add: &[String],
    drop: &[String],
    privileged: bool,
    last: u8,
) -> Result<Vec<&'static str>, UnknownCapability> {
    let (add_all, add) = parse("CapAdd", add, last)?;
    let (drop_all, drop) = parse("CapDrop", drop, last)?;
    let available = || ALL.iter().copied().take(usize::from(last) + 1);
    if privileged {
        return Ok(available().collect());
    }
    if add_all {
        // `--cap-add ALL --cap-drop ALL` is everything in Docker too: the single names dropped decide, the word does not.
        return Ok(available().filter(|name| !drop.contains(name)).collect());
    }
    if drop_all {
        return Ok(add);
    }
    let kept = default.iter().copied().filter(|name| !drop.contains(name));
    let mut set: Vec<&'static str> = kept.collect();
    for name in add {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    Ok(set)
}

/// Splits `ALL` from the names, which it normalises, checks and frees of doubles.
fn parse(field: &'static str, list: &[String], last: u8) -> Result<(bool, Vec<&'static str>), UnknownCapability> {
    let mut all = false;
    let mut names = Vec::new();
    for given in list {
        if given.trim().eq_ignore_ascii_case(EVERYTHING) {
            all = true;
            continue;
        }
        let Some(name) = normalize(given) else {
            // Docker names the normalised form, so that `foo` and `CAP_FOO` read alike.
            let upper = given.trim().to_ascii_uppercase();
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            return Err(UnknownCapability { field, given: full, unavailable: false });
        };
        if number(name).is_some_and(|number| number > last) {
            return Err(UnknownCapability { field, given: name.to_owned(), unavailable: true });
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok((all, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>, String> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        tweak(&DEFAULT, &own(add), &own(drop), false, 40).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in [
            ("CAP_CHOWN", 0),
            ("CAP_SYS_ADMIN", 21),
            ("CAP_MKNOD", 27),
            ("CAP_SETFCAP", 31),
            ("CAP_CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(super::number(name), Some(number));
            assert_eq!(super::name(number), Some(name));
        }
        assert_eq!(name(41), None);
        assert_eq!(number("chown"), None, "number wants the full name");
        for name in DEFAULT {
            assert!(number(name).is_some(), "{name}");
        }
    }

    #[test]
    fn spelling_is_free() {
        for given in ["sys_admin", "CAP_SYS_ADMIN", "Cap_Sys_Admin", "SYS_ADMIN"] {
            assert_eq!(normalize(given), Some("CAP_SYS_ADMIN"));
        }
        assert_eq!(normalize("CAP_CAP_SYS_ADMIN"), None);
        assert_eq!(normalize(""), None);
    }

    #[test]
    fn adding_and_dropping() {
        assert_eq!(merge(&[], &[]).unwrap(), DEFAULT);
        let set = merge(&["net_admin", "NET_ADMIN", "chown"], &["CAP_MKNOD"]).unwrap();
        assert!(set.contains(&"CAP_NET_ADMIN") && !set.contains(&"CAP_MKNOD"));
        assert_eq!(set.len(), 14);
        // Dropped and added again: added, as in Docker.
        assert!(merge(&["KILL"], &["KILL"]).unwrap().contains(&"CAP_KILL"));
    }

    #[test]
    fn the_word_all() {
        assert_eq!(merge(&["ALL"], &[]).unwrap(), ALL);
        let set = merge(&["all"], &["SYS_ADMIN"]).unwrap();
        assert_eq!(set.len(), 40);
        assert!(!set.contains(&"CAP_SYS_ADMIN"));
        assert!(merge(&[], &["ALL"]).unwrap().is_empty());
        assert_eq!(merge(&["CHOWN", "kill"], &["ALL"]).unwrap(), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(merge(&["ALL"], &["ALL"]).unwrap(), ALL);
    }

    #[test]
    fn unknown_ones_are_refused_by_name() {
        assert_eq!(merge(&["CAP_FOO"], &[]).unwrap_err(), "invalid CapAdd: unknown capability: \"CAP_FOO\"");
        assert_eq!(merge(&[], &["foo"]).unwrap_err(), "invalid CapDrop: unknown capability: \"CAP_FOO\"");
        assert!(tweak(&DEFAULT, &["x".into()], &[], true, 40).is_err(), "privileged is no excuse");
    }

    #[test]
    fn an_older_kernel_has_fewer() {
        assert_eq!(tweak(&DEFAULT, &["ALL".into()], &[], false, 37).unwrap().len(), 38);
        assert_eq!(tweak(&DEFAULT, &[], &[], true, 37).unwrap().len(), 38);
        let error = tweak(&DEFAULT, &["bpf".into()], &[], false, 37).unwrap_err().to_string();
        assert!(error.contains("not supported by your kernel") && error.contains("\"CAP_BPF\""), "{error}");
    }
}
