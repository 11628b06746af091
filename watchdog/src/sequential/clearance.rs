//! The opposite claim: betting against "this build is over its budget".

use serde::{Deserialize, Serialize};

use super::bets::{Bets, LANES, Lanes};
use super::process::power;

/// Requests without which there is no telling how things go on.
const LEAST_FOR_A_PACE: u64 = 3;
/// A guess that is further away is none.
const MOST_TO_TELL: f64 = 1e6;

/// Grows while requests are cheaper than their limit. Cleared at `1/beta`.
///
/// A cap is unavoidable here: without an upper bound no finite number of requests proves a mean small. What is cleared is
/// the mean of capped requests, so the cap has to suit the traffic: see [`cap_for_clearing`].
///
/// Only requests without a declared warm-up may be settled here: a limit that was widened for them proves nothing of the
/// limit itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clearance {
    #[serde(default)]
    bets: Bets,
    capital: Vec<Lanes>,
    cap: f64,
    requests: u64,
    cleared_after: Option<u64>,
}

impl Clearance {
    /// With the usual bets. `cap`: in multiples of the limit, more than 1.
    pub fn new(cap: f64) -> Self {
        Self::with_bets(Bets::default(), cap)
    }

    /// The same with a grid of one's own.
    pub fn with_bets(bets: Bets, cap: f64) -> Self {
        assert!(cap > 1.0, "a cap of {cap} times the limit cannot tell over from under");
        let capital = bets.share_lanes().to_vec();
        Self { bets, capital, cap, requests: 0, cleared_after: None }
    }

    /// `count` requests of `z` times their limit; cleared at the first time the capital is `bar` or more. What is no
    /// number from 0 on is passed over.
    ///
    /// Looking once after equal requests misses nothing: the capital is convex in their number, and cleared is what it is
    /// at the end of the group, never sooner.
    pub fn settle(&mut self, z: f64, count: u64, min_requests: u64, bar: f64) {
        if z.is_nan() || z < 0.0 {
            return;
        }
        self.requests = self.requests.saturating_add(count);
        let saved = (1.0 - z.min(self.cap)) / (self.cap - 1.0);
        for (group, bets) in self.capital.iter_mut().zip(self.bets.lanes()) {
            for lane in 0..LANES {
                group[lane] = held(group[lane], 1.0 + bets[lane] * saved, count);
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
        self.capital.iter().flatten().sum()
    }

    /// Requests that were settled.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Requests after which it was cleared, if it was.
    pub fn cleared_after(&self) -> Option<u64> {
        self.cleared_after
    }
}

impl Clearance {
    /// Requests until it is cleared, if those to come are like those so far: a guess. `None` while none of the bettors
    /// gains, or while there are too few to tell.
    pub fn to_go(&self, min_requests: u64, bar: f64) -> Option<f64> {
        if self.cleared_after.is_some() {
            return Some(0.0);
        }
        if self.requests < LEAST_FOR_A_PACE {
            return None;
        }
        let settled = self.requests as f64;
        let bettors = self.bets.shares().zip(self.capital.iter().flatten().copied());
        let paces: Vec<(f64, f64)> = bettors
            .filter(|(share, capital)| *share > 0.0 && *capital > 0.0)
            .map(|(share, capital)| (libm::log(capital), libm::log(capital / share) / settled))
            .collect();
        let reached =
            |more: f64| paces.iter().map(|(ln, pace)| libm::exp(ln + pace * more)).sum::<f64>() >= bar;
        let (mut open, mut done) = (0.0, min_requests.saturating_sub(self.requests).max(1) as f64);
        while !reached(done) {
            (open, done) = (done, 2.0 * done);
            if done > MOST_TO_TELL {
                return None;
            }
        }
        while done - open > 1.0 {
            let middle = f64::midpoint(open, done).floor();
            if reached(middle) {
                done = middle;
            } else {
                open = middle;
            }
        }
        Some(done)
    }
}

/// A bettor's capital after `count` equal requests. A bettor without a share has none ever.
fn held(capital: f64, factor: f64, count: u64) -> f64 {
    if capital <= 0.0 {
        return capital;
    }
    let product = if count == 1 { factor } else { power(factor, count) };
    (capital * product).clamp(1e-280, 1e200)
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
    fn how_many_more_it_takes_comes_true_when_things_go_on() {
        let costs = [0.2, 1.1, 0.5, 0.4];
        for settled in [8, 20, 40] {
            let mut clearance = Clearance::new(5.0);
            let mut next = costs.into_iter().cycle();
            for z in next.by_ref().take(settled) {
                clearance.settle(z, 1, 5, 100.0);
            }
            let told = clearance.to_go(5, 100.0).unwrap();
            let mut needed = 0.0;
            while clearance.cleared_after().is_none() {
                clearance.settle(next.next().unwrap(), 1, 5, 100.0);
                needed += 1.0;
            }
            assert!((told - needed).abs() <= 0.1 * needed + 2.0, "after {settled}: {told} and {needed}");
            assert_eq!(clearance.to_go(5, 100.0), Some(0.0));
        }
    }

    #[test]
    fn what_gets_no_nearer_has_no_number() {
        let mut clearance = Clearance::new(5.0);
        clearance.settle(0.1, 2, 5, 100.0);
        assert_eq!(clearance.to_go(5, 100.0), None, "two requests are no pace");
        clearance.settle(1.4, 500, 5, 100.0);
        assert_eq!(clearance.to_go(5, 100.0), None);
    }

    #[test]
    fn groups_however_large_are_settled_at_once() {
        let (mut at_once, mut singly) = (Clearance::new(5.0), Clearance::new(5.0));
        for z in [0.4, 1.7, 0.0] {
            at_once.settle(z, 300, 5, 100.0);
            (0..300).for_each(|_| singly.settle(z, 1, 5, 100.0));
        }
        assert!((at_once.value() / singly.value() - 1.0).abs() < 1e-9);
        at_once.settle(0.0, u64::MAX, 5, 100.0);
        assert!(at_once.value().is_finite() && at_once.requests() == u64::MAX);
    }

    #[test]
    fn what_is_no_figure_clears_nothing() {
        let mut clearance = Clearance::new(5.0);
        let before = clearance.clone();
        for z in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            clearance.settle(z, 1000, 5, 100.0);
        }
        assert_eq!(clearance, before);
        clearance.settle(f64::INFINITY, 1, 5, 100.0);
        assert!(clearance.value() < before.value());
    }

    #[test]
    fn the_cap_is_the_first_that_leaves_little_above() {
        assert_eq!(cap_for_clearing(|cap| if cap >= 10.0 { 0.01 } else { 0.5 }), (10.0, 0.01));
        assert_eq!(cap_for_clearing(|_| 0.5), (50.0, 0.5));
    }
}
