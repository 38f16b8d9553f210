//! Sizes in bytes with binary units, as go-units' `RAMInBytes` reads them.
//! Pure.

/// Reads `512`, `512b`, `1.5g`, `64MiB`: units are powers of 1024.
///
/// # Errors
/// `invalid size: 'x'` and `invalid suffix: 'x'`.
pub fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let at = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let number = text[..=at].strip_suffix(' ').unwrap_or(&text[..=at]);
    let suffix = text[at + 1..].to_ascii_lowercase();
    let value: f64 = number.parse().map_err(|_| invalid())?;
    if value < 0.0 || !value.is_finite() {
        return Err(invalid());
    }
    let bad = || format!("invalid suffix: '{suffix}'");
    let factor: f64 = match suffix.as_str() {
        "" | "b" => 1.0,
        long if long.len() > 1 && !matches!(&long[1..], "b" | "ib") => return Err(bad()),
        other => match other.as_bytes()[0] {
            b'k' => 1024.0,
            b'm' => 1024.0 * 1024.0,
            b'g' => 1024.0 * 1024.0 * 1024.0,
            b't' => 1024.0_f64.powi(4),
            b'p' => 1024.0_f64.powi(5),
            _ => return Err(bad()),
        },
    };
    let total = value * factor;
    // Every size below 2^63 converts; the comparison is exact because the bound is a power of two.
    #[expect(clippy::cast_possible_truncation, reason = "bounded on the line above")]
    if total < 9.2e18 { Ok(total as i64) } else { Err(invalid()) }
}

/// As [`bytes`], and `-1` for unlimited.
///
/// # Errors
/// As [`bytes`].
pub fn swap_bytes(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (text, value) in [
            ("512", 512),
            ("512b", 512),
            ("1k", 1024),
            ("32Kb", 32 << 10),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("32 m", 32 << 20),
            ("1t", 1 << 40),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        assert_eq!(bytes("abc"), Err("invalid size: 'abc'".into()));
        assert_eq!(bytes("1x"), Err("invalid suffix: 'x'".into()));
        assert_eq!(bytes("1kbb"), Err("invalid suffix: 'kbb'".into()));
        assert!(bytes("-1").is_err() && bytes("").is_err() && bytes("1.2.3m").is_err());
        assert_eq!(swap_bytes("-1"), Ok(-1));
    }
}
