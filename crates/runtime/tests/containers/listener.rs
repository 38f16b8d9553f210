//! Filters that ask an agent: a process of the test's answers, for the first process and for execs.

use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use brig_oci::runtime::{ContainerProcessState, Seccomp, SeccompRule, Spec};
use brig_sys::fdpass::Channel;
use brig_sys::pidfd::{self, Exit};
use brig_sys::seccomp::{Answer, answer, next_call};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("agents_answer", agents_answer),
    ("agents_may_be_asked_about_everything", agents_may_be_asked_about_everything),
    ("agents_that_are_not_there", agents_that_are_not_there),
    ("listeners_are_not_left_to_programs", listeners_are_not_left_to_programs),
];

/// A process that takes listeners from a socket, writes down what it is told and lets every call happen except mkdir.
struct Agent {
    socket: PathBuf,
    told: PathBuf,
    process: brig_sys::clone::Spawned,
}

impl Agent {
    fn new(place: &Place) -> Agent {
        let (socket, told) = (place.path("agent.sock"), place.path("told"));
        let listener = UnixListener::bind(&socket).unwrap();
        fs::write(&told, "").unwrap();
        let file = told.clone();
        let process = brig_sys::clone::spawn(0, None, move || serve(&listener, &file)).unwrap();
        Agent { socket, told, process }
    }

    fn told(&self) -> Vec<ContainerProcessState> {
        let text = fs::read_to_string(&self.told).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        pidfd::send_signal(self.process.pidfd.as_fd(), 9).unwrap();
        pidfd::reap(self.process.pidfd.as_fd()).unwrap();
    }
}

fn serve(socket: &UnixListener, told: &std::path::Path) -> i32 {
    use std::io::Write as _;
    loop {
        let (stream, _) = socket.accept().unwrap();
        let message = Channel::from_fd(stream.into()).receive().unwrap();
        let mut file = fs::File::options().append(true).open(told).unwrap();
        file.write_all(&[&message.bytes[..], b"\n"].concat()).unwrap();
        drop(file);
        assert_eq!(message.fds.len(), 1);
        let listener = message.fds.into_iter().next().unwrap();
        // One listener each, as several processes may be asking at the same time.
        brig_sys::clone::fork(|| {
            while asked(listener.as_fd()) {
                // A caller that a signal interrupted has gone meanwhile, and asks again.
                let Ok(call) = next_call(listener.as_fd()) else { continue };
                let mkdir = [83, 258].contains(&call.number);
                let verdict = if mkdir { Answer::Fail(Errno::NOMEDIUM) } else { Answer::Continue };
                answer(listener.as_fd(), call.id, verdict).unwrap_or_default();
            }
            0
        })
        .unwrap();
    }
}

/// Waits for a call; false when nobody is left who could make one.
fn asked(listener: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    poll(&mut fds, None).unwrap();
    fds[0].revents().contains(PollFlags::IN)
}

fn asking(agent: &Agent, spec: &mut Spec, calls: &[&str]) {
    linux(spec).seccomp = Some(Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        listener_path: Some(agent.socket.clone()),
        listener_metadata: "for the agent".into(),
        syscalls: vec![SeccompRule {
            names: calls.iter().map(|name| (*name).to_owned()).collect(),
            action: "SCMP_ACT_NOTIFY".into(),
            ..SeccompRule::default()
        }],
        ..Seccomp::default()
    });
}

const REFUSED: &str = "mkdir: can't create directory '/tmp/x': No medium found\n";

fn agents_answer() {
    for no_new_privileges in [false, true] {
        for init in [false, true] {
            let place = Place::new("agent");
            let agent = Agent::new(&place);
            let mut spec = spec(&["sh", "-c", "mkdir /tmp/x; echo $?; exec sleep 1000"]);
            spec.annotations.insert("a".into(), "b".into());
            asking(&agent, &mut spec, &["mkdir", "mkdirat"]);
            process(&mut spec).no_new_privileges = no_new_privileges;
            let (stdio, output) = pipes();
            let mut container = brig_runtime::create(brig_runtime::CreateRequest {
                init,
                ..request(&place, &spec, place.overlay(), stdio)
            })
            .unwrap();
            container.start().unwrap();
            assert_eq!(output.line(), "1");
            let ran = exec(&container, &spec, |process| {
                process.args = ["sh", "-c", "mkdir /tmp/x; echo $?"].map(str::to_owned).to_vec();
            })
            .unwrap();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("1\n", REFUSED));
            let told = agent.told();
            assert_eq!(told.len(), 2);
            for (document, status) in told.iter().zip(["creating", "running"]) {
                assert_eq!(document.oci_version, document.state.oci_version);
                assert_eq!(document.fds, ["seccompFd"]);
                assert_eq!(document.metadata, "for the agent");
                assert_eq!((document.state.id.as_str(), document.state.status.as_str()), (place.id.as_str(), status));
                assert_eq!(document.state.pid, Some(container.pid()));
                assert_eq!(document.state.bundle, place.dir.path());
                assert_eq!(document.state.annotations["a"], "b");
            }
            assert_eq!(told[0].pid, container.pid());
            assert_ne!(told[1].pid, container.pid());
            container.delete().unwrap();
        }
    }
}

/// Everything that the runtime itself still does after the filter is in force, save the write that hands the listener over.
fn agents_may_be_asked_about_everything() {
    let calls: Vec<&str> = brig_runtime::seccomp::Arch::NATIVE
        .calls()
        .map(|(name, _)| name)
        .filter(|name| !["write", "exit", "exit_group", "rt_sigreturn"].contains(name))
        .collect();
    for no_new_privileges in [false, true] {
        for init in [false, true] {
            let place = Place::new("agentall");
            let agent = Agent::new(&place);
            let mut spec = spec(&["sh", "-c", "echo fine; sleep 0.1; cat /etc/passwd | wc -l"]);
            asking(&agent, &mut spec, &calls);
            process(&mut spec).no_new_privileges = no_new_privileges;
            process(&mut spec).user.uid = 1000;
            let ran = run_with(&place, &spec, place.overlay(), init).unwrap();
            assert_eq!((ran.exit, ran.stdout.as_str(), ran.stderr.as_str()), (Exit::Code(0), "fine\n2\n", ""));
        }
    }
}

fn agents_that_are_not_there() {
    let place = Place::new("noagent");
    fs::write(place.path("plain"), "").unwrap();
    drop(UnixListener::bind(place.path("dead.sock")).unwrap());
    let children = || fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    let before = (children(), names("/proc/self/fd".as_ref()).len());
    for (path, why) in [
        (place.path("absent.sock"), "No such file or directory"),
        (place.path("plain"), "it is no socket"),
        (place.path("dead.sock"), "Connection refused"),
        ("@brig-nobody-listens".into(), "Connection refused"),
        ("".into(), "SCMP_ACT_NOTIFY needs a listenerPath"),
    ] {
        for no_new_privileges in [false, true] {
            let mut spec = spec(&["true"]);
            process(&mut spec).no_new_privileges = no_new_privileges;
            linux(&mut spec).seccomp = Some(Seccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                listener_path: Some(path.clone()),
                syscalls: vec![SeccompRule {
                    names: vec!["mkdir".into()],
                    action: "SCMP_ACT_NOTIFY".into(),
                    ..SeccompRule::default()
                }],
                ..Seccomp::default()
            });
            let error = run(&place, &spec).unwrap_err();
            let known = error.message.contains("failed to connect with seccomp agent") || path.as_os_str().is_empty();
            assert!(known && error.message.contains(why), "{path:?}: {error}");
        }
    }
    assert_eq!((children(), names("/proc/self/fd".as_ref()).len()), before);
    // A path that no rule needs is not looked at.
    let mut spec = spec(&["true"]);
    linux(&mut spec).seccomp = Some(Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        listener_path: Some("/absent".into()),
        ..Seccomp::default()
    });
    assert_eq!(run(&place, &spec).unwrap().exit, Exit::Code(0));
}

/// A program that had its own listener could answer for itself.
fn listeners_are_not_left_to_programs() {
    for no_new_privileges in [false, true] {
        let place = Place::new("agentfd");
        let agent = Agent::new(&place);
        let mut spec =
            spec(&["sh", "-c", "ls -l /proc/self/fd | grep -c -e '->'; ls -l /proc/self/fd | grep -c notify"]);
        asking(&agent, &mut spec, &["mkdir"]);
        process(&mut spec).no_new_privileges = no_new_privileges;
        let hook = "[ $(ls /proc/self/fd | wc -l) = 4 ] || { ls -l /proc/self/fd; exit 1; }";
        spec.hooks = Some(brig_oci::runtime::Hooks {
            start_container: vec![brig_oci::runtime::Hook {
                path: "/bin/sh".into(),
                args: ["sh", "-c", hook].map(str::to_owned).to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        });
        assert_eq!(run(&place, &spec).unwrap().stdout, "3\n0\n");
    }
}
