//! OCI runtimes on one bundle, in turns: `run`, `exec`, memory, and many containers in a row, beside the kernel's floor.
//! Owns the bundle and the calls; decides nothing about limits.

use crate::measure::{Series, time, unpack};
use brig_sys::clone::flags;
use brig_tests::command::Run;
use brig_tests::{TestHost, host, skip};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A bundle, and the runtimes that can run it.
pub struct Bench {
    folder: PathBuf,
    /// Where the runtimes remember containers: in memory, as `/run` is on an ordinary machine.
    state: PathBuf,
    cgroup: String,
    runtimes: Vec<Runtime>,
    floor: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.state) {
            eprintln!("{} is left: {error}", self.state.display());
        }
    }
}

/// A runtime.
pub struct Runtime {
    /// What it is called in the table.
    pub name: String,
    program: PathBuf,
}

/// What the container runs.
const TRUE: [&str; 2] = ["/bin/probe", "true"];
const SLEEP: [&str; 3] = ["sh", "-c", "echo up; exec sleep 100000"];

impl Bench {
    /// Writes the bundle and looks which runtimes work; `extra` are more of them, by name and program.
    ///
    /// To be called on a thread of its own: where some runtime refuses cgroup v1 and v2 side by side (crun does), the
    /// thread gets a mount namespace in which only v1 is there, for all runtimes alike.
    pub fn new(host: &TestHost, extra: &[(String, PathBuf)]) -> Bench {
        let folder = host.root.join("bundle");
        unpack(&folder);
        let mut candidates = vec![("brig-rt".to_owned(), host::binary("brig-rt"))];
        for name in ["runc", "crun"] {
            candidates.extend(skip::program(name).map(|program| (name.to_owned(), program)));
        }
        candidates.extend(extra.iter().cloned());
        let cgroup = format!("/{}/oci", host.name);
        let state = Path::new("/dev/shm").join(&host.name);
        std::fs::create_dir_all(&state).expect("/dev/shm can be written");
        let mut bench = Bench { folder, state, cgroup, runtimes: Vec::new(), floor: host::binary("oci-floor") };
        let mut refused = bench.keep(candidates);
        if !refused.is_empty() && hide_version2() {
            refused = bench.keep(refused);
        }
        for (name, _) in refused {
            eprintln!("{name} does not run here");
        }
        bench
    }

    /// Keeps those that can run a container; returns the others.
    fn keep(&mut self, candidates: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
        let mut refused = Vec::new();
        for (name, program) in candidates {
            let runtime = Runtime { name, program };
            let tried = self.command(&runtime, "run", "try", &TRUE).output();
            if tried.code == 0 {
                self.runtimes.push(runtime);
            } else {
                eprintln!("{}: {}", runtime.name, tried.stderr.trim());
                self.delete(&runtime, "try");
                refused.push((runtime.name, runtime.program));
            }
        }
        refused
    }

    /// `run` of a program that ends at once; the floor is the first series.
    pub fn run(&self, runs: usize) -> Vec<Series> {
        let mut series = vec![Series::new("floor: same namespaces and mounts")];
        series.extend(self.runtimes.iter().map(|runtime| Series::new(&format!("{} run", runtime.name))));
        for round in 0..runs + 3 {
            let mut samples = vec![time(Run::new(&self.floor, &[&self.rootfs(), TRUE[0], TRUE[1]]))];
            let name = round.to_string();
            samples.extend(self.runtimes.iter().map(|runtime| time(self.command(runtime, "run", &name, &TRUE))));
            if round >= 3 {
                series.iter_mut().zip(samples).for_each(|(series, sample)| series.push(sample));
            }
        }
        series
    }

    /// `exec` of the same program in a running container, and the peak memory (KiB) of each runtime's `run` process.
    pub fn exec(&self, runs: usize) -> (Vec<Series>, Vec<(String, f64)>) {
        let mut waiting = Vec::new();
        let mut memory = Vec::new();
        for runtime in &self.runtimes {
            let mut child = self
                .command(runtime, "run", "keep", &SLEEP)
                .with(|command| {
                    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
                })
                .spawn();
            let mut up = String::new();
            let stdout = child.stdout.take().expect("stdout is a pipe");
            BufReader::new(stdout).read_line(&mut up).expect("the container's output can be read");
            assert_eq!(up.trim(), "up", "{} does not run a container", runtime.name);
            memory.push((runtime.name.clone(), peak(child.id())));
            waiting.push(child);
        }
        let mut series: Vec<Series> =
            self.runtimes.iter().map(|runtime| Series::new(&format!("{} exec", runtime.name))).collect();
        for round in 0..runs + 3 {
            for (series, runtime) in series.iter_mut().zip(&self.runtimes) {
                let state = self.state();
                let id = id(runtime, "keep");
                let sample = time(Run::new(&runtime.program, &["--root", &state, "exec", &id, TRUE[0], TRUE[1]]));
                if round >= 3 {
                    series.push(sample);
                }
            }
        }
        for (runtime, mut child) in self.runtimes.iter().zip(waiting) {
            self.delete(runtime, "keep");
            child.wait().expect("a child can be waited for");
        }
        (series, memory)
    }

    /// `create`, `start`, `delete --force` of many containers in a row with our runtime: the milliseconds of one such round
    /// over the first and over the last tenth.
    pub fn row(&self, containers: usize) -> Option<(Series, Series)> {
        let runtime = self.runtimes.first().filter(|runtime| runtime.name == "brig-rt")?;
        let tenth = (containers / 10).max(1);
        let mut first = Series::new(&format!("create, start, delete: first {tenth} of {containers}"));
        let mut last = Series::new(&format!("create, start, delete: last {tenth} of {containers}"));
        let state = self.state();
        for round in 0..containers {
            let name = format!("row{round}");
            let id = id(runtime, &name);
            let call = |arguments: &[&str]| time(Run::new(&runtime.program, arguments));
            let sample = time(self.command(runtime, "create", &name, &TRUE))
                + call(&["--root", &state, "start", &id])
                + call(&["--root", &state, "delete", "--force", &id]);
            if round < tenth {
                first.push(sample);
            } else if round >= containers - tenth {
                last.push(sample);
            }
        }
        Some((first, last))
    }

    fn command(&self, runtime: &Runtime, verb: &str, round: &str, program: &[&str]) -> Run {
        let id = id(runtime, round);
        let text = config(&format!("{}-{id}", self.cgroup), program).to_string();
        std::fs::write(self.folder.join("config.json"), text).expect("the bundle can be written");
        let bundle = self.folder.display().to_string();
        Run::new(&runtime.program, &["--root", &self.state(), verb, "--bundle", &bundle, &id])
    }

    fn delete(&self, runtime: &Runtime, round: &str) {
        Run::new(&runtime.program, &["--root", &self.state(), "delete", "--force", &id(runtime, round)]).output();
    }

    fn state(&self) -> String {
        self.state.display().to_string()
    }

    fn rootfs(&self) -> String {
        self.folder.join("rootfs").display().to_string()
    }
}

fn id(runtime: &Runtime, round: &str) -> String {
    format!(
        "{}-{round}-{}",
        runtime.name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
        std::process::id()
    )
}

/// The most memory that a process had resident since its execve, in KiB.
fn peak(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// In this thread only: unmounts cgroup v2 where v1 is mounted beside it. Whether that was so.
fn hide_version2() -> bool {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.join("cgroup.procs").exists() {
        return false;
    }
    brig_sys::namespace::unshare(flags::NEWNS).expect("a mount namespace can be made");
    let ok = |program: &str, arguments: &[&str]| Run::new(program, arguments).output().ok();
    ok("mount", &["--make-rprivate", "/"]);
    ok("umount", &[&unified.display().to_string()]);
    eprintln!("runtimes are measured with cgroup v1 alone: one of them refuses v1 and v2 side by side");
    true
}

/// What `runc spec` writes, in short.
fn config(cgroup: &str, program: &[&str]) -> serde_json::Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let namespaces: Vec<_> =
        ["pid", "network", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": program, "cwd": "/",
            "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
