//! Points in time as Docker writes them.
//!
//! Owns: RFC 3339 with nanoseconds in UTC, trailing zeros left out (Go's `RFC3339Nano`). Must not: know time zones or do
//! arithmetic with dates.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time since 1970, UTC. A clock set before 1970 counts as 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The time now.
    pub fn now() -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl From<Duration> for Timestamp {
    /// The point that lies `since` after the beginning of 1970.
    fn from(since: Duration) -> Timestamp {
        Timestamp(since)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        let mut fraction = self.0.subsec_nanos();
        let mut digits = 9;
        if fraction != 0 {
            while fraction.is_multiple_of(10) {
                fraction /= 10;
                digits -= 1;
            }
            write!(f, ".{fraction:0digits$}")?;
        }
        f.write_str("Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> String {
        Timestamp::from(Duration::new(seconds, nanoseconds)).to_string()
    }

    #[test]
    fn as_go_writes_them() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696, 120_000_000), "2000-02-29T12:34:56.12Z");
        assert_eq!(at(1_795_240_599, 1), "2026-11-21T05:56:39.000000001Z");
        assert_eq!(at(4_107_542_400, 999_999_999), "2100-03-01T00:00:00.999999999Z");
    }
}
