//! What people get wrong: each mistake has a message of its own that names it, and Docker's exit code.

use brig_tests::TestHost;

#[track_caller]
fn refused(host: &TestHost, code: i32, arguments: &[&str], words: &[&str]) {
    let output = host.brig(arguments);
    assert_eq!(output.code, code, "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "no {word:?} in {output}");
    }
    assert!(!output.stderr.contains("panicked"), "{output}");
}

#[test]
fn images_and_references() {
    let host = TestHost::new();
    refused(&host, 125, &["run", "--pull", "never", "nosuch"], &["No such image: nosuch:latest"]);
    refused(&host, 125, &["run", "UPPER"], &["repository name", "must be lowercase"]);
    refused(&host, 125, &["run", "a:b:c"], &["invalid reference format"]);
    refused(&host, 1, &["rmi", "nosuch"], &["No such image: nosuch"]);
    refused(&host, 1, &["inspect", "nosuch"], &["nosuch"]);
    refused(&host, 1, &["tag", "nosuch", "x"], &["No such image: nosuch"]);
}

#[test]
fn flags() {
    let host = TestHost::new();
    host.load_busybox();
    refused(&host, 125, &["run", "--nosuch", "busybox"], &["--nosuch"]);
    refused(&host, 125, &["run", "-m", "much", "busybox"], &["much"]);
    refused(&host, 125, &["run", "-m", "1k", "busybox"], &["memory"]);
    refused(&host, 125, &["run", "--cpus", "-1", "busybox"], &["range of CPUs"]);
    refused(&host, 125, &["run", "-p", "99999:80", "busybox"], &["99999"]);
    refused(&host, 125, &["run", "-p", "a:80", "busybox"], &["a"]);
    refused(&host, 125, &["run", "--restart", "sometimes", "busybox"], &["sometimes"]);
    refused(&host, 125, &["run", "--ulimit", "nosuch=1", "busybox"], &["nosuch"]);
    refused(&host, 125, &["run", "--cap-add", "NOSUCH", "busybox"], &["NOSUCH"]);
    refused(&host, 125, &["run", "--security-opt", "nosuch=1", "busybox"], &["nosuch"]);
    refused(&host, 125, &["run", "--name", "no/slash", "busybox"], &["no/slash"]);
    refused(&host, 125, &["run", "-v", "relative/path:/x:nosuch", "busybox"], &["invalid mode: nosuch"]);
    refused(&host, 125, &["run", "-h", &"x".repeat(80), "busybox"], &["hostname"]);
    refused(&host, 1, &["run"], &["'brig run' requires at least 1 argument"]);
    let unknown = host.brig(&["nosuch"]);
    assert!(unknown.code != 0 && unknown.stderr.contains("nosuch"), "{unknown}");
    assert_eq!(
        host.brig(&["ps", "-a", "--no-trunc", "--format", "{{.Command}} {{.Status}}"]).ok(),
        "",
        "no container was made"
    );
    refused(&host, 125, &["run", "--network", "nosuch", "busybox"], &["nosuch", "not found"]);
}

#[test]
fn names_in_use() {
    let host = TestHost::new();
    host.load_busybox();
    let id = host.brig(&["create", "--name", "box", "busybox"]).ok();
    refused(
        &host,
        125,
        &["run", "--name", "box", "busybox"],
        &["Conflict", "\"/box\"", "is already in use by container", &id],
    );
    host.brig(&["create", "--name", "other", "busybox"]).ok();
    refused(&host, 1, &["rename", "other", "box"], &["box", "already in use"]);
    refused(&host, 1, &["start", "nosuch"], &["No such container: nosuch"]);
    refused(&host, 1, &["exec", "box", "true"], &["is not running"]);
    refused(&host, 1, &["exec", "nosuch", "true"], &["No such container: nosuch"]);
    refused(&host, 1, &["kill", "box"], &["is not running"]);
    refused(&host, 1, &["kill", "-s", "NOSUCH", "box"], &["NOSUCH"]);
    refused(&host, 1, &["pause", "box"], &["is not running"]);
}

#[test]
fn commands_that_cannot_be_run() {
    let host = TestHost::new();
    host.load_busybox();
    refused(&host, 127, &["run", "--rm", "busybox", "nosuch"], &["nosuch", "executable file not found in $PATH"]);
    refused(&host, 127, &["run", "--rm", "busybox", "/no/such"], &["/no/such", "no such file or directory"]);
    refused(&host, 126, &["run", "--rm", "busybox", "/etc/passwd"], &["/etc/passwd", "permission denied"]);
    refused(&host, 126, &["run", "--rm", "busybox", "/etc"], &["/etc"]);
    refused(&host, 125, &["run", "--rm", "-u", "nosuch", "busybox", "true"], &["nosuch"]);
    refused(&host, 127, &["run", "-d", "--name", "late", "busybox", "nosuch"], &["nosuch"]);
    assert_eq!(host.field("late", "{{.State.Status}} {{.State.ExitCode}}"), "created 127");
    assert_eq!(host.brig(&["ps", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn binds() {
    let host = TestHost::new();
    host.load_busybox();
    let missing = host.root.join("nosuch").display().to_string();
    let mount = format!("type=bind,src={missing},dst=/x");
    refused(&host, 125, &["run", "--rm", "--mount", &mount, "busybox"], &["bind source path does not exist", &missing]);
    // `-v` makes the folder, as Docker's does.
    host.brig(&["run", "--rm", "-v", &format!("{missing}:/x"), "busybox", "touch", "/x/file"]).ok();
    assert!(std::path::Path::new(&missing).join("file").exists());
    refused(&host, 125, &["run", "--rm", "-v", &format!("{missing}:x"), "busybox"], &["mount path must be absolute"]);
}

#[test]
fn a_second_daemon_on_the_same_root() {
    let host = TestHost::new();
    let other = host.root.join("other.sock");
    let mut arguments = vec!["daemon".to_owned(), "-H".to_owned(), format!("unix://{}", other.display())];
    arguments.extend(host.daemon_arguments());
    let failed = host.run(brig_tests::host::binary("brig"), &arguments).output();
    assert_ne!(failed.code, 0);
    let said = failed.stderr + &failed.stdout;
    assert!(said.contains(&host.daemon_pid().to_string()), "it names the other's pid: {said}");
    assert!(said.contains(&host.data_root.display().to_string()), "it names the root: {said}");
    assert!(!other.exists());
    host.brig(&["version"]).ok();
    // The same socket with another root.
    let root = host.root.join("other-root").display().to_string();
    let socket = format!("unix://{}", host.socket().display());
    let exec_root = host.root.join("other-run").display().to_string();
    let arguments = ["daemon", "-H", &socket, "--data-root", &root, "--exec-root", &exec_root];
    let failed = host.run(brig_tests::host::binary("brig"), &arguments).output();
    assert_ne!(failed.code, 0);
    assert!((failed.stderr + &failed.stdout).contains(&host.socket().display().to_string()));
    host.brig(&["version"]).ok();
}

#[test]
fn a_root_that_cannot_be_written() {
    let host = TestHost::without_daemon(&[]);
    let socket = format!("unix://{}", host.socket().display());
    for root in ["/proc/brig", "/dev/null/brig"] {
        let arguments =
            ["daemon", "-H", &socket, "--data-root", root, "--exec-root", &host.exec_root().display().to_string()];
        let failed = host.run(brig_tests::host::binary("brig"), &arguments).output();
        assert_ne!(failed.code, 0);
        let said = failed.stderr + &failed.stdout;
        assert!(said.contains(root), "it names the path: {said}");
        assert!(!host.socket().exists());
    }
}

#[test]
fn no_daemon_at_all() {
    let host = TestHost::without_daemon(&[]);
    let failed = host.brig(&["ps"]).fails(1);
    assert!(failed.contains("Cannot connect") && failed.contains(&host.socket().display().to_string()), "{failed}");
    let bad = host.run(brig_tests::host::binary("brig"), &["-H", "gopher://x", "ps"]).output();
    assert!(bad.code != 0 && bad.stderr.contains("gopher://x"), "{bad}");
}

#[test]
fn daemon_flags_and_configuration() {
    let host = TestHost::without_daemon(&[]);
    let daemon = |arguments: &[&str]| {
        let mut all = vec!["daemon"];
        all.extend(arguments);
        let output = host.run(brig_tests::host::binary("brig"), &all).output();
        (output.code, output.stderr + &output.stdout)
    };
    let (code, said) = daemon(&["--nosuch"]);
    assert!(code != 0 && said.contains("--nosuch"), "{said}");
    let config = host.root.join("bad.json");
    std::fs::write(&config, r#"{"nosuch-option": 1}"#).unwrap();
    let (code, said) = daemon(&["--validate", "--config-file", &config.display().to_string()]);
    assert!(code != 0 && said.contains("nosuch-option"), "{said}");
    std::fs::write(&config, "{").unwrap();
    let (code, said) = daemon(&["--validate", "--config-file", &config.display().to_string()]);
    assert!(code != 0 && said.contains("bad.json"), "{said}");
    std::fs::write(&config, r#"{"debug": true, "live-restore": true}"#).unwrap();
    let (code, said) = daemon(&["--validate", "--config-file", &config.display().to_string()]);
    assert!(code == 0 && said.contains("configuration OK"), "{said}");
}
