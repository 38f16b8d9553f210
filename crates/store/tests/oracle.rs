//! Unpacking compared with what GNU tar makes of the same archive, and with what was packed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use brig_store::Store;
use proptest::prelude::*;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tree with one of everything that archives carry.
fn everything(root: &Path) {
    let long = "n".repeat(120);
    for dir in ["a/b/c", "empty", &format!("deep/{long}/{long}")] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::write(root.join("a/file"), vec![3; 300_000]).unwrap();
    std::fs::write(root.join(format!("deep/{long}/{long}/{long}")), b"long").unwrap();
    std::fs::write(root.join("a/suid"), b"x").unwrap();
    std::fs::set_permissions(root.join("a/suid"), PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::hard_link(root.join("a/file"), root.join("a/b/second")).unwrap();
    symlink("../../a/file", root.join("a/b/link")).unwrap();
    symlink(format!("/{long}/{long}"), root.join("long-link")).unwrap();
    std::fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    run(Command::new("mkfifo").arg(root.join("pipe")));
    run(Command::new("mknod").arg(root.join("null")).args(["c", "1", "3"]));
    run(Command::new("chown").arg("1234:70000").arg(root.join("a/suid")));
    std::fs::set_permissions(root.join("a/suid"), PermissionsExt::from_mode(0o6755)).unwrap();
    run(Command::new("chown").arg("-h").arg("12:34").arg(root.join("a/b/link")));
    run(Command::new("chown").arg("3000000:3000000").arg(root.join("a/b/c")));
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for index in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[9; 5000], index * 1_000_000).unwrap();
    }
    sparse.set_len(50_000_000).unwrap();
    run(Command::new("touch")
        .args(["-h", "-d", "2001-02-03 04:05:06.789012345"])
        .arg(root.join("a/b/link"))
        .arg(root.join("a/file")));
    run(Command::new("touch").args(["-d", "1955-01-01 00:00:00.5"]).arg(root.join("a/suid")).arg(root.join("empty")));
}

#[test]
fn as_gnu_tar_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    everything(&source);
    let store = Store::open(&dir.path().join("v1")).unwrap();
    for (index, options) in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = dir.path().join("archive.tar");
        run(Command::new("tar")
            .args(options)
            .arg("--numeric-owner")
            .arg("-C")
            .arg(&source)
            .arg("-cf")
            .arg(&archive)
            .arg("."));
        let reference = dir.path().join(format!("reference{index}"));
        std::fs::create_dir(&reference).unwrap();
        run(Command::new("tar")
            .args(["--numeric-owner", "--same-owner", "-p", "-C"])
            .arg(&reference)
            .arg("-xf")
            .arg(&archive));
        let info = common::layer(&store, &std::fs::read(&archive).unwrap(), None);
        let ours = common::diff(&store, &info.chain_id);
        assert_eq!(common::listing(&ours), common::listing(&reference), "{options:?}");
        if options.contains(&"--sparse") {
            let blocks = std::os::unix::fs::MetadataExt::blocks(&ours.join("sparse").metadata().unwrap());
            assert!(blocks * 512 < 2_000_000, "{options:?}: {blocks} blocks");
        }
    }
}

/// One thing in a generated tree.
#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, u32),
    Directory(u32),
    Link(String),
    Fifo,
}

fn things() -> impl Strategy<Value = Vec<(String, Thing)>> {
    let thing = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..1500), 0u32..0o10000).prop_map(|(body, mode)| Thing::File(body, mode)),
        // Without set-group-id, which GNU tar lets undescribed directories inherit.
        (0u32..0o10000).prop_map(|mode| Thing::Directory(mode & !0o2000)),
        "[a-z./]{1,120}".prop_map(Thing::Link),
        Just(Thing::Fifo),
    ];
    let name = "[a-c]{1,2}(/[a-c]{1,2}){0,3}|[a-z]{90,130}";
    prop::collection::vec((name, thing), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    /// Written by another implementation, read by ours: what was packed comes out.
    #[test]
    fn trees_survive_packing(things in things()) {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut expected = std::collections::BTreeMap::new();
        let mut described = Vec::new();
        for (name, thing) in things {
            // No name twice, and nothing beneath what is no directory: those cases have tests of their own.
            let above = Path::new(&name).ancestors().skip(1).any(|up| matches!(expected.get(&up.to_string_lossy().into_owned()), Some(kind) if *kind != 'd'));
            let below = expected.keys().any(|known: &String| known.starts_with(&format!("{name}/")));
            if expected.contains_key(&name) || above || (below && !matches!(thing, Thing::Directory(_))) {
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_mtime(5);
            header.set_mode(0o644);
            header.set_size(0);
            let kind = match &thing {
                Thing::File(body, mode) => {
                    header.set_mode(*mode);
                    header.set_size(body.len() as u64);
                    builder.append_data(&mut header, &name, &body[..]).unwrap();
                    'f'
                }
                Thing::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    builder.append_data(&mut header, &name, &[][..]).unwrap();
                    'd'
                }
                Thing::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, &name, target).unwrap();
                    'l'
                }
                Thing::Fifo => {
                    header.set_entry_type(tar::EntryType::Fifo);
                    builder.append_data(&mut header, &name, &[][..]).unwrap();
                    'p'
                }
            };
            for up in Path::new(&name).ancestors().skip(1).filter(|up| !up.as_os_str().is_empty()) {
                expected.entry(up.to_string_lossy().into_owned()).or_insert('d');
            }
            described.push(name.clone());
            expected.insert(name, kind);
        }
        let archive = builder.into_inner().unwrap();
        let reference = dir.path().join("reference");
        std::fs::create_dir(&reference).unwrap();
        std::fs::write(dir.path().join("a.tar"), &archive).unwrap();
        run(Command::new("tar").args(["-p", "--same-owner", "-C"]).arg(&reference).arg("-xf").arg(dir.path().join("a.tar")));
        let store = Store::open(&dir.path().join("v1")).unwrap();
        let info = common::layer(&store, &archive, None);
        let ours = common::listing(&common::diff(&store, &info.chain_id));
        let reference = common::listing(&reference);
        for name in &described {
            prop_assert!(ours[name].ends_with(" 5.000000000"), "{}: {}", name, &ours[name]);
        }
        // GNU tar loses a directory's time when a later member makes an undescribed directory in it.
        let comparable = |listing: &std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
            listing.iter().map(|(name, text)| match text.starts_with("dir ") {
                true => (name.clone(), text.rsplit_once(' ').unwrap().0.to_owned()),
                false => (name.clone(), text.clone()),
            }).collect()
        };
        prop_assert_eq!(comparable(&ours), comparable(&reference));
        prop_assert!(common::serves_all(&store, &info.chain_id));
    }

    /// Whatever bytes come, unpacking ends, and either fails or makes a layer.
    #[test]
    fn noise_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        at in 0usize..6000,
        flips in prop::collection::vec((0usize..6000, any::<u8>()), 0..6),
    ) {
        let (dir, store) = common::open();
        let mut archive = common::Tar::new()
            .pax(&[(b"path", b"p/ax"), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"b")])
            .file("x", &[1; 600])
            .file(&"long".repeat(40), b"body")
            .symlink("l", "..")
            .link("h", "p/ax")
            .file("d/.wh.x", b"")
            .finish();
        for (index, value) in flips {
            let index = index % archive.len();
            archive[index] ^= value;
            // With the checksum right again the change gets further.
            let block: &mut [u8; 512] = (&mut archive[index / 512 * 512..][..512]).try_into().unwrap();
            if &block[257..262] == b"ustar" {
                common::checksum(block);
            }
        }
        let at = at % archive.len();
        archive.splice(at..at, noise);
        let outcome = common::unpack(&store, &archive).and_then(|ingest| store.commit_layer(ingest, None));
        drop(outcome);
        store.wait_for_removals();
        prop_assert_eq!(common::count(&store, "ingest"), 0);
        drop(dir);
    }
}
