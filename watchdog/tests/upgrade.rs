//! An agent that finds the ledger of an earlier version: nothing is lost, and what was under way is carried on or given to
//! a person. See tests/ledgers/README.md; figures of schema 1 are in tests/figures.rs.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;
use watchdog::action::Driver;
use watchdog::incident::{BuildState, IncidentKind, Reconciliation, State};
use watchdog::model::{BuildId, ServiceName};
use watchdog::store::{DATABASE, Store, StoreError};

fn web() -> ServiceName {
    "web".into()
}

fn old_ledger() -> TempDir {
    let dir = TempDir::new().unwrap();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ledgers/schema_3.db");
    fs::copy(old, dir.path().join(DATABASE)).unwrap();
    dir
}

type Row = BTreeMap<String, Value>;

/// Each table with all its rows, as they are stored.
fn content(dir: &TempDir) -> BTreeMap<String, Vec<Row>> {
    let connection = Connection::open(dir.path().join(DATABASE)).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .unwrap();
    let names: Vec<String> =
        tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let rows_of = |name: &str| {
        let mut statement = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let rows = statement.query_map([], |row| {
            columns.iter().map(|column| Ok((column.clone(), row.get(column.as_str())?))).collect()
        });
        rows.unwrap().collect::<Result<Vec<Row>, _>>().unwrap()
    };
    names.iter().map(|name| (name.clone(), rows_of(name))).collect()
}

fn is_retry(row: &Row) -> bool {
    row.get("bad_build") == Some(&Value::Text("try_again".to_owned()))
}

#[test]
fn every_row_of_the_schema_before_is_still_there() {
    let dir = old_ledger();
    let before = content(&dir);
    assert!(
        ["builds", "figures", "incidents", "hook_attempts", "journal", "peaks", "progress"]
            .iter()
            .all(|table| !before[*table].is_empty())
    );
    drop(Store::open(dir.path()).unwrap());
    let after = content(&dir);
    for (table, rows) in &before {
        for row in rows {
            let mut row = row.clone();
            if is_retry(&row) && table == "incidents" {
                row.insert("state".to_owned(), Value::Text("armed".to_owned()));
            }
            let is_there = |found: &Row| row.iter().all(|(column, value)| found.get(column) == Some(value));
            assert_eq!(after[table].iter().filter(|found| is_there(found)).count(), 1, "{table}: {row:?}");
        }
        let added = usize::from(table == "incident_events");
        assert_eq!(after[table].len(), rows.len() + added, "{table}");
    }
    let added = ["verifications", "pause", "decisions", "audit"];
    assert!(added.iter().all(|table| after[*table].is_empty()));

    // Opened again, it is as it is.
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(content(&dir), after);
}

#[test]
fn what_the_agent_before_left_in_the_middle_is_carried_on_or_given_to_a_person() {
    let dir = old_ledger();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let reconciled = Driver::new(Arc::clone(&store)).reconcile().unwrap();
    let mut seen = BTreeMap::new();
    for found in &reconciled {
        if found.incident.kind == IncidentKind::Cost {
            let build = found.incident.bad_build.to_string();
            assert!(seen.insert(build, (found.incident.state, found.next.clone())).is_none());
        }
        assert!(found.incident.approved_by.is_none() && !found.incident.dry_run);
    }
    let mut take = |build: &str| seen.remove(build).unwrap_or_else(|| panic!("{build} is not open"));
    assert_eq!(take("detected"), (State::Detected, Reconciliation::Decide));
    assert_eq!(take("observed"), (State::Observed, Reconciliation::Leave));
    assert_eq!(take("awaiting_approval"), (State::AwaitingApproval, Reconciliation::Leave));
    assert_eq!(take("try_again"), (State::Armed, Reconciliation::Retry { attempt: 2 }));
    assert_eq!(take("hook_done"), (State::Verifying, Reconciliation::Verify));
    assert_eq!(take("verifying"), (State::Verifying, Reconciliation::Verify));
    assert_eq!(take("escalated"), (State::Escalated, Reconciliation::Leave));
    for (build, why) in [
        ("intent_journaled", "whether the hook ran is unknown"),
        ("hook_running", "outcome is unknown"),
        ("hook_failed", "failed (exit 3)"),
        ("hook_timed_out", "timed out"),
    ] {
        let (state, next) = take(build);
        assert_eq!(state, State::Escalated, "{build}");
        assert!(
            matches!(&next, Reconciliation::Escalate { note } if note.contains(why)),
            "{build}: {next:?}"
        );
    }
    assert!(seen.is_empty(), "{seen:?}");

    // What was condemned stays so, the rollbacks count, and the one that did not help holds the next ones back.
    let state = |build: &str| store.build(&web(), &BuildId::from(build)).unwrap().unwrap().state;
    assert_eq!((state("good"), state("detected")), (BuildState::Adopted, BuildState::Probation));
    assert_eq!((state("recovered"), state("closed")), (BuildState::Condemned, BuildState::Condemned));
    assert_eq!(store.rollback_history(&web()).unwrap().0.len(), 10);
    assert!(store.breaker(&web()).unwrap().is_some());
    let alerts = store.open_alerts(IncidentKind::ReleaseWindow).unwrap();
    assert_eq!((alerts.len(), alerts[0].state), (1, State::Observed));
}

#[test]
fn a_reader_of_the_schema_before_says_who_upgrades_it_and_changes_nothing() {
    let dir = old_ledger();
    let before = fs::read(dir.path().join(DATABASE)).unwrap();
    let error = Store::open_reader(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Older { found: 3, .. }), "{error}");
    assert_eq!(fs::read(dir.path().join(DATABASE)).unwrap(), before);
}
