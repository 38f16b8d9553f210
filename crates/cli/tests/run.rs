//! `run` against a scripted daemon: the order of requests, output, exit codes, pulls, signals, input, terminals.
//! Not about what containers do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Asked, Daemon, finish, program};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Says once that something has happened, to whoever waits for it.
#[derive(Clone, Default)]
struct Flag(Arc<(Mutex<bool>, Condvar)>);

impl Flag {
    fn raise(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
    fn is_raised_within(&self, limit: Duration) -> bool {
        let guard = self.0.0.lock().unwrap();
        *self.0.1.wait_timeout_while(guard, limit, |up| !*up).unwrap().0
    }
    fn wait(&self) {
        assert!(self.is_raised_within(Duration::from_secs(10)), "what the test waits for did not happen");
    }
}

/// A daemon whose containers print, optionally wait for `end`, and exit with 7.
fn container(started: Flag, end: Option<Flag>) -> Daemon {
    Daemon::new(move |asked| one_container(asked, &started, end.as_ref()))
}

fn one_container(asked: &mut Asked, started: &Flag, end: Option<&Flag>) {
    if asked.is("/containers/create") {
        assert!(asked.body.contains(r#""Image":"alpine""#), "{}", asked.body);
        asked.json(201, r#"{"Id":"c0ffee","Warnings":[]}"#);
    } else if asked.is("/attach") {
        asked.upgrade();
        started.wait();
        asked.frame(1, "out\n");
        asked.frame(2, "err\n");
        if let Some(end) = end {
            end.wait();
        }
        asked.stream.shutdown(std::net::Shutdown::Both).unwrap();
    } else if asked.is("/wait") {
        write!(asked.stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        started.wait();
        if let Some(end) = end {
            end.wait();
        }
        write!(asked.stream, "10\r\n{{\"StatusCode\":7}}\r\n0\r\n\r\n").unwrap();
    } else if asked.is("/start") {
        asked.empty(204);
        started.raise();
    } else if asked.is("/kill") {
        asked.empty(204);
        if let Some(end) = end {
            end.raise();
        }
    } else {
        asked.empty(204);
    }
}

#[test]
fn four_requests_attached_before_started() {
    let daemon = container(Flag::default(), None);
    let (code, out, err) = daemon.run("run --rm alpine echo hi");
    assert_eq!((code, out.as_str(), err.as_str()), (7, "out\n", "err\n"));
    let asked = daemon.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[0].starts_with("POST /containers/create"));
    assert!(asked[1..3].iter().any(|r| r == "POST /containers/c0ffee/attach?stream=1&stdout=1&stderr=1"), "{asked:?}");
    assert!(asked[1..3].iter().any(|r| r == "POST /containers/c0ffee/wait?condition=removed"), "{asked:?}");
    assert_eq!(asked[3], "POST /containers/c0ffee/start");
}

#[test]
fn in_the_background_two_requests_and_the_id() {
    let daemon = container(Flag::default(), None);
    let (code, out, _) = daemon.run("run -d alpine");
    assert_eq!((code, out.as_str(), daemon.asked().len()), (0, "c0ffee\n", 2));
}

#[test]
fn a_missing_image_is_pulled_and_the_request_repeated() {
    let pulled = Flag::default();
    let daemon = Daemon::new(move |asked| {
        if asked.is("/images/create") {
            pulled.raise();
            asked.json(200, "{\"status\":\"Pulling from library/alpine\",\"id\":\"latest\"}\n{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"ab\"}\n");
        } else if asked.is("/containers/create") && !*pulled.0.0.lock().unwrap() {
            asked.json(404, r#"{"message":"No such image: alpine:latest"}"#);
        } else if asked.is("/containers/create") {
            asked.json(201, r#"{"Id":"c0ffee","Warnings":["beware"]}"#);
        } else {
            asked.empty(204);
        }
    });
    let (code, out, err) = daemon.run("run -d alpine");
    assert_eq!((code, out.as_str()), (0, "c0ffee\n"));
    assert_eq!(
        err,
        "Unable to find image 'alpine:latest' locally\nlatest: Pulling from library/alpine\nab: Pull complete\nWARNING: beware\n"
    );
    assert!(daemon.asked()[1].starts_with("POST /images/create?fromImage=alpine&tag=latest"), "{:?}", daemon.asked());
}

#[test]
fn failures_have_dockers_exit_codes_and_words() {
    for (message, code) in [
        ("exec: \\\"x\\\": executable file not found in $PATH: unknown", 127),
        ("exec: \\\"/etc\\\": permission denied: unknown", 126),
        ("driver failed: port is already allocated", 125),
    ] {
        let daemon = Daemon::new(move |asked| match () {
            () if asked.is("/create") => asked.json(201, r#"{"Id":"c0ffee","Warnings":[]}"#),
            () if asked.is("/attach") => asked.upgrade(),
            () if asked.is("/wait") => {
                write!(asked.stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap()
            }
            () => asked.json(400, &format!(r#"{{"message":"{message}"}}"#)),
        });
        let (got, out, err) = daemon.run("run alpine x");
        assert_eq!((got, out.as_str()), (code, ""), "{err}");
        let words = message.replace('\\', "");
        assert_eq!(
            err,
            format!("brig: Error response from daemon: {words}\n\nRun 'brig run --help' for more information\n")
        );
    }
    let daemon =
        Daemon::new(|asked| asked.json(409, r#"{"message":"Conflict. The container name \"/x\" is already in use"}"#));
    let (code, _, err) = daemon.run("run --name x alpine");
    assert!(code == 125 && err.starts_with("brig: Error response from daemon: Conflict."), "{code} {err}");
    assert_eq!(daemon.run("run --nonsense alpine").0, 125);
    assert_eq!(daemon.run("run").0, 1);
    let (code, _, err) = daemon.run("build .");
    assert!(code == 125 && err.contains("not in brig yet"), "{code} {err}");
    let (code, _, err) = daemon.run("rnu alpine");
    assert!(code == 1 && err.contains("Did you mean 'brig run'?"), "{code} {err}");
}

#[test]
fn an_older_daemon_is_spoken_to_in_its_version() {
    let daemon = Daemon::new(|asked| match asked.is("/v1.41/") {
        true => asked.json(200, "[]"),
        false => {
            asked.json(400, r#"{"message":"client version 1.51 is too new. Maximum supported API version is 1.41"}"#)
        }
    });
    let (code, out, _) = daemon.run("ps");
    assert_eq!((code, out.as_str()), (0, "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"));
}

#[test]
fn an_interrupt_goes_to_the_container() {
    let (started, end) = (Flag::default(), Flag::default());
    let daemon = container(started.clone(), Some(end.clone()));
    let child = daemon.command("run alpine").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    started.wait();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    end.wait();
    assert_eq!(finish(child).0, 7);
    assert!(daemon.asked().contains(&"POST /containers/c0ffee/kill?signal=INT".to_owned()), "{:?}", daemon.asked());
}

#[test]
fn piped_input_arrives_and_ends() {
    let got = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&got);
    let (started, done) = (Flag::default(), Flag::default());
    let daemon = Daemon::new(move |asked| {
        if asked.is("/attach") {
            asked.upgrade();
            *heard.lock().unwrap() = asked.rest();
            asked.frame(1, "after the end of input\n");
            done.raise();
            asked.stream.shutdown(std::net::Shutdown::Both).unwrap();
        } else if asked.is("/wait") {
            write!(asked.stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            done.wait();
            write!(asked.stream, "10\r\n{{\"StatusCode\":0}}\r\n0\r\n\r\n").unwrap();
        } else {
            one_container(asked, &started, None);
        }
    });
    let mut child = daemon
        .command("run -i alpine cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one\ntwo\n").unwrap();
    drop(input);
    let (code, out, _) = finish(child);
    assert_eq!((code, out.as_str()), (0, "after the end of input\n"));
    assert_eq!(*got.lock().unwrap(), "one\ntwo\n");
}

/// A terminal: our end, and the name of the other.
fn terminal() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&theirs, rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (ours.into(), theirs)
}

fn canonical(terminal: &std::fs::File) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
}

#[test]
fn a_terminal_is_raw_sized_detached_from_and_given_back() {
    let (started, first, sized, ended) = (Flag::default(), Flag::default(), Flag::default(), Flag::default());
    let typed = Arc::new(Mutex::new(String::new()));
    let (heard, begun, told, resized) = (Arc::clone(&typed), started.clone(), first.clone(), sized.clone());
    let left = ended.clone();
    let daemon = Daemon::new(move |asked| {
        if asked.is("/attach") {
            asked.upgrade();
            begun.wait();
            asked.stream.write_all(b"prompt> ").unwrap();
            let rest = asked.rest();
            *heard.lock().unwrap() = rest;
            left.raise();
        } else if asked.is("/resize") {
            asked.empty(200);
            if asked.is("h=40&w=100") {
                told.raise();
            } else if asked.is("h=50&w=120") {
                resized.raise();
            }
        } else {
            one_container(asked, &begun, Some(&Flag::default()));
        }
    });
    let (mut ours, theirs) = terminal();
    assert!(canonical(&theirs));
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = daemon.command("run -it alpine").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let mut screen = [0; 8];
    ours.read_exact(&mut screen).unwrap();
    assert_eq!(&screen, b"prompt> ");
    assert!(!canonical(&theirs), "raw while attached");
    // The size at the start is told by a thread of its own, which may read it only now.
    first.wait();
    tcsetwinsize(&theirs, rustix::termios::Winsize { ws_row: 50, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    // The handler may be set up a moment after the first output: told until it hears.
    let told = (0..500).any(|_| {
        kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
        sized.is_raised_within(Duration::from_millis(20))
    });
    assert!(told, "the new size is not told");
    ours.write_all(b"ls\x03\r").unwrap();
    ours.write_all(b"\x10\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "detached");
    assert!(canonical(&theirs), "given back");
    ended.wait();
    assert_eq!(*typed.lock().unwrap(), "ls\x03\r", "an interrupt is a key for the container, the detach keys are not");
}

#[test]
fn no_terminal_here_is_refused() {
    let daemon = container(Flag::default(), None);
    let (code, _, err) = daemon.run("run -it alpine");
    assert_eq!((code, err.as_str()), (1, "the input device is not a TTY\n"));
    assert!(daemon.asked().is_empty());
}

#[test]
fn ten_at_once_start_one_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let (starts, socket) = (directory.path().join("starts"), directory.path().join("b.sock"));
    let begin = || {
        let mut command = Command::new(program());
        command
            .args(["version", "-f", "{{.Server.Version}}"])
            .env("BRIG_SOCKET", &socket)
            .env("BRIG_DAEMON_ARGS", format!("--exec-root {} --extra", directory.path().join("x").display()))
            .env("STAND_IN_STARTS", &starts)
            .env("DOCKER_CONFIG", directory.path())
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..10).map(|_| begin()).collect();
    for child in children {
        let (code, out, err) = finish(child);
        assert_eq!((code, out.as_str()), (0, "stand-in\n"), "{err}");
    }
    let starts = std::fs::read_to_string(starts).unwrap();
    assert_eq!(starts.lines().count(), 1, "{starts}");
    assert!(starts.contains("--idle-exit 300 --ready-fd") && starts.contains("--extra"), "{starts}");
}

#[test]
fn a_daemon_that_does_not_start_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .arg("ps")
        .env("BRIG_SOCKET", directory.path().join("b.sock"))
        .env("BRIG_DAEMON_ARGS", format!("--exec-root={}", directory.path().join("x").display()))
        .env("STAND_IN_FAILS", "1")
        .env("DOCKER_CONFIG", directory.path())
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("the daemon did not start") && err.contains("\n  stand-in: cannot open the data root"),
        "{err}"
    );
}
