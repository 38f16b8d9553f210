//! Tests of the profile format: goldens of Docker's default, conditions, refusals. Owns nothing else.

use super::*;
use crate::capabilities;

const NEW: KernelVersion = KernelVersion(6, 18);

fn names(profile: &Seccomp) -> Vec<&str> {
    let mut names: Vec<&str> = profile
        .syscalls
        .iter()
        .filter(|rule| rule.action == "SCMP_ACT_ALLOW")
        .flat_map(|rule| &rule.names)
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What `caps` allow beyond (`+`) or short of (`-`) the default set.
fn difference(caps: &[&str], arch: &str, kernel: KernelVersion) -> String {
    let (base, other) = (docker_default(&capabilities::DEFAULT, arch, NEW), docker_default(caps, arch, kernel));
    let (base, other) = (names(&base), names(&other));
    let more = other.iter().filter(|name| !base.contains(name)).map(|name| format!("+{name}"));
    let less = base.iter().filter(|name| !other.contains(name)).map(|name| format!("-{name}"));
    more.chain(less).collect::<Vec<_>>().join(" ")
}

fn with(extra: &str) -> String {
    let caps: Vec<&str> = capabilities::DEFAULT.iter().copied().chain([extra]).collect();
    difference(&caps, "amd64", NEW)
}

#[test]
fn the_default_profile_by_capability() {
    assert_eq!(with("CAP_CHOWN"), "");
    assert_eq!(with("CAP_DAC_READ_SEARCH"), "+open_by_handle_at");
    assert_eq!(
        with("CAP_SYS_ADMIN"),
        "+bpf +clone3 +fanotify_init +fsconfig +fsmount +fsopen +fspick +lookup_dcookie +lsm_get_self_attr +lsm_list_modules +lsm_set_self_attr \
         +mount +mount_setattr +move_mount +open_tree +perf_event_open +quotactl +quotactl_fd +setdomainname +sethostname +setns +syslog +umount +umount2 +unshare"
    );
    assert_eq!(with("CAP_SYS_BOOT"), "+reboot");
    assert_eq!(with("CAP_SYS_MODULE"), "+delete_module +finit_module +init_module");
    assert_eq!(with("CAP_SYS_PACCT"), "+acct");
    assert_eq!(with("CAP_SYS_PTRACE"), "+kcmp +pidfd_getfd +process_madvise");
    assert_eq!(with("CAP_SYS_RAWIO"), "+ioperm +iopl");
    assert_eq!(with("CAP_SYS_TIME"), "+clock_settime +clock_settime64 +settimeofday +stime");
    assert_eq!(with("CAP_SYS_TTY_CONFIG"), "+vhangup");
    assert_eq!(with("CAP_SYS_NICE"), "+get_mempolicy +mbind +set_mempolicy +set_mempolicy_home_node");
    assert_eq!(with("CAP_SYSLOG"), "+syslog");
    assert_eq!(with("CAP_BPF"), "+bpf");
    assert_eq!(with("CAP_PERFMON"), "+perf_event_open");
    assert_eq!(difference(&[], "amd64", NEW), "-chroot");
}

#[test]
fn the_default_profile_by_kernel_and_architecture() {
    let caps = &capabilities::DEFAULT;
    assert_eq!(difference(caps, "amd64", KernelVersion(4, 8)), "");
    assert_eq!(difference(caps, "amd64", KernelVersion(5, 0)), "");
    assert_eq!(difference(caps, "amd64", KernelVersion(4, 7)), "-process_vm_readv -process_vm_writev -ptrace");
    let arm = docker_default(caps, "arm64", NEW);
    assert_eq!(arm.architectures, ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
    assert!(names(&arm).contains(&"set_tls") && !names(&arm).contains(&"arch_prctl"));
    let intel = docker_default(caps, "amd64", NEW);
    assert_eq!(intel.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    assert!(names(&intel).contains(&"arch_prctl") && !names(&intel).contains(&"set_tls"));
    assert_eq!((intel.default_action.as_str(), intel.default_errno_ret), ("SCMP_ACT_ERRNO", Some(1)));
    assert!(docker_default(caps, "m68k", NEW).architectures.is_empty());
}

#[test]
fn clone_of_the_default_profile() {
    let plain = docker_default(&capabilities::DEFAULT, "amd64", NEW);
    let rules = |profile: &Seccomp, name: &str| {
        profile.syscalls.iter().filter(|rule| rule.names.iter().any(|known| known == name)).cloned().collect::<Vec<_>>()
    };
    let clone = rules(&plain, "clone");
    assert_eq!(clone.len(), 1);
    let arg = SeccompArg { index: 0, value: 0x7e02_0000, value_two: 0, op: "SCMP_CMP_MASKED_EQ".into() };
    assert_eq!(clone[0].args, [arg]);
    let clone3 = rules(&plain, "clone3");
    assert_eq!((clone3.len(), clone3[0].action.as_str(), clone3[0].errno_ret), (1, "SCMP_ACT_ERRNO", Some(38)));
    let admin = docker_default(&["CAP_SYS_ADMIN"], "amd64", NEW);
    assert!(rules(&admin, "clone").iter().all(|rule| rule.args.is_empty() && rule.action == "SCMP_ACT_ALLOW"));
    assert_eq!(rules(&admin, "clone3").len(), 1);
}

#[test]
fn conditions_are_all_or_any() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}},
        {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}},
        {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64", "amd64"], "minKernel": "6.1"}},
        {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {"minKernel": "6.1"}},
        {"name": "e", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x"}]}"#;
    let run = |caps: &[&str], kernel| names(&from_docker_json(text, caps, "amd64", kernel).unwrap()).join("");
    assert_eq!(run(&["CAP_KILL"], NEW), "ce");
    assert_eq!(run(&["CAP_KILL", "CAP_CHOWN"], NEW), "ace");
    assert_eq!(run(&[], KernelVersion(6, 0)), "bde");
    assert_eq!(run(&[], KernelVersion(6, 1)), "bce");
}

#[test]
fn bad_profiles_are_refused() {
    let refused = |text: &str| from_docker_json(text, &[], "amd64", NEW).unwrap_err().to_string();
    assert!(refused("").contains("decoding seccomp profile failed"));
    assert!(refused("{}").contains("no defaultAction"));
    assert!(
        refused(r#"{"defaultAction":"x","architectures":["A"],"archMap":[{"architecture":"A"}]}"#)
            .contains("both 'architectures' and 'archMap'")
    );
    assert!(
        refused(r#"{"defaultAction":"x","syscalls":[{"name":"a","names":["b"]}]}"#).contains("both 'name' and 'names'")
    );
    assert!(
        refused(r#"{"defaultAction":"x","syscalls":[{"names":[]}]}"#)
            .contains("entry 0 of 'syscalls' in the seccomp profile names no system call")
    );
    assert!(
        refused(r#"{"defaultAction":"x","syscalls":[{"name":"a","includes":{"minKernel":"4.8.1"}}]}"#)
            .contains("minKernel \"4.8.1\"")
    );
    assert!(refused(&" ".repeat(MAX_BYTES + 1)).contains("bytes long"));
}

#[test]
fn kernel_releases() {
    assert_eq!(KernelVersion::parse("6.18.44-fc"), Some(KernelVersion(6, 18)));
    assert_eq!(KernelVersion::parse("6.1-rc2"), Some(KernelVersion(6, 1)));
    assert_eq!(KernelVersion::parse("six"), None);
    assert!(KernelVersion(5, 0) > KernelVersion(4, 8));
}

/// A container start must not wait for this: printed for the record, with a bound generous enough for a loaded machine.
#[test]
fn parsing_and_resolving_are_quick() {
    let start = std::time::Instant::now();
    let profile = Profile::parse(DOCKER_DEFAULT).unwrap();
    let parsed = start.elapsed();
    let conditions = Conditions { capabilities: &capabilities::DEFAULT, arch: "amd64", kernel: NEW };
    let start = std::time::Instant::now();
    let resolved = profile.resolve(&conditions);
    let resolving = start.elapsed();
    let text = serde_json::to_string(&resolved).unwrap();
    let start = std::time::Instant::now();
    let again: Seccomp = serde_json::from_str(&text).unwrap();
    println!("parse {parsed:?}, resolve {resolving:?}, read back {} bytes {:?}", text.len(), start.elapsed());
    assert_eq!(again, resolved);
    assert!(parsed.as_millis() < 200 && resolving.as_millis() < 200);
}
