//! Do the shop's deploy and rollback scripts change the release under load without one failed request, and do they
//! leave the server serving whatever goes wrong? Needs gunicorn (`cargo xtask setup python`), no privileges.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::Duration;

use watchdog_tests::load::{Load, LoadOptions};
use watchdog_tests::shop::{Shop, visitors};

/// Releases that cost little, so that the tests do not hinder each other.
const RELEASES: [(&str, u32); 2] = [("v1", 2_000), ("v2", 8_000)];

fn visit(shop: &Shop, keep_alive: bool) -> Load {
    let mut options = LoadOptions::new(shop.target(), visitors(), 100_000);
    options.concurrency = 4;
    options.rate = Some(40.0);
    options.duration = Some(Duration::from_mins(2));
    options.keep_alive = keep_alive;
    Load::start(options).unwrap()
}

fn switches_lose_nothing(worker_class: &str) {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path(), worker_class, &RELEASES).unwrap();
    let loads = [visit(&shop, true), visit(&shop, false)];
    for release in ["v2", "v1", "v2"] {
        shop.deploy(release).unwrap();
        assert_eq!(shop.serving().unwrap(), release);
        std::thread::sleep(Duration::from_millis(500));
    }
    for load in loads {
        load.stop();
        let report = load.wait();
        assert_eq!(report.failures, 0, "{worker_class}: {:?}", report.failed);
        for release in ["v1", "v2"] {
            assert!(report.of("login", release).is_some_and(|login| login.count > 5), "{report:?}");
        }
    }
}

#[test]
fn sync_workers_lose_no_request() {
    switches_lose_nothing("sync");
}

#[test]
fn threaded_workers_lose_no_request() {
    switches_lose_nothing("gthread");
}

#[test]
fn a_second_run_does_nothing_and_two_at_once_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path(), "sync", &RELEASES).unwrap();
    std::thread::scope(|scope| {
        let runs = ["v2", "v2"].map(|release| scope.spawn(|| shop.script("rollback.sh", release).unwrap()));
        let outputs = runs.map(|run| run.join().unwrap());
        assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
        let idle = outputs
            .iter()
            .filter(|output| String::from_utf8_lossy(&output.stdout).contains("serves already"));
        assert_eq!(idle.count(), 1, "{outputs:?}");
    });
    assert_eq!(shop.serving().unwrap(), "v2");
}

#[test]
fn a_release_that_does_not_start_leaves_the_old_one_serving() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path(), "sync", &RELEASES).unwrap();
    std::fs::write(folder.path().join("releases/v2/app.py"), "raise RuntimeError('broken')\n").unwrap();
    let load = visit(&shop, false);
    let output = shop.script("deploy.sh", "v2").unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(shop.serving().unwrap(), "v1");
    assert_eq!(std::fs::read_link(folder.path().join("current")).unwrap().to_str(), Some("releases/v1"));
    load.stop();
    assert_eq!(load.wait().failures, 0);
    // The refused deploy is in nobody's way.
    shop.deploy("v1").unwrap();
}

#[test]
fn wrong_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path(), "sync", &RELEASES).unwrap();
    assert_eq!(shop.script("deploy.sh", "../v2").unwrap().status.code(), Some(64));
    assert_eq!(shop.script("deploy.sh", "v9").unwrap().status.code(), Some(1));
    assert_eq!(shop.serving().unwrap(), "v1");
}
