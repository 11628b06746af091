//! The opposite claim: betting against "this build is over its budget".

use serde::{Deserialize, Serialize};

use super::process::{BETS, STAKE};

/// Grows while requests are cheaper than their limit. Cleared at `1/beta`.
///
/// A cap is unavoidable here: without an upper bound no finite number of requests proves a mean small. What is cleared is
/// the mean of capped requests, so the cap has to suit the traffic: see [`cap_for_clearing`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clearance {
    capital: [f64; BETS.len()],
    cap: f64,
    requests: u64,
    cleared_after: Option<u64>,
}

impl Clearance {
    /// `cap`: in multiples of the limit, more than 1.
    pub fn new(cap: f64) -> Self {
        assert!(cap > 1.0, "a cap of {cap} times the limit cannot tell over from under");
        Self { capital: [STAKE; BETS.len()], cap, requests: 0, cleared_after: None }
    }

    /// `count` requests of `z` times their limit; cleared at the first time the capital is `bar` or more.
    pub fn settle(&mut self, z: f64, count: u64, min_requests: u64, bar: f64) {
        self.requests += count;
        let saved = (1.0 - z.min(self.cap)) / (self.cap - 1.0);
        for (capital, bet) in self.capital.iter_mut().zip(BETS) {
            let factor = 1.0 + bet * saved;
            // Groups are small or rare; a loop keeps the bits of a replay independent of the grouping.
            for _ in 0..count {
                *capital = (*capital * factor).clamp(1e-280, 1e200);
            }
        }
        if self.cleared_after.is_none() && self.requests >= min_requests && self.value() >= bar {
            self.cleared_after = Some(self.requests);
        }
    }

    /// In multiples of the limit.
    pub fn cap(&self) -> f64 {
        self.cap
    }

    /// The evidence for "within budget".
    pub fn value(&self) -> f64 {
        self.capital.iter().sum()
    }

    /// Requests after which it was cleared, if it was.
    pub fn cleared_after(&self) -> Option<u64> {
        self.cleared_after
    }
}

/// The smallest cap, in multiples of the baseline's mean, above which at most 2 % of the baseline's CPU lies, and that
/// share. `tail_share(c)` gives the share of the CPU above `c` times the mean.
pub fn cap_for_clearing(tail_share: impl Fn(f64) -> f64) -> (f64, f64) {
    const CAPS: [f64; 6] = [2.0, 3.0, 5.0, 10.0, 20.0, 50.0];
    let cap = CAPS.into_iter().find(|&cap| tail_share(cap) <= 0.02).unwrap_or(CAPS[CAPS.len() - 1]);
    (cap, tail_share(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_budget_is_cleared_and_twice_is_not() {
        let (mut half, mut twice) = (Clearance::new(5.0), Clearance::new(5.0));
        for _ in 0..1000 {
            half.settle(0.5, 1, 5, 100.0);
            twice.settle(2.0, 1, 5, 100.0);
        }
        // ln(8 * 100) / ln(1 + 0.95 / 8) = 59.6 when only the boldest bettor counts.
        assert!((50..=60).contains(&half.cleared_after().unwrap()), "{:?}", half.cleared_after());
        assert_eq!(twice.cleared_after(), None);
    }

    #[test]
    fn the_cap_is_the_first_that_leaves_little_above() {
        assert_eq!(cap_for_clearing(|cap| if cap >= 10.0 { 0.01 } else { 0.5 }), (10.0, 0.01));
        assert_eq!(cap_for_clearing(|_| 0.5), (50.0, 0.5));
    }
}
