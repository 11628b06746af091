//! Is the burn server's own account right? It is the yardstick for the kernel's figures, so it is held against the one
//! figure that it does not make itself: the CPU clock of its process. Needs no privileges.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;

use watchdog_tests::burn::stats::Cost;
use watchdog_tests::harness::{Burn, between, usual_mix};
use watchdog_tests::load::{LoadOptions, run};

/// Runs the usual mix and returns what each endpoint cost and the share of the process's CPU that the account explains.
fn account(args: &[&str], change: impl FnOnce(&mut LoadOptions)) -> (BTreeMap<String, Cost>, f64) {
    let burn = Burn::start(args).unwrap();
    let mut options = LoadOptions::new(burn.target().clone(), usual_mix(), 120);
    options.concurrency = 4;
    change(&mut options);
    let before = burn.stats().unwrap();
    let report = run(options).unwrap();
    assert_eq!(report.failures, 0, "{args:?}: {:?}", report.failed);
    let after = burn.stats_after(&before, &report).unwrap();
    let costs = between(&before, &after);
    for endpoint in ["login", "browse", "report", "unknown"] {
        assert_eq!(costs[endpoint].count, report.count(endpoint), "{args:?}: requests to {endpoint}");
    }
    let sum: u64 = costs.values().map(|cost| cost.sum_ns).sum();
    let process = after.process_cpu_ns - before.process_cpu_ns;
    (costs, sum as f64 / process as f64)
}

fn check(args: &[&str], change: impl FnOnce(&mut LoadOptions)) {
    let (costs, explained) = account(args, change);
    let login = costs["login"].mean_ns() / 1e6;
    assert!((10.0..11.5).contains(&login), "{args:?}: a login cost {login:.2} ms");
    let browse = costs["browse"].mean_ns() / 1e6;
    assert!((1.0..1.8).contains(&browse), "{args:?}: a browse cost {browse:.2} ms");
    assert!((0.85..=1.001).contains(&explained), "{args:?}: the account explains {explained:.3} of the CPU");
}

#[test]
fn thread_per_connection() {
    check(&[], |_| {});
    check(&["--peek", "--read-call", "recvmsg", "--answer", "two"], |options| options.keep_alive = false);
    check(&["--read-size", "24", "--answer", "writev"], |options| options.head_pieces = 3);
}

#[test]
fn a_pool_whose_requests_change_threads() {
    check(&["--model", "pool"], |_| {});
    check(&["--model", "pool", "--pool-read", "poller", "--nonblocking"], |_| {});
}

#[test]
fn forked_children_also_those_forked_later() {
    check(&["--model", "prefork", "--refork-after", "10"], |options| options.keep_alive = false);
}

#[test]
fn one_lock_for_all_threads() {
    check(&["--gil"], |_| {});
}

#[test]
fn streamed_and_large_answers_arrive_whole() {
    for answer in ["chunked", "stream", "large", "sendfile"] {
        check(&["--answer", answer], |_| {});
    }
}

#[test]
fn a_body_after_100_continue() {
    check(&[], |options| options.expect_continue = true);
}

#[test]
fn a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", folder.path().join("burn.sock").display());
    check(&["--listen", &listen], |_| {});
}

#[test]
fn a_heavier_build_costs_more_and_says_its_name() {
    let burn = Burn::start(&["--build", "bad", "--login-us", "40000"]).unwrap();
    let mut options = LoadOptions::new(burn.target().clone(), usual_mix(), 40);
    options.steps.truncate(1);
    let before = burn.stats().unwrap();
    let report = run(options).unwrap();
    let after = burn.stats_after(&before, &report).unwrap();
    assert_eq!(report.of("login", "bad").unwrap().count, 40);
    let login = between(&before, &after)["login"].mean_ns() / 1e6;
    assert!((40.0..44.0).contains(&login), "{login:.2} ms");
}

#[test]
fn failures_are_counted_and_told() {
    let burn = Burn::start(&[]).unwrap();
    let mut options = LoadOptions::new(burn.target().clone(), usual_mix(), 10);
    options.steps = vec!["unknown=GET /unknown".parse().unwrap()];
    let report = run(options).unwrap();
    assert_eq!((report.requests, report.failures), (10, 10));
    assert!(report.failed[0].what.contains("401"), "{:?}", report.failed[0]);

    let target = burn.target().clone();
    drop(burn);
    let report = run(LoadOptions::new(target, usual_mix(), 3)).unwrap();
    assert_eq!((report.requests, report.failures), (3, 3));
    assert!(report.failed[0].what.contains("connecting"), "{:?}", report.failed[0]);
}
