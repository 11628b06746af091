//! What is to be made of a build: within its budgets, over them, not yet known, or not measurable.
//!
//! One [`Judge`] per service and build on probation. The agent feeds it every finished watched request as an
//! [`Observation`] and asks for the [`Verdict`] once per tick:
//!
//! ```
//! use watchdog::verdict::{HostFacts, Judge, Measurability, Observation, Probation, Verdict};
//! # fn example(service: &watchdog::config::ServiceConfig, samples: &[watchdog_common::types::Sample]) {
//! let probation = Probation::new("9f3c".into(), 1_000_000_000);
//! let mut judge = Judge::new(service, probation, HostFacts { cores: 4.0 }, None);
//! for observation in samples.iter().filter_map(Observation::of_sample) {
//!     judge.observe(&observation);
//! }
//! if let Verdict::Exceeds { evidence } = judge.verdict(&Measurability::default()) {
//!     println!("{}", evidence.sentence());
//! }
//! # }
//! ```
//!
//! A judge is a value: it serialises to JSON, goes on bit for bit where it was saved, and the same observations always
//! give the same evidence.

#![forbid(unsafe_code)]

mod estimated;
mod evidence;
mod gather;
mod hold;
mod judge;
mod plan;
mod progress;
mod record;
mod repeat;
mod second;
mod take_up;
mod unfinished;
mod words;

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod progress_tests;
#[cfg(test)]
mod second_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use watchdog_common::types::{RequestFlags, Sample};

use crate::aggregate::{Age, Cell};
use crate::kernel::tick::RebuiltRequests;
use crate::model::{BuildId, EndpointName, StatusClass};

pub use evidence::{
    BaselineFigures, BudgetKind, EVIDENCE_SCHEMA, EstimateFigures, Evidence, HostFactor, LearnedPeak,
    Measure as Measured, Outcome, Peak, Setting, SinceFigures, UnfinishedFigures,
};
pub use hold::{Checkpoint, TellJudge, Violation};
pub use judge::{EndpointFigures, Judge};
pub(crate) use plan::clearing;
pub use progress::{Progress, ToGo};
pub use record::{LEAST_CONFIDENCE, Measure, Opinion, Record};
pub use repeat::{Condemned, Repeat, repeats};
pub use unfinished::UnderWay;
pub use words::{Account, Warming, cpu, day_of};

/// What the judge knows of the host.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Cores that the service may use.
    pub cores: f64,
}

/// The build on probation, since when, and how it is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probation {
    pub build: BuildId,
    /// When the build was first seen, `CLOCK_MONOTONIC`.
    pub began_mono_ns: u64,
    /// So many arbitrary outliers per budget cannot make evidence. 3 suits a service with hiccups of many seconds or less
    /// than a request per second; it costs about twice the requests.
    pub outlier_allowance: usize,
}

impl Probation {
    pub fn new(build: BuildId, began_mono_ns: u64) -> Self {
        Self { build, began_mono_ns, outlier_allowance: 0 }
    }
}

/// `count` finished requests of one figure on a watched endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When they ended, `CLOCK_MONOTONIC`.
    pub end_mono_ns: u64,
    /// On-CPU time of each.
    pub cpu_ns: u64,
    pub count: u64,
    /// As the kernel counts them: 0 is "other", `i + 1` the service's `i`-th configured endpoint.
    pub endpoint: u16,
    pub class: StatusClass,
    /// 0 where only the class is known.
    pub status: u16,
    /// Of the process; [`Age::Older`] unless the caller knows.
    pub age: Age,
}

impl Observation {
    pub fn cell(&self) -> Cell {
        Cell { class: self.class, status: self.status, age: self.age }
    }

    /// `None` for a continuation: its request was observed already; see [`Judge::continuation`].
    pub fn of_sample(sample: &Sample) -> Option<Self> {
        (sample.flags & RequestFlags::CONTINUATION == 0).then(|| Self {
            end_mono_ns: sample.end_mono_ns,
            cpu_ns: sample.oncpu_ns,
            count: 1,
            endpoint: sample.endpoint,
            class: StatusClass::of_status(sample.status),
            status: sample.status,
            age: Age::Older,
        })
    }

    /// Requests whose samples were dropped and came as counts in a tick taken at `tick_mono_ns`.
    pub fn of_rebuilt(rebuilt: &RebuiltRequests, tick_mono_ns: u64) -> impl Iterator<Item = Self> {
        let (endpoint, class) = (rebuilt.endpoint, StatusClass::of_index(rebuilt.status_class));
        rebuilt.oncpu_ns.iter().map(move |&(cpu_ns, count)| Self {
            end_mono_ns: tick_mono_ns,
            cpu_ns,
            count,
            endpoint,
            class,
            status: 0,
            age: Age::Older,
        })
    }
}

/// How well the build's requests were measured, since it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurability {
    /// Share of the CPU of serving that was charged to requests, 0 to 1; `None` while there is nothing to judge it by.
    pub coverage: Option<f64>,
    /// From the configuration.
    pub min_coverage: f64,
    /// Watched requests that were lost for good: neither sampled nor rebuilt from the histogram.
    pub lost_requests: u64,
    /// Why requests cannot be seen at all (TLS, a probe that did not attach), in words.
    pub blind: Option<String>,
}

impl Default for Measurability {
    fn default() -> Self {
        Self { coverage: None, min_coverage: 0.8, lost_requests: 0, blind: None }
    }
}

/// Of all requests, so many may be lost before nothing can be said.
pub const MAX_LOST_SHARE: f64 = 0.05;

/// Never changes back from [`Verdict::Exceeds`], but gives way to [`Verdict::NotMeasurable`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Every budget was shown to be kept, each with an error of at most 1 %. A later [`Self::Exceeds`] remains possible.
    Within { evidence: Box<Evidence> },
    /// Over budget, and the build is the reason. The evidence is that of the deciding request.
    Exceeds { evidence: Box<Evidence> },
    /// Over an absolute budget, and not shown to be the build's doing: users may do other things, or the host be slow. To be
    /// told, not rolled back. [`Self::Exceeds`] may follow: what outcomes cost takes more requests than what they cost in all.
    #[serde(rename = "over_budget_unattributed")]
    OverBudgetNotAttributed { evidence: Box<Evidence> },
    /// Not known yet, and what would help.
    Undecided { missing: Vec<Missing>, evidence: Option<Box<Evidence>> },
    /// Nothing may be concluded.
    NotMeasurable { reason: NotMeasurable },
    /// Something that the build cannot change became dearer too: held until that is over.
    Environment { violation: Violation },
}

impl Verdict {
    /// Of [`Self::label`].
    pub const LABELS: [&str; 6] =
        ["within", "exceeds", "undecided", "not_measurable", "over_budget_unattributed", "environment"];

    /// The value of the `verdict` label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Within { .. } => "within",
            Self::Exceeds { .. } => "exceeds",
            Self::OverBudgetNotAttributed { .. } => "over_budget_unattributed",
            Self::Undecided { .. } => "undecided",
            Self::NotMeasurable { .. } => "not_measurable",
            Self::Environment { .. } => "environment",
        }
    }

    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Self::Within { evidence }
            | Self::Exceeds { evidence }
            | Self::OverBudgetNotAttributed { evidence } => Some(evidence),
            Self::Undecided { evidence, .. } => evidence.as_deref(),
            Self::NotMeasurable { .. } | Self::Environment { .. } => None,
        }
    }

    /// Of an undecided build.
    pub fn missing(&self) -> &[Missing] {
        match self {
            Self::Undecided { missing, .. } => missing,
            _ => &[],
        }
    }

    pub(crate) fn evidence_mut(&mut self) -> Option<&mut Evidence> {
        match self {
            Self::Within { evidence }
            | Self::Exceeds { evidence }
            | Self::OverBudgetNotAttributed { evidence } => Some(evidence),
            Self::Undecided { evidence, .. } => evidence.as_deref_mut(),
            Self::NotMeasurable { .. } | Self::Environment { .. } => None,
        }
    }
}

/// What an undecided build waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "missing", rename_all = "snake_case")]
pub enum Missing {
    /// No endpoint of the service has a budget.
    Budget,
    /// The endpoint has had no request yet.
    Requests { endpoint: EndpointName },
    /// `peak_rate = "auto"` has seen too little.
    PeakRate { endpoint: EndpointName },
    /// There is no good build to compare the endpoint with, or it had too few requests.
    Baseline { endpoint: EndpointName, requests: u64, needed: u64 },
    /// Direct attribution is unsure of the endpoint, and the estimate needs more.
    Estimate { endpoint: EndpointName, why: String },
    /// Direct attribution is unsure of the endpoint, and the estimate knows means only.
    Quantile { endpoint: EndpointName },
    /// The requests so far fit a build that is within budget as well as one that is over.
    Evidence { requests: u64 },
}

/// Why nothing may be concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum NotMeasurable {
    Coverage {
        coverage: f64,
        needed: f64,
    },
    Lost {
        lost: u64,
        seen: u64,
    },
    Blind {
        why: String,
    },
    /// Direct attribution and the estimate, both sure of themselves. Seconds per request.
    Contradiction {
        endpoint: EndpointName,
        direct_cpu_seconds: f64,
        estimate_cpu_seconds: f64,
        interval_cpu_seconds: (f64, f64),
    },
    /// Neither is sure of itself.
    Unsure {
        endpoint: EndpointName,
        why: String,
    },
}
