//! Docker's daemon, containerd and Podman with `brig-rt` as their runtime, as their users would use them. Each has a network,
//! folders and cgroups of its own, and leaves nothing when it ends. Images have no network to come from: busybox is loaded.

use brig_tests::host::binary;
use brig_tests::{Output, Run, Terminal, TestHost, eventually, skip};
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A host and another engine on it.
struct Engine {
    /// What the engine is told before each command.
    client: Vec<String>,
    /// Variables for that.
    variables: Vec<(&'static str, String)>,
    daemon: Option<Child>,
    host: TestHost,
}

impl Engine {
    /// Docker's daemon with containerd, everything beneath the host's folder; `/run` is its own.
    fn docker() -> Engine {
        let host = TestHost::without_daemon(&[]);
        let root = host.root.display();
        let socket = format!("unix://{}", host.socket().display());
        let script = format!(
            "mount -t tmpfs none /run && exec dockerd --config-file {root}/daemon.json --data-root {root}/docker \
             --exec-root {root}/docker-run -p {root}/docker.pid -H {socket} --add-runtime brig={} --default-runtime brig \
             --cgroup-parent /{} --bridge none --iptables=false --ip-forward=false",
            binary("brig-rt").display(),
            host.name
        );
        let daemon = Engine::start(&host, &script);
        let mut engine = Engine {
            client: vec![skip::program("docker").unwrap().display().to_string()],
            variables: vec![("DOCKER_HOST", socket)],
            daemon: Some(daemon),
            host,
        };
        eventually("dockerd answers", || (engine.run(&["version"]).code == 0).then_some(()));
        engine.load();
        engine
    }

    /// containerd alone, and its `ctr` in the same mount namespace.
    fn containerd() -> Engine {
        let host = TestHost::without_daemon(&[]);
        let root = host.root.display().to_string();
        let config = format!(
            "version = 2\nroot = \"{root}/containerd\"\nstate = \"{root}/containerd-run\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{root}/containerd.sock\"\n"
        );
        std::fs::write(host.root.join("containerd.toml"), config).unwrap();
        let daemon =
            Engine::start(&host, &format!("mount -t tmpfs none /run && exec containerd -c {root}/containerd.toml"));
        let socket = format!("{root}/containerd.sock");
        let client = ["nsenter", "-t", &daemon.id().to_string(), "-m", "ctr", "-a", &socket, "-n", "test"];
        let client = client.map(str::to_owned).to_vec();
        let engine = Engine { client, variables: Vec::new(), daemon: Some(daemon), host };
        eventually("containerd answers", || (engine.run(&["version"]).code == 0).then_some(()));
        let path = engine.image();
        engine.ok(&["image", "import", &path]);
        engine
    }

    /// Podman, which has no daemon.
    fn podman() -> Engine {
        let host = TestHost::without_daemon(&[]);
        let root = host.root.display().to_string();
        let runtime = binary("brig-rt").display().to_string();
        let (storage, run, tmp) =
            (format!("{root}/podman"), format!("{root}/podman-run"), format!("{root}/podman-tmp"));
        let client = [
            "podman",
            "--root",
            &storage,
            "--runroot",
            &run,
            "--tmpdir",
            &tmp,
            "--cgroup-manager",
            "cgroupfs",
            "--runtime",
            &runtime,
            "--events-backend",
            "file",
            "--network-config-dir",
            &tmp,
        ];
        let client = client.map(str::to_owned).to_vec();
        let mut engine = Engine { client, variables: Vec::new(), daemon: None, host };
        engine.load();
        engine
    }

    fn start(host: &TestHost, script: &str) -> Child {
        let log = std::fs::File::create(host.root.join("engine.log")).unwrap();
        let run = host.program("unshare", &["-m", "--propagation", "private", "sh", "-c", script]);
        run.with(|command| {
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        })
        .spawn()
    }

    fn image(&self) -> String {
        let path: PathBuf = self.host.root.join("busybox.tar");
        std::fs::write(&path, brig_tests::Image::busybox().docker_archive("busybox:latest")).unwrap();
        path.display().to_string()
    }

    fn load(&mut self) {
        let path = self.image();
        self.ok(&["load", "-i", &path]);
    }

    fn command(&self, arguments: &[&str]) -> Run {
        let all: Vec<&str> = self.client[1..].iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        let run = self.host.program(&self.client[0], &all);
        self.variables.iter().fold(run, |run, (name, value)| run.env(name, value.as_str()))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::new(self.command(arguments), &arguments.join(" "), 24, 80)
    }

    /// Ends the daemon; the host's own check finds whatever is left then.
    fn end(mut self) {
        // Podman leaves the group of its monitors, empty.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            std::fs::remove_dir(hierarchy.path().join(&self.host.name).join("conmon")).ok();
        }
        let Some(mut daemon) = self.daemon.take() else { return };
        let pid = rustix::process::Pid::from_raw(daemon.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(brig_tests::command::wait(&daemon, std::time::Duration::from_secs(30)), "the daemon does not end");
        daemon.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let log = std::fs::read_to_string(self.host.root.join("engine.log")).unwrap_or_default();
            eprintln!("--- the engine's log\n{}---", log.lines().rev().take(40).collect::<Vec<_>>().join("\n"));
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

fn missing(test: &str, programs: &[&str]) -> bool {
    let absent = programs.iter().find(|program| skip::program(program).is_none());
    if let Some(program) = absent {
        skip::skip(test, &format!("{program} is not installed"));
    }
    absent.is_some()
}

/// What Docker and Podman have in common, in their common words. `run` is followed by options of the engine's own.
fn life_of_containers(engine: &Engine, run: &[&str]) {
    let run = |more: &[&str]| engine.run(&[run, more].concat());
    // Exit codes, and what cannot be run.
    assert_eq!(run(&["--rm", "busybox", "sh", "-c", "exit 42"]).code, 42);
    let missing = run(&["--rm", "busybox", "nosuch"]);
    assert!(missing.stderr.contains("\"nosuch\"") || missing.stderr.contains("nosuch\\\""), "{missing}");
    missing.fails(127);
    run(&["--rm", "busybox", "/etc/passwd"]).fails(126);
    // What the container is given.
    let options = [
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "KILL",
        "-u",
        "1000:1000",
        "-e",
        "SHIP=brig",
        "-w",
        "/tmp",
        "-h",
        "ship",
        "--ulimit",
        "nofile=100:200",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "--cpu-shares",
        "100",
        "busybox",
        "sh",
        "-c",
        "touch /etc/x 2>/dev/null || echo read-only; touch /scratch/x 2>/dev/null; grep CapBnd /proc/self/status; id -u; id -g; \
         echo $SHIP; pwd; hostname; ulimit -n; ulimit -Hn; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
         2>/dev/null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; grep Seccomp: /proc/self/status",
    ];
    let expected =
        "read-only\nCapBnd:\t0000000000000020\n1000\n1000\nbrig\n/tmp\nship\n100\n200\n67108864\n50\nSeccomp:\t2";
    assert_eq!(run(&options).ok(), expected);
    let bind = format!("{}:/bind:ro", engine.host.root.join("home").display());
    std::fs::write(engine.host.root.join("home/file"), "of the host\n").unwrap();
    let read =
        run(&["--rm", "-v", &bind, "busybox", "sh", "-c", "cat /bind/file; touch /bind/x 2>/dev/null || echo refused"]);
    assert_eq!(read.ok(), "of the host\nrefused");
    let profile = engine.host.root.join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let filter = format!("seccomp={}", profile.display());
    assert_eq!(
        run(&["--rm", "--security-opt", &filter, "busybox", "sh", "-c", "mkdir /x 2>/dev/null || echo refused"]).ok(),
        "refused"
    );
    let promise =
        run(&["--rm", "--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(promise.ok(), "NoNewPrivs:\t1");
    // A limit that kills.
    run(&["--name", "greedy", "-m", "16m", "--memory-swap", "16m", "busybox", "tail", "/dev/zero"]).fails(137);
    engine.ok(&["rm", "greedy"]);
    in_a_running_one(engine, &run);
    terminals(engine, &run);
}

fn in_a_running_one(engine: &Engine, run: &dyn Fn(&[&str]) -> Output) {
    let script = "trap 'exit 9' TERM; echo begun; echo trouble >&2; while :; do sleep 0.1; done";
    run(&["-d", "--name", "box", "-m", "64m", "busybox", "sh", "-c", script]).ok();
    eventually("it has begun", || engine.run(&["logs", "box"]).stdout.contains("begun").then_some(()));
    assert!(engine.run(&["logs", "box"]).stderr.contains("trouble"));
    assert_eq!(engine.run(&["exec", "box", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(engine.run(&["exec", "box", "sh", "-c", "kill -9 $$"]).code, 137);
    assert!([126, 127].contains(&engine.run(&["exec", "box", "nosuch"]).code));
    let who = engine.ok(&["exec", "-u", "1000", "-w", "/tmp", "-e", "A=b", "box", "sh", "-c", "id -u; pwd; echo $A"]);
    assert_eq!(who, "1000\n/tmp\nb");
    let fed = engine.command(&["exec", "-i", "box", "wc", "-c"]).input(vec![b'x'; 300_000]).output();
    assert_eq!(fed.ok(), "300000");
    engine.ok(&["exec", "-d", "box", "touch", "/done"]);
    eventually("the detached exec has run", || (engine.run(&["exec", "box", "ls", "/done"]).code == 0).then_some(()));
    assert!(engine.ok(&["top", "box"]).contains("sleep 0.1"));
    engine.ok(&["pause", "box"]);
    assert_eq!(engine.ok(&["inspect", "-f", "{{.State.Status}}", "box"]), "paused");
    assert_ne!(engine.run(&["exec", "box", "true"]).code, 0);
    engine.ok(&["unpause", "box"]);
    let stats = engine.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "box"]);
    assert!(stats.contains("MB") || stats.contains("MiB"), "{stats}");
    engine.ok(&["stop", "-t", "20", "box"]);
    assert_eq!(engine.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]), "9", "the signal was heard");
    engine.ok(&["start", "box"]);
    engine.ok(&["restart", "-t", "20", "box"]);
    engine.ok(&["kill", "-s", "KILL", "box"]);
    assert_eq!(engine.ok(&["wait", "box"]), "137");
    engine.ok(&["start", "box"]);
    engine.ok(&["rm", "-f", "box"]);
}

fn terminals(engine: &Engine, run: &dyn Fn(&[&str]) -> Output) {
    run(&["-d", "-i", "-t", "--name", "box", "busybox", "sh"]).ok();
    let mut terminal = engine.terminal(&["exec", "-i", "-t", "box", "sh"]);
    // The client tells the size when the program runs already.
    terminal.type_in("tty; until stty size 2>/dev/null | grep 80; do sleep 0.1; done; exit $((40 + 4))\n");
    terminal.expect("/dev/pts/");
    terminal.expect("24 80");
    assert_eq!(terminal.finish(), 44);
    engine.ok(&["rm", "-f", "box"]);
}

/// Many at once, each with its own exit code.
fn many(engine: &Engine, run: &[&str]) {
    let start = |code: usize| {
        let script = format!("exit {code}");
        engine.command(&[run, &["--rm", "busybox", "sh", "-c", &script]].concat()).start()
    };
    let started: Vec<_> = (1..=20).map(start).collect();
    for (code, running) in (1..).zip(started) {
        assert_eq!(running.finish().code, code);
    }
}

#[test]
fn docker() {
    if missing("other_engines::docker", &["dockerd", "containerd", "docker"]) {
        return;
    }
    let engine = Engine::docker();
    let run = ["run", "--network", "none"];
    life_of_containers(&engine, &run);
    // The daemon is told of what the kernel killed.
    engine
        .run(&[
            "run",
            "--network",
            "none",
            "--name",
            "greedy",
            "-m",
            "16m",
            "--memory-swap",
            "16m",
            "busybox",
            "tail",
            "/dev/zero",
        ])
        .fails(137);
    assert_eq!(engine.ok(&["inspect", "-f", "{{.State.OOMKilled}}", "greedy"]), "true");
    engine.ok(&["rm", "greedy"]);
    let mut terminal = engine.terminal(&["run", "--network", "none", "--rm", "-i", "-t", "busybox", "sh"]);
    terminal.type_in("until stty size 2>/dev/null | grep 80; do sleep 0.1; done; exit 45\n");
    terminal.expect("24 80");
    assert_eq!(terminal.finish(), 45);
    if skip::program("docker-init").is_some() {
        let reaped = engine.ok(&["run", "--network", "none", "--rm", "--init", "busybox", "cat", "/proc/1/comm"]);
        assert_eq!(reaped, "docker-init");
    }
    let healthy = [
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "box",
        "--health-cmd",
        "test -e /ok",
        "--health-interval",
        "200ms",
        "busybox",
    ];
    engine.ok(&[healthy.as_slice(), &["sh", "-c", "touch /ok; sleep 1000"]].concat());
    eventually("it is healthy", || {
        (engine.ok(&["inspect", "-f", "{{.State.Health.Status}}", "box"]) == "healthy").then_some(())
    });
    engine.ok(&["update", "-m", "48m", "--memory-swap", "96m", "--cpus", "0.5", "box"]);
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
    assert_eq!(engine.ok(&["exec", "box", "sh", "-c", limits]), (48 << 20).to_string());
    let shown = engine.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "ls -d /sys/fs/cgroup/*/docker* /sys/fs/cgroup/*/brig* 2>/dev/null | wc -l",
    ]);
    assert_eq!(shown, "0", "the machine's cgroups are not its business");
    engine.ok(&["rm", "-f", "box"]);
    many(&engine, &run);
    assert_eq!(engine.ok(&["ps", "-aq"]), "");
    engine.end();
}

#[test]
fn podman() {
    if missing("other_engines::podman", &["podman", "conmon"]) {
        return;
    }
    let engine = Engine::podman();
    let parent = format!("/{}", engine.host.name);
    let run = ["run", "--network", "none", "--cgroup-parent", &parent];
    life_of_containers(&engine, &run);
    let own = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--rm", "busybox", "sh", "-c"];
    let ids =
        engine.ok(&[run.as_slice(), &own, &["head -c 30 /proc/self/uid_map; touch /x && stat -c %u /x"]].concat());
    assert!(ids.contains(" 100000 ") && ids.ends_with('0'), "{ids}");
    many(&engine, &run);
    assert_eq!(engine.ok(&["ps", "-aq"]), "");
    engine.end();
}

#[test]
fn containerd() {
    if missing("other_engines::containerd", &["containerd", "ctr"]) {
        return;
    }
    let engine = Engine::containerd();
    let runtime = binary("brig-rt").display().to_string();
    let cgroup = format!("/{}/box", engine.host.name);
    let image = "docker.io/library/busybox:latest";
    let run = |options: &[&str], program: &[&str]| {
        engine.command(
            &[&["run", "--runc-binary", &runtime, "--cgroup", &cgroup], options, &[image, "box"], program].concat(),
        )
    };
    assert_eq!(run(&["--rm"], &["sh", "-c", "exit 42"]).output().code, 42);
    let missing = run(&["--rm"], &["nosuch"]).output();
    assert!(missing.code != 0 && missing.stderr.contains("executable file not found in $PATH"), "{missing}");
    engine.run(&["containers", "rm", "box"]);
    assert_eq!(run(&["--rm", "--memory-limit", "16777216"], &["tail", "/dev/zero"]).output().code, 137);
    let limited =
        ["--rm", "--read-only", "--seccomp", "--memory-limit", "67108864", "--env", "SHIP=brig", "--cwd", "/tmp"];
    let script = "echo $SHIP; pwd; touch /x 2>/dev/null || echo read-only; grep Seccomp: /proc/self/status";
    assert_eq!(run(&limited, &["sh", "-c", script]).output().ok(), "brig\n/tmp\nread-only\nSeccomp:\t2");
    run(&["-d"], &["sleep", "1000"]).output().ok();
    let exec = |id: &str, more: &[&str], program: &[&str]| {
        engine.run(&[&["task", "exec", "--exec-id", id], more, &["box"], program].concat())
    };
    assert_eq!(exec("one", &[], &["sh", "-c", "exit 3"]).code, 3);
    assert_eq!(exec("two", &["--user", "1000"], &["id", "-u"]).ok(), "1000");
    let mut terminal = engine.terminal(&["task", "exec", "-t", "--exec-id", "three", "box", "sh"]);
    terminal.type_in("tty; exit 4\n");
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.finish(), 4);
    let listed = |state: &str| engine.ok(&["task", "ls"]).contains(state);
    engine.ok(&["task", "pause", "box"]);
    assert!(listed("PAUSED"));
    engine.ok(&["task", "resume", "box"]);
    assert!(listed("RUNNING"));
    let metrics: serde_json::Value =
        serde_json::from_str(&engine.ok(&["task", "metrics", "--format", "json", "box"])).unwrap();
    assert!(metrics["memory"].is_object() && metrics["pids"]["current"].as_u64() == Some(1), "{metrics}");
    engine.ok(&["task", "kill", "-s", "KILL", "box"]);
    eventually("it has stopped", || listed("STOPPED").then_some(()));
    engine.run(&["task", "rm", "box"]);
    engine.ok(&["containers", "rm", "box"]);
    engine.end();
}
