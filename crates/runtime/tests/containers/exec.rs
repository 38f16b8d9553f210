//! More processes in a running container.

use std::io::Read as _;
use std::os::fd::AsFd as _;

use brig_runtime::{ErrorKind, ExecRequest, Stdio};
use brig_sys::pidfd::Exit;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("exec_joins_everything", exec_joins_everything),
    ("exec_rights", exec_rights),
    ("exec_errors", exec_errors),
    ("exec_terminal", exec_terminal),
    ("exec_in_host_user_namespace", exec_in_host_user_namespace),
    ("exec_into_paused_or_ended", exec_into_paused_or_ended),
];

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn exec_joins_everything() {
    let place = Place::new("xjoin");
    let spec = spec(&["sleep", "1000"]);
    let container = sleeper(&place, &spec);
    let script = "for n in pid net ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done; id -u; pwd; cat /proc/self/cgroup | grep -vc ':/$'; ls -l /proc/self/fd | grep -c -e '->'; exit 5";
    let ran = exec(&container, &spec, |process| process.args = sh(script)).unwrap();
    assert_eq!(ran.exit, Exit::Code(5), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    for (name, inside) in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"].iter().zip(&lines) {
        let init = std::fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap();
        assert_eq!(init.to_str().unwrap(), *inside, "{name}");
    }
    assert_eq!(&lines[7..], ["0", "/", "0", "3"], "{ran:?}");
    container.delete().unwrap();
}

fn exec_rights() {
    let place = Place::new("xcaps");
    let mut spec = spec(&["sleep", "1000"]);
    linux(&mut spec).seccomp = Some(brig_oci::runtime::Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![brig_oci::runtime::SeccompRule {
            names: vec!["mkdir".into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(1),
            args: vec![],
        }],
        ..Default::default()
    });
    let container = sleeper(&place, &spec);
    for no_new_privileges in [false, true] {
        let ran = exec(&container, &spec, |process| {
            process.args = sh(
                "grep -E 'CapInh|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; id -u; id -G; mkdir /x 2>/dev/null || echo refused",
            );
            process.user =
                brig_oci::runtime::User { uid: 1000, gid: 1000, additional_gids: vec![9], ..Default::default() };
            process.no_new_privileges = no_new_privileges;
        });
        let expected = format!(
            "CapInh:\t0000000000000000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t{}\nSeccomp:\t2\n1000\n1000 9\nrefused\n",
            u8::from(no_new_privileges)
        );
        assert_eq!(ran.unwrap().stdout, expected);
    }
    let more = |process: &mut brig_oci::runtime::Process| {
        let caps = process.capabilities.as_mut().unwrap();
        caps.bounding.push("CAP_NET_ADMIN".into());
        process.args = sh("grep CapBnd /proc/self/status");
    };
    assert!(exec(&container, &spec, more).unwrap_err().message.contains("more than the container has"));
    let mut process = spec.process.clone().unwrap();
    more(&mut process);
    let (stdio, output) = pipes();
    let done = container.exec(ExecRequest { privileged: true, ..ExecRequest::new(&process, None, stdio) }).unwrap();
    assert_eq!(output.collect(done.pidfd.as_fd()).stdout, "CapBnd:\t00000000a80435fb\n");
    container.delete().unwrap();
}

fn exec_errors() {
    let place = Place::new("xerr");
    let spec = spec(&["sleep", "1000"]);
    let container = sleeper(&place, &spec);
    let error = exec(&container, &spec, |process| process.args = vec!["absent".into()]).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::NotFound, "exec: \"absent\": executable file not found in $PATH")
    );
    let error = exec(&container, &spec, |process| process.args = vec!["/etc".into()]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotExecutable);
    for fd in 3..16 {
        let error = exec(&container, &spec, |process| process.cwd = format!("/proc/self/fd/{fd}")).unwrap_err();
        assert!(error.message.contains("process.cwd"), "{error}");
    }
    let error = exec(&container, &spec, |process| process.cwd = "/absent".into()).unwrap_err();
    assert!(error.message.contains("no such file or directory"), "{error}");
    assert!(exec(&container, &spec, |process| process.args.clear()).is_err());
    container.delete().unwrap();
}

fn exec_terminal() {
    let place = Place::new("xtty");
    let spec = spec(&["sleep", "1000"]);
    let container = sleeper(&place, &spec);
    let mut process = spec.process.clone().unwrap();
    process.terminal = true;
    process.user.uid = 1000;
    process.args = sh("tty; stty size; stat -c %u $(tty)");
    let stdio = Stdio::Terminal { width: 100, height: 50 };
    let done = container.exec(ExecRequest::new(&process, spec.linux.as_ref(), stdio)).unwrap();
    assert_eq!(brig_sys::pidfd::reap(done.pidfd.as_fd()).unwrap(), Exit::Code(0));
    // EIO when the last slave is closed and everything was read.
    let mut text = Vec::new();
    let mut master = std::fs::File::from(done.master.unwrap());
    assert!(master.read_to_end(&mut text).is_err());
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n50 100\r\n1000\r\n");
    container.delete().unwrap();
}

fn exec_in_host_user_namespace() {
    let place = Place::new("xhost");
    let mut spec = spec(&["sleep", "1000"]);
    linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
    linux(&mut spec).uid_mappings.clear();
    linux(&mut spec).gid_mappings.clear();
    let container = sleeper(&place, &spec);
    let ran = exec(&container, &spec, |process| process.args = sh("hostname; cat /proc/self/uid_map")).unwrap();
    assert_eq!(ran.stdout.split_whitespace().collect::<Vec<_>>(), ["box", "0", "0", "4294967295"]);
    container.delete().unwrap();
}

fn exec_into_paused_or_ended() {
    let place = Place::new("xpause");
    let spec = spec(&["sleep", "1000"]);
    let container = sleeper(&place, &spec);
    container.cgroup().freeze().unwrap();
    let error = exec(&container, &spec, |process| process.args = sh("true")).unwrap_err();
    assert!(error.message.contains("paused"), "{error}");
    container.cgroup().thaw().unwrap();
    container.kill(9).unwrap();
    brig_sys::pidfd::wait_end(container.pidfd(), None).unwrap();
    let error = exec(&container, &spec, |process| process.args = sh("true")).unwrap_err();
    assert!(error.message.contains("not running"), "{error}");
    container.delete().unwrap();
}
