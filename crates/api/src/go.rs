//! Go's habits in JSON: `null` is the zero value, and an error says which field had which type.
//! Owns decoding of request bodies from bytes; must not know any particular shape.

use std::fmt;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a field for which `null` means the default, as Go does.
pub fn null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a value is its type's default, which Go's `omitempty` leaves out.
pub fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a list of strings that may also be one string or `null` (Docker's `StrSlice`).
pub fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Strings;
    impl<'de> Visitor<'de> for Strings {
        type Value = Option<Vec<String>>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("[]string")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }
        fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![one.to_owned()]))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut strings = Vec::new();
            while let Some(next) = list.next_element::<Option<String>>()? {
                strings.push(next.unwrap_or_default());
            }
            Ok(Some(strings))
        }
    }
    deserializer.deserialize_any(Strings)
}

/// Decodes a request body.
///
/// # Errors
/// The text is Go's: `json: cannot unmarshal string into Go struct field HostConfig.Memory of type int64`,
/// `unexpected end of JSON input`, `invalid character '}' …`.
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err("got EOF while reading request body".into());
    }
    let mut stream = serde_json::Deserializer::from_slice(body).into_iter::<Option<T>>();
    let value = match stream.next() {
        Some(Ok(Some(value))) => value,
        Some(Ok(None)) => {
            return serde_json::from_str("{}").map_err(|e| e.to_string());
        }
        Some(Err(error)) => return Err(explain(body, &error)),
        None => return Err("got EOF while reading request body".into()),
    };
    if body[stream.byte_offset()..].iter().any(|b| !b.is_ascii_whitespace()) {
        return Err("unexpected content after JSON".into());
    }
    Ok(value)
}

fn explain(body: &[u8], error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected EOF".into(),
        Category::Syntax | Category::Io => error.to_string(),
        Category::Data => {
            let text = error.to_string();
            let Some((found, wanted)) = type_error(&text) else {
                return text;
            };
            let path = path_to(body, error).unwrap_or_default();
            if path.is_empty() {
                format!("json: cannot unmarshal {found} into Go value of type {wanted}")
            } else {
                format!("json: cannot unmarshal {found} into Go struct field {path} of type {wanted}")
            }
        }
    }
}

/// Splits serde's `invalid type: string "x", expected i64 at line 1 column 3` into Go's names for the two types.
fn type_error(text: &str) -> Option<(String, String)> {
    let rest = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "))?;
    let (found, wanted) = rest.split_once(", expected ")?;
    let wanted = wanted.split(" at line ").next().unwrap_or(wanted);
    let found = match found.split(' ').next().unwrap_or_default() {
        "string" => "string".to_owned(),
        "boolean" => "bool".to_owned(),
        "integer" | "floating" => {
            let number = found.split('`').nth(1).unwrap_or_default();
            format!("number {number}").trim_end().to_owned()
        }
        "map" => "object".to_owned(),
        "sequence" => "array".to_owned(),
        _ => found.to_owned(),
    };
    let wanted = match wanted {
        "i64" => "int64".to_owned(),
        "u64" => "uint64".to_owned(),
        "u32" => "uint32".to_owned(),
        "u16" => "uint16".to_owned(),
        "u8" => "uint8".to_owned(),
        "a boolean" => "bool".to_owned(),
        "a string" => "string".to_owned(),
        "a sequence" => "[]string".to_owned(),
        "a map" => "map[string]string".to_owned(),
        other => other.strip_prefix("struct ").unwrap_or(other).to_owned(),
    };
    Some((found, wanted))
}

/// The dotted path of the value that serde stumbled over: the last value that ends at or before the error's position.
fn path_to(body: &[u8], error: &serde_json::Error) -> Option<String> {
    if error.line() == 0 {
        return None;
    }
    let line_start: usize = body.split(|b| *b == b'\n').take(error.line() - 1).map(|l| l.len() + 1).sum();
    Some(Walk::new(body, line_start + error.column()).path())
}

/// Walks tokens up to a byte offset and remembers where in the object it is.
struct Walk<'a> {
    body: &'a [u8],
    end: usize,
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(body: &'a [u8], end: usize) -> Self {
        Self { body, end: end.min(body.len()), at: 0 }
    }

    fn path(mut self) -> String {
        // One entry per open object or array; a key belongs to the object that it was read in.
        let mut stack: Vec<Option<String>> = Vec::new();
        let mut last = Vec::new();
        while self.at < self.end {
            match self.body[self.at] {
                b'{' | b'[' => {
                    stack.push(None);
                    self.at += 1;
                }
                b'}' | b']' => {
                    stack.pop();
                    self.at += 1;
                }
                b'"' => {
                    let text = self.string();
                    if self.followed_by_colon() {
                        if let Some(top) = stack.last_mut() {
                            *top = Some(text);
                        }
                        last = stack.iter().flatten().cloned().collect();
                    }
                }
                _ => self.at += 1,
            }
        }
        if stack.is_empty() { last.join(".") } else { stack.into_iter().flatten().collect::<Vec<_>>().join(".") }
    }

    fn string(&mut self) -> String {
        let start = self.at + 1;
        self.at = start;
        while self.at < self.body.len() && self.body[self.at] != b'"' {
            self.at += if self.body[self.at] == b'\\' { 2 } else { 1 };
        }
        let text = self.body.get(start..self.at).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        self.at += 1;
        text
    }

    fn followed_by_colon(&self) -> bool {
        self.body.get(self.at..).unwrap_or_default().iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Config, CreateRequest, HostConfig};

    #[test]
    fn null_is_the_default_everywhere() {
        let host: HostConfig = from_slice(br#"{"Memory":null,"Binds":null,"LogConfig":null,"Unknown":[1]}"#).unwrap();
        assert_eq!(host, HostConfig::default());
        let nothing: HostConfig = from_slice(b"null").unwrap();
        assert_eq!(nothing, HostConfig::default());
    }

    #[test]
    fn a_command_may_be_one_string() {
        let config: Config = from_slice(br#"{"Cmd":"ls -l","Entrypoint":null,"Shell":["a",null]}"#).unwrap();
        assert_eq!(config.cmd, Some(vec!["ls -l".to_owned()]));
        assert_eq!(config.entrypoint, None);
        assert_eq!(config.shell, Some(vec!["a".to_owned(), String::new()]));
    }

    #[test]
    fn wrong_types_are_named_with_their_field() {
        let error = from_slice::<HostConfig>(br#"{"Dns":["a"],"LogConfig":{"Type":7}}"#).unwrap_err();
        assert_eq!(error, "json: cannot unmarshal number 7 into Go struct field LogConfig.Type of type string");
        let error = from_slice::<CreateRequest>(br#"{"HostConfig":{"Privileged":"yes"}}"#).unwrap_err();
        assert_eq!(error, "json: cannot unmarshal string into Go struct field HostConfig.Privileged of type bool");
        let error = from_slice::<crate::exec::StartRequest>(br#"{"Detach":"yes"}"#).unwrap_err();
        assert_eq!(error, "json: cannot unmarshal string into Go struct field Detach of type bool");
    }

    #[test]
    fn numbers_are_strict() {
        assert!(from_slice::<HostConfig>(br#"{"Memory":1.5}"#).is_err());
        assert!(from_slice::<HostConfig>(br#"{"Memory":"1"}"#).is_err());
        assert!(from_slice::<HostConfig>(br#"{"BlkioWeight":70000}"#).is_err());
        assert_eq!(from_slice::<HostConfig>(br#"{"Memory":9223372036854775807}"#).unwrap().resources.memory, i64::MAX);
    }

    #[test]
    fn bodies_that_are_not_one_object_are_refused() {
        assert_eq!(from_slice::<HostConfig>(b" ").unwrap_err(), "got EOF while reading request body");
        assert_eq!(from_slice::<HostConfig>(b"{} {}").unwrap_err(), "unexpected content after JSON");
        assert_eq!(from_slice::<HostConfig>(b"{").unwrap_err(), "unexpected EOF");
    }
}
