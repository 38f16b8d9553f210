//! The progress bar as text that Docker's lines carry beside the numbers up to API 1.51, for clients that only print it.
//! Owns its shape, which is that of a wide terminal; must not know what makes progress.

use brig_api::progress::Detail;

/// Characters between the brackets.
const WIDTH: i64 = 50;
const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// `[====>      ]  1.2MB/5MB`; empty where there is nothing to show.
pub fn text(detail: &Detail) -> String {
    match (detail.current.max(0), detail.total.max(0)) {
        (0, 0) => String::new(),
        (current, 0) => format!("{:>8}", size(current)),
        (current, total) => {
            let filled = (i128::from(current) * i128::from(WIDTH) / i128::from(total)).min(i128::from(WIDTH));
            let filled = usize::try_from(filled).unwrap_or_default();
            let rest = usize::try_from(WIDTH).unwrap_or_default() - filled;
            let bar = format!("[{}>{}]", "=".repeat(filled), " ".repeat(rest));
            match current > total {
                // The total was wrong.
                true => format!("{bar} {:>8}", size(current)),
                false => format!("{bar} {:>8}/{}", size(current), size(total)),
            }
        }
    }
}

/// A size in powers of 1000 with four digits.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn size(bytes: i64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        ..10.0 => 3,
        ..100.0 => 2,
        ..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_dockers() {
        let bar = |current, total| text(&Detail { current, total, ..Detail::default() });
        assert_eq!(bar(0, 0), "");
        assert_eq!(bar(99, 99), "[==================================================>]      99B/99B");
        assert_eq!(bar(524_288, 1_126_400), "[=======================>                           ]  524.3kB/1.126MB");
        assert_eq!(bar(0, 2000), "[>                                                  ]       0B/2kB");
        assert_eq!(bar(2000, 0), "     2kB");
        assert_eq!(bar(3000, 2000), "[==================================================>]      3kB");
    }
}
