//! A rollback from the detected incident to the end of its hook.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{
    BAD, GOOD, block_on, detect, detect_in, last_note, rollback, runs, script, service, text, with_timeout,
};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Rollback, RollbackError, RollbackEvent, reconcile_open, settle};
use watchdog::config::{Mode, RollbackConfig};
use watchdog::incident::{
    BuildState, Decision, Incident, IncidentId, Moment, NewIncident, Reconciliation, State, Step,
};
use watchdog::store::Store;

/// Runs a whole rollback on a fresh ledger.
fn roll_back(dir: &TempDir, hook: RollbackConfig) -> (Arc<Store>, Incident, Vec<RollbackEvent>) {
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let id = detect(&store);
    let (events, mut told) = unbounded_channel();
    let incident = block_on(async {
        let rollback = Rollback::start(Arc::clone(&store), hook, &id, "enforce").await.unwrap();
        rollback.with_backoff(Duration::from_millis(20)).drive(events).await.unwrap()
    });
    let mut list = Vec::new();
    while let Ok(event) = told.try_recv() {
        list.push(event);
    }
    (store, incident, list)
}

fn timeline(store: &Store, id: &IncidentId) -> Vec<&'static str> {
    store.events(id).unwrap().into_iter().map(|event| event.to.name()).collect()
}

#[test]
fn a_rollback_reaches_verifying_with_its_arguments_intact() {
    let dir = TempDir::new().unwrap();
    let hook = script(
        &dir,
        "hook",
        "#!/usr/bin/env python3\nimport json, os, sys\n\
         json.dump([sys.argv[1:], {k: v for k, v in os.environ.items() if 'WATCHDOG' in k}, json.load(sys.stdin)], \
         sys.stdout)\n",
    );
    let exec =
        [&text(&hook), "{good_build}", "bad={bad_build}", "{service}/{endpoint}", "{incident}", "two words"];
    let (store, incident, events) = roll_back(&dir, rollback(exec));
    let id = &incident.id;
    assert_eq!(incident.state, State::Verifying);
    assert_eq!(
        timeline(&store, id),
        ["detected", "intent_journaled", "hook_running", "hook_done", "verifying"]
    );
    let attempts = store.attempts(id).unwrap();
    let (arguments, environment, payload): (Vec<String>, BTreeMap<String, String>, serde_json::Value) =
        serde_json::from_str(&attempts[0].stdout).unwrap();
    let bad = format!("bad={BAD}");
    assert_eq!(arguments, [GOOD, &bad, "web/login", id.as_str(), "two words"]);
    assert_eq!(environment["LOAD_WATCHDOG_BAD_BUILD"], BAD);
    assert_eq!(environment["LOAD_WATCHDOG_GOOD_BUILD"], GOOD);
    assert_eq!(environment["LOAD_WATCHDOG_INCIDENT"], id.as_str());
    assert_eq!(environment["LOAD_WATCHDOG_TEST"], "0");
    assert_eq!((&payload["evidence"], &payload["bad_build"]), (&json!({"requests": 14}), &json!(BAD)));
    assert!(matches!(
        &events[..],
        [
            RollbackEvent::HookStarted { attempt: 1, .. },
            RollbackEvent::HookEnded { attempt: 1, .. },
            RollbackEvent::Verifying { .. }
        ]
    ));
    let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Condemned);
}

#[test]
fn exit_75_is_tried_again_under_the_same_id() {
    let dir = TempDir::new().unwrap();
    let log = text(&dir.path().join("log"));
    let hook = script(
        &dir,
        "hook",
        &format!(
            "#!/bin/sh\necho \"$LOAD_WATCHDOG_ATTEMPT $LOAD_WATCHDOG_INCIDENT\" >> {log}\n\
             [ $LOAD_WATCHDOG_ATTEMPT -lt 3 ] && exit 75\nexit 0\n"
        ),
    );
    let (store, incident, _) = roll_back(&dir, rollback([text(&hook)]));
    assert_eq!(incident.state, State::Verifying);
    let id = incident.id.as_str();
    assert_eq!(fs::read_to_string(log).unwrap(), format!("1 {id}\n2 {id}\n3 {id}\n"));
    let codes: Vec<_> =
        store.attempts(&incident.id).unwrap().iter().map(|attempt| attempt.exit_code).collect();
    assert_eq!(codes, [Some(75), Some(75), Some(0)]);
    assert_eq!(store.rollback_history(&"web".into()).unwrap().0.len(), 1, "retries are no further rollbacks");
}

#[test]
fn what_does_not_succeed_is_escalated_with_its_reason() {
    let cases: [(&str, Duration, &str, &str, usize); 5] = [
        ("exit 75", Duration::from_secs(9), "hook_failed", "asked to be tried again", 3),
        ("echo oops >&2; exit 3", Duration::from_secs(9), "hook_failed", "failed (exit 3)", 1),
        ("kill -TERM $$", Duration::from_secs(9), "hook_failed", "killed by SIGTERM", 1),
        ("sleep 9", Duration::from_millis(300), "hook_timed_out", "timed out after 300 ms", 1),
        ("", Duration::from_secs(9), "hook_failed", "does not exist", 1),
    ];
    for (body, timeout, through, note, attempts) in cases {
        let dir = TempDir::new().unwrap();
        let exec = if body.is_empty() { vec!["/absent/program"] } else { vec!["/bin/sh", "-c", body] };
        let (store, incident, events) = roll_back(&dir, with_timeout(rollback(exec), timeout));
        assert_eq!(incident.state, State::Escalated, "{body}");
        let said = last_note(&store, &incident.id);
        assert!(said.contains(note), "{body}: {said}");
        assert!(matches!(events.last(), Some(RollbackEvent::Escalated { note, .. }) if *note == said));
        assert_eq!(store.attempts(&incident.id).unwrap().len(), attempts, "{body}");
        let path = timeline(&store, &incident.id);
        assert_eq!(path[path.len() - 2..], [through, "escalated"], "{body}");
    }
}

#[test]
fn an_incident_is_begun_once_and_only_with_a_good_build() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let hook = rollback(["/bin/sh", "-c", &format!("echo run >> {}", text(&log))]);
    let (store, incident, _) = roll_back(&dir, hook.clone());
    let again = block_on(Rollback::start(Arc::clone(&store), hook.clone(), &incident.id, "again"));
    assert!(matches!(again, Err(RollbackError::Store(_))));
    assert_eq!(runs(&log), 1);

    let new = NewIncident {
        service: "web".into(),
        endpoint: "login".into(),
        bad_build: "v9".into(),
        good_build: None,
        reason: String::new(),
        evidence: json!({}),
        mode: Mode::Enforce,
    };
    let id = store.open_incident(&new, &Moment::now()).unwrap().id;
    let none = block_on(Rollback::start(Arc::clone(&store), hook, &id, ""));
    assert!(matches!(none, Err(RollbackError::NoGoodBuild(_))));
    assert_eq!(store.incident(&id).unwrap().state, State::Detected);
}

#[test]
fn the_decision_comes_from_the_ledger_and_is_written_down() {
    let decided = |mode, prepare: &dyn Fn(&Store)| {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = detect_in(&store, mode);
        prepare(&store);
        let web = service(Some(rollback(["/bin/true"])));
        let (incident, decision) = settle(&store, &web, &id, &Moment::now()).unwrap();
        (decision, incident.state, last_note(&store, &id))
    };
    let (decision, state, _) = decided(Mode::Enforce, &|_| ());
    assert_eq!((decision, state), (Decision::Act, State::Detected));
    let (decision, state, note) = decided(Mode::Observe, &|_| ());
    assert_eq!((decision, state), (Decision::Observe { refusal: None }, State::Observed));
    assert!(note.contains(GOOD), "{note}");
    let (decision, state, note) = decided(Mode::Approve, &|_| ());
    assert_eq!((decision, state), (Decision::AskApproval, State::AwaitingApproval));
    assert!(note.contains("load-watchdog approve"), "{note}");
    let (_, state, note) = decided(Mode::Enforce, &|store| {
        store
            .set_build_state(&"web".into(), &GOOD.into(), BuildState::Condemned, "", &Moment::now())
            .unwrap();
    });
    assert_eq!(state, State::Escalated);
    assert!(note.contains("not rolled back") && note.contains("condemned"), "{note}");
}

#[test]
fn after_a_rollback_the_cooldown_and_the_condemnation_hold() {
    let dir = TempDir::new().unwrap();
    let (store, incident, _) = roll_back(&dir, rollback(["/bin/true"]));
    store.advance(&incident.id, Step::Recover, "", &Moment::now()).unwrap();
    let web = service(Some(rollback(["/bin/true"])));
    // A person deploys the condemned build again: that is for a person to settle.
    let again = detect(&store);
    let (settled, _) = settle(&store, &web, &again, &Moment::now()).unwrap();
    assert_eq!(settled.state, State::Escalated);
    assert!(last_note(&store, &again).contains("only a build on probation"));
    // Another bad build right after it.
    let name = "web".into();
    store.build_appeared(&name, &"v3".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let new = NewIncident {
        service: name,
        endpoint: "login".into(),
        bad_build: "v3".into(),
        good_build: Some(GOOD.into()),
        reason: String::new(),
        evidence: json!({}),
        mode: Mode::Enforce,
    };
    let third = store.open_incident(&new, &Moment::now()).unwrap().id;
    settle(&store, &web, &third, &Moment::now()).unwrap();
    assert!(last_note(&store, &third).contains("cooldown is 1800 s"));
}

#[test]
fn without_a_durable_intent_nothing_is_run() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let id = detect(&store);
    rusqlite::Connection::open(dir.path().join("state/state.db"))
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON hook_attempts BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
    let hook = rollback(["/bin/sh", "-c", &format!("echo run >> {}", text(&log))]);
    let error = block_on(Rollback::start(Arc::clone(&store), hook, &id, "")).err().expect("was begun");
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(store.incident(&id).unwrap().state, State::Detected, "half of the intent was kept");
    let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Probation);
    assert_eq!(runs(&log), 0);
}

#[test]
fn an_approved_incident_runs() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let id = detect(&store);
    store.advance(&id, Step::AskApproval, "mode approve", &Moment::now()).unwrap();
    let left = reconcile_open(&store).unwrap();
    assert_eq!(left[0].next, Reconciliation::Leave);
    let (events, _told) = unbounded_channel();
    let incident = block_on(async {
        let hook = rollback(["/bin/true"]);
        Rollback::start(Arc::clone(&store), hook, &id, "approved by uid 0").await.unwrap().drive(events).await
    })
    .unwrap();
    assert_eq!(incident.state, State::Verifying);
}

/// From the verdict to the hook's first instruction: the incident and the intent are written durably on the way.
#[test]
fn the_hook_begins_soon_after_the_verdict() {
    let dir = TempDir::new().unwrap();
    let mut taken_ms = Vec::new();
    for round in 0..20 {
        let stamp = dir.path().join(format!("stamp{round}"));
        let exec = ["/bin/bash", "-c", &format!("echo $EPOCHREALTIME > {}", text(&stamp))].map(str::to_owned);
        let store = Arc::new(Store::open(&dir.path().join(format!("state{round}"))).unwrap());
        let (events, _told) = unbounded_channel();
        let verdict = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).unwrap());
        block_on(async {
            let id = detect(&store);
            Rollback::start(Arc::clone(&store), rollback(exec), &id, "").await.unwrap().drive(events).await
        })
        .unwrap();
        let begun: f64 = fs::read_to_string(stamp).unwrap().trim().replace(',', ".").parse().unwrap();
        taken_ms.push((begun - verdict.as_secs_f64()) * 1e3);
    }
    taken_ms.sort_by(f64::total_cmp);
    eprintln!(
        "verdict to the hook's first instruction: median {:.1} ms, least {:.1} ms, most {:.1} ms of 20",
        taken_ms[10], taken_ms[0], taken_ms[19]
    );
    // The aim is 50 ms; a machine that builds at the same time is given more.
    assert!(taken_ms[10] < 250.0, "{taken_ms:?}");
}
