//! A new build outside its release window while people use the service: rolled back by the real hook, once, and only when
//! anybody is there. The window is moved around the present by a reload.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use watchdog::config::Mode;
use watchdog::control::{Command, IncidentDetail, IncidentSummary, Outcome, client};
use watchdog::incident::IncidentKind;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::hours::{always, another_day, frozen, with};
use watchdog_tests::agent::site::{BASELINE, GOOD_US, Service, Site, site_or_skip};

const TOLD_WITHIN: Duration = Duration::from_secs(5);
const ENDED_WITHIN: Duration = Duration::from_secs(20);
const ROLLBACK: &str = "on_violation = \"rollback\"";

/// Gives the service this release window.
fn hours(agent: &Agent, site: &Site, service: &Service, window: &str, open: bool) {
    let more = format!("{}\n{window}", service.more);
    site.configure(&[Service { more, ..service.clone() }]).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    agent
        .wait_for(&format!("a release window whose being open is {open}"), TOLD_WITHIN, |agent| {
            let window = agent.service(&service.name)?.release_window;
            Ok((window.map(|window| window.open) == Some(open)).then_some(()))
        })
        .unwrap();
}

/// The newest incident about a build, once it is in this state.
fn incident(agent: &Agent, build: &str, state: &str, within: Duration) -> (IncidentSummary, IncidentDetail) {
    let what = format!("an incident of {build} that is {state}");
    let found = agent.wait_for(&what, within, |agent| {
        let newest = agent.incidents()?.into_iter().find(|incident| incident.bad_build.as_str() == build);
        Ok(newest.filter(|incident| incident.state == state))
    });
    let found = found.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log_tail()));
    let detail = agent.incident(&found.id).unwrap();
    assert_eq!(found.kind, IncidentKind::ReleaseWindow, "{detail:#?}");
    (found, detail)
}

fn state(agent: &Agent, build: &str) -> String {
    agent.build("web", build).unwrap().unwrap().state
}

fn serving(site: &Site) -> String {
    fs::read_link(site.file("current.sock")).unwrap().display().to_string()
}

fn last_line(detail: &IncidentDetail) -> &str {
    &detail.timeline.last().unwrap().text
}

#[test]
fn a_build_outside_the_window_is_taken_from_its_users_once_and_held_back_until_it_opens() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.rollback.push_str("\ncooldown = \"0s\"");
    let closed = with(&another_day(), ROLLBACK);
    site.configure(&[Service { more: closed.clone(), ..web.clone() }]).unwrap();
    let _v1 = site.deploy("v1", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let load = site.visit_at(60.0).unwrap();

    // It costs what the good one does. It is told when it starts, and taken away when it serves.
    let v2 = site.start("v2", GOOD_US).unwrap();
    let (told, detail) = incident(&agent, "v2", "detected", TOLD_WITHIN);
    let noticed = detail.evidence["noticed_after_seconds"].as_f64().unwrap();
    assert!(noticed < 1.0, "{:#}", detail.evidence);
    assert!(detail.evidence["users"]["requests"].as_u64().unwrap() >= BASELINE, "{:#}", detail.evidence);
    assert!(told.sentence.contains("outside the release window"), "{}", told.sentence);
    assert!(told.sentence.contains("requests on its endpoints in the"), "{}", told.sentence);
    assert_eq!((site.hook_runs(), state(&agent, "v2").as_str()), (0, "probation"));
    let shown = agent.service("web").unwrap().release_window.unwrap().outside;
    assert_eq!(shown.iter().map(|outside| outside.incident.as_str()).collect::<Vec<_>>(), [told.id.as_str()]);
    // An agent that comes anew knows nothing of the users, and carries on what was found of them.
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    assert_eq!(incident(&agent, "v2", "detected", TOLD_WITHIN).0.id, told.id);
    site.switch("v2").unwrap();
    let (recovered, detail) = incident(&agent, "v2", "recovered", ENDED_WITHIN);
    assert_eq!(recovered.id, told.id);
    assert_eq!((site.hook_runs(), serving(&site).as_str()), (1, "v1.sock"));
    println!("{}: noticed after {noticed:.2} s; {}", told.sentence, last_line(&detail));
    let payload: Value = serde_json::from_str(&fs::read_to_string(site.file("hook.json")).unwrap()).unwrap();
    assert_eq!(payload["evidence"]["kind"], "release_window", "{payload:#}");
    assert_eq!((&payload["bad_build"], &payload["good_build"]), (&"v2".into(), &"v1".into()));

    // Somebody brings it back before the window opens: a person is asked, and nothing is run.
    drop(v2);
    let _v2 = site.deploy("v2", GOOD_US).unwrap();
    let (asked, detail) = incident(&agent, "v2", "awaiting_approval", TOLD_WITHIN);
    assert!(
        asked.sentence.contains(&format!("was rolled back by incident {}", told.id)),
        "{}",
        asked.sentence
    );
    assert!(last_line(&detail).contains("deployed again"), "{detail:#?}");
    assert_eq!(state(&agent, "v2"), "condemned");

    // It opens: the build may stay, and is judged.
    hours(&agent, &site, &web, &with(&always(), ROLLBACK), true);
    let (_, detail) = incident(&agent, "v2", "closed", TOLD_WITHIN);
    assert!(last_line(&detail).contains("the release window has opened"), "{detail:#?}");
    agent
        .wait_for("a verdict on v2", TOLD_WITHIN, |agent| {
            let v2 = agent.build("web", "v2")?;
            Ok(v2.filter(|v2| v2.state == "probation" && v2.verdict.is_some()))
        })
        .unwrap();
    // Closed again, it is a build that is known.
    hours(&agent, &site, &web, &closed, false);
    load.stop();
    assert_eq!(load.wait().failures, 0);
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (2, 1), "{}", agent.log_tail());
    assert_eq!((serving(&site).as_str(), state(&agent, "v2").as_str()), ("v2.sock", "probation"));
}

#[test]
fn without_users_and_with_alert_it_is_only_told_and_a_freeze_is_named() {
    let Some(site) = site_or_skip() else { return };
    let web = site.web().unwrap();
    let closed = with(&with(&another_day(), ROLLBACK), "users_within = \"1s\"");
    site.configure(&[Service { more: closed, ..web.clone() }]).unwrap();
    let _v1 = site.deploy("v1", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    // The last of them are too long ago then.
    std::thread::sleep(Duration::from_millis(2_100));
    let _v2 = site.deploy("v2", GOOD_US).unwrap();
    let (told, detail) = incident(&agent, "v2", "observed", TOLD_WITHIN);
    assert!(told.sentence.ends_with("no request on its endpoints in the 1s before"), "{}", told.sentence);
    assert!(last_line(&detail).contains("nobody was there"), "{detail:#?}");
    // Whoever comes now does not make a release of it.
    site.visit(60).unwrap();

    let mode = Command::Mode { service: "web".into(), mode: Some(Mode::Observe), for_seconds: None };
    let done = client::ask(&site.control(), mode).unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    hours(&agent, &site, &web, &frozen(), false);
    assert_eq!(
        agent.service("web").unwrap().mode,
        Mode::Observe,
        "another window ended what a person decided"
    );
    let window = agent.service("web").unwrap().release_window.unwrap();
    let freeze = window.freeze.unwrap();
    let _v3 = site.deploy("v3", GOOD_US).unwrap();
    let (told, detail) = incident(&agent, "v3", "observed", TOLD_WITHIN);
    assert!(told.sentence.contains(&format!("in the freeze {freeze}, ")), "{}", told.sentence);
    assert_eq!(detail.evidence["freeze"], freeze.as_str());
    assert_eq!(detail.evidence["opens_unix_ms"].as_i64(), window.changes_unix_ms);
    assert!(last_line(&detail).contains("on_violation is \"alert\""), "{detail:#?}");
    println!("{}", told.sentence);
    site.visit(60).unwrap();
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (2, 0), "{}", agent.log_tail());
    assert_eq!((serving(&site).as_str(), state(&agent, "v3").as_str()), ("v3.sock", "probation"));
}
