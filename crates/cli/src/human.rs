//! Numbers as people read them, with go-units' rounding: sizes, ages, short ids.
//! Pure.

/// Go's `%.<digits>g`: that many significant digits, no trailing zeros, an exponent where Go uses one.
fn general(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a number behind e");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let precision = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= precision {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(precision - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.decimals$}"))
}

fn scaled(mut value: f64, base: f64, digits: usize, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", general(value, digits), units[unit])
}

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A size in powers of 1000 with three digits, as in tables.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size3(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, 3, &DECIMAL)
}

/// A size in powers of 1000 with four digits.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, 4, &DECIMAL)
}

/// A size in powers of 1024 with four digits.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn binary_size(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, 4, &BINARY)
}

/// A length of time in seconds, roughly.
pub fn duration(seconds: i64) -> String {
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// A moment in Unix seconds as an age; empty for the zero time.
pub fn ago(created: i64, now: i64) -> String {
    if created <= 0 { String::new() } else { format!("{} ago", duration(now - created)) }
}

/// Now, in Unix seconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A moment in Unix seconds as Go prints a time: `2026-11-21 04:26:29 +0000 UTC`.
pub fn go_time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        Err(_) => String::new(),
    }
}

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// The first `limit` characters, the last of them `…` if the text was longer.
pub fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (8_316_749, "8.32MB", "8.317MB"),
            (1_096_000_000, "1.1GB", "1.096GB"),
            (999_960, "1e+03kB", "1000kB"),
            (123_456, "123kB", "123.5kB"),
        ] {
            assert_eq!((size3(bytes).as_str(), size(bytes).as_str()), (three, four), "{bytes}");
        }
        assert_eq!(binary_size(1536), "1.5KiB");
        assert_eq!(binary_size(16_393_000_000), "15.27GiB");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (48 * 3600, "2 days"),
            (15 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        assert_eq!(ago(10, 13), "3 seconds ago");
        assert_eq!(ago(0, 13), "");
    }

    #[test]
    fn short_forms() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(ellipsis("\"docker-entrypoint.s\"", 20), "\"docker-entrypoint.…");
        assert_eq!(ellipsis("abc", 3), "abc");
    }
}
