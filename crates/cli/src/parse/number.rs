//! Booleans and numbers as Go's strconv reads them.
//! Pure.

/// Reads a boolean as `strconv.ParseBool`.
///
/// # Errors
/// Go's words.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

fn words(function: &str, text: &str, kind: &std::num::IntErrorKind) -> String {
    let why = match kind {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

/// Reads a signed number as `strconv.ParseInt`.
///
/// # Errors
/// Go's words.
pub fn int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|e| words("ParseInt", text, e.kind()))
}

/// Reads an unsigned number as `strconv.ParseUint`.
///
/// # Errors
/// Go's words.
pub fn uint(text: &str) -> Result<u64, String> {
    text.parse::<u64>().map_err(|e| words("ParseUint", text, e.kind()))
}

/// Reads an unsigned number of 16 bits.
///
/// # Errors
/// Go's words.
pub fn uint16(text: &str) -> Result<u16, String> {
    text.parse::<u16>().map_err(|e| words("ParseUint", text, e.kind()))
}

/// Reads `--cpus`: a decimal or a fraction, in units of 10⁻⁹ CPUs.
///
/// # Errors
/// Docker's words, also when the value has more than nine decimals.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let (numerator, scale) = decimal(above).ok_or_else(bad)?;
    let denominator = below.parse::<i128>().ok().filter(|n| *n > 0).ok_or_else(bad)?;
    let value = numerator.checked_mul(1_000_000_000).ok_or_else(bad)?;
    let unit = 10_i128.checked_pow(scale).and_then(|p| p.checked_mul(denominator)).ok_or_else(bad)?;
    if value % unit != 0 {
        return Err("value is too precise".to_owned());
    }
    i64::try_from(value / unit).map_err(|_| bad())
}

/// Digits without the point, and how many of them stood behind it.
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let sign = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    if !digits(sign) || !digits(part) || (sign.is_empty() && part.is_empty()) {
        return None;
    }
    Some((format!("{whole}{part}").parse().ok()?, u32::try_from(part.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("1/2"), Ok(500_000_000));
        assert_eq!(nano_cpus("x"), Err("failed to parse x as a rational number".into()));
        assert_eq!(nano_cpus("0.0000000001"), Err("value is too precise".into()));
        assert!(nano_cpus("").is_err() && nano_cpus("1.5.2").is_err());
    }

    #[test]
    fn numbers_say_what_go_says() {
        assert_eq!(int("x").unwrap_err(), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(uint16("70000").unwrap_err(), "strconv.ParseUint: parsing \"70000\": value out of range");
        assert_eq!(boolean("T"), Ok(true));
    }
}
