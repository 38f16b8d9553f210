//! What a test host must not leave behind: mounts, processes, cgroups, interfaces, rules, files.
//! Owns the looking; it only ends or removes what carries the host's own name.

use crate::host::TestHost;
use brig_sys::netns;
use rustix::process::{Pid, Signal, kill_process};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Looks until nothing is left over, or tells what still is.
pub fn wait_for_none(host: &TestHost) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let found = look(host);
        if found.is_empty() || begun.elapsed() > host.grace {
            return found;
        }
        // Mounts, cgroups, links and strangers' processes: no event tells of all of them.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn look(host: &TestHost) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(mounts(host).into_iter().map(|line| format!("mount: {line}")));
    found.extend(processes(host).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    found.extend(cgroups(host).into_iter().map(|path| format!("cgroup: {}", path.display())));
    found.extend(interfaces(host).into_iter().map(|name| format!("interface: {name}")));
    found.extend(rules(host));
    found.extend(files(host).into_iter().map(|path| format!("file: {}", path.display())));
    found
}

/// The machine's mounts that have to do with the host.
fn mounts(host: &TestHost) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table can be read");
    let name = format!("/{}/", host.name);
    let own = |line: &&str| line.contains(&name) && !line.contains("/brig-test-disk ");
    table.lines().filter(own).map(str::to_owned).collect()
}

/// Processes in the host's network, or that were started with its folder or name.
fn processes(host: &TestHost) -> Vec<(i32, String)> {
    let own_network = netns::identity(host.netns.as_fd()).ok();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc can be read").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid.cast_unsigned() == std::process::id() {
            continue;
        }
        let bytes = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let text = |file: &str| String::from_utf8_lossy(&bytes(file)).replace('\0', " ");
        let status = text("status");
        if status.contains("State:\tZ") || status.contains("Kthread:\t1") {
            continue;
        }
        let network = std::fs::File::open(entry.path().join("ns/net")).ok();
        let network = network.and_then(|file| netns::identity(file.as_fd()).ok());
        let in_network = network.is_some() && network == own_network;
        let named = |file: &str| text(file).contains(&host.name);
        if in_network || named("cmdline") || named("environ") || named("cgroup") {
            found.push((pid, format!("{} ({})", text("cmdline"), text("cgroup").lines().next().unwrap_or(""))));
        }
    }
    found
}

/// Control groups beneath the host's parent. The empty parent itself is Docker's to leave.
fn cgroups(host: &TestHost) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in parents(host) {
        folders(&parent, &mut found);
    }
    found
}

/// The host's parent in every hierarchy that has one.
fn parents(host: &TestHost) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_owned()];
    roots.extend(std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|root| root.join(&host.name)).filter(|path| path.is_dir()).collect()
}

/// The folders beneath, deepest first.
fn folders(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// Interfaces in the host's network that belong to containers.
fn interfaces(host: &TestHost) -> Vec<String> {
    let table = netns::inside(host.netns.as_fd(), || std::fs::read_to_string("/proc/thread-self/net/dev"));
    let table = table.expect("the namespace can be entered").expect("interfaces can be listed");
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':').map(|(name, _)| name.trim().to_owned()));
    names.filter(|name| name != "lo" && name != "brig0" && !name.starts_with("lan")).collect()
}

/// Published ports that are still in the firewall.
fn rules(host: &TestHost) -> Vec<String> {
    let output = host.program("nft", &["list", "ruleset"]).output();
    if output.code != 0 {
        return vec![format!("nft: {output}")];
    }
    let mut found = Vec::new();
    let mut tables = 0;
    let mut set = String::new();
    for line in output.stdout.lines().map(str::trim) {
        tables += usize::from(line.starts_with("table "));
        if line.starts_with("set ") || line.starts_with("map ") || line.starts_with("vmap ") {
            line.clone_into(&mut set);
        }
        // Bridges stay; what names a container's address or a published port does not.
        let container = ["172.17.0.", "172.18.0."].iter().any(|net| {
            line.match_indices(net).any(|(at, _)| {
                let rest = &line[at + net.len()..];
                let last: String = rest.chars().take_while(char::is_ascii_digit).collect();
                !matches!(last.as_str(), "0" | "1" | "255")
            })
        });
        if container {
            found.push(format!("rule: {set} {line}"));
        }
    }
    if tables > 1 {
        found.push(format!("tables: {tables} of them\n{}", output.stdout));
    }
    found
}

/// Files of containers that are gone.
fn files(host: &TestHost) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = |path: PathBuf| {
        let list: Vec<PathBuf> = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        list
    };
    let id = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
    found.extend(entries(host.exec_root()).into_iter().filter(id));
    for folder in ["active", "ingest", "containers"] {
        found.extend(entries(host.data_root.join("v1").join(folder)));
    }
    if host.socket().exists() {
        found.push(host.socket());
    }
    found
}

/// What was thrown away is removed in the background; a daemon that is stopped meanwhile goes on at its next start, so
/// this is looked at before. What is still there after a while is told.
pub fn wait_for_empty_trash(host: &TestHost) -> Option<String> {
    let trash = host.data_root.join("v1/trash");
    let begun = Instant::now();
    let full = || std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_some());
    while full() {
        if begun.elapsed() > 3 * host.grace {
            return Some(format!("{} is not emptied", trash.display()));
        }
        // As the daemon removes it, in threads of its own.
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Removes what may be left, so that a failing test does not disturb another.
pub fn sweep(host: &TestHost) {
    for _ in 0..50 {
        let processes = processes(host);
        if processes.is_empty() {
            break;
        }
        for (pid, _) in processes {
            if let Some(pid) = Pid::from_raw(pid) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        // They are others' children, and each may have made another one meanwhile.
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..50 {
        let mut folders = cgroups(host);
        folders.extend(parents(host));
        if folders.iter().filter(|folder| std::fs::remove_dir(folder).is_err()).count() == 0 {
            break;
        }
        // A killed process is in its cgroup until it is gone altogether, which version 1 does not report.
        std::thread::sleep(Duration::from_millis(20));
    }
}
