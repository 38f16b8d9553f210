//! `version`: show the Docker version information.
//! Owns its flags and what it prints.

use brig_api::system::Version;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::template::Format;
use crate::{program, terminal};
use serde_json::{Value, json};

const FLAGS: &[Flag] = &[
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates").short('f'),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["version"],
    usage: "[OPTIONS]",
    about: "Show the Docker version information",
    example: "version -f '{{.Server.Version}}'",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let client = context.client();
    let server = client.as_ref().map_err(|f| (*f).clone()).and_then(|client| client.get_raw(&Path::new("/version", &[])));
    let api = client.as_ref().map_or_else(|_| brig_api::API_VERSION.to_owned(), |client| client.version());
    let own = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api,
        "DefaultAPIVersion": brig_api::API_VERSION,
        "GitCommit": crate::build(),
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "BuildTime": "",
        "Context": "default",
    });
    let parsed: Value = match &server {
        Ok(bytes) => crate::client::decode(bytes)?,
        Err(_) => Value::Null,
    };
    let format = match m.text("format") {
        "json" => "{{json .}}",
        other => other,
    };
    if format.is_empty() {
        terminal::print(&human(&own, server.as_ref().ok().map(|b| crate::client::decode(b)).transpose()?.as_ref()))?;
    } else {
        let text = Format::parse(format)?.fill(&json!({ "Client": own, "Server": parsed }))?;
        terminal::line(&text)?;
    }
    server.map(|_| 0).map_err(|f| Failure { code: 1, ..f })
}

/// The processor's name as Go says it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn human(own: &Value, server: Option<&Version>) -> String {
    let text = |name: &str| own[name].as_str().unwrap_or("").to_owned();
    let mut out = format!("Client: {}\n", program());
    for (name, value) in [
        ("Version", text("Version")),
        ("API version", text("ApiVersion")),
        ("Git commit", text("GitCommit")),
        ("OS/Arch", format!("{}/{}", text("Os"), text("Arch"))),
        ("Context", text("Context")),
    ] {
        out.push_str(&format!(" {:<18}{value}\n", format!("{name}:")));
    }
    let Some(server) = server else { return out };
    out.push_str(&format!("\nServer: {}\n", server.platform.name));
    let mut components = server.components.clone();
    if components.is_empty() {
        components.push(brig_api::system::Component { name: "Engine".into(), version: server.version.clone(), details: None });
    }
    for component in components {
        let details = component.details.unwrap_or_default();
        out.push_str(&format!(" {}:\n  {:<17}{}\n", component.name, "Version:", component.version));
        let detail = |name: &str| details.get(name).cloned().unwrap_or_default();
        if component.name == "Engine" {
            let range = format!("{} (minimum version {})", server.api_version, server.min_api_version);
            let platform = format!("{}/{}", server.os, server.arch);
            for (name, value) in [
                ("API version", range),
                ("Go version", server.go_version.clone()),
                ("Git commit", server.git_commit.clone()),
                ("Built", server.build_time.clone()),
                ("OS/Arch", platform),
                ("Experimental", server.experimental.to_string()),
            ] {
                if !value.is_empty() {
                    out.push_str(&format!("  {:<17}{value}\n", format!("{name}:")));
                }
            }
        } else if !detail("GitCommit").is_empty() {
            out.push_str(&format!("  {:<17}{}\n", "GitCommit:", detail("GitCommit")));
        }
    }
    out
}
