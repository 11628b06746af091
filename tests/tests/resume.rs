//! The real agent killed while a build is on probation: the next one goes on with the evidence, and loses a second of it
//! at most.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::{Duration, Instant};

use watchdog::store::Store;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::harness::Burn;

const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// 1.4 times the budget: some thirty logins, not five.
const SLIGHTLY_WORSE_US: u64 = 3_500;
/// Written every second; a loaded machine may take longer.
const KEPT_WITHIN: Duration = Duration::from_millis(2_500);

struct Scene {
    site: Site,
    agent: Agent,
    _builds: [Burn; 2],
}

/// A build on probation with evidence that is not enough.
fn scene(candidate_us: u64) -> Option<Scene> {
    let site = site_or_skip()?;
    let mut web = site.web().unwrap();
    "{ mean_cpu = \"2500us\" }".clone_into(&mut web.budget);
    site.configure(&[web]).unwrap();
    let good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    seen(&agent, "good", BASELINE / 2);
    let candidate = site.deploy("candidate", candidate_us).unwrap();
    Some(Scene { site, agent, _builds: [good, candidate] })
}

fn seen(agent: &Agent, build: &str, at_least: u64) -> u64 {
    agent
        .wait_for(&format!("{at_least} logins of {build}"), SEEN_WITHIN, |agent| {
            let requests = agent.requests("web", build, "login")?;
            Ok((requests >= at_least).then_some(requests))
        })
        .unwrap()
}

fn evidence(agent: &Agent) -> f64 {
    agent.build("web", "candidate").unwrap().unwrap().log_evidence.unwrap()
}

#[test]
fn killed_in_a_probation_the_next_agent_has_the_same_evidence_and_figures() {
    let Some(Scene { site, agent, _builds }) = scene(SLIGHTLY_WORSE_US) else { return };
    // Few enough that nothing is decided.
    site.visit(20).unwrap();
    std::thread::sleep(KEPT_WITHIN);
    let requests = seen(&agent, "candidate", 3);
    let (before, of_good) = (evidence(&agent), agent.requests("web", "good", "login").unwrap());
    let left =
        |agent: &Agent| agent.build("web", "candidate").unwrap().unwrap().probation_left_seconds.unwrap();
    let left_before = left(&agent);
    assert!(before > 0.0, "{before}");
    agent.kill().unwrap();

    let agent = Agent::start(&site).unwrap();
    let found = agent.build("web", "candidate").unwrap().unwrap();
    assert_eq!(found.state, "probation");
    assert_eq!(seen(&agent, "candidate", 1), requests);
    assert_eq!(agent.requests("web", "good", "login").unwrap(), of_good);
    let after = evidence(&agent);
    assert!((after - before).abs() < 1e-12, "evidence of {before} before and {after} after");
    // Served guard time counts, and the time without an agent does not. It is written with the requests, and once a
    // minute without any.
    let left_after = left(&agent);
    println!("evidence {before} before, {after} after; {left_before} s left before, {left_after} s after");
    assert!((left_before - left_after).abs() < 10.0, "{left_before} {left_after}");

    // And it is what decides: the two halves together are enough, and the hook runs once.
    let end = Instant::now() + SEEN_WITHIN;
    while agent.incidents().unwrap().is_empty() {
        let found = || (agent.build("web", "candidate"), agent.log_tail());
        assert!(Instant::now() < end, "no incident: {:#?}", found());
        site.visit(8).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let incident = agent.wait_for_incident(&["recovered", "verifying", "hook_running"], SEEN_WITHIN).unwrap();
    assert_eq!(incident.bad_build.as_str(), "candidate");
    let ledger = Store::open_reader(&site.state_dir()).unwrap();
    let deciding = ledger.incidents(1).unwrap()[0].evidence["requests"].as_u64().unwrap();
    assert!(deciding > requests, "{deciding} requests, {requests} of them before the crash");
}

/// At every second of a probation under traffic: what the ledger has is never more than it saw, and a second behind at
/// most.
#[test]
fn killed_under_traffic_a_second_is_lost_at_most() {
    const PER_SECOND: f64 = 60.0;
    let Some(Scene { site, agent, _builds }) = scene(GOOD_US) else { return };
    let load = site.visit_at(PER_SECOND).unwrap();
    let mut agent = agent;
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(2_700 + 350 * round));
        let at_least = agent.requests("web", "candidate", "login").unwrap();
        agent.kill().unwrap();
        agent = Agent::start(&site).unwrap();
        let kept = agent.requests("web", "candidate", "login").unwrap();
        // The second that the ledger may lack, and the time between asking and killing; a loaded machine adds some.
        let second = 2.0 * PER_SECOND;
        println!("round {round}: {at_least} logins seen, {kept} when the next agent answers");
        assert!(kept as f64 >= at_least as f64 - second, "{kept} of {at_least} logins are left");
        let build = agent.build("web", "candidate").unwrap().unwrap();
        assert_eq!(build.state, "probation", "{build:#?}");
    }
    load.stop();
    assert_eq!(load.wait().failures, 0);
    assert_eq!(agent.incidents().unwrap(), []);
}
