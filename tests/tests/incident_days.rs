//! The three days of the incident that this program was written after, with the real agent, and their parts by themselves: a
//! new build outside its release window, and a fix with the same fault. Only the traffic is compressed; which hour it is, the
//! release window says, which a reload moves around the present.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use watchdog::control::{self, IncidentSummary, Outcome};
use watchdog::incident::IncidentKind;
use watchdog::model::BuildId;
use watchdog_tests::agent::hours::{always, another_day};
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Service, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::load::{Load, LoadOptions, LoadReport, Step, run};
use watchdog_tests::shop::{Shop, gunicorn};
use watchdog_tests::skip::skip;

/// Longer than a verdict takes, the hook, and what the agent itself gives the recovery (`verify_within`, a minute): then its
/// own word for what became of it is judged, not this limit.
const DECIDED_WITHIN: Duration = Duration::from_mins(2);
const TOLD_WITHIN: Duration = Duration::from_secs(5);

fn about(agent: &Agent, kind: IncidentKind, build: &str) -> Option<IncidentSummary> {
    let incidents = agent.incidents().unwrap();
    incidents.into_iter().find(|incident| incident.kind == kind && incident.bad_build.as_str() == build)
}

/// The incident about what a build costs, once nothing more happens to it by itself.
fn ended(agent: &Agent, build: &str) -> IncidentSummary {
    let is_over = |incident: &IncidentSummary| ENDED.contains(&incident.state.as_str());
    let what = format!("the end of an incident about the cost of {build}");
    let over = |agent: &Agent| Ok(about(agent, IncidentKind::Cost, build).filter(is_over));
    agent.wait_for(&what, DECIDED_WITHIN, over).unwrap()
}

fn recovered(agent: &Agent, build: &str) -> IncidentSummary {
    let incident = ended(agent, build);
    let detail = agent.incident(&incident.id).unwrap();
    assert_eq!(incident.state, "recovered", "{detail:#?}\n{}", agent.log_tail());
    incident
}

/// The incident about a build that appeared outside the window, in this state.
fn outside(agent: &Agent, build: &str, state: &str) -> IncidentSummary {
    let what = format!("{build} outside the release window: {state}");
    agent
        .wait_for(&what, TOLD_WITHIN, |agent| {
            Ok(about(agent, IncidentKind::ReleaseWindow, build).filter(|incident| incident.state == state))
        })
        .unwrap()
}

fn evidence(agent: &Agent, incident: &IncidentSummary) -> Value {
    agent.incident(&incident.id).unwrap().evidence
}

fn states(agent: &Agent, service: &str, build: &str) -> Option<String> {
    agent.build(service, build).unwrap().map(|build| build.state)
}

fn appears(agent: &Agent, service: &str, build: &str) {
    agent
        .wait_for(&format!("processes of {build}"), TOLD_WITHIN, |agent| {
            Ok(agent.build(service, build)?.filter(|build| build.processes > 0).map(|_| ()))
        })
        .unwrap();
}

/// Moves the release window around the present.
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

/// What was noticed so soon, of a process that began then.
fn noticed_at_once(agent: &Agent, incident: &IncidentSummary) {
    let evidence = evidence(agent, incident);
    let after = evidence["noticed_after_seconds"].as_f64().unwrap();
    println!("{}: noticed {after:.2} s after its process began", incident.bad_build);
    assert!(after < 1.0, "{evidence:#}");
    let began = evidence["at_unix_ms"].as_i64().unwrap();
    assert!((0..1000).contains(&(incident.opened_unix_ms - began)), "{incident:#?} {evidence:#}");
}

#[test]
fn a_new_build_outside_the_release_window_is_told_at_once_and_hinders_nothing() {
    let Some(site) = site_or_skip() else { return };
    let web = site.web().unwrap();
    site.configure(&[Service { more: another_day(), ..web.clone() }]).unwrap();
    let _v1 = site.deploy("v1", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    assert_eq!(states(&agent, "web", "v1").as_deref(), Some("adopted"));
    assert_eq!(agent.incidents().unwrap(), [], "what is there when the agent first comes is no release");

    hours(&agent, &site, &web, &always(), true);
    let v2 = site.deploy("v2", GOOD_US).unwrap();
    appears(&agent, "web", "v2");
    site.visit(60).unwrap();
    let watched = || agent.build("web", "v2").unwrap().unwrap().seen_for_seconds;
    let before = watched();
    hours(&agent, &site, &web, &another_day(), false);
    assert!(watched() >= before, "a moved window made the agent begin anew");
    // A restart of a build that is known is no release, and neither is going back to one.
    drop(v2);
    let _v2 = site.deploy("v2", GOOD_US).unwrap();
    site.visit(20).unwrap();
    site.switch("v1").unwrap();
    site.visit(20).unwrap();
    assert_eq!(agent.incidents().unwrap(), [], "{}", agent.log_tail());

    let load = site.visit_at(60.0).unwrap();
    let _v3 = site.deploy("v3", BAD_US).unwrap();
    let told = about_soon(&agent, "v3");
    noticed_at_once(&agent, &told);
    assert!(told.sentence.contains("outside the release window"), "{}", told.sentence);
    // What it costs is an incident beside it, and is rolled back as ever.
    let cost = recovered(&agent, "v3");
    assert_eq!(cost.good_build.as_ref().map(ToString::to_string).as_deref(), Some("v1"));
    let closed = outside(&agent, "v3", "closed");
    assert_eq!(closed.id, told.id);
    let timeline = agent.incident(&told.id).unwrap().timeline;
    assert!(timeline.last().unwrap().text.contains("condemned"), "{timeline:#?}");
    load.stop();
    assert_eq!(load.wait().failures, 0);
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (2, 1));
    let metrics = agent.metrics().unwrap();
    let of = |reason| metrics.sum("load_watchdog_incidents_total", &[("reason", reason)]);
    assert_eq!(of("release_window"), Some(1.0), "{}", metrics.text());
    assert_eq!(metrics.sum("load_watchdog_incidents_total", &[]), Some(2.0), "{}", metrics.text());

    // The agent is killed: what it told stays told, and a build that appeared meanwhile is a release all the same.
    agent.kill().unwrap();
    let _v4 = site.deploy("v4", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    let told = outside(&agent, "v4", "observed");
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    appears(&agent, "web", "v4");
    let status = agent.service("web").unwrap();
    let shown: Vec<String> =
        status.release_window.unwrap().outside.into_iter().map(|outside| outside.incident).collect();
    assert_eq!(shown, [told.id]);
    assert_eq!(status.open_incident, None, "an alert is no rollback");
    assert_eq!(agent.incidents().unwrap().len(), 3);
}

fn about_soon(agent: &Agent, build: &str) -> IncidentSummary {
    agent
        .wait_for(&format!("{build} outside the release window"), TOLD_WITHIN, |agent| {
            Ok(about(agent, IncidentKind::ReleaseWindow, build))
        })
        .unwrap()
}

#[test]
fn a_fix_with_the_same_fault_is_named_a_repeat_offender_and_another_fault_is_not() {
    const OTHER_US: u64 = 4 * BAD_US;
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.rollback.push_str("\ncooldown = \"0s\"\nmax_per_day = 10");
    site.configure(&[web]).unwrap();
    let _v1 = site.deploy("v1", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let mut servers = Vec::new();
    for (build, login_us, repeats) in
        [("v2", BAD_US, None), ("v3", OTHER_US, None), ("v4", BAD_US, Some("v2"))]
    {
        servers.push(site.deploy(build, login_us).unwrap());
        let incident = recovered(&agent, build);
        let named = incident.repeats.as_ref().map(BuildId::as_str);
        assert_eq!(named, repeats, "{build}: {}", incident.sentence);
        assert_eq!(incident.good_build.as_ref().map(ToString::to_string).as_deref(), Some("v1"), "{build}");
        the_hook_knows(&site, repeats, &incident);
    }
    load.stop();
    assert_eq!(load.wait().failures, 0);
    assert_eq!(site.hook_runs(), 3);
}

fn the_hook_knows(site: &Site, repeats: Option<&str>, incident: &IncidentSummary) {
    let payload: Value = serde_json::from_str(&fs::read_to_string(site.file("hook.json")).unwrap()).unwrap();
    assert_eq!(payload["incident"], incident.id.as_str());
    assert_eq!(payload["evidence"]["repeats"]["build"].as_str(), repeats, "{payload:#}");
    let reason = payload["reason"].as_str().unwrap();
    assert_eq!(reason, incident.sentence);
    assert_eq!(reason.contains("a repeat offender"), repeats.is_some(), "{reason}");
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains(reason), "not in the log: {reason}");
    if let Some(repeats) = repeats {
        let of_both =
            |key: &str| payload["evidence"][key].as_f64().zip(payload["evidence"]["repeats"][key].as_f64());
        let (new, old) = of_both("mean_cpu_seconds").unwrap();
        println!("{} repeats {repeats}: {:.2} ms and {:.2} ms", incident.bad_build, new * 1e3, old * 1e3);
        assert!((0.7..1.4).contains(&(new / old)), "{payload:#}");
    }
}

/// Iterations of a password check: v2 has the fault, v3 is a "fix" that has it still, v4 is one that has it not.
const RELEASES: [(&str, u32); 4] = [("v1", 8_000), ("v2", 64_000), ("v3", 64_000), ("v4", 8_000)];
/// Logins of the day before; the comparison with the last good build needs 200.
const DAY_BEFORE: u64 = 240;

fn logins(shop: &Shop, requests: u64, per_second: Option<f64>) -> LoadOptions {
    let steps = vec![Step::post("login", "/login", "user=ann&password=correct+horse")];
    LoadOptions {
        concurrency: 3,
        rate: per_second,
        keep_alive: false,
        ..LoadOptions::new(shop.target(), steps, requests)
    }
}

fn count(report: &LoadReport, build: &str) -> u64 {
    report.of("login", build).map_or(0, |line| line.count)
}

/// A release at night, when one login comes a second: found and rolled back before the morning, when everybody logs in.
fn a_night(shop: &Shop, agent: &Agent, build: &str) -> IncidentSummary {
    let night = Load::start(logins(shop, 1_000, Some(1.0))).unwrap();
    shop.deploy(build).unwrap();
    let incident = recovered(agent, build);
    assert_eq!(incident.good_build.as_ref().map(ToString::to_string).as_deref(), Some("v1"), "{incident:#?}");
    assert_eq!(shop.serving().unwrap(), "v1");
    night.stop();
    let night = night.wait();
    assert_eq!(night.failures, 0, "{:?}", night.failed);

    let morning = run(logins(shop, 120, Some(60.0))).unwrap();
    assert_eq!((morning.failures, count(&morning, "v1")), (0, 120), "{:?}", morning.failed);
    println!(
        "{build}: {} logins at night had it, of 120 in the morning none\n  {}",
        count(&night, build),
        incident.sentence
    );
    assert!((1..=30).contains(&count(&night, build)), "{night:?}");
    assert_eq!(states(agent, "shop", build).as_deref(), Some("condemned"));
    incident
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn the_three_days_of_the_incident() {
    let Some(site) = site_or_skip() else { return };
    if let Err(error) = gunicorn() {
        skip::<()>(&format!("{error:#}"));
        return;
    }
    let shop = Shop::start(&site.file("shop"), "sync", &RELEASES).unwrap();
    let service = Service {
        name: "shop".to_owned(),
        matcher: format!("{{ listen = {} }}", shop.port()),
        build: "{ file = \"REVISION\" }".to_owned(),
        hook: Some(shop.rollback_script()),
        rollback: "verify_within = \"60s\"\ntimeout = \"60s\"\ncooldown = \"0s\"".to_owned(),
        more: "warmup_factor = 1".to_owned(),
        budget: "{ vs_baseline = 1.5 }".to_owned(),
        ..site.web().unwrap()
    };
    let night = Service { more: format!("{}\n{}", service.more, always()), ..service.clone() };
    site.configure(&[night]).unwrap();
    let agent = Agent::start(&site).unwrap();
    assert_eq!(run(logins(&shop, DAY_BEFORE, None)).unwrap().failures, 0);
    agent
        .wait_for("the logins of the day before", DECIDED_WITHIN, |agent| {
            Ok((agent.requests("shop", "v1", "login")? >= DAY_BEFORE).then_some(()))
        })
        .unwrap();
    assert_eq!(states(&agent, "shop", "v1").as_deref(), Some("adopted"));

    let first = a_night(&shop, &agent, "v2");
    assert_eq!(first.repeats, None);
    let second = a_night(&shop, &agent, "v3");
    assert_eq!(second.repeats.as_ref().map(BuildId::as_str), Some("v2"), "{}", second.sentence);
    let baseline = &evidence(&agent, &second)["baseline"];
    assert_eq!(baseline["build"], "v1", "judged against the condemned build: {baseline}");

    the_third_day(&site, &shop, &agent, &service);
    assert_eq!(agent.incidents().unwrap().len(), 3, "{:#?}", agent.incidents().unwrap());
}

/// A good fix, released while people work: told, not judged bad, and accepted in the evening.
fn the_third_day(site: &Site, shop: &Shop, agent: &Agent, service: &Service) {
    hours(agent, site, service, &another_day(), false);
    let day = Load::start(logins(shop, 10_000, Some(20.0))).unwrap();
    shop.deploy("v4").unwrap();
    let told = outside(agent, "v4", "observed");
    noticed_at_once(agent, &told);
    agent
        .wait_for("logins on the fix", DECIDED_WITHIN, |agent| {
            Ok((agent.requests("shop", "v4", "login")? >= 100).then_some(()))
        })
        .unwrap();
    let fix = agent.build("shop", "v4").unwrap().unwrap();
    assert_eq!(fix.state, "probation");
    assert!(matches!(fix.verdict.as_deref(), Some("undecided" | "within")), "{fix:#?}");
    assert!(about(agent, IncidentKind::Cost, "v4").is_none());
    let baseline = fix.compared_with.map(|with| with.build.to_string());
    assert_eq!(baseline.as_deref(), Some("v1"));

    hours(agent, site, service, &always(), true);
    let accept = control::Command::Accept {
        service: "shop".into(),
        build: "v4".into(),
        endpoint: None,
        for_seconds: None,
    };
    let done = control::client::ask(&site.control(), accept).unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    assert_eq!(states(agent, "shop", "v4").as_deref(), Some("good"));
    let closed = outside(agent, "v4", "closed");
    let timeline = agent.incident(&closed.id).unwrap().timeline;
    assert!(timeline.last().unwrap().text.contains("accepted by"), "{timeline:#?}");
    day.stop();
    let day = day.wait();
    assert_eq!(day.failures, 0, "{:?}", day.failed);
    assert_eq!(shop.serving().unwrap(), "v4");
}
