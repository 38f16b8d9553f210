//! `login`: authenticate to a registry..
//! Owns its flags and what it prints.

use brig_api::system::{AuthConfig, AuthResponse};
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::credentials;
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::terminal;
use std::io::Read;

const FLAGS: &[Flag] = &[
    Flag::text("password", "Password or Personal Access Token (PAT)").short('p'),
    Flag::switch("password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
    Flag::text("username", "Username").short('u'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry.",
    example: "login -u me --password-stdin registry.example.com",
    flags: &[FLAGS],
    args: Args::AtMost(1),
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let server = credentials::key(m.args.first().map_or("docker.io", String::as_str).trim_end_matches('/'));
    let (mut user, mut password) = (m.text("username").to_owned(), m.text("password").to_owned());
    if m.bool("password-stdin") {
        if m.changed("password") {
            return Err(Failure::new("--password and --password-stdin are mutually exclusive"));
        }
        if user.is_empty() {
            return Err(Failure::new("the --password-stdin option requires --username to be set"));
        }
        std::io::stdin().read_to_string(&mut password)?;
        password.truncate(password.trim_end_matches(['\r', '\n']).len());
    } else if m.changed("password") {
        terminal::say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if !m.bool("password-stdin")
        && user.is_empty()
        && password.is_empty()
        && let Some(known) = credentials::find(context, &server)
        && !known.password.is_empty()
    {
        terminal::say(&format!("Authenticating with existing credentials... [Username: {}]", known.username));
        match context.client()?.post_json::<_, AuthResponse>(&Path::new("/auth", &[]), &known) {
            Ok(answer) => return succeeded(&answer.status),
            Err(refusal) => terminal::say(&format!("Login did not succeed, error: {refusal}")),
        }
        user = known.username;
    }
    if user.is_empty() || password.is_empty() {
        if !terminal::stdin_is_tty() {
            return Err(Failure::new("Error: Cannot perform an interactive login from a non TTY device"));
        }
        if user.is_empty() {
            user = ask("Username: ")?;
        }
        password = secret("Password: ")?;
    }
    if user.is_empty() || password.is_empty() {
        return Err(Failure::new("error: username and password required"));
    }
    let mut auth = AuthConfig { username: user, password, serveraddress: server, ..AuthConfig::default() };
    let answer: AuthResponse = context.client()?.post_json(&Path::new("/auth", &[]), &auth)?;
    if !answer.identity_token.is_empty() {
        auth.password.clear();
        auth.identitytoken = answer.identity_token;
    }
    if credentials::store(context, &auth)? {
        terminal::say(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning.\n",
            crate::host::config_dir(&context.options).join("config.json").display()
        ));
    }
    succeeded(&answer.status)
}

fn succeeded(status: &str) -> Result<u8> {
    terminal::line(if status.is_empty() { "Login Succeeded" } else { status }).map(|()| 0)
}

fn ask(question: &str) -> Result<String> {
    terminal::print(question)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// As [`ask`], without showing what is typed.
fn secret(question: &str) -> Result<String> {
    let hidden = terminal::hide_typing()?;
    let answer = ask(question);
    drop(hidden);
    terminal::line("")?;
    answer
}
