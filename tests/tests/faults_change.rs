//! What people do in the middle of an incident: they take the service out of the configuration, and install another agent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::scene::{A_WHILE, Scene, UNTIL_GO, WITHIN, incident_of, says};
use watchdog_tests::agent::site::{Service, Site, site_or_skip};
use watchdog_tests::harness::executable;

/// A service that nothing runs of, since a configuration needs one.
fn other(site: &Site) -> Service {
    let mut other = site.web().unwrap();
    "other".clone_into(&mut other.name);
    "{ cmdline = 'no program has this' }".clone_into(&mut other.matcher);
    other
}

#[test]
fn a_service_that_is_removed_while_its_hook_runs_is_a_person_s_and_back_it_is_not_run_again() {
    let Some(site) = site_or_skip() else { return };
    let (mut web, other) = (site.web().unwrap(), other(&site));
    web.hook = Some(site.switching_hook(UNTIL_GO).unwrap());
    let both = [web.clone(), other.clone()];
    let (mut scene, agent) = Scene::begin(site, &both, &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    scene.reload(&agent, std::slice::from_ref(&other)).unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running");
    scene.go().unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!((detail.summary.state.as_str(), scene.serving().as_deref()), ("escalated", Some("good")));
    assert!(says(&detail, "was taken out of the configuration"), "{detail:#?}");

    // The service is back, and somebody lets the bad build serve again.
    scene.reload(&agent, &[other, web]).unwrap();
    scene.site.switch("bad").unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "escalated", "{detail:#?}");
    scene.leave().unwrap();
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_service_that_is_removed_while_it_waits_or_is_verified_is_a_person_s() {
    let Some(site) = site_or_skip() else { return };
    let (mut web, other) = (site.web().unwrap(), other(&site));
    // It says that it is done, and nothing has changed: it is verified for as long as it may be.
    web.hook = Some(site.hook("").unwrap());
    let (mut scene, agent) = Scene::begin(site, &[web.clone(), other.clone()], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["verifying"]).unwrap();
    scene.reload(&agent, std::slice::from_ref(&other)).unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "escalated", "{detail:#?}");
    assert!(says(&detail, "was taken out of the configuration"), "{detail:#?}");

    // The breaker is open now, so that the next one waits for a person.
    scene.reload(&agent, &[web, other.clone()]).unwrap();
    scene.deploy("worse", true).unwrap();
    let waiting = incident_of(&agent, "worse", &["awaiting_approval"]).unwrap();
    scene.reload(&agent, &[other]).unwrap();
    incident_of(&agent, "worse", &["escalated"]).unwrap();
    assert!(says(&agent.incident(&waiting.id).unwrap(), "was taken out of the configuration"));
    std::thread::sleep(A_WHILE);
    assert_eq!((scene.site.hook_runs(), agent.incidents().unwrap().len()), (1, 2));
    scene.leave().unwrap();
}

/// A program of its own in the place of the one that runs, as packages install it.
fn install(site: &Site) -> PathBuf {
    let (new, place) = (site.file("load-watchdog.new"), site.file("load-watchdog"));
    fs::copy(executable("load-watchdog").unwrap(), &new).unwrap();
    fs::rename(&new, &place).unwrap();
    place
}

/// Installs another agent, ends the one that runs as the service manager does, and starts the new one.
fn upgrade(site: &Site, mut agent: Agent) -> Agent {
    let place = install(site);
    agent.signal(Signal::SIGTERM).unwrap();
    let status = agent.wait_for_end(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{status}");
    drop(agent);
    Agent::start_command(site, Agent::command_of(site, &place)).unwrap()
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn an_upgrade_in_the_middle_of_an_incident_goes_on_with_it() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "approve".to_owned();
    web.hook = Some(site.switching_hook(UNTIL_GO).unwrap());
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    let agent = upgrade(&scene.site, agent);
    scene.deploy("bad", true).unwrap();
    // While it waits for a person, while the hook runs, and while it is verified.
    let incident = incident_of(&agent, "bad", &["awaiting_approval"]).unwrap();
    let agent = upgrade(&scene.site, agent);
    let approve = watchdog::control::Command::Approve { incident: incident.id };
    watchdog_tests::agent::scene::done(&agent, approve).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    let agent = upgrade(&scene.site, agent);
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running");
    scene.go().unwrap();
    agent
        .wait_for("the verification", WITHIN, |agent| {
            let state = agent.incidents()?.remove(0).state;
            Ok(["verifying", "recovered"].contains(&state.as_str()).then_some(()))
        })
        .unwrap();
    let agent = upgrade(&scene.site, agent);
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "recovered", "{detail:#?}");
    scene.leave().unwrap();
}
