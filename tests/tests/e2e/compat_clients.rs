//! What clients rely on beyond the verbs: compared with Docker's daemon, where brig once differed.

use brig_tests::{TestHost, http, needs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn busybox() -> TestHost {
    let host = TestHost::new();
    host.load_busybox();
    host
}

/// Sends bytes as they are and gives the connection and the first piece of the answer.
fn raw(host: &TestHost, request: &str) -> (UnixStream, Vec<u8>) {
    let mut connection = UnixStream::connect(host.socket()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut piece = vec![0; 64 << 10];
    let count = connection.read(&mut piece).unwrap();
    piece.truncate(count);
    (connection, piece)
}

#[test]
fn output_of_an_exec_does_not_come_along_with_the_head() {
    let host = busybox();
    host.brig(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for user in ["", "nosuch"] {
        let asked = json!({"Cmd": ["echo", "hi"], "AttachStdout": true, "User": user}).to_string();
        let made = http::unix(&host.socket(), "POST", "/containers/box/exec", asked.as_bytes()).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let request = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let (mut connection, head) = raw(&host, &request);
        assert!(head.starts_with(b"HTTP/1.1 101") && head.ends_with(b"\r\n\r\n"), "{head:?}");
        let mut output = Vec::new();
        connection.read_to_end(&mut output).unwrap();
        let output = String::from_utf8_lossy(&output).into_owned();
        let ended = http::unix(&host.socket(), "GET", &format!("/exec/{id}/json"), &[]).unwrap().json();
        if user.is_empty() {
            assert_eq!((&output[8..], ended["ExitCode"].as_i64()), ("hi\n", Some(0)));
        } else {
            assert!(output[8..].starts_with("unable to find user nosuch"), "{output}");
            assert_eq!(ended["ExitCode"], 126);
        }
        let again = http::unix(&host.socket(), "POST", &format!("/exec/{id}/start"), b"{}").unwrap();
        assert_eq!(again.status, 409, "{}", again.text());
    }
}

#[test]
fn a_refused_upload_is_read_to_its_end() {
    let host = busybox();
    let mut connection = UnixStream::connect(host.socket()).unwrap();
    let length = 8 << 20;
    write!(
        connection,
        "POST /swarm/init HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    // The answer is there long before the body is.
    let mut answered = [PollFd::new(&connection, PollFlags::IN)];
    assert_eq!(poll(&mut answered, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })), Ok(1));
    connection.write_all(&vec![b'x'; length]).expect("the daemon reads on");
    let mut head = [0; 12];
    connection.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 501");
}

#[test]
fn quotes_in_a_query_and_expressions_in_a_name() {
    let host = busybox();
    host.brig(&["create", "--name", "web-1", "busybox"]).ok();
    host.brig(&["create", "--name", "web-2", "busybox"]).ok();
    let request = "GET /containers/json?all=1&filters={\"name\":[\"^/web-[2-9]$\"]} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";
    let (mut connection, mut answer) = raw(&host, request);
    connection.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("/web-2") && !answer.contains("/web-1"), "{answer}");
    for (filter, names) in [("name=web", 2), ("name=^web-1$", 1), ("name=b-[12]", 2), ("name=^b", 0)] {
        let listed = host.brig(&["ps", "-aq", "--filter", filter]).ok();
        assert_eq!(listed.lines().count(), names, "{filter}: {listed}");
    }
    for filter in ["health=x", "is-task=x", "publish=x"] {
        host.brig(&["ps", "--filter", filter]).fails(1);
    }
}

#[test]
fn what_is_missing_besides_the_image_is_no_404_of_create() {
    needs!("compat_clients::what_is_missing_besides_the_image_is_no_404_of_create", "docker");
    let host = busybox();
    for option in [&["--network", "nosuch"], &["--network", "container:nosuch"], &["--volumes-from", "nosuch"]] {
        let mut line = vec!["run", "--rm"];
        line.extend(option);
        line.extend(["busybox", "true"]);
        let refused = host.docker(&line).fails(125);
        // A 404 makes the client look for the image instead.
        assert!(!refused.contains("Unable to find image"), "{refused}");
        assert!(refused.contains("nosuch"), "{refused}");
    }
    assert_eq!(host.brig(&["ps", "-aq"]).ok(), "");
}

#[test]
fn inspect_shows_what_is_in_force() {
    let host = busybox();
    host.brig(&["run", "-d", "--name", "box", "-m", "64m", "-h", "ship", "busybox", "sleep", "1000"]).ok();
    let shown = &host.inspect("box")["HostConfig"];
    assert_eq!((&shown["ShmSize"], &shown["MemorySwap"]), (&json!(64 << 20), &json!(128 << 20)));
    assert_eq!((&shown["IpcMode"], &shown["PidsLimit"]), (&json!("private"), &json!(null)));
    assert!(shown["MaskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    host.brig(&["run", "-d", "--name", "guest", "--network", "container:box", "busybox", "sleep", "1000"]).ok();
    let id = host.inspect("box")["Id"].as_str().unwrap().to_owned();
    assert_eq!(host.inspect("guest")["HostConfig"]["NetworkMode"], format!("container:{id}"));
    assert_eq!(host.brig(&["exec", "guest", "hostname"]).ok(), "ship");
    host.brig(&["rm", "-f", "guest", "box"]).ok();
}

#[test]
fn paused_containers_end() {
    let host = busybox();
    host.brig(&[
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' TERM; while :; do sleep 0.1; done",
    ])
    .ok();
    host.brig(&["pause", "box"]).ok();
    host.brig(&["stop", "-t", "20", "box"]).ok();
    assert_eq!(host.brig(&["wait", "box"]).ok(), "9", "the signal was heard");
    host.brig(&["start", "box"]).ok();
    host.brig(&["pause", "box"]).ok();
    host.brig(&["kill", "box"]).ok();
    assert_eq!(host.brig(&["wait", "box"]).ok(), "137");
    host.brig(&["rm", "box"]).ok();
}

#[test]
fn top_events_and_what_is_built_in() {
    let host = busybox();
    host.brig(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let top = |arguments: &str| {
        let path = format!("/containers/box/top?ps_args={arguments}");
        http::unix(&host.socket(), "GET", &path, &[]).unwrap().json()
    };
    assert_eq!(
        top("aux")["Titles"],
        json!(["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"])
    );
    assert_eq!(top("aux")["Processes"][0][0], "root");
    assert_eq!(top("-o+pid,args")["Titles"], json!(["PID", "COMMAND"]));
    host.brig(&["rm", "-f", "box"]).ok();
    let seen = host.brig(&["events", "--since", "1h", "--until", "0s", "--format", "{{.Type}} {{.Action}}"]).ok();
    let at = |event: &str| seen.lines().position(|line| line == event).unwrap_or_else(|| panic!("{event}: {seen}"));
    assert!(at("network connect") < at("container start"), "{seen}");
    assert!(at("container die") < at("network disconnect"), "{seen}");
    let delete = |name: &str| http::unix(&host.socket(), "DELETE", &format!("/networks/{name}"), &[]).unwrap().status;
    assert_eq!((delete("bridge"), delete("nosuch")), (403, 404));
    let refused = host.brig(&["create", "--cpuset-cpus", "4000", "busybox"]).fails(1);
    assert!(refused.contains("Requested CPUs are not available"), "{refused}");
}

#[test]
fn a_container_knows_that_it_is_one() {
    let host = busybox();
    assert_eq!(host.brig(&["run", "--rm", "busybox", "ls", "-d", "/.dockerenv"]).ok(), "/.dockerenv");
}
