//! The control socket: one JSON request on a line, one JSON response on a line.
//!
//! The types here are what `--json` prints: fields are added, never renamed or removed, within one [`PROTOCOL`].

mod access;
pub mod client;
mod command;
mod gate;
pub mod ledger;
mod manual;
mod places;
pub mod server;
pub mod table;
mod windows;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::decision::Observed;
use crate::incident::IncidentKind;
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::verdict::{Evidence, Missing, Peak, Progress};

pub use windows::{OutsideStatus, ReleaseWindowStatus};

pub use access::{Access, Right};
pub use command::{Command, HOLDS_FOR, MAX_AUDIT_LINES, span};
pub use gate::{GateAnswer, GateFacts, GateVerdict, answer as gate_answer};
pub use manual::{AuditRecord, DecisionRecord};

/// Version of the protocol and of the JSON output.
pub const PROTOCOL: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub version: u32,
    #[serde(flatten)]
    pub command: Command,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Response {
    pub version: u32,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "result", content = "data", rename_all = "snake_case")]
pub enum Outcome {
    Status(StatusSnapshot),
    Builds(BuildsSnapshot),
    Incidents(Vec<IncidentSummary>),
    Incident(IncidentDetail),
    Audit(Vec<AuditRecord>),
    Gate(GateAnswer),
    /// A write command was carried out.
    Done(String),
    Error(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    BadRequest,
    /// The client speaks another [`PROTOCOL`].
    Version,
    Forbidden,
    NotFound,
    /// The command does not fit the present state.
    Conflict,
    /// Too many clients; to be tried again.
    Busy,
    /// The agent did not answer in time or failed.
    Failed,
}

/// What the agent sees at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusSnapshot {
    pub agent: AgentStatus,
    pub services: Vec<ServiceStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    pub config_file: String,
    /// False when the last reload failed and the configuration before it is still in force.
    pub config_ok: bool,
    /// `core` or `a`.
    pub tier: String,
    /// What could not be attached, and why.
    pub degraded: Vec<String>,
    /// Losses since the agent started, by reason; reasons with none are left out.
    pub losses: BTreeMap<String, u64>,
    /// What people decided and is in force.
    #[serde(default)]
    pub decisions: Vec<DecisionRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub service: ServiceName,
    /// The mode that is in force.
    pub mode: Mode,
    /// The configuration's, where a person has decided on another one.
    #[serde(default)]
    pub configured_mode: Option<Mode>,
    /// What mode observe kept from happening.
    #[serde(default)]
    pub observed: Observed,
    pub processes: u64,
    /// By what the builds of its processes change: with the process, or in place with a symlink or file.
    #[serde(default)]
    pub following: Vec<String>,
    /// Attributed over total CPU in the recent window, 0 to 1; absent while the service used next to none.
    pub coverage: Option<f64>,
    pub min_coverage: f64,
    /// Shares of the bytes that the service received lately and nobody can read, 0 to 1, by why.
    #[serde(default)]
    pub hidden: BTreeMap<String, f64>,
    /// How it is measured, where that is not by each request.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What keeps the service from being judged or rolled back, and what to do about it.
    pub problems: Vec<String>,
    /// Id of the incident that is open.
    pub open_incident: Option<String>,
    /// Absent where none is configured.
    #[serde(default)]
    pub release_window: Option<ReleaseWindowStatus>,
    pub builds: Vec<BuildStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildStatus {
    pub build: BuildId,
    /// `adopted`, `probation`, `good`, `condemned`.
    pub state: String,
    /// Wall clock.
    #[serde(default)]
    pub state_since_unix_ms: i64,
    /// `candidate`: on probation. `control`: a candidate is compared with it, and it runs beside. Absent: neither.
    #[serde(default)]
    pub role: Option<String>,
    /// What a candidate is compared with; absent when there is no good build.
    #[serde(default)]
    pub compared_with: Option<ComparedWith>,
    pub processes: u64,
    /// Since its first process was seen by this agent.
    pub seen_for_seconds: f64,
    /// Of the probation, while it lasts.
    pub probation_left_seconds: Option<f64>,
    /// Natural logarithm of the largest evidence against the build so far, while it is judged.
    pub log_evidence: Option<f64>,
    /// One of [`crate::verdict::Verdict::LABELS`]; absent for a build that is not judged.
    pub verdict: Option<String>,
    /// The verdict, how far it is from another one and what it rests on, in one sentence.
    pub sentence: Option<String>,
    /// How far a judged build is from a verdict.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// What an undecided build waits for.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// What the verdict rests on, or the strongest so far; absent without requests.
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// Of a judged build: processes that have just begun, whose first requests may cost more.
    #[serde(default)]
    pub warming: Option<WarmingStatus>,
    /// Of a build on probation: what is not its doing.
    #[serde(default)]
    pub environment: Option<EnvironmentStatus>,
    pub endpoints: Vec<EndpointStatus>,
}

/// The last good build, as a candidate's judge has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedWith {
    pub build: BuildId,
    /// On the service's endpoints with a budget.
    pub requests: u64,
    /// Processes of it that run now; 0: only its stored figures are there.
    pub processes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub endpoint: EndpointName,
    /// Requests of this build, since the agent started or the build was taken up.
    pub requests: u64,
    /// Of these, what came by HTTP/2: counted, and its CPU time is known from the estimate only.
    #[serde(default)]
    pub uncharged_requests: u64,
    pub mean_cpu_seconds: Option<f64>,
    pub p99_cpu_seconds: Option<f64>,
    pub budget_mean_cpu_seconds: Option<f64>,
    pub budget_vs_baseline: Option<f64>,
    pub baseline_build: Option<BuildId>,
    pub baseline_mean_cpu_seconds: Option<f64>,
    #[serde(default)]
    pub baseline_requests: Option<u64>,
    /// The peak that it has to stand, as declared or learned; absent while it is not known.
    #[serde(default)]
    pub at_peak: Option<Peak>,
    /// The highest rate that lasted, where the configuration asks for it (`peak_rate = "auto"`).
    #[serde(default)]
    pub peak: Option<PeakStatus>,
    /// Share of the endpoint's time that was charged to its requests on exact signs, 0 to 1.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// From CPU time and counts of the recent windows alone; absent where it cannot be told.
    #[serde(default)]
    pub estimate: Option<EstimateStatus>,
    /// One of [`crate::verdict::Measure::LABELS`]: which measurement is believed.
    #[serde(default)]
    pub measure_of_record: Option<String>,
    /// Why that one.
    #[serde(default)]
    pub measure_why: Option<String>,
}

/// Processes that warm up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmingStatus {
    pub processes: u64,
    /// What their requests may cost, in multiples of the budgets.
    pub factor: f64,
}

/// The surroundings of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentStatus {
    /// What limits are multiplied with: how much slower the host is than when the good build was measured, 0.8 to 1.25.
    pub factor: f64,
    /// `old_build`, `declared_endpoints`, `other_service` or `loop`; absent while nothing can tell.
    pub source: Option<String>,
    /// The same for people.
    pub control: Option<String>,
    /// While a control is violated, and budgets relative to the good build are held: what it costs, in multiples of what it
    /// used to.
    pub violated: Option<f64>,
}

/// What is learned of an endpoint's peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeakStatus {
    /// When learning began, wall clock; absent in its first minute.
    pub since_unix_ms: Option<i64>,
    /// Time that was watched since, and that is needed before the rate is used.
    pub watched_seconds: u64,
    pub needed_seconds: u64,
    /// Highest mean over five minutes, requests per second, all builds; absent before the first five.
    pub per_second: Option<f64>,
    pub at_unix_ms: Option<i64>,
}

/// On-CPU seconds per request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateStatus {
    pub mean_cpu_seconds: f64,
    /// Of the 95 % interval.
    pub lower_cpu_seconds: f64,
    pub upper_cpu_seconds: f64,
    /// By direct attribution, of the same requests.
    pub direct_mean_cpu_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildsSnapshot {
    pub builds: Vec<BuildRecord>,
}

/// A build in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    pub service: ServiceName,
    pub build: BuildId,
    pub state: String,
    pub first_seen_unix_ms: i64,
    #[serde(default)]
    pub state_since_unix_ms: i64,
    pub processes: u64,
    /// As in [`BuildStatus`]; only a running agent knows.
    #[serde(default)]
    pub compared_with: Option<ComparedWith>,
    /// As in [`BuildStatus`]; only a running agent knows.
    #[serde(default)]
    pub verdict: Option<String>,
    /// The verdict, or what is missing for one; only a running agent knows.
    #[serde(default)]
    pub sentence: Option<String>,
    /// As in [`BuildStatus`]; only a running agent knows.
    #[serde(default)]
    pub progress: Option<Progress>,
    pub note: String,
    /// What people decided of it and its endpoints, and is in force.
    #[serde(default)]
    pub decisions: Vec<DecisionRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentSummary {
    pub id: String,
    #[serde(default)]
    pub kind: IncidentKind,
    pub service: ServiceName,
    /// Absent where it is about the build as a whole.
    pub endpoint: Option<EndpointName>,
    /// The build that it is about.
    pub bad_build: BuildId,
    pub good_build: Option<BuildId>,
    pub state: String,
    pub opened_unix_ms: i64,
    /// The condemned build whose cost this one has again.
    #[serde(default)]
    pub repeats: Option<BuildId>,
    pub sentence: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentDetail {
    pub summary: IncidentSummary,
    pub timeline: Vec<TimelineEntry>,
    /// [`Evidence`] as it was when the incident was opened; something else where no verdict opened it.
    #[serde(default)]
    pub evidence: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    pub unix_ms: i64,
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_flat_and_stable() {
        let request = Request { version: 1, command: Command::Incident { id: "i1".to_owned() } };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"version":1,"command":"incident","id":"i1"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let refusal = Refusal { code: RefusalCode::NotFound, message: "no".to_owned() };
        let response = Response { version: 1, outcome: Outcome::Error(refusal) };
        assert_eq!(
            serde_json::to_string(&response).unwrap(),
            r#"{"version":1,"result":"error","data":{"code":"not_found","message":"no"}}"#
        );
    }
}
