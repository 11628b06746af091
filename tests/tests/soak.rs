//! Nothing leaks, fails or stays behind, however much comes and goes beside the agent.
//!
//! `cargo xtask test` runs it for half a minute, `cargo xtask test --soak 10m` (or `1h`) for as long as that.

use std::time::Duration;

use nix::unistd::Uid;
use watchdog_tests::skip::skip;
use watchdog_tests::soak;

const USUAL: Duration = Duration::from_secs(30);
/// Seconds.
const LONGER: &str = "LOAD_WATCHDOG_SOAK";

#[test]
fn nothing_leaks_fails_or_stays_behind() {
    if !Uid::effective().is_root() {
        return skip("loading kernel programs needs root").unwrap_or_default();
    }
    let time = std::env::var(LONGER).map_or(USUAL, |seconds| {
        Duration::from_secs(seconds.parse().expect("LOAD_WATCHDOG_SOAK is a number of seconds"))
    });
    let outcome = soak::run(time).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{outcome}");
    let broken = soak::judge(&outcome);
    assert!(broken.is_empty(), "{}\n{outcome}", broken.join("\n"));
}
