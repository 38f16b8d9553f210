//! A process that has been taken over by what it unpacks: it does with its directory, and says, whatever it likes. What of
//! that could reach beyond the one layer must be seen, and the daemon must neither follow, wait nor fail over it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use brig_store::unpacker::Unpacker;
use brig_store::{ErrorKind, Options, Store};
use brig_sys::fdpass::Channel;
use rustix::fs::{AtFlags, FileType, Mode};

use crate::common::{self, Tar};

/// What it does to the ingest, by name, and what is said of it; an empty text means that it does no harm.
const DEEDS: &[(&str, &str)] = &[
    ("nothing", ""),
    ("diff is a link", "diff"),
    ("diff is another", "diff"),
    ("diff is gone", "diff"),
    ("recipe is a pipe", "tar-recipe"),
    ("recipe is a link", "tar-recipe"),
    ("recipe is a file of the layer", "tar-recipe"),
    ("recipe is gone", "tar-recipe"),
    ("replaced is a link", "replaced"),
    ("info is a pipe", "info"),
    ("info is a link", "info"),
    ("something else", "other"),
    ("open to all", ""),
    ("endless sizes", "numbers"),
    ("an attribute of overlayfs", "not an archive's to set"),
    ("an attribute of the host", "not an archive's to set"),
    ("a device for a file", "something else stands"),
    ("a device number", "out of range"),
    ("a path outside", "leads out of the root"),
    ("descriptors", "cannot be"),
    ("given away", ""),
    ("signs of life without end", "did not come further"),
];

/// The other process: plays the unpacking one as far as the conversation goes.
pub fn child(channel: &Channel, deed: &str, host: &str) -> i32 {
    channel.send(b"R\0", &[]).unwrap();
    let job = channel.receive().unwrap();
    let [directory, input]: [OwnedFd; 2] = job.fds.try_into().unwrap();
    channel.send(b"L", &[]).unwrap();
    let mut tar = Vec::new();
    File::from(input).read_to_end(&mut tar).unwrap();
    assert_eq!(channel.receive().unwrap().bytes, b"E");
    let mode = Mode::from_raw_mode(0o644);
    let make = |name: &str, kind| rustix::fs::mknodat(&directory, name, kind, mode, 0).unwrap();
    make("diff/file", FileType::RegularFile);
    make("tar-recipe", FileType::RegularFile);
    let inode = rustix::fs::statat(&directory, "diff/file", AtFlags::empty()).unwrap().st_ino;
    let rename = |from: &str, to: &str| rustix::fs::renameat(&directory, from, &directory, to).unwrap();
    let link = |to: &str, name: &str| rustix::fs::symlinkat(to, &directory, name).unwrap();
    let remove = |name: &str| rustix::fs::unlinkat(&directory, name, AtFlags::empty()).unwrap();
    let (mut lists, mut content) = (Vec::new(), 0);
    let entry = |kind: u8, path: &str, rest: &[u8]| {
        let length = u16::try_from(path.len()).unwrap().to_le_bytes();
        [&[kind][..], &inode.to_le_bytes(), &length, path.as_bytes(), rest].concat()
    };
    let attribute = |name: &str| {
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        entry(5, "file", &[&length[..], name.as_bytes(), &1u64.to_le_bytes(), b"y"].concat())
    };
    let device = |major: u32| entry(4, "file", &[&[1][..], &major.to_le_bytes(), &0u32.to_le_bytes()].concat());
    match deed {
        "diff is a link" => {
            rename("diff", "replaced");
            link(host, "diff");
        }
        "diff is another" => {
            rename("diff", "replaced");
            rustix::fs::mkdirat(&directory, "diff", Mode::from_raw_mode(0o755)).unwrap();
        }
        "diff is gone" => rename("diff", "replaced"),
        "recipe is a pipe" => {
            remove("tar-recipe");
            make("tar-recipe", FileType::Fifo);
        }
        "recipe is a link" => {
            remove("tar-recipe");
            link(&format!("{host}/canary"), "tar-recipe");
        }
        "recipe is a file of the layer" => {
            remove("tar-recipe");
            rustix::fs::linkat(&directory, "diff/file", &directory, "tar-recipe", AtFlags::empty()).unwrap();
        }
        "recipe is gone" => remove("tar-recipe"),
        "replaced is a link" => link(host, "replaced"),
        "info is a pipe" => make("info", FileType::Fifo),
        "info is a link" => link(&format!("{host}/canary"), "info"),
        "something else" => make("other", FileType::RegularFile),
        "open to all" => rustix::fs::chmodat(&directory, ".", Mode::from_raw_mode(0o777), AtFlags::empty()).unwrap(),
        "given away" => {
            let (user, group) = (rustix::fs::Uid::from_raw(1000), rustix::fs::Gid::from_raw(1000));
            rustix::fs::chownat(&directory, ".", Some(user), Some(group), AtFlags::empty()).unwrap();
        }
        "endless sizes" => content = i64::MAX as u64,
        "an attribute of overlayfs" => lists = attribute("trusted.overlay.redirect"),
        "an attribute of the host" => lists = attribute("security.selinux"),
        "a device for a file" => lists = device(1),
        "a device number" => lists = device(1 << 12),
        "a path outside" => lists = entry(3, "../../host", &[]),
        "descriptors" => channel.send(b"?", &vec![directory.as_fd(); 64]).unwrap(),
        _ => {}
    }
    if !lists.is_empty() {
        channel.send(&[b"N", &lists[..]].concat(), &[]).unwrap();
    }
    // For ever, until nobody listens.
    while deed == "signs of life without end" && channel.send(b"P", &[]).is_ok() {
        // Its pace: often enough to seem alive, seldom enough not to be one flood.
        std::thread::sleep(Duration::from_millis(2));
    }
    let diff_id = brig_store::digest::sha256_of(&tar);
    let mut done = [b"D", diff_id.hex().as_bytes()].concat();
    for number in [tar.len() as u64, tar.len() as u64, 1, content, 0, 0, 0] {
        done.extend_from_slice(&number.to_le_bytes());
    }
    // It may not be listened to any more.
    drop(channel.send(&done, &[]));
    0
}

pub fn whatever_it_does_is_one_failed_layer() {
    let mut wrong = Vec::new();
    for (deed, said) in DEEDS {
        let outcome = std::panic::catch_unwind(|| one(deed, said));
        if outcome.is_err() {
            wrong.push(*deed);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What `work` gives, on a thread of its own so that one that waits for good is noticed.
fn within<T: Send + 'static>(deed: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()).ok());
    wait.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|error| panic!("{deed}: {error}"))
}

fn one(deed: &'static str, said: &str) {
    let dir = tempfile::tempdir().unwrap();
    let canary = brig_tests::corpus::Canary::beneath(dir.path());
    let unpacker = Unpacker::new(std::env::current_exe().unwrap(), ["hostile", deed, canary.host()]);
    let patience = if deed == "signs of life without end" { 50 } else { 60_000 };
    let unpacker = unpacker.stalled_after(Duration::from_millis(patience));
    let root = dir.path().join("v1");
    let store = Store::open_with(&root, Options { unpacker: Some(unpacker) }).unwrap();
    let tar = Tar::new().file("file", b"").finish();
    let outcome = within(deed, {
        let store = store.clone();
        move || {
            let mut ingest = store.begin_layer()?;
            ingest.unpack_blob(&tar[..], None)?;
            let info = store.commit_layer(ingest, None)?;
            // Making the tar again reads the recipe.
            if let Ok(mut tar) = store.layer_tar(&info.chain_id) {
                drop(io::copy(&mut tar, &mut io::sink()));
            }
            Ok::<_, brig_store::Error>(info)
        }
    });
    canary.check(deed);
    match outcome {
        Err(error) => {
            assert!(!said.is_empty() && error.message.contains(said), "{deed}: {error}");
            assert_eq!(error.kind, ErrorKind::Invalid, "{deed}: {error}");
            store.wait_for_removals();
            assert_eq!(common::count(&store, "ingest") + common::count(&store, "layers"), 0, "{deed}");
        }
        Ok(info) => {
            assert!(said.is_empty(), "{deed}: it was taken");
            let layer = root.join("layers").join(info.chain_id.hex());
            closed(&layer);
            assert!(layer.join("diff").symlink_metadata().unwrap().is_dir());
        }
    }
}

fn closed(layer: &Path) {
    let metadata = layer.symlink_metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o700, 0, 0), "{layer:?}");
}
