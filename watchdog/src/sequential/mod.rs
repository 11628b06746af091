//! The sequential test: betting against "this build is within its budget", one request at a time.
//!
//! Each request becomes a figure `z >= 0` whose expectation is at most 1 while the build is within budget. Eight bettors
//! multiply their stakes by `1 + lambda (z - 1)`; a share of the capital is released second by second, so that a
//! regression that starts hours after the deploy is found too. The total `M` starts at 1 and cannot be expected to grow
//! while the budget holds, so by Ville's inequality `P(M ever reaches 1/alpha) <= alpha`: at every look, for ever,
//! whatever the distribution, its variance, its tail or the rate of traffic.
//!
//! * [`Process`]: the stakes of one budget component, with [`Bets`]; [`Clearance`]: the same for the opposite claim.
//! * [`Engine`]: the weighted sum over all components of a deploy and the [`Pool`], with the verdict latched.
//! * [`Standing`]: how things stand, as plain data; [`SinceStart`]: when a regression most likely began.
//! * [`Collector`] and [`Summary`]: a host's part of the evidence, to be merged and applied elsewhere.
//! * [`Log`]: what the engine was told, to come to the same state again.
//! * [`Interval`]: what the mean can be, valid whenever one looks.
//! * [`vectors`]: reference values from elsewhere.
//! * [`stats`]: exact binomial and normal bounds for budgets that come from a baseline.
//!
//! Nothing here reads a clock or allocates per request. All transcendental functions come from `libm` in software, so a
//! recorded run gives the same bits on every machine.
//!
//! Sources: Ville 1939; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024);
//! Vovk and Wang, "E-values: calibration, combination and applications" (2021).

#![forbid(unsafe_code)]

mod bets;
mod clearance;
mod component;
mod engine;
mod interval;
mod late;
mod layout;
mod log;
mod process;
mod standing;
pub mod stats;
mod summary;
mod tally;
pub mod vectors;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod workload;

pub use bets::{BETS, Bets, InvalidBets, STAKE};
pub use clearance::{Clearance, cap_for_clearing};
pub use component::{Component, Conditions, InvalidComponents, Kind, Pool, PoolLimit, Scope, Stratum};
pub use engine::{Carrier, Crossing, Engine, Floor, Stop, Unfinished};
pub use interval::{
    Interval, Weighted, interval, interval_with, ln_evidence_above, ln_evidence_above_with,
    ln_evidence_below, ln_evidence_below_with,
};
pub use late::{SinceStart, Totals};
pub use log::{Entry, Event, LOG_VERSION, Log, Recorder, ReplayError};
pub use process::{Process, released};
pub use standing::{Part, Standing};
pub use summary::{
    Collector, ComponentSummary, Factors, PoolSummary, SUMMARY_VERSION, Summary, SummaryMismatch,
};

use serde::{Deserialize, Serialize};

/// What the test is allowed and how it bets. The defaults are those of the decision note; only `alpha` is meant for users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Probability of ever calling a build that is within budget a violation.
    pub alpha: f64,
    /// The same for calling a build that is over budget within it.
    pub beta: f64,
    /// Share of the capital at stake from the first request on; the rest is released as time passes.
    pub first_stake: f64,
    /// No request counts for more than this many times its limit.
    pub cap: f64,
    /// Requests of an endpoint before it can be judged.
    pub min_requests: u64,
    /// So many arbitrary outliers per component cannot make evidence.
    pub outlier_allowance: usize,
    /// The grid of bettors.
    #[serde(default)]
    pub bets: Bets,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            alpha: 1e-3,
            beta: 1e-2,
            first_stake: 0.5,
            cap: 50.0,
            min_requests: 5,
            outlier_allowance: 0,
            bets: Bets::default(),
        }
    }
}

impl Parameters {
    /// Evidence at which a build is called in violation.
    pub fn bar(&self) -> f64 {
        1.0 / self.alpha
    }
}
