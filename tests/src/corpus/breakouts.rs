//! What containerd's `TestBreakouts` tries, with our outcome for each: as there, links are resolved inside of the root.
//! Owns these cases only.

use super::tar::Tar;
use super::{Case, Oracle, Outcome};

/// The cases; `host` is what must not be reached.
pub(super) fn cases(host: &str) -> Vec<Case> {
    [links(host), hard_links(host), replaced(), whiteouts(host)].into_iter().flatten().collect()
}

fn layer(expected: &[(&'static str, &'static str)]) -> Outcome {
    Outcome::Layer(expected.to_vec())
}

fn links(host: &str) -> Vec<Case> {
    let up = format!("../../../../../../../../../../..{host}");
    let through = || layer(&[("l", "link"), ("canary", "-")]);
    vec![
        Case::new("B SymlinkAbsolute", Tar::new().symlink("l", host).file("l/canary", b"evil"), through()),
        Case::new("B SymlinkUpAndOut", Tar::new().symlink("l", &up).file("l/canary", b"evil"), through()),
        Case::new(
            "B SymlinkMultipleAbsolute",
            Tar::new().symlink("a", host).symlink("l", "/a").file("l/canary", b"evil"),
            through(),
        ),
        Case::new(
            "B SymlinkMultipleRelative",
            Tar::new().dir("d", 0o755).symlink("d/a", &up).symlink("l", "d/a").file("l/canary", b"evil"),
            through(),
        ),
        Case::new(
            "B SymlinkEmptyFile",
            Tar::new().symlink("l", &format!("{host}/canary")).file("l", b""),
            layer(&[("l", "file 0 ")]),
        )
        .like(Oracle::Umoci),
        Case::new("B SymlinkEmptyFilename", Tar::new().symlink("", "target"), Outcome::Refused("root")),
        Case::new(
            "B SymlinkParentDirectory",
            Tar::new().dir("d/in", 0o755).symlink("d/in/l", "..").file("d/in/l/x", b"x"),
            layer(&[("d/x", "file 1 "), ("d/in/l", "link \"..\"")]),
        ),
        Case::new(
            "B SymlinkParentRelative",
            Tar::new().symlink("l", "../brig-evil-dir").file("l/x", b"x"),
            layer(&[("brig-evil-dir/x", "file 1 ")]),
        ),
        Case::new(
            "B SymlinkSlashEnded",
            Tar::new().dir("d", 0o755).symlink("l", "d/").file("l/x", b"x"),
            layer(&[("d/x", "file 1 "), ("l", "link \"d/\"")]),
        ),
        Case::new(
            "B SymlinkOverridePath",
            Tar::new()
                .dir("d/in", 0o755)
                .symlink("l", "d")
                .file("l/in/x", b"x")
                .symlink("l", "/other")
                .file("l/y", b""),
            layer(&[("d/in/x", "file"), ("other/y", "file")]),
        ),
    ]
}

fn hard_links(host: &str) -> Vec<Case> {
    let canary = format!("{host}/canary");
    let up = format!("../../../../../../../../../../..{canary}");
    let nowhere = |name: &str, tar: Tar| Case::new(name, tar, Outcome::Refused(""));
    let same = || layer(&[("real", "file 4 "), ("h", "file 4 ")]);
    vec![
        nowhere("B HardlinkRelativeUpAndOut", Tar::new().dir("d", 0o755).link("d/h", &up)),
        nowhere("B HardlinkDownAndOut", Tar::new().dir("d/in", 0o755).link("d/in/h", "d/../../../canary")),
        nowhere("B HardlinkAbsolute", Tar::new().link("h", &canary)),
        nowhere("B HardlinkRelative", Tar::new().symlink("l", host).link("h", "l/canary")),
        nowhere("B HardlinkRelativeLong", Tar::new().symlink("l", host).link("h", "d/../l/../l/canary")),
        Case::new(
            "B HardlinkDirectRelative",
            Tar::new().file("real", b"data").symlink("l", "real").link("h", "l"),
            layer(&[("h", "link \"real\"")]),
        )
        .like(Oracle::Same),
        Case::new(
            "B HardlinkDirectAbsolute",
            Tar::new().file("real", b"data").symlink("l", "/real").link("h", "/l"),
            layer(&[("h", "link \"/real\"")]),
        ),
        Case::new(
            "B HardlinkSymlinkRelative",
            Tar::new().dir("d", 0o755).file("d/real", b"data").symlink("l", "d").link("h", "l/real"),
            layer(&[("h", "file 4 "), ("d/real", "file 4 ")]),
        ),
        Case::new(
            "B HardlinkSymlinkAbsolute",
            Tar::new().dir("d", 0o755).file("d/real", b"data").symlink("l", "/d").link("h", "/l/real"),
            layer(&[("h", "file 4 "), ("d/real", "file 4 ")]),
        ),
        Case::new(
            "B HardlinkSymlinkBeforeCreateTarget",
            Tar::new().symlink("l", &canary).link("h", "l").file("h", b"evil"),
            layer(&[("h", "file 4 "), ("l", "link")]),
        )
        .like(Oracle::Umoci),
        Case::new(
            "B HardlinkSymlinkChmod",
            Tar::new().symlink("l", &canary).link("h", "l").link("h", "l"),
            layer(&[("h", "link"), ("l", "link")]),
        ),
        Case::new("B HardlinkInOrder", Tar::new().file("real", b"data").link("h", "real"), same()).like(Oracle::Same),
    ]
}

fn replaced() -> Vec<Case> {
    vec![
        Case::new(
            "B SymlinkOverrideDirectory",
            Tar::new().dir("d", 0o755).file("d/x", b"").symlink("d", "/other"),
            layer(&[("d", "link \"/other\""), ("d/x", "-")]),
        ),
        Case::new(
            "B SymlinkOverrideDirectoryRelative",
            Tar::new().dir("d", 0o755).file("d/x", b"").symlink("d", "../other").file("d/y", b""),
            layer(&[("d", "link \"../other\""), ("other/y", "file")]),
        ),
        Case::new(
            "B DirectoryOverrideSymlink",
            Tar::new().symlink("d", "other").dir("d", 0o711).file("d/x", b""),
            layer(&[("d", "dir 711"), ("d/x", "file"), ("other", "-")]),
        ),
        Case::new(
            "B DirectoryOverrideSymlinkAndHardlink",
            Tar::new().file("real", b"r").symlink("d", "/").link("h", "d").dir("d", 0o700).file("d/real", b"new"),
            layer(&[("d", "dir 700"), ("h", "link \"/\""), ("real", "file 1 "), ("d/real", "file 3 ")]),
        ),
    ]
}

fn whiteouts(host: &str) -> Vec<Case> {
    let refused =
        |name: &str, member: &str| Case::new(name, Tar::new().file(member, b""), Outcome::Refused("whiteout"));
    vec![
        refused("B WhiteoutRootParent", "/.wh..."),
        refused("B WhiteoutParent", "d/.wh..."),
        refused("B WhiteoutRoot", ".wh."),
        refused("B WhiteoutCurrentDirectory", "d/.wh.."),
        Case::new("B WhiteoutSymlink", Tar::new().symlink("l", host).whiteout("l"), layer(&[("l", "link")])),
        Case::new(
            "B WhiteoutSymlinkPath",
            Tar::new().symlink("l", host).file("l/.wh.canary", b""),
            layer(&[("l", "link")]),
        ),
        Case::new("B WhiteoutDirectoryName", Tar::new().dir(".wh.d", 0o755), layer(&[("d", "node 0"), (".wh.d", "-")])),
        Case::new(
            "B WhiteoutDeadSymlinkParent",
            Tar::new().symlink("l", "/gone/for/good").file("l/.wh.x", b""),
            layer(&[("l", "link"), ("gone/for/good/x", "node 0")]),
        ),
        Case::new(
            "B WhiteoutRelativePath",
            Tar::new().file("d/../../.wh.x", b""),
            Outcome::Refused("leads out of the root"),
        ),
    ]
}
