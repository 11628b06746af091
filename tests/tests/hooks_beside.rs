//! The hooks beside the rollback, run by the real agent: before it, at the end, and when a person is needed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use watchdog::control::{self, Outcome};
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Service, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};

const DECIDED_WITHIN: Duration = Duration::from_secs(30);

/// The hooks beside the rollback of this service keep what they are told; the one before it then does `pre`.
fn beside(site: &Site, web: &mut Service, pre: &str) {
    let script = |name: &str, body: &str| {
        let path = site.file(name);
        let keep = "cat >>told.$LOAD_WATCHDOG_HOOK";
        fs::write(&path, format!("#!/bin/sh\ncd '{}' || exit 1\n{keep}\n{body}\n", site.folder().display()))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let (pre, keep) = (script("pre.sh", pre), script("keep.sh", ""));
    for (key, program) in [("pre", &pre), ("post", &keep), ("escalate", &keep)] {
        let _ = write!(web.rollback, "\n[service.rollback.{key}]\nexec = [\"{program}\"]\nretries = 0\n");
    }
}

/// The payloads that this hook was given.
fn told(site: &Site, hook: &str) -> Vec<Value> {
    let text = fs::read_to_string(site.file(&format!("told.{hook}"))).unwrap_or_default();
    let told: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(told.iter().all(|told| told["hook"] == hook), "{told:#?}");
    told
}

/// Waits for so many runs of a hook, and a moment for one too many.
fn wait_for(site: &Site, hook: &str, runs: usize) -> Vec<Value> {
    let begin = Instant::now();
    while told(site, hook).len() < runs {
        assert!(begin.elapsed() < Duration::from_secs(10), "{hook}: {:#?}\n{}", told(site, hook), log(site));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let told = told(site, hook);
    assert_eq!(told.len(), runs, "{told:#?}");
    told
}

fn log(site: &Site) -> String {
    fs::read_to_string(site.log()).unwrap()
}

#[test]
fn people_are_asked_then_it_is_prepared_rolled_back_and_told() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "approve".to_owned();
    // The good build serves only after it. Its first run takes the agent with it.
    let pre = "test -e hook.runs && exit 1\nreadlink current.sock >before\n\
               test -e killed || { touch killed; sleep 0.2; kill -9 $PPID; exit 1; }";
    beside(&site, &mut web, pre);
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    // What the good build costs is on disk after a second; an agent that does not know it waits long to verify.
    std::thread::sleep(Duration::from_millis(1200));
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let incident = agent.wait_for_incident(&["awaiting_approval"], DECIDED_WITHIN).unwrap();
    let asked = wait_for(&site, "escalate", 1);
    let note = asked[0]["note"].as_str().unwrap();
    assert!(note.contains(&format!("load-watchdog approve {}", incident.id)), "{note}");

    // An agent that comes anew tells it again, under the number that the time says.
    agent.kill().unwrap();
    let mut agent = Agent::start(&site).unwrap();
    for asked in wait_for(&site, "escalate", 2) {
        assert_eq!((&asked["outcome"], &asked["repeat"]), (&"awaiting_approval".into(), &0.into()));
    }
    assert!(told(&site, "pre").is_empty());

    let approve = control::Command::Approve { incident: incident.id.clone() };
    let done = control::client::ask(&site.control(), approve).unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let status = agent.wait_for_end(DECIDED_WITHIN).unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    drop(agent);

    // Nothing was begun, so the next agent prepares again, and rolls back once.
    let agent = Agent::start(&site).unwrap();
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    assert_eq!(ended.state, "recovered", "{:#?}", agent.incident(&ended.id).unwrap());
    let post = wait_for(&site, "post", 1).remove(0);
    assert_eq!(post["outcome"], "recovered");
    let mut told_in_all = wait_for(&site, "pre", 2);
    told_in_all.push(post);
    for told in told_in_all {
        assert_eq!(told["incident"], incident.id.as_str());
        assert_eq!((&told["bad_build"], &told["good_build"]), (&"bad".into(), &"good".into()));
    }
    assert_eq!(told(&site, "escalate").len(), 2);
    assert_eq!(fs::read_to_string(site.file("before")).unwrap().trim(), "bad.sock");
    assert_eq!(site.hook_runs(), 1);
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn what_cannot_be_prepared_is_escalated_and_told_and_not_rolled_back() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    beside(&site, &mut web, "echo a deploy is under way >&2; exit 1");
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    site.visit(200).unwrap();
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    assert_eq!(ended.state, "escalated", "{:#?}", agent.incident(&ended.id).unwrap());
    wait_for(&site, "pre", 1);
    for hook in ["post", "escalate"] {
        let told = wait_for(&site, hook, 1).remove(0);
        assert_eq!(told["outcome"], "escalated");
        assert!(told["note"].as_str().unwrap().contains("a deploy is under way"), "{told:#}");
    }
    assert_eq!(site.hook_runs(), 0);
    assert_eq!(fs::read_link(site.file("current.sock")).unwrap().to_str(), Some("bad.sock"));
    assert_eq!(agent.build("web", "bad").unwrap().unwrap().state, "probation");
    assert!(log(&site).contains("the escalate hook ended"), "{}", log(&site));
}
