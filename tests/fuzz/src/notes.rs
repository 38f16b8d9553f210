//! What a process that was taken over says of a layer, from arbitrary bytes: mostly well-formed, about files that there are.
//! Owns the making and what must hold of the outcome.

use arbitrary::{Result, Unstructured};
use brig_tests::corpus::tar::{Entry, Tar};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PATHS: &[&str] = &[
    "",
    "d",
    "d/file",
    "file",
    "pipe",
    "link",
    "absent",
    "d/link",
    "out",
    "out/canary",
    "..",
    "../..",
    "/etc",
    "d/",
    "a//b",
];
const ATTRIBUTES: &[&str] = &[
    "user.x",
    "security.capability",
    "system.posix_acl_default",
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "user.overlay.opaque",
    "security.selinux",
    "",
];

/// Goes on with an unpacked layer as if the process had said this.
pub fn notes(bytes: &[u8]) {
    let tar = Tar::new()
        .dir("d", 0o755)
        .file("d/file", b"content")
        .file("file", b"")
        .entry(&Entry { name: b"pipe", kind: b'6', ..Entry::default() })
        .symlink("link", "d")
        .symlink("d/link", "/d/file")
        .symlink("out", "../../../../../../host")
        .finish();
    super::on_a_store(|store| {
        let mut ingest = store.begin_layer().unwrap();
        let told = ingest.unpack_telling(&tar, |files| {
            let mut source = Unstructured::new(bytes);
            let summary = summary(&mut source, &tar).unwrap_or_default();
            let mut lists = Vec::new();
            while !source.is_empty() {
                if entry(&mut source, files, &mut lists).is_err() {
                    break;
                }
            }
            (summary, lists)
        });
        let Ok(told) = told else { return };
        assert!(told.content_bytes <= 1 << 50);
        let Ok(info) = store.commit_layer(ingest, None) else { return };
        let diff = store.root().join("layers").join(info.chain_id.hex()).join("diff");
        let listing = brig_tests::corpus::listing(&diff);
        for forbidden in ["trusted.overlay.redirect", "user.overlay", "security.selinux"] {
            assert!(!listing.values().any(|text| text.contains(forbidden)), "{listing:#?}");
        }
        // A link may have been asked for under the one name that there is not.
        let known = ["d", "d/file", "file", "pipe", "link", "d/link", "out", "absent"];
        assert!(listing.len() >= 7 && listing.keys().all(|name| known.contains(&name.as_str())), "{listing:#?}");
    });
}

fn summary(source: &mut Unstructured<'_>, tar: &[u8]) -> Result<Vec<u8>> {
    let mut out = brig_store::digest::sha256_of(tar).hex().as_bytes().to_vec();
    let length = tar.len() as u64;
    for right in [length, length, 7, 7, 0, 0, 0] {
        let number = if source.ratio(1_u8, 16)? { source.arbitrary()? } else { right };
        out.extend_from_slice(&u64::to_le_bytes(number));
    }
    Ok(out)
}

fn entry(source: &mut Unstructured<'_>, files: &Path, out: &mut Vec<u8>) -> Result<()> {
    let kind = source.arbitrary::<u8>()? % 7;
    out.push(kind);
    let path = *source.choose(PATHS)?;
    if kind != 2 {
        let other = files.join(*source.choose(PATHS)?);
        let about = if source.ratio(1_u8, 8)? { other } else { files.join(path) };
        let inode = about.symlink_metadata().map_or(1, |metadata| metadata.ino());
        out.extend_from_slice(&inode.to_le_bytes());
    }
    short(out, path);
    match kind {
        2 => short(out, source.choose(PATHS)?),
        4 => {
            out.push(source.arbitrary::<u8>()? % 2);
            out.extend_from_slice(&(u32::from(source.arbitrary::<u16>()?) % 5000).to_le_bytes());
            out.extend_from_slice(&source.arbitrary::<u32>()?.to_le_bytes());
        }
        5 => {
            short(out, source.choose(ATTRIBUTES)?);
            let length = usize::from(source.arbitrary::<u8>()? % 40).min(source.len());
            out.extend_from_slice(&(length as u64).to_le_bytes());
            out.extend_from_slice(source.bytes(length)?);
        }
        _ => {}
    }
    Ok(())
}

fn short(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or_default().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
