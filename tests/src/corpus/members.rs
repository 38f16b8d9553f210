//! Cases about one member after another: names, links, kinds, attributes, whiteouts, order, ranges.
//! Owns these cases only.

use super::tar::{Entry, Tar, header};
use super::{Case, Oracle, Outcome};

/// The cases; `host` is what must not be reached.
pub(super) fn cases(host: &str) -> Vec<Case> {
    [names(), links(host), hard_links(host), kinds(), sparse(), attributes(), whiteouts(), order(), ranges()]
        .into_iter()
        .flatten()
        .collect()
}

fn layer(expected: &[(&'static str, &'static str)]) -> Outcome {
    Outcome::Layer(expected.to_vec())
}

fn entry(entry: Entry<'_>) -> Tar {
    Tar::new().entry(&entry)
}

fn names() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["/etc/x", "//etc/x", "./etc/x", "etc/./x", "etc//x", "a/../etc/x"] {
        let expected = layer(&[("etc", "dir 755 0:0"), ("etc/x", "file 0 "), ("a", "-")]);
        // GNU tar warns and leaves out members whose names have `..`.
        let oracle = if name.contains("..") { Oracle::None } else { Oracle::Tar };
        cases.push(Case::new(&format!("A01 {name}"), Tar::new().file(name, b""), expected).like(oracle));
    }
    for name in ["../brig-evil", "a/../../brig-evil", "..", "/..", "a/../..", "../../../../../../../../brig-evil"] {
        for (kind, tar) in [
            ("file", Tar::new().file(name, b"evil")),
            ("dir", Tar::new().dir(name, 0o777)),
            ("link", Tar::new().symlink(name, "/etc")),
            ("hard link", Tar::new().file("x", b"").link(name, "x")),
            ("device", Tar::new().device(name, b'3', (1, 3))),
        ] {
            cases.push(Case::new(&format!("A02 {kind} {name}"), tar, Outcome::Refused("root")));
        }
    }
    for name in [".", "./", "/"] {
        let root = Tar::new().dir(name, 0o711).file("x", b"");
        cases.push(Case::new(&format!("A03 {name}"), root, layer(&[("x", "file")])).like(Oracle::Tar));
        for (kind, tar) in [
            ("link", Tar::new().symlink(name, "/etc")),
            ("hard link", Tar::new().file("x", b"").link(name, "x")),
            ("file", Tar::new().file(name, b"evil")),
            ("pipe", Tar::new().device(name, b'6', (0, 0))),
        ] {
            cases.push(Case::new(&format!("A04 {kind} {name}"), tar, Outcome::Refused("root")));
        }
    }
    cases.push(Case::new("A04 nameless link", Tar::new().symlink("", "/etc"), Outcome::Refused("root")));
    let longest = "n".repeat(255);
    let refused = |name: &str, tar| Case::new(name, tar, Outcome::Refused("at most"));
    cases.push(Case::new("A18 255 bytes", Tar::new().file(&longest, b"x"), layer(&[])).like(Oracle::Same));
    cases.push(refused("A18 256 bytes", Tar::new().file(&format!("{longest}n"), b"x")));
    cases.push(refused("A18 path beyond PATH_MAX", Tar::new().file(&"x/".repeat(2100), b"")));
    let odd = [
        &b"caf\xe9"[..],
        b"new\nline",
        b"tab\t\x1b[31m",
        b"back\\slash",
        b"dot. ",
        b"A",
        b"a",
        b"e\xcc\x81",
        b"\xc3\xa9",
    ];
    let tar = odd.iter().fold(Tar::new(), |tar, name| tar.entry(&Entry { name, ..Entry::default() }));
    let expected = [("new\nline", "file"), ("back\\slash", "file"), ("dot. ", "file"), ("A", "file"), ("a", "file")];
    cases.push(Case::new("A18 odd bytes", tar, layer(&expected)).like(Oracle::Same));
    cases
}

fn links(host: &str) -> Vec<Case> {
    let up = "../../../../../../../../../../../..";
    let stored = Tar::new().symlink("abs", "/abs").symlink("up", up).symlink("nl", "a\nb");
    let expected = [("abs", "link \"/abs\""), ("up", "link \"../..")];
    let mut cases = vec![Case::new("A05 stored only", stored, layer(&expected)).like(Oracle::Same)];
    for (name, target) in [("host", host), ("up", up), ("root", "/"), ("proc", "/proc/self/root")] {
        let tar = Tar::new().symlink("l", target).file("l/canary", b"evil").dir("l/brig-evil-dir", 0o777);
        cases.push(Case::new(&format!("A06 through {name}"), tar, layer(&[("l", "link")])));
    }
    let chain = Tar::new().symlink("a", "b").symlink("b", "/c").symlink("c", "../../d").file("a/x", b"");
    let long = [&b"/"[..], &b"x/".repeat(2047)].concat();
    let target = |link: &[u8]| entry(Entry { name: b"e", link, kind: b'2', ..Entry::default() });
    let many = (0..60).fold(Tar::new(), |tar, at| tar.symlink(&format!("l{at}"), &format!("l{}", at + 1)));
    let deep = (0..4096).fold(Tar::new(), |tar, at| tar.symlink(&format!("l{at}"), &format!("l{}", at + 1)));
    let refused = Outcome::Refused;
    cases.extend([
        Case::new("A07 chain", chain, layer(&[("d/x", "file")])),
        Case::new("A07 loop", Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""), refused("")),
        Case::new("A07 itself", Tar::new().symlink("a", "a").file("a/x", b""), refused("")),
        Case::new("A07 sixty links", many.file("l0/x", b""), refused("")),
        Case::new("A07 4096 links", deep.file("l0/x", b""), refused("")),
        Case::new("A07 empty target", target(b""), refused("target")),
        Case::new("A07 target of 4095", target(&long), layer(&[("e", "link")])).like(Oracle::Same),
        Case::new("A07 target of 4096", target(&[&long[..], b"x"].concat()), refused("target")),
        Case::new(
            "A08 file",
            Tar::new().symlink("l", &format!("{host}/canary")).file("l", b"e"),
            layer(&[("l", "file 1")]),
        )
        .like(Oracle::Umoci),
        Case::new("A08 pipe", Tar::new().symlink("l", host).device("l", b'6', (0, 0)), layer(&[("l", "fifo")]))
            .like(Oracle::Umoci),
        Case::new(
            "A09 dir over link",
            Tar::new().symlink("l", host).dir("l", 0o700).file("l/x", b""),
            layer(&[("l/x", "file")]),
        ),
        Case::new(
            "A09 link over full dir",
            Tar::new().file("d/x", b"").symlink("d", host),
            layer(&[("d", "link"), ("d/x", "-")]),
        ),
        Case::new(
            "A09 file over full dir",
            Tar::new().file("d/x/y", b"").file("d", b"1"),
            layer(&[("d", "file 1"), ("d/x", "-")]),
        ),
        Case::new("A09 dir over file", Tar::new().file("d", b"1").dir("d", 0o750), layer(&[("d", "dir 750")]))
            .like(Oracle::Umoci),
        Case::new(
            "A09 dir over dir",
            Tar::new().dir("d", 0o700).file("d/x", b"").dir("d", 0o711),
            layer(&[("d", "dir 711"), ("d/x", "file")]),
        )
        .like(Oracle::Same),
    ]);
    cases
}

fn hard_links(host: &str) -> Vec<Case> {
    let refused = |name: &str, tar: Tar| Case::new(name, tar, Outcome::Refused(""));
    let canary = format!("{host}/canary");
    let kinds = Tar::new().device("null", b'3', (1, 3)).link("second", "null");
    let body = Entry { name: b"h", link: b"a", kind: b'1', ..Entry::default() };
    vec![
        Case::new(
            "A10 absolute target",
            Tar::new().file("bin/sh", b"x").link("sh", "/bin/sh"),
            layer(&[("sh", "file 1")]),
        ),
        refused("A11 up and out", Tar::new().link("x", "../../etc/shadow")),
        refused("A11 host", Tar::new().link("x", &canary)),
        refused("A11 through a link", Tar::new().symlink("o", host).link("x", "o/canary")),
        refused("A11 absent", Tar::new().link("x", "absent")),
        refused("A11 later", Tar::new().link("x", "later/y").dir("later", 0o755)),
        refused("A11 itself", Tar::new().link("x", "x")),
        refused("A11 itself, there", Tar::new().file("x", b"").link("x", "x")),
        refused("A11 directory", Tar::new().dir("d", 0o755).link("x", "d")),
        refused("A11 root", Tar::new().link("x", "/")),
        refused("A11 removed", Tar::new().whiteout("gone").link("x", "gone")),
        Case::new("A11 device", kinds, layer(&[("null", "node 103"), ("second", "node 103")])).like(Oracle::Same),
        Case::new(
            "A12 body",
            Tar::new().file("a", b"1").bytes(&header(&body, 512)).file("after", b""),
            layer(&[("after", "file"), ("h", "file 1 6b86b273 nlink 2")]),
        ),
        Case::new(
            "A12 replaced",
            Tar::new().file("a", b"1").link("b", "a").link("c", "./b").file("b", b"22"),
            layer(&[("a", "file 1 6b86b273 nlink 2"), ("b", "file 2"), ("c", "file 1")]),
        )
        .like(Oracle::Same),
    ]
}

fn kinds() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in *b"7DMVNXZA" {
        let tar = entry(Entry { name: b"x", kind, ..Entry::default() });
        cases.push(Case::new(&format!("A13 type {}", kind as char), tar, Outcome::Refused("unsupported")));
    }
    let devices = Tar::new().device("null", b'3', (1, 3)).device("sda", b'4', (8, 0)).device("p", b'6', (9, 9));
    let expected = [("null", "node 103 600"), ("sda", "node 800"), ("p", "fifo")];
    cases.push(Case::new("A13 devices", devices, layer(&expected)).like(Oracle::Same));
    let far = Tar::new().device("x", b'3', (0o777_7777, 1));
    cases.push(Case::new("A13 device number", far, Outcome::Refused("out of range")));
    let whiteout = Tar::new().device("w", b'3', (0, 0));
    cases.push(Case::new("A20 raw 0:0", whiteout, Outcome::Refused("whiteout")));
    cases
}

fn sparse() -> Vec<Case> {
    let file = |records: &[(&[u8], &[u8])], body: &[u8]| Tar::new().pax(records).file("GNUSparseFile.0/x", body);
    let mapped = |map: &[u8], body: &[u8]| {
        file(&[(b"GNU.sparse.size", b"10000"), (b"GNU.sparse.name", b"x"), (b"GNU.sparse.map", map)], body)
    };
    let refused = |name: &str, map: &[u8]| Case::new(name, mapped(map, b"abcde"), Outcome::Refused(""));
    let version1 = |size: &[u8], map: &[u8]| {
        let mut body = map.to_vec();
        body.resize(512, 0);
        body.extend_from_slice(b"data");
        let records: [(&[u8], &[u8]); 4] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"x"),
            (b"GNU.sparse.realsize", size),
        ];
        file(&records, &body)
    };
    vec![
        Case::new("A14 0.1", mapped(b"0,2,9000,3", b"abcde"), layer(&[("x", "file 10000 ")])),
        Case::new("A14 1.0", version1(b"1000000000", b"1\n0\n4\n"), layer(&[("x", "file 1000000000 ")])),
        refused("A14 overlapping", b"0,2,1,3"),
        refused("A14 unsorted", b"9000,3,0,2"),
        refused("A14 beyond the end", b"0,2,9998,3"),
        refused("A14 more than there is", b"0,2,9000,4"),
        refused("A14 odd", b"0,2,9000"),
        refused("A14 no number", b"0,x,1,1"),
        refused("A14 2^64", b"18446744073709551615,5"),
        Case::new("A14 8 EiB", version1(b"9223372036854775807", b"1\n0\n4\n"), Outcome::Refused("at most")),
        Case::new("A14 1 TiB and one", version1(b"1099511627777", b"1\n0\n4\n"), Outcome::Refused("at most")),
        Case::new("A14 endless count", version1(b"10", b"999999999\n"), Outcome::Refused("")),
    ]
}

fn attributes() -> Vec<Case> {
    let with = |key: &[u8], value: &[u8]| Tar::new().pax(&[(&[b"SCHILY.xattr.", key].concat()[..], value)]);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let rooted = [&[1, 0, 0, 3][..], &capability[4..], &[0xe8, 3, 0, 0]].concat();
    let plain = layer(&[("x", "file 0 e3b0c442 nlink 1 644 0:0 1600000000.000000000")]);
    let kept = || {
        layer(&[("x", "file 0 e3b0c442 nlink 1 644 0:0 1600000000.000000000 security.capability=\\x01\\x00\\x00\\x02")])
    };
    let mut cases = vec![
        Case::new("A19 capability", with(b"security.capability", &capability).file("x", b""), kept()),
        Case::new("A19 capability of a namespace", with(b"security.capability", &rooted).file("x", b""), kept()),
        Case::new(
            "A19 broken capability",
            with(b"security.capability", b"junk").file("x", b""),
            Outcome::Refused("security.capability"),
        ),
        Case::new("A19 value beyond 64 KiB", with(b"user.x", &[0; 65_537]).file("x", b""), Outcome::Refused("")),
        Case::new(
            "A19 name of 256",
            with(&[&b"user."[..], &[b'x'; 256]].concat(), b"").file("x", b""),
            Outcome::Refused(""),
        ),
        Case::new("A19 on a link", with(b"user.note", b"x").symlink("l", "x"), layer(&[("l", "link")])),
        Case::new("A19 on a device", with(b"user.note", b"x").device("n", b'3', (1, 3)), layer(&[("n", "node")])),
        Case::new("A19 user's", with(b"user.note", b"a=b").file("x", b""), layer(&[("x", "file")])).like(Oracle::Umoci),
    ];
    cases.push(Case::new("A19 selinux", with(b"security.selinux", b"x").file("x", b""), plain));
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.overlay.opaque",
        "trusted.x",
    ] {
        let tar = with(name.as_bytes(), b"y").dir("d", 0o755);
        let expected = layer(&[("d", "dir 755 0:0 1600000000.000000000"), ("x", "-")]);
        cases.push(Case::new(&format!("A19 {name}"), tar, expected));
    }
    cases
}

fn whiteouts() -> Vec<Case> {
    let refused =
        |name: &str| Case::new(&format!("A20 {name}"), Tar::new().file(name, b""), Outcome::Refused("whiteout"));
    let mut cases: Vec<Case> =
        [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", ".wh./x", ".wh.x/y", "d/.wh.../x"].map(refused).into();
    let hidden = layer(&[("x", "node 0"), (".wh.x", "-")]);
    let opaque = Tar::new().file("d/a", b"").file("d/.wh..wh..opq", b"").file("d/b", b"");
    let same = Tar::new().file("d/a", b"").file("d/b", b"").whiteout("d/a").file("d/c", b"");
    let many = |count: usize| (0..count).fold(Tar::new(), |tar, _| tar.file("d/.wh..wh..opq", b""));
    let aufs =
        Tar::new().dir(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", b"").file(".wh..wh.aufs", b"").file("x", b"");
    cases.extend([
        Case::new("A20 plain", Tar::new().whiteout("x"), hidden),
        Case::new("A20 by a dir", Tar::new().dir(".wh.x", 0o755), layer(&[("x", "node 0")])),
        Case::new("A20 by a link", Tar::new().symlink(".wh.x", "/etc"), layer(&[("x", "node 0")])),
        Case::new("A20 opaque between", opaque, layer(&[("d/a", "file"), ("d/b", "file"), ("d/.wh..wh..opq", "-")])),
        Case::new("A20 of its own", same, layer(&[("d/a", "file"), ("d/c", "file")])),
        Case::new("A20 two thousand opaque", many(2_000), layer(&[("d", "dir")])),
        Case::new("A20 aufs", aufs, layer(&[("x", "file"), (".wh..wh.plnk", "-"), (".wh..wh.aufs", "-")])),
        Case::new(
            "A20 under a link",
            Tar::new().symlink("l", "d").file("l/.wh.x", b""),
            layer(&[("d/x", "node 0"), ("l", "link")]),
        ),
    ]);
    cases
}

fn order() -> Vec<Case> {
    let many = (0..2_000).fold(Tar::new(), |tar, _| tar.file("same", b"x"));
    vec![
        Case::new("A21 twice", Tar::new().file("x", b"1").file("x", b"22"), layer(&[("x", "file 2")]))
            .like(Oracle::Same),
        Case::new(
            "A21 file, dir, file",
            Tar::new().file("x", b"1").dir("x", 0o755).file("x/a", b"").file("x", b"3"),
            layer(&[("x", "file 1"), ("x/a", "-")]),
        ),
        Case::new("A21 two thousand times", many, layer(&[("same", "file 1")])).like(Oracle::Same),
        Case::new(
            "A22 no parent",
            Tar::new().file("a/b/c", b""),
            layer(&[("a", "dir 755 0:0"), ("a/b", "dir 755 0:0")]),
        ),
        Case::new(
            "A22 parent after",
            Tar::new().file("a/b", b"").dir("a", 0o700),
            layer(&[("a", "dir 700 0:0 1600000000."), ("a/b", "file")]),
        )
        .like(Oracle::Same),
        Case::new(
            "A22 parent without rights",
            Tar::new().dir("a", 0).file("a/b", b"x").dir("a/c", 0).file("a/c/d", b""),
            layer(&[("a", "dir 0 0:0 1600000000."), ("a/b", "file 1"), ("a/c/d", "file")]),
        )
        .like(Oracle::Same),
    ]
}

fn ranges() -> Vec<Case> {
    let with = |mode, owner| entry(Entry { name: b"x", mode, owner, ..Entry::default() });
    let pax = |key: &[u8], value: &[u8]| Tar::new().pax(&[(key, value)]).file("x", b"");
    let file = |text: &'static str| layer(&[("x", text)]);
    let mut cases = vec![
        Case::new("A23 07777", with(0o7777, (1, 2)), file("file 0 e3b0c442 nlink 1 7777 1:2")).like(Oracle::Same),
        Case::new("A23 type bits", with(0o104_755, (0, 0)), file("file 0 e3b0c442 nlink 1 4755 0:0"))
            .like(Oracle::Same),
        Case::new(
            "A23 highest ids",
            with(0o644, (70_000, u32::MAX - 1)),
            file("file 0 e3b0c442 nlink 1 644 70000:4294967294"),
        )
        .like(Oracle::Same),
        Case::new("A23 user 2^32-1", with(0o644, (u32::MAX, 0)), Outcome::Refused("")),
        Case::new("A23 group 2^32-1", with(0o644, (0, u32::MAX)), Outcome::Refused("")),
        Case::new("A23 only names", pax(b"uname", b"daemon"), file("file 0 e3b0c442 nlink 1 644 0:0")),
        Case::new("A24 fraction", pax(b"mtime", b"1.9999999999"), file("file 0 e3b0c442 nlink 1 644 0:0 1.999999999"))
            .like(Oracle::Tar),
        Case::new("A24 negative", pax(b"mtime", b"-1.5"), file("file 0 e3b0c442 nlink 1 644 0:0 -2.500000000"))
            .like(Oracle::Tar),
        Case::new("A24 NaN", pax(b"mtime", b"NaN"), Outcome::Refused("")),
    ];
    for id in ["4294967296", "9223372036854775807", "-1", "1x", "+1", " 1"] {
        cases.push(Case::new(&format!("A23 uid {id:?}"), pax(b"uid", id.as_bytes()), Outcome::Refused("")));
        cases.push(Case::new(&format!("A23 gid {id:?}"), pax(b"gid", id.as_bytes()), Outcome::Refused("")));
    }
    for far in ["253402300800", "9223372036854775807", "-9223372036854775807"] {
        cases.push(Case::new(&format!("A24 {far}"), pax(b"mtime", far.as_bytes()), file("file")));
    }
    cases
}
