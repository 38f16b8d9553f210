//! The device rules that Docker puts into a container's specification before those the user adds.
//!
//! Owns: that list (moby `daemon/pkg/oci/defaults.go`). Must not: know what every runtime adds by itself, or enforce anything.

use crate::runtime::DeviceCgroup;

/// Nothing but the harmless nodes of `/dev`: null, zero, full, tty, console, random, urandom; FUSE denied by name.
#[must_use]
pub fn docker_default() -> Vec<DeviceCgroup> {
    let node = |allow: bool, major: i64, minor: i64| DeviceCgroup {
        allow,
        type_: "c".to_owned(),
        major: Some(major),
        minor: Some(minor),
        access: "rwm".to_owned(),
    };
    let everything = DeviceCgroup { allow: false, access: "rwm".to_owned(), ..DeviceCgroup::default() };
    let allowed = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)].map(|(major, minor)| node(true, major, minor));
    std::iter::once(everything).chain(allowed).chain([node(false, 10, 229)]).collect()
}

/// For a privileged container: everything.
#[must_use]
pub fn privileged() -> Vec<DeviceCgroup> {
    vec![DeviceCgroup { allow: true, access: "rwm".to_owned(), ..DeviceCgroup::default() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_comes_first() {
        let rules = docker_default();
        assert!(!rules[0].allow && rules[0].type_.is_empty() && rules[0].major.is_none());
        assert_eq!(rules.iter().filter(|rule| rule.allow).count(), 6);
        assert!(privileged()[0].allow);
    }
}
