//! What callers of runc mean by a process that a bundle or a process file describes.
//!
//! Owns: the differences to what the runtime library takes: what is ignored with a warning, and what an exec has from its
//! container. Must not: hand out more than was asked for.

use std::collections::BTreeSet;

use brig_oci::runtime::{Capabilities, Process};

/// Makes the capabilities of a process such as the kernel can grant; returns what people are to be warned of.
///
/// Names that this kernel does not know are left out, and so are ambient capabilities that are not also permitted and
/// inheritable. What is permitted beyond the bounding set would be gone with the exec, and is not asked for.
pub(crate) fn tolerate(process: &mut Process) -> Vec<String> {
    let Some(capabilities) = &mut process.capabilities else { return Vec::new() };
    let known = brig_sys::caps::last() as usize;
    let known = |name: &String| brig_oci::capabilities::ALL.iter().take(known + 1).any(|known| known == name);
    let mut unknown = BTreeSet::new();
    for set in sets(capabilities) {
        unknown.extend(set.extract_if(.., |name| !known(name)));
    }
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
        warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" ")));
    }
    let Capabilities { bounding, effective, permitted, inheritable, ambient } = capabilities;
    // What is in force without being permitted is a contradiction, which is left to the runtime to refuse.
    effective.retain(|name| bounding.contains(name) || !permitted.contains(name));
    permitted.retain(|name| bounding.contains(name));
    ambient.retain(|name| {
        let possible = permitted.contains(name) && inheritable.contains(name);
        if !possible {
            warnings.push(format!("can't raise ambient capability {name}: operation not permitted"));
        }
        possible
    });
    warnings
}

fn sets(capabilities: &mut Capabilities) -> [&mut Vec<String>; 5] {
    [
        &mut capabilities.bounding,
        &mut capabilities.effective,
        &mut capabilities.permitted,
        &mut capabilities.inheritable,
        &mut capabilities.ambient,
    ]
}

/// Gives a process that is to join a container what it does not say itself: the container's.
pub(crate) fn inherit(process: &mut Process, container: &Process) {
    let text = |own: &mut String, other: &String| {
        if own.is_empty() {
            own.clone_from(other);
        }
    };
    text(&mut process.apparmor_profile, &container.apparmor_profile);
    text(&mut process.selinux_label, &container.selinux_label);
    if process.rlimits.is_empty() {
        process.rlimits.clone_from(&container.rlimits);
    }
    process.capabilities = process.capabilities.take().or_else(|| container.capabilities.clone());
    process.scheduler = process.scheduler.take().or_else(|| container.scheduler.clone());
    process.io_priority = process.io_priority.take().or_else(|| container.io_priority.clone());
    process.exec_cpu_affinity = process.exec_cpu_affinity.take().or_else(|| container.exec_cpu_affinity.clone());
    process.oom_score_adj = process.oom_score_adj.or(container.oom_score_adj);
    process.user.umask = process.user.umask.or(container.user.umask);
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_oci::runtime::{IoPriority, Rlimit, User};

    fn of(sets: [&[&str]; 5]) -> Process {
        let [bounding, effective, permitted, inheritable, ambient] =
            sets.map(|set| set.iter().map(|name| format!("CAP_{name}")).collect());
        let capabilities = Capabilities { bounding, effective, permitted, inheritable, ambient };
        Process { capabilities: Some(capabilities), ..Process::default() }
    }

    #[test]
    fn unknown_names_are_left_out_with_one_warning() {
        let mut process = of([&["KILL", "NO_SUCH"], &["KILL"], &["KILL", "kill"], &[], &["NO_SUCH"]]);
        process.capabilities.as_mut().unwrap().bounding.push("UNKNOWN_CAP".into());
        let warnings = tolerate(&mut process);
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [CAP_NO_SUCH CAP_kill UNKNOWN_CAP]"]);
        assert_eq!(process, of([&["KILL"], &["KILL"], &["KILL"], &[], &[]]));
    }

    #[test]
    fn ambient_ones_that_cannot_be_raised_are_left_out() {
        let all: &[&str] = &["KILL", "CHOWN", "SYSLOG"];
        let mut process = of([all, all, &["KILL", "CHOWN"], &["KILL", "SYSLOG"], all]);
        let warning = |name: &str| format!("can't raise ambient capability CAP_{name}: operation not permitted");
        assert_eq!(tolerate(&mut process), ["CHOWN", "SYSLOG"].map(warning));
        assert_eq!(process.capabilities.unwrap().ambient, ["CAP_KILL"]);
    }

    #[test]
    fn what_the_exec_would_drop_is_not_asked_for() {
        let mut process = of([&["SYS_ADMIN"], &["KILL"], &["SYS_ADMIN", "KILL"], &[], &[]]);
        assert!(tolerate(&mut process).is_empty());
        assert_eq!(process, of([&["SYS_ADMIN"], &[], &["SYS_ADMIN"], &[], &[]]));
        // In force but never permitted: for the runtime to refuse.
        for bounding in [&["KILL"][..], &[]] {
            let mut process = of([bounding, &["KILL"], &[], &[], &[]]);
            tolerate(&mut process);
            assert_eq!(process, of([bounding, &["KILL"], &[], &[], &[]]));
        }
    }

    #[test]
    fn execs_have_what_they_do_not_say_from_their_container() {
        let io = |priority| Some(IoPriority { class: "IOPRIO_CLASS_BE".into(), priority });
        let limit = |soft| vec![Rlimit { type_: "RLIMIT_CORE".into(), soft, hard: 9 }];
        let container = Process {
            io_priority: io(4),
            rlimits: limit(1),
            oom_score_adj: Some(7),
            apparmor_profile: "tight".into(),
            no_new_privileges: true,
            user: User { uid: 5, umask: Some(0o77), ..User::default() },
            ..of([&["KILL"], &[], &[], &[], &[]])
        };
        let mut process = Process { args: vec!["true".into()], ..Process::default() };
        inherit(&mut process, &container);
        let expected = Process {
            args: vec!["true".into()],
            no_new_privileges: false,
            user: User { umask: Some(0o77), ..User::default() },
            ..container.clone()
        };
        assert_eq!(process, expected);
        let own = Process {
            io_priority: io(1),
            rlimits: limit(3),
            oom_score_adj: Some(0),
            apparmor_profile: "loose".into(),
            user: User { umask: Some(0), ..User::default() },
            ..of([&[], &[], &[], &[], &[]])
        };
        let mut process = own.clone();
        inherit(&mut process, &container);
        assert_eq!(process, own);
    }
}
