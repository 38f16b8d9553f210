//! `update`: update configuration of one or more containers.
//! Owns its flags and what it prints.

use brig_api::container::{Resources, RestartPolicy, UpdateRequest, UpdateResponse};
use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::parse::{number, security};
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::new("blkio-weight", Kind::Uint16, "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
    Flag::new("cpu-period", Kind::Int, "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag::new("cpu-quota", Kind::Int, "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag::new("cpu-rt-period", Kind::Int, "int", "Limit the CPU real-time period in microseconds"),
    Flag::new("cpu-rt-runtime", Kind::Int, "int", "Limit the CPU real-time runtime in microseconds"),
    Flag::new("cpu-shares", Kind::Int, "int", "CPU shares (relative weight)").short('c'),
    Flag::new("cpus", Kind::Cpus, "decimal", "Number of CPUs"),
    Flag::text("cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag::text("cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag::new("memory", Kind::Bytes, "bytes", "Memory limit").short('m'),
    Flag::new("memory-reservation", Kind::Bytes, "bytes", "Memory soft limit"),
    Flag::new("memory-swap", Kind::SwapBytes, "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap"),
    Flag::new("pids-limit", Kind::Int, "int", "Tune container pids limit (set -1 for unlimited)"),
    Flag::text("restart", "Restart policy to apply when a container exits"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["update", "container update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    example: "update --memory 512m --cpus 1.5 web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let flags: Vec<&str> = FLAGS.iter().map(|flag| flag.long).collect();
    if !flags.iter().any(|flag| m.changed(flag)) {
        return Err(Failure::new("you must provide one or more flags when using this command"));
    }
    let restart_policy = match m.given("restart") {
        Some(text) => security::restart(text)?,
        None => RestartPolicy::default(),
    };
    let resources = Resources {
        blkio_weight: number::uint16(m.text("blkio-weight")).unwrap_or_default(),
        cpu_shares: m.int("cpu-shares"),
        memory: m.bytes("memory"),
        memory_reservation: m.bytes("memory-reservation"),
        memory_swap: m.bytes("memory-swap"),
        cpu_period: m.int("cpu-period"),
        cpu_quota: m.int("cpu-quota"),
        cpu_realtime_period: m.int("cpu-rt-period"),
        cpu_realtime_runtime: m.int("cpu-rt-runtime"),
        cpuset_cpus: m.text("cpuset-cpus").to_owned(),
        cpuset_mems: m.text("cpuset-mems").to_owned(),
        nano_cpus: number::nano_cpus(m.text("cpus")).unwrap_or_default(),
        pids_limit: m.changed("pids-limit").then(|| m.int("pids-limit")),
        ..Resources::default()
    };
    let request = UpdateRequest { resources, restart_policy };
    let client = context.client()?;
    each(&m.args, |name| {
        let answer: UpdateResponse = client.post_json(&Path::new("/containers/{}/update", &[name]), &request)?;
        for warning in answer.warnings.unwrap_or_default() {
            terminal::say(&warning);
        }
        terminal::line(name)
    })
}
