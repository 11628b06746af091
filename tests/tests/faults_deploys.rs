//! Deploys at the wrong moment, under the real agent: during a rollback, and two bad ones within a minute.

use watchdog_tests::agent::ENDED;
use watchdog_tests::agent::scene::{A_WHILE, Scene, UNTIL_GO, incident_of, says};
use watchdog_tests::agent::site::site_or_skip;

/// The hook was told to bring the good build back, and does; the deploy that came in between is judged by itself.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_deploy_during_a_rollback_is_not_rolled_back_with_it() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    // What was deployed meanwhile goes on serving.
    web.hook = Some(site.hook(UNTIL_GO).unwrap());
    web.rollback = "verify_within = \"3s\"".to_owned();
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    scene.deploy("later", false).unwrap();
    // The good build is gone, as the deploy has replaced it.
    drop(scene.builds.remove(0));
    scene.go().unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!((detail.summary.state.as_str(), scene.serving().as_deref()), ("escalated", Some("later")));
    assert!(says(&detail, "build later was deployed meanwhile"), "{detail:#?}");
    assert_eq!(agent.build("web", "later").unwrap().unwrap().state, "probation");
    scene.leave().unwrap();
}

/// The second one serves when the first one is found out: a rollback would undo a deploy that nobody judged yet. The second
/// one is found out by itself, and goes.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn of_two_bad_builds_within_a_minute_one_is_rolled_back_once() {
    let Some(site) = site_or_skip() else { return };
    let web = site.web().unwrap();
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    scene.deploy("worse", true).unwrap();
    let worse = incident_of(&agent, "worse", &ENDED).unwrap();
    std::thread::sleep(2 * A_WHILE);
    let detail = agent.incident(&worse.id).unwrap();
    assert_eq!(
        (worse.state.as_str(), scene.serving().as_deref()),
        ("recovered", Some("good")),
        "{detail:#?}"
    );
    assert_eq!(scene.site.hook_runs(), 1, "{}", scene.log());
    // The first one, if it was found out at all, has an end with a reason.
    for incident in agent.incidents().unwrap().iter().filter(|it| it.id != worse.id) {
        let detail = agent.incident(&incident.id).unwrap();
        println!("{}: {:?}", incident.state, detail.timeline.last());
        assert_eq!((incident.bad_build.as_str(), incident.state.as_str()), ("bad", "escalated"));
        assert!(says(&detail, "was deployed after build bad"), "{detail:#?}");
    }
    scene.leave().unwrap();
}

/// The first one is being rolled back when the second one comes, and the hook brings the good one back over both.
#[test]
fn a_bad_deploy_during_a_rollback_gets_no_hook_beside_it() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.hook = Some(site.switching_hook(UNTIL_GO).unwrap());
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    scene.deploy("worse", true).unwrap();
    let worse = incident_of(&agent, "worse", &["awaiting_approval", "escalated"]).unwrap();
    assert_eq!(scene.site.hook_runs(), 1, "{}", scene.log());
    assert!(says(&agent.incident(&worse.id).unwrap(), "is still under way"));
    scene.go().unwrap();
    let bad = incident_of(&agent, "bad", &ENDED).unwrap();
    assert_eq!(bad.state, "recovered", "{:#?}", agent.incident(&bad.id).unwrap());
    std::thread::sleep(A_WHILE);
    assert_eq!((scene.site.hook_runs(), agent.incidents().unwrap().len()), (1, 2), "{}", scene.log());
    scene.leave().unwrap();
}
