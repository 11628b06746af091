//! What the safety rails ask the ledger: the breaker, the pause, and what people decided before.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::builds::{moment, to_sql};
use super::{Result, Store};
use crate::incident::{
    Breaker, Incident, IncidentId, IncidentKind, PausedUntil, RollbackHistory, RollbackMark,
};
use crate::model::{BuildId, ServiceName};

impl Store {
    /// The rollbacks begun for a service, newest first, for the cooldown and the day's limit. Dry runs are none.
    pub fn rollback_history(&self, service: &ServiceName) -> Result<RollbackHistory> {
        let connection = self.reader();
        let mut statement = connection.prepare(
            "SELECT id, intent_unix_ms, intent_mono_ns, intent_boot, bad_build, good_build FROM incidents
             WHERE service = ?1 AND intent_boot IS NOT NULL AND good_build IS NOT NULL AND dry_run = 0
             -- By the intent, not by the incident: one that waited for approval may have begun after a later one.
             ORDER BY (SELECT min(seq) FROM incident_events
                       WHERE incident = incidents.id AND to_state = 'intent_journaled') DESC
             LIMIT 1000",
        )?;
        let rows = statement.query_map([service.as_str()], |row| {
            Ok(moment(row, "intent").and_then(|at| {
                Ok(RollbackMark {
                    incident: row.get::<_, String>("id")?.as_str().into(),
                    at,
                    bad_build: row.get::<_, String>("bad_build")?.into(),
                    good_build: row.get::<_, String>("good_build")?.into(),
                })
            }))
        })?;
        rows.map(|row| row?).collect::<Result<_>>().map(RollbackHistory)
    }

    /// Open as long as a rollback of the service that was begun is escalated, and nobody has acknowledged it.
    pub fn breaker(&self, service: &ServiceName) -> Result<Option<Breaker>> {
        self.reader()
            .query_row(
                "SELECT id, state_since_unix_ms, state_since_mono_ns, state_since_boot FROM incidents
                 WHERE service = ?1 AND state = 'escalated' AND intent_boot IS NOT NULL AND dry_run = 0
                 ORDER BY rowid DESC LIMIT 1",
                [service.as_str()],
                |row| {
                    let incident: String = row.get("id")?;
                    Ok(moment(row, "state_since")
                        .map(|since| Breaker { incident: incident.as_str().into(), since }))
                },
            )
            .optional()?
            .transpose()
    }

    /// Another incident of the service whose rollback is decided, and neither verified nor given up.
    pub fn rollback_under_way(&self, service: &ServiceName, not: &IncidentId) -> Result<Option<Incident>> {
        let open = self.open_incidents()?;
        Ok(open.into_iter().find(|incident| {
            incident.service == *service && incident.id != *not && incident.state.is_under_way()
        }))
    }

    /// Who rejected the last rollback of this build that was rejected. Who let it stay although it came outside the window did
    /// not say what it may cost, so each kind counts for itself.
    pub fn rejected_by(
        &self,
        service: &ServiceName,
        bad_build: &BuildId,
        kind: IncidentKind,
    ) -> Result<Option<String>> {
        let by = self
            .reader()
            .query_row(
                "SELECT rejected_by FROM incidents
                 WHERE service = ?1 AND bad_build = ?2 AND kind = ?3 AND rejected_by IS NOT NULL
                 ORDER BY rowid DESC LIMIT 1",
                [service.as_str(), bad_build.as_str(), kind.name()],
                |row| row.get(0),
            )
            .optional()?;
        Ok(by)
    }

    /// Lets no hook run by itself for a while, whichever the service; takes the place of an earlier pause.
    pub fn set_pause(&self, pause: &PausedUntil) -> Result<()> {
        let lasts_ms = u64::try_from(pause.lasts.as_millis()).unwrap_or(u64::MAX);
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO pause (one, by_whom, since_unix_ms, since_mono_ns, since_boot, lasts_ms)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5)",
                params![
                    pause.by,
                    pause.since.unix_ms,
                    to_sql(pause.since.mono_ns),
                    pause.since.boot,
                    to_sql(lasts_ms)
                ],
            )?;
            Ok(())
        })
    }

    /// Ends a pause before its time. Returns whether there was one.
    pub fn end_pause(&self) -> Result<bool> {
        self.write(|tx| Ok(tx.execute("DELETE FROM pause", [])? > 0))
    }

    /// The last pause that was ordered, over or not: see [`PausedUntil::left`].
    pub fn pause(&self) -> Result<Option<PausedUntil>> {
        self.reader()
            .query_row("SELECT * FROM pause", [], |row| {
                let lasts_ms: i64 = row.get("lasts_ms")?;
                let by: String = row.get("by_whom")?;
                Ok(moment(row, "since").map(|since| PausedUntil {
                    by,
                    since,
                    lasts: Duration::from_millis(u64::try_from(lasts_ms).unwrap_or(0)),
                }))
            })
            .optional()?
            .transpose()
    }
}
