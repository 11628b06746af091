//! Figures in the ledger: what a crash leaves, what an upgrade makes of them, what a second of them costs.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;
use watchdog::aggregate::{Age, Cell, ClassAggregate};
use watchdog::incident::{BuildState, Moment};
use watchdog::model::{ServiceName, StatusClass};
use watchdog::store::{BuildWrite, DATABASE, Store, StoredCell, StoredPeak, Written};

fn web() -> ServiceName {
    "web".into()
}

fn store_with(builds: &[&str]) -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for build in builds {
        store.build_appeared(&web(), &(*build).into(), BuildState::Good, "seen", &Moment::now()).unwrap();
    }
    (dir, store)
}

fn write(build: &str, what: Written) -> BuildWrite {
    BuildWrite { service: web(), build: build.into(), what }
}

fn increment(json: &str) -> Written {
    Written::Increment { json: json.to_owned() }
}

fn cell(status: u16, json: &str) -> StoredCell {
    StoredCell { endpoint: "login".into(), cell: (status / 100, status, 4), json: json.to_owned() }
}

#[test]
fn the_journal_lasts_until_its_build_is_written_whole() {
    let (dir, store) = store_with(&["v1", "v2"]);
    store.save(&[write("v1", increment("{\"n\":1}")), write("v2", increment("{\"n\":2}"))], &[]).unwrap();
    store.save(&[write("v1", increment("{\"n\":3}"))], &[]).unwrap();
    // As after a crash: nothing was closed in order.
    let reader = Store::open_reader(dir.path()).unwrap();
    let of = |store: &Store, build: &str| store.figures(&web(), &build.into()).unwrap();
    assert_eq!(of(&reader, "v1").journal, ["{\"n\":1}", "{\"n\":3}"]);

    let whole = Written::Whole { cells: vec![cell(302, "{}"), cell(401, "{}")], progress: "{}".to_owned() };
    store.save(&[write("v1", whole)], &[]).unwrap();
    let v1 = of(&reader, "v1");
    assert_eq!((v1.journal.len(), v1.cells.len(), v1.progress.as_deref()), (0, 2, Some("{}")));
    assert_eq!(of(&reader, "v2").journal, ["{\"n\":2}"], "of another build");

    // Cells that did not change are not named, and stay.
    let again = Written::Whole { cells: vec![cell(401, "{\"a\":1}")], progress: "[]".to_owned() };
    store.save(&[write("v1", again)], &[]).unwrap();
    assert_eq!(of(&reader, "v1").cells, [cell(302, "{}"), cell(401, "{\"a\":1}")]);
}

#[test]
fn a_forgotten_build_takes_its_figures_along_and_gets_no_more() {
    let (_dir, store) = store_with(&["v1", "v2"]);
    let whole = || Written::Whole { cells: vec![cell(302, "{}")], progress: "{}".to_owned() };
    store.save(&[write("v1", whole()), write("v1", increment("{}"))], &[]).unwrap();
    assert!(store.forget_build(&web(), &"v1".into()).unwrap());
    store.save(&[write("v1", increment("{}")), write("v2", increment("{}"))], &[]).unwrap();
    assert_eq!(store.figures(&web(), &"v1".into()).unwrap(), watchdog::store::StoredFigures::default());
    assert_eq!(store.figures(&web(), &"v2".into()).unwrap().journal.len(), 1);
}

#[test]
fn half_a_save_is_none() {
    let (_dir, store) = store_with(&["v1", "v2"]);
    let result = store.save(&[write("v1", increment("{}")), write("v2", increment("{half"))], &[]);
    assert!(result.is_err(), "not JSON");
    assert!(store.figures(&web(), &"v1".into()).unwrap().journal.is_empty());
}

#[test]
fn peaks_are_kept_by_endpoint() {
    let (_dir, store) = store_with(&[]);
    let mut peak = StoredPeak {
        service: web(),
        endpoint: "login".into(),
        since_unix_ms: 1_000,
        watched_seconds: 60,
        highest: None,
    };
    store.save(&[], std::slice::from_ref(&peak)).unwrap();
    assert_eq!(store.peaks(&web()).unwrap(), [peak.clone()]);
    peak.highest = Some((38.5, 2_000));
    store.save(&[], std::slice::from_ref(&peak)).unwrap();
    assert_eq!(store.peaks(&web()).unwrap(), [peak]);
    assert_eq!(store.peaks(&"api".into()).unwrap(), []);
}

/// The file was written by the agent before this schema, with the burn server's traffic; see its README.
#[test]
fn figures_of_the_schema_before_are_taken_over() {
    let dir = TempDir::new().unwrap();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ledgers/schema_1.db");
    fs::copy(old, dir.path().join(DATABASE)).unwrap();
    let before = before_migration(&dir.path().join(DATABASE));
    assert!(before.iter().map(|(_, _, requests, _)| requests).sum::<u64>() > 500, "{before:?}");

    let store = Store::open(dir.path()).unwrap();
    for (build, endpoint, requests, cpu_ns) in &before {
        let stored = store.figures(&web(), &build.as_str().into()).unwrap();
        let (mut count, mut sum, mut sketched) = (0, 0, 0);
        for row in stored.cells.iter().filter(|row| row.endpoint.as_str() == endpoint) {
            let figures: ClassAggregate = serde_json::from_str(&row.json).unwrap();
            assert_eq!(
                (row.cell.1, row.cell.2),
                (0, Age::Older.index()),
                "exact status and age were not known"
            );
            count += figures.requests;
            sum += figures.cpu_ns;
            sketched += figures.sketch.total();
        }
        assert_eq!((count, sum, sketched), (*requests, *cpu_ns, *requests), "{build} {endpoint}");
        let classes: Vec<u16> = stored.cells.iter().map(|row| row.cell.0).collect();
        assert!(classes.contains(&StatusClass::Success.index()), "{classes:?}");
    }
    // And everything else is as it was.
    let states: Vec<(String, BuildState)> =
        store.builds(None).unwrap().into_iter().map(|it| (it.build.to_string(), it.state)).collect();
    assert_eq!(states, [("bad".to_owned(), BuildState::Condemned), ("good".to_owned(), BuildState::Adopted)]);
    let incidents = store.incidents(10).unwrap();
    assert_eq!((incidents.len(), incidents[0].bad_build.as_str()), (1, "bad"));
    assert!(!store.events(&incidents[0].id).unwrap().is_empty());
    // The next second goes on from there.
    store.save(&[write("good", increment("{}"))], &[]).unwrap();
    drop(store);
    assert!(Store::open(dir.path()).is_ok(), "opened a second time");
}

/// Build, endpoint, requests and nanoseconds as the old agent wrote them.
fn before_migration(path: &Path) -> Vec<(String, String, u64, u64)> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    let mut statement = connection.prepare("SELECT build, endpoint, json FROM baselines").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))).unwrap();
    rows.map(|row| {
        let (build, endpoint, json) = row.unwrap();
        let figures: serde_json::Value = serde_json::from_str(&json).unwrap();
        let classes = figures["classes"].as_object().unwrap();
        let sum = |key: &str| classes.values().map(|class| class[key].as_u64().unwrap()).sum();
        (build, endpoint, sum("requests"), sum("cpu_ns"))
    })
    .collect()
}

/// An hour of seconds: what goes to the log ahead of the database is a page or two each, and a file that does not grow.
#[test]
fn a_second_costs_a_page_of_the_log() {
    const SECONDS: u64 = 3600;
    let (dir, store) = store_with(&["v1", "v2"]);
    let mut second = watchdog::aggregate::BuildAggregate::default();
    for endpoint in ["login", "browse"] {
        for n in 0..20 {
            second.endpoint_mut(&endpoint.into()).record(
                Cell::new(302, Age::Older),
                80_000_000 + n * 977_777,
                1,
            );
        }
    }
    let json = serde_json::to_string(&serde_json::json!({ "figures": second, "guarded_ns": 1 })).unwrap();
    let (begun, mut slowest) = (Instant::now(), std::time::Duration::ZERO);
    let (mut journal_bytes, mut whole) = (0, 0);
    let written_before = written();
    for n in 0..SECONDS {
        let one = Instant::now();
        if n % 60 == 59 {
            let cells = (0..10).map(|status| cell(200 + status, &json)).collect();
            store.save(&[write("v1", Written::Whole { cells, progress: json.clone() })], &[]).unwrap();
            whole += 1;
        } else {
            store.save(&[write("v1", increment(&json))], &[]).unwrap();
            journal_bytes += json.len() as u64;
        }
        slowest = slowest.max(one.elapsed());
    }
    let each = begun.elapsed() / u32::try_from(SECONDS).unwrap();
    let (database, log) = (size(dir.path(), DATABASE), size(dir.path(), "state.db-wal"));
    println!(
        "{SECONDS} seconds of 40 requests: {each:?} each (slowest {slowest:?}), {} B of increments each, {whole} times whole; \
         database {database} B, log {log} B, {} B a second written to files",
        journal_bytes / SECONDS,
        (written() - written_before) / SECONDS
    );
    assert!((written() - written_before) / SECONDS < 16 << 10, "more than four pages a second");
    assert!(database < 1 << 20 && log < 8 << 20, "{database} B and {log} B");
}

fn size(dir: &Path, name: &str) -> u64 {
    fs::metadata(dir.join(name)).map_or(0, |file| file.len())
}

/// Bytes that this thread has handed to `write` and the like.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}
