//! Cgroups below a container's own, which its processes made: another process is put into one by `exec --cgroup`.
//! Owns which of them are meant. Must not lead out of the container's cgroup, nor make anything.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::error::{Error, ErrorKind, Result};
use super::{Cgroup, Hierarchy};

/// What a process needs to come into a container's cgroups.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// A directory for `CLONE_INTO_CGROUP`.
    pub directory: Option<OwnedFd>,
    /// Files that a single-threaded process writes `0` to.
    pub files: Vec<OwnedFd>,
    /// It was chosen by the caller: none other will do.
    pub chosen: bool,
}

impl Cgroup {
    /// The way into this cgroup, or for the given controllers (an empty name means all) into one below it.
    ///
    /// # Errors
    /// A path that leads elsewhere, a controller that there is not, a cgroup that does not exist.
    pub(crate) fn entrance(&self, below: &[(String, String)]) -> Result<Entrance> {
        if below.is_empty() {
            return Ok(Entrance { directory: self.fd_for_clone(), files: self.join_files()?, chosen: false });
        }
        for (controller, path) in below {
            check(controller, path)?;
            if !controller.is_empty() && self.layout.hierarchy(controller).is_none() {
                return Err(invalid(format!("unknown controller {controller} in --cgroup")));
            }
        }
        let path_of = |mount: &Path, controllers: &[String]| -> PathBuf {
            let meant = |(name, _): &&(String, String)| name.is_empty() || controllers.contains(name);
            let own = mount.join(&self.place.path);
            below.iter().find(meant).map_or(own.clone(), |(_, path)| own.join(path.trim_matches('/')))
        };
        let open = |hierarchy: &Hierarchy| {
            let path = path_of(&hierarchy.mount, &hierarchy.controllers).join("cgroup.procs");
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|error| missing(&path, &error))
        };
        let files = self.layout.v1.iter().map(open).collect::<Result<_>>()?;
        let directory = match &self.layout.v2 {
            Some(mount) => {
                let path = path_of(mount, &[]);
                let file = std::fs::File::open(&path).map_err(|error| missing(&path.join("cgroup.procs"), &error))?;
                Some(file.into())
            }
            None => None,
        };
        Ok(Entrance { directory, files, chosen: true })
    }

    /// The version 2 cgroup that a process of the container is in, below the container's own. Once that has given
    /// controllers on to those below it, nothing can be put into itself any more.
    pub(crate) fn below_with(&self, pid: i32) -> Option<OwnedFd> {
        let mount = self.layout.v2.as_ref()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::/"))?);
        let inside = path.starts_with(&self.place.path) && plain(path);
        Some(std::fs::File::open(inside.then(|| mount.join(path))?).ok()?.into())
    }
}

fn plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir))
}

fn check(controller: &str, path: &str) -> Result<()> {
    let inside = plain(Path::new(path));
    if inside {
        return Ok(());
    }
    let of = if controller.is_empty() { String::new() } else { format!("{controller}: ") };
    Err(invalid(format!("--cgroup: {of}{path} is not a sub cgroup path")))
}

fn missing(path: &Path, error: &std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    };
    invalid(format!("--cgroup: adding pid of the new process to cgroup: {}: {why}", path.display()))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below() {
        for path in ["/", "", "a", "/a/b", "./a"] {
            check("", path).unwrap();
        }
        for path in ["..", "../x", "a/../..", "/.."] {
            let error = check("cpu", path).unwrap_err().to_string();
            assert!(error.ends_with(&format!(" {path} is not a sub cgroup path")), "{error}");
        }
    }
}
