//! What a command is: names, flags, arguments, words for the help, and the function that does it. And how one is found and run.
//! Knows no particular command.

use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::flags::{self, Flag, Matches};
use crate::{help, host, program};
use std::sync::{Arc, OnceLock};

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Args {
    /// None.
    None,
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// Up to this many.
    AtMost(usize),
    /// From the first to the second.
    Between(usize, usize),
}

impl Args {
    /// Docker's words if the number is wrong.
    fn refuse(self, given: usize) -> Option<String> {
        let plural = |n: usize| if n == 1 { format!("{n} argument") } else { format!("{n} arguments") };
        match self {
            Args::None if given > 0 => Some("accepts no arguments".to_owned()),
            Args::Exactly(n) if given != n => Some(format!("requires {}", plural(n))),
            Args::AtLeast(n) if given < n => Some(format!("requires at least {}", plural(n))),
            Args::AtMost(n) if given > n => Some(format!("requires at most {}", plural(n))),
            Args::Between(least, most) if given < least || given > most => {
                Some(format!("requires at least {least} and at most {}", plural(most)))
            }
            _ => None,
        }
    }
}

/// What the shell may complete an argument with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    /// Nothing known.
    Nothing,
    /// Names of all containers.
    Containers,
    /// Names of running containers.
    Running,
    /// Names of images.
    Images,
    /// Names of networks.
    Networks,
    /// Names of volumes.
    Volumes,
}

/// A command.
pub struct Command {
    /// Every way to say it; the first is the one shown.
    pub names: &'static [&'static str],
    /// What follows the name in the usage line.
    pub usage: &'static str,
    /// One line.
    pub about: &'static str,
    /// A line or two to try, without the program's name.
    pub example: &'static str,
    /// The flags.
    pub flags: &'static [&'static [Flag]],
    /// The arguments.
    pub args: Args,
    /// Flags end at the first argument.
    pub stops: bool,
    /// What arguments are completed with.
    pub complete: Complete,
    /// Does it; the value is the exit code.
    pub run: fn(&Context, &Matches) -> Result<u8>,
}

/// What every command may use.
#[derive(Debug, Default)]
pub struct Context {
    /// The global flags.
    pub options: host::Options,
    client: OnceLock<Arc<Client>>,
}

impl Context {
    /// With these global flags.
    pub fn new(options: host::Options) -> Context {
        Context { options, client: OnceLock::new() }
    }

    /// The daemon to talk to. Connects when the first request is made.
    ///
    /// # Errors
    /// No such daemon can be named.
    pub fn client(&self) -> Result<&Arc<Client>> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Arc::new(Client::new(host::find(&self.options)?));
        Ok(self.client.get_or_init(|| client))
    }
}

/// Reads the arguments of a command and does it.
///
/// # Errors
/// Bad flags (125), a wrong number of arguments (1), and the command's own.
pub fn run(command: &Command, context: &Context, args: &[String], said: &str) -> Result<u8> {
    let name = program();
    let usage = || format!("Usage:  {name} {said} {}", command.usage).trim_end().to_owned();
    let matches = flags::parse(command.flags, args, !command.stops).map_err(|bad| {
        let hint = bad.suggestion.map(|meant| format!("\nDid you mean {meant}?")).unwrap_or_default();
        Failure::new(format!("{}{hint}\n\n{}\n\nRun '{name} {said} --help' for more information", bad.message, usage()))
            .with_code(125)
    })?;
    if matches.help {
        crate::terminal::print(&help::command(command, said))?;
        return Ok(0);
    }
    if let Some(why) = command.args.refuse(matches.args.len()) {
        let see = if matches!(command.args, Args::AtLeast(_)) { "See" } else { "Run" };
        let message = format!(
            "{name}: '{name} {said}' {why}\n\n{}\n\n{see} '{name} {said} --help' for more information",
            usage()
        );
        return Err(Failure::new(message));
    }
    (command.run)(context, &matches)
}

/// Does a step for each name, prints the names done, and collects what failed as Docker does: each failure on its own line.
///
/// # Errors
/// The failures.
pub fn each(names: &[String], mut step: impl FnMut(&str) -> Result<()>) -> Result<u8> {
    let mut failed = Vec::new();
    for name in names {
        match step(name) {
            Ok(()) => {}
            Err(failure) if failure.status.is_none() => return Err(failure),
            Err(failure) => failed.push(failure.message),
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

/// Refuses a filter without a value.
///
/// # Errors
/// Docker's words.
pub fn check_filter(text: &str) -> std::result::Result<(), String> {
    if text.is_empty() || text.contains('=') {
        Ok(())
    } else {
        Err("bad format of filter (expected name=value)".to_owned())
    }
}

/// `--filter` values as the daemon takes them.
///
/// # Errors
/// A value without `=`.
pub fn filters(values: &[&str]) -> Result<brig_api::filters::Filters> {
    let mut filters = brig_api::filters::Filters::new();
    for value in values.iter().filter(|value| !value.is_empty()) {
        let (name, value) =
            value.split_once('=').ok_or_else(|| Failure::new("bad format of filter (expected name=value)"))?;
        filters.add(name.trim().to_lowercase(), value.trim());
    }
    Ok(filters)
}

/// The filters as text for the query; empty if there are none.
pub fn filter_text(filters: &brig_api::filters::Filters) -> String {
    if filters.is_empty() { String::new() } else { filters.to_json() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_arguments() {
        assert_eq!(Args::AtLeast(1).refuse(0).as_deref(), Some("requires at least 1 argument"));
        assert_eq!(Args::Exactly(2).refuse(1).as_deref(), Some("requires 2 arguments"));
        assert_eq!(Args::None.refuse(1).as_deref(), Some("accepts no arguments"));
        assert_eq!(Args::Between(1, 2).refuse(3).as_deref(), Some("requires at least 1 and at most 2 arguments"));
        assert_eq!(Args::AtMost(1).refuse(1), None);
    }

    #[test]
    fn filters_need_a_value() {
        assert_eq!(
            filters(&["Name = x", "label=a=b"]).unwrap().to_json(),
            r#"{"label":{"a=b":true},"name":{"x":true}}"#
        );
        assert!(filters(&["x"]).unwrap_err().message.contains("bad format of filter"));
    }
}
