//! `events`: get real time events from the server.
//! Owns its flags and what it prints.

use brig_api::events::Message;
use crate::client::Path;
use crate::command::{Args, Command, Complete, Context};
use crate::command::{filter_text, filters};
use crate::failure::{Failure, Result};
use crate::flags::{Flag, Kind, Matches};
use crate::parse::time;
use crate::template::Format;
use crate::{progress, terminal};
use jiff::Timestamp;
use serde_json::Value;

const FLAGS: &[Flag] = &[
    Flag::new("filter", Kind::List, "filter", "Filter output based on conditions provided").check(crate::command::check_filter).short('f'),
    Flag::text("format", "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"),
    Flag::text("since", "Show all events created since timestamp"),
    Flag::text("until", "Stream events until this timestamp"),
];

/// The command.
pub const COMMAND: Command = Command {
    names: &["events", "system events"],
    usage: "[OPTIONS]",
    about: "Get real time events from the server",
    example: "events --since 10m --filter type=container",
    flags: &[FLAGS],
    args: Args::None,
    stops: false,
    complete: Complete::Nothing,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<u8> {
    let moment = |flag: &str| match m.text(flag) {
        "" => Ok(String::new()),
        text => time::moment(text, Timestamp::now()).map_err(Failure::new),
    };
    let format = match m.text("format") {
        "" => None,
        "json" => Some(Format::parse("{{json .}}")?),
        text => Some(Format::parse(text)?),
    };
    let path = Path::new("/events", &[])
        .query_text("since", &moment("since")?)
        .query_text("until", &moment("until")?)
        .query_text("filters", &filter_text(&filters(&m.list("filter"))?));
    let answer = context.client()?.request("GET", &path, &[], None)?;
    progress::messages(answer, |mut value: Value| {
        let text = match &format {
            Some(format) => {
                if format.is_typed() {
                    name_fields(&mut value);
                }
                format.fill(&value)?
            }
            None => plain(&serde_json::from_value(value).map_err(|e| Failure::new(format!("the daemon's answer could not be read: {e}")))?),
        };
        terminal::line(&text)
    })?;
    Ok(0)
}

/// Fields of an event that have other names in a template than in JSON, with what they are where an event has none.
const NAMES: [(&str, &str, &str); 6] = [
    ("Status", "status", "\"\""),
    ("ID", "id", "\"\""),
    ("From", "from", "\"\""),
    ("Scope", "scope", "\"\""),
    ("Time", "time", "0"),
    ("TimeNano", "timeNano", "0"),
];

/// Gives an event's fields the names that templates know them by.
fn name_fields(event: &mut Value) {
    let Some(fields) = event.as_object_mut() else { return };
    for (name, key, default) in NAMES {
        let value = fields.remove(key).unwrap_or_else(|| serde_json::from_str(default).unwrap_or_default());
        fields.insert(name.to_owned(), value);
    }
}

/// `2026-11-21T04:26:29.000000000Z container start ID (image=alpine, name=web)`.
fn plain(event: &Message) -> String {
    let at = match event.time_nano {
        0 => Timestamp::from_second(event.time),
        nanoseconds => Timestamp::from_nanosecond(i128::from(nanoseconds)),
    };
    let at = at.map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string());
    let mut text = at.unwrap_or_default().replace("+00:00", "Z");
    text.push_str(&format!(" {} {} {}", event.type_, event.action, event.actor.id));
    let attributes = event.actor.attributes.as_ref().filter(|map| !map.is_empty());
    if let Some(attributes) = attributes {
        let pairs: Vec<String> = attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
        text.push_str(&format!(" ({})", pairs.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_knows_every_field() {
        let event = r#"{"status":"start","id":"ab","Type":"container","Action":"start","Actor":{"ID":"ab"},"time":1,"timeNano":2}"#;
        let mut event = serde_json::from_str(event).unwrap();
        name_fields(&mut event);
        let format = Format::parse("{{.Type}} {{.Status}} {{.ID}} {{.Actor.ID}} {{.From}}{{.Scope}}{{.Time}} {{.TimeNano}}").unwrap();
        assert_eq!(format.fill(&event).unwrap(), "container start ab ab 1 2");
    }

    #[test]
    fn an_event_on_one_line() {
        let event: Message = serde_json::from_str(
            r#"{"Type":"container","Action":"start","Actor":{"ID":"ab","Attributes":{"name":"web","image":"a"}},"time":1,"timeNano":1500000000}"#,
        )
        .unwrap();
        let text = plain(&event);
        assert!(text.ends_with(" container start ab (image=a, name=web)") && text.contains("T"), "{text}");
    }
}
