//! The whole path on an unmodified gunicorn: a release whose logins cost four times as much replaces the good one, and
//! the shop's own rollback script brings it back. Needs gunicorn (`cargo xtask setup python`) and root.

use std::time::Duration;

use watchdog_tests::agent::site::site_or_skip;
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::load::{Load, LoadOptions, Step, run};
use watchdog_tests::shop::{Shop, gunicorn, visitors};
use watchdog_tests::skip::skip;

/// Iterations of a password check: some milliseconds, and four times as many.
const RELEASES: [(&str, u32); 2] = [("v1", 8_000), ("v2", 32_000)];
const DECIDED_WITHIN: Duration = Duration::from_secs(40);

#[test]
fn a_bad_release_of_the_shop_is_rolled_back_without_a_failed_request() {
    let Some(site) = site_or_skip() else { return };
    if let Err(error) = gunicorn() {
        skip::<()>(&format!("{error:#}"));
        return;
    }
    let shop = Shop::start(&site.file("shop"), "sync", &RELEASES).unwrap();
    let mut service = site.web().unwrap();
    service.name = "shop".to_owned();
    service.matcher = format!("{{ listen = {} }}", shop.port());
    service.build = "{ file = \"REVISION\" }".to_owned();
    service.hook = Some(shop.rollback_script());
    service.rollback = "verify_within = \"30s\"\ntimeout = \"60s\"".to_owned();
    // Its workers hash passwords in C: their first requests cost no more than later ones.
    service.more = "warmup_factor = 1".to_owned();
    service.budget = "{ vs_baseline = 1.5 }".to_owned();
    site.configure(&[service]).unwrap();
    let agent = Agent::start(&site).unwrap();
    let logins = vec![Step::post("login", "/login", "user=ann&password=correct+horse")];
    let baseline = LoadOptions { concurrency: 2, ..LoadOptions::new(shop.target(), logins, 220) };
    assert_eq!(run(baseline).unwrap().failures, 0);
    agent
        .wait_for("the good release's logins", DECIDED_WITHIN, |agent| {
            Ok((agent.requests("shop", "v1", "login")? >= 220).then_some(()))
        })
        .unwrap();
    assert_eq!(agent.build("shop", "v1").unwrap().unwrap().state, "adopted");

    let load = Load::start(LoadOptions {
        concurrency: 4,
        rate: Some(30.0),
        ..LoadOptions::new(shop.target(), visitors(), 100_000)
    })
    .unwrap();
    shop.deploy("v2").unwrap();
    let ended = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&ended.id).unwrap();
    assert_eq!(ended.state, "recovered", "{detail:#?}");
    assert_eq!((ended.bad_build.as_str(), shop.serving().unwrap().as_str()), ("v2", "v1"), "{detail:#?}");
    let printed = |entry: &watchdog::control::TimelineEntry| entry.text.contains("v2 -> v1");
    assert!(detail.timeline.iter().any(printed), "what the hook printed is missing: {detail:#?}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.incidents().unwrap().len(), 1);
    load.stop();
    let report = load.wait();
    assert_eq!(report.failures, 0, "{:?}", report.failed);
    assert!(report.of("login", "v2").is_some_and(|line| line.count > 0), "{report:?}");
}
