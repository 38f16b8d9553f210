//! Cases about how an archive is written: extension headers, checksums, ends, amounts.
//! Owns these cases only.

use super::tar::{Entry, Tar, checksum, header};
use super::{Case, Oracle, Outcome};

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    [pax(), long_names(), blocks(), amounts()].into_iter().flatten().collect()
}

fn layer(expected: &[(&'static str, &'static str)]) -> Outcome {
    Outcome::Layer(expected.to_vec())
}

fn pax() -> Vec<Case> {
    let inner = Tar::new().file("hidden", b"").finish();
    let outer = Entry { name: b"outer", ..Entry::default() };
    let larger = Tar::new()
        .pax(&[(b"size", inner.len().to_string().as_bytes())])
        .bytes(&header(&outer, 0))
        .body(&inner)
        .file("after", b"");
    let smaller = Tar::new().pax(&[(b"size", b"0")]).bytes(&header(&outer, inner.len() as u64)).body(&inner);
    let long = Entry { name: &[b'n'; 150], ..Entry::default() };
    let between = Tar::new().pax(&[(b"size", b"0")]).entry(&long).file("after", b"");
    let twice = Tar::new().pax(&[(b"path", b"first")]).pax(&[(b"path", b"second")]).file("own", b"");
    let mut cases = vec![
        Case::new(
            "A15 larger than the header",
            larger,
            layer(&[("outer", "file 1536"), ("after", "file"), ("hidden", "-")]),
        )
        .like(Oracle::Same),
        Case::new("A15 smaller than the header", smaller, layer(&[("outer", "file 0"), ("hidden", "file 0")]))
            .like(Oracle::Same),
        Case::new("A15 a long name between", between, layer(&[("after", "file")])),
        Case::new("A15 two headers", twice, layer(&[("second", "file"), ("own", "-")])),
        Case::new(
            "A15 size on a link",
            Tar::new().pax(&[(b"size", b"512")]).symlink("l", "x").file("y", b""),
            layer(&[("l", "link"), ("y", "file")]),
        ),
        Case::new(
            "A16 global",
            Tar::new().raw(b'g', b"18 path=../evil/x\n11 size=99\n").file("x", b"body"),
            layer(&[("x", "file 4")]),
        ),
        Case::new(
            "A16 newline in a name",
            Tar::new().pax(&[(b"path", b"a\nb=c")]).file("x", b""),
            layer(&[("a\nb=c", "file")]),
        )
        .like(Oracle::Same),
        Case::new(
            "A16 empty values",
            Tar::new().pax(&[(b"path", b""), (b"size", b"")]).file("own", b""),
            layer(&[("own", "file")]),
        ),
        Case::new("A16 alone", Tar::new().pax(&[(b"path", b"x")]), Outcome::Refused("")),
        Case::new(
            "A16 charset",
            Tar::new().pax(&[(b"hdrcharset", b"BINARY"), (b"path", b"\xff")]).file("x", b""),
            layer(&[("x", "-")]),
        ),
    ];
    for (key, value) in [
        (&b"path"[..], &b"../brig-evil"[..]),
        (b"path", b"a\0b"),
        (b"linkpath", b"a\0b"),
        (b"size", b"-1"),
        (b"size", b"9223372036854775808"),
        (b"size", b"1e3"),
    ] {
        let name = format!("A16 {}={}", key.escape_ascii(), value.escape_ascii());
        cases.push(Case::new(&name, Tar::new().pax(&[(key, value)]).file("x", b""), Outcome::Refused("")));
    }
    for broken in [
        "5 a=b\n",
        "x a=b\n",
        "99 a=b\n",
        "6 a=b ",
        "0 a=b\n",
        "18446744073709551615 a=b\n",
        "9223372036854775807 a=b\n",
    ] {
        let tar = Tar::new().raw(b'x', broken.as_bytes()).file("x", b"");
        cases.push(Case::new(&format!("A16 record {broken:?}"), tar, Outcome::Refused("")));
    }
    cases
}

fn long_names() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in *b"xgLK" {
        let block = header(&Entry { name: b"big", kind, ..Entry::default() }, 4 << 30);
        cases.push(Case::raw(&format!("A17 {} of 4 GiB", kind as char), block.to_vec(), Outcome::Refused("at most")));
    }
    let name = [&[b'n'; 1 << 20][..], b"\0"].concat();
    let end = Tar::new().raw(b'L', b"name\0");
    let two = Tar::new().raw(b'L', b"first\0").raw(b'L', b"second\0").file("own", b"");
    cases.extend([
        Case::new("A17 1 MiB", Tar::new().raw(b'L', &name).file("x", b""), Outcome::Refused("")),
        Case::new("A17 at the end", end, Outcome::Refused("")),
        Case::new("A17 two in a row", two, layer(&[("second", "file"), ("own", "-")])).like(Oracle::Same),
    ]);
    cases
}

fn blocks() -> Vec<Case> {
    let whole = Tar::new().dir("d", 0o755).file("d/a", b"content").finish();
    let mut wrong = whole.clone();
    wrong[0] ^= 1;
    let with = |change: &dyn Fn(&mut [u8; 512])| {
        let mut block = header(&Entry { name: b"x", ..Entry::default() }, 0);
        change(&mut block);
        checksum(&mut block);
        Tar::new().bytes(&block)
    };
    let signed = || {
        let mut block = header(&Entry { name: b"\xff\xff", ..Entry::default() }, 0);
        block[148..156].fill(b' ');
        let sum: i32 = block.iter().map(|byte| i32::from(byte.cast_signed())).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Tar::new().bytes(&block)
    };
    let prefix = |block: &mut [u8; 512]| {
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..351].copy_from_slice(b"prefix");
    };
    let huge = |block: &mut [u8; 512]| block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    let refused = |name: &str, tar: Vec<u8>| Case::raw(name, tar, Outcome::Refused(""));
    let contents = || layer(&[("d/a", "file 7")]);
    vec![
        refused("A25 checksum", wrong),
        Case::new("A25 signed checksum", signed(), layer(&[])).like(Oracle::Tar),
        Case::new("A25 v7", with(&|block| block[257..].fill(0)), layer(&[("x", "file 0")])).like(Oracle::Same),
        Case::new("A25 prefix", with(&prefix), layer(&[("prefix/x", "file 0")])).like(Oracle::Tar),
        Case::new(
            "A25 size in words",
            with(&|block| block[124..130].copy_from_slice(b"size! ")),
            Outcome::Refused("size"),
        ),
        Case::new(
            "A25 size with spaces",
            with(&|block| block[124..136].copy_from_slice(b"          0 ")),
            layer(&[("x", "file 0")]),
        )
        .like(Oracle::Same),
        Case::new("A25 size 2^63", with(&huge), Outcome::Refused("")),
        Case::raw("A25 one zero block at the end", whole[..whole.len() - 512].to_vec(), contents()).like(Oracle::Same),
        Case::raw("A25 no end", whole[..whole.len() - 1024].to_vec(), contents()).like(Oracle::Same),
        Case::raw("A25 trailing garbage", [&whole[..], b"garbage"].concat(), contents()).like(Oracle::Tar),
        Case::raw(
            "A25 two archives",
            [&whole[..], &Tar::new().file("second", b"").finish()].concat(),
            layer(&[("d/a", "file 7"), ("second", "-")]),
        )
        .like(Oracle::Same),
        refused("A25 a zero block in the midst", [&whole[..512], &[0; 512], &whole[512..]].concat()),
        refused("A26 in a header", whole[..600].to_vec()),
        refused("A26 in a file", whole[..1030].to_vec()),
        refused("A28 HTML", b"<!DOCTYPE html><html><body>404 Not Found</body></html>".repeat(20)),
        refused("A28 zip", [&b"PK\x03\x04\x14\0\0\0\x08\0"[..], &[7; 2000]].concat()),
        Case::new("A29 empty", Tar::new(), layer(&[])),
        refused("A29 one byte", vec![0]),
    ]
}

fn amounts() -> Vec<Case> {
    let deep = (1..=600).fold(Tar::new(), |tar, depth| tar.dir(&"d/".repeat(depth), 0o755));
    vec![
        Case::new("A29 600 deep", deep, layer(&[("d/d/d", "dir")])).like(Oracle::Same),
        Case::new(
            "A29 1500 deep at once",
            Tar::new().file(&"d/".repeat(1500).replace("d/d/d/d/d/d", "d/d"), b""),
            layer(&[("d", "dir")]),
        ),
        Case::new("A29 100000 deep", Tar::new().file(&"a/".repeat(100_000), b""), Outcome::Refused("at most")),
    ]
}
