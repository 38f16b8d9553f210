//! Mount options of the specification, in fstab's words, taken apart into what the kernel's mount calls need.
//! Owns the words. Must not mount anything.

use brig_oci::runtime::Mount;
use brig_sys::mount::{Attr, Propagation};

use crate::error::{Error, Result};

/// A change of mount attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// To set.
    pub set: Attr,
    /// To clear.
    pub clear: Attr,
}

impl Change {
    const NONE: Change = Change { set: Attr::empty(), clear: Attr::empty() };

    /// Nothing to do.
    pub fn is_none(self) -> bool {
        self == Change::NONE
    }

    fn set(&mut self, attribute: Attr) {
        self.set |= attribute;
        self.clear &= !attribute;
    }

    fn clear(&mut self, attribute: Attr) {
        self.set &= !attribute;
        self.clear |= attribute;
    }

    /// Access time modes are one field: choosing one clears the field first.
    fn atime(&mut self, mode: Attr) {
        let field = Attr::MOUNT_ATTR_NOATIME | Attr::MOUNT_ATTR_STRICTATIME;
        self.set = (self.set & !field) | mode;
        self.clear |= Attr::MOUNT_ATTR__ATIME;
    }
}

/// How a bind mount's owners are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idmap {
    /// The top mount only.
    Top,
    /// It and all beneath.
    Recursive,
}

/// The options of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// It is a bind mount: with the mounts beneath, or not.
    pub bind: Option<bool>,
    /// Of the top mount.
    pub top: Change,
    /// Of the top mount and all beneath.
    pub recursive: Change,
    /// Propagation and whether it holds for all beneath too.
    pub propagation: Option<(Propagation, bool)>,
    /// Mapping of owners.
    pub idmap: Option<Idmap>,
    /// Copy what the directory holds into the new tmpfs.
    pub copy_up: bool,
    /// For the file system: a flag, or a key and its value.
    pub data: Vec<(String, Option<String>)>,
}

/// The words that are understood whatever is mounted, sorted; file systems have more.
pub const KNOWN: [&str; 62] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

impl Options {
    /// The attributes of a file system that is made for the container: nothing is beneath it yet.
    pub fn all_set(&self) -> Attr {
        (self.top.set & !self.recursive.clear) | self.recursive.set
    }

    /// Whether it is to be read-only.
    pub fn read_only(&self) -> bool {
        self.all_set().contains(Attr::MOUNT_ATTR_RDONLY)
    }

    /// Whether the file system is given this option.
    pub fn has_data(&self, key: &str) -> bool {
        self.data.iter().any(|(known, _)| known == key)
    }
}

/// Takes the options of a mount apart. Of contradicting words the last counts, as in fstab.
///
/// # Errors
/// Words that a bind mount cannot have.
pub(crate) fn parse(mount: &Mount) -> Result<Options> {
    let mut options = Options {
        bind: (mount.type_ == "bind").then_some(false),
        top: Change::NONE,
        recursive: Change::NONE,
        propagation: None,
        idmap: None,
        copy_up: false,
        data: Vec::new(),
    };
    for word in &mount.options {
        if !common(&mut options, word) {
            options.data.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            });
        }
    }
    if mount.type_ == "none" || mount.type_.is_empty() {
        options.bind.get_or_insert(false);
    }
    let place = mount.destination.display();
    if options.bind.is_some() {
        if let Some((word, _)) = options.data.first() {
            return Err(Error::invalid(format!("mounts: {place}: a bind mount has no option {word:?}")));
        }
        if options.copy_up {
            return Err(Error::invalid(format!("mounts: {place}: tmpcopyup is for tmpfs, not for a bind mount")));
        }
    } else if options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::invalid(format!(
            "mounts: {place}: id mappings are for bind mounts, not for type {:?}",
            mount.type_
        )));
    }
    if options.copy_up && mount.type_ != "tmpfs" {
        return Err(Error::invalid(format!("mounts: {place}: tmpcopyup is for tmpfs, not for type {:?}", mount.type_)));
    }
    Ok(options)
}

/// Handles a word that every file system knows; false for any other.
fn common(options: &mut Options, word: &str) -> bool {
    match word {
        "bind" => options.bind = Some(options.bind.unwrap_or(false)),
        "rbind" => options.bind = Some(true),
        "defaults" | "async" | "loud" | "silent" | "nomand" | "iversion" | "noiversion" | "nolazytime" | "remount" => {}
        "tmpcopyup" => options.copy_up = true,
        "idmap" => options.idmap = Some(Idmap::Top),
        "ridmap" => options.idmap = Some(Idmap::Recursive),
        "sync" | "dirsync" | "lazytime" | "mand" if options.bind.is_some() => {}
        _ => return propagation(options, word) || attribute(options, word),
    }
    true
}

fn propagation(options: &mut Options, word: &str) -> bool {
    let (name, recursive) = match word.strip_prefix('r') {
        Some(name) if parse_propagation(name).is_some() => (name, true),
        _ => (word, false),
    };
    let Some(propagation) = parse_propagation(name) else { return false };
    options.propagation = Some((propagation, recursive));
    true
}

/// A propagation by its word without the leading `r`.
pub(crate) fn parse_propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "shared" => Propagation::Shared,
        "slave" => Propagation::Slave,
        "private" => Propagation::Private,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    })
}

fn attribute(options: &mut Options, word: &str) -> bool {
    // A word with an r in front changes all mounts beneath too; "ro", "rw" and "relatime" are themselves.
    if change(&mut options.top, word) {
        return true;
    }
    word.strip_prefix('r').is_some_and(|word| change(&mut options.recursive, word))
}

fn change(change: &mut Change, word: &str) -> bool {
    match word {
        "ro" => change.set(Attr::MOUNT_ATTR_RDONLY),
        "rw" => change.clear(Attr::MOUNT_ATTR_RDONLY),
        "nosuid" => change.set(Attr::MOUNT_ATTR_NOSUID),
        "suid" => change.clear(Attr::MOUNT_ATTR_NOSUID),
        "nodev" => change.set(Attr::MOUNT_ATTR_NODEV),
        "dev" => change.clear(Attr::MOUNT_ATTR_NODEV),
        "noexec" => change.set(Attr::MOUNT_ATTR_NOEXEC),
        "exec" => change.clear(Attr::MOUNT_ATTR_NOEXEC),
        "nodiratime" => change.set(Attr::MOUNT_ATTR_NODIRATIME),
        "diratime" => change.clear(Attr::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => change.set(Attr::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => change.clear(Attr::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => change.atime(Attr::MOUNT_ATTR_NOATIME),
        "strictatime" => change.atime(Attr::MOUNT_ATTR_STRICTATIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => change.atime(Attr::MOUNT_ATTR_RELATIME),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(type_: &str, words: &[&str]) -> Result<Options> {
        parse(&Mount {
            destination: "/x".into(),
            type_: type_.into(),
            options: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Mount::default()
        })
    }

    #[test]
    fn tells_top_from_recursive() {
        let options = options("bind", &["rbind", "ro", "rnosuid", "rslave", "relatime", "rnoatime"]).unwrap();
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.propagation, Some((Propagation::Slave, true)));
        assert_eq!(options.top.set, Attr::MOUNT_ATTR_RDONLY);
        assert_eq!(options.top.clear, Attr::MOUNT_ATTR__ATIME);
        assert_eq!(options.recursive.set, Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOATIME);
    }

    #[test]
    fn last_word_counts() {
        let options = options("tmpfs", &["ro", "rw", "noatime", "strictatime", "size=5", "x"]).unwrap();
        assert_eq!(options.top.set, Attr::MOUNT_ATTR_STRICTATIME);
        assert_eq!(options.top.clear, Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR__ATIME);
        assert_eq!(options.data, [("size".to_owned(), Some("5".to_owned())), ("x".to_owned(), None)]);
    }

    #[test]
    fn knows_what_it_says_it_knows() {
        assert!(KNOWN.is_sorted());
        for word in KNOWN.into_iter().filter(|word| *word != "tmpcopyup") {
            options("bind", &[word]).unwrap();
        }
        options("tmpfs", &["tmpcopyup"]).unwrap();
    }

    #[test]
    fn refuses_contradictions() {
        for (type_, words) in [
            ("bind", &["size=5"][..]),
            ("", &["bogus"]),
            ("tmpfs", &["idmap"]),
            ("bind", &["tmpcopyup"]),
            ("proc", &["tmpcopyup"]),
        ] {
            assert!(options(type_, words).is_err(), "{type_} {words:?}");
        }
    }
}
