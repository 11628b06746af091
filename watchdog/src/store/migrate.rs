//! The schema's versions, and what kind of file is accepted at all.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::{Result, StoreError};

/// "LdWd": marks the file as a ledger of load-watchdog (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x4c64_5764;

/// Version n is reached from n - 1 by `MIGRATIONS[n - 1]`; one that was released is never changed.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
];

/// The version that this program writes.
fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Refuses a file that is damaged, not ours, or from a newer version. Changes nothing.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<()> {
    let damaged = |error| name_damage(error, path);
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(damaged)?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(damaged)?;
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(damaged)?;
    if objects == 0 && version == 0 {
        let detail = "there is nothing in it".to_owned();
        return Err(StoreError::Corrupt { path: path.to_owned(), detail });
    }
    if application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let known = known_version();
    if version > known {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known });
    }
    let verdict: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(damaged)?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: path.to_owned(), detail: verdict }) }
}

/// A reader cannot migrate: the file must have been opened by an agent of this version.
pub(super) fn require_current(connection: &Connection, path: &Path) -> Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => Err(StoreError::Absent { path: path.to_owned() }),
        version if version < known_version() => {
            Err(StoreError::Older { path: path.to_owned(), found: version })
        }
        _ => Ok(()),
    }
}

/// Brings the schema up to the known version, each version in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    apply(connection, MIGRATIONS)
}

fn apply(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, sql) in (1_i64..).zip(migrations).filter(|(version, _)| *version > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Tells damage from other failures of the database.
pub(super) fn name_damage(error: rusqlite::Error, path: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() }
        }
        _ => StoreError::Sql(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn versions_are_applied_in_order_and_only_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        let one = "CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1)";
        let two = "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 7";
        apply(&mut connection, &[one]).unwrap();
        assert_eq!(version(&connection), 1);
        apply(&mut connection, &[one, two]).unwrap();
        apply(&mut connection, &[one, two]).unwrap();
        assert_eq!(version(&connection), 2);
        let row: (i64, i64) =
            connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (1, 7), "the row of version 1 is still there, once");
    }

    #[test]
    fn a_failing_version_leaves_the_one_before() {
        let mut connection = Connection::open_in_memory().unwrap();
        let one = "CREATE TABLE a (x INTEGER) STRICT";
        let broken = "CREATE TABLE b (x INTEGER) STRICT; CREATE TABLE a (x INTEGER)";
        assert!(apply(&mut connection, &[one, broken]).is_err());
        assert_eq!(version(&connection), 1);
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1, "half of the broken version was kept");
    }
}
