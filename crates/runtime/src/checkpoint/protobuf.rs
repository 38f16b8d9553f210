//! Just enough of protobuf's wire format for the messages that CRIU takes and gives, written by hand: a generated library would be
//! ten times the code for two dozen fields. Owns varints and length-delimited fields. Must not know what a field means.

use crate::error::{Error, Result};

/// A message being built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// The encoded message.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An `int32`, `uint32`, `bool` or enum; negative numbers are sign-extended to ten bytes, as the format has it.
    pub fn number(&mut self, field: u32, value: i64) -> &mut Message {
        self.varint(u64::from(field) << 3);
        self.varint(value as u64);
        self
    }

    /// A `bool`, left out if it is false, which is what its absence means.
    pub fn flag(&mut self, field: u32, value: bool) -> &mut Message {
        if value { self.number(field, 1) } else { self }
    }

    /// A `string` or an embedded message.
    pub fn data(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Message {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A varint; fixed-width numbers too.
    Number(u64),
    /// A string, bytes or an embedded message.
    Data(&'a [u8]),
}

impl<'a> Value<'a> {
    /// A number as `int32` or `uint32` has it; 0 for what is no number.
    pub fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Data(_) => 0,
        }
    }

    /// The bytes; none for what has none.
    pub fn data(self) -> &'a [u8] {
        match self {
            Value::Data(data) => data,
            Value::Number(_) => &[],
        }
    }

    /// The bytes as text, what is not UTF-8 replaced.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.data()).into_owned()
    }
}

/// The fields of an encoded message in their order; unknown ones are the caller's to pass over.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of these bytes.
    pub fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Data(self.take(length)?)
            }
            5 => Value::Number(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| Error::system("a protobuf message is cut off or malformed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_specification_has_it() {
        let mut inner = Message::default();
        inner.data(1, "testing");
        let mut message = Message::default();
        message.number(1, 150).number(2, -1).flag(3, true).flag(4, false).data(5, inner.bytes());
        let mut want = vec![0x08, 0x96, 0x01, 0x10];
        want.extend([0xff; 9]);
        want.extend([0x01, 0x18, 0x01, 0x2a, 9, 0x0a, 7]);
        want.extend(b"testing");
        assert_eq!(message.bytes(), want);
    }

    #[test]
    fn decodes_what_it_encodes() {
        let mut message = Message::default();
        message.number(1, 300).number(2, -7).data(1000, "x");
        let fields: Vec<_> = Fields::of(message.bytes()).collect::<Result<_>>().unwrap();
        assert_eq!(fields, [(1, Value::Number(300)), (2, Value::Number(-7i64 as u64)), (1000, Value::Data(b"x"))]);
        assert_eq!(fields[1].1.number() as i32, -7);
        assert_eq!(fields[2].1.text(), "x");
        assert_eq!((fields[0].1.data(), fields[2].1.number()), (&[] as &[u8], 0));
    }

    #[test]
    fn malformed_ends_with_an_error() {
        for bad in [&[0x80][..], &[0x08], &[0x0a, 5, 1], &[0x0b], &[0xff; 11], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            let fields: Vec<_> = Fields::of(bad).collect();
            assert_eq!(fields.len(), 1, "{bad:?}");
            assert!(fields[0].is_err(), "{bad:?}");
        }
        // Every prefix of a real message decodes or fails, and never panics.
        let mut message = Message::default();
        message.number(1, 1 << 40).data(2, [7; 300]).number(3, -1);
        for end in 0..message.bytes().len() {
            assert!(Fields::of(&message.bytes()[..end]).count() <= 3);
        }
    }
}
