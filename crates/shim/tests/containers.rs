//! Real containers under a real shim. Owns: what the engine may rely on. Must not: leave anything behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use brig_shim::client;
use brig_shim::protocol::{Event, Exec, Phase, Request, Streams};
use common::{ALL, Host, OUTPUT, Plan, ask, frames, process, read_until, rest};

fn exec(exec_id: &str, args: &[&str], attach: Streams) -> Request {
    let process = serde_json::from_value(process(args)).unwrap();
    Request::Exec(Box::new(Exec { exec_id: exec_id.into(), process, attach, ..Exec::default() }))
}

#[test]
fn output_log_and_exit_code() {
    let mut host = Plan::new("echo out; echo err >&2; printf tail; exit 42").create();
    host.ready();
    assert_eq!(host.status().status, Phase::Created);
    let mut client = host.streams(&Request::Attach(OUTPUT));
    host.go();
    assert_eq!(frames(&rest(&mut client)), (b"out\ntail".to_vec(), b"err\n".to_vec()));
    let exit = host.exited();
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (42, None, false));
    let mut log: Vec<char> = host.log().chars().collect();
    log.sort_unstable();
    let mut want: Vec<char> = "out\nerr\ntail".chars().collect();
    want.sort_unstable();
    assert_eq!(log, want);
    assert!(!host.run_dir().join(client::FAILURE_LOG).exists());
    host.finish();
}

#[test]
fn killed_by_a_signal() {
    let mut host = Plan::new("sleep 100 & wait").start();
    assert_eq!(host.ask(&Request::Kill { signal: 9 })["ok"], serde_json::Value::Null);
    let exit = host.exited();
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert_eq!(host.status().exit.unwrap(), exit);
    assert_eq!(host.ask(&Request::Kill { signal: 9 })["error"]["kind"], "not_running");
    host.finish();
}

#[test]
fn the_process_starts_with_a_clean_slate() {
    let script = "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status; ls -l /proc/self/fd 2>/dev/null | wc -l; cat /proc/self/oom_score_adj; \
                  cat /proc/self/stat | tr ' ' '\\n' | head -n 6 | tr '\\n' ' '";
    let mut host = Plan::new(script).start();
    host.exited();
    let log = host.log();
    assert!(log.contains("SigBlk:\t0000000000000000"), "{log}");
    let ignored = log.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    // Signals 32 and 33 are libc's own: its posix_spawn, which started the shim here, ignores them for good.
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{log}");
    // ls: "total 0", 0, 1, 2 and the directory itself.
    assert!(log.contains("\n5\n0\n"), "{log}");
    host.finish();
}

#[test]
fn standard_streams_can_be_opened_again() {
    let mut host = Plan::new("echo one > /dev/stdout; echo two > /proc/self/fd/2; echo three > /dev/stderr").start();
    let exit = host.exited();
    assert_eq!(exit.exit_code, 0, "{}", host.log());
    for word in ["one", "two", "three"] {
        assert!(host.log().contains(word), "{}", host.log());
    }
    host.finish();
}

#[test]
fn stdin_echo_with_half_close() {
    let mut plan = Plan::new("cat; echo end");
    (plan.config.stdin_open, plan.config.stdin_once) = (true, true);
    let mut host = plan.create();
    host.ready();
    let mut client = host.streams(&Request::Attach(ALL));
    host.go();
    client.get_mut().write_all(b"hello\n").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&rest(&mut client)).0, b"hello\nend\n");
    assert_eq!(host.exited().exit_code, 0);
    host.finish();
}

#[test]
fn terminal_and_resize() {
    let mut plan = Plan::new("stty size; read line; stty size; echo got $line; exit 3");
    (plan.config.stdin_open, plan.config.terminal, plan.config.console_size) = (true, true, Some([33, 99]));
    let mut host = plan.create();
    host.ready();
    let mut client = host.streams(&Request::Attach(ALL));
    host.go();
    read_until(&mut client, "33 99\r\n");
    assert!(host.ask(&Request::Resize { height: 24, width: 80 }).get("ok").is_some());
    client.get_mut().write_all(b"abc\n").unwrap();
    read_until(&mut client, "24 80\r\ngot abc\r\n");
    assert_eq!(host.exited().exit_code, 3);
    assert!(host.log().contains("got abc\r\n"));
    host.finish();
}

#[test]
fn exec_with_output_and_code() {
    let mut host = Plan::new("sleep 100").start();
    let mut client = host.streams(&exec("e1", &["sh", "-c", "echo out; cat; echo err >&2; exit 9"], ALL));
    client.get_mut().write_all(b"in\n").unwrap();
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&rest(&mut client)), (b"out\nin\n".to_vec(), b"err\n".to_vec()));
    let ended = host.until(|event| matches!(event, Event::ExecExited { .. }));
    assert_eq!(ended, Event::ExecExited { exec_id: "e1".into(), exit_code: 9 });
    let state = host.ask(&Request::ExecState { exec_id: "e1".into() });
    assert_eq!(state.to_string(), r#"{"ok":{"running":false,"pid":0,"exit_code":9}}"#);
    assert_eq!(host.log(), "");
    host.ask(&Request::KillAll);
    assert_eq!(host.exited().exit_code, 137);
    host.finish();
}

#[test]
fn exec_that_cannot_be() {
    let mut host = Plan::new("sleep 100").start();
    let missing = host.ask(&exec("a", &["no-such-program"], OUTPUT));
    assert_eq!(missing["error"]["kind"], "not_found", "{missing}");
    let not_executable = host.ask(&exec("b", &["/etc/not-a-program"], OUTPUT));
    assert_eq!(not_executable["error"]["kind"], "not_executable", "{not_executable}");
    assert_eq!(host.ask(&Request::ExecState { exec_id: "a".into() })["error"]["kind"], "not_found");
    host.ask(&Request::Kill { signal: 9 });
    host.exited();
    assert_eq!(host.ask(&exec("c", &["true"], OUTPUT))["error"]["kind"], "not_running");
    host.finish();
}

#[test]
fn exec_with_a_terminal_and_a_detached_one() {
    let mut host = Plan::new("sleep 100").start();
    let Request::Exec(mut terminal) = exec("t", &["sh", "-c", "stty size; read x; stty size; echo $x"], ALL) else {
        unreachable!()
    };
    (terminal.terminal, terminal.console_size) = (true, Some([10, 20]));
    let mut client = host.streams(&Request::Exec(terminal));
    read_until(&mut client, "10 20\r\n");
    assert!(host.ask(&Request::ExecResize { exec_id: "t".into(), height: 11, width: 22 }).get("ok").is_some());
    client.get_mut().write_all(b"yes\n").unwrap();
    read_until(&mut client, "11 22\r\nyes\r\n");
    host.until(|event| matches!(event, Event::ExecExited { .. }));
    let mut detached = host.streams(&exec("d", &["sh", "-c", "echo lost; sleep 100"], Streams::default()));
    assert!(rest(&mut detached).is_empty());
    assert!(host.ask(&Request::ExecKill { exec_id: "d".into(), signal: 15 }).get("ok").is_some());
    let ended = host.until(|event| matches!(event, Event::ExecExited { .. }));
    assert_eq!(ended, Event::ExecExited { exec_id: "d".into(), exit_code: 143 });
    host.ask(&Request::KillAll);
    host.exited();
    host.finish();
}

#[test]
fn execs_end_with_the_container() {
    let mut host = Plan::new("read x < /tmp/never || sleep 0.3").start();
    let mut client = host.streams(&exec("e", &["sh", "-c", "echo here; sleep 100"], OUTPUT));
    assert_eq!(frames(&rest(&mut client)).0, b"here\n");
    let ended = host.until(|event| matches!(event, Event::ExecExited { .. }));
    assert_eq!(ended, Event::ExecExited { exec_id: "e".into(), exit_code: 137 });
    host.exited();
    host.finish();
}

#[test]
fn a_program_that_is_not_there() {
    let mut plan = Plan::new("");
    plan.spec["process"]["args"] = serde_json::json!(["/no/such"]);
    let mut host = plan.create();
    let mut failed = None;
    // Found out before the gate or behind it; told the same way.
    for _ in 0..4 {
        match host.message() {
            brig_shim::protocol::Message::Event(Event::Failed { error }) => {
                failed = Some(error);
                break;
            }
            brig_shim::protocol::Message::Event(Event::Ready) => {
                host.events.get_mut().write_all(&brig_shim::protocol::encode(&Request::Go)).unwrap();
            }
            _ => {}
        }
    }
    let failed = failed.unwrap();
    assert_eq!(failed.kind, brig_shim::protocol::FailureKind::NotFound, "{failed}");
    assert!(!host.dir.path().join("exit.json").exists());
    host.gone();
}

#[test]
fn a_daemon_that_dies_before_go_leaves_nothing() {
    let mut host = Plan::new("echo never").create();
    host.ready();
    host.events.get_mut().shutdown(Shutdown::Both).unwrap();
    let log = host.dir.path().join("log.json");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "");
    host.gone();
}

#[test]
fn the_daemon_goes_and_comes_back() {
    let mut plan = Plan::new("read line; echo $line; exit 5");
    plan.config.stdin_open = true;
    let mut host = plan.start();
    host.events.get_mut().shutdown(Shutdown::Both).unwrap();
    // The shim sees that in its own time and tells nobody; either order works, but this one is meant.
    std::thread::sleep(Duration::from_millis(50));
    let mut again = host.connect();
    let answer = ask(&mut again, &Request::Subscribe);
    assert_eq!(answer["ok"]["state"]["status"], "running", "{answer}");
    assert!(answer["ok"]["state"]["pid"].as_i64().unwrap() > 0);
    host.events = again;
    let mut client = host.streams(&Request::Attach(ALL));
    client.get_mut().write_all(b"back\n").unwrap();
    assert_eq!(frames(&rest(&mut client)).0, b"back\n");
    assert_eq!(host.exited().exit_code, 5);
    assert_eq!(host.log(), "back\n");
    host.finish();
}

#[test]
fn without_a_daemon_the_shim_ends_by_itself() {
    let mut host = Plan::new("sleep 0.3; echo alone; exit 6").start();
    // Nothing is subscribed any more; the facts are in the exit file.
    let (nobody, other) = UnixStream::pair().unwrap();
    drop(other);
    host.events = std::io::BufReader::new(nobody);
    let exit = host.dir.path().join("exit.json");
    Host::wait_until("an exit file", || exit.exists());
    assert_eq!(client::read_exit(&exit).unwrap().unwrap().exit_code, 6);
    assert_eq!(host.log(), "alone\n");
    host.gone();
}

#[test]
fn out_of_memory_is_told() {
    let mut plan = Plan::new(
        "head -c 60000000 /dev/zero | wc -c > /tmp/x; x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}",
    );
    plan.spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let mut host = plan.start();
    let exit = host.exited();
    assert!(exit.oom_killed, "{exit:?}, log: {}", host.log());
    assert!(host.seen.contains(&Event::Oom), "{:?}", host.seen);
    host.finish();
}

#[test]
fn a_line_of_one_mebibyte() {
    let mut host = Plan::new("head -c 1048576 /dev/zero | tr '\\0' x; echo").create();
    host.ready();
    let mut client = host.streams(&Request::Attach(OUTPUT));
    host.go();
    let (out, _) = frames(&rest(&mut client));
    assert_eq!(out.len(), 1_048_577);
    host.exited();
    let log = host.log();
    assert_eq!(log.len(), 1_048_577);
    assert!(log.ends_with("x\n"));
    host.finish();
}

#[test]
fn a_slow_reader_loses_nothing() {
    let mut host = Plan::new("head -c 1000000 /dev/zero | tr '\\0' y; echo done >&2").create();
    host.ready();
    let mut client = host.streams(&Request::Attach(OUTPUT));
    host.go();
    // Time in which it would end; that nothing happens has no event.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.status().status, Phase::Running, "the container was not held back");
    let (out, err) = frames(&rest(&mut client));
    assert_eq!((out.len(), err.as_slice()), (1_000_000, b"done\n".as_slice()));
    host.exited();
    host.finish();
}

#[test]
fn pause_pids_and_stats() {
    let mut host = Plan::new("sleep 100 & echo here; wait").start();
    Host::wait_until("a line in the log", || !host.log().is_empty());
    assert!(host.ask(&Request::Pause).get("ok").is_some());
    assert!(host.status().paused);
    assert_eq!(host.ask(&exec("e", &["true"], OUTPUT))["error"]["kind"], "invalid");
    let pids = host.ask(&Request::Pids);
    assert_eq!(pids["ok"]["pids"].as_array().unwrap().len(), 2, "{pids}");
    let stats = host.ask(&Request::Stats);
    assert!(stats["ok"]["pids"]["current"].as_u64().unwrap() >= 2, "{stats}");
    assert!(host.ask(&Request::Resume).get("ok").is_some());
    assert!(host.ask(&Request::Pause).get("ok").is_some());
    // SIGKILL must reach a paused container.
    host.ask(&Request::Kill { signal: 9 });
    assert_eq!(host.exited().exit_code, 137);
    host.finish();
}

#[test]
fn the_shim_is_small_and_keeps_to_itself() {
    let host = Plan::new("sleep 100").start();
    // A page of the program counts as private to the only process that has it: as in life, there is more than one shim.
    let mut other = Plan::new("sleep 100").start();
    // When both have got through their start, of which all but the answer is their own business.
    let pid = host.shim.id();
    let is_asleep = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ");
    Host::wait_until("at rest", || is_asleep(pid) && is_asleep(other.shim.id()));
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (clean, dirty) = (kib("Private_Clean:"), kib("Private_Dirty:"));
    println!(
        "idle shim with a running container: Private_Dirty {dirty} KiB, Private_Clean {clean} KiB, Rss {} KiB",
        kib("Rss:")
    );
    assert!(dirty + clean <= 1024, "{rollup}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Threads:\t1\n"));
    let own = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // Lowering it takes CAP_SYS_RESOURCE, which root on this machine may lack.
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may = u64::from_str_radix(capabilities, 16).unwrap() & 1 << 24 != 0;
    assert_eq!(own.trim(), if may { "-999" } else { "0" });
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    for fd in ["0", "1", "2"] {
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
    }
    let mut host = host;
    for host in [&mut host, &mut other] {
        host.ask(&Request::Kill { signal: 9 });
        host.exited();
    }
    other.finish();
    host.finish();
}

#[test]
fn without_a_pid_namespace_everything_is_ended_too() {
    let mut plan = Plan::new("sleep 100 & (sleep 100 &) ; echo gone; exit 8");
    // Only the host's root may share the host's processes.
    let linux = plan.spec["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    linux["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != "pid" && entry["type"] != "user");
    let mut host = plan.create();
    host.ready();
    let mut client = host.streams(&Request::Attach(OUTPUT));
    host.go();
    // The ones left behind hold the pipe: the stream ends because they are ended.
    assert_eq!(frames(&rest(&mut client)).0, b"gone\n");
    assert_eq!(host.exited().exit_code, 8);
    host.finish();
}

#[test]
fn with_an_init_of_ours() {
    let mut plan = Plan::new(
        "echo $$; cat /proc/1/cmdline | wc -c; (sleep 0.05 &); sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; exit 4",
    );
    plan.config.init = true;
    let mut host = plan.start();
    assert_eq!(host.exited().exit_code, 4);
    let log = host.log();
    let pid: i32 = log.lines().next().unwrap().parse().unwrap();
    assert!(pid > 1 && log.ends_with("\n0\n"), "{log}");
    host.finish();
}

#[test]
fn an_exec_that_leaves_something_behind_does_not_hang() {
    let mut host = Plan::new("sleep 100").start();
    let before = std::time::Instant::now();
    let mut client = host.streams(&exec("e", &["sh", "-c", "sleep 100 & echo here"], OUTPUT));
    assert_eq!(frames(&rest(&mut client)).0, b"here\n");
    let waited = before.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(10), "{waited:?}");
    host.ask(&Request::Kill { signal: 9 });
    host.exited();
    host.finish();
}
