//! The ledger on a real file system: what it refuses, what it keeps, what it answers.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use watchdog::config::Mode;
use watchdog::incident::{
    BuildState, HookProcess, IncidentKind, Moment, NewIncident, Operator, PausedUntil, State, Step,
    VerificationRecord,
};
use watchdog::model::ServiceName;
use watchdog::store::{DATABASE, HookEnd, Store, StoreError};

fn at(seconds: u64) -> Moment {
    Moment {
        unix_ms: 1_485_500_400_000 + i64::try_from(seconds).unwrap() * 1000,
        mono_ns: seconds * 1_000_000_000,
        boot: "boot".to_owned(),
    }
}

fn web() -> ServiceName {
    "web".into()
}

fn incident_of(bad: &str) -> NewIncident {
    NewIncident {
        service: web(),
        endpoint: "login".into(),
        bad_build: bad.into(),
        good_build: Some("v1".into()),
        reason: "mean CPU 320 ms per request, budget 80 ms".to_owned(),
        evidence: json!({"requests": 14, "mean_cpu_ns": 320_000_000_u64}),
        mode: Mode::Enforce,
    }
}

fn appear(store: &Store, build: &str, state: BuildState, seconds: u64) {
    store.build_appeared(&web(), &build.into(), state, "seen", &at(seconds)).unwrap();
}

fn pragma(path: &Path, set: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(set).unwrap();
}

#[test]
fn the_file_is_private_durable_and_kept_over_a_restart() {
    let dir = TempDir::new().unwrap();
    let state_dir = dir.path().join("deep/state");
    {
        let store = Store::open(&state_dir).unwrap();
        appear(&store, "v1", BuildState::Adopted, 1);
        for name in [DATABASE, "state.db-wal", "state.lock"] {
            let mode = fs::metadata(state_dir.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    assert_eq!(fs::metadata(&state_dir).unwrap().permissions().mode() & 0o777, 0o700);
    let store = Store::open(&state_dir).unwrap();
    let kept = store.build(&web(), &"v1".into()).unwrap().expect("the build is kept");
    assert_eq!((kept.state, kept.first_seen, kept.why.as_str()), (BuildState::Adopted, at(1), "seen"));
}

#[test]
fn a_second_agent_is_refused_and_a_reader_is_not() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::SecondAgent { .. }), "{error}");
    assert!(error.to_string().contains("another agent"), "{error}");

    appear(&store, "v1", BuildState::Adopted, 1);
    let reader = Store::open_reader(dir.path()).unwrap();
    assert_eq!(reader.builds(None).unwrap().len(), 1);
    assert!(reader.forget_build(&web(), &"v1".into()).is_err(), "a reader wrote");
    drop(reader);
    drop(store);
    assert_eq!(Store::open_reader(dir.path()).unwrap().builds(None).unwrap().len(), 1, "without an agent");
    assert!(Store::open(dir.path()).is_ok(), "the lock outlived its holder");
}

#[test]
fn what_is_read_does_not_wait_for_what_is_written() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    appear(&store, "v1", BuildState::Adopted, 1);
    let other = rusqlite::Connection::open(dir.path().join(DATABASE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| appear(&store, "v2", BuildState::Probation, 2));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(store.builds(None).unwrap().len(), 1);
        assert!(!writer.is_finished(), "the build was written while somebody else writes");
        other.execute_batch("ROLLBACK").unwrap();
        writer.join().unwrap();
    });
    assert_eq!(store.builds(None).unwrap().len(), 2);
}

#[test]
fn a_reader_without_a_ledger_says_who_creates_it() {
    let dir = TempDir::new().unwrap();
    let error = Store::open_reader(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Absent { .. }), "{error}");
    assert!(!dir.path().join(DATABASE).exists());
}

/// Damages a good ledger, then expects a refusal that leaves every byte alone.
fn refused(damage: impl FnOnce(&Path)) -> StoreError {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(DATABASE);
    {
        let store = Store::open(dir.path()).unwrap();
        for build in 0..200 {
            appear(&store, &format!("v{build}"), BuildState::Good, build);
        }
    }
    damage(&path);
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path()).expect_err("was accepted");
    assert!(fs::read(&path).unwrap() == before, "the refused file was changed");
    assert!(error.to_string().contains("state.db"), "{error}");
    error
}

#[test]
fn a_newer_ledger_is_refused_untouched() {
    let error = refused(|path| pragma(path, "PRAGMA user_version = 99"));
    assert!(matches!(error, StoreError::Newer { found: 99, known: 2..=98, .. }), "{error}");
}

#[test]
fn damage_is_refused_untouched() {
    let error =
        refused(|path| fs::write(path, b"this is no database, whatever its name says".repeat(100)).unwrap());
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = refused(|path| {
        let mut bytes = fs::read(path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(0xa5);
        fs::write(path, bytes).unwrap();
    });
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = refused(|path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 4096]).unwrap();
    });
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = refused(|path| fs::write(path, b"").unwrap());
    assert!(error.to_string().contains("nothing in it"), "{error}");
}

/// `SQLite` would take what was journaled for one ledger into another.
#[test]
fn a_journal_whose_ledger_is_gone_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join(format!("{DATABASE}-wal"));
    fs::write(&journal, b"of another ledger").unwrap();
    let error = Store::open(dir.path()).expect_err("was accepted");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("is missing"), "{error}");
    assert_eq!(fs::read(&journal).unwrap(), b"of another ledger");
    assert!(!dir.path().join(DATABASE).exists());
}

/// An agent that was killed while it made its first ledger.
#[test]
fn a_ledger_that_was_half_made_is_made_again() {
    let dir = TempDir::new().unwrap();
    for ending in [".new", ".new-journal"] {
        fs::write(dir.path().join(format!("{DATABASE}{ending}")), b"half").unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    appear(&store, "v1", BuildState::Good, 1);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".new")), "{names:?}");
}

#[test]
fn a_database_of_another_program_is_refused_untouched() {
    let error = refused(|path| {
        fs::remove_file(path).unwrap();
        pragma(path, "CREATE TABLE bookmarks (url TEXT)");
    });
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn an_unusable_directory_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
}

#[test]
fn builds_keep_their_state_and_the_last_good_one_is_by_appearance() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let last_good = || store.last_good_build(&web()).unwrap().map(|record| record.build.as_str().to_owned());
    assert_eq!(last_good(), None);
    appear(&store, "v1", BuildState::Adopted, 1);
    appear(&store, "v2", BuildState::Probation, 2);
    assert_eq!(last_good().as_deref(), Some("v1"));
    store.set_build_state(&web(), &"v2".into(), BuildState::Good, "24 h within its budgets", &at(3)).unwrap();
    assert_eq!(last_good().as_deref(), Some("v2"));
    appear(&store, "v3", BuildState::Probation, 4);
    store.set_build_state(&web(), &"v3".into(), BuildState::Condemned, "incident", &at(5)).unwrap();
    assert_eq!(last_good().as_deref(), Some("v2"));

    // A person goes back from v2 to v1: v1 is what served last. It keeps its state and its first time.
    appear(&store, "v1", BuildState::Probation, 6);
    appear(&store, "v3", BuildState::Probation, 7);
    assert_eq!(last_good().as_deref(), Some("v1"));
    let v1 = store.build(&web(), &"v1".into()).unwrap().unwrap();
    assert_eq!((v1.state, v1.first_seen), (BuildState::Adopted, at(1)));
    let v3 = store.build(&web(), &"v3".into()).unwrap().unwrap();
    assert_eq!((v3.state, v3.state_since, v3.why.as_str()), (BuildState::Condemned, at(5), "incident"));

    store.build_appeared(&"api".into(), &"a1".into(), BuildState::Adopted, "seen", &at(8)).unwrap();
    let names = |service: Option<&ServiceName>| -> Vec<String> {
        store.builds(service).unwrap().into_iter().map(|record| record.build.to_string()).collect()
    };
    assert_eq!(names(Some(&web())), ["v3", "v1", "v2"]);
    assert_eq!(names(None), ["a1", "v3", "v1", "v2"]);
    assert!(store.forget_build(&web(), &"v2".into()).unwrap());
    assert!(!store.forget_build(&web(), &"v2".into()).unwrap());
    let error = store.set_build_state(&web(), &"v2".into(), BuildState::Good, "", &at(9)).unwrap_err();
    assert!(matches!(error, StoreError::NoBuild { .. }), "{error}");
}

#[test]
fn a_wall_clock_that_jumps_changes_no_order_of_builds() {
    for step_ms in [-400 * 86_400_000_i64, 400 * 86_400_000] {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        appear(&store, "v1", BuildState::Good, 1);
        let stepped = Moment { unix_ms: at(2).unix_ms + step_ms, ..at(2) };
        store.build_appeared(&web(), &"v2".into(), BuildState::Good, "seen", &stepped).unwrap();
        appear(&store, "v3", BuildState::Probation, 3);
        let names: Vec<_> =
            store.builds(Some(&web())).unwrap().into_iter().map(|record| record.build.to_string()).collect();
        assert_eq!(names, ["v3", "v2", "v1"]);
        let good = store.last_good_build(&web()).unwrap().unwrap();
        assert_eq!(good.build.as_str(), "v2");
        // By the monotonic clock, as long as it is the same boot.
        assert_eq!(good.state_since.until(&at(12)), std::time::Duration::from_secs(10));
    }
}

#[test]
fn one_incident_is_open_per_service_and_build() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = store.open_incident(&incident_of("v2"), &at(1)).unwrap();
    assert_eq!((first.state, &first.detected), (State::Detected, &at(1)));
    assert_eq!(first.evidence["requests"], 14);
    let error = store.open_incident(&incident_of("v2"), &at(2)).unwrap_err();
    assert!(matches!(&error, StoreError::AlreadyOpen { open, .. } if *open == first.id), "{error}");
    let other = store.open_incident(&incident_of("v3"), &at(3)).unwrap();
    assert_eq!(store.open_incidents().unwrap(), [first.clone(), other.clone()]);
    assert_eq!(store.incidents(10).unwrap(), [other.clone(), first.clone()]);
    assert_eq!(store.incidents(1).unwrap(), [other]);

    store.advance(&first.id, Step::Observe, "would have rolled back to v1", &at(4)).unwrap();
    assert_eq!(store.open_incident_for(&web(), &"v2".into()).unwrap().unwrap().state, State::Observed);
    store.advance(&first.id, Step::Close, "replaced", &at(5)).unwrap();
    assert!(store.open_incident_for(&web(), &"v2".into()).unwrap().is_none());
    let again = store.open_incident(&incident_of("v2"), &at(6)).unwrap();
    assert_ne!(again.id, first.id);
    let error = store.incident(&"20170127-none0000".into()).unwrap_err();
    assert!(matches!(error, StoreError::NoIncident(_)), "{error}");
}

#[test]
fn a_rollback_is_recorded_from_intent_to_recovery() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    appear(&store, "v1", BuildState::Good, 0);
    appear(&store, "v2", BuildState::Probation, 1);
    let id = store.open_incident(&incident_of("v2"), &at(2)).unwrap().id;
    assert!(store.rollback_history(&web()).unwrap().0.is_empty(), "detected is not yet a rollback");

    let error = store.journal_intent(&id, 1, "too early", &at(3)).unwrap_err();
    assert!(matches!(error, StoreError::IllegalStep(_)), "{error}");
    store.advance(&id, Step::Arm, "enforce", &at(3)).unwrap();
    let journaled = store.journal_intent(&id, 1, "enforce", &at(3)).unwrap();
    assert_eq!((journaled.state, journaled.intent), (State::IntentJournaled, Some(at(3))));
    let bad = store.build(&web(), &"v2".into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Condemned);
    assert!(bad.why.contains(id.as_str()), "{}", bad.why);

    let process = HookProcess { pid: 4711, start_ticks: 12345, boot: "boot".to_owned() };
    store.hook_started(&id, 1, &process, &at(4)).unwrap();
    let again = HookEnd { outcome: "exit 75".to_owned(), exit_code: Some(75), ..HookEnd::default() };
    assert_eq!(store.hook_ended(&id, 1, &again, Step::TryAgain, &at(5)).unwrap().state, State::Armed);
    let second = store.journal_intent(&id, 2, "again", &at(6)).unwrap();
    assert_eq!(second.intent, Some(at(3)), "an attempt is not another rollback");
    store.hook_started(&id, 2, &process, &at(7)).unwrap();
    let done = HookEnd {
        outcome: "done".to_owned(),
        exit_code: Some(0),
        stdout: "flipped\n".to_owned(),
        ..HookEnd::default()
    };
    store.hook_ended(&id, 2, &done, Step::HookDone, &at(8)).unwrap();
    store.advance(&id, Step::Verify, "", &at(8)).unwrap();
    let found = VerificationRecord {
        good_served_after: Some(Duration::from_millis(400)),
        bad_served_until: None,
        ended_after: Duration::from_secs(1),
        requests: 5,
        mean_cpu: Some(Duration::from_millis(50)),
        limit: Some(Duration::from_millis(62)),
        baseline: Some(Duration::from_micros(48_500)),
    };
    assert_eq!(store.verification(&id).unwrap(), None);
    store.verified(&id, Step::Recover, "5 requests, 50 ms each", &found, &at(9)).unwrap();
    assert_eq!(store.verification(&id).unwrap(), Some(found));

    let attempts = store.attempts(&id).unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!((attempts[0].exit_code, attempts[1].exit_code), (Some(75), Some(0)));
    assert_eq!(attempts[1].process.as_ref(), Some(&process));
    assert_eq!((attempts[1].stdout.as_str(), &attempts[1].ended), ("flipped\n", &Some(at(8))));
    let timeline: Vec<_> = store.events(&id).unwrap().into_iter().map(|event| event.to.name()).collect();
    assert_eq!(
        timeline,
        [
            "detected",
            "armed",
            "intent_journaled",
            "hook_running",
            "armed",
            "intent_journaled",
            "hook_running",
            "hook_done",
            "verifying",
            "recovered"
        ]
    );
    let history = store.rollback_history(&web()).unwrap();
    assert_eq!(history.0.len(), 1);
    assert_eq!(history.restored(&"v1".into()).map(|mark| &mark.incident), Some(&id));
    assert!(store.open_incidents().unwrap().is_empty());
}

#[test]
fn an_illegal_step_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    appear(&store, "v2", BuildState::Probation, 1);
    let id = store.open_incident(&incident_of("v2"), &at(2)).unwrap().id;
    let error = store.advance(&id, Step::Recover, "", &at(3)).unwrap_err();
    assert!(matches!(error, StoreError::IllegalStep(_)), "{error}");
    let process = HookProcess { pid: 1, start_ticks: 1, boot: "boot".to_owned() };
    assert!(store.hook_started(&id, 1, &process, &at(3)).is_err());
    store.advance(&id, Step::Ask, "", &at(4)).unwrap();
    let no = Operator::Rejected { by: "uid 1000".to_owned() };
    let rejected = store.decided(&id, &no, &at(5)).unwrap();
    assert_eq!((rejected.state, rejected.rejected_by.as_deref()), (State::Closed, Some("uid 1000")));
    assert_eq!(
        store.rejected_by(&web(), &"v2".into(), IncidentKind::Cost).unwrap().as_deref(),
        Some("uid 1000")
    );
    assert_eq!(store.rejected_by(&web(), &"v1".into(), IncidentKind::Cost).unwrap(), None);
    assert!(store.journal_intent(&id, 1, "", &at(6)).is_err(), "a rejected incident ran its hook");
    assert!(store.attempts(&id).unwrap().is_empty());
    assert_eq!(store.events(&id).unwrap().len(), 3);
    let bad = store.build(&web(), &"v2".into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Probation, "condemned by an intent that was refused");
}

#[test]
fn a_pardon_lifts_what_its_own_incident_condemned_and_nothing_else() {
    for by_hand in [false, true] {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        appear(&store, "v1", BuildState::Good, 0);
        appear(&store, "v2", BuildState::Probation, 1);
        let id = store.open_incident(&incident_of("v2"), &at(2)).unwrap().id;
        store.advance(&id, Step::Arm, "", &at(3)).unwrap();
        store.journal_intent(&id, 1, "", &at(3)).unwrap();
        let process = HookProcess { pid: 4711, start_ticks: 12345, boot: "boot".to_owned() };
        store.hook_started(&id, 1, &process, &at(4)).unwrap();
        store.hook_ended(&id, 1, &HookEnd::default(), Step::HookDone, &at(5)).unwrap();
        store.advance(&id, Step::Verify, "", &at(5)).unwrap();
        if by_hand {
            let why = "condemned by uid 1000";
            store.set_build_state(&web(), &"v2".into(), BuildState::Condemned, why, &at(6)).unwrap();
        }
        let escalated = store.advance(&id, Step::Exonerate, "the good build costs as much", &at(7)).unwrap();
        assert_eq!(escalated.state, State::Escalated);
        let build = store.build(&web(), &"v2".into()).unwrap().unwrap();
        let expected = if by_hand { BuildState::Condemned } else { BuildState::Probation };
        assert_eq!(build.state, expected, "{}", build.why);
        assert!(by_hand || build.why.contains("was not the cause"), "{}", build.why);
        assert_eq!(store.breaker(&web()).unwrap().map(|breaker| breaker.incident), Some(id));
    }
}

#[test]
fn a_pause_is_kept_replaced_and_ended() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.pause().unwrap(), None);
    let pause = |by: &str, lasts| PausedUntil { by: by.to_owned(), since: at(1), lasts };
    store.set_pause(&pause("uid 0", Duration::from_hours(1))).unwrap();
    let later = pause("uid 1000", Duration::from_hours(2));
    store.set_pause(&later).unwrap();
    assert_eq!(store.pause().unwrap(), Some(later));
    assert!(store.end_pause().unwrap());
    assert!(!store.end_pause().unwrap());
    assert_eq!(store.pause().unwrap(), None);
}
