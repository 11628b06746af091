//! The real agent on a disk that is full: nothing is run before it is written, and what was run is never run again.
//!
//! The state directory is a tmpfs in a mount namespace of the test's own thread, which is gone with the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use watchdog_tests::agent::scene::{A_WHILE, Scene, WITHIN, says};
use watchdog_tests::agent::site::{Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};

/// Room for a ledger of some minutes.
const SIZE: &str = "size=3m,mode=700";

/// A site whose state directory has little room; threads and processes that this thread starts see it, and no others.
fn small_disk() -> Option<Site> {
    let site = site_or_skip()?;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    fs::create_dir(site.state_dir()).unwrap();
    mount(Some("tmpfs"), &site.state_dir(), Some("tmpfs"), MsFlags::empty(), Some(SIZE)).unwrap();
    Some(site)
}

fn filler(site: &Site) -> PathBuf {
    site.state_dir().join("filler")
}

fn fill(site: &Site) {
    let mut file = File::create(filler(site)).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
}

fn free(site: &Site) {
    fs::remove_file(filler(site)).unwrap();
}

/// First the new build cannot be written down, so that it is not measured; then its incident.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn what_cannot_be_written_waits_for_room_and_then_the_hook_runs_once() {
    let Some(site) = small_disk() else { return };
    let web = site.web().unwrap();
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    fill(&scene.site);
    scene.deploy("bad", true).unwrap();
    scene.wait_for_log("opening a build", 1).unwrap();
    free(&scene.site);
    let known = |agent: &Agent| Ok(agent.build("web", "bad")?.map(drop));
    agent.wait_for("the new build", WITHIN, known).unwrap();
    fill(&scene.site);
    scene.wait_for_log("opening an incident", 1).unwrap();
    std::thread::sleep(2 * A_WHILE);
    assert_eq!((scene.site.hook_runs(), agent.incidents().unwrap().len()), (0, 0), "{}", scene.log());
    assert_eq!(scene.serving().as_deref(), Some("bad"));
    free(&scene.site);
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "recovered", "{detail:#?}");
    scene.leave().unwrap();
}

#[test]
fn a_hook_whose_end_cannot_be_written_is_a_person_s_and_not_run_again() {
    let Some(site) = small_disk() else { return };
    let mut web = site.web().unwrap();
    let until_full = format!("cat /dev/zero >'{}' 2>/dev/null", filler(&site).display());
    web.hook = Some(site.switching_hook(&until_full).unwrap());
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    scene.wait_for_log("the rollback could not be carried through", 1).unwrap();
    assert_eq!((scene.site.hook_runs(), scene.serving().as_deref()), (1, Some("good")));
    agent.kill().unwrap();

    // Killed as well, and begun anew while there is still no room.
    let mut agent = match Agent::start(&scene.site) {
        Ok(agent) => agent,
        Err(error) => {
            let said = format!("{error:#}");
            assert!(said.contains("check the disk's free space"), "{said}");
            free(&scene.site);
            Agent::start(&scene.site).unwrap()
        }
    };
    std::thread::sleep(A_WHILE);
    assert_eq!(scene.site.hook_runs(), 1, "{}", scene.log());
    if filler(&scene.site).exists() {
        free(&scene.site);
    }
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "escalated", "{detail:#?}");
    assert!(says(&detail, "is not run again"), "{detail:#?}");
    agent.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    agent.wait_for_end(Duration::from_secs(5)).unwrap();
    assert!(ENDED.contains(&detail.summary.state.as_str()));
    scene.leave().unwrap();
}
