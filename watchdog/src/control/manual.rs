//! What people decided, on the wire.

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::decision::{AuditEntry, Decision, Subject, Who};
use crate::incident::{Moment, PausedUntil};
use crate::model::{BuildId, EndpointName, ServiceName};

/// A decision that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// `pause`, `mode`, `accepted` or `condemned`.
    pub kind: String,
    pub service: Option<ServiceName>,
    pub mode: Option<Mode>,
    pub build: Option<BuildId>,
    /// Absent: the build as a whole.
    pub endpoint: Option<EndpointName>,
    /// Such as "ann (uid 1000)".
    pub by: String,
    pub since_unix_ms: i64,
    /// Absent: until it is withdrawn.
    pub left_seconds: Option<f64>,
}

impl DecisionRecord {
    /// While all rollbacks are paused.
    pub fn of_pause(pause: &PausedUntil, now: &Moment) -> Option<Self> {
        let left = pause.left(now)?;
        Some(Self {
            kind: "pause".to_owned(),
            service: None,
            mode: None,
            build: None,
            endpoint: None,
            by: pause.by.clone(),
            since_unix_ms: pause.since.unix_ms,
            left_seconds: Some(left.as_secs_f64()),
        })
    }

    pub fn of(decision: &Decision, now: &Moment) -> Self {
        let mut record = Self {
            kind: String::new(),
            service: None,
            mode: None,
            build: None,
            endpoint: None,
            by: decision.who.to_string(),
            since_unix_ms: decision.made.unix_ms,
            left_seconds: decision.left(now).map(|left| left.as_secs_f64()),
        };
        match &decision.subject {
            Subject::Mode { service, mode } => {
                "mode".clone_into(&mut record.kind);
                record.service = Some(service.clone());
                record.mode = Some(*mode);
            }
            Subject::Build { service, build, endpoint, opinion } => {
                opinion.name().clone_into(&mut record.kind);
                record.service = Some(service.clone());
                record.build = Some(build.clone());
                record.endpoint.clone_from(endpoint);
            }
        }
        record
    }
}

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub unix_ms: i64,
    pub by: Who,
    pub command: String,
    /// False: refused.
    pub done: bool,
    /// What the person was told.
    pub said: String,
}

impl From<AuditEntry> for AuditRecord {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { at, who, command, done, said } = entry;
        Self { unix_ms: at.unix_ms, by: who, command, done, said }
    }
}
