//! Ranges of bytes: which part of a blob is asked for, and which part of an upload is sent.
//! Owns the two grammars. Must not know files.

use std::ops::Range;

/// What a `Range` header asks of content that is `size` bytes long (RFC 9110, section 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range was asked for, or one that this server does not know.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that there is.
    Nothing,
}

/// Reads a `Range` header. Several ranges at once are not known.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) =
        header.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|text| text.trim().split_once('-'))
    else {
        return Wanted::All;
    };
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::All,
    };
    if part.is_empty() { Wanted::Nothing } else { Wanted::Part(part) }
}

/// Reads the `Content-Range` of a piece of an upload, `<first>-<last>` (distribution specification, "Pushing a blob in
/// chunks"); with HTTP's `bytes ` and `/<size>` too, which some clients add. `None` is nonsense.
pub(crate) fn sent(header: &str) -> Option<Range<u64>> {
    let text = header.trim();
    let text = text.strip_prefix("bytes ").unwrap_or(text).trim();
    let text = match text.split_once('/') {
        Some((text, total)) if total == "*" || number(total).is_some() => text,
        Some(_) => return None,
        None => text,
    };
    let (first, last) = text.split_once('-')?;
    let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
    (first < end).then_some(first..end)
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_blobs() {
        let part = |range| Wanted::Part(range);
        for (text, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=500-1499", part(500..1000)),
            ("bytes=500-", part(500..1000)),
            ("bytes=-1", part(999..1000)),
            ("bytes=-5000", part(0..1000)),
            ("bytes=999-5000", part(999..1000)),
            ("bytes=1000-", Wanted::Nothing),
            ("bytes=500-0", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=--1", Wanted::All),
            ("bytes=99999999999999999999-", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("bytes=", Wanted::All),
        ] {
            assert_eq!(wanted(Some(text), 1000), expected, "{text}");
        }
        assert_eq!(wanted(None, 1000), Wanted::All);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn pieces_of_uploads() {
        for (text, expected) in
            [("0-9", Some(0..10)), (" 5-5 ", Some(5..6)), ("bytes 0-9/10", Some(0..10)), ("bytes 0-9/*", Some(0..10))]
        {
            assert_eq!(sent(text), expected, "{text}");
        }
        for nonsense in ["", "-", "9-0", "0--1", "-1", "1-", "a-b", "0-18446744073709551615", "0-9/x", "0x0-9", "1-2-3"]
        {
            assert_eq!(sent(nonsense), None, "{nonsense}");
        }
    }
}
