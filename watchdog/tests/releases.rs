//! Builds that appeared outside a release window, from the ledger's first line to the end of the hook: the same machine, the same
//! rails, and never two hooks for one build.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{BAD, GOOD, block_on, last_note, live, new_incident, rollback, runs, service, text};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Driver, Live, OperateError};
use watchdog::clock;
use watchdog::config::{Config, Mode, ReleaseWindow, RollbackConfig, ServiceConfig};
use watchdog::incident::{
    BuildState, Decision, Incident, IncidentId, IncidentKind, Moment, NewIncident, Operator, PausedUntil,
    Refusal, State, Step,
};
use watchdog::store::{Release, Store};

const DETECTED: Release<'_> = Release { initial: BuildState::Probation, why: "appeared", alert: None };

/// Open on the day before yesterday, and on no other day of the week, so long after the present; or always.
fn window(open: bool) -> ReleaseWindow {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    // 1 January 1970 was a Thursday.
    let day = (clock::unix_ms() / 86_400_000 + 3 - 2).rem_euclid(7);
    let days = if open { "Mon-Sun" } else { DAYS[usize::try_from(day).unwrap()] };
    let text = format!(
        "[[service]]\nname = \"web\"\nmatch = {{ listen = 1 }}\n[service.release_window]\nallow = [\"{days} 00:00-23:59\"]\n\
         on_violation = \"rollback\"\n[[service.endpoint]]\nname = \"login\"\npath = \"/\"\n\
         budget = {{ vs_baseline = 1.5 }}\n"
    );
    Config::parse(&text, "c.toml").unwrap().services.remove(0).release_window.unwrap()
}

fn web(hook: &RollbackConfig, window: Option<ReleaseWindow>) -> ServiceConfig {
    ServiceConfig { release_window: window, ..service(Some(hook.clone())) }
}

struct Ledger {
    dir: TempDir,
    store: Arc<Store>,
    driver: Driver,
}

impl Ledger {
    /// A good build, and one that appeared outside the window.
    fn new() -> (Self, IncidentId) {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
        let driver = Driver::new(Arc::clone(&store)).with_backoff(Duration::from_millis(20));
        store.build_appeared(&"web".into(), &GOOD.into(), BuildState::Adopted, "", &Moment::now()).unwrap();
        let this = Self { dir, store, driver };
        let id = this.released(BAD).id;
        (this, id)
    }

    fn released(&self, build: &str) -> Incident {
        let evidence = json!({ "kind": "release_window", "users": { "requests": 12 } });
        let reason = "appeared on Friday, outside the release window".to_owned();
        let new = NewIncident { endpoint: "other".into(), reason, evidence, ..new_incident(build) };
        self.driver.open_release(&new, &DETECTED).unwrap()
    }

    /// A hook that counts its runs.
    fn hook(&self) -> RollbackConfig {
        let log = text(&self.dir.path().join("log"));
        RollbackConfig {
            cooldown: Duration::ZERO,
            ..rollback(["/bin/sh", "-c", &format!("echo run >> {log}")])
        }
    }

    fn runs(&self) -> usize {
        runs(&self.dir.path().join("log"))
    }

    fn settle(&self, id: &IncidentId, live: &Live, window: Option<ReleaseWindow>) -> (Incident, Decision) {
        self.driver.settle(&web(&self.hook(), window), id, live).unwrap()
    }

    fn closed(&self, id: &IncidentId) -> (Incident, Decision) {
        self.settle(id, &live(Mode::Enforce), Some(window(false)))
    }

    fn run(&self, id: &IncidentId) -> Incident {
        let (events, _told) = unbounded_channel();
        block_on(self.driver.roll_back(self.hook(), id, &events)).unwrap()
    }

    fn approve(&self, id: &IncidentId) -> Result<Incident, OperateError> {
        let service = web(&self.hook(), Some(window(false)));
        let operator = Operator::Approved { by: "uid 0".to_owned() };
        self.driver.operate(Some((&service, &live(Mode::Enforce))), id, &operator)
    }

    fn state(&self, build: &str) -> (BuildState, String) {
        let record = self.store.build(&"web".into(), &build.into()).unwrap().unwrap();
        (record.state, record.why)
    }
}

#[test]
fn it_goes_the_way_of_every_incident_and_is_condemned_for_that_alone() {
    let (ledger, id) = Ledger::new();
    let (armed, decision) = ledger.closed(&id);
    assert_eq!((armed.kind, decision), (IncidentKind::ReleaseWindow, Decision::Act));
    assert_eq!(ledger.run(&id).state, State::Verifying);
    assert_eq!(ledger.runs(), 1);
    assert_eq!(ledger.state(BAD).0, BuildState::Condemned);
    let held = ledger.store.held_back().unwrap();
    assert_eq!(held.iter().map(|held| &held.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(ledger.store.rollback_history(&"web".into()).unwrap().0.len(), 1, "it counts for every limit");
    // The window opens.
    let recovered = ledger.store.advance(&id, Step::Recover, "", &Moment::now()).unwrap();
    assert!(ledger.store.lift(&recovered, "the window has opened", &Moment::now()).unwrap());
    assert_eq!(ledger.state(BAD), (BuildState::Probation, "the window has opened".to_owned()));
    assert_eq!(ledger.store.held_back().unwrap(), []);
    assert!(!ledger.store.lift(&recovered, "again", &Moment::now()).unwrap());
}

#[test]
fn what_a_person_said_of_the_build_is_not_lifted() {
    let (ledger, id) = Ledger::new();
    ledger.closed(&id);
    let held = ledger.run(&id);
    let (name, bad) = ("web".into(), BAD.into());
    ledger
        .store
        .set_build_state(&name, &bad, BuildState::Condemned, "condemned by ann", &Moment::now())
        .unwrap();
    assert_eq!(ledger.store.held_back().unwrap(), []);
    assert!(!ledger.store.lift(&held, "the window has opened", &Moment::now()).unwrap());
    assert_eq!(ledger.state(BAD), (BuildState::Condemned, "condemned by ann".to_owned()));
}

/// Prepares the ledger, or what the agent knows, so that one rail does not hold.
type Change = fn(&Ledger, &mut Live);

#[test]
fn modes_and_rails_hold_as_for_any_other_incident() {
    let cases: [(&str, Change, State, &str); 8] = [
        ("observe", |_, live| live.mode = Mode::Observe, State::Observed, "would have run the hook"),
        ("approve", |_, live| live.mode = Mode::Approve, State::AwaitingApproval, "load-watchdog approve"),
        ("dry run", |_, live| live.dry_run = true, State::Armed, "test mode"),
        (
            "paused",
            |ledger, _| {
                let lasts = Duration::from_hours(1);
                let pause = PausedUntil { by: "uid 7".to_owned(), since: Moment::now(), lasts };
                ledger.store.set_pause(&pause).unwrap();
            },
            State::AwaitingApproval,
            "uid 7 paused all rollbacks",
        ),
        (
            "no good build",
            |ledger, _| {
                let now = Moment::now();
                ledger
                    .store
                    .set_build_state(&"web".into(), &GOOD.into(), BuildState::Condemned, "", &now)
                    .unwrap();
            },
            State::Escalated,
            "only a good or adopted build is restored",
        ),
        (
            "passed its probation",
            |ledger, _| {
                let now = Moment::now();
                ledger.store.set_build_state(&"web".into(), &BAD.into(), BuildState::Good, "", &now).unwrap();
            },
            State::Escalated,
            "only a build on probation",
        ),
        (
            "overtaken",
            |_, live| live.newer_build = Some("v3".into()),
            State::Escalated,
            "v3 was deployed after",
        ),
        (
            "breaker",
            |ledger, _| {
                let other = ledger.released("v9");
                ledger.closed(&other.id);
                ledger.run(&other.id);
                ledger.driver.escalate(&other.id, "it did not help").unwrap();
            },
            State::AwaitingApproval,
            "circuit breaker is open",
        ),
    ];
    for (name, change, state, note) in cases {
        let (ledger, id) = Ledger::new();
        let mut live = live(Mode::Enforce);
        change(&ledger, &mut live);
        let before = ledger.runs();
        let (settled, _) = ledger.settle(&id, &live, Some(window(false)));
        assert_eq!(settled.state, state, "{name}: {}", last_note(&ledger.store, &id));
        let said = last_note(&ledger.store, &id);
        assert!(said.contains(note), "{name}: {said}");
        assert_eq!(ledger.runs(), before, "{name}");
    }
}

#[test]
fn a_window_that_has_opened_meanwhile_or_is_gone_needs_no_rollback() {
    for window in [Some(window(true)), None] {
        let (ledger, id) = Ledger::new();
        let (settled, decision) = ledger.settle(&id, &live(Mode::Enforce), window);
        assert_eq!(settled.state, State::AwaitingApproval);
        assert!(
            matches!(decision, Decision::Ask { because: Some(Refusal::WindowOpened { .. }) }),
            "{decision:?}"
        );
    }
    // What a build costs has nothing to do with it.
    let (ledger, _) = Ledger::new();
    let cost = ledger.store.open_incident(&new_incident(BAD), &Moment::now()).unwrap().id;
    assert_eq!(ledger.settle(&cost, &live(Mode::Enforce), None).1, Decision::Act);
}

#[test]
fn a_dry_run_holds_nothing_back() {
    let (ledger, id) = Ledger::new();
    let dry = Live { dry_run: true, ..live(Mode::Enforce) };
    ledger.settle(&id, &dry, Some(window(false)));
    assert_eq!(ledger.run(&id).state, State::Observed);
    assert_eq!((ledger.runs(), ledger.state(BAD).0), (1, BuildState::Probation));
    assert_eq!(ledger.store.held_back().unwrap(), []);
}

#[test]
fn a_cost_and_a_release_of_one_build_run_one_hook() {
    // The release is rolled back, and the cost found while that is under way.
    let (ledger, release) = Ledger::new();
    ledger.closed(&release);
    let cost = ledger.store.open_incident(&new_incident(BAD), &Moment::now()).unwrap();
    let (waiting, decision) = ledger.closed(&cost.id);
    assert!(matches!(decision, Decision::Ask { because: Some(Refusal::UnderWay { .. }) }), "{decision:?}");
    ledger.run(&release);
    let early = ledger.approve(&cost.id);
    assert!(matches!(early, Err(OperateError::Refused(Refusal::UnderWay { .. }))), "{early:?}");
    let recovered = ledger.store.advance(&release, Step::Recover, "", &Moment::now()).unwrap();
    let closed = ledger.store.close_taken_away(&waiting, &recovered, &Moment::now()).unwrap();
    assert_eq!(closed.state, State::Closed);
    assert!(last_note(&ledger.store, &cost.id).contains(release.as_str()));
    assert!(ledger.approve(&cost.id).is_err(), "a closed incident was approved");
    assert_eq!(ledger.runs(), 1);
    // It was found bad: the window's opening changes nothing about that.
    assert!(!ledger.store.lift(&recovered, "", &Moment::now()).unwrap());
    let (state, why) = ledger.state(BAD);
    assert_eq!(state, BuildState::Condemned);
    assert!(why.starts_with(&format!("incident {}:", cost.id)), "{why}");

    // The other way round: a person is asked about the release, and the cost is rolled back meanwhile.
    let (ledger, release) = Ledger::new();
    let (waiting, _) = ledger.settle(&release, &live(Mode::Approve), Some(window(false)));
    assert_eq!(waiting.state, State::AwaitingApproval);
    let cost = ledger.store.open_incident(&new_incident(BAD), &Moment::now()).unwrap();
    assert_eq!(ledger.closed(&cost.id).1, Decision::Act);
    let early = ledger.approve(&release);
    assert!(matches!(early, Err(OperateError::Refused(Refusal::UnderWay { .. }))), "{early:?}");
    ledger.run(&cost.id);
    let recovered = ledger.store.advance(&cost.id, Step::Recover, "", &Moment::now()).unwrap();
    ledger.store.close_taken_away(&waiting, &recovered, &Moment::now()).unwrap();
    assert!(ledger.approve(&release).is_err());
    assert_eq!(ledger.runs(), 1);
    assert!(ledger.state(BAD).1.starts_with(&format!("incident {}:", cost.id)));
}

#[test]
fn brought_back_by_a_person_it_is_asked_about_and_each_kind_of_rejection_is_for_itself() {
    let (ledger, id) = Ledger::new();
    ledger.closed(&id);
    ledger.run(&id);
    ledger.store.advance(&id, Step::Recover, "", &Moment::now()).unwrap();
    let back = ledger.driver.open_of(IncidentKind::ReleaseWindow, &new_incident(BAD)).unwrap();
    let (asked, decision) = ledger.closed(&back.id);
    assert_eq!(asked.state, State::AwaitingApproval);
    assert!(
        matches!(&decision, Decision::Ask { because: Some(Refusal::DeployedAgain { incident: Some(by), .. }) } if *by == id),
        "{decision:?}"
    );
    let no = Operator::Rejected { by: "uid 7".to_owned() };
    ledger.driver.operate(None, &back.id, &no).unwrap();
    assert_eq!(ledger.runs(), 1);

    // Who let a build stay that came at night did not say what it may cost.
    let (ledger, id) = Ledger::new();
    ledger.settle(&id, &live(Mode::Approve), Some(window(false)));
    ledger.driver.operate(None, &id, &no).unwrap();
    let cost = ledger.store.open_incident(&new_incident(BAD), &Moment::now()).unwrap();
    assert_eq!(ledger.closed(&cost.id).1, Decision::Act);
}

#[test]
fn an_agent_that_starts_finds_it_with_its_build() {
    let (ledger, id) = Ledger::new();
    assert_eq!(ledger.state(BAD), (BuildState::Probation, "appeared".to_owned()));
    let found = ledger.driver.reconcile().unwrap();
    assert_eq!(
        found.iter().map(|found| (&found.incident.id, found.incident.state)).collect::<Vec<_>>(),
        [(&id, State::Detected)]
    );
    assert_eq!(ledger.closed(&id).1, Decision::Act);
    // A second one of the same build: neither it nor anything of the build is written.
    let again = ledger.driver.open_release(&new_incident(BAD), &DETECTED);
    assert!(again.is_err(), "{again:?}");
}
