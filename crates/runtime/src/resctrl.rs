//! Cache and memory bandwidth of a container by Intel RDT (`linux.intelRdt`): its class of service and its monitoring group in
//! the kernel's resource control file system.
//! Owns those directories and who is in them. Must not mount that file system, nor change or remove a class that others made.
//!
//! Format: Documentation/filesystems/resctrl.rst.

use std::io::{ErrorKind as Io, Write as _};
use std::path::{Path, PathBuf};

use brig_oci::runtime::{IntelRdt, Linux, Spec};

use crate::about::About;
use crate::error::{Error, Result};

/// `RDTGROUP_SUPER_MAGIC`.
const MAGIC: rustix::fs::FsWord = 0x0765_5821;
const USUAL_PLACE: &str = "/sys/fs/resctrl";

/// The directories of one container. Nothing is done to them on drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    /// The class of service.
    directory: PathBuf,
    /// The monitoring group inside of it.
    monitoring: Option<PathBuf>,
    /// It is named after the container, and goes with it.
    own: bool,
    /// What is written to `schemata`, in this order.
    schemata: Vec<String>,
    /// The class has no meaning unless it was there before.
    must_exist: bool,
    root: PathBuf,
}

impl Class {
    /// What a specification wants, without making anything; `None` if it says nothing about it.
    ///
    /// # Errors
    /// The kernel or this machine has no resource control, or a field contradicts another.
    pub fn of(linux: &Linux, about: &About) -> Result<Option<Class>> {
        let Some(rdt) = &linux.intel_rdt else { return Ok(None) };
        check(rdt)?;
        Class::below(&mount_point()?, rdt, &about.id).map(Some)
    }

    /// As [`Class::of`] with the file system at `root`.
    pub fn below(root: &Path, rdt: &IntelRdt, id: &str) -> Result<Class> {
        check(rdt)?;
        let directory = match rdt.clos_id.as_str() {
            "" => root.join(id),
            // The class that every process is in by itself.
            "/" => root.to_owned(),
            name => root.join(name),
        };
        let mut schemata = Vec::new();
        // The old field for caches may hold a line about bandwidth, which the newer one overrules.
        let cache = rdt.l3_cache_schema.lines().map(str::trim).filter(|line| !line.is_empty());
        schemata
            .extend(cache.filter(|line| rdt.mem_bw_schema.is_empty() || !line.starts_with("MB:")).map(str::to_owned));
        schemata.extend(Some(rdt.mem_bw_schema.trim().to_owned()).filter(|line| !line.is_empty()));
        schemata.extend(rdt.schemata.iter().map(|line| line.trim().to_owned()));
        let monitored = rdt.enable_monitoring || rdt.enable_cmt || rdt.enable_mbm;
        Ok(Class {
            monitoring: monitored.then(|| directory.join("mon_groups").join(id)),
            own: rdt.clos_id.is_empty(),
            must_exist: !rdt.clos_id.is_empty() && schemata.is_empty(),
            directory,
            schemata,
            root: root.to_owned(),
        })
    }

    /// Makes what is not there yet and sets the shares.
    ///
    /// # Errors
    /// What the kernel said, with its own explanation; nothing of ours is left then.
    pub fn make(&self) -> Result<()> {
        let made = self.make_directory(&self.directory)?;
        let done = self.set().and_then(|()| match &self.monitoring {
            Some(group) => self.make_directory(group).map(drop),
            None => Ok(()),
        });
        if done.is_err() && made {
            remove(&self.directory);
        }
        done
    }

    /// Whether it had to be made.
    fn make_directory(&self, path: &Path) -> Result<bool> {
        if self.must_exist && path == self.directory {
            return match path.is_dir() {
                true => Ok(false),
                false => Err(Error::invalid(format!(
                    "linux.intelRdt.closID: {} is not there: a class without a schema must have been made before",
                    path.display()
                ))),
            };
        }
        match std::fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == Io::AlreadyExists => Ok(false),
            Err(error) => Err(self.failed("mkdir", path, &error)),
        }
    }

    fn set(&self) -> Result<()> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let text: String = self.schemata.iter().map(|line| format!("{line}\n")).collect();
        self.write(&self.directory.join("schemata"), &text)
    }

    /// Puts a process, and what it will start, into the class.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.write(&self.directory.join("tasks"), &pid.to_string())?;
        match &self.monitoring {
            Some(group) => self.write(&group.join("tasks"), &pid.to_string()),
            None => Ok(()),
        }
    }

    /// As [`Class::add`], for one more process of a container whose class may have been removed meanwhile.
    pub fn add_if_there(&self, pid: i32) -> Result<()> {
        if self.directory.is_dir() { self.add(pid) } else { Ok(()) }
    }

    /// Removes what was made for the container. May run twice.
    pub fn remove(&self) {
        if let Some(group) = &self.monitoring {
            remove(group);
        }
        if self.own {
            remove(&self.directory);
        }
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| self.failed(&format!("write {text:?} to"), path, &error))
    }

    /// The kernel keeps a sentence about the last thing that it refused.
    fn failed(&self, what: &str, path: &Path, error: &std::io::Error) -> Error {
        let said = std::fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let said = Some(said.trim()).filter(|said| !said.is_empty() && *said != "ok");
        let said = said.map(|said| format!(", last_cmd_status: {said}")).unwrap_or_default();
        Error::system(format!("linux.intelRdt: {what} {}: {error}{said}", path.display()))
    }
}

/// Removes what was made of resource control for a container that another process made. May run twice.
pub fn release(spec: &Spec, about: &About) {
    let class = spec.linux.as_ref().map(|linux| Class::of(linux, about));
    // What cannot be found is not there.
    if let Some(Ok(Some(class))) = class {
        class.remove();
    }
}

fn check(rdt: &IntelRdt) -> Result<()> {
    let class = rdt.clos_id.as_str();
    if class != "/" && (class.contains(['/', '\0', '\n']) || matches!(class, "." | "..")) {
        return Err(Error::invalid(format!("linux.intelRdt.closID: {class:?} is not the name of one directory")));
    }
    if matches!(class, "info" | "mon_groups" | "mon_data") {
        return Err(Error::invalid(format!("linux.intelRdt.closID: {class:?} is a directory of the kernel's own")));
    }
    let single =
        [("memBwSchema", &rdt.mem_bw_schema)].into_iter().chain(rdt.schemata.iter().map(|line| ("schemata", line)));
    for (field, line) in single {
        if line.trim_end().contains('\n') || line.contains('\0') {
            return Err(Error::invalid(format!("linux.intelRdt.{field}: {line:?} is more than one line")));
        }
    }
    Ok(())
}

/// Where the file system is mounted: usually in one place, which the kernel makes for it.
fn mount_point() -> Result<PathBuf> {
    let usual = rustix::fs::statfs(USUAL_PLACE).map(|stat| stat.f_type);
    if usual == Ok(MAGIC) {
        return Ok(PathBuf::from(USUAL_PLACE));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::system(format!("read /proc/self/mountinfo: {error}")))?;
    let found = mounts.lines().find_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        (file_system.split(' ').next() == Some("resctrl")).then(|| place.split(' ').nth(4)).flatten()
    });
    match (found, usual.is_ok()) {
        (Some(place), _) => Ok(PathBuf::from(place)),
        (None, true) => Err(Error::unsupported(format!(
            "linux.intelRdt: the resource control file system is not mounted: mount -t resctrl resctrl {USUAL_PLACE}"
        ))),
        (None, false) => {
            Err(Error::unsupported("linux.intelRdt: this kernel or CPU has no resource control (resctrl)"))
        }
    }
}

/// The kernel removes what is inside itself; anything that is not such a directory stays.
fn remove(path: &Path) {
    std::fs::remove_dir(path).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like the file system. It cannot remove files with their directory as the kernel does.
    fn fake() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("info/L3")).unwrap();
        std::fs::create_dir(dir.path().join("mon_groups")).unwrap();
        std::fs::create_dir_all(dir.path().join("shared/mon_groups")).unwrap();
        dir
    }

    fn read(dir: &tempfile::TempDir, file: &str) -> String {
        std::fs::read_to_string(dir.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn empty(path: &Path) {
        for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                std::fs::remove_file(entry).unwrap();
            }
        }
    }

    #[test]
    fn a_class_of_its_own() {
        let dir = fake();
        let rdt = IntelRdt {
            l3_cache_schema: "L3:0=7f0;1=1f\nMB:0=90".into(),
            mem_bw_schema: "MB:0=20;1=70".into(),
            schemata: vec!["L2:0=f".into()],
            ..IntelRdt::default()
        };
        let class = Class::below(dir.path(), &rdt, "box").unwrap();
        class.make().unwrap();
        class.add(4711).unwrap();
        assert_eq!(read(&dir, "box/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\nL2:0=f\n");
        assert_eq!(read(&dir, "box/tasks"), "4711");
        empty(&dir.path().join("box"));
        class.remove();
        class.remove();
        assert!(!dir.path().join("box").exists());
        class.add_if_there(1).unwrap();
    }

    #[test]
    fn bandwidth_in_the_field_for_caches_counts_if_it_is_alone() {
        let rdt = IntelRdt { l3_cache_schema: "MB:0=90\nL3:0=1".into(), ..IntelRdt::default() };
        assert_eq!(Class::below("/".as_ref(), &rdt, "box").unwrap().schemata, ["MB:0=90", "L3:0=1"]);
    }

    #[test]
    fn a_class_that_others_made() {
        let dir = fake();
        let named = |name: &str| IntelRdt { clos_id: name.into(), ..IntelRdt::default() };
        let class = Class::below(dir.path(), &named("shared"), "box").unwrap();
        class.make().unwrap();
        class.add(5).unwrap();
        assert_eq!(read(&dir, "shared/tasks"), "5");
        assert!(!dir.path().join("shared/schemata").exists());
        empty(&dir.path().join("shared"));
        class.remove();
        assert!(dir.path().join("shared").exists());
        let error = Class::below(dir.path(), &named("absent"), "box").unwrap().make().unwrap_err();
        assert!(error.message.starts_with("linux.intelRdt.closID: ") && error.message.contains("must have been made"));
        // With a schema it is made, and stays for others.
        let rdt = IntelRdt { mem_bw_schema: "MB:0=10".into(), ..named("new") };
        let class = Class::below(dir.path(), &rdt, "box").unwrap();
        class.make().unwrap();
        class.remove();
        assert_eq!(read(&dir, "new/schemata"), "MB:0=10\n");
        // The class of everything that is in no other.
        let class = Class::below(dir.path(), &named("/"), "box").unwrap();
        class.make().unwrap();
        class.add(6).unwrap();
        assert_eq!(read(&dir, "tasks"), "6");
    }

    #[test]
    fn monitoring_groups_are_the_containers() {
        let dir = fake();
        for (change, directory) in [
            (
                IntelRdt { enable_monitoring: true, clos_id: "shared".into(), ..IntelRdt::default() },
                "shared/mon_groups/box",
            ),
            (IntelRdt { enable_cmt: true, clos_id: "/".into(), ..IntelRdt::default() }, "mon_groups/box"),
            (IntelRdt { enable_mbm: true, clos_id: "/".into(), ..IntelRdt::default() }, "mon_groups/box"),
        ] {
            let class = Class::below(dir.path(), &change, "box").unwrap();
            class.make().unwrap();
            class.add(7).unwrap();
            assert_eq!(read(&dir, &format!("{directory}/tasks")), "7");
            empty(&dir.path().join(directory));
            class.remove();
            assert!(!dir.path().join(directory).exists());
        }
    }

    #[test]
    fn what_the_kernel_says_is_told_and_nothing_is_left() {
        let dir = fake();
        std::fs::write(dir.path().join("info/last_cmd_status"), "mask f00 has non-consecutive bits\n").unwrap();
        let rdt = IntelRdt { enable_monitoring: true, ..IntelRdt::default() };
        // A fake class has no directory for monitoring groups, as a kernel without that feature.
        let error = Class::below(dir.path(), &rdt, "box").unwrap().make().unwrap_err();
        assert!(error.message.starts_with("linux.intelRdt: mkdir "), "{error}");
        assert!(error.message.ends_with("last_cmd_status: mask f00 has non-consecutive bits"), "{error}");
        assert!(!dir.path().join("box").exists());
    }

    #[test]
    fn refusals() {
        for (field, rdt) in [
            ("closID", IntelRdt { clos_id: "a/b".into(), ..IntelRdt::default() }),
            ("closID", IntelRdt { clos_id: "..".into(), ..IntelRdt::default() }),
            ("closID", IntelRdt { clos_id: "info".into(), ..IntelRdt::default() }),
            ("memBwSchema", IntelRdt { mem_bw_schema: "MB:0=1\nL3:0=1".into(), ..IntelRdt::default() }),
            ("schemata", IntelRdt { schemata: vec!["a\nb".into()], ..IntelRdt::default() }),
        ] {
            let error = Class::below("/".as_ref(), &rdt, "box").unwrap_err();
            assert!(error.message.starts_with(&format!("linux.intelRdt.{field}")), "{error}");
        }
    }
}
