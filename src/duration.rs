//! Durations as text, for sentences and for the ages on the status page. Not here: parsing of durations (`config`).

use std::time::Duration;

/// Formats a duration in the largest unit of which it has at least two, rounded down: `119 s`, `2 min`, `3 h`, `2 d`.
pub fn rough(duration: Duration) -> String {
    let (count, unit) = largest_unit(duration.as_secs());
    format!("{count} {}", ["s", "min", "h", "d"][unit])
}

/// Formats an age in seconds as kubectl does, with the units of [`rough`]: `119s`, `2m`, `3h`, `2d`.
pub fn age(seconds: u64) -> String {
    let (count, unit) = largest_unit(seconds);
    format!("{count}{}", ["s", "m", "h", "d"][unit])
}

/// Returns the number of whole units, and the unit: 0 for seconds, 1 for minutes, 2 for hours, 3 for days.
fn largest_unit(seconds: u64) -> (u64, usize) {
    match seconds {
        0..120 => (seconds, 0),
        120..7_200 => (seconds / 60, 1),
        7_200..172_800 => (seconds / 3_600, 2),
        _ => (seconds / 86_400, 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_largest_unit() {
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (172_800, "2 d")];
        for (seconds, expected) in cases {
            assert_eq!(rough(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn formats_ages() {
        let cases = [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")];
        for (seconds, expected) in cases {
            assert_eq!(age(seconds), expected);
        }
    }
}
