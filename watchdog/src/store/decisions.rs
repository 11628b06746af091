//! What people decided, and the audit trail: what a command changes is written with its line in the trail, or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Row, Transaction, params};

use super::builds::{moment, set_state, to_sql};
use super::incidents::{mode_name, mode_of};
use super::{Result, Store, StoreError};
use crate::decision::{
    AuditEntry, Decision, Decisions, Observed, Opinion, Subject, WOULD_HAVE_RUN, WOULD_NOT_HAVE_RUN, Who,
};
use crate::incident::BuildState;
use crate::model::{BuildId, EndpointName, ServiceName};

/// Lines of the trail that are kept, and decisions that are over: years of a busy service.
const KEPT: i64 = 10_000;

/// A decision to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDecision {
    pub subject: Subject,
    /// `None`: until somebody withdraws it.
    pub holds_for: Option<Duration>,
    pub before: Option<BuildState>,
}

/// What becomes of a build in the ledger. One that the ledger does not know stays unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildChange {
    pub service: ServiceName,
    pub build: BuildId,
    /// `None`: the build is forgotten with its figures; its incidents remain.
    pub state: Option<BuildState>,
    /// Its figures and its judge go.
    pub anew: bool,
    /// One sentence for people.
    pub why: String,
}

/// All that one command changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Decisions that end now.
    pub ends: Vec<i64>,
    pub new: Option<NewDecision>,
    pub build: Option<BuildChange>,
    pub audit: AuditEntry,
}

impl Store {
    /// Makes a change in one durable transaction. The new decision, if there is one.
    pub fn change(&self, change: &Change) -> Result<Option<Decision>> {
        self.write(|tx| {
            let audit = &change.audit;
            for id in &change.ends {
                tx.execute(
                    "UPDATE decisions SET ended_unix_ms = ?2, ended_why = ?3 WHERE id = ?1 AND ended_unix_ms IS NULL",
                    params![id, audit.at.unix_ms, format!("{} by {}", audit.command, audit.who)],
                )?;
            }
            let decision = change.new.as_ref().map(|new| insert(tx, new, audit)).transpose()?;
            if let Some(build) = &change.build {
                change_build(tx, build, audit)?;
            }
            add_line(tx, audit)?;
            Ok(decision)
        })
    }

    /// Adds a line to the trail.
    pub fn record(&self, entry: &AuditEntry) -> Result<()> {
        self.write(|tx| add_line(tx, entry))
    }

    /// The decisions that did not end, the oldest first; some may be over.
    pub fn decisions(&self) -> Result<Decisions> {
        let connection = self.reader();
        let mut statement =
            connection.prepare("SELECT * FROM decisions WHERE ended_unix_ms IS NULL ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok(read(row)))?;
        rows.map(|row| row?).collect::<Result<_>>().map(Decisions)
    }

    /// What mode observe kept from happening, by service.
    pub fn observed(&self) -> Result<BTreeMap<ServiceName, Observed>> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(
            "SELECT service, count(*) FILTER (WHERE note LIKE ?1 || '%') AS acted,
                 count(*) FILTER (WHERE note LIKE ?2 || '%') AS refused, max(at_unix_ms) AS last
             FROM incident_events JOIN incidents ON incidents.id = incident_events.incident
             WHERE to_state = 'observed' AND (note LIKE ?1 || '%' OR note LIKE ?2 || '%') GROUP BY service",
        )?;
        let rows = statement.query_map([WOULD_HAVE_RUN, WOULD_NOT_HAVE_RUN], |row| {
            let observed = Observed {
                would_have_rolled_back: count(row, "acted")?,
                would_have_refused: count(row, "refused")?,
                last_unix_ms: row.get("last")?,
            };
            Ok((row.get::<_, String>("service")?.into(), observed))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The latest `limit` lines of the trail, newest first.
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>> {
        let connection = self.reader();
        let mut statement = connection.prepare("SELECT * FROM audit ORDER BY seq DESC LIMIT ?1")?;
        let rows = statement.query_map([limit], |row| Ok(read_line(row)))?;
        rows.map(|row| row?).collect()
    }
}

fn count(row: &Row<'_>, name: &str) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(name)?).unwrap_or(0))
}

fn insert(tx: &Transaction<'_>, new: &NewDecision, audit: &AuditEntry) -> Result<Decision> {
    let (topic, service, build, endpoint, value) = columns(&new.subject);
    let holds_ms = new.holds_for.map(|holds_for| i64::try_from(holds_for.as_millis()).unwrap_or(i64::MAX));
    tx.execute(
        "INSERT INTO decisions (topic, service, build, endpoint, value, before, uid, name, made_unix_ms, made_mono_ns,
             made_boot, holds_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            topic,
            service,
            build,
            endpoint,
            value,
            new.before.map(BuildState::name),
            audit.who.uid,
            audit.who.name,
            audit.at.unix_ms,
            to_sql(audit.at.mono_ns),
            audit.at.boot,
            holds_ms,
        ],
    )?;
    let id = tx.last_insert_rowid();
    tx.execute("DELETE FROM decisions WHERE id <= ?1 AND ended_unix_ms IS NOT NULL", [id - KEPT])?;
    Ok(Decision {
        id,
        subject: new.subject.clone(),
        who: audit.who.clone(),
        made: audit.at.clone(),
        holds_for: new.holds_for,
        before: new.before,
    })
}

fn change_build(tx: &Transaction<'_>, change: &BuildChange, audit: &AuditEntry) -> Result<()> {
    let (service, build) = (change.service.as_str(), change.build.as_str());
    let Some(state) = change.state else {
        tx.execute("DELETE FROM builds WHERE service = ?1 AND build = ?2", [service, build])?;
        return Ok(());
    };
    if change.anew {
        for table in ["figures", "progress", "journal"] {
            tx.execute(&format!("DELETE FROM {table} WHERE service = ?1 AND build = ?2"), [service, build])?;
        }
    }
    match set_state(tx, &change.service, &change.build, state, &change.why, &audit.at) {
        Err(StoreError::NoBuild { .. }) => Ok(()),
        result => result,
    }
}

fn add_line(tx: &Transaction<'_>, entry: &AuditEntry) -> Result<()> {
    tx.execute(
        "INSERT INTO audit (at_unix_ms, at_mono_ns, at_boot, uid, name, command, done, said)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            entry.at.unix_ms,
            to_sql(entry.at.mono_ns),
            entry.at.boot,
            entry.who.uid,
            entry.who.name,
            entry.command,
            entry.done,
            entry.said,
        ],
    )?;
    tx.execute("DELETE FROM audit WHERE seq <= ?1", [tx.last_insert_rowid() - KEPT])?;
    Ok(())
}

/// Topic, service, build, endpoint, value.
fn columns(subject: &Subject) -> (&'static str, &str, &str, &str, &'static str) {
    match subject {
        Subject::Mode { service, mode } => ("mode", service.as_str(), "", "", mode_name(*mode)),
        Subject::Build { service, build, endpoint, opinion } => {
            let endpoint = endpoint.as_ref().map_or("", EndpointName::as_str);
            ("build", service.as_str(), build.as_str(), endpoint, opinion.name())
        }
    }
}

fn read(row: &Row<'_>) -> Result<Decision> {
    let unknown = |what, value: String| StoreError::UnknownValue { what, value };
    let (topic, value): (String, String) = (row.get("topic")?, row.get("value")?);
    let service = ServiceName::from(row.get::<_, String>("service")?);
    let subject = match topic.as_str() {
        "mode" => {
            let mode = mode_of(&value).ok_or_else(|| unknown("the mode", value))?;
            Subject::Mode { service, mode }
        }
        "build" => {
            let opinion = [Opinion::Accepted, Opinion::Condemned]
                .into_iter()
                .find(|opinion| opinion.name() == value)
                .ok_or_else(|| unknown("the decision", value))?;
            let endpoint: String = row.get("endpoint")?;
            Subject::Build {
                service,
                build: row.get::<_, String>("build")?.into(),
                endpoint: (!endpoint.is_empty()).then(|| endpoint.into()),
                opinion,
            }
        }
        _ => return Err(unknown("the decision's topic", topic)),
    };
    let before: Option<String> = row.get("before")?;
    let before = before
        .map(|name| BuildState::from_name(&name).ok_or_else(|| unknown("the build state", name)))
        .transpose()?;
    let holds_ms: Option<i64> = row.get("holds_ms")?;
    Ok(Decision {
        id: row.get("id")?,
        subject,
        who: who(row)?,
        made: moment(row, "made")?,
        holds_for: holds_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
        before,
    })
}

fn read_line(row: &Row<'_>) -> Result<AuditEntry> {
    Ok(AuditEntry {
        at: moment(row, "at")?,
        who: who(row)?,
        command: row.get("command")?,
        done: row.get("done")?,
        said: row.get("said")?,
    })
}

fn who(row: &Row<'_>) -> Result<Who> {
    Ok(Who { uid: row.get("uid")?, name: row.get("name")? })
}
