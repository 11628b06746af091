//! Builds and incidents as the ledger has them: for the agent's answers, and for the commands when no agent runs.

use std::collections::HashMap;
use std::path::Path;

use super::{AuditRecord, DecisionRecord, GateFacts, MAX_AUDIT_LINES, gate_answer};
use super::{BuildRecord, BuildsSnapshot, Command, ComparedWith, IncidentDetail, IncidentSummary, Outcome};
use super::{Refusal, RefusalCode, TimelineEntry};
use crate::incident::{Attempt, Incident, IncidentEvent, IncidentId, IncidentKind, Moment};
use crate::model::{BuildId, ServiceName};
use crate::store::{self, Store, StoreError};
use crate::verdict::Progress;

/// Incidents that a list shows.
const LISTED: u32 = 50;

/// Whether the ledger alone can answer.
pub fn has(command: &Command) -> bool {
    matches!(
        command,
        Command::Builds
            | Command::Incidents
            | Command::Incident { .. }
            | Command::Audit { .. }
            | Command::Gate { .. }
    )
}

pub fn exists(state_dir: &Path) -> bool {
    state_dir.join(store::DATABASE).exists()
}

/// What only a running agent knows of a build.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub processes: u64,
    pub compared_with: Option<ComparedWith>,
    /// Label of the verdict.
    pub verdict: Option<String>,
    pub sentence: Option<String>,
    pub progress: Option<Progress>,
}

/// By service and build.
pub type LiveBuilds = HashMap<(ServiceName, BuildId), Live>;

/// Answers without an agent.
pub fn answer(state_dir: &Path, command: &Command) -> Result<Outcome, StoreError> {
    read(&Store::open_reader(state_dir)?, command, &LiveBuilds::new())
}

/// Answers from an open ledger.
pub fn read(store: &Store, command: &Command, live: &LiveBuilds) -> Result<Outcome, StoreError> {
    match command {
        Command::Builds => builds(store, live).map(Outcome::Builds),
        Command::Incidents => {
            let incidents = store.incidents(LISTED)?;
            Ok(Outcome::Incidents(incidents.into_iter().map(summary).collect()))
        }
        Command::Incident { id } => match incident(store, id) {
            Err(error @ StoreError::NoIncident(_)) => Ok(Outcome::Error(Refusal {
                code: RefusalCode::NotFound,
                message: format!("{error}; `load-watchdog incidents` lists them"),
            })),
            other => other.map(Outcome::Incident),
        },
        Command::Audit { limit } => {
            let lines = store.audit((*limit).min(MAX_AUDIT_LINES))?;
            Ok(Outcome::Audit(lines.into_iter().map(AuditRecord::from).collect()))
        }
        Command::Gate { service, build } => gate(store, service, build, live),
        _ => Ok(Outcome::Error(Refusal {
            code: RefusalCode::Failed,
            message: "only a running agent can answer this".to_owned(),
        })),
    }
}

fn gate(
    store: &Store,
    service: &ServiceName,
    build: &BuildId,
    live: &LiveBuilds,
) -> Result<Outcome, StoreError> {
    let mut decisions = store.decisions()?;
    let now = Moment::now();
    decisions.0.retain(|decision| !decision.is_over(&now));
    let record = store.build(service, build)?;
    let open = store.open_incident_for(service, build)?;
    let live = live.get(&(service.clone(), build.clone()));
    Ok(Outcome::Gate(gate_answer(&GateFacts {
        service,
        build,
        decisions: &decisions,
        ledger: record.as_ref().map(|record| (record.state, record.why.as_str())),
        open_incident: open.as_ref().map(|incident| (incident.id.as_str(), incident.state.name())),
        verdict: live.and_then(|live| live.verdict.as_deref().zip(live.sentence.as_deref())),
    })))
}

fn builds(store: &Store, live: &LiveBuilds) -> Result<BuildsSnapshot, StoreError> {
    let decisions = store.decisions()?;
    let now = Moment::now();
    let records = store.builds(None)?.into_iter().map(|record| {
        let live = live.get(&(record.service.clone(), record.build.clone())).cloned().unwrap_or_default();
        let decided = decisions
            .of_build(&record.service, &record.build)
            .map(|(decision, ..)| DecisionRecord::of(decision, &now))
            .collect();
        BuildRecord {
            processes: live.processes,
            compared_with: live.compared_with,
            verdict: live.verdict,
            sentence: live.sentence,
            progress: live.progress,
            service: record.service,
            build: record.build,
            state: record.state.name().to_owned(),
            first_seen_unix_ms: record.first_seen.unix_ms,
            state_since_unix_ms: record.state_since.unix_ms,
            note: record.why,
            decisions: decided,
        }
    });
    Ok(BuildsSnapshot { builds: records.collect() })
}

fn incident(store: &Store, id: &str) -> Result<IncidentDetail, StoreError> {
    let id = IncidentId::from(id);
    let incident = store.incident(&id)?;
    let timeline = timeline(&store.events(&id)?, store.attempts(&id)?);
    let evidence = incident.evidence.clone();
    Ok(IncidentDetail { summary: summary(incident), timeline, evidence })
}

/// In the order in which it was written: the wall clock may have been stepped in between. What an attempt printed follows the
/// step of its end, which has the same moment.
fn timeline(events: &[IncidentEvent], mut attempts: Vec<Attempt>) -> Vec<TimelineEntry> {
    let mut timeline = Vec::new();
    for event in events {
        timeline.push(entry(event));
        let ended = attempts.extract_if(.., |attempt| attempt.ended.as_ref() == Some(&event.at));
        timeline.extend(ended.filter_map(|attempt| output(&attempt)));
    }
    timeline
}

fn summary(incident: Incident) -> IncidentSummary {
    IncidentSummary {
        id: incident.id.to_string(),
        kind: incident.kind,
        service: incident.service,
        endpoint: (incident.kind == IncidentKind::Cost).then_some(incident.endpoint),
        repeats: incident.evidence["repeats"]["build"].as_str().map(BuildId::from),
        bad_build: incident.bad_build,
        good_build: incident.good_build,
        state: incident.state.name().to_owned(),
        opened_unix_ms: incident.detected.unix_ms,
        sentence: incident.reason,
    }
}

fn entry(event: &IncidentEvent) -> TimelineEntry {
    let text = if event.note.is_empty() {
        event.to.name().to_owned()
    } else {
        format!("{}: {}", event.to.name(), event.note)
    };
    TimelineEntry { unix_ms: event.at.unix_ms, text }
}

/// What the hook printed, as one entry at its end.
fn output(attempt: &Attempt) -> Option<TimelineEntry> {
    let ended = attempt.ended.as_ref()?;
    let printed: Vec<&str> = attempt.stdout.lines().chain(attempt.stderr.lines()).collect();
    if printed.is_empty() {
        return None;
    }
    Some(TimelineEntry {
        unix_ms: ended.unix_ms,
        text: format!("the hook (attempt {}) printed: {}", attempt.attempt, printed.join(" | ")),
    })
}
