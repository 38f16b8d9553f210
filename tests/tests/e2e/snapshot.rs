//! What a container changed: diff, commit and export, through brig and the stock client.

use brig_tests::{TestHost, needs};

/// Everything below `/` that a tar lists, with what it says about it, but not when the image's own files were made.
fn members(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let describe = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mtime = entry.pax_extensions().unwrap().and_then(|mut all| {
            all.find_map(|one| Some(one.ok()?).filter(|one| one.key() == Ok("mtime"))?.value().ok().map(str::to_owned))
        });
        let header = entry.header();
        format!(
            "{} {:o} {}:{} {}",
            entry.path().unwrap().display(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            mtime.unwrap_or_else(|| header.mtime().unwrap().to_string())
        )
    };
    let all = archive.entries().unwrap().map(describe);
    // Each container's own.
    all.filter(|line| !line.starts_with(".dockerenv ")).collect()
}

const DEEDS: &str = "mkdir -p /made/deep && echo new > /made/deep/file && ln /made/deep/file /made/hard \
    && ln -s file /made/deep/link && chown 12:34 /made/hard && chmod 4755 /made/deep && mkfifo /made/pipe \
    && rm /bin/wc && echo more > /etc/motd && touch -d '2001-02-03 04:05:06' /made/deep/file";

#[test]
fn changes_become_an_image() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "--name", "idle", "busybox", "true"]).ok();
    assert_eq!(host.brig(&["diff", "idle"]).ok(), "", "a start changes nothing");
    host.brig(&["run", "--name", "box", "-e", "A=1", "--workdir", "/made", "busybox", "sh", "-c", DEEDS]).ok();
    let diff = host.brig(&["diff", "box"]).ok();
    let changes: Vec<&str> = diff.lines().collect();
    let expected = [
        "C /bin",
        "D /bin/wc",
        "A /made",
        "A /made/deep",
        "A /made/deep/file",
        "A /made/deep/link",
        "A /made/hard",
        "A /made/pipe",
    ];
    for change in expected {
        assert!(changes.contains(&change), "{change}:\n{diff}");
    }
    assert!(!diff.contains("hosts") && !diff.contains("/proc") && !diff.contains(".dockerenv"), "{diff}");

    let options = ["commit", "-a", "me", "-m", "words", "-c", "CMD [\"cat\",\"deep/file\"]", "-c", "ENV B=$A A=2"];
    let timestamp = ["--timestamp", "1000000000", "box"];
    let id = host.brig(&[&options[..], &timestamp, &["mine/box:1"]].concat()).ok();
    assert_eq!(host.brig(&[&options[..], &timestamp].concat()).ok(), id, "the same again is the same image");
    assert_eq!(host.brig(&["run", "--rm", "mine/box:1"]).ok(), "new");
    let look = "stat -c '%a %u:%g %h' /made/deep /made/hard; stat -c %y /made/deep/file; test ! -e /bin/wc && echo gone; echo $A $B";
    let seen = host.brig(&["run", "--rm", "mine/box:1", "sh", "-c", look]).ok();
    assert_eq!(seen, "4755 0:0 2\n644 12:34 2\n2001-02-03 04:05:06.000000000 +0000\ngone\n2 1");
    let shown = host.field("mine/box:1", "{{.Author}} {{.Comment}} {{.Created}} {{.Config.WorkingDir}}");
    assert_eq!(shown, "me words 2001-09-09T01:46:40Z /made");
    assert_eq!(host.field("mine/box:1", "{{json .Config.Env}}").matches("A=").count(), 1);
    let history = host.brig(&["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "mine/box:1"]).ok();
    assert!(history.lines().next().unwrap().ends_with("|words"), "{history}");

    // Nothing changed: no layer, only a configuration.
    host.brig(&["commit", "-c", "LABEL x=y", "idle", "same"]).ok();
    let layers = |name: &str| host.field(name, "{{json .RootFS.Layers}}");
    assert_eq!(layers("same"), layers("busybox"));
    let refused = host.brig(&["commit", "-c", "RUN x", "idle"]).fails(1);
    assert!(refused.contains("RUN is not a valid change command"), "{refused}");
    assert!(host.brig(&["commit", "nobody"]).fails(1).contains("No such container: nobody"));
    assert!(host.brig(&["commit", "idle", "Not-a-name"]).code != 0);
    // An image whose container's image has gone is whole all the same.
    host.brig(&["rmi", "-f", "busybox"]).ok();
    host.brig(&["commit", "box", "orphan"]).ok();
    assert_eq!(host.brig(&["run", "--rm", "orphan", "cat", "/made/deep/file"]).ok(), "new");
}

#[test]
fn a_running_container_is_frozen_and_goes_on() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "while :; do date +%N > /x; done"]).ok();
    host.brig(&["commit", "box", "frozen"]).ok();
    host.brig(&["commit", "--no-pause", "box", "alive"]).ok();
    assert_eq!(host.field("box", "{{.State.Status}}"), "running");
    let events = host.brig(&["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"]).ok();
    for (action, count) in [("pause", 1), ("unpause", 1), ("commit", 2)] {
        assert_eq!(events.lines().filter(|line| *line == action).count(), count, "{action}:\n{events}");
    }
    let tar = host.root.join("box.tar");
    host.brig(&["export", "-o", &tar.display().to_string(), "box"]).ok();
    assert!(members(&std::fs::read(&tar).unwrap()).iter().any(|line| line.starts_with("x ")));
    // One that is paused stays so.
    host.brig(&["pause", "box"]).ok();
    host.brig(&["commit", "box", "still"]).ok();
    assert_eq!(host.field("box", "{{.State.Status}}"), "paused");
}

#[test]
fn an_export_comes_back_as_it_was() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "--name", "box", "busybox", "sh", "-c", DEEDS]).ok();
    let tar = host.root.join("box.tar");
    let file = tar.display().to_string();
    host.brig(&["export", "-o", &file, "box"]).ok();
    let first = std::fs::read(&tar).unwrap();
    assert!(
        members(&first).iter().any(|line| line.starts_with("made/deep/file 644 12:34 981173106")),
        "{:?}",
        members(&first)
    );
    let import = ["import", "--timestamp", "0", "-c", "CMD [\"sh\"]", &file];
    let id = host.brig(&[&import[..], &["back"]].concat()).ok();
    assert_eq!(host.brig(&import).ok(), id, "the same archive is the same image");
    host.brig(&["create", "--name", "again", "back"]).ok();
    host.brig(&["export", "-o", &file, "again"]).ok();
    assert_eq!(members(&std::fs::read(&tar).unwrap()), members(&first));
    assert!(host.brig(&["export", "nobody"]).fails(1).contains("No such container: nobody"));
}

#[test]
fn the_stock_client_does_the_same() {
    needs!("snapshot::the_stock_client_does_the_same", "docker");
    let host = TestHost::new();
    host.load_busybox();
    host.docker(&["run", "--name", "box", "busybox", "sh", "-c", DEEDS]).ok();
    assert!(host.docker(&["diff", "box"]).ok().contains("D /bin/wc"));
    let options =
        ["commit", "--author", "me", "--message", "m", "--change", "HEALTHCHECK --interval=5s CMD true", "box"];
    let id = host.docker(&[&options[..], &["mine:2"]].concat()).ok();
    assert_eq!(host.field("mine:2", "{{.Id}} {{.Config.Healthcheck.Test}}"), format!("{id} [CMD-SHELL true]"));
    let tar = host.root.join("box.tar");
    host.docker(&["export", "-o", &tar.display().to_string(), "box"]).ok();
    let imported =
        host.docker(&["import", "--change", "ENTRYPOINT [\"cat\"]", &tar.display().to_string(), "back"]).ok();
    assert!(imported.starts_with("sha256:"), "{imported}");
    assert_eq!(host.docker(&["run", "--rm", "back", "/made/hard"]).ok(), "new");
}
