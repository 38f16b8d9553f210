//! `logs`: fetch the logs of a container.
//! Owns its flags and what it prints.

use brig_api::container::InspectResponse;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::parse::time;
use crate::{attach, terminal};
use jiff::Timestamp;
use std::io::Read;

const FLAGS: &[Flag] = &[
    Flag::switch("details", "Show extra details provided to logs"),
    Flag::switch("follow", "Follow log output").short('f'),
    Flag::text("since", "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
    Flag::text("tail", "Number of lines to show from the end of the logs").short('n').default("all"),
    Flag::switch("timestamps", "Show timestamps").short('t'),
    Flag::text("until", "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["logs", "container logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    example: "logs -f --tail 20 web",
    flags: &[FLAGS],
    args: Args::Exactly(1),
    stops: false,
    complete: Complete::Containers,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    let name = &m.args[0];
    let moment = |flag: &str| match m.text(flag) {
        "" => Ok(String::new()),
        text => time::moment(text, Timestamp::now()).map_err(|e| crate::failure::Failure::new(format!("invalid value for {flag:?}: {e}"))),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let container: InspectResponse = client.get(&Path::new("/containers/{}/json", &[name]))?;
    let path = Path::new("/containers/{}/logs", &[&container.id])
        .query("stdout", "1")
        .query("stderr", "1")
        .query_flag("follow", m.bool("follow"))
        .query_flag("timestamps", m.bool("timestamps"))
        .query_flag("details", m.bool("details"))
        .query_text("since", &since)
        .query_text("until", &until)
        .query("tail", m.text("tail"));
    let mut answer = client.request("GET", &path, &[], None)?;
    if !container.config.is_some_and(|config| config.tty) {
        return attach::receive_frames(answer).map(|()| 0);
    }
    let mut buffer = [0; 32 << 10];
    loop {
        match answer.read(&mut buffer)? {
            0 => return Ok(0),
            read => terminal::write(&buffer[..read])?,
        }
    }
}
