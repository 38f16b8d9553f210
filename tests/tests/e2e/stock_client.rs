//! The stock `docker` client against the host's socket, and the bare API of the oldest and newest versions.

use brig_tests::{Image, TestHost, eventually, http, needs};

#[test]
fn the_verbs_of_every_day() {
    needs!("stock_client::the_verbs_of_every_day", "docker");
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&Image::busybox(), "busybox", "latest");
    let image = registry.name("busybox");
    assert!(host.docker(&["pull", &image]).ok().contains("Status: Downloaded newer image"));
    assert_eq!(host.docker(&["run", "--rm", &image, "echo", "hi"]).ok(), "hi");
    assert_eq!(host.docker(&["run", "--rm", &image, "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(host.docker_run(&["run", "--rm", "-i", &image, "cat"]).input("through").output().ok(), "through");
    let id = host
        .docker(&["run", "-d", "--name", "box", "-p", "8080:80", "-e", "A=1", "-v", "/data", &image, "sleep", "1000"])
        .ok();
    assert_eq!(host.docker(&["ps", "-q", "--no-trunc"]).ok(), id);
    assert!(host.docker(&["ps"]).ok().contains("0.0.0.0:8080->80/tcp"));
    assert_eq!(host.docker(&["exec", "box", "sh", "-c", "echo $A"]).ok(), "1");
    assert_eq!(host.docker(&["exec", "box", "sh", "-c", "exit 3"]).code, 3);
    assert_eq!(
        host.docker(&["inspect", "-f", "{{.State.Status}} {{.Config.Env}}", "box"]).ok().split(' ').next(),
        Some("running")
    );
    assert!(host.docker(&["top", "box"]).ok().contains("sleep 1000"));
    assert!(host.docker(&["stats", "--no-stream"]).ok().contains("box"));
    assert!(host.docker(&["port", "box"]).ok().contains("80/tcp -> 0.0.0.0:8080"));
    host.docker(&["pause", "box"]).ok();
    host.docker(&["unpause", "box"]).ok();
    host.docker(&["rename", "box", "ship"]).ok();
    host.docker(&["update", "-m", "64m", "--memory-swap", "-1", "ship"]).ok();
    host.docker(&["restart", "-t", "0", "ship"]).ok();
    host.docker(&["stop", "-t", "0", "ship"]).ok();
    assert_eq!(host.docker(&["wait", "ship"]).ok(), "137");
    host.docker(&["start", "ship"]).ok();
    host.docker(&["kill", "ship"]).ok();
    host.docker(&["rm", "-v", "ship"]).ok();
    host.docker(&["run", "--name", "talk", &image, "sh", "-c", "echo out; echo err >&2"]).ok();
    let logs = host.docker(&["logs", "talk"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    assert!(host.docker(&["images"]).ok().contains("127.0.0.1:5000/busybox"));
    assert!(host.docker(&["history", &image]).ok().contains("made by a test"));
    host.docker(&["tag", &image, "mine:1"]).ok();
    host.docker(&["rmi", "mine:1"]).ok();
    host.docker(&["container", "prune", "-f"]).ok();
    assert_eq!(host.docker(&["ps", "-aq"]).ok(), "");
    assert!(host.docker(&["info"]).ok().contains("Containers: 0"));
    assert!(host.docker(&["version"]).ok().contains("Server:"));
    assert!(host.docker(&["network", "ls"]).ok().contains("bridge"));
    assert!(host.docker(&["volume", "ls"]).ok().contains("VOLUME NAME"));
    host.docker(&["system", "df"]).ok();
}

/// The client asks for the exit code as soon as the stream has ended.
#[test]
fn exit_codes_of_many_execs() {
    needs!("stock_client::exit_codes_of_many_execs", "docker");
    let host = TestHost::new();
    host.load_busybox();
    host.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for round in 0..40 {
        let code = round % 9 + 1;
        assert_eq!(host.docker(&["exec", "box", "sh", "-c", &format!("exit {code}")]).code, code, "round {round}");
        assert_eq!(host.brig(&["exec", "box", "sh", "-c", &format!("exit {code}")]).code, code, "round {round}");
    }
}

#[test]
fn a_terminal() {
    needs!("stock_client::a_terminal", "docker");
    let host = TestHost::new();
    host.load_busybox();
    let mut terminal = host.docker_terminal(&["run", "-it", "--name", "tty", "busybox", "sh"]);
    terminal.expect("/ # ");
    terminal.type_in("stty size\n");
    terminal.expect("24 80");
    terminal.type_in("\x10\x11");
    terminal.finish();
    let mut terminal = host.docker_terminal(&["exec", "-it", "tty", "sh"]);
    terminal.expect("/ # ");
    terminal.type_in("echo $((6*7)); exit 5\n");
    terminal.expect("42");
    assert_eq!(terminal.finish(), 5);
    let mut terminal = host.docker_terminal(&["attach", "tty"]);
    terminal.type_in("exit 6\n");
    assert_eq!(terminal.finish(), 6);
}

#[test]
fn load_events_and_errors() {
    needs!("stock_client::load_events_and_errors", "docker");
    let host = TestHost::new();
    let loaded = host.docker_run(&["load"]).input(Image::busybox().docker_archive("busybox:latest")).output();
    assert!(loaded.ok().contains("Loaded image: busybox:latest"), "{loaded}");
    host.docker(&["run", "--rm", "--name", "short", "busybox", "true"]).ok();
    // The client says whole seconds, rounded down.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let seen = host.docker(&["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"]);
    let seen: Vec<&str> = seen.stdout.lines().collect();
    for action in ["create", "attach", "start", "die", "destroy"] {
        assert!(seen.contains(&action), "{action} in {seen:?}");
    }
    assert_eq!(host.docker(&["run", "--rm", "busybox", "nosuch"]).code, 127);
    assert_eq!(host.docker(&["run", "--rm", "busybox", "/etc/passwd"]).code, 126);
    let missing = host.docker(&["start", "nosuch"]).fails(1);
    assert!(missing.contains("No such container: nosuch"), "{missing}");
    host.docker(&["create", "--name", "box", "busybox"]).ok();
    let taken = host.docker(&["create", "--name", "box", "busybox"]).fails(1);
    assert!(taken.contains("Conflict. The container name \"/box\" is already in use"), "{taken}");
}

#[test]
fn every_version_of_the_api() {
    let host = TestHost::new();
    host.load_busybox();
    let get = |path: &str| http::unix(&host.socket(), "GET", path, &[]).unwrap();
    assert_eq!(get("/_ping").text(), "OK");
    let newest = get("/version").json()["ApiVersion"].as_str().unwrap().to_owned();
    let newest: u32 = newest.strip_prefix("1.").unwrap().parse().unwrap();
    for minor in 24..=newest {
        for path in ["containers/json?all=1", "images/json", "info", "version", "networks", "volumes"] {
            let answer = get(&format!("/v1.{minor}/{path}"));
            assert_eq!(answer.status, 200, "v1.{minor}/{path}: {}", answer.text());
            answer.json();
        }
    }
    let old = get("/v1.12/info");
    assert_eq!(old.status, 400, "{}", old.text());
    assert!(old.json()["message"].as_str().unwrap().contains("too old"));
    let new = get("/v1.99/info");
    assert_eq!(new.status, 400);
    assert!(new.json()["message"].as_str().unwrap().contains("too new"));
    assert_eq!(get("/v1.41/containers/nosuch/json").status, 404);
    assert_eq!(get("/v1.41/nosuch").status, 404);
    let body = br#"{"Image": "nosuch"}"#;
    let created = http::unix(&host.socket(), "POST", "/v1.41/containers/create", body).unwrap();
    assert_eq!((created.status, created.json()["message"].clone()), (404, "No such image: nosuch:latest".into()));
    let broken = http::unix(&host.socket(), "POST", "/v1.41/containers/create", b"{").unwrap();
    assert_eq!(broken.status, 400);
}

#[test]
fn called_docker_it_is_docker() {
    let host = TestHost::new();
    host.load_busybox();
    let link = host.root.join("docker");
    std::os::unix::fs::symlink(brig_tests::host::binary("brig"), &link).unwrap();
    let socket = format!("unix://{}", host.socket().display());
    let output = host.run(&link, &["run", "--rm", "busybox", "echo", "hi"]).env("DOCKER_HOST", socket).output();
    assert_eq!(output.ok(), "hi");
    eventually("nothing runs", || (host.brig(&["ps", "-aq"]).ok().is_empty()).then_some(()));
}
