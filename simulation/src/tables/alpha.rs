//! What a stricter promise costs, whether it is kept, and whether the pattern of arrivals matters.

use std::fmt::Write as _;

use watchdog::sequential::Parameters;

use super::delay::Place;
use super::false_triggers::{self, NUISANCES};
use super::{Scale, Section, Table, cell, markdown, median_and_p95, percent, requests, triggered};
use crate::deploy::Deploy;
use crate::limits::Baseline;
use crate::plots::{self, Axis, Line};
use crate::pool::{Cell, Results};
use crate::rules::Rule;
use crate::statistics::Quantile;
use crate::workload::LOGIN;
use crate::world::{Arrivals, DAY, HOUR, World};

pub const TABLE: Table = Table { name: "alpha", title: "Sensitivity", cells, render };

const ALPHAS: [f64; 5] = [1e-2, 1e-3, 1e-4, 1e-6, 1e-9];
const CASES: [(Place, f64); 5] =
    [(Place::Main, 1.2), (Place::Main, 1.5), (Place::Main, 2.0), (Place::Main, 5.0), (Place::Slow, 2.0)];
const RULES: [Rule; 2] = [Rule::Pooled, Rule::Bundle];
/// Large enough to be seen in some thousand days.
const BOUNDARY: [f64; 3] = [0.1, 0.03, 0.01];
const ARRIVALS: [(Arrivals, &str); 3] = [
    (Arrivals::Poisson, "independent"),
    (Arrivals::Regular, "evenly spaced"),
    (Arrivals::Groups(20), "in groups of 20"),
];

fn delay_label(alpha: f64, (place, effect): (Place, f64)) -> String {
    format!("alpha/{alpha}/{place:?}/{effect}")
}

fn boundary_label(alpha: f64) -> String {
    format!("alpha/boundary/{alpha}")
}

fn arrivals_label(name: &str, (place, effect): (Place, f64)) -> String {
    format!("arrivals/{name}/{place:?}/{effect}")
}

fn deploy(alpha: f64, arrivals: Arrivals, (place, effect): (Place, f64)) -> Deploy {
    let world = World { fault: place.fault(effect), arrivals, ..World::quiet(10.0, 4.0 * HOUR) };
    let parameters = Parameters { alpha, ..Parameters::default() };
    Deploy { world, rules: RULES.to_vec(), budget: 1.1, baseline: Baseline::Exact, parameters }
}

fn cells(scale: Scale) -> Vec<Cell> {
    let mut cells = Vec::new();
    for case in CASES {
        let requests = if case.1 < 1.3 { 2000.0 } else { 200.0 };
        for alpha in ALPHAS {
            let deploy = deploy(alpha, Arrivals::Poisson, case);
            cells.push(cell(delay_label(alpha, case), scale.runs(600), requests, deploy));
        }
        for (arrivals, name) in ARRIVALS {
            let deploy = deploy(Parameters::default().alpha, arrivals, case);
            cells.push(cell(arrivals_label(name, case), scale.runs(600), requests, deploy));
        }
    }
    for alpha in BOUNDARY {
        let mut deploy = false_triggers::day(&NUISANCES[1], LOGIN, 0.1, RULES.to_vec());
        deploy.parameters.alpha = alpha;
        cells.push(cell(boundary_label(alpha), scale.runs(2000), 0.1 * DAY, deploy));
    }
    cells
}

fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let runs = results[&delay_label(1e-3, CASES[0])].len();
    let mut text = format!(
        "### A stricter promise\n\nMedian and 95th percentile of the requests to detection ({runs} runs each), login, \
         budget 1.1 times the good build, exact baseline. A promise a million times stricter costs less than three times \
         the requests.\n\n"
    );
    let what = |(place, effect): (Place, f64)| match place {
        Place::Main => format!("{effect}x"),
        Place::Slow => format!("{effect}x, 5 % path"),
    };
    let mut head = vec!["rule".to_owned()];
    head.extend(CASES.map(what));
    let mut rows = Vec::new();
    for (index, rule) in RULES.iter().enumerate() {
        for alpha in ALPHAS {
            let mut row = vec![format!("{}, alpha {alpha:e}", rule.name())];
            row.extend(
                CASES.map(|case| median_and_p95(&requests(results, &delay_label(alpha, case), index))),
            );
            rows.push(row);
        }
    }
    text += &markdown(&head, &rows);

    let days = results[&boundary_label(BOUNDARY[0])].len();
    write!(
        text,
        "\n### Whether the promise is kept\n\nShare of days in which a build exactly at its budget is called over it (N1, \
         0.1 requests per second, {days} days each). The promise is that it is at most alpha. The bundle's limits leave \
         room for cheap outcomes, so it stays far below.\n\n"
    )?;
    let mut head = vec!["rule".to_owned()];
    head.extend(BOUNDARY.map(|alpha| format!("alpha {alpha}")));
    let row = |(index, rule): (usize, &Rule)| {
        let mut row = vec![rule.name().to_owned()];
        row.extend(BOUNDARY.map(|alpha| percent(triggered(results, &boundary_label(alpha), index))));
        row
    };
    text += &markdown(&head, &RULES.iter().enumerate().map(row).collect::<Vec<_>>());

    text += "\n### How requests arrive\n\nThe same delays at alpha 0.001, by the pattern of arrivals.\n\n";
    let mut head = vec!["rule, arrivals".to_owned()];
    head.extend(CASES.map(what));
    let mut rows = Vec::new();
    for (index, rule) in RULES.iter().enumerate() {
        for (_, name) in ARRIVALS {
            let mut row = vec![format!("{}, {name}", rule.name())];
            row.extend(
                CASES.map(|case| median_and_p95(&requests(results, &arrivals_label(name, case), index))),
            );
            rows.push(row);
        }
    }
    text += &markdown(&head, &rows);
    Ok(Section { text, pictures: vec![("alpha", by_alpha(results)?)] })
}

fn by_alpha(results: &Results) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for (index, rule) in RULES.iter().enumerate() {
        for case in [CASES[1], CASES[2]] {
            let at = |alpha: f64| {
                let runs = requests(results, &delay_label(alpha, case), index);
                (1.0 / alpha, Quantile::of(&runs, 0.5).value, Quantile::of(&runs, 0.95).value)
            };
            let name = format!("{}, {}x", rule.name(), case.1);
            lines.push(Line { name, points: ALPHAS.map(at).to_vec(), dashed: case.1 < 1.8 });
        }
    }
    plots::lines(
        "Requests to detection by alpha, login, main path (median; bars to p95)",
        &Axis { title: "1 / alpha", ticks: ALPHAS.map(|alpha| 1.0 / alpha).to_vec() },
        "requests",
        &lines,
    )
}
