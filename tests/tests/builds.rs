//! The real agent with several builds at once: which is compared with which, acceptance by hand, and the way back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use watchdog::verdict::Missing;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::skip::skip;

const SEEN_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_canary_is_judged_by_its_own_requests_accepted_by_hand_and_left_again() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.budget = "{ vs_baseline = 1.5, peak_rate = \"auto\", max_host_share = 0.5 }".to_owned();
    site.configure(&[web]).unwrap();
    let stable = site.deploy("stable", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    wait_for_logins(&agent, "stable", BASELINE / 2);

    // One worker of a new build beside the old one, which goes on serving.
    let _canary = site.deploy("canary", GOOD_US).unwrap();
    site.visit(20).unwrap();
    wait_for_logins(&agent, "canary", 3);
    site.switch("stable").unwrap();
    site.visit(60).unwrap();
    wait_for_logins(&agent, "stable", BASELINE / 2 + 30);
    let canary = agent.build("web", "canary").unwrap().unwrap();
    assert_eq!((canary.state.as_str(), canary.role.as_deref()), ("probation", Some("candidate")));
    let with = canary.compared_with.clone().unwrap();
    assert_eq!((with.build.as_str(), with.processes), ("stable", 1), "{canary:#?}");
    assert!(with.requests >= 200, "{with:?}");
    let logins = canary.endpoints.iter().find(|it| it.endpoint.as_str() == "login").unwrap();
    assert!(logins.requests <= 20, "requests of the other build count for it: {canary:#?}");
    let stable_now = agent.build("web", "stable").unwrap().unwrap();
    assert_eq!((stable_now.state.as_str(), stable_now.role.as_deref()), ("adopted", Some("control")));
    // The rate of a day is not known after a minute, and not guessed.
    let sentence = canary.sentence.unwrap();
    assert!(sentence.contains("too little traffic history"), "{sentence}");
    assert!(logins.peak.is_some_and(|peak| peak.watched_seconds < peak.needed_seconds), "{logins:#?}");
    let told = client(&site, &["builds"]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("compared with stable") && text.contains("probation"), "{text}");

    for (build, why) in [("nosuch", "has no build nosuch"), ("stable", "only one on probation is accepted")] {
        let refused = client(&site, &["builds", "accept", "web", build]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains(why), "{refused:?}");
    }
    let accepted = client(&site, &["builds", "accept", "web", "canary"]);
    assert!(accepted.status.success(), "{accepted:?}");
    let canary = agent.build("web", "canary").unwrap().unwrap();
    assert_eq!((canary.state.as_str(), canary.role), ("good", None));
    let text = String::from_utf8(client(&site, &["builds"]).stdout).unwrap();
    assert!(text.contains("accepted by root"), "{text}");

    // It serves alone, and then somebody goes back: the old build is known, and not put on probation.
    site.switch("canary").unwrap();
    drop(stable);
    agent
        .wait_for("the end of the old build", SEEN_WITHIN, |agent| {
            let processes = agent.build("web", "stable")?.map_or(0, |build| build.processes);
            Ok((processes == 0).then_some(()))
        })
        .unwrap();
    let _stable = site.deploy("stable", GOOD_US).unwrap();
    site.visit(20).unwrap();
    let back = agent
        .wait_for("the old build again", SEEN_WITHIN, |agent| {
            Ok(agent.build("web", "stable")?.filter(|build| build.processes > 0))
        })
        .unwrap();
    assert_eq!((back.state.as_str(), back.role), ("adopted", None));
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("rolled back: an earlier good build serves again"), "{log}");
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (0, 0));

    // All of it is there for the next agent.
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    let states: Vec<(String, String)> = agent
        .service("web")
        .unwrap()
        .builds
        .into_iter()
        .map(|build| (build.build.to_string(), build.state))
        .collect();
    assert_eq!(
        states,
        [("canary".to_owned(), "good".to_owned()), ("stable".to_owned(), "adopted".to_owned())]
    );
}

/// The canary comes before 200 logins of the good build are known, and the comparison begins when they are: with what the
/// canary costs from then on.
#[test]
fn a_good_build_that_becomes_known_in_mid_probation_is_compared_with_from_then_on() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "observe".to_owned();
    web.budget = "{ vs_baseline = 1.5 }".to_owned();
    site.configure(&[web]).unwrap();
    let _stable = site.deploy("stable", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(60).unwrap();
    wait_for_logins(&agent, "stable", 30);
    let _canary = site.deploy("canary", BAD_US).unwrap();
    site.visit(40).unwrap();
    wait_for_logins(&agent, "canary", 20);
    let waiting = agent.build("web", "canary").unwrap().unwrap();
    let sentence = waiting.sentence.as_deref().unwrap();
    assert!(sentence.contains("no good build to compare logins with yet ("), "{sentence}");
    assert_eq!(waiting.verdict.as_deref(), Some("undecided"), "however dear it is: {waiting:#?}");

    site.switch("stable").unwrap();
    site.visit(BASELINE).unwrap();
    let compared = agent
        .wait_for("the comparison", SEEN_WITHIN, |agent| {
            let canary = agent.build("web", "canary")?;
            Ok(canary.filter(|it| it.missing.iter().all(|it| !matches!(it, Missing::Baseline { .. }))))
        })
        .unwrap();
    let login = compared.endpoints.iter().find(|it| it.endpoint.as_str() == "login").unwrap();
    assert!(login.baseline_requests.is_some_and(|requests| requests >= 200), "{compared:#?}");
    assert_eq!(agent.incidents().unwrap(), [], "what it cost before is not judged by it");
    // An agent that is killed goes on with it.
    std::thread::sleep(Duration::from_millis(1500));
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    site.switch("canary").unwrap();
    site.visit(80).unwrap();
    let found = agent
        .wait_for("an incident", SEEN_WITHIN, |agent| Ok(agent.incidents()?.into_iter().next()))
        .unwrap();
    println!("{}", found.sentence);
    assert!(
        found.bad_build.as_str() == "canary" && found.sentence.contains("of the good build stable"),
        "{found:?}"
    );
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("enough is known of stable now"), "{log}");
}

/// A cgroup of this test, removed again.
struct Limited(PathBuf);

impl Limited {
    /// `None` where this host lets nobody make one.
    fn new() -> Option<Self> {
        let name = format!("load-watchdog-test-{}", std::process::id());
        ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"]
            .map(|root| Path::new(root).join(&name))
            .into_iter()
            .find(|folder| {
                let made = fs::create_dir(folder).is_ok();
                let usable =
                    made && (folder.join("cpu.cfs_quota_us").exists() || folder.join("cpu.max").exists());
                if made && !usable {
                    let _ = fs::remove_dir(folder);
                }
                usable
            })
            .map(Self)
    }

    fn allow(&self, cores: f64) {
        let quota = format!("{:.0}", 100_000.0 * cores);
        if self.0.join("cpu.max").exists() {
            fs::write(self.0.join("cpu.max"), format!("{quota} 100000")).unwrap();
        } else {
            fs::write(self.0.join("cpu.cfs_quota_us"), quota).unwrap();
        }
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Its last process may still be ending.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_quota_of_the_cgroup_is_what_the_share_is_of_and_it_is_followed() {
    let Some(site) = site_or_skip() else { return };
    let Some(limited) = Limited::new() else {
        let _: Option<()> = skip("this host lets nobody make a cgroup with a CPU quota");
        return;
    };
    let mut web = site.web().unwrap();
    web.budget = "{ peak_rate = 40.0, max_host_share = 0.5 }".to_owned();
    site.configure(&[web]).unwrap();
    let burn = site.deploy("good", GOOD_US).unwrap();
    limited.allow(0.5);
    limited.take(burn.pid());
    let agent = Agent::start(&site).unwrap();
    let told = |what: &str| {
        agent
            .wait_for(what, SEEN_WITHIN, |_| Ok(fs::read_to_string(site.log())?.contains(what).then_some(())))
            .unwrap();
    };
    told("service web may use 0.50 of the host's");
    site.visit(40).unwrap();
    wait_for_logins(&agent, "good", 20);
    let share = |agent: &Agent| {
        let labels = [("service", "web"), ("endpoint", "login"), ("build", "good")];
        agent.metrics().unwrap().sum("load_watchdog_projected_host_share", &labels).unwrap()
    };
    let of_half_a_core = share(&agent);
    limited.allow(0.8);
    told("service web may use 0.80 of the host's");
    let of_more = share(&agent);
    println!("at 40 logins a second: {of_half_a_core:.3} of half a core, {of_more:.3} of 0.8");
    // Much of 2 ms and 40 a second; and the same cost over other cores.
    assert!(of_half_a_core > 0.1, "{of_half_a_core}");
    assert!((of_half_a_core / of_more / 1.6 - 1.0).abs() < 0.01, "{of_half_a_core} {of_more}");
}

fn wait_for_logins(agent: &Agent, build: &str, at_least: u64) {
    agent
        .wait_for(&format!("{at_least} logins of {build}"), SEEN_WITHIN, |agent| {
            Ok((agent.requests("web", build, "login")? >= at_least).then_some(()))
        })
        .unwrap();
}

fn client(site: &Site, words: &[&str]) -> Output {
    std::process::Command::new(watchdog_tests::harness::executable("load-watchdog").unwrap())
        .args(words)
        .arg("--control")
        .arg(site.control())
        .output()
        .unwrap()
}
