//! When to ask again. Pure arithmetic; callers pass what they measured and add jitter of their own.

use std::time::Duration;

/// The bounds of poll spacing (`HEADGATE_POLL_MIN_MS`, `HEADGATE_POLL_MAX_MS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spacing {
    pub min: Duration,
    pub max: Duration,
}

/// How often in a row a vendor is asked for a new link that then does not work.
pub const MAX_RENEWALS: u32 = 8;

impl Spacing {
    /// The pause before the next poll of an export the vendor has worked on for `waited`: an eighth of it, so that
    /// a slow export is asked rarely and the end is noticed at most an eighth late. The vendor's own `asked_for`
    /// wins.
    pub fn poll(self, waited: Duration, asked_for: Option<Duration>) -> Duration {
        let own = (waited / 8).clamp(self.min, self.max);
        asked_for.map_or(own, |asked| asked.max(self.min))
    }

    /// The same, `factor` times wider.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self { min: self.min * factor, max: self.max * factor }
    }

    /// The pause after the `failures`-th failure in a row (from 1): doubles from `min` up to `max`.
    /// The vendor's own `asked_for` wins when it is longer.
    pub fn backoff(self, failures: u32, asked_for: Option<Duration>) -> Duration {
        let own = self.min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.max);
        asked_for.map_or(own, |asked| asked.max(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Spacing = Spacing { min: Duration::from_secs(2), max: Duration::from_mins(1) };

    #[test]
    fn polls_spread_out_with_the_vendors_own_latency() {
        let pauses: Vec<_> =
            [0, 10, 80, 240, 4_000].map(|waited| SPACING.poll(Duration::from_secs(waited), None).as_secs()).into();
        assert_eq!(pauses, [2, 2, 10, 30, 60]);
    }

    #[test]
    fn the_vendors_own_pause_is_honoured() {
        assert_eq!(SPACING.poll(Duration::ZERO, Some(Duration::from_mins(2))).as_secs(), 120);
        assert_eq!(SPACING.backoff(1, Some(Duration::from_mins(2))).as_secs(), 120);
    }

    #[test]
    fn failures_double_the_pause_up_to_the_limit() {
        let pauses: Vec<_> = [1, 2, 3, 6, 40].map(|failures| SPACING.backoff(failures, None).as_secs()).into();
        assert_eq!(pauses, [2, 4, 8, 60, 60]);
    }
}
