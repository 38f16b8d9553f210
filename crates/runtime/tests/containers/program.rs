//! The program: how it ends, how it is found, its directory, its terminal, its small init.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;

use brig_runtime::{CreateRequest, ErrorKind, Stdio};
use brig_sys::pidfd::Exit;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("runs_and_exits", runs_and_exits),
    ("not_found_and_not_executable", not_found_and_not_executable),
    ("exec_errors_after_the_gate", exec_errors_after_the_gate),
    ("working_directories", working_directories),
    ("home_and_user", home_and_user),
    ("terminal", terminal),
    ("small_init", small_init),
    ("gate_waits", gate_waits),
    ("dropped_before_start", dropped_before_start),
];

fn runs_and_exits() {
    let place = Place::new("exit");
    let ran = run(&place, &spec(&["sh", "-c", "echo out; echo err >&2; exit 7"])).unwrap();
    assert_eq!(ran.exit, Exit::Code(7));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    let container = sleeper(&place, &spec(&["sleep", "1000"]));
    container.kill(9).unwrap();
    assert_eq!(brig_sys::pidfd::reap(container.pidfd()).unwrap(), Exit::Signal(9));
    container.delete().unwrap();
}

fn not_found_and_not_executable() {
    let place = Place::new("nf");
    std::fs::write(place.path("lower/plain"), "#!/bin/sh\n").unwrap();
    for (program, kind, message) in [
        ("absent", ErrorKind::NotFound, "exec: \"absent\": executable file not found in $PATH"),
        ("/absent", ErrorKind::NotFound, "exec: \"/absent\": stat /absent: no such file or directory"),
        ("/plain", ErrorKind::NotExecutable, "exec: \"/plain\": permission denied"),
        ("/tmp", ErrorKind::NotExecutable, "exec: \"/tmp\": is a directory"),
    ] {
        let spec = spec(&[program]);
        let (stdio, _) = pipes();
        let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
        let error = container.wait_ready().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (kind, message));
        container.delete().unwrap();
    }
}

fn exec_errors_after_the_gate() {
    let place = Place::new("ee");
    for (name, content, kind, message) in [
        ("script", "#!/no/such/interpreter\n", ErrorKind::NotFound, "exec /script: no such file or directory"),
        ("binary", "\x7fELFnonsense", ErrorKind::NotExecutable, "exec /binary: exec format error"),
    ] {
        let path = place.path("lower").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for init in [false, true] {
            let program = format!("/{name}");
            let spec = spec(&[&program]);
            let (stdio, _) = pipes();
            let mut container =
                brig_runtime::create(CreateRequest { init, ..request(&place, &spec, place.overlay(), stdio) }).unwrap();
            container.wait_ready().unwrap();
            let error = container.start().unwrap_err();
            assert_eq!((error.kind, error.message.as_str()), (kind, message));
            assert!(container.start().is_err());
            container.delete().unwrap();
        }
    }
}

fn working_directories() {
    let place = Place::new("cwd");
    let mut spec = spec(&["pwd"]);
    process(&mut spec).cwd = "/new/dir".into();
    assert_eq!(run(&place, &spec).unwrap().stdout, "/new/dir\n");
    let _held = std::fs::File::open("/").unwrap();
    for fd in 3..20 {
        process(&mut spec).cwd = format!("/proc/self/fd/{fd}");
        let error = run(&place, &spec).unwrap_err();
        assert!(error.message.contains("process.cwd"), "{error}");
    }
    for cwd in ["/etc/passwd", "/proc/self/cwd/../..", "/proc/1/root"] {
        process(&mut spec).cwd = cwd.into();
        assert!(run(&place, &spec).is_err(), "{cwd}");
    }
}

fn home_and_user() {
    let place = Place::new("home");
    let mut spec = spec(&[
        "sh",
        "-c",
        "echo $HOME; id -u; id -g; id -G; touch /home/user/$(id -u) && echo made; touch /x 2>/dev/null || echo no",
    ]);
    assert!(run(&place, &spec).unwrap().stdout.starts_with("/root\n0\n0\n"));
    let user = &mut process(&mut spec).user;
    (user.uid, user.gid, user.additional_gids) = (1000, 1000, vec![5, 7]);
    assert_eq!(run(&place, &spec).unwrap().stdout, "/home/user\n1000\n1000\n1000 5 7\nmade\nno\n");
    process(&mut spec).user.uid = 70000;
    assert!(run(&place, &spec).unwrap_err().message.contains("70000"));
}

fn terminal() {
    let place = Place::new("tty");
    for uid in [0, 1000] {
        let mut spec = spec(&[
            "sh",
            "-c",
            "tty; stty size; stat -c %u $(tty); stat -c '%F' /dev/console; read x; echo got $x >/dev/tty; exit 3",
        ]);
        process(&mut spec).terminal = true;
        process(&mut spec).user.uid = uid;
        let stdio = Stdio::Terminal { width: 81, height: 25 };
        let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
        let master = container.wait_ready().unwrap().unwrap();
        container.start().unwrap();
        let mut master = std::fs::File::from(master);
        master.write_all(b"hello\n").unwrap();
        assert_eq!(brig_sys::pidfd::reap(container.pidfd()).unwrap(), Exit::Code(3));
        let mut text = [0u8; 4096];
        let mut length = 0;
        while let Ok(more @ 1..) = master.read(&mut text[length..]) {
            length += more;
        }
        let text = String::from_utf8_lossy(&text[..length]).replace("\r\n", "\n").replace("hello\n", "");
        assert_eq!(text, format!("/dev/pts/0\n25 81\n{uid}\ncharacter special file\ngot "));
        container.delete().unwrap();
    }
}

fn small_init() {
    let place = Place::new("init");
    let script = "echo $$; readlink /proc/1/exe || echo hidden; sh -c 'sleep 0.1 & exec true'; sleep 0.3; ps -o stat | grep -c Z; exit 9";
    let ran = run_with(&place, &spec(&["sh", "-c", script]), place.overlay(), true).unwrap();
    assert_eq!(ran.exit, Exit::Code(9));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((lines[0], lines[1], lines[2]), ("2", "hidden", "0"), "{ran:?}");
    // Signals reach the program.
    let spec = spec(&["sh", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done"]);
    let (stdio, output) = pipes();
    let mut container =
        brig_runtime::create(CreateRequest { init: true, ..request(&place, &spec, place.overlay(), stdio) }).unwrap();
    container.start().unwrap();
    assert_eq!(output.line(), "up");
    container.kill(15).unwrap();
    assert_eq!(output.collect(container.pidfd()).exit, Exit::Code(42));
    container.delete().unwrap();
    // A program that is killed shows.
    let ran = run_with(&place, &spec_kill(), place.overlay(), true).unwrap();
    assert_eq!(ran.exit, Exit::Code(128 + 9));
}

fn spec_kill() -> brig_oci::runtime::Spec {
    spec(&["sh", "-c", "kill -9 $$"])
}

fn gate_waits() {
    let place = Place::new("gate");
    let spec = spec(&["touch", "/started"]);
    let (stdio, output) = pipes();
    let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
    assert!(container.open_netns().is_ok());
    container.wait_ready().unwrap();
    // Time in which it would run; that nothing happens has no event.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!place.path("upper/started").exists());
    container.start().unwrap();
    assert_eq!(output.collect(container.pidfd()).exit, Exit::Code(0));
    assert!(place.path("upper/started").exists());
    container.delete().unwrap();
}

fn dropped_before_start() {
    let place = Place::new("drop");
    let spec = spec(&["sleep", "1000"]);
    for ready in [false, true] {
        let (stdio, _) = pipes();
        let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
        if ready {
            container.wait_ready().unwrap();
        }
        let pidfd = container.pidfd().as_fd().try_clone_to_owned().unwrap();
        container.delete().unwrap();
        assert!(brig_sys::pidfd::wait_end(pidfd.as_fd(), Some(std::time::Duration::ZERO)).unwrap());
    }
}
