//! `run`: create a container, start it, and be its terminal until it ends.
//! Owns the order of the requests and the exit code; the request itself is made in `creating`.

use crate::attach::{self, End, Target};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;
use super::container_flags;
use super::creating;
use super::waiting::{self, Ended};

const FLAGS: &[Flag] = &[
    Flag::switch("detach", "Run container in background and print container ID").short('d'),
    Flag::text("detach-keys", "Override the key sequence for detaching a container"),
    Flag::text("pull", "Pull image before running (\"always\", \"missing\", \"never\")").default("missing"),
    Flag::switch("quiet", "Suppress the pull output").short('q'),
    Flag::switch("sig-proxy", "Proxy received signals to the process").default("true"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["run", "container run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    example: "run -it --rm alpine sh\nrun -d --name web -p 8080:80 nginx\nrun -it --rm --rootfs / sh",
    flags: &[FLAGS, container_flags::FLAGS],
    args: Args::AtLeast(1),
    stops: true,
    complete: Complete::Images,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let detach = m.bool("detach");
    let mut request = creating::prepare(context, m).map_err(|f| f.of_run("run").with_code(125))?;
    let config = &mut request.config;
    if detach {
        if m.changed("attach") {
            return Err(Failure::new("conflicting options: cannot specify both --attach and --detach"));
        }
        config.attach_stdin = false;
        config.attach_stdout = false;
        config.attach_stderr = false;
        config.stdin_once = false;
    } else {
        attach::check_terminal(config.attach_stdin, config.tty)?;
    }
    let created = creating::create(context, m, &request).map_err(|f| f.of_run("run").with_code(125))?;
    let client = context.client()?;
    let start = Path::new("/containers/{}/start", &[&created.id]);
    let attached = request.config.attach_stdin || request.config.attach_stdout || request.config.attach_stderr;
    if detach || !attached {
        client.post(&start).map_err(start_failure)?;
        terminal::line(&created.id)?;
        return Ok(0);
    }
    let config = &request.config;
    let path = Path::new("/containers/{}/attach", &[&created.id])
        .query("stream", "1")
        .query_flag("stdin", config.attach_stdin)
        .query_flag("stdout", config.attach_stdout)
        .query_flag("stderr", config.attach_stderr)
        .query_text("detachKeys", m.text("detach-keys"));
    // Both are asked for before either is answered; both must stand before the process can run.
    let joining = client.begin("POST", &path, true)?;
    let waiting = waiting::begin(client, &created.id, m.bool("rm"))?;
    // A terminal that reads its keys from here sends an interrupt as a key.
    let proxied = m.bool("sig-proxy") && !(config.tty && config.attach_stdin);
    if proxied {
        attach::forward_signals(client, created.id.clone())?;
    }
    let stream = joining.answer()?.into_stream().0;
    let waiting = waiting.answer()?;
    client.post(&start).map_err(start_failure)?;
    if config.tty && terminal::stdout_is_tty() {
        attach::follow_window(client, Target::Container(created.id.clone()), !proxied)?;
    }
    let options = attach::Options {
        stdin: config.attach_stdin,
        tty: config.tty,
        detach_keys: m.text("detach-keys").to_owned(),
    };
    if attach::copy(stream, &options)? == End::Detached {
        return Ok(0);
    }
    match waiting::end(waiting)? {
        Ended::Code(code) => Ok(code),
        Ended::Refused(why) => Err(Failure::new(format!("Error waiting for container: {why}")).with_code(125)),
    }
}

/// Docker's exit codes for a container that was made but could not be started.
fn start_failure(failure: Failure) -> Failure {
    let says = |words: &[&str]| words.iter().any(|w| failure.message.contains(w));
    let code = if says(&["executable file not found", "no such file or directory", "system cannot find the file specified"]) {
        127
    } else if says(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    };
    failure.of_run("run").with_code(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_failed_starts() {
        let code = |text: &str| start_failure(Failure::daemon(400, text)).code;
        assert_eq!(code("exec: \"x\": executable file not found in $PATH: unknown"), 127);
        assert_eq!(code("exec: \"/x\": permission denied: unknown"), 126);
        assert_eq!(code("exec: \"/\": is a directory: unknown"), 126);
        assert_eq!(code("Bind for 0.0.0.0:80 failed: port is already allocated"), 125);
    }
}
