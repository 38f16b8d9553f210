//! Go templates for `--format`: Docker's functions, its `table` prefix, and JSON that keeps the order of fields.
//! Knows templates and values, no command.

use crate::failure::{Failure, Result};
use gotmpl::{MissingKey, Template, TemplateError, Value as Go};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A parsed template.
pub struct Format {
    source: String,
    /// JSON with `<`, `>` and `&` escaped, as Docker's lists have it.
    escaped: bool,
}

impl Format {
    /// Checks the text once; Docker's escapes `\t` and `\n` become what they stand for.
    ///
    /// # Errors
    /// `template parsing error: …`.
    pub fn parse(text: &str) -> Result<Format> {
        let source = text.replace("\\t", "\t").replace("\\n", "\n");
        let format = Format { source, escaped: false };
        format.template(MissingKey::Invalid, &Json::Null).map_err(|e| parsing(&e))?;
        Ok(format)
    }

    /// Fills in the template from a value.
    ///
    /// # Errors
    /// What Go's template engine would refuse.
    pub fn fill(&self, data: &Json) -> Result<String> {
        let text = self.run(MissingKey::Invalid, data).map_err(|e| executing(&e))?;
        if text.contains("<no value>") {
            match self.run(MissingKey::Error, data) {
                // A name that no object of Docker's has is a mistake; a missing key of a user's map is not.
                Err(TemplateError::MissingKey { key })
                    if key.starts_with(|c: char| c.is_ascii_uppercase()) && !OPTIONAL.contains(&key.as_str()) =>
                {
                    return Err(Failure::new(format!(
                        "template parsing error: template: :1:{}: executing \"\" at <.{key}>: map has no entry for key {key:?}",
                        self.source.find(&format!(".{key}")).unwrap_or(0)
                    )));
                }
                // Everything is there: what has no value is a pointer of Go's that leads nowhere.
                Ok(_) if self.is_typed() => return Ok(text.replace("<no value>", "<nil>")),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(text)
    }

    /// Whether fields are seen as Docker's types have them, those too that its JSON leaves out.
    pub fn is_typed(&self) -> bool {
        !self.source.contains("json")
    }

    fn run(&self, missing: MissingKey, data: &Json) -> std::result::Result<String, TemplateError> {
        self.template(missing, data)?.execute_to_string(&to_go(data, "", self.is_typed()))
    }

    fn template(&self, missing: MissingKey, data: &Json) -> std::result::Result<Template, TemplateError> {
        let (whole, escaped) = (Arc::new(data.clone()), self.escaped);
        let mut template = Template::new("").missing_key(missing);
        for (name, function) in FUNCTIONS {
            template = template.func(name, function);
        }
        template = template.func("json", move |args| {
            let text = json_of(&whole, args.first());
            Ok(Go::String(if escaped { escape(&text) } else { text }.into()))
        });
        template.parse(&self.source)
    }
}

/// The characters that Go's JSON escapes for the sake of HTML.
fn escape(text: &str) -> String {
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Fields that Docker's objects leave out when they have nothing to say.
const OPTIONAL: [&str; 12] = [
    "Health",
    "Healthcheck",
    "Init",
    "ExposedPorts",
    "StopSignal",
    "StopTimeout",
    "Shell",
    "Tmpfs",
    "Sysctls",
    "SizeRw",
    "SizeRootFs",
    "Annotations",
];

type Function = fn(&[Go]) -> std::result::Result<Go, TemplateError>;

const FUNCTIONS: [(&str, Function); 12] = [
    ("index", |args| {
        let mut value = args.first().cloned().unwrap_or(Go::Nil);
        for key in args.get(1..).unwrap_or_default() {
            let found = value.index(key)?;
            let is_text = |map: &BTreeMap<Arc<str>, Go>| map.values().all(|value| matches!(value, Go::String(_)));
            value = match (&value, found) {
                // In a map of texts, such as labels, what is not there is the empty text.
                (Go::Map(map), Go::Nil) if is_text(map) => Go::String("".into()),
                (_, found) => found,
            };
        }
        Ok(value)
    }),
    ("label", |args| {
        let found = args.first().and_then(|map| map.field(&string(args, 1)));
        Ok(found.cloned().unwrap_or_else(|| Go::String("".into())))
    }),
    ("split", |args| {
        let (text, by) = (string(args, 0), string(args, 1));
        let parts: Vec<Go> = text.split(by.as_str()).map(|p| Go::String(p.into())).collect();
        Ok(Go::List(parts.into()))
    }),
    ("join", |args| {
        let parts = match args.first() {
            Some(Go::List(list)) => list.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Some(Go::Nil) | None => Vec::new(),
            Some(other) => return Err(TemplateError::Exec(format!("cannot join {}", other.type_name()))),
        };
        Ok(Go::String(parts.join(&string(args, 1)).into()))
    }),
    ("title", |args| {
        let mut fresh = true;
        let text: String = string(args, 0)
            .chars()
            .map(|c| {
                let shown = if fresh { c.to_uppercase().next().unwrap_or(c) } else { c };
                fresh = !c.is_alphanumeric() && c != '_' && c != '\'';
                shown
            })
            .collect();
        Ok(Go::String(text.into()))
    }),
    ("lower", |args| Ok(Go::String(string(args, 0).to_lowercase().into()))),
    ("upper", |args| Ok(Go::String(string(args, 0).to_uppercase().into()))),
    ("pad", |args| {
        let width = |at: usize| args.get(at).and_then(Go::as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let text = string(args, 0);
        let padded =
            if text.is_empty() { text } else { format!("{}{text}{}", " ".repeat(width(1)), " ".repeat(width(2))) };
        Ok(Go::String(padded.into()))
    }),
    ("truncate", |args| {
        let limit = args.get(1).and_then(Go::as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        Ok(Go::String(string(args, 0).chars().take(limit).collect::<String>().into()))
    }),
    ("pretty", |args| {
        Ok(Go::String(
            serde_json::to_string_pretty(&to_json(args.first().unwrap_or(&Go::Nil))).unwrap_or_default().into(),
        ))
    }),
    ("replace", |args| Ok(Go::String(string(args, 2).replace(&string(args, 0), &string(args, 1)).into()))),
    ("println", |args| {
        let words: Vec<String> = args.iter().map(ToString::to_string).collect();
        Ok(Go::String(format!("{}\n", words.join(" ")).into()))
    }),
];

fn string(args: &[Go], at: usize) -> String {
    args.get(at).map(ToString::to_string).unwrap_or_default()
}

fn parsing(error: &TemplateError) -> Failure {
    Failure::new(format!("template parsing error: {}", located(error)))
}

fn executing(error: &TemplateError) -> Failure {
    Failure::new(format!("template parsing error: {}", located(error)))
}

fn located(error: &TemplateError) -> String {
    let text = error.to_string();
    match text.starts_with("template:") {
        true => text,
        false => format!("template: :1: {text}"),
    }
}

/// JSON of a value, its fields in the order they have in `whole`, where an equal value is looked for.
fn json_of(whole: &Json, value: Option<&Go>) -> String {
    let plain = to_json(value.unwrap_or(&Go::Nil));
    let ordered = find(whole, &plain).unwrap_or(&plain);
    serde_json::to_string(ordered).unwrap_or_default()
}

fn find<'a>(whole: &'a Json, wanted: &Json) -> Option<&'a Json> {
    if !wanted.is_object() && !wanted.is_array() {
        return None;
    }
    if whole == wanted {
        return Some(whole);
    }
    match whole {
        Json::Object(fields) => fields.values().find_map(|field| find(field, wanted)),
        Json::Array(items) => items.iter().find_map(|item| find(item, wanted)),
        _ => None,
    }
}

/// Lists and maps that Docker's JSON has as `null` when they are empty; templates see them empty, as Go does.
const EMPTY_LISTS: [&str; 26] = [
    "Manifests",
    "Shell",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "Mounts",
    "OnBuild",
    "SecurityOpt",
    "Ulimits",
    "VolumesFrom",
    "Aliases",
    "DNSNames",
    "RepoTags",
];
const EMPTY_MAPS: [&str; 12] = [
    "Annotations",
    "Containers",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];
/// Sets, whose members Go shows as `{}`.
const SETS: [&str; 2] = ["ExposedPorts", "Volumes"];

fn to_go(json: &Json, name: &str, typed: bool) -> Go {
    match json {
        Json::Null if typed && EMPTY_LISTS.contains(&name) => Go::List(Arc::new([])),
        Json::Null if typed && EMPTY_MAPS.contains(&name) => Go::Map(Arc::default()),
        Json::Null => Go::Nil,
        Json::Bool(b) => Go::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Go::Int(i),
            (None, Some(u)) => Go::Uint(u),
            (None, None) => Go::Float(n.as_f64().unwrap_or_default()),
        },
        Json::String(s) => Go::String(s.as_str().into()),
        Json::Array(items) => Go::List(items.iter().map(|item| to_go(item, "", typed)).collect::<Vec<_>>().into()),
        Json::Object(fields) if typed && SETS.contains(&name) => {
            let each = fields.keys().map(|k| (k.as_str().into(), Go::String("{}".into())));
            Go::Map(Arc::new(each.collect::<BTreeMap<Arc<str>, Go>>()))
        }
        Json::Object(fields) => {
            let each = fields.iter().map(|(k, v)| (k.as_str().into(), to_go(v, k, typed)));
            Go::Map(Arc::new(each.collect::<BTreeMap<Arc<str>, Go>>()))
        }
    }
}

fn to_json(value: &Go) -> Json {
    match value {
        Go::Nil | Go::Function(_) => Json::Null,
        Go::Bool(b) => Json::Bool(*b),
        Go::Int(n) => Json::from(*n),
        Go::Uint(n) => Json::from(*n),
        Go::Float(f) => Json::from(*f),
        Go::String(s) => Json::from(&**s),
        Go::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Go::Map(map) => Json::Object(map.iter().map(|(k, v)| (k.to_string(), to_json(v))).collect()),
    }
}

/// A list shown as a table, as JSON lines or through a template.
pub struct Listing<'a> {
    /// `--format`; empty means the table.
    pub format: &'a str,
    /// Template of the default table, without the word `table`.
    pub table: &'a str,
    /// Column heads by field name.
    pub heads: &'a [(&'a str, &'a str)],
    /// Fields not part of `{{json .}}`, as Docker hides them unless asked for.
    pub functions: &'a [&'a str],
}

impl Listing<'_> {
    /// The whole text for rows whose fields are named as Docker names them.
    ///
    /// # Errors
    /// Bad templates.
    pub fn render(&self, rows: &[Json]) -> Result<String> {
        let (tabled, text) = match self.format {
            "" | "table" => (true, self.table),
            "json" => (false, "{{json .}}"),
            "raw" => return Ok(self.raw(rows)),
            other => match other.strip_prefix("table ") {
                Some(rest) => (true, rest.trim_start()),
                None => (false, other),
            },
        };
        // Docker spells a label's lookup as a method call; maps are asked by a function.
        let text = label_calls(text);
        let format = Format { escaped: true, ..Format::parse(&text)? };
        let mut out = String::new();
        if tabled {
            let heads: serde_json::Map<String, Json> =
                self.heads.iter().map(|(field, head)| ((*field).to_owned(), Json::from(*head))).collect();
            out.push_str(&Format::parse(&heads_of(&text))?.fill(&Json::Object(heads))?);
            out.push('\n');
        }
        for row in rows {
            out.push_str(&format.fill(&self.visible(row, &text))?);
            out.push('\n');
        }
        Ok(if tabled { crate::table::align(&out) } else { out })
    }

    fn visible(&self, row: &Json, text: &str) -> Json {
        let mut row = row.clone();
        if (text.contains("json .}}") || text.contains("json . }}"))
            && let Json::Object(fields) = &mut row
        {
            fields.retain(|name, _| !self.functions.contains(&name.as_str()));
            fields.sort_keys();
        }
        row
    }

    fn raw(&self, rows: &[Json]) -> String {
        let mut out = String::new();
        for row in rows {
            for (field, _) in self.heads {
                let value = row.get(*field).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
                out.push_str(&format!("{}: {}\n", field.to_lowercase(), value.unwrap_or_default()));
            }
            out.push('\n');
        }
        out
    }
}

/// `.Label "x"` as `label .LabelMap "x"`, the form a map can answer.
fn label_calls(text: &str) -> String {
    text.replace(".Label \"", "label .LabelMap \"").replace(".Label `", "label .LabelMap `")
}

/// In the head line a label's column is headed by the label's name.
fn heads_of(text: &str) -> String {
    text.replace("label .LabelMap ", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(text: &str, data: &Json) -> String {
        Format::parse(text).unwrap().fill(data).unwrap()
    }

    #[test]
    fn functions() {
        let data =
            json!({"Z": 1, "A": {"c": [1, "x"], "b": null}, "Name": "/some thing", "List": ["a", "b"], "Binds": null});
        for (text, out) in [
            ("{{json .}}", r#"{"Z":1,"A":{"c":[1,"x"],"b":null},"Name":"/some thing","List":["a","b"],"Binds":null}"#),
            ("{{json .A}}", r#"{"c":[1,"x"],"b":null}"#),
            ("{{json .Name}}", r#""/some thing""#),
            ("{{.Binds}}{{len .Binds}}{{range .Binds}}x{{end}}", "[]0"),
            ("{{json .Binds}}", "null"),
            ("{{upper .Name}}", "/SOME THING"),
            ("{{title .Name}}", "/Some Thing"),
            ("{{join .List \"-\"}}", "a-b"),
            ("{{index (split .Name \" \") 1}}", "thing"),
            ("{{range $k, $v := .A}}{{$k}};{{end}}", "b;c;"),
            ("{{range .List}}{{println .}}{{end}}", "a\nb\n"),
            ("{{truncate .Name 3}}|{{pad .Name 1 2}}|", "/so| /some thing  |"),
            ("{{printf \"%.3s\" .Name}}\\t{{len .List}}", "/so\t2"),
            ("{{if .State}}x{{else}}y{{end}}", "y"),
        ] {
            assert_eq!(fill(text, &data), out, "{text}");
        }
    }

    #[test]
    fn mistakes_are_errors_and_missing_labels_are_not() {
        let data = json!({"Labels": {"a": "1"}});
        assert_eq!(fill("{{.Labels.b}}", &data), "<no value>");
        let error = Format::parse("{{.Nope}}").unwrap().fill(&data).unwrap_err();
        assert!(error.message.contains("map has no entry for key \"Nope\""), "{error}");
        assert!(Format::parse("{{.X").is_err_and(|e| e.message.starts_with("template parsing error: template:")));
    }

    #[test]
    fn listings() {
        let rows = [json!({"ID": "1", "Names": "a", "Labels": "k=v", "LabelMap": {"k": "v"}})];
        let list = |format| Listing {
            format,
            table: "{{.ID}}\t{{.Names}}",
            heads: &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Labels", "LABELS")],
            functions: &["LabelMap"],
        };
        assert_eq!(list("").render(&rows).unwrap(), "CONTAINER ID   NAMES\n1              a\n");
        assert_eq!(list("table {{.Names}}").render(&rows).unwrap(), "NAMES\na\n");
        assert_eq!(list("{{.ID}}:{{.Label \"k\"}}").render(&rows).unwrap(), "1:v\n");
        assert_eq!(list("json").render(&rows).unwrap(), "{\"ID\":\"1\",\"Labels\":\"k=v\",\"Names\":\"a\"}\n");
        assert_eq!(list("table").render(&[]).unwrap(), "CONTAINER ID   NAMES\n");
    }
}
