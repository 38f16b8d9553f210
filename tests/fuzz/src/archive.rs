//! Archives from arbitrary bytes: mostly well-formed, with names that meet each other, so that what is tried lies beyond the
//! first checksum. Owns the making.

use arbitrary::{Result, Unstructured};
use brig_tests::corpus::tar::{Entry, Tar, checksum};

/// Parts of names: few, so that members meet; some that mean something.
const PARTS: &[&str] =
    &["a", "b", "c", "d", ".wh.a", ".wh.b", ".wh..wh..opq", "..", ".", "", "long-name-long-name", "\u{e9}"];
const KINDS: &[u8] = b"00005552211346gxLKSZ";
const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "mtime",
    "uid",
    "gid",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.security.capability",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.realsize",
    "GNU.sparse.map",
    "GNU.sparse.name",
];

/// The archive that some bytes stand for.
pub fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut source = Unstructured::new(bytes);
    let mut tar = Tar::new();
    while !source.is_empty() {
        // The source is used up in the midst of a member: it ends before it.
        let Ok(next) = member(&mut source, tar.clone()) else { break };
        tar = next;
    }
    let mut made = tar.finish();
    if let Ok(damage) = source.peek_bytes(2).ok_or(()).map(|pair| usize::from(pair[0]) % 8) {
        made.truncate(made.len().saturating_sub(damage * 100));
    }
    made
}

fn member(source: &mut Unstructured<'_>, tar: Tar) -> Result<Tar> {
    let kind = *source.choose(KINDS)?;
    if kind == b'x' {
        let (key, value) = (*source.choose(KEYS)?, value(source)?);
        return Ok(tar.pax(&[(key.as_bytes(), &value)]));
    }
    let (name, link) = (name(source)?, name(source)?);
    let length = usize::from(source.arbitrary::<u16>()? % 2_000);
    let filler = source.arbitrary::<u8>()?;
    let body = if matches!(kind, b'0' | b'g' | b'L' | b'K' | b'S') { vec![filler; length] } else { Vec::new() };
    let device = if matches!(kind, b'3' | b'4') { (u32::from(filler), u32::from(filler) * 3) } else { (0, 0) };
    let owner = (source.arbitrary::<u32>()? % 100_000, u32::from(source.arbitrary::<u16>()?));
    let mode = u32::from(source.arbitrary::<u16>()?) & 0o7777;
    let made =
        tar.entry(&Entry { name: name.as_bytes(), link: link.as_bytes(), kind, mode, body: &body, device, owner });
    // Now and then a header is changed, and its checksum put right.
    match source.ratio(1_u8, 16)? {
        false => Ok(made),
        true => {
            let mut bytes = made.open_end();
            let block = bytes.len().saturating_sub(512 + body.len().next_multiple_of(512));
            let at = usize::from(source.arbitrary::<u16>()? % 512);
            bytes[block + at] = source.arbitrary()?;
            let header: &mut [u8; 512] = (&mut bytes[block..block + 512]).try_into().expect("a block");
            checksum(header);
            Ok(Tar::new().bytes(&bytes))
        }
    }
}

fn name(source: &mut Unstructured<'_>) -> Result<String> {
    let parts = 1 + source.arbitrary::<u8>()? % 4;
    let mut name = String::new();
    for _ in 0..parts {
        name.push_str(source.choose(PARTS)?);
        name.push('/');
    }
    name.pop();
    Ok(name)
}

fn value(source: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    match source.arbitrary::<u8>()? % 4 {
        0 => Ok(name(source)?.into_bytes()),
        1 => Ok(source.arbitrary::<i32>()?.to_string().into_bytes()),
        2 => Ok(format!("{}.{}", source.arbitrary::<i16>()?, source.arbitrary::<u16>()?).into_bytes()),
        _ => {
            let length = usize::from(source.arbitrary::<u8>()? % 32);
            Ok(source.bytes(length.min(source.len()))?.to_vec())
        }
    }
}
