//! `checkpoint`, and the flags that it shares with `restore`.
//!
//! Owns: what the flags mean, in runc's words, and that a container is gone after a checkpoint that was to end it. Must not: know
//! CRIU.

use std::path::{Path, PathBuf};

use brig_runtime::About;
use brig_runtime::Container;
use brig_runtime::checkpoint::{CgroupsMode, Options};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::{cgroup, init};
use crate::oci::create::after_delete;
use crate::oci::record::{Condition, Record, Records};

/// `checkpoint`: a running container becomes images; unless it is to go on it is deleted.
pub(crate) fn checkpoint(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let _lock = records.lock(id)?;
    let record = records.load(id)?;
    match records.condition(&record) {
        Condition::Running => {}
        other => return Err(Fault::new(format!("Container cannot be checkpointed in {} state", other.name()))),
    }
    let options = Options { streams: record.streams.clone(), ..options(line)? };
    let spec = records.spec(id)?;
    // The pid is proven to be the container's before and after it is taken over.
    let _proof = init(&record)?;
    let container = Container::adopt(record.pid, &spec, record.cgroup.clone(), about(&record))?;
    let _proof = init(&record)?;
    container.checkpoint(&spec, &options)?;
    if options.leave_running || options.pre_dump {
        return Ok(0);
    }
    let cgroup = cgroup(&record)?;
    if !cgroup.processes()?.is_empty() {
        cgroup.kill()?;
    }
    cgroup.remove()?;
    records.forget(id)?;
    after_delete(&spec, &about(&record));
    Ok(0)
}

fn about(record: &Record) -> About {
    About { id: record.id.clone(), bundle: record.bundle.clone() }
}

/// What the flags ask for.
pub(crate) fn options(line: &CommandLine) -> Result<Options, Fault> {
    // A restore changes its directory to the bundle's.
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|error| Fault::io("path", &path, &error));
    let path = |name: &str| line.path(name).filter(|path| !path.as_os_str().is_empty());
    let images = absolute(path("image-path").unwrap_or_else(|| PathBuf::from("checkpoint")))?;
    check_namespaces(line)?;
    let some = |name: &str| line.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
    Ok(Options {
        work: path("work-path").map(absolute).transpose()?,
        parent: some("parent-path").map(|parent| check_parent(&images, parent)).transpose()?,
        leave_running: line.has("leave-running"),
        pre_dump: line.has("pre-dump"),
        tcp_established: line.has("tcp-established"),
        tcp_skip_in_flight: line.has("tcp-skip-in-flight"),
        link_remap: line.has("link-remap"),
        ext_unix_sk: line.has("ext-unix-sk"),
        shell_job: line.has("shell-job"),
        file_locks: line.has("file-locks"),
        auto_dedup: line.has("auto-dedup"),
        lazy_pages: line.has("lazy-pages"),
        status_fd: status_fd(line)?,
        page_server: some("page-server").map(|text| page_server(&text)).transpose()?,
        cgroups: cgroups_mode(line.value("manage-cgroups-mode").unwrap_or_default())?,
        lsm_profile: some("lsm-profile"),
        lsm_mount_context: some("lsm-mount-context"),
        images,
        streams: Vec::new(),
    })
}

/// An earlier pre-dump, which the images will point to by this path.
fn check_parent(images: &Path, parent: String) -> Result<String, Fault> {
    if Path::new(&parent).is_absolute() {
        return Err(Fault::new("--parent-path must be relative"));
    }
    std::fs::create_dir_all(images).map_err(|error| Fault::io("mkdir", images, &error))?;
    let path: PathBuf = images.join(&parent);
    match std::fs::metadata(&path) {
        Ok(stat) if stat.is_dir() => Ok(parent),
        Ok(_) => Err(Fault::new(format!("invalid --parent-path: stat {}: not a directory", path.display()))),
        Err(error) => Err(Fault::new(format!("invalid --parent-path: stat {}: {error}", path.display()))),
    }
}

/// The network namespace is empty in every image anyway; nothing else can be.
fn check_namespaces(line: &CommandLine) -> Result<(), Fault> {
    match line.values("empty-ns").iter().find(|name| *name != "network") {
        Some(name) => Err(Fault::new(format!("namespace {name:?} is not supported"))),
        None => Ok(()),
    }
}

fn status_fd(line: &CommandLine) -> Result<Option<std::os::fd::OwnedFd>, Fault> {
    let Some(text) = line.value("status-fd").filter(|text| !text.is_empty() && *text != "-1") else { return Ok(None) };
    let bad = |why: &str| Fault::new(format!("invalid --status-fd argument {text}: {why}"));
    let number: i32 = text.parse().map_err(|_| bad("not a number"))?;
    if number < 3 {
        return Err(bad("is none beside the standard streams"));
    }
    let fd = brig_sys::inherited::take(number).map_err(|error| bad(&error.to_string()))?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|errno| bad(&errno.to_string()))?;
    if !flags.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR) {
        return Err(bad("not writable"));
    }
    Ok(Some(fd))
}

fn page_server(text: &str) -> Result<(String, u16), Fault> {
    let usage = || Fault::new("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(usage)?;
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if address.is_empty() || port.is_empty() {
        return Err(usage());
    }
    Ok((address.to_owned(), port.parse().map_err(|_| Fault::new("Invalid port number"))?))
}

fn cgroups_mode(word: &str) -> Result<CgroupsMode, Fault> {
    Ok(match word {
        "" => CgroupsMode::Default,
        "soft" => CgroupsMode::Soft,
        "full" => CgroupsMode::Full,
        "strict" => CgroupsMode::Strict,
        "ignore" => CgroupsMode::Ignore,
        _ => return Err(Fault::new("invalid manage-cgroups-mode value")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(page_server("127.0.0.1:27").unwrap(), ("127.0.0.1".into(), 27));
        assert_eq!(page_server("[::1]:27").unwrap(), ("::1".into(), 27));
        for bad in ["", "host", ":1", "host:"] {
            assert!(page_server(bad).unwrap_err().to_string().contains("ADDRESS:PORT"), "{bad}");
        }
        assert_eq!(page_server("host:99999").unwrap_err().to_string(), "Invalid port number");
        assert_eq!(cgroups_mode("ignore").unwrap(), CgroupsMode::Ignore);
        assert!(cgroups_mode("hard").is_err());
    }

    #[test]
    fn parents() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        assert_eq!(check_parent(&images, "/x".into()).unwrap_err().to_string(), "--parent-path must be relative");
        assert!(check_parent(&images, "../x".into()).unwrap_err().to_string().starts_with("invalid --parent-path: "));
        std::fs::create_dir(dir.path().join("x")).unwrap();
        assert_eq!(check_parent(&images, "../x".into()).unwrap(), "../x");
    }
}
