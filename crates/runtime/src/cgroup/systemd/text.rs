//! The textual form of values that `org.systemd.property.*` annotations are written in (GVariant's).
//! Owns: reading it. Must not: know which properties there are.

use super::value::Value;

/// Containers in containers; nobody means more.
const MAX_DEPTH: usize = 16;

/// Reads one value. Numbers without a type are `int32`, or `double` with a point.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value(None)?;
    parser.skip();
    if parser.rest.is_empty() { Ok(value) } else { Err(format!("unexpected {:?} after the value", parser.rest)) }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let usable = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = self.rest.find(|c| !usable(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value, of the type with this signature if one is given.
    fn value(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        self.skip();
        let value = match self.rest.chars().next() {
            None => Err("a value is missing".to_owned()),
            Some('@') => {
                self.rest = &self.rest[1..];
                let end = self.rest.find(char::is_whitespace).ok_or("a value is missing after its type")?;
                let (signature, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.value(Some(signature))
            }
            Some('\'' | '"') => self.string().map(|text| match wanted {
                Some("o") => Value::Path(text),
                Some("g") => Value::Signature(text),
                _ => Value::Str(text),
            }),
            Some('[') => self.array(wanted),
            Some('(') => self.tuple(),
            Some('<') => self.variant(),
            Some(_) => {
                let word = self.word();
                self.named(word, wanted)
            }
        }?;
        self.depth -= 1;
        match wanted {
            Some(wanted) if value.signature() != wanted => Err(format!("{value:?} is not of type {wanted:?}")),
            _ => Ok(value),
        }
    }

    fn named(&mut self, word: &str, wanted: Option<&str>) -> Result<Value, String> {
        let typed = match word {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            _ => return number(word, wanted),
        };
        self.value(Some(typed))
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.rest.chars().next().unwrap_or('\'');
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                    other => return Err(format!("unknown escape {other:?}")),
                },
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                '\0' => return Err("a NUL character".to_owned()),
                c => text.push(c),
            }
        }
        Err("a string without an end".to_owned())
    }

    fn array(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        self.take("[");
        let element = wanted.and_then(|wanted| wanted.strip_prefix('a')).map(str::to_owned);
        let mut values: Vec<Value> = Vec::new();
        while !self.take("]") {
            if !values.is_empty() && !self.take(",") {
                return Err(format!("expected a comma or ] at {:?}", self.rest));
            }
            // The first element decides for the others: [uint64 1, 2].
            let type_ = element.clone().or_else(|| values.first().map(Value::signature));
            values.push(self.value(type_.as_deref())?);
        }
        let element = element.or_else(|| values.first().map(Value::signature));
        let element = element.ok_or("an empty array needs its type: @as []")?;
        Ok(Value::Array(element, values))
    }

    fn tuple(&mut self) -> Result<Value, String> {
        self.take("(");
        let mut fields = Vec::new();
        while !self.take(")") {
            if !fields.is_empty() && !self.take(",") {
                return Err(format!("expected a comma or ) at {:?}", self.rest));
            }
            if self.take(")") {
                break;
            }
            fields.push(self.value(None)?);
        }
        if fields.is_empty() { Err("a structure without fields".to_owned()) } else { Ok(Value::Struct(fields)) }
    }

    fn variant(&mut self) -> Result<Value, String> {
        self.take("<");
        let value = self.value(None)?;
        if self.take(">") { Ok(value.variant()) } else { Err("a variant without an end".to_owned()) }
    }
}

fn number(word: &str, wanted: Option<&str>) -> Result<Value, String> {
    let unsigned = word.strip_prefix('+').unwrap_or(word);
    let (negative, digits) = unsigned.strip_prefix('-').map_or((false, unsigned), |digits| (true, digits));
    let radix = |digits: &str| match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let integer = radix(digits).ok().filter(|_| !digits.starts_with(['+', '-'])).map(|n| if negative { -n } else { n });
    let out = || format!("{word:?} is no number that fits");
    Ok(match wanted {
        Some("d") => Value::F64(float(word).ok_or_else(out)?),
        None if integer.is_none() && digits.contains(['.', 'e', 'E']) => {
            Value::F64(float(word).ok_or_else(|| format!("{word:?} is no value"))?)
        }
        _ => {
            let integer = integer.ok_or_else(|| format!("{word:?} is no value"))?;
            let value = match wanted.unwrap_or("i") {
                "y" => integer.try_into().ok().map(Value::Byte),
                "n" => integer.try_into().ok().map(Value::I16),
                "q" => integer.try_into().ok().map(Value::U16),
                "i" => integer.try_into().ok().map(Value::I32),
                "u" => integer.try_into().ok().map(Value::U32),
                "x" => integer.try_into().ok().map(Value::I64),
                "t" => integer.try_into().ok().map(Value::U64),
                _ => None,
            };
            value.ok_or_else(out)?
        }
    })
}

fn float(word: &str) -> Option<f64> {
    word.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, want) in [
            ("true", Value::Bool(true)),
            ("2", Value::I32(2)),
            ("-2", Value::I32(-2)),
            ("0x10", Value::I32(16)),
            ("1.5", Value::F64(1.5)),
            ("uint64 5000000", Value::U64(5_000_000)),
            ("byte 7", Value::Byte(7)),
            ("'inactive-or-failed'", Value::Str("inactive-or-failed".into())),
            (r#""it's \"so\"\n""#, Value::Str("it's \"so\"\n".into())),
            ("['a', 'b']", Value::strings(["a", "b"])),
            ("@as []", Value::Array("s".into(), vec![])),
            ("@at [1, 2]", Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)])),
            ("[uint64 1, 2]", Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)])),
            (
                "[('/dev/null', 'rw')]",
                Value::Array(
                    "(ss)".into(),
                    vec![Value::Struct(vec![Value::Str("/dev/null".into()), Value::Str("rw".into())])],
                ),
            ),
            ("<'x'>", Value::Str("x".into()).variant()),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn no_values() {
        for text in [
            "",
            "fish",
            "1 2",
            "'x",
            "[1, 'a']",
            "[",
            "[]",
            "()",
            "byte 256",
            "uint32 -1",
            "@as [1]",
            "@as",
            "<1",
            "'\\x'",
            "99999999999999999999999999999999999999999",
            "--1",
            &"[".repeat(100),
            "byte byte byte",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
