//! What people decide while the agent runs, and what they are told they may decide.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{IncidentId, Moment, Step};

/// A person's decision about one incident; `by` is for the timeline, such as "uid 1000 (ann)".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Operator {
    /// The hook of an incident that waits for approval may run.
    Approved { by: String },
    /// It shall not: the incident is closed, and another one of the same build asks again.
    Rejected { by: String },
    /// A person has taken note of an incident that is over, or was only observed: it is not told again.
    ///
    /// For an escalated rollback this also closes the circuit breaker.
    Acknowledged { by: String },
}

impl Operator {
    pub fn step(&self) -> Step {
        match self {
            Self::Approved { .. } => Step::Approve,
            Self::Rejected { .. } => Step::Reject,
            Self::Acknowledged { .. } => Step::Close,
        }
    }

    pub fn by(&self) -> &str {
        match self {
            Self::Approved { by } | Self::Rejected { by } | Self::Acknowledged { by } => by,
        }
    }

    /// The line of the timeline.
    pub fn note(&self) -> String {
        match self {
            Self::Approved { by } => format!("approved by {by}"),
            Self::Rejected { by } => format!("rejected by {by}: no rollback"),
            Self::Acknowledged { by } => format!("acknowledged by {by}"),
        }
    }
}

/// No hook runs by itself for a while, whatever the service; what would have run asks for approval.
///
/// It ends by the monotonic clock, so a stepped wall clock neither ends nor prolongs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedUntil {
    pub by: String,
    pub since: Moment,
    pub lasts: Duration,
}

impl PausedUntil {
    /// What is left of it; `None` once it is over.
    pub fn left(&self, now: &Moment) -> Option<Duration> {
        self.lasts.checked_sub(self.since.until(now)).filter(|left| !left.is_zero())
    }
}

/// Open since a rollback of the service failed, or did not help, and until a person acknowledges that incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breaker {
    pub incident: IncidentId,
    pub since: Moment,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_the_monotonic_clock() {
        let at = |unix_ms, seconds: u64| Moment {
            unix_ms,
            mono_ns: seconds * 1_000_000_000,
            boot: "boot".to_owned(),
        };
        let pause = PausedUntil { by: "uid 0".to_owned(), since: at(0, 100), lasts: Duration::from_mins(1) };
        for stepped_ms in [-86_400_000, 0, 86_400_000] {
            assert_eq!(pause.left(&at(stepped_ms, 130)), Some(Duration::from_secs(30)));
            assert_eq!(pause.left(&at(stepped_ms, 160)), None);
            assert_eq!(pause.left(&at(stepped_ms, 1000)), None);
        }
    }

    #[test]
    fn decisions_name_their_step_and_their_author() {
        let by = || "uid 1000 (ann)".to_owned();
        let decisions = [
            (Operator::Approved { by: by() }, Step::Approve),
            (Operator::Rejected { by: by() }, Step::Reject),
            (Operator::Acknowledged { by: by() }, Step::Close),
        ];
        for (decision, step) in decisions {
            assert_eq!(decision.step(), step);
            assert!(decision.note().contains(decision.by()), "{decision:?}");
        }
    }
}
