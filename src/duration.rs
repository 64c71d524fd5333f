//! Durations in sentences for people.

use std::time::Duration;

/// A duration in its largest unit that makes at least two, without a fraction: `119 s`, `2 min`, `3 h`, `2 d`.
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_unit_that_makes_two() {
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (172_800, "2 d")];
        for (seconds, expected) in cases {
            assert_eq!(rough(Duration::from_secs(seconds)), expected);
        }
    }
}
