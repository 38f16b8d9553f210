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
                let mut object = decode::<Value>(bytes)?;
                if format.is_typed() {
                    complete(&mut object);
                }
                terminal::line(&format.fill(&object)?)?;
            }
        }
        (None, "json") => terminal::line(&array(&found))?,
        (None, _) => terminal::line(&indent(&array(&found)))?,
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

/// Fields of images and containers that are left out of the JSON where they say nothing: where, which, and what they are
/// then.
const OMITTED: [(&str, &[&str], &str); 9] = [
    ("", &["Variant", "OsVersion"], "\"\""),
    ("", &["Descriptor", "ContainerConfig", "Manifests", "ImageManifestDescriptor", "SizeRw", "SizeRootFs"], "null"),
    ("", &["VirtualSize"], "0"),
    ("/Config", &["StopSignal"], "\"\""),
    ("/Config", &["ExposedPorts", "Shell", "Healthcheck"], "null"),
    ("/Config", &["ArgsEscaped"], "false"),
    ("/State", &["Health"], "null"),
    ("/HostConfig", &["Init", "Tmpfs", "Sysctls", "Annotations"], "null"),
    ("/HostConfig", &["Runtime"], "\"\""),
];

/// Puts in what Docker's client knows although the daemon did not say it.
fn complete(object: &mut Value) {
    let is_known = object.get("RootFS").is_some() || object.get("HostConfig").is_some();
    for (path, names, default) in OMITTED.iter().filter(|_| is_known) {
        let Some(fields) = object.pointer_mut(path).and_then(Value::as_object_mut) else { continue };
        for name in *names {
            let default = || serde_json::from_str(default).unwrap_or_default();
            fields.entry(*name).or_insert_with(default);
        }
    }
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

    #[test]
    fn what_docker_leaves_out_is_there_for_a_template() {
        let fill = |text: &str, json: &str| {
            let format = Format::parse(text).unwrap();
            let mut object = serde_json::from_str(json).unwrap();
            if format.is_typed() {
                complete(&mut object);
            }
            format.fill(&object).map_err(|refusal| refusal.message)
        };
        let image = r#"{"RootFS":{},"Config":{"Cmd":null,"Labels":{"a":"b"}}}"#;
        for (text, shown) in [
            ("{{.Variant}}|{{.VirtualSize}}|{{.Descriptor}}|{{.Config.StopSignal}}", "|0|<nil>|"),
            ("{{.Config.ExposedPorts}} {{.Config.Shell}} {{.Config.Healthcheck}}", "map[] [] <nil>"),
            ("{{if .Config.Healthcheck}}x{{end}}{{range .Config.ExposedPorts}}x{{end}}", ""),
            ("{{json .Config}}", r#"{"Cmd":null,"Labels":{"a":"b"}}"#),
            (r#"{{index .Config.Labels "a"}}{{index .Config.Labels "none"}}"#, "b"),
        ] {
            assert_eq!(fill(text, image).as_deref(), Ok(shown), "{text}");
        }
        assert!(fill("{{.Config.MemorySwap}}", image).unwrap_err().contains("no entry for key"));
        let container = r#"{"State":{},"HostConfig":{},"Config":{"Volumes":{"/a":{}}}}"#;
        assert_eq!(fill("{{.State.Health}} {{.Config.Volumes}}", container).as_deref(), Ok("<nil> map[/a:{}]"));
    }
}
