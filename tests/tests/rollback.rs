//! From a bad build to the good one again, with the real agent: when the hook runs, when not, and with what.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use watchdog::control::{self, IncidentSummary, Outcome};
use watchdog::verdict::Evidence;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};

const DECIDED_WITHIN: Duration = Duration::from_secs(30);

fn variables(site: &Site) -> BTreeMap<String, String> {
    let text = fs::read_to_string(site.file("hook.env")).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_bad_build_beside_the_good_one_is_rolled_back_once_without_a_failed_request() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    // The share of the host is no limit here; it names the peak.
    web.budget = web.budget.replace(" }", ", peak_rate = 40.0, max_host_share = 1.0 }");
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    assert_eq!(agent.incidents().unwrap(), []);

    let load = site.visit_at(60.0).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let incident = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    assert_eq!(incident.state, "recovered", "{:#?}", agent.incident(&incident.id).unwrap());
    assert_eq!(incident.bad_build.as_str(), "bad");
    assert_eq!(incident.good_build.as_ref().map(ToString::to_string).as_deref(), Some("good"));
    assert_eq!(fs::read_link(site.file("current.sock")).unwrap().to_str(), Some("good.sock"));

    // What comes after it, for a while: no second incident, no second run, and the good build answers.
    let before = load.snapshot().of("login", "good").map_or(0, |line| line.count);
    std::thread::sleep(Duration::from_millis(500));
    load.stop();
    let report = load.wait();
    assert_eq!(report.failures, 0, "{:?}", report.failed);
    assert!(report.of("login", "good").is_some_and(|line| line.count > before), "{report:?}");
    assert_eq!(agent.incidents().unwrap().len(), 1);
    assert_eq!(site.hook_runs(), 1);
    let condemned = agent.build("web", "bad").unwrap().unwrap();
    assert_eq!(condemned.state, "condemned");

    what_was_found_is_told_in_figures(&agent, &incident);
    the_hook_was_told_everything(&site, &incident.id);
    let metrics = agent.metrics().unwrap();
    let one = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) == Some(1.0);
    assert!(one("load_watchdog_incidents_total", &[("service", "web")]), "{}", metrics.text());
    assert!(one("load_watchdog_rollbacks_total", &[("outcome", "recovered")]), "{}", metrics.text());
}

/// For somebody who is woken by it.
fn what_was_found_is_told_in_figures(agent: &Agent, incident: &IncidentSummary) {
    let sentence = incident.sentence.as_str();
    println!("{sentence}");
    for words in [
        "build bad needs",
        " ms CPU per login",
        " logins were enough",
        "at the peak of 40/s it would need 0.",
    ] {
        assert!(sentence.contains(words), "no {words:?} in {sentence}");
    }
    let evidence: Evidence = serde_json::from_value(agent.incident(&incident.id).unwrap().evidence).unwrap();
    let peak = evidence.peak().unwrap();
    assert!((peak.per_second - 40.0).abs() < 1e-9 && peak.cores >= 1.0 && peak.learned.is_none(), "{peak:?}");
    let setting = evidence.setting.as_ref().unwrap();
    assert_eq!(setting.baseline_processes, Some(1), "the good build ran beside it: {setting:?}");
    assert!(evidence.log_evidence >= evidence.log_bar, "{evidence:?}");
    let shown = agent.build("web", "bad").unwrap().unwrap();
    assert!(
        shown.sentence.as_deref().is_some_and(|shown| shown.contains(" logins were enough")),
        "{shown:#?}"
    );
}

/// As docs/hooks.md promises.
fn the_hook_was_told_everything(site: &Site, id: &str) {
    let told = variables(site);
    let expected = [
        ("INCIDENT", id),
        ("SERVICE", "web"),
        ("ENDPOINT", "login"),
        ("BAD_BUILD", "bad"),
        ("GOOD_BUILD", "good"),
        ("ATTEMPT", "1"),
        ("TEST", "0"),
    ];
    for (name, value) in expected {
        assert_eq!(told.get(&format!("LOAD_WATCHDOG_{name}")).map(String::as_str), Some(value), "{name}");
    }
    assert!(told.contains_key("PATH") && told.contains_key("HOME"), "{told:?}");
    let foreign = told.keys().filter(|name| name.starts_with("CARGO"));
    assert_eq!(foreign.count(), 0, "the agent's own environment was handed on: {told:?}");
    assert_eq!(fs::read_to_string(site.file("hook.args")).unwrap().trim(), "good");

    let payload: Value = serde_json::from_str(&fs::read_to_string(site.file("hook.json")).unwrap()).unwrap();
    assert_eq!(payload["version"], 1);
    for (field, value) in [("incident", id), ("service", "web"), ("endpoint", "login")] {
        assert_eq!(payload[field], value, "{payload}");
    }
    assert_eq!((&payload["bad_build"], &payload["good_build"]), (&"bad".into(), &"good".into()));
    assert_eq!((&payload["attempt"], &payload["test"]), (&1.into(), &false.into()));
    assert_eq!(payload["reason"].as_str(), told.get("LOAD_WATCHDOG_REASON").map(String::as_str));
    assert_eq!(payload["evidence"]["build"], "bad");
    assert!(payload["evidence"]["requests"].as_u64().is_some_and(|requests| requests > 0), "{payload}");
}

#[test]
fn observing_records_what_it_would_have_done_and_runs_nothing() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "observe".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    site.visit(200).unwrap();
    let incident = agent.wait_for_incident(&["observed"], DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&incident.id).unwrap();
    assert!(
        detail.timeline.iter().any(|entry| entry.text.contains("would have run the hook")),
        "{detail:#?}"
    );
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.hook_runs(), 0);
    assert_eq!(agent.build("web", "bad").unwrap().unwrap().state, "probation");
}

#[test]
fn an_incident_waits_for_a_person_who_approves_it() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "approve".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let incident = agent.wait_for_incident(&["awaiting_approval"], DECIDED_WITHIN).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((agent.incidents().unwrap()[0].state.as_str(), site.hook_runs()), ("awaiting_approval", 0));

    // Not even an agent that comes anew runs it.
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((agent.incidents().unwrap()[0].state.as_str(), site.hook_runs()), ("awaiting_approval", 0));

    let approve = || control::Command::Approve { incident: incident.id.clone() };
    let done = control::client::ask(&site.control(), approve()).unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let again = control::client::ask(&site.control(), approve());
    assert!(again.is_err(), "approved twice: {again:?}");
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    assert_eq!(ended.state, "recovered", "{:#?}", agent.incident(&ended.id).unwrap());
    assert_eq!(site.hook_runs(), 1);
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

#[test]
fn a_hook_that_does_not_help_is_escalated_and_not_run_again() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.hook = Some(site.hook("true").unwrap());
    web.rollback = "verify_within = \"2s\"".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    assert_eq!(ended.state, "escalated", "{:#?}", agent.incident(&ended.id).unwrap());
    let status = agent.service("web").unwrap();
    assert_eq!(status.open_incident.as_deref(), Some(ended.id.as_str()), "{status:#?}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (1, 1));
    let metrics = agent.metrics().unwrap();
    let outcome = metrics.sum("load_watchdog_rollbacks_total", &[("outcome", "not_recovered")]);
    assert_eq!(outcome, Some(1.0), "{}", metrics.text());
    load.stop();
    assert_eq!(load.wait().failures, 0);
}
