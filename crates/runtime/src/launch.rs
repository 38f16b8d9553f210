//! The process of a specification, checked and compiled in the parent, so that the child only has to make calls.
//! Owns the meaning of `process` and `linux.seccomp`. Must not make calls that change anything.

use std::ffi::CString;

use brig_oci::runtime::{Capabilities, Linux, Process, Rlimit};
use brig_sys::caps::Sets;
use brig_sys::process::{Limits, Scheduling};

use crate::error::{Error, Result, Step};
use crate::listener::Agent;
use crate::placement::{self, Affinity, Memory};
use crate::seccomp::{self, Program};

/// A process ready to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// `argv`, never empty.
    pub args: Vec<CString>,
    /// The environment.
    pub env: Vec<CString>,
    /// Absolute.
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub caps: Sets,
    pub no_new_privileges: bool,
    pub filter: Option<Program>,
    /// Who gets the filter's listener, exactly if it has one.
    pub agent: Option<Agent>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub scheduling: Option<Scheduling>,
    pub io_priority: Option<(u8, u8)>,
    pub personality: Option<u64>,
    pub limits: Vec<(String, u32, Limits)>,
    /// The process has to lower its limits itself, as long as it is who its parent is.
    pub own_limits: bool,
    pub oom_score_adj: Option<i32>,
    /// Of an exec only.
    pub affinity: Affinity,
    pub memory: Option<Memory>,
    /// The cgroup has not all CPUs.
    pub confined: bool,
}

impl Launch {
    /// Checks a process and compiles its filter.
    pub fn compile(process: &Process, linux: Option<&Linux>) -> Result<Launch> {
        check(process)?;
        let mut agent = None;
        let filter = match linux.and_then(|linux| linux.seccomp.as_ref()) {
            Some(profile) => {
                let filter =
                    seccomp::compile(profile).map_err(|error| Error::invalid(format!("linux.seccomp: {error}")))?;
                if filter.notifies {
                    agent = Some(Agent::of(profile)?);
                }
                Some(filter)
            }
            None => None,
        };
        Ok(Launch {
            args: strings("process.args", &process.args)?,
            env: strings("process.env", &last_of_each(&process.env))?,
            cwd: process.cwd.clone(),
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
            umask: process.user.umask,
            caps: process.capabilities.as_ref().map_or(Ok(Sets::default()), capabilities)?,
            no_new_privileges: process.no_new_privileges,
            filter,
            agent,
            apparmor: label("process.apparmorProfile", &process.apparmor_profile)?,
            selinux: label("process.selinuxLabel", &process.selinux_label)?,
            scheduling: process.scheduler.as_ref().map(placement::scheduling).transpose()?,
            io_priority: process.io_priority.as_ref().map(placement::io_priority).transpose()?,
            personality: linux.and_then(|linux| linux.personality.as_ref()).map(personality).transpose()?,
            limits: limits(&process.rlimits)?,
            own_limits: !process.rlimits.is_empty() && !may_limit_others(linux)?,
            oom_score_adj: process.oom_score_adj,
            affinity: process.exec_cpu_affinity.as_ref().map_or(Ok(Affinity::default()), Affinity::compile)?,
            confined: linux.is_some_and(confined),
            memory: linux.and_then(|linux| linux.memory_policy.as_ref()).map(Memory::compile).transpose()?,
        })
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        let value = |entry: &CString| -> Option<usize> {
            let bytes = entry.as_bytes();
            (bytes.starts_with(name.as_bytes()) && bytes.get(name.len()) == Some(&b'=')).then_some(name.len() + 1)
        };
        self.env.iter().rev().find_map(|entry| value(entry).map(|start| &entry.as_bytes()[start..]))
    }
}

fn confined(linux: &Linux) -> bool {
    let cpu = linux.resources.as_ref().and_then(|resources| resources.cpu.as_ref());
    cpu.is_some_and(|cpu| !cpu.cpus.is_empty())
}

fn check(process: &Process) -> Result<()> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("process.args: there is no program to run"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid(format!("process.cwd: {:?} is not an absolute path", process.cwd)));
    }
    let user = &process.user;
    if [user.uid, user.gid].iter().chain(&user.additional_gids).any(|id| *id == u32::MAX) {
        return Err(Error::invalid("process.user: 4294967295 is no user or group id"));
    }
    if user.additional_gids.len() > 65536 {
        return Err(Error::invalid(format!(
            "process.user.additionalGids: {} groups; the kernel takes 65536",
            user.additional_gids.len()
        )));
    }
    if user.umask.is_some_and(|umask| umask > 0o777) {
        return Err(Error::invalid("process.user.umask: more than 0777"));
    }
    if !user.username.is_empty() {
        return Err(Error::invalid("process.user.username: is for Windows; give uid and gid"));
    }
    if process.oom_score_adj.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return Err(Error::invalid("process.oomScoreAdj: not between -1000 and 1000"));
    }
    Ok(())
}

/// Of variables that are set several times only the last, where it stands: programs disagree about which one counts.
fn last_of_each(variables: &[String]) -> Vec<String> {
    let name = |entry: &String| entry.split_once('=').map_or(entry.clone(), |(name, _)| name.to_owned());
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> = variables.iter().rev().filter(|entry| seen.insert(name(entry))).cloned().collect();
    kept.reverse();
    kept
}

fn strings(field: &str, list: &[String]) -> Result<Vec<CString>> {
    list.iter()
        .map(|text| {
            CString::new(text.as_str()).map_err(|_| Error::invalid(format!("{field}: {text:?} contains a NUL byte")))
        })
        .collect()
}

fn label(field: &str, text: &str) -> Result<Option<String>> {
    if text.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("{field}: {text:?} contains a line break or NUL")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The sets as masks. Refused: unknown names and sets that the kernel's rules exclude. Left out: capabilities that this kernel
/// does not know yet, which nobody can have.
pub(crate) fn capabilities(capabilities: &Capabilities) -> Result<Sets> {
    let last = brig_sys::caps::last();
    let mask = |field: &str, names: &[String]| {
        names.iter().try_fold(0u64, |mask, name| {
            let number = brig_oci::capabilities::ALL.iter().position(|known| known == name);
            let number = number
                .ok_or_else(|| Error::invalid(format!("process.capabilities.{field}: unknown capability {name:?}")))?;
            Ok::<u64, Error>(if number as u32 <= last { mask | 1 << number } else { mask })
        })
    };
    let sets = Sets {
        bounding: mask("bounding", &capabilities.bounding)?,
        effective: mask("effective", &capabilities.effective)?,
        permitted: mask("permitted", &capabilities.permitted)?,
        inheritable: mask("inheritable", &capabilities.inheritable)?,
        ambient: mask("ambient", &capabilities.ambient)?,
    };
    if sets.effective & !sets.permitted != 0 {
        return Err(Error::invalid("process.capabilities: effective has what permitted has not"));
    }
    if sets.permitted & !sets.bounding != 0 {
        return Err(Error::invalid("process.capabilities: permitted has what bounding has not"));
    }
    if sets.inheritable & !sets.bounding != 0 {
        return Err(Error::invalid("process.capabilities: inheritable has what bounding has not"));
    }
    if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
        return Err(Error::invalid("process.capabilities: ambient has what permitted or inheritable has not"));
    }
    Ok(sets)
}

fn limits(list: &[Rlimit]) -> Result<Vec<(String, u32, Limits)>> {
    let mut limits: Vec<(String, u32, Limits)> = Vec::with_capacity(list.len());
    for entry in list {
        let resource = brig_sys::process::resource(&entry.type_)
            .ok_or_else(|| Error::invalid(format!("process.rlimits: unknown limit {:?}", entry.type_)))?;
        if entry.soft > entry.hard {
            return Err(Error::invalid(format!(
                "process.rlimits: {}: soft {} is above hard {}",
                entry.type_, entry.soft, entry.hard
            )));
        }
        if limits.iter().any(|(_, known, _)| *known == resource) {
            return Err(Error::invalid(format!("process.rlimits: {} is listed twice", entry.type_)));
        }
        limits.push((entry.type_.clone(), resource, Limits { soft: entry.soft, hard: entry.hard }));
    }
    Ok(limits)
}

fn personality(personality: &brig_oci::runtime::Personality) -> Result<u64> {
    if let Some(flag) = personality.flags.first() {
        return Err(Error::invalid(format!("linux.personality.flags: {flag:?}: no flag is defined")));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid(format!("linux.personality.domain: unknown domain {other:?}"))),
    }
}

/// Checks that ids are mapped in the container's user namespace.
pub(crate) fn check_mapped(
    launch: &Launch,
    uids: &[brig_sys::idmap::Range],
    gids: &[brig_sys::idmap::Range],
) -> Result<()> {
    let missing = |what: &str, id: u32| {
        Error::invalid(format!("process.user: {what} {id} is outside of the container's id range"))
    };
    brig_sys::idmap::to_outside(uids, launch.uid).ok_or_else(|| missing("uid", launch.uid))?;
    for gid in launch.groups.iter().chain([&launch.gid]) {
        brig_sys::idmap::to_outside(gids, *gid).ok_or_else(|| missing("gid", *gid))?;
    }
    Ok(())
}

/// Whether limits of a process that has become another user may be changed: in a user namespace of ours, or with
/// CAP_SYS_RESOURCE, which not every root has.
fn may_limit_others(linux: Option<&Linux>) -> Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let has_user_namespace = linux.is_some_and(|linux| linux.namespaces.iter().any(|entry| entry.type_ == "user"));
    Ok(has_user_namespace || brig_sys::caps::permitted()? & CAP_SYS_RESOURCE != 0)
}

/// Sets the limits of a child, or with the pid 0 its own; `own` if the child does that itself. Returns what had to be granted differently.
pub(crate) fn apply_limits(pid: i32, limits: &[(String, u32, Limits)], own: bool) -> Result<Vec<String>> {
    use rustix::io::Errno;
    let mut warnings = Vec::new();
    for (name, resource, wanted) in limits {
        let set = |pid, limits| brig_sys::process::set_limit(pid, *resource, limits);
        let step = || format!("process.rlimits: {name}");
        match set(pid, Some(*wanted)) {
            Ok(_) => continue,
            Err(error) if error.errno == Errno::PERM => {}
            Err(error) => return Err(error).step(step),
        }
        // The kernel does not let the hard limit rise: the most that it grants is the hard limit in force, which is ours.
        let current = set(0, None).step(step)?;
        let granted = Limits { soft: wanted.soft.min(current.hard), hard: wanted.hard.min(current.hard) };
        match set(pid, Some(granted)) {
            // It is another user by now, and has done this before it became that.
            Err(error) if error.errno == Errno::PERM && own => {}
            done => done.map(drop).step(step)?,
        }
        if (granted.soft, granted.hard) != (wanted.soft, wanted.hard) {
            warnings.push(format!(
                "{name}: asked for {}:{}, the kernel grants {}:{}",
                wanted.soft, wanted.hard, granted.soft, granted.hard
            ));
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_oci::runtime::User;

    fn process() -> Process {
        Process {
            args: vec!["sh".into()],
            cwd: "/".into(),
            env: vec!["A=1".into(), "AB=2".into(), "A=3".into()],
            ..Process::default()
        }
    }

    #[test]
    fn last_variable_counts() {
        let launch = Launch::compile(&process(), None).unwrap();
        assert_eq!(launch.variable("A"), Some(b"3".as_slice()));
        assert_eq!(launch.variable("B"), None);
    }

    #[test]
    fn a_variable_is_set_once() {
        let set = |list: &[&str]| last_of_each(&list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>());
        assert_eq!(set(&["A=1", "B=2", "A=", "C", "C"]), ["B=2", "A=", "C"]);
    }

    #[test]
    fn refuses_by_field() {
        type Change = fn(&mut Process);
        let cases: [(&str, Change); 12] = [
            ("process.args", |p| p.args.clear()),
            ("process.args", |p| p.args = vec![String::new()]),
            ("process.args", |p| p.args.push("a\0b".into())),
            ("process.cwd", |p| p.cwd = "x".into()),
            ("process.user", |p| p.user = User { uid: u32::MAX, ..User::default() }),
            ("process.user.umask", |p| p.user.umask = Some(0o7777)),
            ("process.oomScoreAdj", |p| p.oom_score_adj = Some(5000)),
            ("process.rlimits", |p| p.rlimits = vec![Rlimit { type_: "RLIMIT_X".into(), soft: 1, hard: 1 }]),
            ("process.rlimits", |p| p.rlimits = vec![Rlimit { type_: "RLIMIT_CORE".into(), soft: 2, hard: 1 }]),
            ("process.rlimits", |p| p.rlimits = vec![Rlimit { type_: "RLIMIT_CORE".into(), soft: 1, hard: 1 }; 2]),
            ("process.capabilities.bounding", |p| {
                p.capabilities = Some(Capabilities { bounding: vec!["CAP_X".into()], ..Capabilities::default() })
            }),
            ("process.capabilities", |p| {
                p.capabilities = Some(Capabilities { effective: vec!["CAP_KILL".into()], ..Capabilities::default() })
            }),
        ];
        for (field, change) in cases {
            let mut process = process();
            change(&mut process);
            let error = Launch::compile(&process, None).unwrap_err();
            assert!(error.message.starts_with(field), "{field}: {error}");
        }
    }
}
