//! What something costs now, in multiples of what it used to.

use serde::{Deserialize, Serialize};

use crate::aggregate::{ClassAggregate, EndpointAggregate};
use crate::model::StatusClass;

/// A request counts for at most so many times its class's mean: one outlier must not move the factor.
const CAP: f64 = 5.0;
/// Requests of a class that say what it used to cost.
const LEAST_IN_CLASS: u64 = 20;

/// Mean of what was seen over the mean of what was expected, newer observations weighing more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Smoothed {
    /// Part of the weight that an observation keeps when the next one comes.
    kept: f64,
    seen: f64,
    expected: f64,
    weight: f64,
    squared_weight: f64,
    squared_deviation: f64,
}

/// A smoothed ratio, with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub ratio: f64,
    pub error: f64,
    /// So many observations of equal weight would tell as much.
    pub effective: f64,
}

impl Smoothed {
    /// Remembers about so many observations.
    pub fn new(memory: f64) -> Self {
        Self {
            kept: 1.0 - 1.0 / memory,
            seen: 0.0,
            expected: 0.0,
            weight: 0.0,
            squared_weight: 0.0,
            squared_deviation: 0.0,
        }
    }

    /// `count` observations of the same figure.
    pub fn observe(&mut self, seen: f64, expected: f64, count: u64) {
        // A large count replaces all that was known; beyond that it says nothing more.
        for _ in 0..count.min(10_000) {
            let squared = self.kept * self.kept;
            self.seen = self.seen * self.kept + seen;
            self.expected = self.expected * self.kept + expected;
            self.weight = self.weight * self.kept + 1.0;
            self.squared_weight = self.squared_weight * squared + 1.0;
            self.squared_deviation = self.squared_deviation * squared + (seen - expected) * (seen - expected);
        }
    }

    /// `None` before anything was seen.
    pub fn figure(&self) -> Option<Figure> {
        (self.expected > 0.0).then(|| Figure {
            ratio: self.seen / self.expected,
            // The deviations are from the expectation, not from the present mean: too large when that has moved, never
            // too small.
            error: libm::sqrt(self.squared_deviation) / self.expected,
            effective: self.weight * self.weight / self.squared_weight,
        })
    }
}

/// What each outcome class of an endpoint used to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardstick {
    classes: [Option<Expected>; StatusClass::ALL.len()],
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    cap: f64,
    /// Of what is above the cap, only the cap counts.
    mean: f64,
}

impl Yardstick {
    pub fn new(reference: &EndpointAggregate) -> Self {
        Self { classes: StatusClass::ALL.map(|class| Expected::of(&reference.class(class)?)) }
    }

    /// Whether any class is known.
    pub fn is_usable(&self) -> bool {
        self.classes.iter().any(Option::is_some)
    }

    /// The request's cost as it counts, and what was to be expected; `None` for a class that is hardly known.
    pub fn measure(&self, class: StatusClass, cpu_ns: u64) -> Option<(f64, f64)> {
        let expected = self.classes[class as usize]?;
        Some(((cpu_ns as f64).min(expected.cap), expected.mean))
    }
}

impl Expected {
    fn of(reference: &ClassAggregate) -> Option<Self> {
        if reference.requests < LEAST_IN_CLASS {
            return None;
        }
        let cap = CAP * reference.mean_ns()?;
        let (mean, _) = reference.capped_moments_ns(cap)?;
        (mean > 0.0).then_some(Self { cap, mean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequential::workload::{Login, Rng};

    #[test]
    fn the_ratio_follows_a_drift_and_knows_how_sure_it_is() {
        let mut smoothed = Smoothed::new(300.0);
        assert_eq!(smoothed.figure(), None);
        let mut rng = Rng::new(1);
        let mut at = |smoothed: &mut Smoothed, drift: f64| {
            let x = rng.log_normal(100.0, 0.25) * drift;
            smoothed.observe(x, 100.0 * libm::exp(0.031_25), 1);
        };
        (0..2000).for_each(|_| at(&mut smoothed, 1.0));
        let steady = smoothed.figure().unwrap();
        assert!((steady.ratio - 1.0).abs() < 3.0 * steady.error, "{steady:?}");
        assert!((0.005..0.02).contains(&steady.error), "{steady:?}");
        assert!((550.0..650.0).contains(&steady.effective), "{steady:?}");
        (0..1500).for_each(|_| at(&mut smoothed, 1.15));
        let slow = smoothed.figure().unwrap();
        assert!((slow.ratio - 1.15).abs() < 0.04, "{slow:?}");
    }

    #[test]
    fn another_mix_of_outcomes_is_no_drift_and_an_outlier_little() {
        let mut reference = EndpointAggregate::default();
        let mut rng = Rng::new(2);
        for _ in 0..5000 {
            let (class, ms) = Login::USUAL.draw(&mut rng);
            reference.record(class, ns(ms), 1);
        }
        let yardstick = Yardstick::new(&reference);
        let mut smoothed = Smoothed::new(300.0);
        let mut feed = |traffic: Login, requests: u32| {
            for _ in 0..requests {
                let (class, ms) = traffic.draw(&mut rng);
                if let Some((seen, expected)) = yardstick.measure(class, ns(ms)) {
                    smoothed.observe(seen, expected, 1);
                }
            }
            smoothed.figure().unwrap()
        };
        // Half as many succeed: the mean falls by nearly half, what each outcome costs does not.
        let mixed = feed(Login { successes: 0.35, ..Login::USUAL }, 3000);
        assert!((mixed.ratio - 1.0).abs() < 0.1, "{mixed:?}");
        let (seen, expected) = yardstick.measure(StatusClass::Redirect, 60_000_000_000).unwrap();
        assert!(seen / expected < 5.1, "a minute counts as {seen}");
        assert_eq!(yardstick.measure(StatusClass::ServerError, 1), None);
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a request")]
    fn ns(ms: f64) -> u64 {
        (ms * 1e6) as u64
    }
}
