//! An incident: one bad build of one service, from its detection to its end.
//!
//! Everything here is a function of values. [`state`] says which step may follow which, [`decide`] whether to act,
//! [`operator`] what people may say to it, [`verify`] and [`cost`] whether the hook helped, [`reconcile`] what an agent that
//! was killed does with what it finds. [`crate::store`] keeps incidents, [`crate::action`] runs the hook.

mod cost;
mod decide;
mod kind;
mod moment;
mod operator;
mod reconcile;
mod state;
mod verify;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use cost::{Cost, CostLimit, CostTest, MIN_REQUESTS};
pub use decide::{Decision, Facts, Refusal, decide, rails};
pub use kind::IncidentKind;
pub(crate) use moment::boot_id;
pub use moment::{Moment, RollbackHistory, RollbackMark};
pub use operator::{Breaker, Operator, PausedUntil};
pub use reconcile::{HookProcess, Reconciliation, reconcile};
pub use state::{IllegalStep, LedgerEffect, State, Step, Transition, transition};
pub use verify::{NotRecovered, Verification, VerificationRecord, VerifyFacts, verify, verify_release};

use crate::config::Mode;
use crate::model::{BuildId, EndpointName, ServiceName};

/// Name of an incident: `YYYYMMDD-` (UTC, for people) and eight random characters.
///
/// Unique across hosts for practical purposes, safe in file names, arguments and URLs; the hook's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(String);

impl IncidentId {
    /// From a date for people and 40 random bits. Letters and digits without i, l, o, u, that are misread.
    pub(crate) fn new(unix_ms: i64, random: [u8; 5]) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let day = jiff::Timestamp::from_millisecond(unix_ms)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .strftime("%Y%m%d")
            .to_string();
        let bits = random.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let suffix: String =
            (0..8).rev().map(|digit| char::from(ALPHABET[(bits >> (digit * 5) & 31) as usize])).collect();
        Self(format!("{day}-{suffix}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for IncidentId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is known of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    /// Was there when the agent first came: taken as good.
    Adopted,
    /// New and watched; the only state in which a build can be rolled back.
    Probation,
    /// Stayed within its budgets for the whole guard time, or a person accepted it.
    Good,
    /// Exceeded, or a person condemned it. Never a baseline and never a target of a rollback.
    Condemned,
}

impl BuildState {
    pub const ALL: [Self; 4] = [Self::Adopted, Self::Probation, Self::Good, Self::Condemned];

    /// The name used in the store, in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Probation => "probation",
            Self::Good => "good",
            Self::Condemned => "condemned",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether a rollback may restore such a build.
    pub fn is_restorable(self) -> bool {
        matches!(self, Self::Adopted | Self::Good)
    }
}

impl fmt::Display for BuildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the verdict says when an incident begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewIncident {
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub bad_build: BuildId,
    /// `None`: there is no build to go back to, so nothing can be run.
    pub good_build: Option<BuildId>,
    /// One sentence for people, such as "mean CPU 320 ms per request, budget 80 ms, 14 requests".
    pub reason: String,
    /// The figures behind the reason; goes to the hook as it is.
    pub evidence: serde_json::Value,
    /// The service's mode at that time.
    pub mode: Mode,
}

/// An incident as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    pub id: IncidentId,
    pub kind: IncidentKind,
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub bad_build: BuildId,
    pub good_build: Option<BuildId>,
    pub reason: String,
    pub evidence: serde_json::Value,
    pub mode: Mode,
    pub state: State,
    pub detected: Moment,
    pub state_since: Moment,
    /// When the intent to run the hook was first journaled; `None`: nothing was ever run.
    pub intent: Option<Moment>,
    /// The person who let the hook run.
    pub approved_by: Option<String>,
    /// The person who did not.
    pub rejected_by: Option<String>,
    /// The hook is, or was, only rehearsed: nothing is condemned, and nothing counts for the limits.
    pub dry_run: bool,
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IncidentEvent {
    pub at: Moment,
    /// `None` for the line that opened the incident.
    pub from: Option<State>,
    pub to: State,
    pub note: String,
}

/// One run of the hook, from its intent on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    pub journaled: Moment,
    /// `None`: not known to have started.
    pub process: Option<HookProcess>,
    pub started: Option<Moment>,
    pub ended: Option<Moment>,
    /// Name of the outcome and a sentence; `None` while running or when nobody saw the end.
    pub outcome: Option<String>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Bounded; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_dated_and_safe_in_arguments_and_file_names() {
        let id = IncidentId::new(1_485_500_400_000, [0, 0, 0, 0, 0]);
        assert_eq!(id.as_str(), "20170127-00000000");
        let id = IncidentId::new(1_485_500_400_000, [0xff; 5]);
        assert_eq!(id.as_str(), "20170127-zzzzzzzz");
        assert_ne!(IncidentId::new(0, [0, 0, 0, 0, 1]), IncidentId::new(0, [1, 0, 0, 0, 0]));
    }

    #[test]
    fn build_states_have_names_that_round_trip() {
        for state in BuildState::ALL {
            assert_eq!(BuildState::from_name(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(BuildState::from_name("splendid"), None);
    }
}
