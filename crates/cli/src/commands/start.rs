//! `start`: start one or more stopped containers.
//! Owns its flags and what it prints.

use brig_api::container::InspectResponse;
use crate::attach::{self, End, Target};
use crate::client::Path;
use crate::command::each;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;
use super::waiting::{self, Ended};

const FLAGS: &[Flag] = &[
    Flag::switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
    Flag::text("checkpoint", "Restore from this checkpoint"),
    Flag::text("checkpoint-dir", "Use a custom checkpoint storage directory"),
    Flag::text("detach-keys", "Override the key sequence for detaching a container"),
    Flag::switch("interactive", "Attach container's STDIN").short('i'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["start", "container start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    example: "start -a web",
    flags: &[FLAGS],
    args: Args::AtLeast(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    if m.changed("checkpoint") {
        return Err(Failure::new("--checkpoint is not in brig yet: start the container without it"));
    }
    if m.bool("attach") || m.bool("interactive") {
        if m.args.len() > 1 {
            return Err(Failure::new("you cannot start and attach multiple containers at once"));
        }
        return attached(context, m);
    }
    let client = context.client()?;
    let result = each(&m.args, |name| {
        client.post(&Path::new("/containers/{}/start", &[name]))?;
        terminal::line(name)
    });
    result.map_err(|f| match f.status {
        None if f.message.starts_with("Error response") => {
            Failure::new(format!("{}\nError: failed to start containers: {}", f.message, failed(&f.message, &m.args)))
        }
        _ => f,
    })
}

/// The names that the messages mention, or all of them.
fn failed(message: &str, names: &[String]) -> String {
    let told: Vec<&str> = names.iter().map(String::as_str).filter(|name| message.contains(name)).collect();
    if told.is_empty() { names.join(", ") } else { told.join(", ") }
}

fn attached(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    let container: InspectResponse = client.get(&Path::new("/containers/{}/json", &[&m.args[0]]))?;
    let config = container.config.unwrap_or_default();
    let stdin = m.bool("interactive") && config.open_stdin;
    attach::check_terminal(stdin, config.tty)?;
    let path = Path::new("/containers/{}/attach", &[&container.id])
        .query("stream", "1")
        .query_flag("stdin", stdin)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_text("detachKeys", m.text("detach-keys"));
    let joining = client.begin("POST", &path, true)?;
    let removed = container.host_config.is_some_and(|host| host.auto_remove);
    let waiting = waiting::begin(client, &container.id, removed)?;
    if !config.tty {
        attach::forward_signals(client, container.id.clone())?;
    }
    let stream = joining.answer()?.into_stream().0;
    let waiting = waiting.answer()?;
    client.post(&Path::new("/containers/{}/start", &[&container.id]))?;
    if config.tty && terminal::stdout_is_tty() {
        attach::follow_window(client, Target::Container(container.id), true)?;
    }
    let options = attach::Options { stdin, tty: config.tty, detach_keys: m.text("detach-keys").to_owned() };
    if attach::copy(stream, &options)? == End::Detached {
        return Ok(0);
    }
    match waiting::end(waiting)? {
        Ended::Code(code) => Ok(code),
        Ended::Refused(why) => Err(Failure::new(why)),
    }
}
