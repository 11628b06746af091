//! Incidents, their timelines, and what was run for them.

mod releases;

pub use self::releases::Release;

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::builds::{moment, optional_moment, set_state, to_sql};
use super::{Result, Store, StoreError};
use crate::config::Mode;
use crate::incident::{
    Attempt, BuildState, HookProcess, Incident, IncidentEvent, IncidentId, IncidentKind, LedgerEffect,
    Moment, NewIncident, Operator, State, Step, Transition, VerificationRecord, transition,
};
use crate::model::{BuildId, ServiceName};

/// How one attempt of the hook ended, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookEnd {
    /// Name and sentence, such as "exit 3".
    pub outcome: String,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Store {
    /// Records what the verdict said, before anything is decided. At most one is open per service and bad build.
    pub fn open_incident(&self, new: &NewIncident, at: &Moment) -> Result<Incident> {
        self.open_incident_of(IncidentKind::Cost, new, at)
    }

    /// As [`Store::open_incident`]; one of each kind may be open.
    pub fn open_incident_of(&self, kind: IncidentKind, new: &NewIncident, at: &Moment) -> Result<Incident> {
        self.write(|tx| insert(tx, kind, new, at))
    }

    pub fn incident(&self, id: &IncidentId) -> Result<Incident> {
        let connection = self.reader();
        connection
            .query_row("SELECT * FROM incidents WHERE id = ?1", [id.as_str()], |row| Ok(read(row)))
            .optional()?
            .unwrap_or_else(|| Err(StoreError::NoIncident(id.clone())))
    }

    /// The latest `limit` incidents, newest first.
    pub fn incidents(&self, limit: u32) -> Result<Vec<Incident>> {
        self.select("SELECT * FROM incidents ORDER BY rowid DESC LIMIT ?1", params![limit])
    }

    /// All that are neither recovered nor closed, oldest first.
    pub fn open_incidents(&self) -> Result<Vec<Incident>> {
        self.select(
            "SELECT * FROM incidents WHERE state NOT IN ('recovered', 'closed') ORDER BY rowid",
            params![],
        )
    }

    /// The open incident about the cost of a service's build, observed and escalated ones included.
    pub fn open_incident_for(&self, service: &ServiceName, bad_build: &BuildId) -> Result<Option<Incident>> {
        let open = self.select(
            "SELECT * FROM incidents
             WHERE service = ?1 AND bad_build = ?2 AND kind = 'cost' AND state NOT IN ('recovered', 'closed')",
            params![service.as_str(), bad_build.as_str()],
        )?;
        Ok(open.into_iter().next())
    }

    /// The timeline of an incident.
    pub fn events(&self, id: &IncidentId) -> Result<Vec<IncidentEvent>> {
        let connection = self.reader();
        let mut statement =
            connection.prepare("SELECT * FROM incident_events WHERE incident = ?1 ORDER BY seq")?;
        let rows = statement.query_map([id.as_str()], |row| Ok(read_event(row)))?;
        rows.map(|row| row?).collect()
    }

    /// The runs of the hook for an incident, in order.
    pub fn attempts(&self, id: &IncidentId) -> Result<Vec<Attempt>> {
        let connection = self.reader();
        let mut statement =
            connection.prepare("SELECT * FROM hook_attempts WHERE incident = ?1 ORDER BY attempt")?;
        let rows = statement.query_map([id.as_str()], |row| Ok(read_attempt(row)))?;
        rows.map(|row| row?).collect()
    }

    /// Takes a step that has no other record than the timeline.
    pub fn advance(&self, id: &IncidentId, step: Step, note: &str, at: &Moment) -> Result<Incident> {
        self.write(|tx| take(tx, id, step, note, at))
    }

    /// Takes the step that a person decided, and remembers who.
    pub fn decided(&self, id: &IncidentId, decision: &Operator, at: &Moment) -> Result<Incident> {
        self.write(|tx| {
            take(tx, id, decision.step(), &decision.note(), at)?;
            let sql = match decision {
                Operator::Approved { .. } => "UPDATE incidents SET approved_by = ?2 WHERE id = ?1",
                Operator::Rejected { .. } => "UPDATE incidents SET rejected_by = ?2 WHERE id = ?1",
                Operator::Acknowledged { .. } => return find(tx, id),
            };
            tx.execute(sql, params![id.as_str(), decision.by()])?;
            find(tx, id)
        })
    }

    /// Journals that the hook is about to run, and condemns the bad build: the last thing before the spawn. A dry run
    /// condemns nothing.
    pub fn journal_intent(&self, id: &IncidentId, attempt: u32, note: &str, at: &Moment) -> Result<Incident> {
        self.write(|tx| {
            let step =
                if find(tx, id)?.dry_run { Step::JournalRehearsal } else { Step::JournalIntent };
            take(tx, id, step, note, at)?;
            tx.execute(
                "INSERT INTO hook_attempts (incident, attempt, journaled_unix_ms, journaled_mono_ns, journaled_boot)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![id.as_str(), attempt, at.unix_ms, to_sql(at.mono_ns), at.boot],
            )?;
            tx.execute(
                "UPDATE incidents SET intent_unix_ms = ?2, intent_mono_ns = ?3, intent_boot = ?4
                 WHERE id = ?1 AND intent_boot IS NULL",
                params![id.as_str(), at.unix_ms, to_sql(at.mono_ns), at.boot],
            )?;
            find(tx, id)
        })
    }

    /// Records the hook's process, right after the spawn.
    pub fn hook_started(
        &self,
        id: &IncidentId,
        attempt: u32,
        process: &HookProcess,
        at: &Moment,
    ) -> Result<Incident> {
        self.write(|tx| {
            tx.execute(
                "UPDATE hook_attempts SET pid = ?3, start_ticks = ?4, started_unix_ms = ?5, started_mono_ns = ?6,
                     started_boot = ?7
                 WHERE incident = ?1 AND attempt = ?2",
                params![
                    id.as_str(),
                    attempt,
                    process.pid,
                    to_sql(process.start_ticks),
                    at.unix_ms,
                    to_sql(at.mono_ns),
                    process.boot
                ],
            )?;
            take(tx, id, Step::HookStarted, &format!("attempt {attempt}, pid {}", process.pid), at)
        })
    }

    /// Records how an attempt ended together with the step that follows from it.
    pub fn hook_ended(
        &self,
        id: &IncidentId,
        attempt: u32,
        end: &HookEnd,
        step: Step,
        at: &Moment,
    ) -> Result<Incident> {
        self.write(|tx| {
            tx.execute(
                "UPDATE hook_attempts SET outcome = ?3, exit_code = ?4, signal = ?5, stdout = ?6, stderr = ?7,
                     ended_unix_ms = ?8, ended_mono_ns = ?9, ended_boot = ?10
                 WHERE incident = ?1 AND attempt = ?2",
                params![
                    id.as_str(),
                    attempt,
                    end.outcome,
                    end.exit_code,
                    end.signal,
                    end.stdout,
                    end.stderr,
                    at.unix_ms,
                    to_sql(at.mono_ns),
                    at.boot,
                ],
            )?;
            take(tx, id, step, &format!("attempt {attempt}: {}", end.outcome), at)
        })
    }

    /// Ends a verification, with what it found.
    pub fn verified(
        &self,
        id: &IncidentId,
        step: Step,
        note: &str,
        found: &VerificationRecord,
        at: &Moment,
    ) -> Result<Incident> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).map_or(i64::MAX, to_sql);
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).map_or(i64::MAX, to_sql);
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO verifications (incident, good_served_after_ms, bad_served_until_ms,
                     ended_after_ms, requests, mean_ns, limit_ns, baseline_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    id.as_str(),
                    found.good_served_after.map(ms),
                    found.bad_served_until.map(ms),
                    ms(found.ended_after),
                    to_sql(found.requests),
                    found.mean_cpu.map(ns),
                    found.limit.map(ns),
                    found.baseline.map(ns),
                ],
            )?;
            take(tx, id, step, note, at)
        })
    }

    /// What the verification of an incident found, once it is over.
    pub fn verification(&self, id: &IncidentId) -> Result<Option<VerificationRecord>> {
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let found = self
            .reader()
            .query_row("SELECT * FROM verifications WHERE incident = ?1", [id.as_str()], |row| {
                let ms = |name: &str| -> rusqlite::Result<Option<Duration>> {
                    Ok(row.get::<_, Option<i64>>(name)?.map(|ms| Duration::from_millis(number(ms))))
                };
                let ns = |name: &str| -> rusqlite::Result<Option<Duration>> {
                    Ok(row.get::<_, Option<i64>>(name)?.map(|ns| Duration::from_nanos(number(ns))))
                };
                Ok(VerificationRecord {
                    good_served_after: ms("good_served_after_ms")?,
                    bad_served_until: ms("bad_served_until_ms")?,
                    ended_after: ms("ended_after_ms")?.unwrap_or_default(),
                    requests: number(row.get("requests")?),
                    mean_cpu: ns("mean_ns")?,
                    limit: ns("limit_ns")?,
                    baseline: ns("baseline_ns")?,
                })
            })
            .optional()?;
        Ok(found)
    }

    fn select(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Incident>> {
        let connection = self.reader();
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map(params, |row| Ok(read(row)))?;
        rows.map(|row| row?).collect()
    }
}

/// The one place where an incident's state changes, with what follows from the step in the ledger.
fn take(tx: &Transaction<'_>, id: &IncidentId, step: Step, note: &str, at: &Moment) -> Result<Incident> {
    let incident = find(tx, id)?;
    let Transition { to, effect } = transition(incident.state, step)?;
    tx.execute(
        "UPDATE incidents SET state = ?2, state_since_unix_ms = ?3, state_since_mono_ns = ?4, state_since_boot = ?5
         WHERE id = ?1",
        params![id.as_str(), to.name(), at.unix_ms, to_sql(at.mono_ns), at.boot],
    )?;
    match effect {
        LedgerEffect::Nothing => {}
        LedgerEffect::MarkRehearsal => {
            tx.execute("UPDATE incidents SET dry_run = 1 WHERE id = ?1", [id.as_str()])?;
        }
        // Further attempts find it condemned.
        LedgerEffect::Condemn if incident.intent.is_some() => {}
        LedgerEffect::Condemn => {
            let why = format!("incident {id}: {}", incident.reason);
            set_state(tx, &incident.service, &incident.bad_build, BuildState::Condemned, &why, at)?;
        }
        LedgerEffect::Pardon => {
            let why = format!(
                "pardoned by incident {}: the good build cost as much, so this one was not the cause",
                incident.id
            );
            pardon(tx, &incident, &why, at)?;
        }
    }
    add_event(tx, id, at, Some(incident.state), to, note)?;
    find(tx, id)
}

/// Lifts the condemnation that this incident brought; what a person, or another incident, said of the build meanwhile stays.
/// Returns whether it did.
fn pardon(tx: &Transaction<'_>, incident: &Incident, why: &str, at: &Moment) -> Result<bool> {
    let condemned: Option<(String, String)> = tx
        .query_row(
            "SELECT state, why FROM builds WHERE service = ?1 AND build = ?2",
            [incident.service.as_str(), incident.bad_build.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let own = format!("incident {}:", incident.id);
    let by_this =
        |(state, why): &(String, String)| *state == BuildState::Condemned.name() && why.starts_with(&own);
    let lifts = condemned.as_ref().is_some_and(by_this);
    if lifts {
        set_state(tx, &incident.service, &incident.bad_build, BuildState::Probation, why, at)?;
    }
    Ok(lifts)
}

fn add_event(
    tx: &Transaction<'_>,
    id: &IncidentId,
    at: &Moment,
    from: Option<State>,
    to: State,
    note: &str,
) -> Result<()> {
    tx.execute(
        "INSERT INTO incident_events (incident, at_unix_ms, at_mono_ns, at_boot, from_state, to_state, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id.as_str(), at.unix_ms, to_sql(at.mono_ns), at.boot, from.map(State::name), to.name(), note],
    )?;
    Ok(())
}

fn find(tx: &Transaction<'_>, id: &IncidentId) -> Result<Incident> {
    tx.query_row("SELECT * FROM incidents WHERE id = ?1", [id.as_str()], |row| Ok(read(row)))
        .optional()?
        .unwrap_or_else(|| Err(StoreError::NoIncident(id.clone())))
}

fn open_for(
    tx: &Transaction<'_>,
    kind: IncidentKind,
    service: &ServiceName,
    build: &BuildId,
) -> Result<Option<IncidentId>> {
    let id: Option<String> = tx
        .query_row(
            "SELECT id FROM incidents
             WHERE service = ?1 AND bad_build = ?2 AND kind = ?3 AND state NOT IN ('recovered', 'closed')",
            [service.as_str(), build.as_str(), kind.name()],
            |row| row.get(0),
        )
        .optional()?;
    Ok(id.as_deref().map(IncidentId::from))
}

fn read(row: &Row<'_>) -> Result<Incident> {
    let evidence: String = row.get("evidence")?;
    let mode: String = row.get("mode")?;
    let kind: String = row.get("kind")?;
    Ok(Incident {
        id: row.get::<_, String>("id")?.as_str().into(),
        kind: IncidentKind::from_name(&kind)
            .ok_or(StoreError::UnknownValue { what: "the kind of incident", value: kind })?,
        service: row.get::<_, String>("service")?.into(),
        endpoint: row.get::<_, String>("endpoint")?.into(),
        bad_build: row.get::<_, String>("bad_build")?.into(),
        good_build: row.get::<_, Option<String>>("good_build")?.map(BuildId::from),
        reason: row.get("reason")?,
        evidence: serde_json::from_str(&evidence)
            .map_err(|error| StoreError::UnknownValue { what: "the evidence", value: error.to_string() })?,
        mode: mode_of(&mode).ok_or(StoreError::UnknownValue { what: "the mode", value: mode })?,
        state: state_of(row.get("state")?)?,
        detected: moment(row, "detected")?,
        state_since: moment(row, "state_since")?,
        intent: optional_moment(row, "intent")?,
        approved_by: row.get("approved_by")?,
        rejected_by: row.get("rejected_by")?,
        dry_run: row.get("dry_run")?,
    })
}

fn read_event(row: &Row<'_>) -> Result<IncidentEvent> {
    Ok(IncidentEvent {
        at: moment(row, "at")?,
        from: row.get::<_, Option<String>>("from_state")?.map(state_of).transpose()?,
        to: state_of(row.get("to_state")?)?,
        note: row.get("note")?,
    })
}

fn read_attempt(row: &Row<'_>) -> Result<Attempt> {
    let started = optional_moment(row, "started")?;
    let pid: Option<i32> = row.get("pid")?;
    let start_ticks: Option<i64> = row.get("start_ticks")?;
    let process = match (pid, start_ticks, &started) {
        (Some(pid), Some(ticks), Some(at)) => {
            Some(HookProcess { pid, start_ticks: u64::try_from(ticks).unwrap_or(0), boot: at.boot.clone() })
        }
        _ => None,
    };
    Ok(Attempt {
        attempt: row.get("attempt")?,
        journaled: moment(row, "journaled")?,
        process,
        started,
        ended: optional_moment(row, "ended")?,
        outcome: row.get("outcome")?,
        exit_code: row.get("exit_code")?,
        signal: row.get("signal")?,
        stdout: row.get("stdout")?,
        stderr: row.get("stderr")?,
    })
}

fn state_of(name: String) -> Result<State> {
    State::from_name(&name).ok_or(StoreError::UnknownValue { what: "the incident state", value: name })
}

pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Approve => "approve",
        Mode::Enforce => "enforce",
    }
}

pub(super) fn mode_of(name: &str) -> Option<Mode> {
    [Mode::Observe, Mode::Approve, Mode::Enforce].into_iter().find(|mode| mode_name(*mode) == name)
}

/// An incident that is detected; there is no open one of the same kind for the same build.
fn insert(tx: &Transaction<'_>, kind: IncidentKind, new: &NewIncident, at: &Moment) -> Result<Incident> {
    if let Some(open) = open_for(tx, kind, &new.service, &new.bad_build)? {
        let (service, bad_build) = (new.service.clone(), new.bad_build.clone());
        return Err(StoreError::AlreadyOpen { service, bad_build, open });
    }
    let id = IncidentId::new(at.unix_ms, random());
    tx.execute(
        "INSERT INTO incidents (id, kind, service, endpoint, bad_build, good_build, reason, evidence, mode, state,
             detected_unix_ms, detected_mono_ns, detected_boot,
             state_since_unix_ms, state_since_mono_ns, state_since_boot)
         VALUES (?1, ?13, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?10, ?11, ?12)",
        params![
            id.as_str(),
            new.service.as_str(),
            new.endpoint.as_str(),
            new.bad_build.as_str(),
            new.good_build.as_ref().map(BuildId::as_str),
            new.reason,
            new.evidence.to_string(),
            mode_name(new.mode),
            State::Detected.name(),
            at.unix_ms,
            to_sql(at.mono_ns),
            at.boot,
            kind.name(),
        ],
    )?;
    add_event(tx, &id, at, None, State::Detected, &new.reason)?;
    find(tx, &id)
}

/// 40 bits from the kernel; without it from the monotonic clock, which the primary key still guards.
fn random() -> [u8; 5] {
    use std::io::Read;
    let mut bytes = [0; 5];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        bytes.copy_from_slice(&crate::clock::mono_ns().to_le_bytes()[..5]);
    }
    bytes
}
