//! Builds' figures: rows that are written whole now and then, and a journal of what came since.
//!
//! A row of the journal is a second's increments of one build. Appending it costs one page of the write-ahead log,
//! whatever the traffic and the number of endpoints; the figures' own rows would cost a page or more each.

use rusqlite::{Transaction, params};

use super::builds::to_sql;
use super::{Result, Store};
use crate::model::{BuildId, EndpointName, ServiceName};

/// Figures of one endpoint in one cell: index of the status class, exact status or 0, index of the age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCell {
    pub endpoint: EndpointName,
    pub cell: (u16, u16, u8),
    /// JSON text, opaque to the store, like all others here.
    pub json: String,
}

/// What is to be written of one build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildWrite {
    pub service: ServiceName,
    pub build: BuildId,
    pub what: Written,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// One more row of the journal.
    Increment { json: String },
    /// These cells, as they are in all, and what else is known; takes the place of the journal so far.
    Whole { cells: Vec<StoredCell>, progress: String },
}

/// What the ledger has of one build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredFigures {
    pub cells: Vec<StoredCell>,
    pub progress: Option<String>,
    /// What came after that, oldest first.
    pub journal: Vec<String>,
}

/// The highest rate of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPeak {
    pub service: ServiceName,
    pub endpoint: EndpointName,
    /// When learning began, for people.
    pub since_unix_ms: i64,
    /// Time that the endpoint was watched, all agents together.
    pub watched_seconds: u64,
    /// Requests per second, and when.
    pub highest: Option<(f64, i64)>,
}

impl Store {
    /// Writes what is new in one durable transaction. Builds that the ledger does not know are passed over: somebody made
    /// it forget them.
    pub fn save(&self, builds: &[BuildWrite], peaks: &[StoredPeak]) -> Result<()> {
        self.write(|tx| {
            for write in builds {
                save_build(tx, write)?;
            }
            for peak in peaks {
                tx.prepare_cached(
                    "INSERT INTO peaks (service, endpoint, since_unix_ms, watched_seconds, per_second, at_unix_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT DO UPDATE SET since_unix_ms = excluded.since_unix_ms,
                         watched_seconds = excluded.watched_seconds, per_second = excluded.per_second,
                         at_unix_ms = excluded.at_unix_ms",
                )?
                .execute(params![
                    peak.service.as_str(),
                    peak.endpoint.as_str(),
                    peak.since_unix_ms,
                    to_sql(peak.watched_seconds),
                    peak.highest.map(|(per_second, _)| per_second),
                    peak.highest.map(|(_, at_unix_ms)| at_unix_ms),
                ])?;
            }
            Ok(())
        })
    }

    /// All that is known of a build's figures.
    pub fn figures(&self, service: &ServiceName, build: &BuildId) -> Result<StoredFigures> {
        let connection = self.reader();
        // One snapshot: another thread may be writing the journal into the rows.
        let tx = connection.unchecked_transaction()?;
        let key = [service.as_str(), build.as_str()];
        let cells = tx
            .prepare_cached(
                "SELECT endpoint, class, status, age, json FROM figures WHERE service = ?1 AND build = ?2",
            )?
            .query_map(key, |row| {
                Ok(StoredCell {
                    endpoint: row.get::<_, String>(0)?.into(),
                    cell: (row.get(1)?, row.get(2)?, row.get(3)?),
                    json: row.get(4)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let progress = tx
            .prepare_cached("SELECT json FROM progress WHERE service = ?1 AND build = ?2")?
            .query_map(key, |row| row.get(0))?
            .next()
            .transpose()?;
        let journal = tx
            .prepare_cached("SELECT json FROM journal WHERE service = ?1 AND build = ?2 ORDER BY seq")?
            .query_map(key, |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(StoredFigures { cells, progress, journal })
    }

    /// The highest rates of a service's endpoints.
    pub fn peaks(&self, service: &ServiceName) -> Result<Vec<StoredPeak>> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(
            "SELECT endpoint, since_unix_ms, watched_seconds, per_second, at_unix_ms FROM peaks WHERE service = ?1",
        )?;
        let rows = statement.query_map([service.as_str()], |row| {
            let per_second: Option<f64> = row.get(3)?;
            let at_unix_ms: Option<i64> = row.get(4)?;
            Ok(StoredPeak {
                service: service.clone(),
                endpoint: row.get::<_, String>(0)?.into(),
                since_unix_ms: row.get(1)?,
                watched_seconds: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                highest: per_second.zip(at_unix_ms),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn save_build(tx: &Transaction<'_>, write: &BuildWrite) -> Result<()> {
    let (service, build) = (write.service.as_str(), write.build.as_str());
    let known = tx
        .prepare_cached("SELECT 1 FROM builds WHERE service = ?1 AND build = ?2")?
        .exists([service, build])?;
    if !known {
        return Ok(());
    }
    match &write.what {
        Written::Increment { json } => {
            tx.prepare_cached("INSERT INTO journal (service, build, json) VALUES (?1, ?2, ?3)")?
                .execute([service, build, json])?;
        }
        Written::Whole { cells, progress } => {
            let mut figures = tx.prepare_cached(
                "INSERT INTO figures (service, build, endpoint, class, status, age, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET json = excluded.json",
            )?;
            for StoredCell { endpoint, cell: (class, status, age), json } in cells {
                figures.execute(params![service, build, endpoint.as_str(), class, status, age, json])?;
            }
            tx.prepare_cached(
                "INSERT INTO progress (service, build, json) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET json = excluded.json",
            )?
            .execute([service, build, progress])?;
            tx.prepare_cached("DELETE FROM journal WHERE service = ?1 AND build = ?2")?
                .execute([service, build])?;
        }
    }
    Ok(())
}
