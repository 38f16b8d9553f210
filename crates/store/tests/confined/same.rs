//! A layer is the same whether it was unpacked in a process of its own or not.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use brig_store::unpacker::Unpacker;
use brig_store::{ErrorKind, LayerInfo, Options, Packing, Store};

use brig_tests::image::gzip;

use crate::common::{self, Entry, Tar};

pub fn unpacker() -> Unpacker {
    Unpacker::new(std::env::current_exe().unwrap(), ["unpack"])
}

/// A store that unpacks in a process of its own.
pub fn confined() -> (tempfile::TempDir, Store) {
    with(unpacker())
}

pub fn with(unpacker: Unpacker) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(&dir.path().join("v1"), Options { unpacker: Some(unpacker) }).unwrap();
    (dir, store)
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn below() -> Vec<u8> {
    Tar::new().dir("var", 0o2755).dir("var/tmp", 0o1777).file("var/below", b"below").dir("gone", 0o700).finish()
}

/// Everything that there is.
fn everything() -> Vec<u8> {
    let owned = |name: &'static str, kind, mode, owner| Entry {
        name: name.as_bytes(),
        kind,
        mode,
        owner,
        device: (1, 5),
        body: if kind == b'0' { b"content" } else { b"" },
        ..Entry::default()
    };
    Tar::new()
        .entry(&owned(".", b'5', 0o751, (1, 2)))
        .entry(&owned("etc", b'5', 0o2775, (0, 50)))
        .entry(&owned("etc/setuid", b'0', 0o4755, (0, 0)))
        .entry(&owned("etc/setgid", b'0', 0o2755, (4_294_967_294, 4_294_967_294)))
        .entry(&owned("etc/none", b'0', 0, (1000, 1000)))
        .pax(&[(b"SCHILY.xattr.security.capability", &CAPABILITY), (b"SCHILY.xattr.user.note", b"a\nb")])
        .file("etc/ping", b"ping")
        .symlink("etc/link", "../../../etc/passwd")
        .link("etc/hard", "etc/setuid")
        .entry(&owned("zero", b'3', 0o640, (3, 4)))
        .link("also-zero", "zero")
        .entry(&owned("pipe", b'6', 0o666, (5, 6)))
        .file("var/new", b"implied")
        .file("var/tmp/x/y", b"deep")
        .link("var/hard", "var/below")
        .file(".wh.gone", b"")
        .dir("opaque", 0o755)
        .file("opaque/.wh..wh..opq", b"")
        .file("twice", b"first")
        .file("twice", b"second")
        .pax(&[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"1048576")])
        .entry(&Entry { name: b"sparse", body: &sparse(), ..Entry::default() })
        .entry(&Entry { name: b"big", body: &[7; 1_000_000], ..Entry::default() })
        .finish()
}

fn sparse() -> Vec<u8> {
    let mut map = b"1\n4096\n512\n".to_vec();
    map.resize(512, 0);
    map.resize(1024, 9);
    map
}

/// The listing of a layer, with the attributes that matter, and its tar made again.
fn look(store: &Store, info: &LayerInfo) -> (Vec<String>, Vec<u8>) {
    let diff = common::diff(store, &info.chain_id);
    let mut lines: Vec<String> = common::listing(&diff)
        .into_iter()
        // The time of a whiteout, or of a directory that no layer describes, is nobody's.
        .filter(|(name, what)| !what.starts_with("node 0 ") && name != "var/tmp/x")
        .map(|(name, what)| format!("{name} {what}"))
        .collect();
    for name in ["", "etc/ping", "opaque", "gone", "zero", "etc/link"] {
        for attribute in ["security.capability", "trusted.overlay.opaque", "user.note"] {
            lines.push(format!("{name} {attribute} {:?}", common::xattr(&diff.join(name), attribute)));
        }
    }
    let mut tar = Vec::new();
    store.layer_tar(&info.chain_id).unwrap().read_to_end(&mut tar).unwrap();
    (lines, tar)
}

pub fn layers_are_the_same() {
    let (below, tar) = (below(), everything());
    let (_dir, here) = common::open();
    let parent = common::layer(&here, &below, None);
    let expected = look(&here, &common::layer(&here, &tar, Some(&parent.chain_id)));
    let (_dir, there) = confined();
    let parent = common::layer(&there, &below, None);
    for packed in [tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
        let mut ingest = there.begin_layer().unwrap();
        let unpacked = ingest.unpack_blob(&packed[..], None).unwrap();
        assert_eq!(unpacked.diff_id, brig_store::digest::sha256_of(&tar));
        assert_eq!(unpacked.size, tar.len() as u64);
        let info = there.commit_layer(ingest, Some(&parent.chain_id)).unwrap();
        let (lines, again) = look(&there, &info);
        for (line, wanted) in lines.iter().zip(&expected.0) {
            assert_eq!(line, wanted);
        }
        assert_eq!(lines.len(), expected.0.len());
        assert!(again == tar && expected.1 == tar);
    }
    assert_eq!(common::count(&there, "ingest"), 0);
}

pub fn images_from_archives_too() {
    let (_dir, here) = common::open();
    let tars = [below(), everything()];
    let id = common::image(&here, &[&tars[0], &tars[1]]);
    let (_dir, there) = confined();
    let other = common::image(&there, &[&tars[0], &tars[1]]);
    assert_eq!(id, other);
    let tar = Tar::new().dir("etc", 0o755).file("etc/x", b"x").finish();
    let config = brig_oci::ImageConfig::parse(&common::config(&[])).unwrap();
    brig_store::archive::import(&there, &gzip(&tar)[..], config, None).unwrap();
    assert_eq!(common::count(&there, "layers"), 3);
    let layer = there.layer(&brig_store::digest::sha256_of(&tar)).unwrap();
    assert_eq!(std::fs::read(common::diff(&there, &layer.chain_id).join("etc/x")).unwrap(), b"x");
}

/// What a program makes of its input.
fn filtered(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}

/// An archive as `docker save` made it, of one layer with a megabyte of noise in it.
fn archive() -> (Vec<u8>, Vec<u8>) {
    let mut noise = vec![0; 1 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let layer = Tar::new().file("noise", &noise).finish();
    let manifest = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l/layer.tar"]}]"#;
    let config = common::config(&[&layer]);
    let tar = Tar::new().file("l/layer.tar", &layer).file("c.json", &config).file("manifest.json", manifest).finish();
    (tar, layer)
}

pub fn an_archive_is_decoded_outside() {
    let (tar, layer) = archive();
    let load = |store: &Store, archive: &[u8]| brig_store::archive::load(store, archive, &[], &mut |_| {});
    let packings: [(&str, &[&str]); 4] = [
        ("gzip", &["-c1"]),
        ("xz", &["-c1"]),
        ("bzip2", &["-c1"]),
        ("xz", &["-c", "-T1", "--lzma2=preset=0,dict=64MiB"]),
    ];
    for (program, arguments) in packings {
        let (_dir, store) = confined();
        let packed = filtered(program, arguments, &tar);
        let loaded = load(&store, &packed).unwrap();
        assert_eq!(loaded[0].name.as_deref(), Some("docker.io/library/app:1"), "{program}");
        assert!(store.layer(&brig_store::digest::sha256_of(&layer)).is_some());
        // A decoder that fails, in the daemon or not, leaves nothing and says what is wrong.
        let (_dir, store) = confined();
        let error = load(&store, &packed[..packed.len() - 9]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{program}: {error}");
        assert!(error.message.contains(program), "{program}: {error}");
        store.wait_for_removals();
        assert_eq!((common::count(&store, "ingest"), common::count(&store, "layers")), (0, 0));
    }
    let (_dir, store) = confined();
    let packed = filtered("xz", &["-c", "--lzma2=preset=0,dict=65MiB"], &tar);
    let error = load(&store, &packed).unwrap_err();
    assert!(error.message.contains("more than 64 MiB"), "{error}");
    // A layer that is packed itself.
    let config = brig_oci::ImageConfig::parse(&common::config(&[])).unwrap();
    brig_store::archive::import(&store, &filtered("xz", &["-c"], &layer)[..], config, None).unwrap();
    assert!(store.layer(&brig_store::digest::sha256_of(&layer)).is_some());
    // Who cannot start the process decodes nothing.
    let (_dir, store) = with(Unpacker::new("/bin/false", ["unpack"]));
    let error = load(&store, &filtered("gzip", &["-c"], &tar)).unwrap_err();
    assert!(error.message.contains("ended unexpectedly with code 1"), "{error}");
}

pub fn packing_is_what_was_said() {
    let (_dir, store) = confined();
    let tar = Tar::new().file("x", b"x").finish();
    let packed = [(tar.clone(), Packing::Plain), (gzip(&tar), Packing::Gzip)];
    for (bytes, truth) in &packed {
        for said in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let outcome = store.begin_layer().unwrap().unpack_blob(&bytes[..], Some(said));
            match said == *truth {
                true => drop(outcome.unwrap()),
                false => assert_eq!(outcome.unwrap_err().kind, ErrorKind::Invalid),
            }
        }
    }
    let error = store.begin_layer().unwrap().unpack_blob(&gzip(&tar)[..], Some(Packing::Zstd)).unwrap_err();
    assert_eq!(error.message, "said to be packed as zstd, but it is gzip");
}

/// A file of the store is not read but moved, whatever comes at a time, and only as far as it is there.
pub fn a_blob_is_handed_on_as_it_arrives() {
    let (_dir, store) = confined();
    let noise: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let tar = Tar::new().file("a", &noise).file("b", b"end").finish();
    for (packed, name) in [(tar.clone(), "plain"), (gzip(&tar), "gzip")] {
        let partial = store.partials().open(name).unwrap();
        let (mut reader, mut ingest) = (partial.reader(), store.begin_layer().unwrap());
        let unpacked = std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| ingest.unpack_input(&mut reader, None));
            let mut left = &packed[..];
            for size in [1, 17, 1, 4095, 1, 70_000, 1_000_003].into_iter().cycle() {
                let (now, later) = left.split_at(size.min(left.len()));
                partial.append(now).unwrap();
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            partial.finish();
            unpacking.join().unwrap().unwrap()
        });
        assert_eq!(
            (unpacked.diff_id, unpacked.size),
            (brig_store::digest::sha256_of(&tar), tar.len() as u64),
            "{name}"
        );
        assert!(!reader.is_broken());
        partial.discard().unwrap();
    }
    // One that breaks off is no layer, though all of it that came was a whole one.
    let partial = store.partials().open("cut").unwrap();
    let (mut reader, mut ingest) = (partial.reader(), store.begin_layer().unwrap());
    partial.append(&tar).unwrap();
    partial.fail(std::io::ErrorKind::ConnectionReset, "the wire is cut");
    let refused = ingest.unpack_input(&mut reader, None).unwrap_err();
    assert!(refused.message.contains("the wire is cut") && reader.is_broken(), "{refused}");
}
