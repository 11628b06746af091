//! What a verdict rests on, for people, for the ledger and for the hook. [`super::words`] makes sentences of it.

use serde::{Deserialize, Serialize};

use super::record::Measure as Record;
use crate::aggregate::{Age, ClassAggregate, ClassKey};
use crate::model::{BuildId, EndpointName, ServiceName, StatusClass};
use crate::sequential::{Weighted, interval};

/// Version of the JSON that [`Evidence`] becomes; grows when a field changes its meaning or goes.
pub const EVIDENCE_SCHEMA: u32 = 1;

/// The budget a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BudgetKind {
    /// `mean_cpu`.
    MeanCpu,
    /// `pXX_cpu`.
    QuantileCpu { p: f64 },
    /// `vs_baseline`.
    VsBaseline { ratio: f64 },
    /// `peak_rate` (requests per second) with `max_host_share` (0 to 1).
    HostShare { peak_rate: f64, max_share: f64 },
}

impl BudgetKind {
    /// Stable, for labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::MeanCpu => "mean_cpu",
            Self::QuantileCpu { .. } => "quantile_cpu",
            Self::VsBaseline { .. } => "vs_baseline",
            Self::HostShare { .. } => "max_host_share",
        }
    }
}

/// Which outcome of the endpoint's requests a budget looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    All,
    Class(StatusClass),
    /// One status of a class of which the baseline has several.
    Status(u16),
    /// The same of processes that have just started.
    Young {
        class: StatusClass,
        /// `None`: all of the class.
        status: Option<u16>,
        age: Age,
    },
    /// Outcomes that are rare in the baseline, or that it never had.
    Rest,
}

impl Outcome {
    pub fn of_class(key: ClassKey) -> Self {
        match (key.age.filter(|age| *age != Age::Older), key.status) {
            (Some(age), status) => Self::Young { class: key.class, status, age },
            (None, Some(status)) => Self::Status(status),
            (None, None) => Self::Class(key.class),
        }
    }
}

/// What the limit is a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Mean,
    /// A share `1 - p` of the requests may be above the limit.
    Quantile {
        p: f64,
    },
}

/// The same outcome of the endpoint on the last good build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineFigures {
    pub build: BuildId,
    pub requests: u64,
    pub mean_cpu_seconds: f64,
}

/// What CPU time and counts alone say of the endpoint, over the recent windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateFigures {
    pub mean_cpu_seconds: f64,
    /// 95 %.
    pub interval_cpu_seconds: (f64, f64),
    /// Of the same requests, by direct attribution.
    pub direct_mean_cpu_seconds: Option<f64>,
    pub windows: u64,
}

/// Requests of the endpoint that had begun and not ended when the verdict fell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedFigures {
    pub requests: u64,
    /// What they had used until then, together.
    pub cpu_seconds: f64,
    pub longest_cpu_seconds: f64,
}

/// What requests cost since the most likely start of a regression that began long after the build came.
///
/// The start was chosen because what follows is dear: the mean is rather too high, and no interval holds for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinceFigures {
    pub endpoint: EndpointName,
    /// Whole seconds after the build came.
    pub second: u64,
    /// Of the budget's outcome, since then.
    pub requests: u64,
    pub mean_cpu_seconds: f64,
}

/// The traffic that a build has to stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Requests per second.
    pub per_second: f64,
    /// That the service may use: the host's, or its quota's.
    pub cores: f64,
    /// Absent: the configuration declares it.
    #[serde(default)]
    pub learned: Option<LearnedPeak>,
}

/// When it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedPeak {
    /// In the middle of the five minutes.
    pub at_unix_ms: i64,
    /// For people, as it was said then: `today`, `Monday`, `2026-11-16`; in the agent's time zone.
    pub day: String,
}

/// How slow the host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostFactor {
    /// What limits are multiplied with, 0.8 to 1.25.
    pub factor: f64,
    /// What tells it; absent: nothing can, and the factor is 1.
    pub control: Option<String>,
}

/// What was known beside the requests when the evidence was told: for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Of the endpoint; absent while it is not known.
    pub peak: Option<Peak>,
    /// Processes of the baseline's build that ran at the same time; 0: only its stored figures were there. Absent without
    /// a baseline.
    pub baseline_processes: Option<u64>,
    pub host: Option<HostFactor>,
}

/// Everything a verdict rests on. Times are on-CPU seconds per request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub schema: u32,
    pub service: ServiceName,
    pub build: BuildId,
    /// The endpoint with the strongest evidence.
    pub endpoint: EndpointName,
    pub budget: BudgetKind,
    pub outcome: Outcome,
    pub measure: Measure,
    /// Requests of the endpoint until then.
    pub requests: u64,
    /// Those with this outcome; the figures below are about them.
    pub outcome_requests: u64,
    /// Of those, how many were above the limit.
    pub above_limit: u64,
    pub limit_cpu_seconds: f64,
    pub mean_cpu_seconds: f64,
    /// 95 % interval of the mean (requests capped at 50 times the limit), valid whenever one looks; absent where it was
    /// not worked out.
    pub interval_cpu_seconds: Option<(f64, f64)>,
    pub baseline: Option<BaselineFigures>,
    /// Share of the host's cores that the endpoint needs at its peak rate, all outcomes together; 1 is the whole host.
    pub projected_host_share: Option<f64>,
    /// Natural logarithm of the largest evidence so far; `exp(-x)` is a p-value.
    pub log_evidence: f64,
    /// At which the verdict falls: `ln(1 / false_rollback_rate)`.
    pub log_bar: f64,
    /// Seconds after the build came, whole.
    pub second: u64,
    /// End of the last request in it, `CLOCK_MONOTONIC`: of the deciding one when there was a verdict.
    pub last_end_mono_ns: u64,
    /// Which measurement the figures above are.
    #[serde(default = "direct")]
    pub measured_by: Record,
    /// Share of the endpoint's time that direct attribution charged on exact signs; absent where it is not known.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// Absent where it cannot be told.
    #[serde(default)]
    pub estimate: Option<EstimateFigures>,
    /// Present when the verdict rests on requests that had not ended.
    #[serde(default)]
    pub unfinished: Option<UnfinishedFigures>,
    /// Of all outcomes of the endpoint together; absent without requests.
    #[serde(default)]
    pub endpoint_mean_cpu_seconds: Option<f64>,
    /// Present when what speaks against the build began long after it came.
    #[serde(default)]
    pub since: Option<SinceFigures>,
    /// Added by the agent when it tells the evidence.
    #[serde(default)]
    pub setting: Option<Setting>,
}

fn direct() -> Record {
    Record::Direct
}

impl Evidence {
    /// Mean over limit, or over the baseline times its ratio: above 1 is over budget.
    pub fn budget_ratio(&self) -> f64 {
        match self.measure {
            Measure::Mean => self.mean_cpu_seconds / self.limit_cpu_seconds,
            Measure::Quantile { p } => {
                let allowed = (1.0 - p) * self.outcome_requests as f64;
                if allowed > 0.0 { self.above_limit as f64 / allowed } else { 0.0 }
            }
        }
    }

    pub fn peak(&self) -> Option<&Peak> {
        self.setting.as_ref()?.peak.as_ref()
    }

    /// Puts it in its setting. What the configuration's own peak rate did not say already, its peak does.
    pub fn set(&mut self, setting: Setting) {
        let share = setting.peak.as_ref().zip(self.endpoint_mean_cpu_seconds);
        self.projected_host_share = self
            .projected_host_share
            .or(share.map(|(peak, mean_cpu_seconds)| peak.cores_needed(mean_cpu_seconds) / peak.cores));
        self.setting = Some(setting);
    }
}

/// What the mean can be of the requests seen, in seconds.
pub(super) fn interval_seconds(seen: &ClassAggregate, scale_ns: f64, cap: f64) -> (f64, f64) {
    let values: Vec<Weighted> = seen
        .sketch
        .buckets()
        .map(|bucket| Weighted {
            low: bucket.low as f64 / scale_ns,
            high: bucket.high as f64 / scale_ns,
            count: bucket.count,
        })
        .collect();
    let found = interval(&values, cap);
    (found.lower * scale_ns * 1e-9, found.upper * scale_ns * 1e-9)
}
