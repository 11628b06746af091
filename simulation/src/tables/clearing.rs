//! Requests until a build is cleared.

use watchdog::sequential::{Clearance, Parameters, cap_for_clearing};

use super::{Scale, Section, Table, markdown, median_and_p95, percent, requests, triggered};
use crate::deploy::{Outcome, Trigger};
use crate::pool::{Cell, Results};
use crate::rng::Rng;
use crate::workload::{WORKLOADS, Workload};

pub const TABLE: Table = Table { name: "clearing", title: "Clearing a build", cells, render };

/// True mean over budget.
const RATIOS: [f64; 7] = [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0];
const MOST: u64 = 20_000;
/// Requests of the good build from which the cap is chosen.
const BASELINE: u32 = 10_000;

fn label(workload: &Workload, ratio: f64) -> String {
    format!("clearing/{}/{ratio}", workload.name)
}

fn draw(workload: &Workload, rng: &mut Rng) -> f64 {
    let class = workload.pick(rng, 0.0);
    workload.outcomes[usize::from(class)].cost.draw(rng)
}

/// As the agent clears a budget on the mean: the cap from the baseline, and twice what lies above it off the budget.
fn run(workload: &Workload, ratio: f64, rng: &mut Rng) -> Outcome {
    let good: Vec<f64> = (0..BASELINE).map(|_| draw(workload, rng)).collect();
    let sum: f64 = good.iter().sum();
    let mean_ms = sum / f64::from(BASELINE);
    let above = |cap_ms: f64| good.iter().map(|ms| (ms - cap_ms).max(0.0)).sum::<f64>() / sum;
    let (cap, tail) = cap_for_clearing(|cap| above(cap * mean_ms));
    let budget_ms = workload.mean() / ratio;
    let limit_ms = budget_ms * (1.0 - 2.0 * tail.min(0.25));
    let mut clearance = Clearance::new((cap * mean_ms).max(2.0 * budget_ms) / limit_ms);
    let parameters = Parameters::default();
    for requests in 1..=MOST {
        clearance.settle(draw(workload, rng) / limit_ms, 1, parameters.min_requests, 1.0 / parameters.beta);
        if clearance.cleared_after().is_some() {
            return vec![Some(Trigger { seconds: 0.0, requests })];
        }
    }
    vec![None]
}

fn cells(scale: Scale) -> Vec<Cell> {
    let cell = |workload: Workload, ratio: f64| Cell {
        label: label(&workload, ratio),
        runs: scale.runs(400),
        cost: f64::from(BASELINE) + if ratio > 0.85 { 20_000.0 } else { 2_000.0 },
        run: Box::new(move |mut rng| run(&workload, ratio, &mut rng)),
    };
    WORKLOADS.into_iter().flat_map(|workload| RATIOS.map(|ratio| cell(workload, ratio))).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "as the tables with pictures")]
fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = format!(
        "Median and 95th percentile of the requests until a build is cleared (beta = {}), by its true mean over its \
         budget; the cap comes from {BASELINE} requests of the good build. \"never\": not within {MOST} requests. At 1 \
         every clearance is false: share of {} runs with the Clopper-Pearson interval of 95 %.\n\n",
        Parameters::default().beta,
        results[&label(&WORKLOADS[0], 1.0)].len(),
    );
    let mut head = vec!["workload".to_owned()];
    head.extend(RATIOS.map(|ratio| ratio.to_string()));
    let row = |workload: Workload| {
        let mut row = vec![workload.name.to_owned()];
        row.extend(RATIOS.map(|ratio| {
            let label = label(&workload, ratio);
            if ratio < 1.0 {
                median_and_p95(&requests(results, &label, 0))
            } else {
                percent(triggered(results, &label, 0))
            }
        }));
        row
    };
    text += &markdown(&head, &WORKLOADS.map(row));
    Ok(Section { text, pictures: Vec::new() })
}
