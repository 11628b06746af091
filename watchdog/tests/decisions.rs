//! What people decided, and the audit trail, on a real file system.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use watchdog::config::Mode;
use watchdog::control::{Command, GateVerdict, Outcome, ledger};
use watchdog::decision::{AuditEntry, Opinion, Subject, WOULD_HAVE_RUN, WOULD_NOT_HAVE_RUN, Who};
use watchdog::incident::{BuildState, Moment, NewIncident, Step};
use watchdog::model::ServiceName;
use watchdog::store::{BuildChange, BuildWrite, Change, DATABASE, NewDecision, Store, Written};

fn web() -> ServiceName {
    "web".into()
}

fn line(command: &str, done: bool) -> AuditEntry {
    AuditEntry {
        at: Moment::now(),
        who: Who { uid: Some(1000), name: "ann".to_owned() },
        command: command.to_owned(),
        done,
        said: "so be it".to_owned(),
    }
}

fn on_build(build: &str, endpoint: Option<&str>, opinion: Opinion) -> Subject {
    Subject::Build { service: web(), build: build.into(), endpoint: endpoint.map(Into::into), opinion }
}

/// As the agent does it: the decision, and what it makes of the build.
fn decide(store: &Store, subject: Subject, holds_for: Option<Duration>, state: Option<BuildState>) -> i64 {
    let Subject::Build { build, .. } = &subject else { panic!("of a build") };
    let build = state.map(|state| BuildChange {
        service: web(),
        build: build.clone(),
        state: Some(state),
        anew: false,
        why: "decided by ann".to_owned(),
    });
    let replaced = store.decisions().unwrap().replaced_by(&subject).map(|decision| decision.id);
    let change = Change {
        ends: replaced.into_iter().collect(),
        new: Some(NewDecision { subject, holds_for, before: Some(BuildState::Probation) }),
        build,
        audit: line("builds", true),
    };
    store.change(&change).unwrap().unwrap().id
}

fn store_with(builds: &[(&str, BuildState)]) -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (build, state) in builds {
        store.build_appeared(&web(), &(*build).into(), *state, "seen", &Moment::now()).unwrap();
    }
    (dir, store)
}

fn state_of(store: &Store, build: &str) -> Option<BuildState> {
    store.build(&web(), &build.into()).unwrap().map(|record| record.state)
}

#[test]
fn decisions_are_kept_over_a_restart_with_who_made_them() {
    let (dir, store) = store_with(&[("v1", BuildState::Adopted), ("v2", BuildState::Probation)]);
    let hour = Duration::from_hours(1);
    decide(&store, on_build("v2", None, Opinion::Condemned), Some(hour), Some(BuildState::Condemned));
    decide(&store, on_build("v9", Some("login"), Opinion::Accepted), None, None);
    let mode = NewDecision {
        subject: Subject::Mode { service: web(), mode: Mode::Observe },
        holds_for: None,
        before: None,
    };
    let change = Change { ends: vec![], new: Some(mode), build: None, audit: line("mode web observe", true) };
    store.change(&change).unwrap();
    let before = store.decisions().unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let after = store.decisions().unwrap();
    assert_eq!(before.0, after.0);
    assert_eq!(after.0.len(), 3);
    assert_eq!(after.0[0].who, Who { uid: Some(1000), name: "ann".to_owned() });
    assert_eq!((after.0[0].holds_for, after.0[0].before), (Some(hour), Some(BuildState::Probation)));
    assert_eq!(after.mode(&web()).map(|(_, mode)| mode), Some(Mode::Observe));
    assert_eq!(state_of(&store, "v2"), Some(BuildState::Condemned));
    assert_eq!(state_of(&store, "v9"), None, "a decision alone makes no build known");
    let trail: Vec<_> = store.audit(10).unwrap().into_iter().map(|line| line.command).collect();
    assert_eq!(trail, ["mode web observe", "builds", "builds"]);
}

#[test]
fn a_decision_takes_the_place_of_the_one_before_it() {
    let (_dir, store) = store_with(&[("v2", BuildState::Probation)]);
    let first = decide(&store, on_build("v2", None, Opinion::Condemned), None, Some(BuildState::Condemned));
    let second = decide(&store, on_build("v2", None, Opinion::Accepted), None, Some(BuildState::Good));
    assert!(second > first);
    let decisions = store.decisions().unwrap();
    assert_eq!(decisions.0.iter().map(|decision| decision.id).collect::<Vec<_>>(), [second]);
    assert_eq!(state_of(&store, "v2"), Some(BuildState::Good));
    // The ledger itself does not take two at once.
    let twice = Change {
        ends: vec![],
        new: Some(NewDecision {
            subject: on_build("v2", None, Opinion::Condemned),
            holds_for: None,
            before: None,
        }),
        build: None,
        audit: line("builds condemn web v2", true),
    };
    assert!(store.change(&twice).is_err());
    assert_eq!(store.audit(10).unwrap().len(), 2, "half a change was kept");
}

#[test]
fn a_build_that_is_forgotten_is_judged_anew_or_unknown() {
    let (_dir, store) = store_with(&[("v1", BuildState::Good), ("v2", BuildState::Condemned)]);
    let figures = BuildWrite {
        service: web(),
        build: "v2".into(),
        what: Written::Whole { cells: vec![], progress: "{}".to_owned() },
    };
    store.save(&[figures], &[]).unwrap();
    let forget = |state| Change {
        ends: vec![],
        new: None,
        build: Some(BuildChange {
            service: web(),
            build: "v2".into(),
            state,
            anew: true,
            why: "forgotten".to_owned(),
        }),
        audit: line("builds forget web v2", true),
    };
    store.change(&forget(Some(BuildState::Probation))).unwrap();
    assert_eq!(state_of(&store, "v2"), Some(BuildState::Probation));
    assert_eq!(store.figures(&web(), &"v2".into()).unwrap().progress, None);
    store.change(&forget(None)).unwrap();
    assert_eq!(state_of(&store, "v2"), None);
    assert_eq!(state_of(&store, "v1"), Some(BuildState::Good));
}

#[test]
fn a_build_condemned_on_one_endpoint_is_no_target_of_a_rollback() {
    let (_dir, store) = store_with(&[("v1", BuildState::Good), ("v2", BuildState::Good)]);
    let target = || store.last_good_build(&web()).unwrap().map(|record| record.build.to_string());
    assert_eq!(target().as_deref(), Some("v2"));
    let id = decide(&store, on_build("v2", Some("login"), Opinion::Condemned), None, None);
    assert_eq!(target().as_deref(), Some("v1"));
    let pardon = Change { ends: vec![id], new: None, build: None, audit: line("builds forget", true) };
    store.change(&pardon).unwrap();
    assert_eq!(target().as_deref(), Some("v2"));
}

#[test]
fn the_trail_is_bounded_and_keeps_the_newest() {
    let (dir, store) = store_with(&[]);
    store.record(&line("the oldest", false)).unwrap();
    drop(store);
    // As ten thousand commands would: the numbers go on.
    rusqlite::Connection::open(dir.path().join(DATABASE))
        .unwrap()
        .execute("UPDATE sqlite_sequence SET seq = 10000 WHERE name = 'audit'", [])
        .unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.record(&line("the newest", true)).unwrap();
    let trail = store.audit(u32::MAX).unwrap();
    assert_eq!(trail.iter().map(|line| line.command.as_str()).collect::<Vec<_>>(), ["the newest"]);
}

#[test]
fn what_was_only_observed_is_counted_by_what_would_have_been() {
    let (_dir, store) = store_with(&[("v1", BuildState::Good)]);
    for (build, note) in [
        ("v2", format!("{WOULD_HAVE_RUN}, back to v1")),
        ("v3", format!("{WOULD_HAVE_RUN}, back to v1")),
        ("v4", format!("{WOULD_NOT_HAVE_RUN}, because of the cooldown")),
    ] {
        store.build_appeared(&web(), &build.into(), BuildState::Probation, "new", &Moment::now()).unwrap();
        let new = NewIncident {
            service: web(),
            endpoint: "login".into(),
            bad_build: build.into(),
            good_build: Some("v1".into()),
            reason: "dear".to_owned(),
            evidence: json!({}),
            mode: Mode::Observe,
        };
        let incident = store.open_incident(&new, &Moment::now()).unwrap();
        store.advance(&incident.id, Step::Observe, &note, &Moment::now()).unwrap();
    }
    let observed = store.observed().unwrap().remove(&web()).unwrap();
    assert_eq!((observed.would_have_rolled_back, observed.would_have_refused), (2, 1));
    assert!(observed.last_unix_ms.is_some());
}

fn gate(dir: &Path, build: &str) -> GateVerdict {
    let command = Command::Gate { service: web(), build: build.into() };
    match ledger::answer(dir, &command).unwrap() {
        Outcome::Gate(answer) => answer.answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_gate_knows_without_an_agent_what_is_known() {
    let (dir, store) =
        store_with(&[("v1", BuildState::Good), ("v2", BuildState::Condemned), ("v3", BuildState::Probation)]);
    decide(&store, on_build("v9", None, Opinion::Condemned), None, Some(BuildState::Condemned));
    decide(&store, on_build("v8", None, Opinion::Condemned), Some(Duration::ZERO), None);
    assert_eq!(gate(dir.path(), "v1"), GateVerdict::Within);
    assert_eq!(gate(dir.path(), "v2"), GateVerdict::KnownBad);
    assert_eq!(gate(dir.path(), "v3"), GateVerdict::Undecided);
    assert_eq!(gate(dir.path(), "v9"), GateVerdict::KnownBad, "condemned before anybody saw it");
    assert_eq!(gate(dir.path(), "v8"), GateVerdict::Undecided, "its condemnation is over");
    assert_eq!(gate(dir.path(), "v7"), GateVerdict::Undecided);
}
