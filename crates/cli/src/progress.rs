//! Progress of pulls, loads and imports as the daemon streams it: lines in place on a terminal, plain lines elsewhere.
//! Owns the drawing; makes no request.

use crate::failure::{Failure, Result};
use crate::{human, terminal};
use brig_api::progress::{Detail, Message};
use std::fmt::Write as _;
use std::io::Read;

/// Draws a stream of messages.
#[derive(Debug)]
pub struct Drawing {
    terminal: bool,
    width: u16,
    lines: Vec<String>,
}

impl Drawing {
    /// On standard output as it is.
    pub fn new() -> Drawing {
        let width = terminal::size().map_or(200, |(_, width)| width);
        Drawing { terminal: terminal::stdout_is_tty(), width, lines: Vec::new() }
    }

    /// The text that shows a message.
    ///
    /// # Errors
    /// The message is the daemon's error.
    pub fn show(&mut self, message: &Message) -> Result<String> {
        let mut out = String::new();
        let mut up = 0;
        if message.aux.is_some() && message.status.is_empty() && message.error.is_empty() {
            // For programs.
            return Ok(out);
        }
        if !message.id.is_empty() && message.progress_detail.is_some() {
            let at = self.lines.iter().position(|id| *id == message.id).unwrap_or_else(|| {
                self.lines.push(message.id.clone());
                if self.terminal {
                    out.push('\n');
                }
                self.lines.len() - 1
            });
            up = self.lines.len() - at;
            if self.terminal {
                out.push_str(&format!("\x1b[{up}A"));
            }
        } else {
            self.lines.clear();
        }
        if let Some(error) = message.error_detail.as_ref().filter(|e| !e.message.is_empty()) {
            return Err(Failure::new(error.message.clone()));
        }
        if !message.error.is_empty() {
            return Err(Failure::new(message.error.clone()));
        }
        self.body(message, &mut out);
        if up > 0 && self.terminal {
            out.push_str(&format!("\x1b[{up}B"));
        }
        Ok(out)
    }

    fn body(&self, message: &Message, out: &mut String) {
        let bar = message.progress_detail.as_ref().map(|detail| bar(detail, self.width)).unwrap_or_default();
        let in_place = self.terminal && message.stream.is_empty() && message.progress_detail.is_some();
        if in_place {
            out.push_str("\x1b[2K\r");
        } else if !bar.is_empty() {
            // Half-done work is noise where it cannot be overwritten.
            return;
        }
        if !message.id.is_empty() {
            out.push_str(&format!("{}: ", message.id));
        }
        if in_place {
            out.push_str(&format!("{} {bar}\r", message.status));
        } else if !message.stream.is_empty() {
            out.push_str(&message.stream);
        } else {
            out.push_str(&format!("{}\n", message.status));
        }
    }
}

fn bar(detail: &Detail, width: u16) -> String {
    if detail.current <= 0 && detail.total <= 0 {
        return String::new();
    }
    let current = human::size(detail.current);
    if detail.total <= 0 {
        return if detail.units.is_empty() {
            format!("{current:>8}")
        } else {
            format!("{} {}", detail.current, detail.units)
        };
    }
    let half = usize::try_from(detail.current.saturating_mul(50) / detail.total).unwrap_or(0).min(50);
    let mut text = String::new();
    if width > 110 {
        write!(text, "[{}>{}] ", "=".repeat(half), " ".repeat(50 - half)).expect("writing to a String does not fail");
    }
    let total = human::size(detail.total);
    match (detail.hidecounts, detail.units.is_empty()) {
        (true, _) => {}
        (false, true) if detail.current > detail.total => text.push_str(&format!("{current:>8}")),
        (false, true) => text.push_str(&format!("{current:>8}/{total}")),
        (false, false) => text.push_str(&format!("{}/{} {}", detail.current, detail.total, detail.units)),
    }
    text
}

/// Every JSON message of a stream.
///
/// # Errors
/// Broken streams and what `each` refuses.
pub fn messages<T: serde::de::DeserializeOwned>(
    source: impl Read,
    mut each: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    for message in serde_json::Deserializer::from_reader(std::io::BufReader::new(source)).into_iter::<T>() {
        match message {
            Ok(message) => each(message)?,
            Err(error) if error.is_eof() => {
                return Err(Failure::new("error during connect: the daemon closed the connection"));
            }
            Err(error) => return Err(Failure::new(format!("the daemon's answer could not be read: {error}"))),
        }
    }
    Ok(())
}

/// Draws a whole stream on standard output, or on standard error if `beside` is set (`run` keeps its output for the container).
///
/// # Errors
/// The daemon's error, or a broken stream.
pub fn draw(source: impl Read, quiet: bool, beside: bool) -> Result<()> {
    let mut drawing = Drawing::new();
    if beside {
        drawing.terminal = rustix::termios::isatty(rustix::stdio::stderr());
    }
    messages(source, |message: Message| {
        let text = drawing.show(&message)?;
        match (quiet, beside) {
            (true, _) => Ok(()),
            (false, false) => terminal::print(&text),
            (false, true) => std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).map_err(Failure::from),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_for_programs_is_not_drawn() {
        let mut d = Drawing { terminal: true, width: 200, lines: Vec::new() };
        assert_eq!(d.show(&message(r#"{"progressDetail":{},"aux":{"Tag":"latest"}}"#)).unwrap(), "");
    }

    #[test]
    fn plain_lines_skip_bars() {
        let mut d = Drawing { terminal: false, width: 200, lines: Vec::new() };
        let shown = |d: &mut Drawing, json| d.show(&message(json)).unwrap();
        assert_eq!(
            shown(&mut d, r#"{"status":"Pulling from library/a","id":"latest"}"#),
            "latest: Pulling from library/a\n"
        );
        assert_eq!(
            shown(&mut d, r#"{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"ab"}"#),
            ""
        );
        assert_eq!(shown(&mut d, r#"{"status":"Pull complete","progressDetail":{},"id":"ab"}"#), "ab: Pull complete\n");
        assert_eq!(shown(&mut d, r#"{"stream":"Loaded image: a:b\n"}"#), "Loaded image: a:b\n");
        let error = d.show(&message(r#"{"errorDetail":{"message":"no"},"error":"no"}"#)).unwrap_err();
        assert_eq!(error.message, "no");
    }

    #[test]
    fn a_terminal_is_redrawn_in_place() {
        let mut d = Drawing { terminal: true, width: 120, lines: Vec::new() };
        let shown = |d: &mut Drawing, json| d.show(&message(json)).unwrap();
        let first = shown(&mut d, r#"{"status":"Waiting","progressDetail":{},"id":"a"}"#);
        assert_eq!(first, "\n\x1b[1A\x1b[2K\ra: Waiting \r\x1b[1B");
        shown(&mut d, r#"{"status":"Waiting","progressDetail":{},"id":"b"}"#);
        let again =
            shown(&mut d, r#"{"status":"Downloading","progressDetail":{"current":5000000,"total":10000000},"id":"a"}"#);
        let bar = format!("[{}>{}]      5MB/10MB", "=".repeat(25), " ".repeat(25));
        assert_eq!(again, format!("\x1b[2A\x1b[2K\ra: Downloading {bar}\r\x1b[2B"));
    }
}
