//! Deploys of a good build for a day, under everything that disturbs.

use std::fmt::Write as _;

use watchdog::sequential::Parameters;

use super::{Scale, Section, Table, cell, markdown, percent, triggered};
use crate::deploy::Deploy;
use crate::limits::Baseline;
use crate::plots::{self, Shade};
use crate::pool::{Cell, Results};
use crate::rules::{ENGINE, NAIVE, Rule};
use crate::workload::{API, HEAVY, LOGIN, Workload};
use crate::world::{Between, DAY, HOUR, World};

pub const TABLE: Table = Table { name: "false-triggers", title: "False triggers in 24 hours", cells, render };

pub const RATES: [f64; 3] = [0.1, 1.0, 10.0];

/// A nuisance with the budget it is judged by.
pub struct Nuisance {
    pub name: &'static str,
    pub what: &'static str,
    /// Multiple of the good build's figures.
    pub budget: f64,
    disturb: fn(&mut World),
    /// Days at each rate.
    runs: [u64; 3],
}

const SLOWER_HOST: Between = Between { factor: 1.15, from: 6.0 * HOUR, to: 8.0 * HOUR };
const WARM_UP: Between = Between { factor: 3.0, from: 0.0, to: 30.0 };
const DECLARED: Between = Between { factor: 4.0, from: 0.0, to: 30.0 };
const RUNS: [u64; 3] = [150, 30, 4];

pub const NUISANCES: [Nuisance; 12] = [
    Nuisance { name: "N0", what: "good build", budget: 1.1, disturb: |_| (), runs: [3000, 100, 8] },
    Nuisance { name: "N1", what: "exactly at its budget", budget: 1.0, disturb: |_| (), runs: [2000, 60, 6] },
    Nuisance {
        name: "N2a",
        what: "host 15 % slower for two hours",
        budget: 1.1,
        disturb: |world| world.environment = Some(SLOWER_HOST),
        runs: RUNS,
    },
    Nuisance {
        name: "N2b",
        what: "host 15 % slower for two hours",
        budget: 1.25,
        disturb: |world| world.environment = Some(SLOWER_HOST),
        runs: RUNS,
    },
    Nuisance {
        name: "N3a",
        what: "share of successful logins 0.5 to 0.9 over the day",
        budget: 1.1,
        disturb: |world| world.mix_swing = 0.2,
        runs: RUNS,
    },
    Nuisance {
        name: "N3b",
        what: "share of successful logins 0.5 to 0.9 over the day",
        budget: 1.5,
        disturb: |world| world.mix_swing = 0.2,
        runs: RUNS,
    },
    Nuisance {
        name: "N4a",
        what: "three times slower for the first 30 s, not declared",
        budget: 1.1,
        disturb: |world| world.warm_up = Some(WARM_UP),
        runs: RUNS,
    },
    Nuisance {
        name: "N4b",
        what: "three times slower for the first 30 s, factor 4 declared",
        budget: 1.1,
        disturb: |world| (world.warm_up, world.declared) = (Some(WARM_UP), Some(DECLARED)),
        runs: RUNS,
    },
    Nuisance {
        name: "N5a",
        what: "five requests of 5 s more over the day",
        budget: 1.1,
        disturb: |world| world.outliers = (5, DAY),
        runs: RUNS,
    },
    Nuisance {
        name: "N5b",
        what: "five requests of 5 s more in the first 10 minutes",
        budget: 1.1,
        disturb: |world| world.outliers = (5, 600.0),
        runs: RUNS,
    },
    Nuisance {
        name: "N6",
        what: "slower host, changing mix, declared warm-up and outliers together",
        budget: 1.5,
        disturb: |world| {
            world.environment = Some(SLOWER_HOST);
            world.mix_swing = 0.2;
            (world.warm_up, world.declared) = (Some(WARM_UP), Some(DECLARED));
            world.outliers = (5, DAY);
        },
        runs: [150, 200, 4],
    },
    Nuisance {
        name: "N7",
        what: "two minutes of nothing but successful logins every hour",
        budget: 1.1,
        disturb: |world| world.storms = Some((HOUR, 120.0)),
        runs: RUNS,
    },
];

/// In the order of a cell's outcome.
pub fn rules() -> Vec<Rule> {
    NAIVE.into_iter().chain(ENGINE).chain([Rule::Ladder]).collect()
}

pub fn label(nuisance: &str, workload: &Workload, rate: f64) -> String {
    format!("false/{nuisance}/{}/{rate}", workload.name)
}

pub fn day(nuisance: &Nuisance, workload: Workload, rate: f64, rules: Vec<Rule>) -> Deploy {
    let mut world = World { workload, ..World::quiet(rate, DAY) };
    (nuisance.disturb)(&mut world);
    let parameters = Parameters::default();
    Deploy { world, rules, budget: nuisance.budget, baseline: Baseline::Exact, parameters }
}

/// Of one nuisance at the rate of this index, on logins.
pub fn login_cell(nuisance: &Nuisance, rate: usize, scale: Scale) -> Cell {
    let (runs, rate) = (nuisance.runs[rate], RATES[rate]);
    let deploy = day(nuisance, LOGIN, rate, rules());
    cell(label(nuisance.name, &LOGIN, rate), scale.runs(runs), rate * DAY, deploy)
}

fn cells(scale: Scale) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    for nuisance in &NUISANCES {
        cells.extend((0..RATES.len()).map(|rate| login_cell(nuisance, rate, scale)));
    }
    for nuisance in &NUISANCES[..2] {
        for workload in [API, HEAVY] {
            let deploy = day(nuisance, workload, 1.0, rules());
            cells.push(cell(label(nuisance.name, &workload, 1.0), scale.runs(10), DAY, deploy));
        }
    }
    cells
}

fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = String::from(
        "Share of deploys of a good build in which a rule triggers within 24 hours, looking at every request (the rules of \
         windows: every 15 s), with the Clopper-Pearson interval of 95 %. The rows of windows come first; those from \
         \"pooled\" on are the agent's engine. N2a, N3a, N4a and N7 break an absolute budget of 1.1 times the usual mean \
         for some time: there \"pooled\" reports what is true, and calibration, classes and confirmation tell the build \
         from its surroundings. N5b breaks it too: five outliers of 5 s among the first 60 requests are 5.6 times the \
         mean, and J = 3 is for services that have such. The ladder (*) is not in the agent; see [above](#a-faster-rule).\n\n",
    );
    let rules = rules();
    for nuisance in &NUISANCES {
        let runs = |rate: f64| results[&label(nuisance.name, &LOGIN, rate)].len();
        writeln!(
            text,
            "### {}: {}, budget {} times the good build\n",
            nuisance.name, nuisance.what, nuisance.budget
        )?;
        let mut head = vec!["rule".to_owned()];
        head.extend(RATES.map(|rate| format!("{rate} req/s ({} days)", runs(rate))));
        let row = |(index, rule): (usize, &Rule)| {
            let mut row = vec![rule.name().to_owned()];
            let share = |rate| percent(triggered(results, &label(nuisance.name, &LOGIN, rate), index));
            row.extend(RATES.map(share));
            row
        };
        text += &markdown(&head, &rules.iter().enumerate().map(row).collect::<Vec<_>>());
        text.push('\n');
    }
    text += "### Other workloads, 1 req/s\n\n";
    let columns: Vec<(&Nuisance, Workload)> =
        [API, HEAVY].into_iter().flat_map(|w| NUISANCES[..2].iter().map(move |n| (n, w))).collect();
    let mut head = vec!["rule".to_owned()];
    for (nuisance, workload) in &columns {
        let days = results[&label(nuisance.name, workload, 1.0)].len();
        head.push(format!("{}, {} ({days} days)", workload.name, nuisance.name));
    }
    let row = |(index, rule): (usize, &Rule)| {
        let share = |(nuisance, workload): &(&Nuisance, Workload)| {
            percent(triggered(results, &label(nuisance.name, workload, 1.0), index))
        };
        let mut row = vec![rule.name().to_owned()];
        row.extend(columns.iter().map(share));
        row
    };
    text += &markdown(&head, &rules.iter().enumerate().map(row).collect::<Vec<_>>());

    let shades = rules.iter().enumerate().map(|(index, rule)| {
        let share = |n: &Nuisance| triggered(results, &label(n.name, &LOGIN, 1.0), index).share();
        Shade { row: rule.name(), values: NUISANCES.iter().map(share).collect() }
    });
    let columns: Vec<&str> = NUISANCES.iter().map(|nuisance| nuisance.name).collect();
    let picture = plots::shades(
        "Deploys of a good build called bad within 24 h, login at 1 req/s",
        &columns,
        &shades.collect::<Vec<_>>(),
    )?;
    Ok(Section { text, pictures: vec![("false-triggers", picture)] })
}
