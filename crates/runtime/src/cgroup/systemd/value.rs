//! Values of D-Bus, their form on the wire (little endian) and their textual form in annotations.
//! Owns: writing and reading them. Must not: know messages or systemd.

use crate::cgroup::error::{Error, ErrorKind, Result};

/// Containers in containers, as deep as the specification of D-Bus allows them.
const MAX_DEPTH: usize = 64;

/// A value with its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

/// Floating point numbers come from annotations only, which have no NaN.
impl Eq for Value {}

impl Value {
    /// An array of strings.
    #[cfg(test)]
    pub fn strings<'a>(all: impl IntoIterator<Item = &'a str>) -> Value {
        Value::Array("s".to_owned(), all.into_iter().map(|text| Value::Str(text.to_owned())).collect())
    }

    /// A value of any type inside.
    pub fn variant(self) -> Value {
        Value::Variant(Box::new(self))
    }

    /// The type's signature.
    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::I16(_) => "n".to_owned(),
            Value::U16(_) => "q".to_owned(),
            Value::I32(_) => "i".to_owned(),
            Value::U32(_) => "u".to_owned(),
            Value::I64(_) => "x".to_owned(),
            Value::U64(_) => "t".to_owned(),
            Value::F64(_) => "d".to_owned(),
            Value::Str(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", fields.iter().map(Value::signature).collect::<String>()),
            Value::Entry(pair) => format!("{{{}{}}}", pair.0.signature(), pair.1.signature()),
            Value::Variant(_) => "v".to_owned(),
        }
    }

    /// The text of a string or path.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Path(text) | Value::Signature(text) => Some(text),
            Value::Variant(inner) => inner.text(),
            _ => None,
        }
    }
}

/// How a type of this signature is aligned.
fn alignment(signature: u8) -> usize {
    match signature {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Appends values.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Zeros up to a multiple of `to`.
    pub fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    /// A number of four bytes.
    pub fn u32(&mut self, value: u32) {
        self.fixed(value.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn string(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// One value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(value) => self.0.push(*value),
            Value::Bool(value) => self.u32(u32::from(*value)),
            Value::I16(value) => self.fixed(value.to_le_bytes()),
            Value::U16(value) => self.fixed(value.to_le_bytes()),
            Value::I32(value) => self.fixed(value.to_le_bytes()),
            Value::U32(value) => self.u32(*value),
            Value::I64(value) => self.fixed(value.to_le_bytes()),
            Value::U64(value) => self.fixed(value.to_le_bytes()),
            Value::F64(value) => self.fixed(value.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => self.string(text),
            Value::Signature(text) => self.signature(text),
            Value::Array(element, values) => {
                self.u32(0);
                let length_at = self.0.len() - 4;
                self.align(alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
                let start = self.0.len();
                values.iter().for_each(|value| self.value(value));
                let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
                self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|value| self.value(value));
            }
            Value::Entry(pair) => {
                self.align(8);
                self.value(&pair.0);
                self.value(&pair.1);
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }
}

/// Reads values from a message whose bytes it is given from the start, as alignment counts from there.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The message.
    pub bytes: &'a [u8],
    /// Where the next value begins.
    pub at: usize,
}

/// What is no message of D-Bus.
pub fn broken() -> Error {
    Error::new(ErrorKind::System, "the message bus sent something that is no D-Bus message")
}

impl Reader<'_> {
    /// Passes over padding.
    pub fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N);
        let bytes = self.bytes.get(self.at..self.at + N).and_then(|bytes| bytes.try_into().ok()).ok_or_else(broken)?;
        self.at += N;
        Ok(bytes)
    }

    /// A number of four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let end = self.at.checked_add(length).ok_or_else(broken)?;
        let text = self.bytes.get(self.at..end).ok_or_else(broken)?;
        self.at = end + 1;
        String::from_utf8(text.to_vec()).map_err(|_| broken())
    }

    fn signature(&mut self) -> Result<String> {
        let [length] = self.fixed()?;
        self.text(usize::from(length))
    }

    /// All values of a signature.
    pub fn values(&mut self, signature: &str) -> Result<Vec<Value>> {
        let mut rest = signature;
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (first, more) = split(rest)?;
            values.push(self.value(first, 0)?);
            rest = more;
        }
        Ok(values)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(broken());
        }
        Ok(match signature.as_bytes() {
            b"y" => Value::Byte(self.fixed::<1>()?[0]),
            b"b" => Value::Bool(self.u32()? != 0),
            b"n" => Value::I16(i16::from_le_bytes(self.fixed()?)),
            b"q" => Value::U16(u16::from_le_bytes(self.fixed()?)),
            b"i" => Value::I32(i32::from_le_bytes(self.fixed()?)),
            b"u" | b"h" => Value::U32(self.u32()?),
            b"x" => Value::I64(i64::from_le_bytes(self.fixed()?)),
            b"t" => Value::U64(u64::from_le_bytes(self.fixed()?)),
            b"d" => Value::F64(f64::from_le_bytes(self.fixed()?)),
            b"s" | b"o" => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if signature == "s" { Value::Str(text) } else { Value::Path(text) }
            }
            b"g" => Value::Signature(self.signature()?),
            b"v" => {
                let inner = self.signature()?;
                let (one, more) = split(&inner)?;
                if !more.is_empty() {
                    return Err(broken());
                }
                self.value(one, depth + 1)?.variant()
            }
            [b'a', element @ ..] => {
                let length = self.u32()? as usize;
                self.align(alignment(element.first().copied().ok_or_else(broken)?));
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or_else(broken)?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(&signature[1..], depth + 1)?);
                }
                Value::Array(signature[1..].to_owned(), values)
            }
            [b'(', .., b')'] => {
                self.align(8);
                let mut rest = &signature[1..signature.len() - 1];
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (first, more) = split(rest)?;
                    fields.push(self.value(first, depth + 1)?);
                    rest = more;
                }
                Value::Struct(fields)
            }
            [b'{', .., b'}'] => {
                self.align(8);
                let (key, value) = split(&signature[1..signature.len() - 1])?;
                Value::Entry(Box::new((self.value(key, depth + 1)?, self.value(value, depth + 1)?)))
            }
            _ => return Err(broken()),
        })
    }
}

/// The first complete type of a signature, and the rest.
fn split(signature: &str) -> Result<(&str, &str)> {
    let bytes = signature.as_bytes();
    let mut end = 0;
    while bytes.get(end) == Some(&b'a') {
        end += 1;
    }
    let mut depth = 0;
    loop {
        match bytes.get(end) {
            None => return Err(broken()),
            Some(b'(' | b'{') => depth += 1,
            Some(b')' | b'}') => depth -= 1,
            Some(_) => {}
        }
        end += 1;
        match depth {
            0 => return signature.is_char_boundary(end).then(|| signature.split_at(end)).ok_or_else(broken),
            ..0 => return Err(broken()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(value: &Value) {
        let mut writer = Writer::default();
        writer.0.push(7);
        writer.value(value);
        let mut reader = Reader { bytes: &writer.0, at: 1 };
        assert_eq!(reader.values(&value.signature()).unwrap(), std::slice::from_ref(value));
        assert_eq!(reader.at, writer.0.len());
    }

    #[test]
    fn what_is_written_is_read() {
        let entry = Value::Entry(Box::new((Value::Str("k".into()), Value::U16(3).variant())));
        for value in [
            Value::Byte(1),
            Value::Bool(true),
            Value::I16(-2),
            Value::I32(-3),
            Value::U64(u64::MAX),
            Value::I64(i64::MIN),
            Value::F64(0.5),
            Value::Str("text".into()),
            Value::Path("/a/b".into()),
            Value::Signature("a(sv)".into()),
            Value::strings(["a", "", "ccc"]),
            Value::Array("(ss)".into(), vec![]),
            Value::Array("t".into(), vec![Value::U64(1)]),
            Value::Array("{sv}".into(), vec![entry]),
            Value::Struct(vec![Value::Byte(1), Value::Struct(vec![Value::U64(2)]), Value::Str("x".into())]),
            Value::Array(
                "(sv)".into(),
                vec![Value::Struct(vec![
                    Value::Str("PIDs".into()),
                    Value::Array("u".into(), vec![Value::U32(9)]).variant(),
                ])],
            ),
        ] {
            there_and_back(&value);
        }
    }

    /// Bytes as the specification of D-Bus has them, worked out by hand.
    #[test]
    fn on_the_wire() {
        let mut writer = Writer::default();
        writer
            .value(&Value::Array("(sb)".into(), vec![Value::Struct(vec![Value::Str("ab".into()), Value::Bool(true)])]));
        assert_eq!(writer.0, [12, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0, 0, 1, 0, 0, 0]);
    }

    /// Whatever the other side sends, nothing is read beyond it and nothing recurses for ever.
    #[test]
    fn garbage_is_refused() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u8
        };
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..48).map(|_| if round % 2 == 0 { next() % 4 } else { next() }).collect();
            for signature in ["s", "v", "as", "a(sv)", "a{sv}", "(ybnqiuxtdsogv)", "aav", "g"] {
                Reader { bytes: &bytes, at: 0 }.values(signature).ok();
            }
        }
        let nested = [1, b'v', 0].repeat(100);
        assert!(Reader { bytes: &nested, at: 0 }.values("v").is_err());
        for signature in ["a", "(", "(s", "z", "{s", ")", "a)", "("] {
            assert!(Reader { bytes: &[0; 64], at: 0 }.values(signature).is_err(), "{signature}");
        }
        assert!(Reader { bytes: &[255; 8], at: 0 }.values("s").is_err());
    }
}
