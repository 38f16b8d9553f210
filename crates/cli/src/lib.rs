//! The `brig` command: Docker's verbs and flags over the Engine API, and words for people.
//! Owns the command line, the terminal and the connection to a daemon; must not know how a daemon does anything.

mod attach;
mod autostart;
mod client;
mod command;
mod commands;
mod completion;
mod credentials;
mod failure;
mod flags;
mod help;
mod host;
mod http;
mod human;
mod parse;
mod progress;
mod signals;
mod table;
mod template;
mod terminal;
mod tls;

use crate::command::{Command, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

static PROGRAM: OnceLock<&'static str> = OnceLock::new();

/// Flags before the verb.
const GLOBAL: &[Flag] = &[
    Flag::text("config", "Location of client config files"),
    Flag::text("context", "Name of the context to use to connect to the daemon").short('c'),
    Flag::switch("debug", "Enable debug mode").short('D'),
    Flag::list("host", "Daemon socket to connect to").short('H'),
    Flag::text("log-level", "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")")
        .short('l')
        .default("info"),
    Flag::switch("tls", "Use TLS; implied by --tlsverify"),
    Flag::text("tlscacert", "Trust certs signed only by this CA"),
    Flag::text("tlscert", "Path to TLS certificate file"),
    Flag::text("tlskey", "Path to TLS key file"),
    Flag::switch("tlsverify", "Use TLS and verify the remote"),
    Flag::switch("version", "Print version information and quit").short('v'),
];

/// The name this program goes by: `docker` if it was called so, else `brig`.
fn program() -> &'static str {
    PROGRAM.get().copied().unwrap_or("brig")
}

/// Runs the command line (the program's name first) and ends with its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let called = args.next().unwrap_or_default();
    let docker = std::path::Path::new(&called).file_name().is_some_and(|name| name == "docker");
    // Only the first call in a process decides.
    PROGRAM.get_or_init(|| if docker { "docker" } else { "brig" });
    let args: Vec<OsString> = args.collect();
    let result = match args.first() {
        Some(verb) if verb == autostart::VERB => Err(autostart::exec_daemon(&args[1..])),
        _ => text(args).and_then(|args| dispatch(&args)),
    };
    terminal::restore();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                terminal::say(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn text(args: Vec<OsString>) -> Result<Vec<String>> {
    let one = |arg: OsString| {
        arg.into_string().map_err(|arg| Failure::new(format!("argument is not UTF-8 text: {}", arg.to_string_lossy())))
    };
    args.into_iter().map(one).collect()
}

fn dispatch(args: &[String]) -> Result<u8> {
    let name = program();
    let global = flags::parse(&[GLOBAL], args, false).map_err(|bad| {
        let hint = bad.suggestion.map(|meant| format!("\nDid you mean {meant}?")).unwrap_or_default();
        let usage = format!("Usage:  {name} [OPTIONS] COMMAND [ARG...]");
        Failure::new(format!("{}{hint}\n\n{usage}\n\nRun '{name} --help' for more information", bad.message))
            .with_code(125)
    })?;
    let words = &global.args;
    if global.bool("version") {
        let line = format!("{name} version {}, build {}", env!("CARGO_PKG_VERSION"), build());
        return terminal::line(&line).map(|()| 0);
    }
    if words.is_empty() || (words.len() == 1 && words[0] == "help") || (global.help && words.is_empty()) {
        return terminal::print(&help::top()).map(|()| 0);
    }
    if global.help || words[0] == "help" {
        let wanted = if words[0] == "help" { &words[1..] } else { &words[..] };
        return help_about(wanted);
    }
    if words[0] == "__complete" {
        return completion::answer(&Context::new(options(&global)), &words[1..]);
    }
    let (command, said, rest) = find(words)?;
    command::run(command, &Context::new(options(&global)), rest, said)
}

/// What this program was made from; nothing is baked in yet.
fn build() -> &'static str {
    option_env!("BRIG_BUILD").unwrap_or("unknown")
}

fn options(global: &Matches) -> host::Options {
    let file = |long: &str| global.given(long).map(PathBuf::from);
    let verify = global.bool("tlsverify");
    let tls = (global.changed("tls") || global.changed("tlsverify")).then_some(verify);
    host::Options {
        hosts: global.strings("host"),
        context: global.text("context").to_owned(),
        config_dir: file("config"),
        tls: tls.filter(|_| verify || global.bool("tls")),
        certificates: [file("tlscacert"), file("tlscert"), file("tlskey")],
    }
}

/// The command that words name, how it was said, and its arguments.
fn find(words: &[String]) -> Result<(&'static Command, &'static str, &[String])> {
    for length in [2, 1] {
        let Some(head) = words.get(..length) else { continue };
        let said = head.join(" ");
        for command in commands::ALL {
            if let Some(name) = command.names.iter().find(|name| **name == said) {
                return Ok((command, name, &words[length..]));
            }
        }
    }
    if commands::GROUPS.iter().any(|(group, _)| *group == words[0]) {
        return match words.get(1).map(String::as_str) {
            None | Some("--help" | "-h" | "help") => Err(shown(&help::group(&words[0]))),
            Some(_) => Err(unknown(&words[..2])),
        };
    }
    Err(unknown(&words[..1]))
}

/// Printed already; ends with code 0.
fn shown(text: &str) -> Failure {
    match terminal::print(text) {
        Ok(()) => Failure::silent(0),
        Err(failure) => failure,
    }
}

fn unknown(words: &[String]) -> Failure {
    let name = program();
    let said = words.join(" ");
    if let Some(what) = commands::later(&said) {
        return Failure::new(format!("{name}: '{said}' is not in brig yet: {what}")).with_code(125);
    }
    let names = commands::ALL.iter().flat_map(|command| command.names.iter().copied());
    let meant = flags::closest(&said, names.filter(|n| !n.starts_with('_')));
    let hint = meant.map(|meant| format!("\nDid you mean '{name} {meant}'?")).unwrap_or_default();
    let group = if words.len() > 1 { format!("{} ", words[0]) } else { String::new() };
    Failure::new(format!(
        "{name}: unknown command: {name} {said}{hint}\n\nRun '{name} {group}--help' for more information"
    ))
}

fn help_about(words: &[String]) -> Result<u8> {
    if commands::GROUPS.iter().any(|(group, _)| words.len() == 1 && *group == words[0]) {
        return terminal::print(&help::group(&words[0])).map(|()| 0);
    }
    let (command, said, _) = find(words)?;
    terminal::print(&help::command(command, said)).map(|()| 0)
}
