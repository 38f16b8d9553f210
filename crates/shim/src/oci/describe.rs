//! `state` and `events`.
//!
//! Owns: the forms that other engines parse. Must not: change anything.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use brig_runtime::cgroup::Layout;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::{cgroup, describe, init};
use crate::oci::record::{Condition, Record, Records};

/// Time between two lines of `events`.
const INTERVAL: Duration = Duration::from_secs(5);

/// Prints text on stdout.
pub(crate) fn print(text: &str) -> Result<u8, Fault> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Fault::new(format!("writing to stdout: {error}")))?;
    Ok(0)
}

/// What is told of a container, with the owner of its directory.
pub(crate) fn state_of(record: &Record, records: &Records) -> Result<Value, Fault> {
    let condition = records.condition(record);
    let spec = records.spec(&record.id)?;
    let rootfs = spec.root.map(|root| record.bundle.join(root.path)).unwrap_or_default();
    let directory = records.directory(&record.id);
    let owner = std::fs::metadata(&directory).map_err(|error| Fault::io("stat", &directory, &error))?.uid();
    let mut state = json!({
        "ociVersion": spec.oci_version,
        "id": record.id,
        "pid": if condition == Condition::Stopped { 0 } else { record.pid },
        "status": describe(record, condition)?,
        "bundle": record.bundle,
        "rootfs": rootfs,
        "created": record.created,
        "owner": user_name(owner),
    });
    if !spec.annotations.is_empty() {
        state["annotations"] = json!(spec.annotations);
    }
    Ok(state)
}

/// A user's name, or `#` and the number where there is none.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// `state`.
pub(crate) fn state(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let record = records.load(line.id()?)?;
    let mut state = state_of(&record, records)?;
    state["owner"] = json!("");
    print(&format!("{state:#}"))
}

/// `events`: a line of usage now and then, and one whenever memory ran out, until the container ends.
pub(crate) fn events(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let id = line.id()?;
    let record = records.load(id)?;
    let interval = match line.value("interval") {
        None => INTERVAL,
        Some(text) => parse_duration(text).ok_or_else(|| {
            Fault::new(format!("invalid value {text:?} for flag -interval: a duration as 5s or 100ms"))
        })?,
    };
    if interval.is_zero() {
        return Err(Fault::new("duration interval must be greater than 0"));
    }
    if records.condition(&record) == Condition::Stopped {
        return Err(Fault::new(format!("container with id {id} is not running")));
    }
    let cgroup = cgroup(&record)?;
    let usage = || -> Result<u8, Fault> {
        print(&format!("{}\n", json!({"type": "stats", "id": id, "data": cgroup.usage()?})))
    };
    if line.has("stats") {
        return usage();
    }
    let process = init(&record)?;
    let watch = cgroup.watch_oom()?;
    let mut kills = cgroup.oom_kills()?;
    // Version 1 wakes before it kills, and only for this, or at the cgroup's end; version 2 after any change.
    let v1 = Layout::detect()?.hierarchy("memory").is_some();
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let wait = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => {
                usage()?;
                next = Instant::now() + interval;
                continue;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(brig_sys::Error::new("poll(memory, init)", errno).into()),
        }
        let (scarce, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if scarce {
            watch.clear();
            let now = cgroup.oom_kills().unwrap_or(kills);
            // Another line for each would tell nothing more.
            if now > kills || (v1 && cgroup.exists()) {
                print(&format!("{}\n", json!({"type": "oom", "id": id})))?;
            }
            kills = now;
        }
        if ended {
            return Ok(0);
        }
    }
}

/// A duration as Go writes it: numbers with units, one after the other (`1m30s`, `1.5h`, `100ms`).
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let number = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (digits, behind) = rest.split_at(number);
        let unit = behind.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += digits.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("5s", Some(5_000)),
            ("100ms", Some(100)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1x", None),
            ("999999999999999999999h", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn names_of_users() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_000), "#4000000000");
    }
}
