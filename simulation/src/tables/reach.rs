//! The figures this engine is meant to reach, and whether it does.

use super::delay::{self, Place};
use super::false_triggers::{self, NUISANCES, Nuisance};
use super::{Scale, Section, Table, figure, late, markdown, percent, requests, triggered};
use crate::limits::Baseline;
use crate::pool::{Cell, Results};
use crate::rules::{ENGINE, Rule};
use crate::statistics::Quantile;
use crate::workload::LOGIN;

pub const TABLE: Table = Table { name: "reach", title: "What was to be reached", cells, render };

/// A delay that is wanted: median and 95th percentile of requests.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub what: &'static str,
    pub place: Place,
    pub effect: f64,
    pub baseline: Baseline,
    pub rule: Rule,
    pub wanted: [f64; 2],
}

const fn goal(what: &'static str, place: Place, effect: f64, rule: Rule, wanted: [f64; 2]) -> Goal {
    Goal { what, place, effect, baseline: Baseline::Exact, rule, wanted }
}

/// At alpha 0.001 per deploy and a budget of 1.1 times the good build, login.
pub const GOALS: [Goal; 8] = [
    goal("2x, main path, exact baseline", Place::Main, 2.0, Rule::Bundle, [7.0, 15.0]),
    Goal {
        baseline: Baseline::Stored(1_000),
        ..goal("2x, main path, 1,000 stored samples", Place::Main, 2.0, Rule::Bundle, [10.0, 20.0])
    },
    goal("1.5x, main path", Place::Main, 1.5, Rule::Bundle, [28.0, 58.0]),
    goal("5x, main path", Place::Main, 5.0, Rule::Bundle, [5.0, 7.0]),
    goal("20x, main path", Place::Main, 20.0, Rule::Bundle, [5.0, 7.0]),
    goal("1.2x, main path", Place::Main, 1.2, Rule::Bundle, [224.0, 364.0]),
    goal("2x through a 5 % path", Place::Slow, 2.0, Rule::Pooled, [156.0, 382.0]),
    goal("2x, absolute mean without classes (bound: 34)", Place::Main, 2.0, Rule::Pooled, [40.0, 80.0]),
];

/// Requests after a fault of 2x that starts six hours after the deploy, median.
pub const LATE_WANTED: f64 = 18.0;
const LATE_HOURS: f64 = 6.0;

/// Good builds, and all nuisances together: nuisance, index of the rate, days that are wanted without a trigger.
const NEVER: [(usize, usize, usize); 2] = [(0, 0, 3000), (10, 1, 200)];

fn cells(scale: Scale) -> Vec<Cell> {
    let mut cells: Vec<Cell> =
        GOALS.iter().map(|goal| delay::one(LOGIN, goal.place, goal.effect, goal.baseline, scale)).collect();
    cells.extend(late::RATES.map(|rate| late::one(rate, LATE_HOURS, scale)));
    cells.extend(
        NEVER.map(|(nuisance, rate, _)| false_triggers::login_cell(&NUISANCES[nuisance], rate, scale)),
    );
    cells
}

/// Requests of all runs of a goal, by the rule of the goal.
pub fn delays(results: &Results, goal: &Goal) -> Vec<f64> {
    let label = delay::label(&LOGIN, goal.place, goal.effect, goal.baseline);
    requests(results, &label, delay::index(goal.rule))
}

#[expect(clippy::unnecessary_wraps, reason = "as the tables with pictures")]
fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = String::from(
        "At alpha = 0.001 per deploy, looking at every request, budget 1.1 times the good build, login. Figures are \
         requests, median / 95th percentile, each with the interval that holds it with 95 % (two order statistics of the \
         runs, whatever their distribution). \"Within the noise\": above what was wanted, and the interval reaches it.\n\n",
    );
    let head = ["figure", "rule", "runs", "wanted", "measured", "interval", "reached"].map(str::to_owned);
    let mut rows = Vec::new();
    for goal in &GOALS {
        let runs = delays(results, goal);
        let measured = [Quantile::of(&runs, 0.5), Quantile::of(&runs, 0.95)];
        rows.push(vec![
            goal.what.to_owned(),
            goal.rule.name().to_owned(),
            runs.len().to_string(),
            pair(goal.wanted),
            pair(measured.map(|quantile| quantile.value)),
            measured.map(interval).join(" / "),
            reached(&measured.into_iter().zip(goal.wanted).collect::<Vec<_>>()),
        ]);
    }
    for (rate, _) in late::RATES {
        let runs = requests(results, &late::label(rate, LATE_HOURS), late::BUNDLE);
        let median = Quantile::of(&runs, 0.5);
        rows.push(vec![
            format!("2x, six hours after the deploy, {rate} req/s (median)"),
            Rule::Bundle.name().to_owned(),
            runs.len().to_string(),
            figure(LATE_WANTED),
            figure(median.value),
            interval(median),
            reached(&[(median, LATE_WANTED)]),
        ]);
    }
    text += &markdown(&head, &rows);

    text += "\nDays without a needless rollback, with the Clopper-Pearson interval of 95 % for the share of days with one:\n\n";
    let head = ["days", "rule", "wanted", "measured", "reached"].map(str::to_owned);
    let mut rows = Vec::new();
    for (nuisance, rate, days) in NEVER {
        for rule in ENGINE {
            rows.push(never(results, &NUISANCES[nuisance], rate, days, rule));
        }
    }
    text += &markdown(&head, &rows);
    text += &faster(results);
    Ok(Section { text, pictures: Vec::new() })
}

fn never(results: &Results, nuisance: &Nuisance, rate: usize, days: usize, rule: Rule) -> Vec<String> {
    let rate = false_triggers::RATES[rate];
    let rules = false_triggers::rules();
    let index = rules.iter().position(|other| *other == rule).expect("a rule of these cells");
    let share = triggered(results, &false_triggers::label(nuisance.name, &LOGIN, rate), index);
    let enough = usize::try_from(share.of).is_ok_and(|of| of >= days);
    let reached = match (share.count, enough) {
        (0, true) => "yes",
        (0, false) => "too few days",
        _ => "**no**",
    };
    vec![
        format!("{}: {}, budget {}x, {rate} req/s", nuisance.name, nuisance.what, nuisance.budget),
        rule.name().to_owned(),
        format!("0 of {days}"),
        format!("{} of {}: {}", share.count, share.of, percent(share)),
        reached.to_owned(),
    ]
}

/// The rule beside the agent's, on the same deploys.
fn faster(results: &Results) -> String {
    let mut text = String::from(
        "\n### A faster rule\n\nThe agent bets on two quantiles of each outcome class, p90 and p99. The *ladder* bets on \
         seven at once (tails of 0.5, 0.2, 0.1, 0.03, 0.01, 0.003 and 0.001) with one process: `z` is the average over the \
         levels of `1{x > limit} / tail`. While the build keeps each of these quantile budgets, every term has a mean of at \
         most 1 given the past, so `z` has, and the same products, stakes and bar keep the same promise (Ville). A request \
         far out pays for all levels that it exceeds. Its price: it asks for more than the agent does (all seven quantiles \
         within the ratio), the limit of the uppermost needs more than 10,000 stored samples, and a few isolated outliers \
         weigh more (N5b below). The agent does not have it; the same deploys as above:\n\n",
    );
    let cases: Vec<(Place, f64)> =
        Place::ALL.into_iter().flat_map(|place| delay::EFFECTS.map(move |effect| (place, effect))).collect();
    let mut head = vec!["rule, baseline".to_owned()];
    head.extend(cases.iter().map(|(place, effect)| match place {
        Place::Main => format!("{effect}x"),
        Place::Slow => format!("{effect}x, 5 % path"),
    }));
    let mut rows = Vec::new();
    for baseline in [Baseline::Exact, Baseline::Stored(10_000), Baseline::Stored(1_000)] {
        for rule in [Rule::Bundle, Rule::Ladder] {
            let mut row = vec![match baseline {
                Baseline::Exact => format!("{}, exact", rule.name()),
                Baseline::Stored(requests) => format!("{}, {requests} samples", rule.name()),
            }];
            row.extend(cases.iter().map(|(place, effect)| {
                let label = delay::label(&LOGIN, *place, *effect, baseline);
                if results.contains_key(&label) {
                    super::median_and_p95(&requests(results, &label, delay::index(rule)))
                } else {
                    "-".into()
                }
            }));
            rows.push(row);
        }
    }
    text += &markdown(&head, &rows);
    text
}

fn pair(figures: [f64; 2]) -> String {
    figures.map(figure).join(" / ")
}

fn interval(quantile: Quantile) -> String {
    format!("{} to {}", figure(quantile.low), figure(quantile.high))
}

fn reached(figures: &[(Quantile, f64)]) -> String {
    let word = if figures.iter().all(|(measured, wanted)| measured.value <= *wanted) {
        "yes"
    } else if figures.iter().all(|(measured, wanted)| measured.low <= *wanted) {
        "within the noise"
    } else {
        "**no**"
    };
    word.to_owned()
}
