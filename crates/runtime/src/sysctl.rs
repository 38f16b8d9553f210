//! Kernel parameters of a container: which ones belong to its namespaces, and writing them.
//! Owns the allow-list. Must not write through any procfs but the descriptor that it is given.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use brig_sys::clone::flags;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Error, Result};

const IPC: [&str; 12] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.auto_msgmni",
    "kernel.msg_next_id",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
];

/// A checked parameter: path beneath `/proc/sys` and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    name: String,
    path: PathBuf,
    value: String,
}

#[cfg(test)]
impl Parameter {
    /// Beneath procfs.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Checks parameters against the namespaces (`CLONE_NEW…` bits) that the container has apart from the host's.
pub(crate) fn check(parameters: &BTreeMap<String, String>, namespaces: u64) -> Result<Vec<Parameter>> {
    parameters.iter().map(|(name, value)| check_one(name, value, namespaces)).collect()
}

fn check_one(name: &str, value: &str, namespaces: u64) -> Result<Parameter> {
    let bad = |why: &str| Error::invalid(format!("linux.sysctl: {name:?}: {why}"));
    // Either separator may be the outer one: "net.ipv4.conf.eth0/100.x" and "net/ipv4/conf/eth0.100/x" are the same.
    let slashes_first =
        matches!((name.find('/'), name.find('.')), (Some(slash), Some(dot)) if slash < dot) || !name.contains('.');
    let dotted: String = if slashes_first { name.chars().map(swap).collect() } else { name.to_owned() };
    let parts: Vec<String> = dotted.split('.').map(|part| part.replace('/', ".")).collect();
    if parts.len() < 2 || parts.iter().any(|part| part.is_empty() || part == "." || part == ".." || part.contains('\0'))
    {
        return Err(bad("is not the name of a kernel parameter"));
    }
    if value.contains(['\0', '\n']) {
        return Err(bad("its value contains a NUL byte or a line break"));
    }
    let needed = if parts[0] == "net" {
        Some((flags::NEWNET, "network"))
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Some((flags::NEWIPC, "ipc"))
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        Some((flags::NEWUTS, "uts"))
    } else if dotted.starts_with("user.") {
        Some((flags::NEWUSER, "user"))
    } else {
        None
    };
    let Some((flag, namespace)) = needed else {
        return Err(bad("belongs to the whole host, not to a container"));
    };
    if namespaces & flag == 0 {
        return Err(bad(&format!("needs a {namespace} namespace that is not the host's")));
    }
    if dotted == "kernel.hostname" {
        return Err(bad("conflicts with the hostname field; set that"));
    }
    Ok(Parameter { name: name.to_owned(), path: PathBuf::from("sys").join(parts.join("/")), value: value.to_owned() })
}

fn swap(letter: char) -> char {
    match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

/// Writes parameters through `proc`, the root of a procfs with nothing mounted on it.
pub(crate) fn write(proc: BorrowedFd<'_>, parameters: &[Parameter]) -> Result<()> {
    for parameter in parameters {
        let failed = |errno: rustix::io::Errno| {
            let error = brig_sys::Error::new(
                format!("write(\"/proc/{}\", {:?})", parameter.path.display(), parameter.value),
                errno,
            );
            Error::system(format!("linux.sysctl: {:?}: {error}", parameter.name))
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(proc, &parameter.path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(failed)?;
        rustix::io::write(&file, parameter.value.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = flags::NEWNET | flags::NEWIPC | flags::NEWUTS;

    #[test]
    fn accepts_both_spellings() {
        let path = |name: &str| check_one(name, "1", ALL).unwrap().path;
        assert_eq!(path("net.ipv4.ip_forward"), PathBuf::from("sys/net/ipv4/ip_forward"));
        assert_eq!(path("net/ipv4/ip_forward"), PathBuf::from("sys/net/ipv4/ip_forward"));
        assert_eq!(path("net.ipv4.conf.eth0/100.forwarding"), PathBuf::from("sys/net/ipv4/conf/eth0.100/forwarding"));
        assert_eq!(path("net/ipv4/conf/eth0.100/forwarding"), PathBuf::from("sys/net/ipv4/conf/eth0.100/forwarding"));
        assert_eq!(path("kernel.msgmax"), PathBuf::from("sys/kernel/msgmax"));
        assert_eq!(path("fs.mqueue.msg_max"), PathBuf::from("sys/fs/mqueue/msg_max"));
    }

    #[test]
    fn refuses_the_hosts_own_and_tricks() {
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "net",
            "",
            "net..x",
            "net.//.x",
            "net/../kernel/core_pattern",
            "kernel.shmmax.x",
        ] {
            assert!(check_one(name, "1", ALL).is_err(), "{name}");
        }
        assert!(check_one("net.ipv4.ip_forward", "1", flags::NEWIPC).is_err());
        assert!(check_one("kernel.msgmax", "1", flags::NEWNET).is_err());
    }
}
