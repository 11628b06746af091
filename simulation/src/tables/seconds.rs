//! Seconds until a fault is found, beside the rules that are deployed today.

use std::fmt::Write as _;

use watchdog::sequential::Parameters;

use super::delay::Place;
use super::{Scale, Section, Table, cell, markdown, median_and_p95, times};
use crate::deploy::Deploy;
use crate::limits::Baseline;
use crate::plots::{self, Axis, Line};
use crate::pool::{Cell, Results};
use crate::rules::{NAIVE, Rule};
use crate::statistics::Quantile;
use crate::world::{DAY, HOUR, World};

pub const TABLE: Table = Table { name: "seconds", title: "Seconds to detection", cells, render };

/// Requests per second, the horizon in seconds, and runs.
const RATES: [(f64, f64, u64); 5] = [
    (0.1, DAY, 200),
    (1.0, 6.0 * HOUR, 150),
    (10.0, 2.0 * HOUR, 100),
    (100.0, HOUR, 40),
    (1000.0, 900.0, 20),
];
const CASES: [(Place, f64); 5] =
    [(Place::Main, 1.2), (Place::Main, 2.0), (Place::Main, 20.0), (Place::Slow, 2.0), (Place::Slow, 20.0)];

fn rules() -> Vec<Rule> {
    NAIVE.into_iter().chain([Rule::Pooled, Rule::Strata, Rule::Bundle, Rule::BundleJ3]).collect()
}

fn label(place: Place, effect: f64, rate: f64) -> String {
    format!("seconds/{place:?}/{effect}/{rate}")
}

fn cells(scale: Scale) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (place, effect) in CASES {
        for (rate, horizon, runs) in RATES {
            let world = World { fault: place.fault(effect), ..World::quiet(rate, horizon) };
            let parameters = Parameters::default();
            let deploy = Deploy { world, rules: rules(), budget: 1.1, baseline: Baseline::Exact, parameters };
            // Kayenta never sees a slow path; the others need minutes.
            let seconds: f64 = if place == Place::Slow { horizon } else { 600.0 };
            let requests = rate * seconds.min(horizon) / 4.0;
            cells.push(cell(label(place, effect, rate), scale.runs(runs), requests, deploy));
        }
    }
    cells
}

fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = String::from(
        "Median and 95th percentile of the seconds until detection of a fault that is there from the deploy on, login, \
         budget 1.1 times the good build. The rules of windows trigger on good builds as well (above); a rule that always \
         triggers is fast. Below a tick of the agent (100 ms) the real delay is the tick. \"never\": not within a day at \
         0.1 requests per second, 6 hours at 1, 2 hours at 10, an hour at 100, 15 minutes at 1000.\n\n",
    );
    for (place, effect) in CASES {
        writeln!(text, "### {effect}x, {}\n", place.what())?;
        let mut head = vec!["rule".to_owned()];
        head.extend(RATES.map(|(rate, _, _)| {
            format!("{rate} req/s ({} runs)", results[&label(place, effect, rate)].len())
        }));
        let row = |(index, rule): (usize, &Rule)| {
            let mut row = vec![rule.name().to_owned()];
            row.extend(
                RATES.map(|(rate, _, _)| median_and_p95(&times(results, &label(place, effect, rate), index))),
            );
            row
        };
        text += &markdown(&head, &rules().iter().enumerate().map(row).collect::<Vec<_>>());
        text.push('\n');
    }
    let picture = by_rate(results, Place::Main, 2.0)?;
    Ok(Section { text, pictures: vec![("seconds", picture)] })
}

fn by_rate(results: &Results, place: Place, effect: f64) -> anyhow::Result<String> {
    let rules = rules();
    let shown = |rule: &Rule| !matches!(rule, Rule::Strata | Rule::BundleJ3);
    let line = |(index, rule): (usize, &Rule)| {
        let at = |(rate, _, _)| {
            let runs = times(results, &label(place, effect, rate), index);
            (rate, Quantile::of(&runs, 0.5).value, Quantile::of(&runs, 0.95).value)
        };
        let dashed = rule.of_windows().is_some();
        Line { name: rule.name().replace('`', ""), points: RATES.map(at).to_vec(), dashed }
    };
    let lines: Vec<Line> = rules.iter().enumerate().filter(|(_, rule)| shown(rule)).map(line).collect();
    plots::lines(
        &format!("Seconds to detection, login, {effect} times, {} (median; bars to p95)", place.what()),
        &Axis { title: "requests per second", ticks: RATES.map(|(rate, _, _)| rate).to_vec() },
        "seconds",
        &lines,
    )
}
