//! The real agent killed in the middle of a rollback: the next one never runs the hook a second time, and comes to an
//! end that has a name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use watchdog::action::{DIE_AT, Point};
use watchdog::incident::State;
use watchdog::store::Store;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::harness::Burn;
use watchdog_tests::load::Load;

const DECIDED_WITHIN: Duration = Duration::from_secs(30);
/// Time for a second run of the hook, were there one.
const A_WHILE: Duration = Duration::from_secs(1);

const WRITTEN_WITHIN: Duration = Duration::from_millis(1500);

/// A site with a bad build under traffic.
struct Scene {
    site: Site,
    agent: Agent,
    load: Load,
    builds: [Burn; 2],
}

fn scene(hook: &str) -> Option<Scene> {
    let site = site_or_skip()?;
    let mut web = site.web().unwrap();
    web.hook = Some(site.switching_hook(hook).unwrap());
    site.configure(&[web]).unwrap();
    let good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    // What the agent did not write before it is killed is not there to hold the good build to.
    std::thread::sleep(WRITTEN_WITHIN);
    let bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    Some(Scene { site, agent, load, builds: [good, bad] })
}

impl Scene {
    /// Kills the agent as soon as its ledger says one of these.
    fn kill_at(self, states: &[State]) -> (Site, Load, [Burn; 2]) {
        let ledger = Store::open_reader(&self.site.state_dir()).unwrap();
        let end = Instant::now() + DECIDED_WITHIN;
        // Without a pause: the states follow each other within milliseconds.
        loop {
            let incidents = ledger.incidents(1).unwrap();
            if incidents.first().is_some_and(|incident| states.contains(&incident.state)) {
                break;
            }
            assert!(Instant::now() < end, "no incident came to {states:?}: {incidents:#?}");
        }
        self.agent.kill().unwrap();
        (self.site, self.load, self.builds)
    }
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn killed_while_it_verifies_the_next_agent_goes_on() {
    let Some(scene) = scene("") else { return };
    let (site, load, _builds) = scene.kill_at(&[State::Verifying]);
    let agent = Agent::start(&site).unwrap();
    let ended = agent.wait_for_incident(&["recovered", "escalated"], DECIDED_WITHIN).unwrap();
    std::thread::sleep(A_WHILE);
    let runs = site.hook_runs();
    let detail = agent.incident(&ended.id).unwrap();
    assert_eq!((runs, ended.state.as_str()), (1, "recovered"), "{detail:#?}");
    assert_eq!(agent.incidents().unwrap().len(), 1, "{detail:#?}");
    // And the one after it finds nothing more to do, though the bad build's process is still there.
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(site.hook_runs(), runs);
    let states: Vec<_> = agent.incidents().unwrap().into_iter().map(|incident| incident.state).collect();
    assert_eq!(states, [ended.state]);
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

#[test]
fn killed_after_the_intent_the_hook_is_not_run_twice() {
    dies_at(Point::IntentJournaled);
}

/// A debug build of the agent kills itself at a point, as `kill -9` does; so this needs no luck with the time.
fn dies_at(point: Point) {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let mut agent = Agent::start_with(&site, &[(DIE_AT, &point.to_string())]).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let status = agent.wait_for_end(DECIDED_WITHIN).unwrap();
    assert_eq!(status.signal(), Some(9), "{status} at {point}");
    drop(agent);
    let agent = Agent::start(&site).unwrap();
    let ended = agent.wait_for_incident(&["recovered", "escalated"], DECIDED_WITHIN).unwrap();
    std::thread::sleep(A_WHILE);
    let (runs, detail) = (site.hook_runs(), agent.incident(&ended.id).unwrap());
    println!("killed at {point}: {} after {runs} runs of the hook", ended.state);
    // The hook ends within milliseconds: its supervisor alone sees how.
    let unknown = point == Point::IntentJournaled;
    let expected = if unknown { "escalated" } else { "recovered" };
    assert_eq!(ended.state, expected, "{point}: {detail:#?}");
    assert_eq!(runs, usize::from(point != Point::IntentJournaled), "{point}: {detail:#?}");
    if unknown {
        let named = detail.timeline.iter().any(|entry| entry.text.contains("is not run again"));
        assert!(named, "{point}: {detail:#?}");
    }
    assert_eq!(agent.incidents().unwrap().len(), 1, "{point}: {detail:#?}");
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn killed_with_a_decision_on_disk_the_next_agent_acts_on_it() {
    dies_at(Point::Decided);
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn killed_at_every_point_of_an_incident_the_hook_runs_once_or_a_person_is_asked() {
    for point in Point::ALL {
        dies_at(point);
    }
}

/// The hook of the tests below goes on when this file is there.
const GO_ON: &str = "while [ ! -e go ]; do sleep 0.05; done";

#[test]
fn killed_while_the_hook_runs_the_next_agent_waits_for_it_and_verifies() {
    let Some(scene) = scene(GO_ON) else { return };
    let (site, load, _builds) = scene.kill_at(&[State::HookRunning]);
    // The hook outlives the agent.
    let agent = Agent::start(&site).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running");
    fs::write(site.file("go"), "").unwrap();
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&ended.id).unwrap();
    assert_eq!(ended.state, "recovered", "{detail:#?}");
    std::thread::sleep(A_WHILE);
    assert_eq!((site.hook_runs(), agent.incidents().unwrap().len()), (1, 1), "{detail:#?}");
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

/// Kills the agent while the hook runs, lets the hook end, and starts the next agent.
fn ends_unseen(hook: &str, is_over: impl Fn(&Site) -> bool) -> Option<(Site, Agent, Load, [Burn; 2])> {
    let (site, load, builds) = scene(hook)?.kill_at(&[State::HookRunning]);
    fs::write(site.file("go"), "").unwrap();
    let end = Instant::now() + DECIDED_WITHIN;
    while !is_over(&site) {
        assert!(Instant::now() < end, "the hook did not outlive the agent");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    let agent = Agent::start(&site).unwrap();
    Some((site, agent, load, builds))
}

/// The hook ended well while no agent was there: its supervisor has recorded that, and it is verified.
#[test]
fn killed_while_the_hook_runs_and_it_ended_unseen_the_next_agent_verifies() {
    let is_switched =
        |site: &Site| fs::read_link(site.file("current.sock")).unwrap().to_str() == Some("good.sock");
    let Some((site, agent, load, _builds)) = ends_unseen(GO_ON, is_switched) else { return };
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&ended.id).unwrap();
    assert_eq!(ended.state, "recovered", "{detail:#?}");
    assert!(detail.timeline.iter().any(|it| it.text.contains("recorded by its supervisor")), "{detail:#?}");
    std::thread::sleep(A_WHILE);
    assert_eq!((site.hook_runs(), agent.incidents().unwrap().len()), (1, 1), "{detail:#?}");
    assert_eq!(fs::read_dir(site.state_dir().join("hooks")).unwrap().count(), 0, "a record was left");
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

/// It failed while no agent was there: a person is told its exit code, and it is not run again.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn killed_while_the_hook_runs_and_it_failed_unseen_a_person_is_told_how() {
    let fails = format!("{GO_ON}; echo no such build >&2; touch over; exit 3");
    let Some((site, agent, load, _builds)) = ends_unseen(&fails, |site| site.file("over").exists()) else {
        return;
    };
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&ended.id).unwrap();
    assert_eq!(ended.state, "escalated", "{detail:#?}");
    assert!(detail.timeline.iter().any(|it| it.text.contains("failed (exit 3)")), "{detail:#?}");
    std::thread::sleep(A_WHILE);
    assert_eq!((site.hook_runs(), agent.incidents().unwrap().len()), (1, 1), "{detail:#?}");
    load.stop();
    assert_eq!(load.wait().failures, 0);
}
