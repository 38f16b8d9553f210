//! What becomes of a layer, and of everything else, when the process that unpacks it does not do what it should.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use brig_store::unpacker::Unpacker;
use brig_store::{Error, Options, Store};
use brig_sys::fdpass::Channel;
use brig_sys::process::{Limits, resource, set_limit};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process};

use crate::common::{self, Entry, Tar};
use crate::same::{confined, unpacker, with};

/// Members without end, each of a megabyte that no packing could shorten.
struct Endless<F> {
    ready: Vec<u8>,
    made: u64,
    left: u64,
    /// Called before each member.
    each: F,
}

impl<F: FnMut(u64)> Endless<F> {
    fn new(members: u64, each: F) -> Self {
        Endless { ready: Vec::new(), made: 0, left: members, each }
    }
}

impl<F: FnMut(u64)> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            if self.left == 0 {
                return Ok(0);
            }
            (self.each)(self.made);
            let name = format!("dir/{}", self.made);
            let entry = Entry { name: name.as_bytes(), body: &[b'x'; 1 << 20], ..Entry::default() };
            self.ready = Tar::new().entry(&entry).finish();
            self.ready.truncate(self.ready.len() - 1024);
            self.made += 1;
            self.left -= 1;
        }
        let length = buffer.len().min(self.ready.len());
        buffer[..length].copy_from_slice(&self.ready[..length]);
        self.ready.drain(..length);
        Ok(length)
    }
}

/// The one child of a process, but for the zygote.
fn child_of(parent: u32) -> Option<Pid> {
    one_of(parent, false)
}

fn zygote_of(parent: u32) -> Option<Pid> {
    one_of(parent, true)
}

fn one_of(parent: u32, zygote: bool) -> Option<Pid> {
    let is_child = |stat: &str| {
        let (name, after_name) = stat.rsplit_once(") ")?;
        let mut words = after_name.split(' ');
        let state = words.next()?;
        let is_wanted = name.ends_with("(brig-zygote") == zygote;
        (is_wanted && words.next()?.parse() == Ok(parent) && state != "Z").then_some(())
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let found = pids.into_iter().find(|pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_child(&stat).is_some())
    });
    found.and_then(Pid::from_raw)
}

fn unpacking() -> Pid {
    child_of(std::process::id()).unwrap()
}

/// The error of a layer that cannot be; afterwards nothing is left of it, and the next one is fine.
#[track_caller]
fn fails(store: &Store, reader: impl Read) -> Error {
    let mut ingest = store.begin_layer().unwrap();
    let error = ingest.unpack_blob(reader, None).unwrap_err();
    drop(ingest);
    assert_eq!(child_of(std::process::id()), None, "the process is gone");
    store.wait_for_removals();
    assert_eq!(common::count(store, "ingest") + common::count(store, "trash"), 0);
    error
}

fn works(store: &Store) {
    common::layer(store, &Tar::new().file("x", b"x").finish(), None);
}

pub fn a_killed_process_is_one_failed_layer() {
    let (_dir, store) = confined();
    let reader = Endless::new(50, |nth| {
        if nth == 20 {
            kill_process(unpacking(), Signal::KILL).unwrap();
        }
    });
    let error = fails(&store, reader);
    assert!(error.message.contains("was killed by signal 9"), "{error}");
    works(&store);
    // Even after the last byte.
    let mut last = Endless::new(30, |_| {});
    let reader = std::iter::repeat_with(move || last.read_all()).take(1).next().unwrap();
    let mut given = false;
    let killer = Reading(move |buffer: &mut [u8]| match std::mem::replace(&mut given, true) {
        false => (&reader[..]).read(buffer),
        true => {
            kill_process(unpacking(), Signal::KILL).unwrap();
            Ok(0)
        }
    });
    let error = fails(&store, killer);
    assert!(error.message.contains("was killed by signal 9"), "{error}");
    works(&store);
}

impl<F: FnMut(u64)> Endless<F> {
    fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.read_to_end(&mut all).unwrap();
        all
    }
}

/// A reader that is a function.
struct Reading<F>(F);

impl<F: FnMut(&mut [u8]) -> io::Result<usize>> Read for Reading<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.0)(buffer)
    }
}

pub fn nothing_of_the_host_is_open() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (dir, store) = confined();
    let own = dir.path().metadata().unwrap().dev();
    let mut looked = 0;
    let reader = Endless::new(50, |nth| {
        if nth != 20 {
            return;
        }
        let pid = unpacking().as_raw_nonzero();
        let mut sockets = 0;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            // A file that it has closed meanwhile is none of the host's.
            let path = entry.unwrap().path();
            let Ok(metadata) = path.metadata() else { continue };
            let kind = metadata.file_type();
            let harmless = kind.is_socket() || kind.is_fifo() || (metadata.dev() == own && !kind.is_char_device());
            assert!(harmless, "{path:?}: {:?}", std::fs::read_link(&path));
            looked += 1;
            sockets += usize::from(kind.is_socket());
        }
        assert_eq!(sockets, 1, "not the zygote's");
        // All its threads have both filters, the second of which lets it start no more.
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
            assert!(filters.is_none_or(|count| count.trim() != "1" && count.trim() != "0"), "{status}");
        }
    });
    store.begin_layer().unwrap().unpack_blob(reader, None).unwrap();
    assert!(looked >= 5, "{looked}");
}

pub fn a_process_that_hangs_is_ended() {
    let (_dir, store) = with(unpacker().stalled_after(Duration::from_millis(300)));
    let begun = Instant::now();
    let error = fails(
        &store,
        Endless::new(50, |nth| {
            if nth == 20 {
                kill_process(unpacking(), Signal::STOP).unwrap();
            }
        }),
    );
    assert!(error.message.contains("did nothing for 0.3 seconds"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    works(&store);
}

pub fn slow_input_is_nobodys_fault() {
    let (_dir, store) = with(unpacker().stalled_after(Duration::from_millis(300)));
    let mut ingest = store.begin_layer().unwrap();
    // Time itself is what is needed here.
    let reader = Endless::new(3, |_| std::thread::sleep(Duration::from_millis(600)));
    ingest.unpack_blob(reader, None).unwrap();
}

pub fn memory_has_an_end() {
    let (_dir, store) = confined();
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    packed.window_log(26).unwrap();
    io::copy(&mut Endless::new(100, |_| {}), &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    let limited = |data: u64| {
        let mut given = 0;
        let packed = &packed;
        Reading(move |buffer: &mut [u8]| {
            let limits = Limits { soft: data, hard: data };
            // It may have had its last word already.
            if let Some(pid) = child_of(std::process::id()) {
                set_limit(pid.as_raw_nonzero().get(), resource("RLIMIT_DATA").unwrap(), Some(limits)).unwrap();
            }
            let length = (&packed[given..]).read(buffer)?;
            given += length;
            Ok(length)
        })
    };
    let error = fails(&store, limited(48 << 20));
    // Its decoder says so, or else its allocator ends it.
    assert!(error.message.contains("memory") || error.message.contains("by signal 6"), "{error}");
    works(&store);
    // With what it has anyway it would have been enough.
    store.begin_layer().unwrap().unpack_blob(limited(200 << 20), None).unwrap();
}

pub fn input_that_breaks_off_is_no_layer() {
    let (_dir, store) = confined();
    let mut left = 20;
    let mut tar = Endless::new(50, |_| {});
    let error = fails(
        &store,
        Reading(|buffer: &mut [u8]| {
            left -= 1;
            match left {
                0 => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the cable was pulled")),
                _ => tar.read(buffer),
            }
        }),
    );
    assert!(error.message.contains("the cable was pulled"), "{error}");
    works(&store);
}

pub fn nonsense_is_not_believed() {
    for (script, said) in [
        ("exit 3", "ended unexpectedly with code 3"),
        ("printf nonsense >&0", "has sent a message that cannot be"),
        ("printf R >&0; sleep 100", "has sent a message that cannot be"),
        (
            "printf 'R\\000' >&0; printf Lx >&0; printf Dnonsense >&0; sleep 100",
            "has sent a result before it had all input",
        ),
        ("printf 'R\\000' >&0; printf 'F\\000bad \\033[31m' >&0; sleep 100", "bad \\u{1b}[31m"),
    ] {
        let (_dir, store) = with(Unpacker::new(std::env::current_exe().unwrap(), ["script", script]));
        let error = fails(&store, Endless::new(50, |_| {}));
        assert!(error.message.contains(said), "{script}: {error}");
    }
    let (_dir, store) = with(Unpacker::new("/nonexistent", ["unpack"]));
    assert!(fails(&store, io::empty()).message.contains("start the process"));
    // The same of the zygote, before there is anything else.
    for (script, said) in [
        ("exit 3", "ended unexpectedly with code 3"),
        ("printf nonsense >&0; sleep 100", "has sent a message that cannot be"),
    ] {
        let (_dir, store) = with(Unpacker::new("/bin/sh", ["-c", script]));
        let error = fails(&store, io::empty());
        assert!(error.message.contains(said), "{script}: {error}");
    }
    let silent = Unpacker::new("/bin/sleep", ["100"]).stalled_after(Duration::from_millis(300));
    let (_dir, store) = with(silent);
    assert!(fails(&store, io::empty()).message.contains("does not answer"));
}

/// The process of a test: a shell whose standard input is the channel.
pub fn script(channel: Channel, script: &str) -> i32 {
    panic!("{}", Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::from(channel.into_fd())).exec());
}

pub fn the_zygote_is_one_and_replaced() {
    let (_dir, store) = confined();
    works(&store);
    let zygote = zygote_of(std::process::id()).unwrap();
    works(&store);
    assert_eq!(zygote_of(std::process::id()), Some(zygote), "the next layer's process is its child too");
    kill_process(zygote, Signal::KILL).unwrap();
    works(&store);
    let next = zygote_of(std::process::id()).unwrap();
    assert_ne!(next, zygote);
    drop(store);
    let pidfd = rustix::process::pidfd_open(next, PidfdFlags::empty());
    assert!(pidfd.is_err() || ends(&pidfd.unwrap()), "it outlives the store");
}

/// Nothing of it stays when there is nothing to do; what is unpacked meanwhile goes on.
pub fn an_idle_zygote_ends() {
    let (_dir, store) = with(unpacker().idle_after(Duration::from_millis(50)));
    let reader = Endless::new(30, |nth| {
        if nth == 20 {
            let zygote = zygote_of(std::process::id()).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
            // It may have gone already.
            assert!(zygote.is_none_or(|pidfd| pidfd.is_err() || ends(&pidfd.unwrap())), "it stays");
            unpacking();
        }
    });
    store.begin_layer().unwrap().unpack_blob(reader, None).unwrap();
    works(&store);
}

fn ends(pidfd: &OwnedFd) -> bool {
    let mut gone = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    rustix::event::poll(&mut gone, Some(&timeout)).unwrap() == 1
}

/// Unpacks without end.
pub fn victim(root: &str) -> ExitCode {
    let store = Store::open_with(Path::new(root), Options { unpacker: Some(unpacker()) }).unwrap();
    let mut ingest = store.begin_layer().unwrap();
    let reader = Endless::new(u64::MAX, |nth| match nth {
        20 => println!("under way"),
        // Then nothing comes any more: neither side has anything to do.
        21 => drop(io::stdin().read(&mut [0])),
        _ => {}
    });
    drop(ingest.unpack_blob(reader, None));
    ExitCode::SUCCESS
}

pub fn it_dies_with_who_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.arg("victim").arg(&root).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut victim = victim.spawn().unwrap();
    victim.stdout.as_mut().unwrap().read_exact(&mut [0; 9]).unwrap();
    let open = |pid: Option<Pid>| rustix::process::pidfd_open(pid.unwrap(), PidfdFlags::empty()).unwrap();
    let (unpacking, zygote) = (open(child_of(victim.id())), open(zygote_of(victim.id())));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(ends(&unpacking) && ends(&zygote), "it outlives who started it");
    let store = Store::open(&root).unwrap();
    store.wait_for_removals();
    assert_eq!(common::count(&store, "ingest"), 0);
}
