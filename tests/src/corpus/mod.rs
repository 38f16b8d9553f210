//! Hostile archives and what must become of each, as one table for every entrance there is: the store, pull, load, import,
//! a registry's upload.
//! Owns the table and the canary; how an archive gets to an entrance is the business of the tests that go through it.
//!
//! The numbers are families: names (A01–A04), links (A05–A12), kinds, sparse files, extension headers (A13–A18), attributes
//! and whiteouts (A19, A20), order, ranges, framing (A21–A28, how it is packed apart, in [`streams`]), amounts (A29), and `B` what containerd's TestBreakouts tries.

mod breakouts;
mod framing;
pub mod images;
pub mod liar;
mod members;
pub mod ship;
mod streams;
pub mod tar;

pub use streams::{Stream, streams};

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An archive and what must become of it.
pub struct Case {
    /// Family and what it tries, in one word each: `A06 file-through-link`.
    pub name: String,
    /// The archive, not compressed.
    pub tar: Vec<u8>,
    /// What is right.
    pub outcome: Outcome,
    /// Whether other unpackers are expected to make the same of it.
    pub oracle: Oracle,
}

/// What must become of an archive.
pub enum Outcome {
    /// It is a layer in which these are, by path; the text is the beginning of what [`listing`] says of it, or `-` for what
    /// must not be there. Nothing is outside of the layer.
    Layer(Vec<(&'static str, &'static str)>),
    /// It is refused and the error has these words; nothing is left.
    Refused(&'static str),
}

/// How other unpackers compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oracle {
    /// GNU tar in a chroot and umoci make the same tree of it.
    Same,
    /// Only GNU tar does: the other one refuses it or differs.
    Tar,
    /// Only umoci does: GNU tar makes links that lead out at the very end, and does not know attributes of layers.
    Umoci,
    /// They differ, or would do harm.
    None,
}

impl Case {
    fn new(name: &str, tar: tar::Tar, outcome: Outcome) -> Case {
        Case::raw(name, tar.finish(), outcome)
    }

    fn raw(name: &str, tar: Vec<u8>, outcome: Outcome) -> Case {
        Case { name: name.to_owned(), tar, outcome, oracle: Oracle::None }
    }

    fn like(mut self, oracle: Oracle) -> Case {
        self.oracle = oracle;
        self
    }
}

/// Every case; those that want to do harm aim at `host`, the absolute path of a canary's directory.
pub fn all(host: &str) -> Vec<Case> {
    [breakouts::cases(host), members::cases(host), framing::cases()].into_iter().flatten().collect()
}

/// How an archive travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dress {
    /// As it is.
    Plain,
    /// gzip, one member.
    Gzip,
    /// Zstandard, one frame.
    Zstd,
}

impl Dress {
    /// All of them.
    pub const ALL: [Dress; 3] = [Dress::Plain, Dress::Gzip, Dress::Zstd];

    /// The archive in it.
    pub fn on(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Dress::Plain => tar.to_vec(),
            Dress::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).and_then(|()| encoder.finish()).expect("memory can be compressed into")
            }
            Dress::Zstd => zstd::encode_all(tar, 1).expect("memory can be compressed into"),
        }
    }

    /// The media type of such a layer.
    pub fn media_type(self) -> String {
        let suffix = match self {
            Dress::Plain => "",
            Dress::Gzip => "+gzip",
            Dress::Zstd => "+zstd",
        };
        format!("application/vnd.oci.image.layer.v1.tar{suffix}")
    }
}

/// A directory on the host that nothing may touch.
pub struct Canary {
    directory: PathBuf,
}

impl Canary {
    /// In `parent`, as `host`.
    pub fn beneath(parent: &Path) -> Canary {
        let directory = parent.join("host");
        std::fs::create_dir(&directory).expect("the canary's directory can be made");
        std::fs::write(directory.join("canary"), b"alive").expect("the canary can be written");
        Canary { directory }
    }

    /// The directory's absolute path.
    pub fn host(&self) -> &str {
        self.directory.to_str().expect("the path is text")
    }

    /// Nothing was changed, added or linked, and nothing that the cases name is on the machine.
    #[track_caller]
    pub fn check(&self, case: &str) {
        let canary = self.directory.join("canary");
        let metadata = canary.symlink_metadata().unwrap_or_else(|error| panic!("{case}: the canary: {error}"));
        let seen = (metadata.nlink(), metadata.mode(), metadata.uid(), metadata.len());
        assert_eq!(seen, (1, 0o100_644, 0, 5), "{case}: the canary");
        assert_eq!(std::fs::read(&canary).expect("the canary can be read"), b"alive", "{case}");
        assert_eq!(std::fs::read_dir(&self.directory).expect("it is there").count(), 1, "{case}: beside the canary");
        for outside in ["/brig-evil", "/tmp/brig-evil", "/etc/brig-evil", "/brig-evil-dir"] {
            assert!(Path::new(outside).symlink_metadata().is_err(), "{case}: {outside} is there");
        }
    }
}

/// Everything beneath a directory, by path, as text that says all that matters about it: type, content, links, mode, owner,
/// time; extended attributes.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().expect("what was listed is there");
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory can be read");
            todo.extend(entries.map(|entry| entry.expect("a directory can be read").path()));
        }
        if path != root {
            let name = path.strip_prefix(root).expect("it is beneath").to_string_lossy().into_owned();
            let attributes = attributes(&path);
            let rest = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), metadata.mtime());
            let text = format!(
                "{} {:o} {}:{} {}.{:09}{attributes}",
                what(&path, &metadata),
                rest.0,
                rest.1,
                rest.2,
                rest.3,
                metadata.mtime_nsec()
            );
            found.insert(name, text);
        }
    }
    found
}

fn what(path: &Path, metadata: &std::fs::Metadata) -> String {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("link {:?}", std::fs::read_link(path).expect("a link can be read"))
    } else if kind.is_file() && metadata.len() < 1 << 20 {
        let content = std::fs::read(path).expect("a file can be read");
        format!("file {} {} nlink {}", content.len(), &crate::image::digest(&content)[7..15], metadata.nlink())
    } else if kind.is_file() {
        format!("file {} nlink {}", metadata.len(), metadata.nlink())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        format!("node {:x}", metadata.rdev())
    }
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0u8; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut shown: Vec<String> = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 65_536];
        let name = String::from_utf8_lossy(name).into_owned();
        let length = rustix::fs::lgetxattr(path, &name, &mut value[..]).unwrap_or(0);
        shown.push(format!(" {name}={}", value[..length].escape_ascii()));
    }
    shown.sort();
    shown.concat()
}

/// Whether a layer's listing is what the case says.
#[track_caller]
pub fn check_layer(case: &str, expected: &[(&str, &str)], found: &BTreeMap<String, String>) {
    for (path, text) in expected {
        match (found.get(*path), *text) {
            (None, "-") => {}
            (Some(there), text) if text != "-" && there.starts_with(text) => {}
            (there, text) => panic!("{case}: {path:?} is {there:?}, not {text:?}; all: {found:#?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// docs/hostile-inputs.md: every test that it names is there, and so is each family of archives.
    #[test]
    fn the_page_names_tests_that_there_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join("docs/hostile-inputs.md")).expect("the page is there");
        let (mut named, mut wrong) = (0, Vec::new());
        for word in page.split('`').skip(1).step_by(2).filter(|word| word.contains(".rs")) {
            let (file, test) = word.split_once(':').unwrap_or((word, ""));
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            if text.is_empty() || (!test.is_empty() && !text.contains(&format!("fn {test}("))) {
                wrong.push(word);
            }
            named += 1;
        }
        assert!(wrong.is_empty() && named > 50, "{named}: {wrong:#?}");
        let mut names: Vec<String> = super::all("/nowhere").into_iter().map(|case| case.name).collect();
        names.extend(super::streams().into_iter().map(|stream| stream.name.to_owned()));
        for family in (1..=29).filter(|number| *number != 26) {
            let family = format!("A{family:02} ");
            assert!(names.iter().any(|name| name.starts_with(&family)), "no case of {family}");
        }
    }
}
