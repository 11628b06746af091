//! Seeded traffic for the simulations: a login as it is, bimodal and with a tail of infinite variance.

use crate::model::StatusClass;

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Streams of neighbouring seeds have nothing in common.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Self(seed);
        Self(rng.next_u64())
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In 0 to 1, 1 excluded.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        median * libm::exp(sigma * radius * libm::cos(std::f64::consts::TAU * self.uniform()))
    }

    pub(crate) fn pareto(&mut self, least: f64, index: f64) -> f64 {
        least * libm::pow(1.0 - self.uniform(), -1.0 / index)
    }
}

/// A login endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Login {
    /// Share of successful logins.
    pub(crate) successes: f64,
    /// What a successful login costs, in multiples of the usual.
    pub(crate) slow_down: f64,
}

impl Login {
    pub(crate) const USUAL: Self = Self { successes: 0.70, slow_down: 1.0 };

    /// Successful logins so much slower that the mean over all outcomes is `factor` times the usual.
    pub(crate) fn with_mean(factor: f64) -> Self {
        Self {
            slow_down: 1.0 + (factor - 1.0) * Self::mean_ms() / (0.70 * Self::success_ms()),
            ..Self::USUAL
        }
    }

    /// Usual mean.
    pub(crate) fn mean_ms() -> f64 {
        0.70 * Self::success_ms()
            + 0.22 * libm::exp(0.125)
            + 0.05 * 0.4 * libm::exp(0.08)
            + 0.03 * 30.0 * 1.8 / 0.8
    }

    fn success_ms() -> f64 {
        120.0 * libm::exp(0.031_25)
    }

    /// Outcome and CPU milliseconds of one request: password hashed and right, user unknown, locked out, or a success
    /// that also rehashed or paged in.
    pub(crate) fn draw(self, rng: &mut Rng) -> (StatusClass, f64) {
        let pick = rng.uniform();
        if pick < self.successes {
            return (StatusClass::Redirect, rng.log_normal(120.0, 0.25) * self.slow_down);
        }
        match (pick - self.successes) / (1.0 - self.successes) * 0.30 {
            p if p < 0.22 => (StatusClass::ClientError, rng.log_normal(1.0, 0.5)),
            p if p < 0.27 => (StatusClass::ClientError, rng.log_normal(0.4, 0.4)),
            _ => (StatusClass::Success, rng.pareto(30.0, 1.8)),
        }
    }
}

/// The middle one and the one that 95 of 100 do not exceed.
pub(crate) fn median_and_p95(mut figures: Vec<u64>) -> (u64, u64) {
    figures.sort_unstable();
    (figures[figures.len() / 2], figures[figures.len() * 95 / 100])
}
