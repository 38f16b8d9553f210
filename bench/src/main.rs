//! Measures what issue and README promise, beside the kernel's floor and beside other engines where they are installed.
//! Owns the order of the measurements and the table; the measuring is in `measure`, other engines are in `others`.

mod images;
mod measure;
mod oci;
mod others;

use brig_tests::TestHost;
use measure::Series;
use serde_json::json;
use std::process::ExitCode;

/// `brig run --rm` may take this many times the floor.
const RUN_LIMIT: f64 = 8.0;
/// `brig exec` may take this part of `docker exec`.
const EXEC_LIMIT: f64 = 1.0 / 8.0;
/// `brig-rt run` may take this many times the floor with the same namespaces and mounts,
const OCI_FLOOR_LIMIT: f64 = 2.5;
/// this part of crun's time, as may `exec`,
const CRUN_LIMIT: f64 = 0.8;
/// and this part of runc's.
const RUNC_LIMIT: f64 = 0.25;
/// The last of many containers in a row may take this many times the first.
const ROW_LIMIT: f64 = 1.2;
/// KiB of its own that a shim may have.
const SHIM_LIMIT: f64 = 1024.0;
/// KiB that an idle daemon may have resident.
const DAEMON_LIMIT: f64 = 20.0 * 1024.0;

/// Rounds of the images at the most: one takes a minute or two, most of it the peers'.
const IMAGE_RUNS: usize = 3;

const HELP: &str = "\
Usage: cargo xtask bench [--json] [--runs N] [--only NAME] [--runtime NAME=PROGRAM]...

  --json       print one JSON object instead of the table
  --runs N     how often each command is timed (30)
  --row N      how many containers are made in a row (1000)
  --only NAME  only run, exec, oci, row, memory, twenty or images
  --runtime    another OCI runtime to measure beside; one whose name begins with
               crun or runc replaces the installed one in the ratios
";

/// One line of the table.
struct Line {
    name: String,
    shown: String,
    value: f64,
    limit: Option<f64>,
}

impl Line {
    /// Words without a number.
    fn note(name: &str, text: &str) -> Line {
        Line { name: name.to_owned(), shown: text.to_owned(), value: 0.0, limit: None }
    }

    /// One that another process printed with `--json`.
    fn from_json(told: &serde_json::Value) -> Line {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let (value, limit) = (told["value"].as_f64().unwrap_or_default(), told["limit"].as_f64());
        Line { name: text("name"), shown: text("shown"), value, limit }
    }
}

struct Options {
    json: bool,
    runs: usize,
    row: usize,
    only: Option<String>,
    runtimes: Vec<(String, std::path::PathBuf)>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprint!("{text}");
            return ExitCode::from(2);
        }
    };
    let mut lines = Vec::new();
    let only = options.only.clone();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if only.as_deref() != Some("images") {
        lines.extend(containers(&options, &wanted));
    }
    if wanted("images") {
        lines.extend(images::run(options.runs.min(IMAGE_RUNS)));
    }
    print(&lines, options.json);
    ExitCode::SUCCESS
}

/// Everything that is about containers.
fn containers(options: &Options, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Vec<Line> {
    let mut lines = Vec::new();
    let host = TestHost::new();
    if wanted("memory") {
        lines.push(memory("idle daemon, resident", measure::memory(host.daemon_pid(), &["Rss:"]), DAEMON_LIMIT));
    }
    host.load_busybox();
    if wanted("run") {
        run(&host, options.runs, &mut lines);
    }
    if wanted("exec") {
        exec(&host, options.runs, &mut lines);
    }
    if wanted("oci") || wanted("row") {
        // A thread of its own, since it may leave the mount namespace.
        let host = &host;
        let measured = std::thread::scope(|scope| {
            let thread = scope.spawn(move || oci(host, options, wanted));
            thread.join().expect("the runtimes can be measured")
        });
        lines.extend(measured);
    }
    if wanted("memory") {
        shims(&host, &mut lines);
    }
    if wanted("twenty") {
        let time = measure::twenty(&host);
        lines.push(Line {
            name: "20 × brig run --rm at once".into(),
            shown: format!("{time:.1} ms"),
            value: time,
            limit: None,
        });
    }
    lines
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { json: false, runs: 30, row: 1000, only: None, runtimes: Vec::new() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--runs" | "--row" => {
                let value = arguments.next().and_then(|text| text.parse().ok()).filter(|runs| *runs > 0);
                let value = value.ok_or_else(|| format!("{argument}: a number above zero is needed\n"))?;
                *(if argument == "--runs" { &mut options.runs } else { &mut options.row }) = value;
            }
            "--runtime" => {
                let text = arguments.next().unwrap_or_default();
                let (name, program) = text.split_once('=').ok_or("--runtime: NAME=PROGRAM is needed\n")?;
                options.runtimes.push((name.to_owned(), program.into()));
            }
            "--only" => options.only = Some(arguments.next().ok_or("--only: a name is needed\n")?),
            "--help" | "-h" => return Err(HELP.to_owned()),
            other => return Err(format!("no option {other}\n\n{HELP}")),
        }
    }
    Ok(options)
}

/// `brig run` against the floor, in turns.
fn run(host: &TestHost, runs: usize, lines: &mut Vec<Line>) {
    let floor = measure::Floor::new(host);
    let brig = ["run", "--rm", "busybox", "/bin/probe", "true"];
    let mut series = [Series::new("floor"), Series::new("brig run --rm")];
    for round in 0..runs + 3 {
        let samples = [floor.once(), measure::time(host.brig_run(&brig))];
        if round >= 3 {
            series.iter_mut().zip(samples).for_each(|(series, sample)| series.push(sample));
        }
    }
    let ratio = series[1].median() / series[0].median();
    series.iter().for_each(|series| lines.push(times(series)));
    lines.push(self::ratio("brig run / floor", ratio, RUN_LIMIT));
}

/// `brig exec` against `docker exec`, in turns.
fn exec(host: &TestHost, runs: usize, lines: &mut Vec<Line>) {
    host.brig(&["run", "-d", "--name", "bench", "busybox", "sleep", "100000"]).ok();
    let docker = others::Docker::start();
    if docker.is_none() {
        lines.push(Line::note("docker exec", "dockerd is not to be had here"));
    }
    let mut brig_series = Series::new("brig exec");
    let mut docker_series = Series::new("docker exec");
    for round in 0..runs + 3 {
        let brig = measure::time(host.brig_run(&["exec", "bench", "/bin/probe", "true"]));
        let docker = docker.as_ref().map(others::Docker::exec);
        if round >= 3 {
            brig_series.push(brig);
            docker.into_iter().for_each(|sample| docker_series.push(sample));
        }
    }
    lines.push(times(&brig_series));
    if docker.is_some() {
        lines.push(times(&docker_series));
        let ratio = brig_series.median() / docker_series.median();
        lines.push(self::ratio("brig exec / docker exec", ratio, EXEC_LIMIT));
    }
    host.brig(&["rm", "-f", "bench"]).ok();
}

/// The same bundle under every OCI runtime that is there, in turns.
fn oci(host: &TestHost, options: &Options, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Vec<Line> {
    let bench = oci::Bench::new(host, &options.runtimes);
    let mut lines = Vec::new();
    if wanted("oci") {
        let run = bench.run(options.runs);
        let (exec, peaks) = bench.exec(options.runs);
        run.iter().for_each(|series| lines.push(times(series)));
        if let [floor, ours, ..] = &run[..] {
            lines.push(ratio("brig-rt run / floor", ours.median() / floor.median(), OCI_FLOOR_LIMIT));
        }
        against(&run, "run", &mut lines);
        exec.iter().for_each(|series| lines.push(times(series)));
        against(&exec, "exec", &mut lines);
        let limit = peaks.iter().rev().find(|(name, _)| name.starts_with("crun")).map_or(f64::MAX, |(_, kib)| *kib);
        for (name, kib) in &peaks {
            lines.push(memory(&format!("{name} run, peak"), *kib, if name == "brig-rt" { limit } else { f64::MAX }));
        }
    }
    if wanted("row")
        && let Some((first, last)) = bench.row(options.row)
    {
        lines.extend([times(&first), times(&last)]);
        lines.push(ratio("last / first", last.median() / first.median(), ROW_LIMIT));
    }
    lines
}

/// Our runtime's time as a part of the others'. The last one of a name counts: it was given by hand.
fn against(series: &[Series], verb: &str, lines: &mut Vec<Line>) {
    let find = |name: &str| series.iter().rev().find(|series| series.name.starts_with(name));
    let Some(ours) = find("brig-rt") else { return };
    for (name, limit) in [("crun", CRUN_LIMIT), ("runc", if verb == "run" { RUNC_LIMIT } else { f64::MAX })] {
        if let Some(theirs) = find(name) {
            let value = ours.median() / theirs.median();
            lines.push(ratio(&format!("brig-rt {verb} / {}", theirs.name), value, limit));
        }
    }
}

fn shims(host: &TestHost, lines: &mut Vec<Line>) {
    for name in ["shim1", "shim2"] {
        host.brig(&["run", "-d", "--name", name, "busybox", "sleep", "100000"]).ok();
    }
    let private = measure::memory(host.shim_pid("shim1"), &["Private_Clean:", "Private_Dirty:"]);
    lines.push(memory("shim, private", private, SHIM_LIMIT));
    lines.push(memory("daemon with containers, resident", measure::memory(host.daemon_pid(), &["Rss:"]), f64::MAX));
    host.brig(&["rm", "-f", "shim1", "shim2"]).ok();
}

fn times(series: &Series) -> Line {
    let (median, least, most) = (series.median(), series.least(), series.most());
    let shown = format!("{median:.2} ms  ({least:.2} to {most:.2}, {} runs)", series.len());
    Line { name: series.name.clone(), shown, value: median, limit: None }
}

/// A limit of `f64::MAX` is none.
fn ratio(name: &str, value: f64, limit: f64) -> Line {
    let limit = Some(limit).filter(|limit| *limit < f64::MAX);
    Line { name: name.to_owned(), shown: format!("{value:.3}"), value, limit }
}

fn memory(name: &str, kib: f64, limit: f64) -> Line {
    let limit = Some(limit).filter(|limit| *limit < f64::MAX);
    Line { name: name.to_owned(), shown: format!("{kib:.0} KiB"), value: kib, limit }
}

fn print(lines: &[Line], as_json: bool) {
    let verdict = |line: &Line| line.limit.map(|limit| if line.value <= limit { "ok" } else { "over" });
    if as_json {
        let list: Vec<_> = lines
            .iter()
            .map(|line| json!({"name": line.name, "value": line.value, "shown": line.shown, "limit": line.limit, "verdict": verdict(line)}))
            .collect();
        println!("{}", json!({ "measurements": list }));
        return;
    }
    for line in lines {
        let limit = line.limit.map_or_else(String::new, |limit| format!("  limit {limit:.3}"));
        println!("{:<34} {}{limit}  {}", line.name, line.shown, verdict(line).unwrap_or(""));
    }
}
