//! One line of Docker's json-file log.
//!
//! Owns: its bytes, exactly as Docker's daemon writes them. Must not: decide what a line is or where it goes.

use crate::protocol::Channel;

/// Appends `{"log":…,"stream":…,"attrs":…,"time":…}` and a newline to `out`.
///
/// `attrs` is JSON text or empty; `time` is RFC 3339 text; `newline` says whether the text ended in one.
pub(crate) fn append(out: &mut Vec<u8>, text: &[u8], newline: bool, channel: Channel, attrs: &str, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    if newline {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(channel.name().as_bytes());
    out.extend_from_slice(b"\"");
    if !attrs.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attrs.as_bytes());
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Escapes as Go's `encoding/json` with HTML escaping: each byte that is not UTF-8 becomes one replacement character.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        escape_valid(out, chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_valid(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            0..=0x1f | b'<' | b'>' | b'&' => b"",
            // U+2028 and U+2029 are E2 80 A8 and E2 80 A9; the first two bytes are already in the run before this one.
            0xa8 | 0xa9 if text[..at].ends_with(&[0xe2, 0x80]) => {
                out.extend_from_slice(&text[start..at - 2]);
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(byte & 0xf)]);
                start = at + 1;
                continue;
            }
            _ => continue,
        };
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
        if short.is_empty() {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xf)]);
        } else {
            out.extend_from_slice(short);
        }
    }
    out.extend_from_slice(&text[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8], newline: bool) -> String {
        let mut out = Vec::new();
        append(&mut out, text, newline, Channel::Stderr, "", "2026-01-01T00:00:00Z");
        String::from_utf8(out).unwrap()
    }

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_whole_line() {
        assert_eq!(line(b"hi", true), "{\"log\":\"hi\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-01T00:00:00Z\"}\n");
        let mut out = Vec::new();
        append(&mut out, b"", false, Channel::Stdout, "{\"a\":\"b\"}", "t");
        assert_eq!(out, b"{\"log\":\"\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"b\"},\"time\":\"t\"}\n");
    }

    #[test]
    fn escapes_as_docker() {
        assert_eq!(escaped(b"a\tb\x1b[0m\x7f\r\0"), "a\\u0009b\\u001b[0m\x7f\\r\\u0000");
        assert_eq!(escaped(b"<a href=\"x\\\">&"), "\\u003ca href=\\\"x\\\\\\\"\\u003e\\u0026");
        assert_eq!(escaped("é😀\u{2028}x\u{2029}".as_bytes()), "é😀\\u2028x\\u2029");
        assert_eq!(escaped(b"\xff\xe2\x82A\xf0\x9f\x98"), "\\ufffd\\ufffd\\ufffdA\\ufffd\\ufffd\\ufffd");
        assert_eq!(escaped("\u{e02}".as_bytes()), "\u{e02}");
    }

    #[test]
    fn every_line_is_json_again() {
        for byte in 0..=0xffu8 {
            let text = line(&[b'x', byte, b'y'], true);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let want = format!("{}\n", String::from_utf8_lossy(&[b'x', byte, b'y']));
            assert_eq!(value["log"], want, "{byte:#x}");
        }
    }
}
