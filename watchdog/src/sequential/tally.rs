//! What the requests of one tick do to one process, without the process.

use super::bets::{Bets, LANES, Lanes};
use super::process::{LN_LOST, ln_factor};
use serde::{Deserialize, Serialize};

/// Requests whose factors are multiplied before a logarithm is taken: 16 of at most 10^9 are far from overflow.
const BATCH: u32 = 16;
const LARGEST_FACTOR: f64 = 1e9;
/// A factor near 0 loses the digits of a product.
const BOLDEST: f64 = 0.999;

/// Sum of the logarithms of each bettor's factors, and the largest `z`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    requests: u64,
    /// Of what is not in `ln` yet.
    product: Vec<Lanes>,
    pending: u32,
    ln: Vec<Lanes>,
    /// Falling; as many as there is room for.
    largest: Vec<f64>,
    room: usize,
}

impl Tally {
    /// `outlier_allowance` of the largest figures are kept apart.
    pub(super) fn new(bets: &Bets, outlier_allowance: usize) -> Self {
        let groups = bets.lanes().len();
        Self {
            requests: 0,
            product: vec![[1.0; LANES]; groups],
            pending: 0,
            ln: vec![[0.0; LANES]; groups],
            largest: Vec::with_capacity(outlier_allowance),
            room: outlier_allowance,
        }
    }

    #[inline]
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    #[inline]
    pub(super) fn add(&mut self, bets: &Bets, z: f64, count: u64) {
        self.requests = self.requests.saturating_add(count);
        if self.room > 0 {
            self.keep_largest(z, count);
        }
        let bold = z < 1.0 - BOLDEST && bets.lanes().iter().flatten().any(|&bet| bet > BOLDEST);
        if count > 1 || z > LARGEST_FACTOR || bold {
            self.add_logarithms(bets, z, count);
            return;
        }
        for (product, bets) in self.product.iter_mut().zip(bets.lanes()) {
            for (product, bet) in product.iter_mut().zip(bets) {
                *product *= 1.0 + bet * (z - 1.0);
            }
        }
        self.pending += 1;
        if self.pending == BATCH {
            self.take_logarithms();
        }
    }

    /// Of each bettor's factors, those without a share of the capital included.
    pub(super) fn ln(&mut self) -> &[Lanes] {
        self.take_logarithms();
        &self.ln
    }

    /// Of one bettor: the sum of logarithms so far, and the product that is not in it.
    pub(super) fn parts_of(&self, k: usize) -> (f64, f64) {
        let (group, lane) = (k / LANES, k % LANES);
        (self.ln[group][lane], self.product[group][lane])
    }

    pub(super) fn largest(&self) -> &[f64] {
        &self.largest
    }

    pub(super) fn clear(&mut self) {
        self.requests = 0;
        self.pending = 0;
        self.product.fill([1.0; LANES]);
        self.ln.fill([0.0; LANES]);
        self.largest.clear();
    }

    fn add_logarithms(&mut self, bets: &Bets, z: f64, count: u64) {
        for (ln, bets) in self.ln.iter_mut().zip(bets.lanes()) {
            for (ln, bet) in ln.iter_mut().zip(bets) {
                *ln += count as f64 * ln_factor(*bet, z);
            }
        }
    }

    fn take_logarithms(&mut self) {
        if self.pending == 0 {
            return;
        }
        for (ln, product) in self.ln.iter_mut().flatten().zip(self.product.iter_mut().flatten()) {
            *ln += libm::log(*product).max(LN_LOST);
            *product = 1.0;
        }
        self.pending = 0;
    }

    fn keep_largest(&mut self, z: f64, count: u64) {
        for _ in 0..count.min(self.room as u64) {
            let place = self.largest.partition_point(|&larger| larger >= z);
            if place == self.room {
                return;
            }
            // Room for one more is made first: nothing is allocated.
            self.largest.truncate(self.room - 1);
            self.largest.insert(place, z);
        }
    }
}
