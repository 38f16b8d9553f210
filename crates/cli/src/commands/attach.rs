//! `attach`: attach local standard input, output, and error streams to a running container.
//! Owns its flags and what it prints.

use brig_api::container::InspectResponse;
use crate::attach::{self, End, Target};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;
use super::waiting::{self, Ended};

const FLAGS: &[Flag] = &[
    Flag::text("detach-keys", "Override the key sequence for detaching a container"),
    Flag::switch("no-stdin", "Do not attach STDIN"),
    Flag::switch("sig-proxy", "Proxy all received signals to the process").default("true"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["attach", "container attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    example: "attach web",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    let container: InspectResponse = client.get(&Path::new("/containers/{}/json", &[&m.args[0]]))?;
    let state = container.state.unwrap_or_default();
    for (is, word, next) in [(!state.running, "stopped", "start"), (state.paused, "paused", "unpause"), (state.restarting, "restarting", "wait")] {
        if is {
            let message = format!("You cannot attach to a {word} container, {next} it first");
            return Err(Failure::new(message));
        }
    }
    let config = container.config.unwrap_or_default();
    let stdin = !m.bool("no-stdin") && config.open_stdin;
    attach::check_terminal(stdin, config.tty)?;
    let path = Path::new("/containers/{}/attach", &[&container.id])
        .query("stream", "1")
        .query_flag("stdin", stdin)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_text("detachKeys", m.text("detach-keys"));
    let waiting = waiting::begin(client, &container.id, false)?;
    let stream = client.begin("POST", &path, true)?.answer()?.into_stream().0;
    if m.bool("sig-proxy") && !config.tty {
        attach::forward_signals(client, container.id.clone())?;
    }
    if config.tty && terminal::stdout_is_tty() {
        attach::redraw(client, &Target::Container(container.id.clone()));
        attach::follow_window(client, Target::Container(container.id.clone()), true)?;
    }
    let options = attach::Options { stdin, tty: config.tty, detach_keys: m.text("detach-keys").to_owned() };
    if attach::copy(stream, &options)? == End::Detached {
        return Ok(0);
    }
    match waiting::end(waiting.answer()?)? {
        Ended::Code(code) => Ok(code),
        Ended::Refused(why) => Err(Failure::new(why)),
    }
}
