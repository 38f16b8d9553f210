//! `exec`: another process in a container that this runtime made.
//!
//! Owns: where that process is described, its streams, and the wait for it. Must not: give it more than the container has,
//! unless the caller says so.

use std::os::fd::AsFd;
use std::path::Path;

use brig_oci::runtime::{Process, Spec};
use brig_runtime::{About, Container, ExecRequest, Stdio};

use crate::oci::arguments::CommandLine;
use crate::oci::control::{describe, init};
use crate::oci::create::{check_terminal, connect, inherited, pid_file, preserved, send_pidfd, terminal};
use crate::oci::foreground::Foreground;
use crate::oci::record::{Record, Records, replace};
use crate::oci::relay::{Host, Relay};
use crate::oci::{Fault, bundle_process, log};

/// Runs a process; in the foreground ends with its exit code.
pub(crate) fn exec(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let (preserved, _) = preserved(line, false)?;
    let (id, pid_file, detached) = (line.id()?, pid_file(line)?, line.has("detach"));
    let record = records.load(id)?;
    let ignore_paused = line.has("ignore-paused");
    match describe(&record, records.condition(&record))? {
        "stopped" => return Err(Fault::new("cannot exec in a stopped container")),
        "paused" if !ignore_paused => {
            return Err(Fault::new("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        _ => {}
    }
    let spec = records.spec(id)?;
    let process = process(line, &spec)?;
    let console = line.path("console-socket");
    check_terminal(process.terminal, detached, console.is_some())?;
    let host = if process.terminal && !detached { Some(Host::find()?) } else { None };
    let stdio = if process.terminal { sized(&process, host.as_ref()) } else { inherited()? };
    let foreground = if detached { None } else { Some(Foreground::prepare(false)?) };
    let container = adopt(&record, &spec)?;
    let console = console.as_deref().map(connect).transpose()?;
    let mut started = container.exec(ExecRequest {
        preserved,
        session_keyring: record.session_keyring,
        privileged: line.has("process") || line.has("cap"),
        ignore_paused,
        sub_cgroups: sub_cgroups(line.values("cgroup"))?,
        ..ExecRequest::new(&process, spec.linux.as_ref(), stdio)
    })?;
    log::debug(|| format!("nsexec container setup: process {} has joined the container", started.pid));
    if let Some(cpus) = process.exec_cpu_affinity.as_ref().and_then(|affinity| affinity.initial.as_deref()) {
        log::debug(|| format!("nsexec: affinity: {}", mask(cpus)));
    }
    log::debug(|| "child process in init(): setns_init: about to exec".to_owned());
    started.warnings.iter().for_each(|warning| log::warn(warning));
    if let (Some(master), Some(console)) = (&started.master, &console) {
        console.send(b"/dev/ptmx", &[master.as_fd()])?;
    }
    send_pidfd(line.path("pidfd-socket").as_deref(), started.pidfd.as_fd())?;
    if let Some(path) = pid_file {
        replace(&path, started.pid.to_string().as_bytes())?;
    }
    let Some(foreground) = foreground else { return Ok(0) };
    let relay = host.zip(started.master.take()).map(|(host, master)| Relay::new(host, master)).transpose()?;
    foreground.wait(started.pid, started.pidfd.as_fd(), relay, None)
}

/// The container, its first process proven to be the one of the record before and after it is taken over.
fn adopt(record: &Record, spec: &Spec) -> Result<Container, Fault> {
    let about = About { id: record.id.clone(), bundle: record.bundle.clone() };
    let _proof = init(record)?;
    let container = Container::adopt(record.pid, spec, record.cgroup.clone(), about)?;
    let _proof = init(record)?;
    Ok(container)
}

/// A list of CPUs as the mask that tools like taskset know.
fn mask(cpus: &str) -> String {
    let mut words = Vec::new();
    for range in cpus.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else { continue };
        for cpu in first..=last.min(8191) {
            let word = cpu / 64;
            if words.len() <= word {
                words.resize(word + 1, 0u64);
            }
            words[word] |= 1 << (cpu % 64);
        }
    }
    let mut text = words.pop().map_or("0x0".to_owned(), |word| format!("{word:#x}"));
    words.iter().rev().for_each(|word| text.push_str(&format!("{word:016x}")));
    text
}

/// A terminal that has its size before the program looks: the caller's own terminal's, if that is what it is shown on.
fn sized(process: &Process, host: Option<&Host>) -> Stdio {
    match host.and_then(Host::size) {
        Some((width, height)) => Stdio::Terminal { width, height },
        None => terminal(process),
    }
}

/// `--cgroup`: controllers, empty for all of them, and where below the container's cgroup the process goes for them.
fn sub_cgroups(values: &[String]) -> Result<Vec<(String, String)>, Fault> {
    let mut paths: Vec<(String, String)> = Vec::new();
    for value in values {
        let Some((controllers, path)) = value.split_once(':') else {
            if values.len() != 1 {
                return Err(Fault::new(format!("invalid --cgroup argument: {value} (missing <controller>: prefix)")));
            }
            return Ok(vec![(String::new(), value.clone())]);
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(Fault::new(format!("invalid --cgroup argument: {value} (empty <controller> prefix)")));
            }
            if paths.iter().any(|(known, _)| known == controller) {
                return Err(Fault::new(format!(
                    "invalid --cgroup argument(s): controller {controller} specified multiple times"
                )));
            }
            paths.push((controller.to_owned(), path.to_owned()));
        }
    }
    Ok(paths)
}

/// The process as `--process` has it, or the container's own with what else the command line says.
fn process(line: &CommandLine, spec: &Spec) -> Result<Process, Fault> {
    let mut process = match line.path("process") {
        Some(path) => described(&path, spec)?,
        None => like_the_first(line, spec)?,
    };
    if process.cwd.is_empty() {
        return Err(Fault::new("process.cwd: Cwd property must not be empty"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Fault::new("process.cwd: Cwd must be an absolute path"));
    }
    if process.args.is_empty() {
        return Err(Fault::new("process.args: args must not be empty"));
    }
    bundle_process::tolerate(&mut process).iter().for_each(|warning| log::warn(warning));
    Ok(process)
}

/// What a file says, and the container's own where it says nothing.
fn described(path: &Path, spec: &Spec) -> Result<Process, Fault> {
    let mut process = crate::launch::load(path).map_err(|failure| Fault::new(failure.message))?;
    if let Some(first) = &spec.process {
        bundle_process::inherit(&mut process, first);
    }
    Ok(process)
}

fn like_the_first(line: &CommandLine, spec: &Spec) -> Result<Process, Fault> {
    let mut process = spec.process.clone().unwrap_or_default();
    let command = line.operands.get(1..).unwrap_or_default();
    if command.is_empty() {
        return Err(Fault::new("exec args cannot be empty"));
    }
    process.args = command.to_vec();
    process.terminal = line.has("tty");
    process.env.extend_from_slice(line.values("env"));
    if let Some(cwd) = line.value("cwd") {
        cwd.clone_into(&mut process.cwd);
    }
    if let Some(profile) = line.value("apparmor") {
        profile.clone_into(&mut process.apparmor_profile);
    }
    if let Some(label) = line.value("process-label") {
        label.clone_into(&mut process.selinux_label);
    }
    if line.has("no-new-privs") {
        process.no_new_privileges = true;
    }
    if let Some(user) = line.value("user") {
        let bad = |what: &str, text: &str| Fault::new(format!("bad {what}: {text:?} in --user {user:?}: not a number"));
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        if let Some(gid) = gid {
            process.user.gid = number(gid).ok_or_else(|| bad("gid", gid))?;
        }
        process.user.uid = number(uid).ok_or_else(|| bad("uid", uid))?;
    }
    for gid in line.values("additional-gids").iter().flat_map(|value| value.split(',')) {
        let bad = || Fault::new(format!("additional-gids must be a positive number {gid}"));
        process.user.additional_gids.push(number(gid).ok_or_else(bad)?);
    }
    let more = line.values("cap");
    if !more.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend_from_slice(more);
        }
        // An ambient capability must be inheritable, which this flag does not make it.
        if !sets.inheritable.is_empty() {
            sets.ambient.extend_from_slice(more);
        }
    }
    Ok(process)
}

/// An id: digits and nothing else, as a sign or a space may mean that somebody meant something else (CVE-2026-30892).
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like_first(flags: &str) -> Result<Process, Fault> {
        let arguments: Vec<std::ffi::OsString> = flags.split_whitespace().map(Into::into).collect();
        let line = CommandLine::parse(&arguments).map_err(|(_, misuse)| misuse)?;
        let first = Process { cwd: "/".into(), args: vec!["first".into()], terminal: true, ..Process::default() };
        process(&line, &Spec { process: Some(first), ..Spec::default() })
    }

    #[test]
    fn flags_change_the_containers_own_process() {
        let process = like_first(
            "exec --cwd /tmp -e A=1 --user 5:6 -g 7 --additional-gids 8,9 --no-new-privs --cap CAP_KILL \
             --apparmor p --process-label l c1 ls -l",
        )
        .unwrap();
        assert_eq!((process.args, process.terminal), (vec!["ls".to_owned(), "-l".to_owned()], false));
        assert_eq!((process.cwd.as_str(), process.env), ("/tmp", vec!["A=1".to_owned()]));
        assert_eq!((process.user.uid, process.user.gid, process.user.additional_gids), (5, 6, vec![7, 8, 9]));
        assert!(process.no_new_privileges);
        assert_eq!((process.apparmor_profile.as_str(), process.selinux_label.as_str()), ("p", "l"));
        let sets = process.capabilities.unwrap();
        assert_eq!((sets.permitted, sets.ambient.len()), (vec!["CAP_KILL".to_owned()], 0));
        assert_eq!(like_first("exec --user 5 c1 ls").unwrap().user.gid, 0);
        assert!(like_first("exec -t c1 ls").unwrap().terminal);
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (flags, says) in [
            ("exec c1", "exec args cannot be empty"),
            ("exec --user x c1 ls", "bad uid"),
            ("exec --user 1:x c1 ls", "bad gid"),
            ("exec --user -1 c1 ls", "bad uid"),
            ("exec -g -1 c1 ls", "additional-gids must be a positive number -1"),
            ("exec --cwd tmp c1 ls", "Cwd must be an absolute path"),
        ] {
            let fault = like_first(flags).unwrap_err().to_string();
            assert!(fault.contains(says), "{flags}: {fault}");
        }
    }

    #[test]
    fn masks_of_cpus() {
        for (cpus, text) in [
            ("0", "0x1"),
            ("1,3", "0xa"),
            ("0-2,64", "0x10000000000000007"),
            ("", "0x0"),
            ("64", "0x10000000000000000"),
        ] {
            assert_eq!(mask(cpus), text, "{cpus}");
        }
    }

    #[test]
    fn cgroups_below_the_containers() {
        let parse = |values: &[&str]| {
            sub_cgroups(&values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>())
                .map_err(|fault| fault.to_string())
        };
        let pair = |controller: &str, path: &str| (controller.to_owned(), path.to_owned());
        assert_eq!(parse(&[]), Ok(vec![]));
        assert_eq!(parse(&["/sub"]), Ok(vec![pair("", "/sub")]));
        assert_eq!(
            parse(&["cpu,memory:a", "pids:b"]),
            Ok(vec![pair("cpu", "a"), pair("memory", "a"), pair("pids", "b")])
        );
        for bad in [&["a", "b"][..], &[":a"], &["cpu,:a"], &["cpu:a", "cpu:b"]] {
            assert!(parse(bad).unwrap_err().starts_with("invalid --cgroup argument"), "{bad:?}");
        }
    }
}
