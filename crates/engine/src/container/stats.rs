//! `stats` and `top`: what a container uses and which processes it has, as Docker shows them. Reads only.

use std::collections::BTreeMap;
use std::fs;

use brig_api::container::TopResponse;
use brig_api::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, ThrottlingData,
};
use brig_shim::protocol::{BlockIoEntry, Pids, Request as ShimRequest, Stats as Sample};

use super::{Handle, shim_link};
use crate::error::{Error, Result};
use crate::id::{ZERO_TIME, now};

/// Kernel ticks per second, the unit of processor times in `/proc` (the same on every architecture brig runs on).
const TICKS: u64 = 100;
/// Bytes of a page as `/proc/PID/stat` counts them (on the processors that brig runs on).
const PAGE: u64 = 4096;

/// One sample; of a container that does not run, an empty one.
pub async fn sample(handle: &Handle) -> Result<Stats> {
    let view = handle.view();
    let mut stats = Stats {
        name: format!("/{}", view.record.name),
        id: view.record.id.clone(),
        read: ZERO_TIME.into(),
        preread: ZERO_TIME.into(),
        ..Stats::default()
    };
    if !view.status.is_alive() {
        return Ok(stats);
    }
    let sample: Sample = shim_link::ask_for(&handle.paths.run, &ShimRequest::Stats).await?;
    stats.read = now();
    stats.pids_stats = PidsStats { current: sample.pids.current, limit: sample.pids.limit.unwrap_or(0) };
    stats.cpu_stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: sample.cpu.total_ns,
            percpu_usage: Some(sample.cpu.per_cpu_ns.clone()).filter(|list| !list.is_empty()),
            usage_in_kernelmode: sample.cpu.kernel_ns,
            usage_in_usermode: sample.cpu.user_ns,
        },
        system_cpu_usage: system_cpu_usage(),
        online_cpus: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(u32::MAX),
        throttling_data: ThrottlingData {
            periods: sample.cpu.periods,
            throttled_periods: sample.cpu.throttled_periods,
            throttled_time: sample.cpu.throttled_ns,
        },
    };
    stats.memory_stats = memory(&sample);
    stats.blkio_stats = block_io(&sample);
    if view.record.run.as_ref().is_some_and(|run| run.attachment.is_some()) {
        stats.networks = Some(interfaces(view.pid));
    }
    Ok(stats)
}

fn memory(sample: &Sample) -> MemoryStats {
    let memory = &sample.memory;
    MemoryStats {
        usage: memory.usage,
        max_usage: memory.max_usage.unwrap_or(0),
        stats: Some(memory.stat.clone()),
        failcnt: memory.fail_count,
        limit: memory.limit.unwrap_or_else(total_memory),
    }
}

fn block_io(sample: &Sample) -> BlkioStats {
    let entries = |list: &[BlockIoEntry]| {
        let entry = |e: &BlockIoEntry| BlkioEntry { major: e.major, minor: e.minor, op: e.op.clone(), value: e.value };
        Some(list.iter().map(entry).collect())
    };
    BlkioStats {
        io_service_bytes_recursive: entries(&sample.block_io.bytes),
        io_serviced_recursive: entries(&sample.block_io.operations),
        ..BlkioStats::default()
    }
}

/// Processor time of the whole machine in nanoseconds, as Docker's clients divide by.
fn system_cpu_usage() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; the guest times behind them are in user already.
    let ticks: u64 = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks * (1_000_000_000 / TICKS)
}

/// Memory of the machine in bytes.
pub fn total_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn interfaces(pid: i32) -> BTreeMap<String, NetworkStats> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let line = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let name = name.trim();
        let n: Vec<u64> = counts.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |index: usize| n.get(index).copied().unwrap_or(0);
        (name != "lo").then(|| {
            let stats = NetworkStats {
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
            };
            (name.to_owned(), stats)
        })
    };
    text.lines().skip(2).filter_map(line).collect()
}

/// A process as `/proc` shows it.
struct Process {
    pid: i32,
    parent: i32,
    user: u32,
    ticks: u64,
    started: u64,
    terminal: String,
    name: String,
    command: String,
    state: String,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// `top`: the columns of `ps -ef` (the default), or those of `-o`.
pub async fn top(handle: &Handle, ps_args: &str) -> Result<TopResponse> {
    let columns = columns(ps_args)?;
    let pids: Pids = shim_link::ask_for(&handle.paths.run, &ShimRequest::Pids).await?;
    // One that ended since is not shown.
    let mut processes: Vec<Process> = pids.pids.iter().filter_map(|pid| read_process(*pid)).collect();
    // Users are shown as the container knows them, not by the host ids that only this engine chose.
    let base = handle.view().record.run.as_ref().and_then(|run| run.id_base).unwrap_or(0);
    processes.iter_mut().for_each(|process| process.user = process.user.saturating_sub(base));
    Ok(TopResponse {
        titles: Some(
            columns
                .iter()
                .map(|column| match column.as_str() {
                    "args" | "comm" | "command" => "COMMAND".into(),
                    "pcpu" => "%CPU".into(),
                    "pmem" => "%MEM".into(),
                    "bsdtime" => "TIME".into(),
                    other => other.to_uppercase(),
                })
                .collect(),
        ),
        processes: Some(processes.iter().map(|p| columns.iter().map(|column| cell(p, column)).collect()).collect()),
    })
}

fn columns(ps_args: &str) -> Result<Vec<String>> {
    const FULL: [&str; 8] = ["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];
    const WITH_USAGE: [&str; 11] =
        ["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command"];
    const KNOWN: [&str; 23] = [
        "uid", "user", "pid", "ppid", "c", "stime", "tty", "tt", "time", "cmd", "comm", "args", "command", "etime",
        "%cpu", "pcpu", "%mem", "pmem", "vsz", "rss", "stat", "start", "bsdtime",
    ];
    let mut default: &[&str] = &FULL;
    let mut words = ps_args.split_whitespace();
    let mut chosen: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        let list = match word.trim_start_matches('-') {
            "ef" | "e" | "f" | "eF" | "A" | "ww" | "w" | "" => continue,
            "aux" | "auxw" | "auxww" | "axu" | "u" | "ux" => {
                default = &WITH_USAGE;
                continue;
            }
            "ax" | "axww" | "x" => {
                default = &["pid", "tty", "stat", "bsdtime", "command"];
                continue;
            }
            "o" | "eo" | "axo" => words.next().unwrap_or_default(),
            other => match other.strip_prefix("eo").or_else(|| other.strip_prefix('o')) {
                Some(list) => list,
                None => {
                    return Err(Error::invalid(format!(
                        "ps argument {word:?} is not known: use -ef, aux or -o with a list of columns"
                    )));
                }
            },
        };
        for column in list.split(',').filter(|column| !column.is_empty()) {
            if !KNOWN.contains(&column) {
                return Err(Error::invalid(format!(
                    "ps column {column:?} is not known: use some of {}",
                    KNOWN.join(", ")
                )));
            }
            chosen.push(column.into());
        }
    }
    if chosen.is_empty() {
        return Ok(default.iter().map(|column| (*column).to_owned()).collect());
    }
    if !chosen.iter().any(|column| column == "pid") {
        return Err(Error::invalid("couldn't find PID field in ps output: add pid to the columns"));
    }
    Ok(chosen)
}

fn read_process(pid: i32) -> Option<Process> {
    use std::os::unix::fs::MetadataExt;
    let directory = format!("/proc/{pid}");
    let user = fs::metadata(&directory).ok()?.uid();
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name may hold spaces and parentheses: the fields begin after the last one.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let raw = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        raw.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let terminal = number(4);
    Some(Process {
        pid,
        parent: i32::try_from(number(1)).unwrap_or(0),
        user,
        ticks: number(11) + number(12),
        started: number(19),
        terminal: if terminal == 0 { "?".into() } else { format!("pts/{}", terminal & 0xff) },
        command: if words.is_empty() { format!("[{name}]") } else { words.join(" ") },
        name,
        state: state(pid, &fields),
        virtual_bytes: number(20),
        resident_pages: number(21),
    })
}

/// The letters of ps's STAT: the state, niceness, session leader, several threads, foreground.
fn state(pid: i32, fields: &[&str]) -> String {
    let number = |index: usize| fields.get(index).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    let (group, session, foreground, nice, threads) = (number(2), number(3), number(5), number(16), number(17));
    let mut letters = fields.first().copied().unwrap_or("?").to_owned();
    for (letter, is_so) in [
        ('<', nice < 0),
        ('N', nice > 0),
        ('s', session == i64::from(pid)),
        ('l', threads > 1),
        ('+', foreground == group),
    ] {
        if is_so {
            letters.push(letter);
        }
    }
    letters
}

fn cell(process: &Process, column: &str) -> String {
    let seconds = process.ticks / TICKS;
    match column {
        "uid" | "user" if process.user == 0 => "root".into(),
        "uid" | "user" => process.user.to_string(),
        "pid" => process.pid.to_string(),
        "ppid" => process.parent.to_string(),
        "c" => "0".into(),
        "%cpu" | "pcpu" => {
            let age = uptime().saturating_sub(process.started / TICKS).max(1);
            tenths(process.ticks * 1000 / TICKS / age)
        }
        "%mem" | "pmem" => tenths(process.resident_pages * PAGE * 1000 / total_memory().max(1)),
        "vsz" => (process.virtual_bytes / 1024).to_string(),
        "rss" => (process.resident_pages * PAGE / 1024).to_string(),
        "stat" => process.state.clone(),
        "start" => start_time(process.started),
        "bsdtime" => format!("{}:{:02}", seconds / 60, seconds % 60),
        "stime" => start_time(process.started),
        "etime" => clock(uptime().saturating_sub(process.started / TICKS)),
        "tty" | "tt" => process.terminal.clone(),
        "time" => clock(seconds),
        "comm" => process.name.clone(),
        _ => process.command.clone(),
    }
}

fn tenths(n: u64) -> String {
    format!("{}.{}", n / 10, n % 10)
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Hour and minute (UTC) at which a process started that many ticks after boot.
fn start_time(ticks: u64) -> String {
    let age = i64::try_from(uptime().saturating_sub(ticks / TICKS)).unwrap_or(0);
    let at = jiff::Timestamp::now().as_second() - age;
    jiff::Timestamp::from_second(at).map(|at| at.strftime("%H:%M").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_arguments() {
        assert_eq!(columns("").unwrap().len(), 8);
        assert_eq!(columns("-ef").unwrap()[1], "pid");
        assert_eq!(columns("aux").unwrap()[2], "%cpu");
        assert_eq!(columns("ax").unwrap()[0], "pid");
        assert_eq!(columns("-eo pid,comm").unwrap(), ["pid", "comm"]);
        assert!(columns("-o comm").unwrap_err().message.contains("PID"));
        assert!(columns("-o nonsense").is_err());
        assert!(columns("--frob").is_err());
    }

    #[test]
    fn this_process_is_read() {
        let own = read_process(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(!own.command.is_empty() && own.started > 0 && own.resident_pages > 0);
        assert!(own.state.starts_with(['R', 'S', 'D']), "{}", own.state);
        assert_eq!(tenths(123), "12.3");
    }
}
