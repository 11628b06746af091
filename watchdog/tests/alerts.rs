//! Incidents of which a person is only told: what a release window that was not kept leaves in the ledger.

use serde_json::json;
use watchdog::config::Mode;
use watchdog::control::{self, Outcome, ledger};
use watchdog::incident::{BuildState, IncidentKind, Moment, NewIncident, State, Step};
use watchdog::model::{BuildId, EndpointName};
use watchdog::store::{Release, Store, StoreError};

const WINDOW: IncidentKind = IncidentKind::ReleaseWindow;
const ALERT: Release<'_> =
    Release { initial: BuildState::Probation, why: "new", alert: Some("nothing is run") };

fn new(endpoint: &str, reason: &str, evidence: serde_json::Value) -> NewIncident {
    NewIncident {
        service: "web".into(),
        endpoint: endpoint.into(),
        bad_build: "v4".into(),
        good_build: Some("v1".into()),
        reason: reason.to_owned(),
        evidence,
        mode: Mode::Enforce,
    }
}

fn outside() -> NewIncident {
    new("other", "build v4 appeared on Friday", json!({ "kind": "release_window", "process": 7 }))
}

#[test]
fn a_window_and_a_cost_are_two_incidents_of_a_build_and_neither_bars_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let now = Moment::now();
    let (web, v4) = ("web".into(), "v4".into());
    let alert = store.released_outside(&outside(), &ALERT, &now).unwrap();
    assert_eq!((alert.kind, alert.state), (WINDOW, State::Observed));
    assert!(matches!(store.released_outside(&outside(), &ALERT, &now), Err(StoreError::AlreadyOpen { .. })));
    // For what concerns its cost, nothing is open; a rollback goes its way beside it.
    assert_eq!(store.open_incident_for(&web, &v4).unwrap(), None);
    let build = store.build(&web, &v4).unwrap().unwrap();
    assert_eq!((build.state, build.why.as_str()), (BuildState::Probation, "new"), "both or neither");
    let cost = store.open_incident(&new("login", "dear", json!({ "endpoint": "login" })), &now).unwrap();
    assert_eq!(cost.kind, IncidentKind::Cost);
    assert!(matches!(store.open_incident(&outside(), &now), Err(StoreError::AlreadyOpen { .. })));
    assert_eq!(
        store.open_incident_for(&web, &v4).unwrap().map(|incident| incident.id),
        Some(cost.id.clone())
    );
    assert_eq!(store.open_alerts(WINDOW).unwrap(), std::slice::from_ref(&alert));
    assert_eq!(store.rollback_history(&web).unwrap().0, [], "an alert is no rollback");

    // What it was condemned for is not the window, whichever came last.
    let closed = store.advance(&alert.id, Step::Close, "the build is condemned now", &now).unwrap();
    assert_eq!(closed.state, State::Closed);
    let again = store.released_outside(&outside(), &ALERT, &now).unwrap();
    assert_ne!(again.id, alert.id);
    let last = store.last_cost_incident(&web, &v4).unwrap();
    assert_eq!(last.map(|incident| incident.id), Some(cost.id));
    assert_eq!(store.last_cost_incident(&web, &"v1".into()).unwrap(), None);
}

#[test]
fn the_list_and_the_report_say_what_it_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let now = Moment::now();
    let alert = store.released_outside(&outside(), &ALERT, &now).unwrap();
    let repeats = json!({ "endpoint": "login", "repeats": { "build": "v2", "mean_cpu_seconds": 0.02 } });
    store.open_incident(&new("login", "dear", repeats), &now).unwrap();
    let read = |command| ledger::read(&store, &command, &ledger::LiveBuilds::new()).unwrap();
    let Outcome::Incidents(list) = read(control::Command::Incidents) else { panic!("a list was asked for") };
    let told: Vec<_> = list
        .iter()
        .map(|it| {
            let repeats = it.repeats.as_ref().map(BuildId::as_str);
            (it.kind, it.endpoint.as_ref().map(EndpointName::as_str), repeats)
        })
        .collect();
    assert_eq!(told, [(IncidentKind::Cost, Some("login"), Some("v2")), (WINDOW, None, None)]);
    let Outcome::Incident(detail) = read(control::Command::Incident { id: alert.id.to_string() }) else {
        panic!("an incident was asked for")
    };
    assert_eq!(detail.evidence["process"], 7);
    let lines: Vec<&str> = detail.timeline.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!(lines, ["detected: build v4 appeared on Friday", "observed: nothing is run"]);
    let json = serde_json::to_value(&list[1]).unwrap();
    assert_eq!((&json["kind"], &json["state"]), (&"release_window".into(), &"observed".into()));
}
