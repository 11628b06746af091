//! Requests until a fault is found that is there from the deploy on.

use std::fmt::Write as _;

use watchdog::sequential::Parameters;

use super::{Scale, Section, Table, cell, markdown, median_and_p95, requests};
use crate::deploy::Deploy;
use crate::limits::Baseline;
use crate::plots::{self, Axis, Line};
use crate::pool::{Cell, Results};
use crate::rules::Rule;
use crate::statistics::Quantile;
use crate::workload::{Fault, LOGIN, WORKLOADS, Workload};
use crate::world::{HOUR, World};

pub const TABLE: Table = Table { name: "delay", title: "Requests to detection", cells, render };

pub const EFFECTS: [f64; 5] = [1.2, 1.5, 2.0, 5.0, 20.0];
/// In the order of a cell's outcome.
const RULES: [Rule; 5] = [Rule::Pooled, Rule::Strata, Rule::Bundle, Rule::BundleJ3, Rule::Ladder];
const STORED: [u32; 2] = [10_000, 1_000];
const RATE: f64 = 10.0;

/// Where the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Main,
    Slow,
}

impl Place {
    pub const ALL: [Self; 2] = [Self::Main, Self::Slow];

    pub fn fault(self, effect: f64) -> Fault {
        match self {
            Self::Main => Fault::MainPath { effect },
            Self::Slow => Fault::SlowPath { effect },
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Self::Main => "main path slower",
            Self::Slow => "new slow path on 5 % of the requests",
        }
    }
}

/// Index of a rule in a cell's outcome.
pub fn index(rule: Rule) -> usize {
    RULES.iter().position(|other| *other == rule).expect("a rule of these tables")
}

pub fn label(workload: &Workload, place: Place, effect: f64, baseline: Baseline) -> String {
    let baseline = match baseline {
        Baseline::Exact => "exact".to_owned(),
        Baseline::Stored(requests) => requests.to_string(),
    };
    format!("delay/{}/{place:?}/{effect}/{baseline}", workload.name)
}

pub fn deploy(workload: Workload, place: Place, effect: f64, baseline: Baseline) -> Deploy {
    let world = World { workload, fault: place.fault(effect), ..World::quiet(RATE, 4.0 * HOUR) };
    let rules = RULES.to_vec();
    Deploy { world, rules, budget: 1.1, baseline, parameters: Parameters::default() }
}

pub fn one(workload: Workload, place: Place, effect: f64, baseline: Baseline, scale: Scale) -> Cell {
    let runs = match (workload.name, baseline) {
        ("login", Baseline::Exact) => 2000,
        ("login", _) => 1000,
        _ => 300,
    };
    // About what the slowest rule needs, and the requests of the baseline.
    let slow =
        if workload.name == "login" { 2000.0 } else { 12_000.0 } * 0.02 / ((effect - 1.1) * (effect - 1.0));
    let stored = if let Baseline::Stored(requests) = baseline { f64::from(requests) / 5.0 } else { 0.0 };
    let requests = (slow + stored).clamp(10.0, 20_000.0);
    cell(
        label(&workload, place, effect, baseline),
        scale.runs(runs),
        requests,
        deploy(workload, place, effect, baseline),
    )
}

fn cells(scale: Scale) -> Vec<Cell> {
    let mut cells = Vec::new();
    for place in Place::ALL {
        for effect in EFFECTS {
            for workload in WORKLOADS {
                cells.push(one(workload, place, effect, Baseline::Exact, scale));
            }
            cells.extend(STORED.map(|n| one(LOGIN, place, effect, Baseline::Stored(n), scale)));
        }
    }
    cells
}

fn render(results: &Results, seed: u64) -> anyhow::Result<Section> {
    let mut text = String::from(
        "Median and 95th percentile of the requests until the build is called over its budget of 1.1 times the good build; \
         the effect is on the mean over all requests. 10 requests per second, independent of each other; at other rates \
         the figures are nearly the same, as only the re-staking counts seconds. \"never\": not within 4 hours in that \
         share of the runs. An exact baseline is the good build's distribution itself; a stored one is so many of its \
         requests, in the agent's sketch and by the agent's rules. The ladder (*) is a rule that the \
         agent does not have; see [above](#a-faster-rule).\n\n",
    );
    for workload in WORKLOADS {
        for place in Place::ALL {
            let runs = results[&label(&workload, place, 2.0, Baseline::Exact)].len();
            writeln!(text, "### {}, {}, exact baseline ({runs} runs each)\n", workload.name, place.what())?;
            text += &one_table(results, &workload, place, &[Baseline::Exact]);
            text.push('\n');
        }
    }
    for place in Place::ALL {
        let stored = STORED.map(Baseline::Stored);
        let runs = results[&label(&LOGIN, place, 2.0, stored[0])].len();
        writeln!(text, "### login, {}, stored baselines ({runs} runs each)\n", place.what())?;
        text += &one_table(results, &LOGIN, place, &stored);
        text.push('\n');
    }
    let pictures = vec![
        ("delay-main", by_effect(results, Place::Main)?),
        ("delay-slow", by_effect(results, Place::Slow)?),
        ("evidence", evidence(seed)?),
    ];
    Ok(Section { text, pictures })
}

fn one_table(results: &Results, workload: &Workload, place: Place, baselines: &[Baseline]) -> String {
    let mut head = vec!["rule".to_owned()];
    head.extend(EFFECTS.map(|effect| format!("{effect}x")));
    let mut rows = Vec::new();
    for &baseline in baselines {
        for (index, rule) in RULES.iter().enumerate() {
            let name = match baseline {
                Baseline::Exact => rule.name().to_owned(),
                Baseline::Stored(n) => format!("{}, {n} samples", rule.name()),
            };
            let mut row = vec![name];
            row.extend(EFFECTS.map(|effect| {
                median_and_p95(&requests(results, &label(workload, place, effect, baseline), index))
            }));
            rows.push(row);
        }
    }
    markdown(&head, &rows)
}

fn by_effect(results: &Results, place: Place) -> anyhow::Result<String> {
    let line = |(index, rule): (usize, &Rule)| {
        let at = |effect: f64| {
            let runs = requests(results, &label(&LOGIN, place, effect, Baseline::Exact), index);
            let median = Quantile::of(&runs, 0.5).value;
            (effect, median, Quantile::of(&runs, 0.95).value)
        };
        Line { name: rule.name().to_owned(), points: EFFECTS.map(at).to_vec(), dashed: *rule == Rule::Ladder }
    };
    let lines: Vec<Line> = RULES.iter().enumerate().map(line).collect();
    plots::lines(
        &format!("Requests to detection, login, {} (median; bars to p95)", place.what()),
        &Axis { title: "effect on the mean, times", ticks: EFFECTS.to_vec() },
        "requests",
        &lines,
    )
}

/// Requests shown.
const SHOWN: usize = 120;
const TRACES: u64 = 25;

fn evidence(seed: u64) -> anyhow::Result<String> {
    let traces = |effect: f64| -> Vec<Vec<f64>> {
        let mut deploy = deploy(LOGIN, Place::Main, effect, Baseline::Exact);
        if effect <= 1.0 {
            deploy.world.fault = Fault::None;
        }
        let trace = |run| {
            deploy.evidence(
                Rule::Bundle,
                SHOWN,
                crate::rng::Rng::of(seed, &format!("evidence/{effect}"), run),
            )
        };
        (0..TRACES).map(trace).collect()
    };
    plots::evidence(
        "Evidence of the bundle, login at 10 req/s, 25 deploys each",
        &[("good build", traces(1.0)), ("1.5 times", traces(1.5)), ("twice", traces(2.0))],
        Parameters::default().bar(),
    )
}
