//! A bundle under the OCI command line. Owns: the calls, and the check that nothing is left. Must not: know what is tested.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

use crate::common::{Plan, cgroups_of};

/// A bundle and a place for the runtime's state.
pub struct Bench {
    pub plan: Plan,
    pub cgroup: String,
}

impl Bench {
    pub fn new(script: &str) -> Bench {
        // Created containers become children of this process, as they become containerd's shim's.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let mut plan = Plan::new(script);
        let cgroup = plan.config.cgroup_parent.clone();
        let lower = plan.dir.path().join("lower");
        std::os::unix::fs::chown(&lower, Some(231_072), Some(231_072)).unwrap();
        plan.spec["root"]["path"] = json!("lower");
        plan.spec["linux"]["cgroupsPath"] = json!(format!("{cgroup}/box"));
        plan.spec["annotations"] = json!({"a": "b"});
        let bench = Bench { plan, cgroup };
        bench.write();
        bench
    }

    pub fn write(&self) {
        std::fs::write(self.path("config.json"), self.plan.spec.to_string()).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.plan.dir.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brig-rt"));
        command.arg("--root").arg(self.path("state")).args(arguments);
        command.current_dir(self.plan.dir.path());
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn refused(&self, arguments: &[&str], text: &str) {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(text), "{arguments:?}: {stderr}");
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", "box"])).unwrap()
    }

    pub fn wait_for(&self, status: &str) {
        self.wait_until(|| self.state()["status"] == status);
    }

    #[track_caller]
    pub fn wait_until(&self, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !ready() {
            assert!(begun.elapsed() < Duration::from_secs(30), "never: {}", self.state());
            // A runtime without a daemon tells nobody; it is asked.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn clean(self) {
        let left = cgroups_of(&self.cgroup, "box");
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(std::fs::read_dir(self.path("state")).map_or(0, Iterator::count), 0);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "box"]);
        for dir in cgroups_of("", &self.cgroup) {
            std::fs::remove_dir(dir).ok();
        }
        let left = cgroups_of("", &self.cgroup);
        assert!(std::thread::panicking() || left.is_empty(), "left over: {left:?}");
    }
}

/// The exit code of a process that has become this one's child.
pub fn reap(pid: i32) -> i32 {
    for _ in 0..500 {
        // Until the process that made it has ended, it is that one's child.
        if let Ok(Some((_, status))) = waitpid(Pid::from_raw(pid), WaitOptions::empty()) {
            return code(status);
        }
        // Nothing tells that a process has become one's child.
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{pid} never became a child of this process");
}

pub fn code(status: rustix::process::WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}
