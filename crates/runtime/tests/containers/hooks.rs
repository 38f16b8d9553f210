//! Hooks of all six kinds: when and where they run, what they read, and what comes of those that fail, hang or flood.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use brig_oci::runtime::{Hook, Hooks, Spec, State};
use brig_runtime::{About, CreateRequest, Error, Rootfs};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] = &[
    ("hooks_in_order_and_place", hooks_in_order_and_place),
    ("hooks_get_nothing_of_the_image", hooks_get_nothing_of_the_image),
    ("create_container_hooks_see_both", create_container_hooks_see_both),
    ("failing_hooks_end_the_creation", failing_hooks_end_the_creation),
    ("failing_hooks_end_the_start", failing_hooks_end_the_start),
    ("hooks_that_hang_flood_or_stay", hooks_that_hang_flood_or_stay),
    ("start_container_hooks_are_confined", start_container_hooks_are_confined),
];

fn hook(script: &str) -> Hook {
    Hook { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], ..Hook::default() }
}

/// Everything writes below `log`: a file that containers can write too.
fn with_log(place: &Place, spec: &mut Spec) -> String {
    let log = place.path("canary/log");
    fs::write(&log, "").unwrap();
    std::os::unix::fs::chown(&log, Some(BASE), Some(BASE)).unwrap();
    let log = log.to_str().unwrap().to_owned();
    spec.mounts.push(mount("/log", "bind", &log, &["bind"]));
    log
}

fn named(place: &Place) -> About {
    About { id: "named".into(), bundle: place.dir.path().to_owned() }
}

/// The request of a bundle: the place.
fn bundle<'a>(place: &'a Place, spec: &'a Spec, output: &mut Option<Output>) -> CreateRequest<'a> {
    let (stdio, pipes) = pipes();
    *output = Some(pipes);
    CreateRequest {
        about: named(place),
        // Its files belong to whom they belong, so that a log can be written from both sides.
        idmap_binds: false,
        ..request(place, spec, place.overlay(), stdio)
    }
}

fn life(place: &Place, spec: &Spec) -> Result<Ran, Error> {
    let mut output = None;
    let mut container = brig_runtime::create(bundle(place, spec, &mut output))?;
    container.wait_ready()?;
    container.start()?;
    let ran = output.unwrap().collect(container.pidfd());
    container.delete()?;
    let about = named(place);
    assert_eq!(brig_runtime::hooks::poststop(spec, &about)?, [""; 0]);
    Ok(ran)
}

fn hooks_in_order_and_place() {
    let place = Place::new("hook");
    let mut spec = spec(&["sh", "-c", "echo program >>/log; sleep 0.3"]);
    let log = with_log(&place, &mut spec);
    spec.annotations.insert("a".into(), "b".into());
    let outside = |name: &str| hook(&format!("echo {name} $(pwd) $(readlink /proc/self/ns/net) >>{log}; cat >>{log}"));
    let inside = hook("echo startContainer $(pwd) >>/log; cat >>/log; echo >>/log; ls /proc/1 >/dev/null");
    spec.hooks = Some(Hooks {
        prestart: vec![outside("prestart")],
        create_runtime: vec![outside("createRuntime"), outside("second")],
        create_container: vec![outside("createContainer")],
        start_container: vec![inside],
        poststart: vec![outside("poststart")],
        poststop: vec![outside("poststop")],
    });
    assert_eq!(life(&place, &spec).unwrap().stderr, "");
    let text = fs::read_to_string(&log).unwrap().replace('}', "}\n").replace("}\n\n", "}\n");
    let text = text.replace("}\n}", "}}");
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let host = host.to_str().unwrap();
    let bundle = place.dir.path().to_str().unwrap();
    let mut lines = text.lines().filter(|line| !line.is_empty() && *line != "}");
    let mut state = |wanted: &str, ours: bool, status: &str, with_pid: Option<bool>| {
        let head = lines.next().unwrap_or_default().to_owned();
        if wanted == "startContainer" {
            assert_eq!(head, "startContainer /");
        } else {
            // Those of the container's namespaces are at its root, which the host's root is still above of.
            let at = if ours { bundle } else { "/" };
            assert!(head.starts_with(&format!("{wanted} {at} ")), "{wanted}: {head} in {text}");
            assert_eq!(head.ends_with(host), ours, "{head}");
        }
        let mut document = lines.next().unwrap_or_default().to_owned();
        if serde_json::from_str::<State>(&document).is_err() {
            document.push('}');
        }
        let state: State = serde_json::from_str(&document).unwrap_or_else(|error| panic!("{error}: {document}"));
        assert_eq!(
            (state.id.as_str(), state.bundle.as_path(), state.status.as_str()),
            ("named", place.dir.path(), status)
        );
        assert_eq!(state.annotations["a"], "b");
        match with_pid {
            None => assert_eq!(state.pid, None),
            Some(inside) => assert_eq!(state.pid == Some(1), inside, "{state:?}"),
        }
    };
    state("prestart", true, "creating", Some(false));
    state("createRuntime", true, "creating", Some(false));
    state("second", true, "creating", Some(false));
    state("createContainer", false, "creating", Some(true));
    state("startContainer", false, "created", Some(true));
    // The program and the poststart hook run at the same time.
    let text = text.replacen("program\n", "", 1);
    let mut lines = text.lines().filter(|line| !line.is_empty() && *line != "}").skip(10);
    assert!(lines.next().unwrap().starts_with("poststart "), "{text}");
    assert!(lines.next().unwrap().contains("\"running\""), "{text}");
    assert!(lines.next().unwrap().starts_with("poststop "), "{text}");
    assert!(lines.next().unwrap().contains("\"stopped\""), "{text}");
}

/// T-RT-27.
fn hooks_get_nothing_of_the_image() {
    let place = Place::new("hookenv");
    let mut spec = spec(&["true"]);
    let log = with_log(&place, &mut spec);
    process(&mut spec).env.push("LD_PRELOAD=/evil.so".into());
    process(&mut spec).cwd = "/tmp".into();
    let dump = hook(&format!("/usr/bin/env >>{log}; ls /proc/self/fd >>{log}; pwd >>{log}"));
    spec.hooks = Some(Hooks {
        create_runtime: vec![Hook { env: vec!["ONLY=this".into()], ..dump.clone() }],
        create_container: vec![dump],
        start_container: vec![hook("env >>/log; exit 0")],
        ..Hooks::default()
    });
    life(&place, &spec).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let (outside, inside) = text.split_at(text.rfind(place.dir.path().to_str().unwrap()).unwrap());
    assert!(!outside.contains("evil") && !outside.contains("CARGO"), "{text}");
    assert!(outside.contains("ONLY=this"), "{text}");
    // Streams, and what ls itself has open.
    assert!(!outside.lines().any(|line| line.parse::<u32>().is_ok_and(|fd| fd > 3)), "{text}");
    // Inside of the container runs what is its own, as its program does.
    assert!(inside.contains("LD_PRELOAD=/evil.so") && inside.contains("HOME="), "{text}");
}

/// Device and library hooks work on the container's root where the bundle says that it is.
fn create_container_hooks_see_both() {
    let place = Place::new("hooksee");
    let root = place.path("lower");
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut spec = spec(&["cat", "/dev/shm/made"]);
    let at = root.to_str().unwrap();
    spec.hooks = Some(Hooks {
        create_container: vec![hook(&format!(
            "test -e /usr/bin/env && test $(pwd) = {at} && echo seen >{at}/dev/shm/made"
        ))],
        ..Hooks::default()
    });
    let (stdio, output) = pipes();
    let request =
        CreateRequest { about: named(&place), ..request(&place, &spec, Rootfs::Directory(root.clone()), stdio) };
    let mut container = brig_runtime::create(request).unwrap();
    container.start().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(output.collect(container.pidfd()).stdout, "seen\n");
    container.delete().unwrap();
    assert!(!root.join("dev/shm/made").exists());
}

fn failing_hooks_end_the_creation() {
    let place = Place::new("hookfail");
    for name in ["prestart", "createRuntime", "createContainer"] {
        let mut spec = spec(&["true"]);
        let log = with_log(&place, &mut spec);
        let mut hooks = Hooks { poststop: vec![hook(&format!("echo gone >>{log}"))], ..Hooks::default() };
        let list = match name {
            "prestart" => &mut hooks.prestart,
            "createRuntime" => &mut hooks.create_runtime,
            _ => &mut hooks.create_container,
        };
        list.extend([hook("true"), hook("echo the reason >&2; exit 3"), hook(&format!("echo never >>{log}"))]);
        spec.hooks = Some(hooks);
        let error = life(&place, &spec).unwrap_err();
        assert_eq!(error.message, format!("error running {name} hook #1: /bin/sh: exit status 3: the reason"));
        assert_eq!(fs::read_to_string(&log).unwrap(), "gone\n", "{name}");
    }
    let mut spec = spec(&["true"]);
    spec.hooks = Some(Hooks { prestart: vec![Hook { path: "/absent".into(), ..Hook::default() }], ..Hooks::default() });
    let error = life(&place, &spec).unwrap_err();
    assert!(error.message.contains("hook #0: /absent: exit status 127: execve(\"/absent\"): No such file"), "{error}");
}

fn failing_hooks_end_the_start() {
    let place = Place::new("hookstart");
    for name in ["startContainer", "poststart"] {
        let mut spec = spec(&["sleep", "1000"]);
        let list = vec![hook("true"), hook("exit 3")];
        spec.hooks = Some(if name == "poststart" {
            Hooks { poststart: list, ..Hooks::default() }
        } else {
            Hooks { start_container: list, ..Hooks::default() }
        });
        let error = life(&place, &spec).unwrap_err();
        assert_eq!(error.message, format!("error running {name} hook #1: /bin/sh: exit status 3"));
    }
}

fn hooks_that_hang_flood_or_stay() {
    let place = Place::new("hookhang");
    let begin = Instant::now();
    // Seconds that no other run of this test sleeps for.
    let long = format!("5{}", std::process::id());
    for inside in [false, true] {
        let list = |hook: Hook| {
            if inside {
                Hooks { start_container: vec![hook], ..Hooks::default() }
            } else {
                Hooks { create_runtime: vec![hook], ..Hooks::default() }
            }
        };
        let mut spec = spec(&["true"]);
        // What it has started ends with it: nobody else would end the inner sleep.
        spec.hooks = Some(list(Hook { timeout: Some(1), ..hook(&format!("sleep {long} & sleep {long}")) }));
        let error = life(&place, &spec).unwrap_err();
        assert!(error.message.contains("hook #0: /bin/sh: hook ran past specified timeout of 1s"), "{error}");
        // Killed is not yet gone, and nobody here is told when a grandchild is.
        let soon = Instant::now() + Duration::from_secs(5);
        while is_running(&long) {
            assert!(Instant::now() < soon, "what the hook has started goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
        spec.hooks = Some(list(hook("head -c 100000000 /dev/zero; echo the end >&2; exit 1")));
        let error = life(&place, &spec).unwrap_err();
        assert!(error.message.ends_with("the end") && error.message.len() < 10_000, "{}", error.message.len());
        // A process that keeps the output open does not keep the hook waiting.
        spec.hooks = Some(list(hook("sleep 30 & exit 0")));
        let before = Instant::now();
        life(&place, &spec).unwrap();
        assert!(before.elapsed() < Duration::from_secs(25));
    }
    // Far from what the sleeps would take, and enough for an emulated machine.
    assert!(begin.elapsed() < Duration::from_secs(120));
}

fn is_running(argument: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(Path::new("/proc").join(entry.file_name()).join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
    })
}

/// They are of the image: they get no more than the program does.
fn start_container_hooks_are_confined() {
    let place = Place::new("hookconf");
    for no_new_privileges in [false, true] {
        let mut spec = spec(&["true"]);
        let log = with_log(&place, &mut spec);
        fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        process(&mut spec).user.uid = 1000;
        process(&mut spec).no_new_privileges = no_new_privileges;
        linux(&mut spec).seccomp = serde_json::from_str(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [{"names": ["clone3", "pidfd_open", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        spec.hooks = Some(Hooks {
            start_container: vec![hook(
                "id -u >>/log; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status >>/log; mkdir /tmp/x && echo made >>/log; true",
            )],
            ..Hooks::default()
        });
        life(&place, &spec).unwrap_or_else(|error| panic!("{error}"));
        let text = fs::read_to_string(&log).unwrap().replace('\t', " ");
        let nnp = u8::from(no_new_privileges);
        assert_eq!(text, format!("1000\nCapEff: 0000000000000000\nNoNewPrivs: {nnp}\nSeccomp: 2\n"));
    }
}
