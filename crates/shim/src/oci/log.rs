//! The OCI command line's log: a file that the caller names, or stderr.
//!
//! Owns: the form of a line, levels, and that an error is also seen by whoever looks at stderr. Must not: fail a verb that has
//! begun, or keep a descriptor open, whose number could be one that the container is to get.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::timestamp::Timestamp;

#[derive(Debug, Default)]
struct Log {
    file: Option<PathBuf>,
    json: bool,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log as the command line has it, and creates it; what was logged before went to stderr. If it cannot be
/// written, what follows is logged there too.
pub(crate) fn open(line: &CommandLine) -> Result<(), Fault> {
    // An absolute path, as verbs change the directory.
    let file = line.path("log").map(|path| std::path::absolute(&path).unwrap_or(path));
    let opened = file.as_deref().map_or(Ok(()), |path| {
        append(path).map(drop).map_err(|error| Fault::new(format!("open {}: {error}", path.display())))
    });
    let file = file.filter(|_| opened.is_ok());
    let log = Log { file, json: line.value("log-format") == Some("json"), debug: line.has("debug") };
    // Already open: the first one stays.
    LOG.set(log).ok();
    opened
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// A step that was made; nothing unless `--debug` was given.
pub(crate) fn debug(text: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.debug) {
        write("debug", &text());
    }
}

/// Something that went otherwise than asked for, but not wrong.
pub(crate) fn warn(text: &str) {
    write("warning", text);
}

/// What ended a verb. Goes to the file for programs and to stderr for people, there as it is if it is to be `bare`.
pub(crate) fn error(text: &str, bare: bool) {
    let file = LOG.get().is_some_and(|log| log.file.is_some());
    if file || !bare {
        write("error", text);
    }
    if file || bare {
        eprintln!("{text}");
    }
}

fn write(level: &str, text: &str) {
    let none = Log::default();
    let log = LOG.get().unwrap_or(&none);
    let line = line(log.json, level, text, &Timestamp::now().to_string());
    let done = match &log.file {
        None => std::io::stderr().lock().write_all(line.as_bytes()),
        Some(path) => append(path).and_then(|mut file| file.write_all(line.as_bytes())),
    };
    // Nobody could be told, and it is not what was asked for.
    done.ok();
}

fn line(json: bool, level: &str, text: &str, time: &str) -> String {
    if json {
        format!("{}\n", serde_json::json!({"level": level, "msg": text, "time": time}))
    } else {
        format!("time={time:?} level={level} msg={text:?}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_the_text() {
        assert_eq!(line(false, "error", "a \"b\"\n", "T"), "time=\"T\" level=error msg=\"a \\\"b\\\"\\n\"\n");
        assert_eq!(
            line(true, "error", "a \"b\"\n", "T"),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\n\",\"time\":\"T\"}\n"
        );
    }
}
