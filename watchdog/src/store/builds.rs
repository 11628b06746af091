//! Builds of a service.

use rusqlite::{OptionalExtension, Row, Transaction, named_params, params};
use serde::Serialize;

use super::{Result, Store, StoreError};
use crate::incident::{BuildState, Moment};
use crate::model::{BuildId, ServiceName};

/// What the ledger knows of a build.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BuildRecord {
    pub service: ServiceName,
    pub build: BuildId,
    pub state: BuildState,
    pub first_seen: Moment,
    pub state_since: Moment,
    /// One sentence for people: what brought the build into its state.
    pub why: String,
}

const COLUMNS: &str = "service, build, state, first_seen_unix_ms, first_seen_mono_ns, first_seen_boot, \
    state_since_unix_ms, state_since_mono_ns, state_since_boot, why";

impl Store {
    /// A build begins to serve: call it when its first process appears, again after it had gone, and once per live
    /// build when the agent starts.
    ///
    /// An unknown build is recorded in the state `initial`; a known one keeps its state. Either way it becomes the
    /// latest of its service, so that a redeployed older build counts as the last good one.
    pub fn build_appeared(
        &self,
        service: &ServiceName,
        build: &BuildId,
        initial: BuildState,
        why: &str,
        at: &Moment,
    ) -> Result<BuildRecord> {
        self.write(|tx| appear(tx, service, build, initial, why, at))
    }

    pub fn build(&self, service: &ServiceName, build: &BuildId) -> Result<Option<BuildRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM builds WHERE service = ?1 AND build = ?2");
        self.reader()
            .query_row(&sql, [service.as_str(), build.as_str()], |row| Ok(read(row)))
            .optional()?
            .transpose()
    }

    /// All builds of one service or of all, the latest first.
    pub fn builds(&self, service: Option<&ServiceName>) -> Result<Vec<BuildRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM builds WHERE ?1 IS NULL OR service = ?1 ORDER BY service, appeared DESC"
        );
        let connection = self.reader();
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([service.map(ServiceName::as_str)], |row| Ok(read(row)))?;
        rows.map(|row| row?).collect()
    }

    /// Moves a known build into a state.
    pub fn set_build_state(
        &self,
        service: &ServiceName,
        build: &BuildId,
        state: BuildState,
        why: &str,
        at: &Moment,
    ) -> Result<()> {
        self.write(|tx| set_state(tx, service, build, state, why, at))
    }

    /// The good or adopted build of a service that appeared last: where a rollback goes, never one that is condemned, be it
    /// on a single endpoint.
    pub fn last_good_build(&self, service: &ServiceName) -> Result<Option<BuildRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM builds WHERE service = ?1 AND state IN ('good', 'adopted')
                 AND build NOT IN (SELECT build FROM decisions
                     WHERE topic = 'build' AND service = ?1 AND value = 'condemned' AND ended_unix_ms IS NULL)
             ORDER BY appeared DESC LIMIT 1"
        );
        self.reader().query_row(&sql, [service.as_str()], |row| Ok(read(row))).optional()?.transpose()
    }

    /// Forgets a build and its figures; its incidents remain. Returns whether it was known.
    pub fn forget_build(&self, service: &ServiceName, build: &BuildId) -> Result<bool> {
        self.write(|tx| {
            let deleted = tx.execute(
                "DELETE FROM builds WHERE service = ?1 AND build = ?2",
                [service.as_str(), build.as_str()],
            )?;
            Ok(deleted > 0)
        })
    }
}

/// See [`Store::build_appeared`].
pub(super) fn appear(
    tx: &Transaction<'_>,
    service: &ServiceName,
    build: &BuildId,
    initial: BuildState,
    why: &str,
    at: &Moment,
) -> Result<BuildRecord> {
    let latest: Option<(String, i64)> = tx
        .query_row(
            "SELECT build, appeared FROM builds WHERE service = ?1 ORDER BY appeared DESC LIMIT 1",
            [service.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let appeared = latest.as_ref().map_or(1, |(_, appeared)| appeared + 1);
    if latest.is_none_or(|(latest, _)| latest != build.as_str()) {
        tx.execute(
            "INSERT INTO builds (service, build, state, first_seen_unix_ms, first_seen_mono_ns, first_seen_boot,
                 state_since_unix_ms, state_since_mono_ns, state_since_boot, why, appeared)
             VALUES (:service, :build, :state, :unix_ms, :mono_ns, :boot, :unix_ms, :mono_ns, :boot, :why, :appeared)
             ON CONFLICT (service, build) DO UPDATE SET appeared = :appeared",
            named_params! {
                ":service": service.as_str(),
                ":build": build.as_str(),
                ":state": initial.name(),
                ":unix_ms": at.unix_ms,
                ":mono_ns": to_sql(at.mono_ns),
                ":boot": at.boot,
                ":why": why,
                ":appeared": appeared,
            },
        )?;
    }
    find(tx, service, build)
}

pub(super) fn set_state(
    tx: &Transaction<'_>,
    service: &ServiceName,
    build: &BuildId,
    state: BuildState,
    why: &str,
    at: &Moment,
) -> Result<()> {
    let changed = tx.execute(
        "UPDATE builds SET state = ?3, why = ?4, state_since_unix_ms = ?5, state_since_mono_ns = ?6,
             state_since_boot = ?7
         WHERE service = ?1 AND build = ?2",
        params![service.as_str(), build.as_str(), state.name(), why, at.unix_ms, to_sql(at.mono_ns), at.boot],
    )?;
    if changed == 0 {
        return Err(StoreError::NoBuild { service: service.clone(), build: build.clone() });
    }
    Ok(())
}

fn find(tx: &Transaction<'_>, service: &ServiceName, build: &BuildId) -> Result<BuildRecord> {
    let sql = format!("SELECT {COLUMNS} FROM builds WHERE service = ?1 AND build = ?2");
    tx.query_row(&sql, [service.as_str(), build.as_str()], |row| Ok(read(row)))
        .optional()?
        .unwrap_or_else(|| Err(StoreError::NoBuild { service: service.clone(), build: build.clone() }))
}

/// A row of [`COLUMNS`].
fn read(row: &Row<'_>) -> Result<BuildRecord> {
    let state: String = row.get("state")?;
    Ok(BuildRecord {
        service: row.get::<_, String>("service")?.into(),
        build: row.get::<_, String>("build")?.into(),
        state: BuildState::from_name(&state)
            .ok_or(StoreError::UnknownValue { what: "the build state", value: state })?,
        first_seen: moment(row, "first_seen")?,
        state_since: moment(row, "state_since")?,
        why: row.get("why")?,
    })
}

/// The three columns of a point in time.
pub(super) fn moment(row: &Row<'_>, prefix: &str) -> Result<Moment> {
    Ok(Moment {
        unix_ms: row.get(format!("{prefix}_unix_ms").as_str())?,
        mono_ns: u64::try_from(row.get::<_, i64>(format!("{prefix}_mono_ns").as_str())?).unwrap_or(0),
        boot: row.get(format!("{prefix}_boot").as_str())?,
    })
}

/// As [`moment`], when all three may be NULL.
pub(super) fn optional_moment(row: &Row<'_>, prefix: &str) -> Result<Option<Moment>> {
    let unix_ms: Option<i64> = row.get(format!("{prefix}_unix_ms").as_str())?;
    unix_ms.map(|_| moment(row, prefix)).transpose()
}

/// The database's integers are signed; 2^63 ns are 292 years.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
