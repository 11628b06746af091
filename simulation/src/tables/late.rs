//! A fault that starts hours after the deploy.

use watchdog::sequential::Parameters;

use super::delay::Place;
use super::{Scale, Section, Table, cell, markdown, median_and_p95, requests};
use crate::deploy::Deploy;
use crate::limits::Baseline;
use crate::pool::{Cell, Results};
use crate::rules::Rule;
use crate::world::{HOUR, World};

pub const TABLE: Table = Table { name: "late", title: "Faults that start late", cells, render };

/// Requests per second, and runs.
pub const RATES: [(f64, u64); 4] = [(0.1, 1000), (1.0, 400), (10.0, 60), (100.0, 20)];
const STARTS: [f64; 3] = [0.0, 1.0, 6.0];
const RULES: [Rule; 4] = [Rule::Bundle, Rule::BundleJ3, Rule::Strata, Rule::Pooled];
/// Index of the bundle in a cell's outcome.
pub const BUNDLE: usize = 0;

/// At a high rate hours are many requests: the bundle alone.
fn rules(rate: f64) -> &'static [Rule] {
    if rate > 50.0 { &RULES[..1] } else { &RULES }
}

pub fn label(rate: f64, hours: f64) -> String {
    format!("late/{rate}/{hours}")
}

pub fn deploy(rate: f64, hours: f64) -> Deploy {
    let fault = Place::Main.fault(2.0);
    let fault_from = hours * HOUR;
    // 4000 requests in which to find it.
    let world = World { fault, fault_from, ..World::quiet(rate, fault_from + 4000.0 / rate) };
    let (rules, parameters) = (rules(rate).to_vec(), Parameters::default());
    Deploy { world, rules, budget: 1.1, baseline: Baseline::Exact, parameters }
}

pub fn one((rate, runs): (f64, u64), hours: f64, scale: Scale) -> Cell {
    let requests = rate * hours * HOUR + 50.0;
    cell(label(rate, hours), scale.runs(runs), requests, deploy(rate, hours))
}

fn cells(scale: Scale) -> Vec<Cell> {
    RATES.into_iter().flat_map(|rate| STARTS.map(|hours| one(rate, hours, scale))).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "as the tables with pictures")]
fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = String::from(
        "Median and 95th percentile of the requests after the fault began, until the build is called over its budget of \
         1.1 times the good build; login, main path slower, 2x. Without re-staking the requests before the fault would \
         have to be made up for one by one.\n\n",
    );
    let mut head = vec!["rate".to_owned(), "runs".to_owned(), "fault starts".to_owned()];
    head.extend(RULES.map(|rule| rule.name().to_owned()));
    let mut rows = Vec::new();
    for (rate, _) in RATES {
        for hours in STARTS {
            let start = if hours > 0.0 { format!("after {hours} h") } else { "at deploy".into() };
            let label = label(rate, hours);
            let mut row = vec![format!("{rate} req/s"), results[&label].len().to_string(), start];
            row.extend(RULES.iter().enumerate().map(|(index, _)| {
                if index < rules(rate).len() {
                    median_and_p95(&requests(results, &label, index))
                } else {
                    "-".into()
                }
            }));
            rows.push(row);
        }
    }
    text += &markdown(&head, &rows);
    Ok(Section { text, pictures: Vec::new() })
}
