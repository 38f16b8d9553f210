//! The protocol's JSON as other programs see it. Owns: expected texts. Must not: start anything.

use super::*;

fn text(message: &impl Serialize) -> String {
    String::from_utf8(encode(message)).unwrap()
}

#[test]
fn requests_have_the_agreed_spelling() {
    assert_eq!(text(&Request::Subscribe), "{\"req\":\"subscribe\"}\n");
    assert_eq!(text(&Request::KillAll), "{\"req\":\"kill_all\"}\n");
    assert_eq!(text(&Request::Kill { signal: 15 }), "{\"req\":\"kill\",\"signal\":15}\n");
    let attach = Request::Attach(Streams { stdin: true, stdout: true, stderr: false });
    assert_eq!(text(&attach), "{\"req\":\"attach\",\"stdin\":true,\"stdout\":true,\"stderr\":false}\n");
    assert_eq!(
        decode_request(b"{\"req\":\"resize\",\"height\":24,\"width\":80}\n").unwrap(),
        Request::Resize { height: 24, width: 80 }
    );
    let exec = br#"{"req":"exec","exec_id":"e1","process":{"args":["true"],"cwd":"/"},"terminal":false}"#;
    let Request::Exec(exec) = decode_request(exec).unwrap() else { panic!("not an exec") };
    assert_eq!((exec.exec_id.as_str(), exec.attach.any()), ("e1", false));
    assert_eq!(exec.process.args, ["true"]);
}

#[test]
fn unknown_requests_are_named() {
    let error = decode_request(b"{\"req\":\"dance\"}").unwrap_err().to_string();
    assert!(error.contains("not a shim's request") && error.contains("dance"), "{error}");
}

#[test]
fn answers_and_events_are_told_apart() {
    let ok: Answer<()> = Answer::Ok(());
    assert_eq!(text(&ok), "{\"ok\":null}\n");
    let refused: Answer<()> = Answer::Error(Failure::new(FailureKind::NotFound, "no such exec: e"));
    assert_eq!(text(&refused), "{\"error\":{\"kind\":\"not_found\",\"message\":\"no such exec: e\"}}\n");
    let Message::Answer(answer) = decode_message(text(&refused).as_bytes()).unwrap() else { panic!("an event") };
    assert_eq!(answer.into_result().unwrap_err().kind, FailureKind::NotFound);
    let exited = Event::Exited { exit_code: 137, signal: Some(9), oom_killed: true, at: "t".into() };
    assert_eq!(
        text(&exited),
        "{\"event\":\"exited\",\"exit_code\":137,\"signal\":9,\"oom_killed\":true,\"at\":\"t\"}\n"
    );
    assert_eq!(decode_message(text(&exited).as_bytes()).unwrap(), Message::Event(exited));
}

#[test]
fn shim_json_as_the_engine_writes_it() {
    let config: Config = serde_json::from_str(
        r#"{"id":"ab","rootfs":{"overlay":{"lower":["/l"],"upper":"/u","work":"/w","volatile":true}},
            "log":{"driver":"json-file","path":"/x.log","max_size_bytes":10485760,"max_files":3},
            "exit_file":"/exit.json","stdin_open":true,"terminal":false,"cgroup_parent":"/brig","console_size":[24,80]}"#,
    )
    .unwrap();
    assert_eq!(config.log.driver, LogDriver::JsonFile);
    assert_eq!(config.console_size, Some([24, 80]));
    let tmpfs: Rootfs = serde_json::from_str(r#"{"overlay_tmpfs":{"lower":["/"],"size_bytes":null}}"#).unwrap();
    assert_eq!(tmpfs, Rootfs::OverlayTmpfs { lower: vec!["/".into()], size_bytes: None });
    let directory: Rootfs = serde_json::from_str(r#"{"directory":"/r"}"#).unwrap();
    assert_eq!(directory, Rootfs::Directory("/r".into()));
}

#[test]
fn frame_headers_are_dockers() {
    assert_eq!(frame_header(Channel::Stderr, 0x0102), [2, 0, 0, 0, 0, 0, 1, 2]);
}
