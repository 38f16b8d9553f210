//! `system check`: look through everything that is kept for damage, and mend it. It is brig's own.
//! Owns its flags and what it prints; without a daemon it has the daemon's program look at a data root.

use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Matches};
use crate::{progress, terminal};
use brig_api::system::{CheckLine, CheckSummary};
use serde_json::Value;
use std::io::Read;

const FLAGS: &[Flag] = &[
    Flag::text("data-root", "Check this data root, which no daemon is using"),
    Flag::text("format", "'json': one object a line for each finding, and one for the summary"),
    Flag::switch("full", "Read every byte: compare blobs with their digests, layers with the archives that they came from"),
    Flag::switch("repair", "Mend what can be mended; what is damaged goes to the data root's quarantine, never away"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["system check"],
    usage: "[OPTIONS]",
    about: "Look for damage in what is stored, and mend it",
    example: "system check --full --repair",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

/// Something is left to be done.
const LEFT: u8 = 3;

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let json = match m.text("format") {
        "" => false,
        "json" => true,
        other => return Err(Failure::new(format!("--format {other}: only json is known"))),
    };
    let (full, repair) = (m.bool("full"), m.bool("repair"));
    if !m.text("data-root").is_empty() {
        return without_daemon(m.text("data-root"), full, repair, json);
    }
    let path = Path::new("/brig/system/check", &[]).query_flag("full", full).query_flag("repair", repair);
    let answer = context.client()?.request("POST", &path, &[], None)?;
    show(answer, json)
}

/// This program is the daemon too.
fn without_daemon(data_root: &str, full: bool, repair: bool, json: bool) -> Result<u8> {
    let failed = |e: std::io::Error| Failure::new(format!("start the check: {e}"));
    let mut command = std::process::Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["daemon", "--check", "--data-root", data_root]).stdout(std::process::Stdio::piped());
    command.args(full.then_some("--check-full")).args(repair.then_some("--check-repair"));
    let mut child = command.spawn().map_err(failed)?;
    let shown = child.stdout.take().map(|out| show(out, json));
    let status = child.wait().map_err(failed)?;
    match shown {
        Some(Ok(code)) => Ok(code),
        // It has said why on standard error.
        Some(Err(_)) | None if !status.success() => Ok(1),
        Some(Err(e)) => Err(e),
        None => Ok(1),
    }
}

fn show(lines: impl Read, json: bool) -> Result<u8> {
    let mut summary = None;
    progress::messages(lines, |value: Value| {
        if json {
            terminal::line(&value.to_string())?;
        }
        let line: CheckLine = serde_json::from_value(value)
            .map_err(|e| Failure::new(format!("the daemon's answer could not be read: {e}")))?;
        if !line.error.is_empty() {
            return Err(Failure::new(line.error));
        }
        summary = summary.or(line.summary);
        if json || line.summary.is_some() { Ok(()) } else { terminal::line(&words(&line)) }
    })?;
    let Some(summary) = summary else { return Err(Failure::new("the check was cut off before its end")) };
    if !json {
        terminal::line(&conclusion(summary))?;
    }
    Ok(if summary.left > 0 { LEFT } else { 0 })
}

fn words(line: &CheckLine) -> String {
    let mut text = format!("{} {}: {}", line.kind, line.name, line.problem);
    if !line.done.is_empty() {
        text.push_str(&format!("\n    {}: {}", if line.mended { "mended" } else { "done" }, line.done));
    }
    if !line.advice.is_empty() {
        text.push_str(&format!("\n    to do: {}", line.advice));
    }
    text
}

fn conclusion(summary: CheckSummary) -> String {
    match summary {
        CheckSummary { found: 0, .. } => "Everything is as it should be.".into(),
        CheckSummary { found, left: 0, .. } => format!("{found} found, all mended."),
        CheckSummary { found, mended: 0, left } => format!("{found} found, {left} left to be done."),
        CheckSummary { found, mended, left } => format!("{found} found, {mended} mended, {left} left to be done."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read() {
        let line = CheckLine {
            kind: "layer".into(),
            name: "sha256:ab".into(),
            problem: "its files are gone".into(),
            done: "marked".into(),
            advice: "brig pull debian:12".into(),
            ..CheckLine::default()
        };
        assert_eq!(words(&line), "layer sha256:ab: its files are gone\n    done: marked\n    to do: brig pull debian:12");
        assert_eq!(conclusion(CheckSummary { found: 3, mended: 2, left: 1 }), "3 found, 2 mended, 1 left to be done.");
    }
}
