//! The figures of docs/decisions.md, on fewer and other deploys.
//!
//! Each documented figure has to lie in the interval that this test's own runs give it: between two order statistics for a
//! delay, Clopper-Pearson for a share, whatever the distribution. The intervals are so wide that chance would leave one
//! figure out in ten thousand; with a fixed seed there is no chance, so a figure outside means that the engine decides
//! otherwise than documented. When it is meant to, `cargo xtask simulate` writes the document anew, and the figures here
//! follow it.

use watchdog::sequential::Parameters;
use watchdog_simulation::deploy::Deploy;
use watchdog_simulation::limits::Baseline;
use watchdog_simulation::pool::{self, Cell, Results};
use watchdog_simulation::rules::Rule;
use watchdog_simulation::statistics::{Quantile, Share};
use watchdog_simulation::tables::delay::{self, Place};
use watchdog_simulation::tables::false_triggers::{NUISANCES, Nuisance, day};
use watchdog_simulation::tables::late;
use watchdog_simulation::workload::LOGIN;
use watchdog_simulation::world::HOUR;

/// Not that of the document.
const SEED: u64 = 2;
/// Probability that chance alone would leave a figure out.
const ERROR: f64 = 1e-4;

fn run(cells: &[Cell]) -> Results {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    pool::run(cells, SEED, threads, |_| ())
}

fn cell(label: &str, runs: u64, deploy: Deploy) -> Cell {
    let cost = deploy.world.rate * deploy.world.horizon;
    Cell { label: label.into(), runs, cost, run: Box::new(move |rng| deploy.run(rng)) }
}

/// Requests of each run, of the cell's only rule.
fn delays(results: &Results, label: &str) -> Vec<f64> {
    let figure = |run: &Vec<Option<watchdog_simulation::deploy::Trigger>>| {
        run[0].map_or(f64::INFINITY, |trigger| trigger.requests as f64)
    };
    results[label].iter().map(figure).collect()
}

fn check(what: &str, runs: &[f64], documented: [f64; 2]) {
    for (p, documented) in [0.5, 0.95].into_iter().zip(documented) {
        let measured = Quantile::with_error(runs, p, ERROR);
        assert!(
            (measured.low..=measured.high).contains(&documented),
            "{what}: the document says {documented} for quantile {p}, these {} runs say {measured:?}",
            runs.len()
        );
        // One that contains everything checks nothing.
        assert!(measured.low > 0.0 && (p > 0.9 || measured.high < 2.5 * documented), "{what}: {measured:?}");
    }
}

#[test]
fn faults_are_found_as_fast_as_documented() {
    let exact = Baseline::Exact;
    // Effect, place, baseline, rule, median and p95 in docs/decisions.md, and runs here.
    let documented = [
        (2.0, Place::Main, exact, Rule::Bundle, [7.0, 14.0], 300),
        (2.0, Place::Main, Baseline::Stored(1_000), Rule::Bundle, [10.0, 20.0], 200),
        (1.5, Place::Main, exact, Rule::Bundle, [26.0, 53.0], 300),
        (5.0, Place::Main, exact, Rule::Bundle, [5.0, 7.0], 300),
        (20.0, Place::Main, exact, Rule::Bundle, [5.0, 7.0], 300),
        (1.2, Place::Main, exact, Rule::Bundle, [231.0, 374.0], 150),
        (2.0, Place::Main, exact, Rule::BundleJ3, [14.0, 22.0], 300),
        (2.0, Place::Main, exact, Rule::Strata, [25.0, 33.0], 300),
        (2.0, Place::Slow, exact, Rule::Pooled, [164.0, 353.0], 300),
        (2.0, Place::Main, exact, Rule::Pooled, [41.0, 81.0], 300),
    ];
    let name = |index: usize| format!("promise/{index}");
    let cells: Vec<Cell> = documented
        .iter()
        .enumerate()
        .map(|(index, &(effect, place, baseline, rule, _, runs))| {
            let deploy = Deploy { rules: vec![rule], ..delay::deploy(LOGIN, place, effect, baseline) };
            cell(&name(index), runs, deploy)
        })
        .collect();
    let results = run(&cells);
    for (index, (effect, place, baseline, rule, wanted, _)) in documented.into_iter().enumerate() {
        let what = format!("{effect}x, {place:?}, {baseline:?}, {rule:?}");
        check(&what, &delays(&results, &name(index)), wanted);
    }
}

#[test]
fn a_fault_that_starts_after_six_hours_is_found_as_fast_as_documented() {
    let deploy = Deploy { rules: vec![Rule::Bundle], ..late::deploy(0.1, 6.0) };
    let results = run(&[cell("late", 150, deploy)]);
    check("2x after 6 h at 0.1 req/s", &delays(&results, "late"), [16.0, 26.0]);
}

#[test]
fn good_builds_are_left_alone_whatever_disturbs() {
    let engine = vec![Rule::Pooled, Rule::Confirmed, Rule::Bundle, Rule::BundleJ3];
    let by_class = vec![Rule::Confirmed, Rule::Bundle, Rule::BundleJ3];
    let nuisance = |name: &str| -> &Nuisance {
        NUISANCES.iter().find(|nuisance| nuisance.name == name).expect("a nuisance of the document")
    };
    // At alpha = 0.001 these days together would have a false trigger once in fifty times, if each were as near to its
    // budget as it may be; the document has none in thousands.
    let cells = [
        ("N0", 0.1, 12, &engine),
        ("N2b", 0.1, 4, &engine),
        ("N3b", 0.1, 4, &engine),
        ("N4b", 0.1, 4, &engine),
        ("N6", 0.1, 8, &engine),
        ("N3a", 0.1, 4, &by_class),
        ("N7", 0.1, 4, &by_class),
    ]
    .map(|(name, rate, days, rules)| cell(name, days, day(nuisance(name), LOGIN, rate, rules.clone())));
    let results = run(&cells);
    for (name, days) in &results {
        assert!(days.iter().flatten().all(Option::is_none), "{name}: {days:?}");
    }
}

#[test]
fn what_breaks_a_budget_is_told_from_what_the_build_does() {
    // The same nuisances that leave the classes alone above are seen by the pooled mean, and by the rules of windows.
    let rules = vec![Rule::Pooled, Rule::Mean, Rule::Prometheus];
    let results = run(&[cell("N3a", 4, day(&NUISANCES[4], LOGIN, 0.1, rules))]);
    assert_eq!(NUISANCES[4].name, "N3a");
    assert!(results["N3a"].iter().flatten().all(Option::is_some), "{results:?}");
}

#[test]
fn a_build_at_its_budget_is_called_over_it_no_more_often_than_promised() {
    const DAYS: u64 = 400;
    // Large, so that it shows in few runs.
    let alpha = 0.1;
    let mut deploy = day(&NUISANCES[1], LOGIN, 0.5, vec![Rule::Pooled]);
    assert_eq!(NUISANCES[1].name, "N1");
    deploy.world.horizon = HOUR;
    deploy.parameters = Parameters { alpha, ..Parameters::default() };
    let results = run(&[cell("boundary", DAYS, deploy)]);
    let called = results["boundary"].iter().filter(|run| run[0].is_some()).count();
    let share = Share::new(called as u64, DAYS);
    // It may be below what is promised, but not nothing: a test that never triggers keeps every promise.
    assert!(share.low <= alpha && share.share() > 0.01, "{share:?}");
}
