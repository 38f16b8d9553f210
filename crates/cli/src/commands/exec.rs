//! `exec`: execute a command in a running container.
//! Owns its flags and what it prints.

use brig_api::exec::{CreateRequest, CreateResponse, InspectResponse, StartRequest};
use crate::attach::{self, End, Target};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::Result;
use crate::flags::{Flag, Matches};
use crate::parse::env;
use crate::terminal;

const FLAGS: &[Flag] = &[
    Flag::switch("detach", "Detached mode: run command in the background").short('d'),
    Flag::text("detach-keys", "Override the key sequence for detaching a container"),
    Flag::list("env", "Set environment variables").short('e').check(crate::parse::env::check),
    Flag::list("env-file", "Read in a file of environment variables"),
    Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
    Flag::switch("privileged", "Give extended privileges to the command"),
    Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Flag::text("user", "Username or UID (format: \"<name|uid>[:<group|gid>]\")").short('u'),
    Flag::text("workdir", "Working directory inside the container").short('w'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["exec", "container exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    example: "exec -it web sh",
    flags: &[FLAGS],
    args: Args::AtLeast(2),
    stops: true,
    complete: Complete::Running,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client()?;
    let (detach, tty) = (m.bool("detach"), m.bool("tty"));
    let stdin = m.bool("interactive") && !detach;
    attach::check_terminal(stdin, tty)?;
    let console_size = terminal::size().filter(|_| tty && !detach).map(|(rows, columns)| [rows.into(), columns.into()]);
    let request = CreateRequest {
        user: m.text("user").to_owned(),
        privileged: m.bool("privileged"),
        tty,
        console_size,
        attach_stdin: stdin,
        attach_stdout: !detach,
        attach_stderr: !detach,
        detach_keys: m.text("detach-keys").to_owned(),
        env: Some(env::variables(&m.list("env-file"), &m.list("env"))?),
        working_dir: m.text("workdir").to_owned(),
        cmd: Some(m.args[1..].to_vec()),
    };
    let created: CreateResponse = client.post_json(&Path::new("/containers/{}/exec", &[&m.args[0]]), &request)?;
    let start = Path::new("/exec/{}/start", &[&created.id]);
    let how = StartRequest { detach, tty, console_size };
    if detach {
        let answer = client.request("POST", &start, &[], Some(&crate::client::encode(&how)))?;
        client.finish(answer)?;
        return Ok(0);
    }
    let stream = client.hijack(&start, &how).map_err(start_failure)?;
    if tty && terminal::stdout_is_tty() {
        attach::follow_window(client, Target::Exec(created.id.clone()), true)?;
    }
    let options = attach::Options { stdin, tty, detach_keys: m.text("detach-keys").to_owned() };
    if attach::copy(stream, &options)? == End::Detached {
        return Ok(0);
    }
    let state: InspectResponse = client.get(&Path::new("/exec/{}/json", &[&created.id]))?;
    // An exit status has eight bits.
    Ok(u8::try_from(state.exit_code.unwrap_or_default() & 0xff).unwrap_or(125))
}

/// A process that could not be started ends as a shell would say it.
fn start_failure(failure: crate::failure::Failure) -> crate::failure::Failure {
    let says = |words: &[&str]| words.iter().any(|w| failure.message.contains(w));
    let code = if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "is a directory"]) {
        126
    } else {
        failure.code
    };
    failure.with_code(code)
}
