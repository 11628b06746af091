//! A rollback from the detected incident to the end of its hook.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{
    BAD, GOOD, block_on, detect, detect_in, last_note, live, new_incident, rollback, runs, script, service,
    text, with_timeout,
};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Driver, Live, OperateError, RollbackError, RollbackEvent};
use watchdog::config::{Mode, RollbackConfig};
use watchdog::incident::{
    BuildState, Decision, Incident, IncidentId, Moment, NewIncident, Operator, PausedUntil, Reconciliation,
    Refusal, State, Step,
};
use watchdog::store::Store;

fn driver(dir: &TempDir) -> (Arc<Store>, Driver) {
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    (Arc::clone(&store), Driver::new(store).with_backoff(Duration::from_millis(20)))
}

/// Decides about an incident, and runs the hook when that is the decision.
fn carry(driver: &Driver, hook: &RollbackConfig, id: &IncidentId) -> (Incident, Vec<RollbackEvent>) {
    let (settled, decision) = driver.settle(&service(Some(hook.clone())), id, &live(Mode::Enforce)).unwrap();
    if !matches!(decision, Decision::Act | Decision::Rehearse) {
        return (settled, Vec::new());
    }
    assert_eq!(settled.state, State::Armed);
    run(driver, hook, id)
}

fn run(driver: &Driver, hook: &RollbackConfig, id: &IncidentId) -> (Incident, Vec<RollbackEvent>) {
    let (events, mut told) = unbounded_channel();
    let incident = block_on(driver.roll_back(hook.clone(), id, &events)).unwrap();
    let mut list = Vec::new();
    while let Ok(event) = told.try_recv() {
        list.push(event);
    }
    (incident, list)
}

/// Runs a whole rollback on a fresh ledger.
fn roll_back(dir: &TempDir, hook: &RollbackConfig) -> (Arc<Store>, Incident, Vec<RollbackEvent>) {
    let (store, driver) = driver(dir);
    let id = detect(&store);
    let (incident, events) = carry(&driver, hook, &id);
    (store, incident, events)
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
    let (store, incident, events) = roll_back(&dir, &rollback(exec));
    let id = &incident.id;
    assert_eq!(incident.state, State::Verifying);
    assert_eq!(
        timeline(&store, id),
        ["detected", "armed", "intent_journaled", "hook_running", "hook_done", "verifying"]
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
    let (store, incident, _) = roll_back(&dir, &rollback([text(&hook)]));
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
        let (store, incident, events) = roll_back(&dir, &with_timeout(rollback(exec), timeout));
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
    let (store, driver) = driver(&dir);
    let id = detect(&store);
    let (events, _told) = unbounded_channel();
    let early = block_on(driver.roll_back(hook.clone(), &id, &events));
    assert!(matches!(early, Err(RollbackError::Store(_))), "an incident that nobody decided on was run");
    assert_eq!(store.incident(&id).unwrap().state, State::Detected);
    let (incident, _) = carry(&driver, &hook, &id);
    assert_eq!(incident.state, State::Verifying);
    let again = block_on(driver.roll_back(hook.clone(), &id, &events));
    assert!(matches!(again, Err(RollbackError::Store(_))));
    assert_eq!(store.incident(&id).unwrap().state, State::Verifying, "the second caller did harm");
    assert_eq!(runs(&log), 1);

    let none = NewIncident { good_build: None, ..new_incident("v9") };
    store.build_appeared(&"web".into(), &"v9".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let id = store.open_incident(&none, &Moment::now()).unwrap().id;
    let (incident, _) = carry(&driver, &hook, &id);
    assert_eq!(incident.state, State::Escalated);
    assert!(last_note(&store, &id).contains("no good build"));
}

#[test]
fn the_decision_comes_from_the_ledger_and_is_written_down() {
    let decided = |mode, prepare: &dyn Fn(&Store)| {
        let dir = TempDir::new().unwrap();
        let (store, driver) = driver(&dir);
        let id = detect_in(&store, mode);
        prepare(&store);
        let web = service(Some(rollback(["/bin/true"])));
        let (incident, decision) = driver.settle(&web, &id, &live(mode)).unwrap();
        (decision, incident.state, last_note(&store, &id))
    };
    let (decision, state, _) = decided(Mode::Enforce, &|_| ());
    assert_eq!((decision, state), (Decision::Act, State::Armed));
    let (decision, state, note) = decided(Mode::Observe, &|_| ());
    assert_eq!((decision, state), (Decision::Observe { refusal: None }, State::Observed));
    assert!(note.contains(GOOD), "{note}");
    let (decision, state, note) = decided(Mode::Approve, &|_| ());
    assert_eq!((decision, state), (Decision::Ask { because: None }, State::AwaitingApproval));
    assert!(note.contains("load-watchdog approve"), "{note}");
    let (_, state, note) = decided(Mode::Enforce, &|store| {
        store
            .set_build_state(&"web".into(), &GOOD.into(), BuildState::Condemned, "", &Moment::now())
            .unwrap();
    });
    assert_eq!(state, State::Escalated);
    assert!(note.contains("not rolled back") && note.contains("condemned"), "{note}");
    let (_, state, note) = decided(Mode::Enforce, &|store| {
        let lasts = Duration::from_hours(1);
        store.set_pause(&PausedUntil { by: "uid 0".to_owned(), since: Moment::now(), lasts }).unwrap();
    });
    assert_eq!(state, State::AwaitingApproval);
    assert!(note.contains("uid 0 paused all rollbacks"), "{note}");
}

#[test]
fn after_a_rollback_the_cooldown_and_the_condemnation_hold() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let hook = rollback(["/bin/true"]);
    let first = detect(&store);
    carry(&driver, &hook, &first);
    // Another bad build while the first rollback is verified.
    let name = "web".into();
    store.build_appeared(&name, &"v3".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let second = store.open_incident(&new_incident("v3"), &Moment::now()).unwrap().id;
    let (settled, decision) =
        driver.settle(&service(Some(hook.clone())), &second, &live(Mode::Enforce)).unwrap();
    assert_eq!(settled.state, State::AwaitingApproval);
    assert!(
        matches!(&decision, Decision::Ask { because: Some(Refusal::UnderWay { incident }) } if *incident == first)
    );
    let approve = Operator::Approved { by: "uid 0".to_owned() };
    let web = service(Some(hook.clone()));
    let operate = |operator: &Operator| driver.operate(Some((&web, &live(Mode::Enforce))), &second, operator);
    let early = operate(&approve);
    assert!(matches!(early, Err(OperateError::Refused(Refusal::UnderWay { .. }))), "{early:?}");
    store.advance(&first, Step::Recover, "", &Moment::now()).unwrap();
    // The first one is over: a person may overrule the cooldown.
    let armed = operate(&approve).unwrap();
    assert_eq!((armed.state, armed.approved_by.as_deref()), (State::Armed, Some("uid 0")));
    let (verifying, _) = run(&driver, &hook, &second);
    store.advance(&verifying.id, Step::Recover, "", &Moment::now()).unwrap();

    // A person deploys the condemned build again: that is for a person to settle.
    let again = detect(&store);
    let (settled, _) = carry(&driver, &hook, &again);
    assert_eq!(settled.state, State::AwaitingApproval);
    let said = last_note(&store, &again);
    assert!(said.contains("was deployed again") && said.contains(first.as_str()), "{said}");
    driver.operate(None, &again, &Operator::Rejected { by: "uid 7".to_owned() }).unwrap();
    let third = detect(&store);
    store.set_build_state(&name, &BAD.into(), BuildState::Probation, "pardoned", &Moment::now()).unwrap();
    carry(&driver, &hook, &third);
    let said = last_note(&store, &third);
    assert!(said.contains("uid 7 rejected"), "{said}");
    assert_eq!(store.rollback_history(&name).unwrap().0.len(), 2);
}

#[test]
fn a_failed_rollback_opens_the_breaker_until_it_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let name = "web".into();
    let hook = RollbackConfig { cooldown: Duration::ZERO, ..rollback(["/bin/false"]) };
    let (failed, _) = carry(&driver, &hook, &detect(&store));
    assert_eq!(failed.state, State::Escalated);
    assert_eq!(store.breaker(&name).unwrap().map(|breaker| breaker.incident), Some(failed.id.clone()));
    store.build_appeared(&name, &"v3".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let second = store.open_incident(&new_incident("v3"), &Moment::now()).unwrap().id;
    assert_eq!(carry(&driver, &hook, &second).0.state, State::AwaitingApproval);
    assert!(last_note(&store, &second).contains("circuit breaker is open"));
    // The escalation of an incident for which nothing was run opens nothing, and acknowledging closes it.
    driver.operate(None, &failed.id, &Operator::Acknowledged { by: "uid 0".to_owned() }).unwrap();
    assert_eq!(store.breaker(&name).unwrap(), None);
    driver.escalate(&second, "nobody answered").unwrap();
    assert_eq!(store.breaker(&name).unwrap(), None);
    store.build_appeared(&name, &"v4".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let third = store.open_incident(&new_incident("v4"), &Moment::now()).unwrap().id;
    assert_eq!(carry(&driver, &rollback(["/bin/true"]), &third).0.state, State::AwaitingApproval, "cooldown");
    let ready = RollbackConfig { cooldown: Duration::ZERO, ..rollback(["/bin/true"]) };
    store.build_appeared(&name, &"v5".into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let fourth = store.open_incident(&new_incident("v5"), &Moment::now()).unwrap().id;
    assert_eq!(carry(&driver, &ready, &fourth).0.state, State::Verifying);
}

#[test]
fn a_newer_deploy_is_never_undone() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let id = detect(&store);
    let live = Live { newer_build: Some("v3".into()), ..live(Mode::Enforce) };
    let (settled, _) = driver.settle(&service(Some(rollback(["/bin/true"]))), &id, &live).unwrap();
    assert_eq!(settled.state, State::Escalated);
    assert!(last_note(&store, &id).contains("v3 was deployed after"));
}

#[test]
fn a_dry_run_goes_all_the_way_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let log = text(&dir.path().join("log"));
    let line = format!("echo $LOAD_WATCHDOG_TEST $LOAD_WATCHDOG_BAD_BUILD $LOAD_WATCHDOG_GOOD_BUILD > {log}");
    let hook = rollback(["/bin/sh", "-c", &line]);
    let id = detect(&store);
    let dry = Live { dry_run: true, ..live(Mode::Enforce) };
    let (armed, decision) = driver.settle(&service(Some(hook.clone())), &id, &dry).unwrap();
    assert_eq!((armed.state, armed.dry_run, decision), (State::Armed, true, Decision::Rehearse));
    let (ended, events) = run(&driver, &hook, &id);
    assert_eq!(ended.state, State::Observed);
    assert!(
        matches!(events.last(), Some(RollbackEvent::Rehearsed { note, .. }) if note.contains("outcome: done"))
    );
    assert_eq!(fs::read_to_string(log).unwrap(), "1 test-bad-build test-good-build\n");
    let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Probation);
    assert!(store.rollback_history(&"web".into()).unwrap().0.is_empty(), "it counts for no limit");
    assert_eq!(
        timeline(&store, &id),
        ["detected", "armed", "intent_journaled", "hook_running", "hook_done", "observed"]
    );
}

#[test]
fn without_a_durable_step_nothing_is_run() {
    for table in ["incident_events", "hook_attempts"] {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("log");
        let (store, driver) = driver(&dir);
        let id = detect(&store);
        let hook = rollback(["/bin/sh", "-c", &format!("echo run >> {}", text(&log))]);
        if table == "hook_attempts" {
            let (armed, _) = driver.settle(&service(Some(hook.clone())), &id, &live(Mode::Enforce)).unwrap();
            assert_eq!(armed.state, State::Armed);
        }
        let ledger = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
        let full = format!(
            "CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        );
        ledger.execute_batch(&full).unwrap();
        if table == "incident_events" {
            let error = driver.settle(&service(Some(hook)), &id, &live(Mode::Enforce)).unwrap_err();
            assert!(error.to_string().contains("disk full"), "{error}");
            assert_eq!(store.incident(&id).unwrap().state, State::Detected);
        } else {
            let (events, mut told) = unbounded_channel();
            let escalated = block_on(driver.roll_back(hook, &id, &events)).unwrap();
            assert_eq!(escalated.state, State::Escalated);
            assert!(last_note(&store, &id).contains("disk full"));
            assert!(matches!(told.try_recv(), Ok(RollbackEvent::Escalated { .. })));
        }
        let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
        assert_eq!(bad.state, BuildState::Probation, "half of the intent was kept");
        assert_eq!(runs(&log), 0);
    }
}

#[test]
fn an_approved_incident_runs_though_the_mode_only_asks() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let hook = rollback(["/bin/true"]);
    let web = service(Some(hook.clone()));
    let id = detect(&store);
    driver.settle(&web, &id, &live(Mode::Approve)).unwrap();
    let left = driver.reconcile().unwrap();
    assert_eq!(left[0].next, Reconciliation::Leave);
    let approve = Operator::Approved { by: "uid 0".to_owned() };
    let armed = driver.operate(Some((&web, &live(Mode::Approve))), &id, &approve).unwrap();
    assert_eq!(armed.state, State::Armed);
    let twice = driver.operate(Some((&web, &live(Mode::Approve))), &id, &approve);
    assert!(matches!(twice, Err(OperateError::Store(_))), "{twice:?}");
    // An agent that dies now finds it armed, and the approval with it.
    assert_eq!(driver.reconcile().unwrap()[0].next, Reconciliation::Decide);
    let (settled, decision) = driver.settle(&web, &id, &live(Mode::Approve)).unwrap();
    assert_eq!((settled.state, decision), (State::Armed, Decision::Act));
    assert_eq!(run(&driver, &hook, &id).0.state, State::Verifying);
}

/// Runs the hook before the rollback of an armed incident.
fn prepare(driver: &Driver, hook: &RollbackConfig, id: &IncidentId) -> (Incident, Vec<RollbackEvent>) {
    let (events, mut told) = unbounded_channel();
    let incident = block_on(driver.prepare(hook.pre.as_ref().unwrap(), id, &events)).unwrap();
    (incident, std::iter::from_fn(|| told.try_recv().ok()).collect())
}

/// A rollback with a hook before it; both tell the log what they were told, and `pre` does more.
fn with_pre(dir: &TempDir, pre: &str) -> (RollbackConfig, PathBuf) {
    let log = dir.path().join("log");
    let told = "$LOAD_WATCHDOG_HOOK $LOAD_WATCHDOG_ATTEMPT $LOAD_WATCHDOG_TEST $LOAD_WATCHDOG_BAD_BUILD";
    let line = |more: &str| format!("printf '%s\\n' \"{told}\" | head -1 >> {}; {more}", text(&log));
    let pre = rollback(["/bin/sh", "-c", &line(pre)]).hook;
    (RollbackConfig { pre: Some(pre), ..rollback(["/bin/sh", "-c", &line("true")]) }, log)
}

#[test]
fn the_hook_before_the_rollback_comes_first_and_the_rails_are_asked_again() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let (hook, log) = with_pre(&dir, "[ $LOAD_WATCHDOG_ATTEMPT -gt 1 ] || exit 75");
    let web = service(Some(hook.clone()));
    let id = detect(&store);
    driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
    let (incident, events) = prepare(&driver, &hook, &id);
    assert_eq!(incident.state, State::Armed);
    assert!(matches!(&events[..], [RollbackEvent::Prepared { .. }]), "{events:?}");
    assert!(store.attempts(&id).unwrap().is_empty(), "it is no attempt of the rollback");
    let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Probation, "nothing is condemned before the intent");

    // A person condemns the build meanwhile, which is no reason against it.
    let condemned = BuildState::Condemned;
    store.set_build_state(&"web".into(), &BAD.into(), condemned, "by uid 0", &Moment::now()).unwrap();
    let (still, decision) = driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
    assert_eq!((still.state, decision), (State::Armed, Decision::Act));

    // The agent is killed now: the next one decides anew, and prepares again.
    assert_eq!(driver.reconcile().unwrap()[0].next, Reconciliation::Decide);
    let lasts = Duration::from_hours(1);
    let pause = PausedUntil { by: "uid 0".to_owned(), since: Moment::now(), lasts };
    store.set_pause(&pause).unwrap();
    let (asked, _) = driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
    assert_eq!(asked.state, State::AwaitingApproval, "paused while the first hook ran");
    let approve = Operator::Approved { by: "uid 0".to_owned() };
    driver.operate(Some((&web, &live(Mode::Enforce))), &id, &approve).unwrap();
    prepare(&driver, &hook, &id);
    let (again, decision) = driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
    assert_eq!((again.state, decision), (State::Armed, Decision::Act));
    assert_eq!(run(&driver, &hook, &id).0.state, State::Verifying);
    let first_of_bad = BAD.lines().next().unwrap();
    let lines = ["pre 1", "pre 2", "pre 1", "pre 2", "rollback 1"];
    let expected = lines.map(|line| format!("{line} 0 {first_of_bad}"));
    assert_eq!(fs::read_to_string(log).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn nothing_is_rolled_back_unless_the_hook_before_it_succeeds() {
    let dir = TempDir::new().unwrap();
    let (store, driver) = driver(&dir);
    let (hook, log) = with_pre(&dir, "echo a deploy is under way >&2; exit 3");
    let web = service(Some(hook.clone()));
    let id = detect(&store);
    driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
    let (incident, events) = prepare(&driver, &hook, &id);
    assert_eq!(incident.state, State::Escalated);
    let said = last_note(&store, &id);
    assert!(said.contains("failed (exit 3)") && said.contains("a deploy is under way"), "{said}");
    assert!(matches!(&events[..], [RollbackEvent::Escalated { note, .. }] if *note == said), "{events:?}");
    assert!(!fs::read_to_string(&log).unwrap().contains("rollback"));
    let bad = store.build(&"web".into(), &BAD.into()).unwrap().unwrap();
    assert_eq!(bad.state, BuildState::Probation, "condemned for a rollback that did not begin");
    assert_eq!(store.breaker(&"web".into()).unwrap(), None);
    let (events, _told) = unbounded_channel();
    assert!(block_on(driver.roll_back(hook.clone(), &id, &events)).is_err(), "it was run all the same");

    store.advance(&id, Step::Close, "acknowledged", &Moment::now()).unwrap();
    let rehearsed = detect(&store);
    let dry = Live { dry_run: true, ..live(Mode::Enforce) };
    driver.settle(&web, &rehearsed, &dry).unwrap();
    let (observed, events) = prepare(&driver, &hook, &rehearsed);
    assert_eq!(observed.state, State::Observed);
    assert!(matches!(&events[..], [RollbackEvent::Rehearsed { .. }]), "{events:?}");
    assert_eq!(fs::read_to_string(log).unwrap().lines().last(), Some("pre 1 1 test-bad-build"));
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
        let driver = Driver::new(Arc::clone(&store));
        let (events, _told) = unbounded_channel();
        let verdict = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).unwrap());
        block_on(async {
            let id = detect(&store);
            let hook = rollback(exec);
            driver.settle(&service(Some(hook.clone())), &id, &live(Mode::Enforce)).unwrap();
            driver.roll_back(hook, &id, &events).await
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
