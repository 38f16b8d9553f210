//! `logout`: log out from a registry..
//! Owns its flags and what it prints.

use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::{credentials, terminal};

const FLAGS: &[Flag] = &[
    ];

/// The command.
pub const COMMAND: Command = Command {
    names: &["logout"],
    usage: "[SERVER]",
    about: "Log out from a registry.",
    example: "logout registry.example.com",
    flags: &[FLAGS],
    args: Args::AtMost(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let key = credentials::key(m.args.first().map_or("docker.io", String::as_str).trim_end_matches('/'));
    terminal::line(&format!("Removing login credentials for {key}"))?;
    if !credentials::erase(context, &key)? {
        terminal::line(&format!("Not logged in to {key}"))?;
    }
    Ok(0)
}
