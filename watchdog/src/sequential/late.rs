//! When a regression most likely began, and what requests cost since.
//!
//! The most likely start is the one from which the evidence of the best single bet is largest. The sum of a bet's
//! logarithms from second `s` on is largest where the sum up to `s` is smallest, so it is enough to remember, for each
//! bet, where that was: a few numbers instead of a history, to the second, however long ago. It is the start that a search
//! over all seconds since the deploy would find (the tests do that search).

use serde::{Deserialize, Serialize};

use super::bets::Bets;
use super::process::LN_LOST;
use super::tally::Tally;

/// Count and sums over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub requests: u64,
    /// Of the requests' figures, in their own unit.
    pub sum_x: f64,
    /// Of the same in multiples of the limit in force, capped.
    pub sum_z: f64,
}

impl Totals {
    #[inline]
    pub(super) fn of(x: f64, z: f64, requests: u64) -> Self {
        let count = requests as f64;
        Self { requests, sum_x: (x * count).min(f64::MAX), sum_z: (z * count).min(f64::MAX) }
    }

    /// The sums stay finite, so that they can be written down.
    #[inline]
    pub(super) fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.sum_x = (self.sum_x + more.sum_x).min(f64::MAX);
        self.sum_z = (self.sum_z + more.sum_z).min(f64::MAX);
    }

    /// `None` without requests.
    pub fn mean_x(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.sum_x / self.requests as f64)
    }

    /// `None` without requests.
    pub fn mean_z(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.sum_z / self.requests as f64)
    }
}

/// What a component's requests cost since the most likely start of a regression.
///
/// The start was chosen because the requests after it are dear: their mean is biased upwards, and no interval that holds
/// at any time exists for it. It has to be labelled so wherever it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinceStart {
    /// Whole seconds after the deploy.
    pub second: u64,
    pub totals: Totals,
    /// The bet that says so, and the logarithm of what its stake became since.
    pub bet: f64,
    pub ln_gain: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Late {
    pub(super) whole: Totals,
    tick: Totals,
    tally: Tally,
    starts: Vec<Start>,
}

/// Of one bet: where the sum of its logarithms was smallest, and what came since. The sum is `ln` and the logarithm of
/// `gain`, which is taken when it has to be: most seconds have few requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Start {
    second: u64,
    ln: f64,
    gain: f64,
    totals: Totals,
}

/// Beyond, a gain becomes a logarithm.
const MOST_GAIN: f64 = 1e100;

impl Late {
    pub(super) fn new(bets: &Bets) -> Self {
        Self {
            whole: Totals::default(),
            tick: Totals::default(),
            tally: Tally::new(bets, 0),
            starts: vec![Start::at(0); bets.count()],
        }
    }

    #[inline]
    pub(super) fn add(&mut self, bets: &Bets, x: f64, z: f64, count: u64) {
        let more = Totals::of(x, z, count);
        self.whole.add(&more);
        self.tick.add(&more);
        self.tally.add(bets, z, count);
    }

    /// The second is over.
    pub(super) fn end_tick(&mut self, second: u64) {
        if self.tick.requests > 0 {
            for (k, start) in self.starts.iter_mut().enumerate() {
                start.fold(second, self.tally.parts_of(k), &self.tick);
            }
            self.tally.clear();
            self.tick = Totals::default();
        }
    }

    /// A whole second's requests, from a summary.
    pub(super) fn add_tick(&mut self, second: u64, ln: &[f64], tick: &Totals) {
        self.end_tick(second);
        if tick.requests > 0 {
            self.whole.add(tick);
            self.starts.iter_mut().zip(ln).for_each(|(start, ln)| start.fold(second, (*ln, 1.0), tick));
        }
    }

    /// `None` while no bet has gained since any time.
    pub(super) fn since_start(&self, bets: &Bets, now: u64) -> Option<SinceStart> {
        let with_tick = |(k, start): (usize, &Start)| {
            let mut start = *start;
            if self.tick.requests > 0 {
                start.fold(now, self.tally.parts_of(k), &self.tick);
            }
            start
        };
        let starts = self.starts.iter().enumerate().map(with_tick);
        let (start, bet) = starts.zip(bets.bets()).max_by(|(a, _), (b, _)| a.sum().total_cmp(&b.sum()))?;
        let (Start { second, totals, .. }, ln_gain) = (start, start.sum());
        (ln_gain > 0.0).then_some(SinceStart { second, totals, bet, ln_gain })
    }
}

impl Start {
    fn at(second: u64) -> Self {
        Self { second, ln: 0.0, gain: 1.0, totals: Totals::default() }
    }

    fn sum(&self) -> f64 {
        self.ln + libm::log(self.gain).max(LN_LOST)
    }

    fn lost(&self) -> bool {
        if self.ln.abs() < f64::MIN_POSITIVE { self.gain <= 1.0 } else { self.sum() <= 0.0 }
    }

    fn fold(&mut self, second: u64, (ln, gain): (f64, f64), tick: &Totals) {
        if self.lost() {
            // What begins with a loss would be begun anew after it.
            if ln <= 0.0 && gain <= 1.0 {
                return;
            }
            *self = Self::at(second);
        }
        self.ln += ln;
        self.gain *= gain;
        if !(MOST_GAIN.recip()..MOST_GAIN).contains(&self.gain) {
            (self.ln, self.gain) = (self.sum(), 1.0);
        }
        self.totals.add(tick);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bets::BETS;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a search over all starts, by the sums of every second.
        #[test]
        fn it_is_the_best_of_all_starts(
            seconds in prop::collection::vec(prop::collection::vec(0.0..4.0f64, 0..6), 1..60),
        ) {
            let bets = Bets::default();
            let mut late = Late::new(&bets);
            for (second, requests) in (0..).zip(&seconds) {
                requests.iter().for_each(|&z| late.add(&bets, 7.0 * z, z, 1));
                late.end_tick(second);
            }
            let mut best = (0.0, 0);
            for start in 0..seconds.len() {
                for bet in BETS {
                    let ln: f64 =
                        seconds[start..].iter().flatten().map(|z| libm::log1p(bet * (z - 1.0))).sum();
                    // Seconds without requests make several starts equal; ours is the one with requests.
                    if ln > best.0 + 1e-9 && !seconds[start].is_empty() {
                        best = (ln, start);
                    }
                }
            }
            match late.since_start(&bets, 60) {
                None => prop_assert!(best.0 <= 1e-9),
                Some(found) => {
                    prop_assert!((found.ln_gain - best.0).abs() < 1e-9, "{found:?}, best {best:?}");
                    let since = usize::try_from(found.second).unwrap();
                    let z: Vec<f64> = seconds[since..].iter().flatten().copied().collect();
                    prop_assert_eq!(found.totals.requests, z.len() as u64);
                    prop_assert!((found.totals.sum_z - z.iter().sum::<f64>()).abs() < 1e-9);
                    prop_assert!((found.totals.sum_x - 7.0 * found.totals.sum_z).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn a_regression_after_a_day_is_dated_to_the_second() {
        let bets = Bets::default();
        let mut late = Late::new(&bets);
        for second in 0..90_000 {
            let z = if second < 88_000 { 0.8 } else { 1.9 };
            late.add(&bets, 100.0 * z, z, 1);
            late.end_tick(second);
        }
        let found = late.since_start(&bets, 90_000).unwrap();
        assert_eq!((found.second, found.totals.requests), (88_000, 2_000));
        assert!((found.totals.mean_x().unwrap() - 190.0).abs() < 1e-6);
        assert!(late.whole.mean_z().unwrap() < 0.83);
    }
}
