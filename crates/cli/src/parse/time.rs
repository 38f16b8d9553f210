//! `--since` and `--until`: a moment written as a time ago, a date, or seconds, sent to the daemon as seconds.
//! Pure given the present and the time zone.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The moment in Unix seconds, with nanoseconds behind a point where the text had them.
///
/// # Errors
/// A text that is neither a duration, a date nor a number.
pub fn moment(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(ago) = super::duration::nanoseconds(text) {
        let then = now.as_nanosecond() - i128::from(ago);
        return Timestamp::from_nanosecond(then).map(seconds).map_err(|e| e.to_string());
    }
    let plain = text.strip_prefix('-').unwrap_or(text);
    if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(text.to_owned());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(seconds(at));
    }
    let local = text.parse::<DateTime>().or_else(|_| format!("{text}:00").parse::<DateTime>());
    match local.map(|date| date.to_zoned(TimeZone::system())) {
        Ok(Ok(at)) => Ok(seconds(at.timestamp())),
        _ => Err(format!("failed to parse value as time or duration: {text:?}")),
    }
}

fn seconds(at: Timestamp) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(moment("10m", now).unwrap(), "999400.000000000");
        assert_eq!(moment("1700000000", now).unwrap(), "1700000000");
        assert_eq!(moment("2023-11-14T22:13:20.5Z", now).unwrap(), "1700000000.500000000");
        assert_eq!(moment("2023-11-14T22:13:20+01:00", now).unwrap(), "1699996400.000000000");
        assert!(moment("2023-11-14", now).is_ok() && moment("2023-11-14T22:13", now).is_ok());
        assert!(moment("yesterday", now).is_err());
    }
}
