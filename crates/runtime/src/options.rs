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

/// What was said about the attributes of the top mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// Anything.
    pub any: bool,
    /// When access times are written; words that only take another such word back do not count.
    pub times: bool,
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
    /// Whether any word said something about the top mount's attributes, and whether one chose its access times.
    pub said: Said,
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

    /// The change of a bind mount's top as mount(8) means its options: with none at all the attributes stay, else those that
    /// no word asks for go. `kept` are those of the source if the kernel keeps them for a user namespace: they stay, too.
    ///
    /// # Errors
    /// What is in the way of an explicit wish.
    pub fn of_bind(&self, kept: Option<Attr>) -> std::result::Result<Change, String> {
        let plain =
            Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
        let times = Attr::MOUNT_ATTR__ATIME | Attr::MOUNT_ATTR_NODIRATIME;
        if !self.said.any {
            return Ok(Change::NONE);
        }
        let mut wanted = Change { set: self.top.set & !times, clear: self.top.clear & !times };
        match kept {
            None => wanted.clear |= plain & !wanted.set,
            Some(kept) => {
                let lost = self.top.clear & plain & kept;
                if !lost.is_empty() {
                    return Err(format!("cannot clear locked flags {}", names(lost)));
                }
                if self.said.times && self.top.set & times != kept & times {
                    return Err(format!("cannot change locked atime flags {}", names(kept & times)));
                }
            }
        }
        wanted.clear |= Attr::MOUNT_ATTR_NOSYMFOLLOW & !wanted.set;
        if self.said.times && kept.is_none() {
            wanted.set |= self.top.set & times;
            wanted.clear |= Attr::MOUNT_ATTR__ATIME | (Attr::MOUNT_ATTR_NODIRATIME & !wanted.set);
        }
        Ok(wanted)
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
        said: Said::default(),
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
        options.said.any = true;
        options.said.times |= matches!(word, "noatime" | "nodiratime" | "relatime" | "strictatime");
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

/// Attributes in fstab's words.
fn names(attributes: Attr) -> String {
    let known = [
        (Attr::MOUNT_ATTR_RDONLY, "ro"),
        (Attr::MOUNT_ATTR_NOSUID, "nosuid"),
        (Attr::MOUNT_ATTR_NODEV, "nodev"),
        (Attr::MOUNT_ATTR_NOEXEC, "noexec"),
        (Attr::MOUNT_ATTR_NOATIME, "noatime"),
        (Attr::MOUNT_ATTR_STRICTATIME, "strictatime"),
        (Attr::MOUNT_ATTR_NODIRATIME, "nodiratime"),
    ];
    let set: Vec<&str> = known.iter().filter(|(flag, _)| attributes.contains(*flag)).map(|(_, name)| *name).collect();
    if set.is_empty() { "relatime".to_owned() } else { set.join(",") }
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
    fn binds_mean_what_mount_means() {
        let of = |words: &[&str], kept: Option<Attr>| {
            options("bind", words).unwrap().of_bind(kept).map(|change| (change.set, change.clear))
        };
        let (ro, nosuid, nodev, noexec) =
            (Attr::MOUNT_ATTR_RDONLY, Attr::MOUNT_ATTR_NOSUID, Attr::MOUNT_ATTR_NODEV, Attr::MOUNT_ATTR_NOEXEC);
        let nosymfollow = Attr::MOUNT_ATTR_NOSYMFOLLOW;
        assert_eq!(of(&["rbind", "rprivate"], None).unwrap(), (Attr::empty(), Attr::empty()));
        assert_eq!(of(&["ro", "nodev"], None).unwrap(), (ro | nodev, nosuid | noexec | nosymfollow));
        // A word that only takes back leaves the times.
        assert_eq!(of(&["atime"], None).unwrap(), (Attr::empty(), ro | nosuid | nodev | noexec | nosymfollow));
        let (set, clear) = of(&["nodiratime"], None).unwrap();
        assert_eq!(set, Attr::MOUNT_ATTR_NODIRATIME);
        assert!(clear.contains(Attr::MOUNT_ATTR__ATIME));
        // In a user namespace the source's stay, and only an explicit wish against them is refused.
        assert_eq!(of(&["nosuid"], Some(ro | nodev)).unwrap(), (nosuid, nosymfollow));
        assert_eq!(of(&["rw"], Some(ro)).unwrap_err(), "cannot clear locked flags ro");
        assert!(of(&["rw"], Some(nodev)).is_ok());
        assert!(of(&["strictatime"], Some(Attr::MOUNT_ATTR_NOATIME)).is_err());
        assert!(of(&["noatime"], Some(Attr::MOUNT_ATTR_NOATIME)).is_ok());
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
