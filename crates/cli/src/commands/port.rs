//! `port`: list port mappings or a specific mapping for the container.
//! Owns its flags and what it prints.

use brig_api::container::{InspectResponse, PortBinding};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["port", "container port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    example: "port web 80/tcp",
    flags: &[FLAGS],
    args: Args::Between(1, 2),
    stops: false,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let container: InspectResponse = context.client()?.get(&Path::new("/containers/{}/json", &[&m.args[0]]))?;
    let ports = container.network_settings.and_then(|n| n.ports).unwrap_or_default();
    let host = |binding: &PortBinding| match binding.host_ip.contains(':') {
        true => format!("[{}]:{}", binding.host_ip, binding.host_port),
        false => format!("{}:{}", binding.host_ip, binding.host_port),
    };
    let mut lines = Vec::new();
    if let Some(wanted) = m.args.get(1) {
        let full = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
        let bindings = ports.get(&full).cloned().flatten().filter(|list| !list.is_empty());
        let bindings = bindings.ok_or_else(|| {
            Failure::new(format!("Error: No public port '{wanted}' published for {}", m.args[0]))
        })?;
        lines.extend(bindings.iter().map(host));
    } else {
        let mut sorted: Vec<_> = ports.iter().collect();
        sorted.sort_by_key(|(port, _)| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
            (number.parse::<u16>().unwrap_or_default(), protocol.to_owned())
        });
        for (port, bindings) in sorted {
            lines.extend(bindings.iter().flatten().map(|binding| format!("{port} -> {}", host(binding))));
        }
    }
    terminal::print(&lines.into_iter().map(|line| format!("{line}\n")).collect::<String>()).map(|()| 0)
}
