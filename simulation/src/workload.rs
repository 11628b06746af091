//! What requests cost: the three workloads of the decision note.

use watchdog::sequential::stats::normal_upper_quantile;

use crate::rng::Rng;

/// CPU milliseconds of one kind of request.
#[derive(Clone, Copy, Debug)]
pub enum Cost {
    LogNormal {
        median: f64,
        sigma: f64,
    },
    /// Of infinite variance for an index of 2 and less.
    Pareto {
        least: f64,
        index: f64,
    },
}

impl Cost {
    pub fn mean(self) -> f64 {
        match self {
            Self::LogNormal { median, sigma } => median * libm::exp(sigma * sigma / 2.0),
            Self::Pareto { least, index } => least * index / (index - 1.0),
        }
    }

    pub fn quantile(self, p: f64) -> f64 {
        match self {
            Self::LogNormal { median, sigma } => median * libm::exp(sigma * normal_upper_quantile(1.0 - p)),
            Self::Pareto { least, index } => least * libm::pow(1.0 - p, -1.0 / index),
        }
    }

    pub fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::LogNormal { median, sigma } => median * libm::exp(sigma * rng.normal()),
            Self::Pareto { least, index } => least * libm::pow(1.0 - rng.uniform(), -1.0 / index),
        }
    }
}

/// One outcome of the requests of an endpoint: its share of them and its cost. The outcome is what the class is.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub share: f64,
    pub cost: Cost,
}

/// An endpoint; the first outcome is its main path.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub outcomes: &'static [Outcome],
}

const fn log_normal(share: f64, median: f64, sigma: f64) -> Outcome {
    Outcome { share, cost: Cost::LogNormal { median, sigma } }
}

/// Password hashed and right; user unknown; locked out; a success that also rehashed or paged in.
pub const LOGIN: Workload = Workload {
    name: "login",
    outcomes: &[
        log_normal(0.70, 120.0, 0.25),
        log_normal(0.22, 1.0, 0.50),
        log_normal(0.05, 0.4, 0.40),
        Outcome { share: 0.03, cost: Cost::Pareto { least: 30.0, index: 1.8 } },
    ],
};

/// JSON from a cache that misses once in a hundred times.
pub const API: Workload =
    Workload { name: "api", outcomes: &[log_normal(0.99, 2.0, 0.80), log_normal(0.01, 40.0, 0.60)] };

/// One path with a coefficient of variation of 2.9.
pub const HEAVY: Workload = Workload { name: "heavy", outcomes: &[log_normal(1.0, 10.0, 1.5)] };

pub const WORKLOADS: [Workload; 3] = [LOGIN, API, HEAVY];

impl Workload {
    pub fn mean(&self) -> f64 {
        self.outcomes.iter().map(|outcome| outcome.share * outcome.cost.mean()).sum()
    }

    /// Which outcome a request has. `shift` is added to the share of the main path; the others keep their proportions.
    pub fn pick(&self, rng: &mut Rng, shift: f64) -> u8 {
        let main = self.outcomes[0].share;
        let u = rng.uniform();
        if u < main + shift || self.outcomes.len() == 1 {
            return 0;
        }
        let u = (u - main - shift) / (1.0 - main - shift) * (1.0 - main);
        let mut below = 0.0;
        for (class, outcome) in (1u8..).zip(&self.outcomes[1..]) {
            below += outcome.share;
            if u < below {
                return class;
            }
        }
        u8::try_from(self.outcomes.len() - 1).expect("an endpoint has few outcomes")
    }
}

/// What is wrong with a build. `effect` is what it makes of the mean over all requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The main path is slower.
    MainPath {
        effect: f64,
    },
    /// One request in twenty goes a new way besides, whatever its outcome.
    SlowPath {
        effect: f64,
    },
}

const SLOW_PATH: f64 = 0.05;

/// A fault as it acts on single requests.
#[derive(Clone, Copy, Debug)]
pub enum Slower {
    No,
    MainPathBy(f64),
    SometimesAdded(f64),
}

impl Fault {
    pub fn of(self, workload: &Workload) -> Slower {
        let mean = workload.mean();
        match self {
            Self::None => Slower::No,
            Self::MainPath { effect } => {
                let main = workload.outcomes[0];
                Slower::MainPathBy(1.0 + (effect - 1.0) * mean / (main.share * main.cost.mean()))
            }
            Self::SlowPath { effect } => Slower::SometimesAdded((effect - 1.0) * mean / SLOW_PATH),
        }
    }
}

impl Slower {
    pub fn make(self, ms: f64, class: u8, rng: &mut Rng) -> f64 {
        match self {
            Self::MainPathBy(factor) if class == 0 => ms * factor,
            Self::SometimesAdded(mean) if rng.uniform() < SLOW_PATH => {
                // A log-normal of that mean.
                ms + mean * libm::exp(0.3 * rng.normal() - 0.045)
            }
            Self::No | Self::MainPathBy(_) | Self::SometimesAdded(_) => ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_the_effect_they_are_named_after() {
        for workload in [LOGIN, API, HEAVY] {
            for fault in [Fault::None, Fault::MainPath { effect: 2.0 }, Fault::SlowPath { effect: 2.0 }] {
                let slower = fault.of(&workload);
                let mut rng = Rng::of(1, workload.name, 0);
                let n = 60_000;
                let mut sum = 0.0;
                for _ in 0..n {
                    let class = workload.pick(&mut rng, 0.0);
                    // Capped: the login's tail has no variance that a test could rely on.
                    let ms = workload.outcomes[usize::from(class)].cost.draw(&mut rng).min(2000.0);
                    sum += slower.make(ms, class, &mut rng);
                }
                let ratio = sum / f64::from(n) / workload.mean();
                let expected = if fault == Fault::None { 1.0 } else { 2.0 };
                assert!((ratio / expected - 1.0).abs() < 0.04, "{} {fault:?}: {ratio}", workload.name);
            }
        }
    }

    #[test]
    fn outcomes_come_in_their_shares() {
        let mut rng = Rng::of(1, "shares", 0);
        let mut seen = [0.0_f64; 4];
        for _ in 0..40_000 {
            seen[usize::from(LOGIN.pick(&mut rng, 0.15))] += 1.0 / 40_000.0;
        }
        // Half of the other outcomes became logins.
        for (seen, expected) in seen.iter().zip([0.85, 0.11, 0.025, 0.015]) {
            assert!((seen - expected).abs() < 0.01, "{seen} for {expected}");
        }
    }

    #[test]
    fn quantiles_have_so_much_below_them() {
        for outcome in LOGIN.outcomes {
            let mut rng = Rng::of(1, "quantiles", 0);
            let limit = outcome.cost.quantile(0.9);
            let above = (0..20_000).filter(|_| outcome.cost.draw(&mut rng) > limit).count();
            assert!((1_900..2_110).contains(&above), "{above} of 20000 above {limit}");
        }
    }
}
