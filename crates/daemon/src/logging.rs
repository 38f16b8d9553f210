//! The daemon's own log: logfmt lines on stderr, as dockerd writes them. Owns the format and the level; must not be
//! used for containers' output.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Changes the level while the daemon runs.
pub type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

/// Starts logging. The result changes the level later.
pub fn start(level: LevelFilter) -> SetLevel {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Logfmt);
    // A logger may be there already when several daemons live in one test process.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_err() {
        return Box::new(|_| ());
    }
    Box::new(move |level| {
        if let Err(error) = handle.reload(level) {
            tracing::warn!("changing the log level: {error}");
        }
    })
}

/// Reads a level by dockerd's names.
///
/// # Errors
/// Names the level and those that there are.
pub fn parse_level(name: &str) -> Result<LevelFilter, String> {
    match name {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "error" | "fatal" | "panic" => Ok(LevelFilter::ERROR),
        _ => Err(format!("invalid log level {name:?}: choose debug, info, warn, error or fatal")),
    }
}

struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = jiff::Timestamp::now();
        writeln!(writer, "time=\"{now:.9}\" level={level} msg={}{}", quoted(&fields.message), fields.rest)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let text = format!("{value:?}");
            write!(self.rest, " {}={}", field.name(), quoted(&text)).expect("writing to a string cannot fail");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// A value in quotes where it needs them; line breaks cannot forge another line.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/@^+:,".contains(&b));
    if plain { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_needed() {
        assert_eq!(quoted("/run/brig.sock"), "/run/brig.sock");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\nlevel=fatal"), "\"a\\nlevel=fatal\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn levels_have_dockerds_names() {
        assert_eq!(parse_level("warn"), Ok(LevelFilter::WARN));
        assert!(parse_level("loud").unwrap_err().contains("loud"));
    }
}
