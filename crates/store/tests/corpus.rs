//! The corpus of hostile archives through the store itself, and what other unpackers make of the harmless ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use brig_store::{ErrorKind, Store};
use brig_tests::corpus::{self, Canary, Case, Dress, Oracle, Outcome};

/// Unpacks a case; the listing of the layer, or the error's words.
fn unpack(store: &Store, case: &Case, dress: Dress) -> Result<std::collections::BTreeMap<String, String>, String> {
    let bytes = dress.on(&case.tar);
    let outcome = brig_store::decompress(&bytes[..]).and_then(|reader| {
        let mut ingest = store.begin_layer()?;
        ingest.unpack(reader)?;
        store.commit_layer(ingest, None)
    });
    match outcome {
        Ok(info) if !common::serves_all(store, &info.chain_id) => Err("it is not what it is".to_owned()),
        Ok(info) => Ok(corpus::listing(&common::diff(store, &info.chain_id))),
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Invalid, "{}: {error}", case.name);
            Err(error.to_string())
        }
    }
}

#[test]
fn every_archive_in_every_dress() {
    let dir = tempfile::tempdir().unwrap();
    let canary = Canary::beneath(dir.path());
    let store = Store::open(&dir.path().join("v1")).unwrap();
    let mut wrong = Vec::new();
    for case in corpus::all(canary.host()) {
        for dress in Dress::ALL {
            let name = format!("{} ({dress:?})", case.name);
            let found = unpack(&store, &case, dress);
            match (&case.outcome, found) {
                (Outcome::Layer(expected), Ok(found)) => {
                    if std::panic::catch_unwind(|| corpus::check_layer(&name, expected, &found)).is_err() {
                        wrong.push(name.clone());
                    }
                }
                (Outcome::Refused(words), Err(error)) if error.contains(words) => {}
                (_, found) => wrong.push(format!("{name}: {found:?}")),
            }
            canary.check(&name);
        }
        store.wait_for_removals();
        assert_eq!(common::count(&store, "ingest") + common::count(&store, "trash"), 0, "{}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_of_packing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("v1")).unwrap();
    let mut wrong = Vec::new();
    for stream in corpus::streams() {
        let name = format!("{} ({:?})", stream.name, stream.dress);
        let mut ingest = store.begin_layer().unwrap();
        let unpacked = ingest.unpack_blob(&stream.bytes[..], None);
        match (&stream.outcome, &unpacked) {
            (Outcome::Layer(_), Ok(told)) if told.diff_id == brig_store::digest::sha256_of(&stream.tar) => {}
            (Outcome::Refused(words), Err(error))
                if error.kind == ErrorKind::Invalid && error.message.contains(words) => {}
            _ => wrong.push(format!("{name}: {unpacked:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A tar is whole only where a member ends: there, GNU tar takes it too. Whoever carries it has a digest of the whole.
#[test]
fn cut_at_every_byte() {
    use std::io::Read;
    let tar = brig_tests::corpus::tar::Tar::new()
        .dir("d", 0o755)
        .file("d/a", &[b'a'; 3000])
        .pax(&[(b"mtime", b"1.5")])
        .file("d/b", &[b'b'; 700])
        .symlink("d/l", "a")
        .file(&"n".repeat(150), b"long")
        .finish();
    assert!(tar.len() >= 8 << 10);
    let read = |bytes: &[u8]| {
        let mut archive = brig_store::tar::Archive::new(bytes);
        let mut ends = vec![0];
        while let Some(member) = archive.next_member()? {
            let mut body = Vec::new();
            if archive.read_to_end(&mut body).is_err() {
                return Ok(None);
            }
            assert_eq!(body.len() as u64, member.size);
            ends.push(ends.len());
        }
        Ok::<_, brig_store::Error>(Some(ends.len() - 1))
    };
    let all = read(&tar).unwrap().unwrap();
    let mut whole = Vec::new();
    for cut in 0..tar.len() {
        match read(&tar[..cut]) {
            Ok(Some(members)) => whole.push((cut, members)),
            Ok(None) => {}
            Err(error) => assert_eq!(error.kind, ErrorKind::Invalid, "{cut}: {error}"),
        }
    }
    let mut members: Vec<usize> = whole.iter().map(|(_, members)| *members).collect();
    members.dedup();
    assert_eq!(members, (0..=all).collect::<Vec<_>>(), "each member's end, and no other place");
    let end = tar.len() - 1024;
    assert!(whole.iter().all(|(cut, _)| cut % 512 == 0 || *cut > end), "{whole:?}");
    for dress in [Dress::Gzip, Dress::Zstd] {
        let packed = dress.on(&tar);
        for cut in 1..packed.len() {
            let plain = brig_store::decompress(&packed[..cut]).map(|mut reader| reader.read_to_end(&mut Vec::new()));
            assert!(!matches!(plain, Ok(Ok(length)) if length == tar.len()), "{dress:?} {cut}");
        }
    }
}

/// A listing without the times of what nobody described: they are when it was made.
fn settled(listing: std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    let now = |text: &str| {
        let words = text.split(' ').map(|word| {
            let seconds = word.split_once('.').and_then(|(seconds, _)| seconds.parse::<i64>().ok());
            if seconds.is_some_and(|seconds| seconds > common::MTIME) { "now" } else { word }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    listing.iter().map(|(path, text)| (path.clone(), now(text))).collect()
}

#[test]
fn others_make_the_same_of_the_harmless_ones() {
    let dir = tempfile::tempdir().unwrap();
    let canary = Canary::beneath(dir.path());
    let store = Store::open(&dir.path().join("v1")).unwrap();
    let umoci = brig_tests::skip::program("umoci");
    if umoci.is_none() {
        brig_tests::skip::skip("others_make_the_same_of_the_harmless_ones (umoci)", "umoci is not installed");
    }
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in corpus::all(canary.host()) {
        let by_tar = matches!(case.oracle, Oracle::Same | Oracle::Tar);
        let by_umoci = umoci.is_some() && matches!(case.oracle, Oracle::Same | Oracle::Umoci);
        if !by_tar && !by_umoci {
            continue;
        }
        let ours = settled(unpack(&store, &case, Dress::Plain).unwrap());
        let references =
            [by_tar.then(|| gnu_tar(dir.path(), &case.tar)), by_umoci.then(|| by_layout(dir.path(), &case.tar))];
        for (name, theirs) in ["GNU tar", "umoci"].into_iter().zip(references) {
            let Some(theirs) = theirs.map(settled) else { continue };
            compared += 1;
            if ours != theirs {
                let only = |one: &[(String, String)], other: &[(String, String)]| -> Vec<(String, String)> {
                    one.iter().filter(|line| !other.contains(line)).cloned().collect()
                };
                let (ours, theirs) = (only(&ours, &theirs), only(&theirs, &ours));
                wrong.push(format!("{}: ours {ours:?}\n  {name}: {theirs:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 40, "{compared}");
}

/// What GNU tar makes of a harmless archive, listed.
fn gnu_tar(dir: &Path, tar: &[u8]) -> std::collections::BTreeMap<String, String> {
    let root = fresh(dir, "tar");
    std::fs::write(dir.join("case.tar"), tar).unwrap();
    let output = Command::new("tar")
        .args(["--numeric-owner", "--same-owner", "-p", "--xattrs", "--warning=none", "-C"])
        .arg(&root)
        .arg("-xf")
        .arg(dir.join("case.tar"))
        .output()
        .unwrap();
    // It complains about a missing end and does what it can.
    assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
    corpus::listing(&root)
}

/// What umoci makes of an image of this one layer.
fn by_layout(dir: &Path, tar: &[u8]) -> std::collections::BTreeMap<String, String> {
    let layout = fresh(dir, "layout");
    let image = brig_tests::Image::new(vec![tar.to_vec()], serde_json::json!({}));
    let archive = image.oci_archive("case");
    tar::Archive::new(&archive[..]).unpack(&layout).unwrap();
    let index = layout.join("index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("io.containerd.image.name", "org.opencontainers.image.ref.name")).unwrap();
    let root = dir.join("umoci-root");
    std::fs::remove_dir_all(&root).ok();
    let output = Command::new("umoci")
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:case", layout.display()))
        .arg(&root)
        .output()
        .unwrap();
    match output.status.success() {
        true => corpus::listing(&root),
        false => [("umoci".to_owned(), String::from_utf8_lossy(&output.stderr).into_owned())].into(),
    }
}

fn fresh(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::remove_dir_all(&path).ok();
    std::fs::create_dir(&path).unwrap();
    path
}
