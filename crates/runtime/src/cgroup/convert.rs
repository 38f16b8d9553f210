//! Owns the arithmetic between what the OCI specification says (in version 1 terms) and what version 2 wants.
//! Pure functions; formulas are runc's (opencontainers/cgroups `utils.go`).

use super::error::{Error, Result};

/// `cpu.shares` (2 to 262,144) → `cpu.weight` (1 to 10,000); a curve through minimum, default (1,024 → 100) and maximum.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// `blkio.weight` (10 to 1,000) → `io.weight` (1 to 10,000), linear.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9_999 / 990
}

/// Memory + swap → swap alone. `None`: leave it as it is.
pub(super) fn swap_alone(total: Option<i64>, memory: Option<i64>) -> Result<Option<i64>> {
    match (total.unwrap_or(0), memory.unwrap_or(0)) {
        // Memory made unlimited and nothing said about swap: both were meant.
        (0, -1) | (-1, _) => Ok(Some(-1)),
        (0, _) => Ok(None),
        // Without a limit of memory there is nothing to subtract.
        (total, -1) => Ok(Some(total)),
        (_, 0) => Err(Error::invalid("unable to set swap limit without memory limit")),
        (_, memory @ ..0) => Err(Error::invalid(format!("invalid memory value: {memory}"))),
        (total, memory) if total < memory => {
            Err(Error::invalid(format!("memory+swap limit {total} should be at least the memory limit {memory}")))
        }
        (total, memory) => Ok(Some(total - memory)),
    }
}

/// A limit in bytes; -1 means without.
pub(super) fn or_max(value: i64) -> Result<String> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(Error::invalid(format!("{value} is no number of bytes, nor -1 for unlimited"))),
    }
}

/// `cpu.max`: `quota period`.
pub(super) fn cpu_max(quota: Option<i64>, period: Option<u64>) -> Option<String> {
    if quota.unwrap_or(0) == 0 && period.unwrap_or(0) == 0 {
        return None;
    }
    let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    Some(match period.filter(|period| *period != 0) {
        Some(period) => format!("{quota} {period}"),
        None => quota,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        let table = [(2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in table {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert!((2..=262_144u64).step_by(97).map(cpu_weight).is_sorted());
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn swap() {
        assert_eq!(swap_alone(Some(300), Some(100)), Ok(Some(200)));
        assert_eq!(swap_alone(Some(100), Some(100)), Ok(Some(0)));
        assert_eq!(swap_alone(Some(-1), Some(100)), Ok(Some(-1)));
        assert_eq!(swap_alone(None, Some(-1)), Ok(Some(-1)));
        assert_eq!(swap_alone(None, Some(100)), Ok(None));
        assert!(swap_alone(Some(50), Some(100)).is_err());
        assert!(swap_alone(Some(50), None).is_err());
        assert_eq!(swap_alone(Some(50), Some(-1)), Ok(Some(50)));
        assert!(swap_alone(Some(50), Some(-2)).is_err());
    }

    #[test]
    fn quotas() {
        assert_eq!(cpu_max(Some(50_000), Some(100_000)).unwrap(), "50000 100000");
        assert_eq!(cpu_max(Some(-1), None).unwrap(), "max");
        assert_eq!(cpu_max(None, Some(20_000)).unwrap(), "max 20000");
        assert_eq!(cpu_max(None, None), None);
    }

    /// What must hold for whatever numbers a specification has; the seed is fixed, so a failure comes again.
    #[test]
    fn any_numbers() {
        let mut seed = 7u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Small and large numbers alike.
            (seed >> 20) >> (seed % 44)
        };
        for _ in 0..100_000 {
            let shares = next();
            assert!((1..=10_000).contains(&cpu_weight(shares)), "{shares}");
            assert!(cpu_weight(shares) <= cpu_weight(shares.saturating_add(1)), "{shares}");
            let weight = u16::try_from(next() % 991 + 10).unwrap();
            assert!((1..=10_000).contains(&io_weight(weight)));
            assert!(weight == 1000 || io_weight(weight) < io_weight(weight + 1), "{weight}");
            let sign = |n: u64| if n.is_multiple_of(3) { -(n.cast_signed() >> 20) } else { n.cast_signed() };
            let (total, memory) = (sign(next()), sign(next()));
            match swap_alone(Some(total), Some(memory)) {
                Ok(Some(swap)) if total > 0 && memory > 0 => assert_eq!(swap + memory, total),
                Ok(Some(swap)) => assert!(swap == -1 || swap == total, "{total} {memory}"),
                Ok(None) => assert_eq!(total, 0),
                Err(_) => assert!(total != 0 && total != -1 && total < memory || memory == 0 || memory < -1),
            }
            let text = or_max(total);
            assert_eq!(text.is_ok(), total >= -1, "{total}");
            let period = next();
            let line = cpu_max(Some(total), Some(period));
            assert_eq!(line.is_none(), total == 0 && period == 0);
            assert!(line.is_none_or(|line| line.split(' ').all(|word| word == "max" || word.parse::<u64>().is_ok())));
        }
    }
}
