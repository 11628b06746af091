//! What the agent exports. Only this module uses `prometheus`.
//!
//! [`catalogue`] names every metric once, [`fold`] and [`totals`] turn the kernel's figures into counters that never
//! go backwards, [`exposition`] renders a snapshot, [`server`] serves it.

pub mod catalogue;
mod exposition;
pub mod fold;
pub mod server;
pub mod totals;

use std::collections::BTreeMap;

use watchdog_common::types::Loss;

pub use self::catalogue::markdown;
pub use self::exposition::render;
pub use self::totals::{SlotOwner, Totals};
use crate::decision::Observed;
use crate::kernel::Tier;
use crate::model::{BuildId, EndpointName, ServiceName};

/// Values of the `verdict` label.
pub const VERDICTS: [&str; 6] = crate::verdict::Verdict::LABELS;

/// Upper bounds of `detection_seconds`.
const DETECTION_BOUNDS_SECONDS: [f64; 10] = [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];

/// What the agent itself counts; [`crate::event`] is the only writer.
#[derive(Debug)]
pub struct Counters {
    pub incidents: BTreeMap<(ServiceName, String), u64>,
    pub rollbacks: BTreeMap<(ServiceName, String), u64>,
    pub detection: BTreeMap<ServiceName, Detection>,
    /// By [`Loss`] as index.
    pub losses: [u64; Loss::ALL.len()],
    pub reload_ok: bool,
    pub tick_errors: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            incidents: BTreeMap::new(),
            rollbacks: BTreeMap::new(),
            detection: BTreeMap::new(),
            losses: [0; Loss::ALL.len()],
            reload_ok: true,
            tick_errors: 0,
        }
    }
}

/// Histogram of detection times.
#[derive(Clone, Debug, Default)]
pub struct Detection {
    /// Per bound, not cumulative; the last one is `+Inf`.
    per_bound: [u64; DETECTION_BOUNDS_SECONDS.len() + 1],
    sum_seconds: f64,
}

impl Detection {
    pub fn observe(&mut self, seconds: f64) {
        let bound = DETECTION_BOUNDS_SECONDS
            .iter()
            .position(|&bound| seconds <= bound)
            .unwrap_or(DETECTION_BOUNDS_SECONDS.len());
        self.per_bound[bound] += 1;
        self.sum_seconds += seconds;
    }
}

/// Figures of one (service, endpoint, build) that is judged at the moment.
#[derive(Clone, Debug)]
pub struct Judged {
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub build: BuildId,
    /// (budget key, measured over limit).
    pub ratios: Vec<(&'static str, f64)>,
    /// The baseline's build and its mean on-CPU seconds.
    pub baseline: Option<(BuildId, f64)>,
    pub baseline_requests: Option<u64>,
    /// Mean x the peak's rate / cores.
    pub host_share: Option<f64>,
}

/// What is known of one (service, endpoint, build) beside its requests' own figures.
#[derive(Clone, Debug)]
pub struct Opinion {
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub build: BuildId,
    /// Share of its time that was charged on exact signs.
    pub confidence: Option<f64>,
    /// On-CPU seconds per request: mean, lower and upper end of the 95 % interval.
    pub estimate: Option<[f64; 3]>,
    /// One of [`crate::verdict::Measure::LABELS`].
    pub measure: Option<String>,
}

/// What the agent knows of the host, and of the surroundings of builds on probation.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// On-CPU time of 1,000 steps of the calibration loop.
    pub loop_seconds: Option<f64>,
    pub loop_cpu_seconds: f64,
    pub loop_cycles_per_instruction: Option<f64>,
    pub builds: Vec<Surrounded>,
}

/// The surroundings of a build on probation.
#[derive(Clone, Debug)]
pub struct Surrounded {
    pub service: ServiceName,
    pub build: BuildId,
    pub factor: f64,
    /// What the factor is from, or `none`.
    pub source: &'static str,
    pub violated: bool,
}

/// A build under judgement: verdict and evidence are for the whole deploy.
#[derive(Clone, Debug)]
pub struct BuildEvidence {
    pub service: ServiceName,
    pub build: BuildId,
    /// One of [`VERDICTS`].
    pub verdict: &'static str,
    pub log_evidence: f64,
    /// At which it exceeds.
    pub log_bar: f64,
    /// Seen in the probation, on all configured endpoints.
    pub requests: u64,
    /// About how many more show that verdict (`exceeds` or `within`), where it can be told.
    pub to_go: Vec<(EndpointName, &'static str, u64)>,
    pub cpu: Option<JudgedCpu>,
    /// Processes that warm up.
    pub warming: u64,
}

/// On-CPU seconds per request of the outcome with the strongest evidence.
#[derive(Clone, Debug)]
pub struct JudgedCpu {
    pub endpoint: EndpointName,
    pub mean_seconds: f64,
    /// 95 %, whenever one looks.
    pub interval_seconds: Option<(f64, f64)>,
    pub limit_seconds: f64,
}

/// Everything that one scrape shows.
#[derive(Debug)]
pub struct Snapshot<'a> {
    pub tier: Option<Tier>,
    pub totals: &'a Totals,
    pub counters: &'a Counters,
    /// Attributed over total CPU in the recent window, `None` while the service used next to none.
    pub coverage: Vec<(ServiceName, Option<f64>)>,
    /// Shares of the received bytes that cannot be read, by why.
    pub hidden: Vec<(ServiceName, &'static str, f64)>,
    pub opinions: Vec<Opinion>,
    pub environment: Environment,
    pub judged: Vec<Judged>,
    pub evidence: Vec<BuildEvidence>,
    /// What mode observe kept from happening.
    pub observed: Vec<(ServiceName, Observed)>,
    /// Watched processes per (service, build).
    pub processes: Vec<(ServiceName, BuildId, u64)>,
    /// (program, runs, nanoseconds).
    pub probes: Vec<(String, u64, u64)>,
}
