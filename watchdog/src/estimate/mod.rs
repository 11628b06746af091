//! What a request costs, without knowing which thread worked for whom.
//!
//! In a window, the CPU time of a build's processes is a constant x time, plus the sum over endpoints of requests x cost.
//! The scheduler knows the first exactly and the sockets the second, whatever the concurrency model; [`Windows`] keeps
//! both, and [`Windows::fit`] finds the costs by non-negative least squares, with intervals. It is the cross-check of
//! direct attribution everywhere, and the measure of record where that had to guess.
//!
//! - **Weights**: the variance of a window's CPU time grows with the work in it, so each is weighed by the inverse of what
//!   the fit expects of it (two rounds).
//! - **Intervals**: the windows are cut into blocks, and the fit without each block in turn says how far one block moves it
//!   (delete-a-group jackknife). That holds under unequal variances and under the correlation of neighbours that
//!   straddling requests cause; it is a little too wide rather than too narrow. It has no random part. The fit within is
//!   without the bound at 0, whose intervals would be too narrow there; what lies below 0 is cut off.
//! - **Telling apart**: endpoints are told apart by how independently their counts vary. Requests that come
//!   independently vary, given the other columns, with a variance of at least their mean. Those that vary much less always
//!   come with others, and get one figure together. Where the work as a whole varies that little (a server at its limit,
//!   a metronome), it cannot be told from the constant, and the answer is [`Answer::Even`].
//!
//! Outliers are not cut off: costs are means, and heavy tails are part of them. They make the interval wide instead.

#![forbid(unsafe_code)]

mod fit;
mod linear;
pub mod student;
mod windows;

#[cfg(test)]
mod simulation;

use serde::{Deserialize, Serialize};

pub use fit::{LEAST_REQUESTS, LEAST_WINDOWS};
pub use windows::{Growth, Requests, Windows};

/// A figure with what is needed for an interval of any level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Nanoseconds; never below 0.
    pub mean_ns: f64,
    /// Where the interval is centred: the fit that may go below 0.
    pub centre_ns: f64,
    /// Standard error.
    pub error_ns: f64,
    /// Of Student's t.
    pub degrees: f64,
}

impl Figure {
    /// Two-sided: the truth is outside with probability `error`, half on either side.
    pub fn interval_ns(&self, error: f64) -> (f64, f64) {
        (self.lower_ns(error / 2.0), self.upper_ns(error / 2.0))
    }

    /// The truth is below with probability `error`.
    pub fn lower_ns(&self, error: f64) -> f64 {
        let reach = student::upper_quantile(error, self.degrees) * self.error_ns;
        (self.centre_ns - reach).min(self.mean_ns).max(0.0)
    }

    /// The truth is above with probability `error`.
    pub fn upper_ns(&self, error: f64) -> f64 {
        let reach = student::upper_quantile(error, self.degrees) * self.error_ns;
        (self.centre_ns + reach).max(self.mean_ns)
    }

    /// How likely a figure so far above `limit_ns` is when the truth is at the limit.
    pub fn p_above(&self, limit_ns: f64) -> f64 {
        let above_ns = self.centre_ns.min(self.mean_ns) - limit_ns;
        if above_ns <= 0.0 || self.error_ns <= 0.0 {
            return if above_ns > 0.0 { 0.0 } else { 1.0 };
        }
        student::upper_tail(above_ns / self.error_ns, self.degrees)
    }
}

/// What the windows say of one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Cost per request.
    Known { figure: Figure },
    /// These endpoints (indices, this one left out) always come together with it: cost per request of any of them.
    Together { with: Vec<u16>, figure: Figure },
    /// The load hardly varied: the requests cannot be told from what the processes use anyway.
    Even,
    /// Not enough windows with load.
    Windows { seen: u64, needed: u64 },
    /// Not enough requests of the endpoint, or they came in too few windows.
    Requests { seen: u64, needed: u64 },
    /// More endpoints than the fit has columns; this one is among the rest.
    Crowded,
}

/// One endpoint in an [`Estimate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointEstimate {
    /// As the kernel counts; never 0, "other".
    pub endpoint: u16,
    /// Ended in the windows.
    pub requests: u64,
    /// Of these, what direct attribution counts and does not charge: requests of HTTP/2.
    #[serde(default)]
    pub uncharged: u64,
    /// What direct attribution says of the others; `None` without any.
    pub direct_mean_ns: Option<f64>,
    pub answer: Answer,
}

/// A fit over the recent windows of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Windows used, after joining those that are short beside the requests' duration.
    pub windows: u64,
    pub span_ns: u64,
    /// Whole CPU time in them.
    pub cpu_ns: u64,
    /// Of that, what direct attribution gave to no request.
    pub unattributed_ns: u64,
    /// What the processes use without requests: nanoseconds per second. `None` unless it can be told.
    pub constant: Option<Figure>,
    pub endpoints: Vec<EndpointEstimate>,
}

impl Estimate {
    pub fn endpoint(&self, index: u16) -> Option<&EndpointEstimate> {
        self.endpoints.iter().find(|endpoint| endpoint.endpoint == index)
    }
}
