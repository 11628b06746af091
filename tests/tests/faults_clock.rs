//! The wall clock stepped by a day, forward and back, under the real agent: in the middle of the hook, in the cooldown, in a
//! pause. Nothing becomes due by it, and nothing is forgotten.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;

use watchdog::clock::CLOCK_STEP;
use watchdog::control::Command;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::scene::{A_WHILE, Scene, UNTIL_GO, done, incident_of, says};
use watchdog_tests::agent::site::{Site, site_or_skip};

const DAY_S: i64 = 86_400;

/// From now on the agent of this site finds the wall clock so many seconds off.
fn step(site: &Site, seconds: i64) {
    fs::write(site.file("step"), seconds.to_string()).unwrap();
}

/// Each day is one on which `max_per_day` would begin anew, and longer than the cooldown.
fn stepped(by: i64) {
    let Some(site) = site_or_skip() else { return };
    let file = site.file("step").display().to_string();
    let environment = [(CLOCK_STEP, file.as_str())];
    let mut web = site.web().unwrap();
    web.hook = Some(site.switching_hook(UNTIL_GO).unwrap());
    web.rollback += "\ncooldown = \"1h\"\nmax_per_day = 1";
    let (mut scene, agent) = Scene::begin(site, &[web], &environment).unwrap();
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    step(&scene.site, by);
    std::thread::sleep(A_WHILE);
    // Neither is the hook's time over, nor does it end unseen.
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running", "{}", scene.log());
    scene.go().unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "recovered", "{detail:#?}");
    let steps =
        ["detected", "armed", "intent_journaled", "hook_running", "hook_done", "verifying", "recovered"];
    let told = detail.timeline.iter().map(|entry| entry.text.split(':').next().unwrap());
    assert!(told.eq(steps), "{detail:#?}");
    let (opened, last) = (detail.summary.opened_unix_ms, detail.timeline.last().unwrap().unix_ms);
    assert!((last - opened).abs_diff(by * 1000) < 60_000, "the step was seen: {detail:#?}");

    // In the cooldown, by this agent and by one that begins after the step.
    scene.deploy("worse", true).unwrap();
    incident_of(&agent, "worse", &["awaiting_approval"]).unwrap();
    agent.kill().unwrap();
    step(&scene.site, 0);
    let agent = Agent::start_with(&scene.site, &environment).unwrap();
    let incident = incident_of(&agent, "worse", &["awaiting_approval"]).unwrap();
    let detail = agent.incident(&incident.id).unwrap();
    assert!(says(&detail, "the cooldown is 3600 s"), "{detail:#?}");

    // In a pause of an hour, which is told before the cooldown.
    done(&agent, Command::Pause { for_seconds: 3600 }).unwrap();
    step(&scene.site, by);
    std::thread::sleep(A_WHILE);
    assert_eq!(agent.status().unwrap().agent.decisions.len(), 1, "the pause is over by the step");
    scene.deploy("worst", true).unwrap();
    let incident = incident_of(&agent, "worst", &["awaiting_approval"]).unwrap();
    let detail = agent.incident(&incident.id).unwrap();
    assert!(says(&detail, "paused all rollbacks for another 35"), "{detail:#?}");
    assert_eq!((scene.site.hook_runs(), agent.incidents().unwrap().len()), (1, 3), "{}", scene.log());
    scene.leave().unwrap();
}

#[test]
fn a_day_forward_makes_nothing_due() {
    stepped(DAY_S);
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_day_back_forgets_nothing() {
    stepped(-DAY_S);
}
