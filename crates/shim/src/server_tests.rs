//! The loop around an ordinary child process instead of a container. Owns: what clients see. Must not: need namespaces.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Standard};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::*;
use crate::client;
use crate::protocol::{FRAME_HEADER, LogConfig, LogDriver, Message, Request, decode_message, encode};
use brig_runtime::Stdio;

/// The loop reaps every child of the process that it runs in, so these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

struct Fake {
    dir: tempfile::TempDir,
    events: BufReader<UnixStream>,
    shim: Option<JoinHandle<()>>,
    _turn: MutexGuard<'static, ()>,
}

impl Fake {
    /// Keeps a shell that runs `script` once [`Fake::go`] was called.
    fn start(script: &str, stdin: bool, stdin_once: bool) -> Fake {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let path = dir.path().to_owned();
        let script = format!("until [ -e {}/go ]; do sleep 0.01; done; {script}", path.display());
        let shim = std::thread::spawn(move || keep(&path, &script, theirs, stdin, stdin_once));
        while client::connect(dir.path()).is_err() {
            std::thread::yield_now();
        }
        Fake { dir, events: BufReader::new(ours), shim: Some(shim), _turn: turn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn go(&mut self) {
        self.events.get_mut().write_all(&encode(&Request::Go)).unwrap();
        self.until(|event| matches!(event, Event::Started { .. }));
        std::fs::write(self.path("go"), "").unwrap();
    }

    /// Reads events until one is as wanted.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let mut line = Vec::new();
            self.events.read_until(b'\n', &mut line).unwrap();
            if let Message::Event(event) = decode_message(&line).unwrap()
                && wanted(&event)
            {
                return event;
            }
        }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(client::connect(self.dir.path()).unwrap())
    }

    fn attach(&self, streams: Streams) -> BufReader<UnixStream> {
        let mut client = self.connect();
        client.get_mut().write_all(&encode(&Request::Attach(streams))).unwrap();
        let mut answer = String::new();
        client.read_line(&mut answer).unwrap();
        assert_eq!(answer, "{\"ok\":null}\n");
        client
    }

    /// Waits for the exit, releases the shim and returns the exit file's content.
    fn finish(mut self) -> Exit {
        self.until(|event| matches!(event, Event::Exited { .. }));
        self.events.get_mut().write_all(&encode(&Request::Release)).unwrap();
        let mut rest = Vec::new();
        self.events.read_to_end(&mut rest).unwrap();
        assert!(!self.path(client::SOCKET).exists(), "the socket outlived the subscription");
        self.shim.take().unwrap().join().unwrap();
        client::read_exit(&self.path("exit.json")).unwrap().unwrap()
    }
}

// The loop itself reaps the child.
#[allow(clippy::zombie_processes)]
fn keep(dir: &Path, script: &str, first_client: UnixStream, stdin: bool, stdin_once: bool) {
    let pipes = Session::pipes(Streams { stdin, stdout: true, stderr: true }).unwrap();
    let Stdio::Pipes { stdin, stdout, stderr } = pipes.theirs else { panic!("pipes") };
    let child = Command::new("/bin/busybox")
        .args(["sh", "-c", script])
        .stdin(Standard::from(stdin))
        .stdout(Standard::from(stdout))
        .stderr(Standard::from(stderr))
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    let pidfd = brig_sys::pidfd::open(pid).unwrap();
    let children = pidfd.as_fd().try_clone_to_owned().unwrap();
    let config = LogConfig { driver: LogDriver::JsonFile, path: dir.join("log"), ..LogConfig::default() };
    let (socket, listener) = SocketFile::bind(dir).unwrap();
    let parts = Parts {
        init: Init { pid, pidfd, session: pipes.ours, terminal: false, stdin_once },
        container: None,
        log: Log::open(&config).unwrap(),
        listener,
        socket: Some(socket),
        first_client,
        children,
        exit_file: dir.join("exit.json"),
        exit_relaxed: true,
        oom_score_adj: None,
        spec: dir.join("config.json"),
    };
    let mut shim = Shim::new(parts).unwrap();
    shim.run().unwrap();
    brig_sys::pidfd::send_signal(shim.init.pidfd.as_fd(), 9).ok();
}

/// Takes frames apart into what came on each channel.
fn frames(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER) {
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        if header[0] == 1 { &mut out } else { &mut err }.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    (out, err)
}

const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true };

#[test]
fn output_reaches_every_client_and_the_log() {
    let mut fake = Fake::start("echo out; echo err >&2; printf tail; exit 7", false, false);
    let mut both = fake.attach(OUTPUT);
    let mut errors = fake.attach(Streams { stderr: true, ..Streams::default() });
    fake.go();
    let (mut all, mut only) = (Vec::new(), Vec::new());
    both.read_to_end(&mut all).unwrap();
    errors.read_to_end(&mut only).unwrap();
    assert_eq!(frames(&all), (b"out\ntail".to_vec(), b"err\n".to_vec()));
    assert_eq!(frames(&only), (vec![], b"err\n".to_vec()));
    let log = std::fs::read_to_string(fake.path("log")).unwrap();
    assert!(log.contains("{\"log\":\"out\\n\",\"stream\":\"stdout\",\"time\":\""), "{log}");
    assert!(
        log.contains("{\"log\":\"err\\n\",\"stream\":\"stderr\"")
            && log.contains("{\"log\":\"tail\",\"stream\":\"stdout\""),
        "{log}"
    );
    let exit = fake.finish();
    assert_eq!((exit.exit_code, exit.signal), (7, None));
    assert!(exit.started_at < exit.finished_at && exit.finished_at.ends_with('Z'), "{exit:?}");
}

#[test]
fn half_closing_ends_input_once_and_output_goes_on() {
    let mut fake = Fake::start("cat; echo after", true, true);
    let mut client = fake.attach(Streams { stdin: true, ..OUTPUT });
    client.get_mut().write_all(b"early ").unwrap();
    fake.go();
    client.get_mut().write_all(b"late\n").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(frames(&all).0, b"early late\nafter\n");
    assert_eq!(fake.finish().exit_code, 0);
}

#[test]
fn without_stdin_once_a_half_close_only_detaches() {
    let mut fake = Fake::start("head -n 2", true, false);
    let mut client = fake.attach(Streams { stdin: true, ..OUTPUT });
    fake.go();
    client.get_mut().write_all(b"one\n").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    let mut second = fake.attach(Streams { stdin: true, ..OUTPUT });
    second.get_mut().write_all(b"two\n").unwrap();
    assert_eq!(fake.until(|event| matches!(event, Event::Exited { .. })).clone(), fake_exit(&fake));
}

/// The event that belongs to the exit file.
fn fake_exit(fake: &Fake) -> Event {
    let exit = client::read_exit(&fake.path("exit.json")).unwrap().unwrap();
    Event::Exited { exit_code: exit.exit_code, signal: exit.signal, oom_killed: exit.oom_killed, at: exit.finished_at }
}

#[test]
fn input_that_nobody_reads_is_held_back_and_then_delivered() {
    let mut fake = Fake::start("sleep 0.3; wc -c", true, true);
    let mut client = fake.attach(Streams { stdin: true, ..OUTPUT });
    fake.go();
    let big = vec![b'i'; 3 << 20];
    client.get_mut().write_all(&big).unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(String::from_utf8(frames(&all).0).unwrap().trim(), big.len().to_string());
    fake.finish();
}

#[test]
fn a_slow_reader_holds_the_process_back_and_loses_nothing() {
    let mut fake = Fake::start("head -c 2000000 /dev/zero | tr '\\0' x; echo; echo done >&2", false, false);
    let mut slow = fake.attach(OUTPUT);
    let mut quick = fake.attach(OUTPUT);
    fake.go();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        quick.read_to_end(&mut all).unwrap();
        all
    });
    // Time in which it would end; that nothing happens has no event.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!fake.path("exit.json").exists(), "the process was not held back");
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    for all in [all, reader.join().unwrap()] {
        let (out, err) = frames(&all);
        assert_eq!((out.len(), err), (2_000_001, b"done\n".to_vec()));
        assert!(out[..2_000_000].iter().all(|&byte| byte == b'x'));
    }
    fake.finish();
}

#[test]
fn output_left_unread_at_the_exit_is_still_delivered() {
    let mut fake = Fake::start("head -c 190000 /dev/zero", false, false);
    let mut slow = fake.attach(OUTPUT);
    fake.go();
    fake.until(|event| matches!(event, Event::Exited { .. }));
    fake.events.get_mut().write_all(&encode(&Request::Release)).unwrap();
    // Time in which the shim would end with what is unread; that nothing happens has no event.
    std::thread::sleep(Duration::from_millis(100));
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    assert_eq!(frames(&all).0.len(), 190_000);
    fake.shim.take().unwrap().join().unwrap();
}

#[test]
fn a_daemon_that_goes_before_go_takes_the_container_with_it() {
    let mut fake = Fake::start("echo never", false, false);
    fake.events.get_mut().shutdown(Shutdown::Both).unwrap();
    fake.shim.take().unwrap().join().unwrap();
    assert!(!fake.path(client::SOCKET).exists() && !fake.path("exit.json").exists());
}

#[test]
fn a_daemon_that_goes_later_finds_everything_again() {
    let mut fake = Fake::start("read line; echo $line; kill -TERM $$", true, false);
    fake.go();
    fake.events.get_mut().shutdown(Shutdown::Both).unwrap();
    let mut second = fake.connect();
    second.get_mut().write_all(&encode(&Request::Subscribe)).unwrap();
    let mut answer = String::new();
    second.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"ok\":{\"state\":{\"status\":\"running\",\"pid\":"), "{answer}");
    fake.events = second;
    let mut input = fake.attach(Streams { stdin: true, ..Streams::default() });
    input.get_mut().write_all(b"hello\n").unwrap();
    let log = fake.path("log");
    fake.until(|event| matches!(event, Event::Exited { .. }));
    assert!(std::fs::read_to_string(log).unwrap().contains("hello\\n"));
    let exit = client::read_exit(&fake.path("exit.json")).unwrap().unwrap();
    assert_eq!((exit.exit_code, exit.signal), (143, Some(15)));
}

#[test]
fn refusals() {
    let mut fake = Fake::start("sleep 0.2", false, false);
    let mut client = fake.connect();
    let mut ask = |request: &[u8]| {
        client.get_mut().write_all(request).unwrap();
        let mut answer = String::new();
        client.read_line(&mut answer).unwrap();
        answer
    };
    assert!(ask(b"nonsense\n").contains("\"kind\":\"invalid\""));
    assert!(ask(&encode(&Request::Release)).contains("has not ended"));
    assert!(ask(&encode(&Request::Pause)).contains("not_running"));
    assert!(ask(&encode(&Request::Kill { signal: 999 })).contains("999 is not a signal"));
    assert!(ask(&encode(&Request::Resize { height: 1, width: 1 })).contains("no terminal"));
    assert!(ask(&encode(&Request::ExecState { exec_id: "e".into() })).contains("no such exec: e"));
    let two = [encode(&Request::State), encode(&Request::State)].concat();
    assert!(ask(&two).contains("\"created\""));
    assert!(ask(b"").contains("\"created\""));
    fake.go();
    fake.finish();
}
