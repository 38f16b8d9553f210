//! Showing objects whole: the daemon's JSON indented as it came, or a template filled from it.
//! Shared by every `inspect`; knows which kinds of object there are and how to ask for them.

use crate::client::{Client, Path, decode};
use crate::failure::{Failure, Result};
use crate::template::Format;
use crate::terminal;
use serde_json::Value;

/// A kind of object that can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

/// The kinds in the order Docker guesses them.
pub const ALL: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];

impl Kind {
    /// The kind with this name.
    pub fn named(name: &str) -> Option<Kind> {
        ALL.into_iter().find(|kind| kind.name() == name)
    }
    fn name(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }
    fn path(self, name: &str, request: &Request<'_>) -> Path {
        match self {
            Kind::Container => Path::new("/containers/{}/json", &[name]).query_flag("size", request.size),
            Kind::Image => Path::new("/images/{}/json", &[name]).query_text("platform", &request.platform),
            Kind::Network => Path::new("/networks/{}", &[name]).query_flag("verbose", request.verbose),
            Kind::Volume => Path::new("/volumes/{}", &[name]),
        }
    }
}

/// What to show and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// Kinds to try, in this order.
    pub kinds: &'a [Kind],
    /// `--format`; empty means JSON.
    pub format: &'a str,
    /// Ask for the sizes of a container.
    pub size: bool,
    /// Ask for more of a network.
    pub verbose: bool,
    /// Ask for an image on this platform, as JSON; empty for this machine's.
    pub platform: String,
}

/// Shows the named objects. What is found is shown even if something is not.
///
/// # Errors
/// Objects that are not there, bad templates, the daemon's refusals.
pub fn show(client: &Client, names: &[String], request: &Request<'_>) -> Result<u8> {
    let format = match request.format {
        "" | "json" => None,
        text => Some(Format::parse(text)?),
    };
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match look_up(client, name, request) {
            Ok(bytes) => found.push(bytes),
            Err(failure) if failure.status.is_none() && !failure.message.starts_with("Error: No such object") => {
                return Err(failure);
            }
            Err(failure) => failed.push(failure.message),
        }
    }
    match (&format, request.format) {
        (Some(format), _) => {
            for bytes in &found {
                terminal::line(&format.fill(&decode::<Value>(bytes)?)?)?;
            }
        }
        (None, "json") => terminal::line(&array(&found))?,
        (None, _) => terminal::line(&indent(&array(&found)))?,
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

fn array(found: &[Vec<u8>]) -> String {
    let texts: Vec<String> = found.iter().map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).collect();
    format!("[{}]", texts.join(","))
}

fn look_up(client: &Client, name: &str, request: &Request<'_>) -> Result<Vec<u8>> {
    if let [kind] = request.kinds {
        return client.get_raw(&kind.path(name, request));
    }
    for kind in request.kinds {
        match client.get_raw(&kind.path(name, request)) {
            Err(failure) if failure.not_found() => {}
            // A name that cannot be one of these may still be one of those.
            Err(failure) if failure.status == Some(400) => {}
            other => return other,
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}

/// Indents JSON by four spaces and changes nothing else, as Go's `json.Indent`.
pub fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let (mut quoted, mut escaped) = (false, false);
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                quoted = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ if c.is_ascii_whitespace() => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go() {
        let text = r#"[{"a":1,"b":{},"c":[ ],"d":"x:\"{,\\","e":[1,null],"f":"\u003c"}]"#;
        let shown = "[\n    {\n        \"a\": 1,\n        \"b\": {},\n        \"c\": [],\n        \"d\": \"x:\\\"{,\\\\\",\n        \"e\": [\n            1,\n            null\n        ],\n        \"f\": \"\\u003c\"\n    }\n]";
        assert_eq!(indent(text), shown);
        assert_eq!(indent("[]"), "[]");
    }
}
