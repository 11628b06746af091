//! The running products of one component.

use serde::{Deserialize, Serialize};

use super::bets::{Bets, LANES, Lanes};

/// Below this a stake is lost; the next release revives it. Above [`CEILING`] it grows no further.
const FLOOR: f64 = 1e-280;
const CEILING: f64 = 1e200;

/// Share of the capital at stake `second` whole seconds after the deploy: `first` at 0, rising to 1.
pub fn released(second: u64, first: f64) -> f64 {
    1.0 - (1.0 - first) / (1.0 + libm::log2(1.0 + second as f64))
}

/// A non-negative supermartingale from 1 while `E[z | past] <= 1` holds.
///
/// With an outlier allowance `J`, row `j` holds the stakes after the worst at most `j` requests are left out, and the
/// last row counts. `z` is a finite number from 0 on: the engine lets nothing else in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    #[serde(default)]
    bets: Bets,
    /// Row after row, each of as many groups as the bets have.
    rows: Vec<Lanes>,
    /// Of the last row.
    sum: f64,
}

impl Process {
    /// Stakes `first_stake` of the capital, with the usual bets.
    pub fn new(first_stake: f64, outlier_allowance: usize) -> Self {
        Self::with_bets(Bets::default(), first_stake, outlier_allowance)
    }

    /// The same with a grid of one's own.
    pub fn with_bets(bets: Bets, first_stake: f64, outlier_allowance: usize) -> Self {
        let row: Vec<Lanes> =
            bets.share_lanes().iter().map(|lanes| lanes.map(|share| share * first_stake)).collect();
        let mut process = Self { bets, rows: row.repeat(outlier_allowance + 1), sum: 0.0 };
        process.add_up();
        process
    }

    /// Puts another share of the capital at stake; at most once a second.
    pub fn release(&mut self, share: f64) {
        let groups = self.bets.share_lanes();
        for (row, shares) in self.rows.iter_mut().zip(groups.iter().cycle()) {
            for (stake, part) in row.iter_mut().zip(shares) {
                *stake += part * share;
            }
        }
        self.add_up();
    }

    /// Settles the bets on `count` requests of the same `z`.
    #[inline]
    pub fn settle(&mut self, z: f64, count: u64) {
        if count == 1 {
            self.settle_one(z);
        } else {
            self.settle_many(z, count);
        }
    }

    #[inline]
    fn settle_one(&mut self, z: f64) {
        let groups = self.bets.lanes();
        for (place, bets) in groups.iter().enumerate() {
            let factors = bets.map(|bet| 1.0 + bet * (z - 1.0));
            let mut at = self.rows.len() - groups.len() + place;
            while at >= groups.len() {
                let left_out = self.rows[at - groups.len()];
                let row = &mut self.rows[at];
                for lane in 0..LANES {
                    row[lane] = bounded(row[lane] * factors[lane]).min(left_out[lane]);
                }
                at -= groups.len();
            }
            for (stake, factor) in self.rows[at].iter_mut().zip(factors) {
                *stake = bounded(*stake * factor);
            }
        }
        self.add_up();
    }

    /// The general case: row `j` is the least that leaving out up to `j` of all requests can make of it, and of `count`
    /// equal ones it matters only how many are left out. Exact, because a stake grows with every earlier stake.
    fn settle_many(&mut self, z: f64, count: u64) {
        let groups = self.bets.lanes().len();
        let rows = self.rows.len() / groups;
        for group in 0..groups {
            for lane in 0..LANES {
                let factor = 1.0 + self.bets.lanes()[group][lane] * (z - 1.0);
                for j in (0..rows).rev() {
                    let mut least = f64::INFINITY;
                    for (left_out, source) in (0..=count).zip((0..=j).rev()) {
                        let stake = self.rows[source * groups + group][lane];
                        least = least.min(bounded(stake * power(factor, count - left_out)));
                    }
                    self.rows[j * groups + group][lane] = least;
                }
            }
        }
        self.add_up();
    }

    /// Settles the bets on all requests of a tick at once, whatever their order was: `ln` holds the sum of the logarithms
    /// of each bettor's factors, and `largest` the `z` of the largest requests, the largest first, as many as may be left
    /// out or all of them.
    pub(super) fn settle_summary(&mut self, ln: &[f64], largest: &[f64]) {
        let groups = self.bets.lanes().len();
        let rows = self.rows.len() / groups;
        for (k, (bet, ln)) in self.bets.bets().zip(ln).enumerate() {
            let (group, lane) = (k / LANES, k % LANES);
            for j in (0..rows).rev() {
                let mut kept = *ln;
                let mut least = grown(self.rows[j * groups + group][lane], kept);
                for (z, source) in largest.iter().zip((0..j).rev()) {
                    kept -= ln_factor(bet, *z);
                    least = least.min(grown(self.rows[source * groups + group][lane], kept));
                }
                self.rows[j * groups + group][lane] = least;
            }
        }
        self.add_up();
    }

    /// The capital when `released` of it was put at stake so far: 1 in expectation at most, while the budget holds.
    #[inline]
    pub fn value(&self, released: f64) -> f64 {
        (1.0 - released) + self.sum
    }

    /// What the bettor on this share has now; 0 for one that is not in the grid.
    pub(super) fn stake_of(&self, bet: f64) -> f64 {
        let last = self.rows.len() - self.bets.lanes().len();
        let stakes = self.bets.bets().zip(self.rows[last..].iter().flatten());
        stakes.filter(|(own, _)| own.to_bits() == bet.to_bits()).map(|(_, stake)| stake).sum()
    }

    /// Whether a stake is at the most that is counted: it was, or is, more than the value says.
    pub fn is_full(&self) -> bool {
        self.rows.iter().flatten().any(|&stake| stake >= CEILING)
    }

    #[inline]
    fn add_up(&mut self) {
        let last = self.rows.len() - self.bets.lanes().len();
        // In pairs: the additions need not wait for each other.
        let pairs =
            |row: &Lanes| ((row[0] + row[1]) + (row[2] + row[3])) + ((row[4] + row[5]) + (row[6] + row[7]));
        self.sum = self.rows[last..].iter().map(pairs).sum();
    }
}

/// Logarithm of what a bettor's stake is multiplied by. A stake that is lost altogether counts as multiplied by e^-1000,
/// so that the sums stay numbers.
#[inline]
pub(super) fn ln_factor(bet: f64, z: f64) -> f64 {
    libm::log1p(bet * (z - 1.0)).max(LN_LOST)
}

pub(super) const LN_LOST: f64 = -1000.0;

/// A stake times `e^ln`, held within the bounds on the way as well.
fn grown(mut stake: f64, mut ln: f64) -> f64 {
    const STEP: f64 = 600.0;
    while ln > STEP && stake > 0.0 && stake < CEILING {
        stake = bounded(stake * libm::exp(STEP));
        ln -= STEP;
    }
    bounded(stake * libm::exp(ln.min(STEP)))
}

#[inline]
fn bounded(stake: f64) -> f64 {
    if stake < FLOOR { 0.0 } else { stake.min(CEILING) }
}

/// `base` to the power `exponent` by repeated squaring, the same on every machine (`powi` promises no precision), and
/// finite, so that a lost stake stays 0.
pub(super) fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut product = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product *= base;
        }
        base = (base * base).min(f64::MAX);
        exponent >>= 1;
    }
    f64::min(product, f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::bets::{BETS, STAKE};
    use super::*;
    use proptest::prelude::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-9 * left.abs().max(right.abs())
    }

    #[test]
    fn the_stake_rises_from_its_first_share_to_all() {
        assert!(close(released(0, 0.5), 0.5));
        assert!(close(released(1, 0.5), 0.75));
        let mut last = 0.0;
        for second in 0..100_000 {
            let now = released(second, 0.5);
            assert!(now > last && now < 1.0);
            last = now;
        }
    }

    #[test]
    fn no_capital_appears_before_the_first_request() {
        let process = Process::new(0.5, 3);
        assert!(close(process.value(0.5), 1.0));
    }

    #[test]
    fn ruin_and_riches_stay_finite() {
        for allowance in [0, 2] {
            let mut process = Process::new(0.5, allowance);
            process.settle(0.0, 1_000_000);
            assert!(process.value(0.5) >= 0.5);
            process.settle(50.0, 1_000_000);
            assert!(process.value(0.5).is_finite());
            process.release(0.1);
            process.settle(50.0, 1);
            assert!(process.value(0.6).is_finite());
        }
    }

    /// Least final stake over all ways to leave out at most `allowance` requests, by trying them all.
    fn by_brute_force(z: &[f64], bet: f64, allowance: u32) -> f64 {
        let mut least = f64::INFINITY;
        for left_out in 0u32..1 << z.len() {
            if left_out.count_ones() <= allowance {
                let kept = z.iter().enumerate().filter(|(i, _)| left_out >> i & 1 == 0);
                least = least.min(kept.fold(STAKE * 0.5, |stake, (_, z)| stake * (1.0 + bet * (z - 1.0))));
            }
        }
        least
    }

    proptest! {
        #[test]
        fn the_allowance_takes_the_worst_outliers(z in prop::collection::vec(0.0..50.0f64, 1..10), allowance in 0u32..4) {
            let mut process = Process::new(0.5, allowance as usize);
            for &z in &z {
                process.settle(z, 1);
            }
            let brute: f64 = BETS.iter().map(|&bet| by_brute_force(&z, bet, allowance)).sum();
            prop_assert!(close(process.value(1.0), brute), "{} against {brute}", process.value(1.0));
        }

        #[test]
        fn many_at_once_are_as_many_one_by_one(
            groups in prop::collection::vec((0.0..20.0f64, 1u64..9), 1..12), allowance in 0usize..4,
        ) {
            let (mut at_once, mut singly) = (Process::new(0.5, allowance), Process::new(0.5, allowance));
            for (z, count) in groups {
                at_once.settle(z, count);
                for _ in 0..count {
                    singly.settle(z, 1);
                }
            }
            prop_assert!(close(at_once.value(0.5), singly.value(0.5)));
        }

        #[test]
        fn more_cpu_is_never_less_evidence(
            z in prop::collection::vec(0.0..20.0f64, 1..40), raised in any::<prop::sample::Index>(), by in 0.0..5.0f64,
            allowance in 0usize..3,
        ) {
            let run = |z: &[f64]| {
                let mut process = Process::new(0.5, allowance);
                for &z in z {
                    process.settle(z, 1);
                }
                process.value(0.5)
            };
            let before = run(&z);
            let mut after = z.clone();
            *raised.get_mut(&mut after) += by;
            prop_assert!(run(&after) >= before * (1.0 - 1e-12));
        }
    }
}
