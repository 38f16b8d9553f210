//! Where a container's cgroup is and who looks after it: what `linux.cgroupsPath` means.
//!
//! Owns: the reading of that path in both of its forms, and what a caller keeps to find the cgroup again. Must not: make or
//! remove anything.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::systemd::{self, Property};

/// Who makes and removes the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// This runtime, in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd, as a transient scope that is delegated to the container.
    Systemd,
}

/// A container's cgroup by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Place {
    /// Below each hierarchy's mount, without a leading slash: `brig/<id>`. Empty: the container has no cgroup of its own.
    pub(super) path: PathBuf,
    /// systemd's unit, if it is systemd's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<Unit>,
    /// Made without root's rights: hierarchies without permission are passed over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) rootless: bool,
    /// And nothing was said about where it is to be: then it may be missing, too.
    #[serde(skip)]
    pub(super) optional: bool,
    /// Limits that cannot be kept here are refused instead of dropped with a warning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) strict: bool,
}

/// A unit of systemd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `brig-rt-<id>.scope`.
    pub name: String,
    /// The slice that it is in: `system.slice`.
    pub slice: String,
    /// What else it is told at the start, from annotations.
    #[serde(skip)]
    pub(super) properties: Vec<Property>,
}

/// What a [`Place`] is worked out from.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// `linux.cgroupsPath`: a path or, for systemd, `slice:prefix:name`. Empty leaves the choice to the runtime.
    pub path: &'a str,
    /// What a relative path is relative to, and where the cgroup goes if there is no path.
    pub parent: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// Who looks after it.
    pub driver: Driver,
    /// The specification's; those that begin with `org.systemd.property.` are properties of systemd's unit.
    pub annotations: &'a BTreeMap<String, String>,
    /// The caller has not root's rights over cgroups.
    pub rootless: bool,
    /// Refuse limits that cannot be kept here instead of dropping them with a warning.
    pub strict: bool,
}

impl Place {
    /// `<parent>/<id>`, in the cgroup file system.
    ///
    /// # Errors
    /// Names that would leave the hierarchy.
    pub fn below(parent: &str, id: &str) -> Result<Place> {
        let mut path = plain(parent)?;
        path.push(check_name(id)?);
        Ok(Place { path, ..Place::default() })
    }

    /// What a specification and a command line ask for.
    ///
    /// # Errors
    /// A path of the other driver's form, or one that would leave the hierarchy.
    pub fn of(wish: &Wish<'_>) -> Result<Place> {
        let place = match wish.driver {
            Driver::Systemd => Place::unit(wish)?,
            Driver::Cgroupfs if wish.path.is_empty() => Place::below(wish.parent, wish.id)?,
            Driver::Cgroupfs => {
                let path = plain(wish.path)?;
                if path.as_os_str().is_empty() {
                    return Err(Error::invalid(format!(
                        "linux.cgroupsPath: {:?} names no cgroup; name one below the root of the hierarchy",
                        wish.path
                    )));
                }
                let path = if wish.path.starts_with('/') { path } else { plain(wish.parent)?.join(path) };
                Place { path, ..Place::default() }
            }
        };
        let optional = wish.rootless && wish.path.is_empty() && wish.driver == Driver::Cgroupfs;
        Ok(Place { rootless: wish.rootless, optional, strict: wish.strict, ..place })
    }

    fn unit(wish: &Wish<'_>) -> Result<Place> {
        let default = if wish.rootless { "user.slice" } else { "system.slice" };
        let parts: Vec<&str> = wish.path.split(':').collect();
        let (slice, prefix, name) = match parts.as_slice() {
            [""] => (default, "brig-rt", wish.id),
            [slice, prefix, name] => (if slice.is_empty() { default } else { *slice }, *prefix, *name),
            _ => {
                return Err(Error::invalid(format!(
                    "linux.cgroupsPath: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {:?} instead",
                    wish.path
                )));
            }
        };
        if name.ends_with(".slice") {
            return Err(Error::invalid(format!(
                "linux.cgroupsPath: {name:?} is a slice; a container is in a scope, which is in one"
            )));
        }
        let name = format!("{prefix}-{name}.scope");
        let usable = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.len() > 255 || !name.chars().all(usable) {
            return Err(Error::invalid(format!("linux.cgroupsPath: {name:?} cannot be the name of a systemd unit")));
        }
        let path = expand_slice(slice)?.join(check_name(&name)?);
        Ok(Place {
            path,
            unit: Some(Unit { name, slice: slice.to_owned(), properties: systemd::annotated(wish.annotations)? }),
            ..Place::default()
        })
    }

    /// The name below each hierarchy's mount: `brig/<id>`. Empty: the container has no cgroup of its own.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it may be elsewhere, or missing, because the caller may not make it there.
    pub(crate) fn is_optional(&self) -> bool {
        self.optional
    }

    /// Who looks after it.
    #[must_use]
    pub fn driver(&self) -> Driver {
        if self.unit.is_some() { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// systemd's unit, if it is systemd's.
    #[must_use]
    pub fn systemd_unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }
}

/// A path below the root of a hierarchy, made of names and nothing else.
fn plain(text: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(check_name(&name.to_string_lossy())?),
            Component::RootDir | Component::CurDir => {}
            _ => {
                return Err(Error::invalid(format!(
                    "cgroup path {text:?} must be a plain path below the root of the hierarchy"
                )));
            }
        }
    }
    Ok(path)
}

/// One name of a path; nothing that is special to the file system or to cgroups.
fn check_name(name: &str) -> Result<&str> {
    const RESERVED: [&str; 4] = ["tasks", "release_agent", "notify_on_release", "memory.events"];
    let special =
        name.is_empty() || name == "." || name == ".." || name.starts_with("cgroup.") || RESERVED.contains(&name);
    if special || name.len() > 255 || name.chars().any(|c| c == '/' || c.is_control()) {
        return Err(Error::invalid(format!("{name:?} cannot be the name of a cgroup")));
    }
    Ok(name)
}

/// systemd nests slices by their names: `a-b.slice` is `a.slice/a-b.slice`, and `-.slice` the root.
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let bad = || Error::invalid(format!("linux.cgroupsPath: invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(bad)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains(['/', '\0']) || part.chars().any(char::is_control) {
            return Err(bad());
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix = format!("{prefix}{part}-");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, driver: Driver, rootless: bool) -> Result<Place> {
        let annotations = BTreeMap::new();
        Place::of(&Wish {
            path,
            parent: "/brig-rt",
            id: "c1",
            driver,
            annotations: &annotations,
            rootless,
            strict: true,
        })
    }

    #[test]
    fn paths_of_the_file_system() {
        for (path, want) in [
            ("", "brig-rt/c1"),
            ("/a/b", "a/b"),
            ("a", "brig-rt/a"),
            ("a/b/", "brig-rt/a/b"),
            ("//a/./b//", "a/b"),
            ("a:b:c", "brig-rt/a:b:c"),
        ] {
            assert_eq!(place(path, Driver::Cgroupfs, false).unwrap().path(), Path::new(want), "{path:?}");
        }
        // O10
        for path in ["../..", "/a/../../b", "/", ".", "a/../b", "/a/cgroup.procs", "/a/tasks", "a\0b", "a\nb"] {
            let error = place(path, Driver::Cgroupfs, false).unwrap_err();
            assert_eq!(error.kind, super::super::ErrorKind::Invalid, "{path:?}");
        }
    }

    #[test]
    fn units_of_systemd() {
        for (path, rootless, want, slice) in [
            ("", false, "system.slice/brig-rt-c1.scope", "system.slice"),
            ("", true, "user.slice/brig-rt-c1.scope", "user.slice"),
            (":docker:x", false, "system.slice/docker-x.scope", "system.slice"),
            ("machine.slice:libpod:x", false, "machine.slice/libpod-x.scope", "machine.slice"),
            ("a-b-c.slice:p:x", false, "a.slice/a-b.slice/a-b-c.slice/p-x.scope", "a-b-c.slice"),
            ("-.slice:p:x", false, "p-x.scope", "-.slice"),
        ] {
            let place = place(path, Driver::Systemd, rootless).unwrap();
            assert_eq!(place.path(), Path::new(want), "{path:?}");
            assert_eq!(place.systemd_unit().unwrap().slice, slice);
            let text = serde_json::to_string(&place).unwrap();
            assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), place);
        }
        for path in [
            "a:b",
            "/a/b",
            "a:b:c:d",
            "system:p:x",
            ".slice:p:x",
            "-a.slice:p:x",
            "a--b.slice:p:x",
            "a/b.slice:p:x",
            "a.slice:p:x/y",
            "a.slice:p:x.slice",
            "a.slice:p:x y",
            "a.slice:p:..\n",
            "../a.slice:p:x",
        ] {
            let error = place(path, Driver::Systemd, false).unwrap_err();
            assert!(error.message.starts_with("linux.cgroupsPath: "), "{path:?}: {error}");
        }
    }
}
