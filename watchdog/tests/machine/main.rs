//! The state machine against a simple reference: random sequences of faults, each with the real driver, rails, transitions
//! and ledger. Processes, clocks and traffic are the test's; the agent dies by unwinding at a fail-point.
//!
//! `LOAD_WATCHDOG_FAULT_SEQUENCES` (300) and `LOAD_WATCHDOG_FAULT_SEED` say how many, and which.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod hands;
mod ops;
mod plan;
mod reference;
mod sim;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use watchdog::action::Point;
use watchdog::incident::State;

use self::plan::End;
use self::reference::Right;
use self::sim::{Sim, locked};

const SEQUENCES: u32 = 300;
const SEED: u64 = 20_170_127;

/// What the sequences came to, to show that they come everywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    incidents: u64,
    restarts: u64,
    recovered: u64,
    exonerated: u64,
    approved: u64,
    deaths: Vec<Point>,
    decisions: Vec<Right>,
    ends: Vec<State>,
    /// `None`: nobody saw the end.
    hooks: Vec<Option<End>>,
}

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

fn tally<T: std::fmt::Debug>(of: &[T]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in of {
        *counts.entry(format!("{one:?}")).or_default() += 1;
    }
    counts
}

#[test]
fn exactly_one_hook_run_or_a_named_incident_whatever_happens() {
    let sequences = number("LOAD_WATCHDOG_FAULT_SEQUENCES", SEQUENCES);
    let seed = number("LOAD_WATCHDOG_FAULT_SEED", SEED);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: sequences, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    // A ledger in memory is as durable as this test needs, and spares the disk some ten thousand fsyncs.
    let memory = PathBuf::from("/dev/shm");
    let directory = memory.is_dir().then_some(memory);
    let all = Mutex::new(Counts::default());
    let begin = Instant::now();
    let result = TestRunner::new_with_rng(config, rng).run(&plan::plan(), |plan| {
        let sim = Sim::new(plan, directory.as_ref());
        let _told = Story(&sim);
        for op in sim.plan.ops.clone() {
            sim.happens(&op);
        }
        sim.finish();
        let (one, mut all) = (locked(&sim.counts).clone(), locked(&all));
        all.incidents += one.incidents;
        all.restarts += one.restarts;
        all.recovered += one.recovered;
        all.exonerated += one.exonerated;
        all.approved += one.approved;
        all.deaths.extend(one.deaths);
        all.decisions.extend(one.decisions);
        all.ends.extend(one.ends);
        all.hooks.extend(one.hooks);
        Ok(())
    });
    if let Err(error) = result {
        panic!("seed {seed}: {error}");
    }
    let all = locked(&all);
    eprintln!(
        "{sequences} sequences of seed {seed} in {:.1} s: {} incidents, {} restarts, {} recovered, {} pardoned, \
         {} approved\n  hooks {:?}\n  decisions {:?}\n  ends {:?}\n  killed at {:?}",
        begin.elapsed().as_secs_f64(),
        all.incidents,
        all.restarts,
        all.recovered,
        all.exonerated,
        all.approved,
        tally(&all.hooks.iter().map(|end| end.as_ref().map(kind)).collect::<Vec<_>>()),
        tally(&all.decisions),
        tally(&all.ends),
        tally(&all.deaths),
    );
    if sequences >= SEQUENCES {
        comes_everywhere(&all);
    }
}

fn kind(end: &End) -> &'static str {
    match end {
        End::Done => "done",
        End::Again => "again",
        End::Exit(_) => "failed",
        End::Signal => "signal",
        End::Hangs => "hangs",
        End::NotStarted => "not started",
        End::Lost => "lost",
    }
}

/// A test that never comes to a fault does not test it.
fn comes_everywhere(all: &Counts) {
    for point in Point::ALL {
        assert!(all.deaths.contains(&point), "no agent died at {point}");
    }
    for right in [Right::Act, Right::Observe, Right::Ask, Right::Refuse] {
        assert!(all.decisions.contains(&right), "nothing was decided as {right:?}");
    }
    for state in [State::Recovered, State::Escalated, State::Closed, State::Observed, State::AwaitingApproval]
    {
        assert!(all.ends.contains(&state), "no incident ended {state}");
    }
    for (what, count) in
        [("pardoned", all.exonerated), ("approved", all.approved), ("recovered", all.recovered)]
    {
        assert!(count > 0, "nothing was {what}");
    }
}

/// Tells the course of a sequence that fails.
struct Story<'a>(&'a Sim);

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", locked(&self.0.world).story.join("\n"));
        }
    }
}
