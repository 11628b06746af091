//! A deploy of twenty endpoints: one of them is bad, or all are a little.

use watchdog::sequential::{Component, Conditions, Engine, Kind, Parameters, Pool, PoolLimit, Scope};

use super::{Scale, Section, Table, markdown, median_and_p95, percent, requests, triggered};
use crate::deploy::{Outcome, Trigger};
use crate::pool::{Cell, Results};
use crate::rng::Rng;
use crate::workload::{Fault, LOGIN};

pub const TABLE: Table = Table { name: "endpoints", title: "Several endpoints", cells, render };

const ENDPOINTS: u16 = 20;
/// Requests of each endpoint, one a second.
const MOST: u64 = 3000;
/// How the capital is shared: equally over the endpoints, or half of it on the pool of all requests, as in the agent.
const RULES: [(&str, f64); 2] = [("average over endpoints", 0.0), ("half pool, half average", 0.5)];
/// What is wrong, with how many, and by how much.
const CASES: [(&str, u16, f64); 6] = [
    ("one of 20, 2x", 1, 2.0),
    ("one of 20, 5x", 1, 5.0),
    ("all, 1.2x", ENDPOINTS, 1.2),
    ("all, 1.5x", ENDPOINTS, 1.5),
    ("all, 2x", ENDPOINTS, 2.0),
    ("none", 0, 1.0),
];

fn label(case: &str) -> String {
    format!("endpoints/{case}")
}

fn engine(pool: f64) -> Engine {
    let limit = 1.1 * LOGIN.mean();
    let scope = |endpoint| Scope { endpoint, class: None };
    let component = |endpoint| Component {
        weight: (1.0 - pool) / f64::from(ENDPOINTS),
        scope: scope(endpoint),
        kind: Kind::Mean,
        limit,
        confirmation: Vec::new(),
    };
    let limits = (0..ENDPOINTS)
        .map(|endpoint| PoolLimit { scope: scope(endpoint), overall: limit, of_build: limit })
        .collect();
    let pool = (pool > 0.0).then_some(Pool { weight: pool, limits });
    let components = (0..ENDPOINTS).map(component).collect();
    Engine::with_pool(Parameters::default(), components, pool).expect("the weights sum to 1")
}

fn run(bad: u16, effect: f64, rng: &mut Rng) -> Outcome {
    let slower = if bad > 0 { Fault::MainPath { effect } } else { Fault::None }.of(&LOGIN);
    let mut engines = RULES.map(|(_, pool)| engine(pool));
    let mut outcome: Outcome = vec![None; RULES.len()];
    for second in 0..MOST {
        for endpoint in 0..ENDPOINTS {
            let class = LOGIN.pick(rng, 0.0);
            let mut ms = LOGIN.outcomes[usize::from(class)].cost.draw(rng);
            if endpoint < bad {
                ms = slower.make(ms, class, rng);
            }
            for (engine, trigger) in engines.iter_mut().zip(&mut outcome) {
                if trigger.is_none() {
                    engine.observe(second, endpoint, class, ms, 1, Conditions::NORMAL);
                    let found = engine.violated().is_some();
                    *trigger = found.then_some(Trigger { seconds: second as f64, requests: second + 1 });
                }
            }
        }
        if outcome.iter().all(Option::is_some) {
            break;
        }
    }
    outcome
}

fn cells(scale: Scale) -> Vec<Cell> {
    let cell = |(name, bad, effect): (&str, u16, f64)| Cell {
        label: label(name),
        runs: scale.runs(200),
        cost: f64::from(ENDPOINTS) * if bad == 0 { 12_000.0 } else { 800.0 },
        run: Box::new(move |mut rng| run(bad, effect, &mut rng)),
    };
    CASES.map(cell).into()
}

#[expect(clippy::unnecessary_wraps, reason = "as the tables with pictures")]
fn render(results: &Results, _seed: u64) -> anyhow::Result<Section> {
    let mut text = format!(
        "Median and 95th percentile of the requests per endpoint until the build is called over its budgets of 1.1 times \
         the good build: {ENDPOINTS} endpoints like the login, each with a budget on its mean and one request a second; {} \
         runs each. \"none\": share of deploys of a good build that trigger within {MOST} requests of each endpoint, with \
         the Clopper-Pearson interval of 95 %.\n\n",
        results[&label(CASES[0].0)].len(),
    );
    let mut head = vec!["rule".to_owned()];
    head.extend(CASES.map(|(name, _, _)| name.to_owned()));
    let row = |(index, (rule, _)): (usize, &(&str, f64))| {
        let mut row = vec![(*rule).to_owned()];
        row.extend(CASES.map(|(name, bad, _)| {
            if bad > 0 {
                median_and_p95(&requests(results, &label(name), index))
            } else {
                percent(triggered(results, &label(name), index))
            }
        }));
        row
    };
    text += &markdown(&head, &RULES.iter().enumerate().map(row).collect::<Vec<_>>());
    Ok(Section { text, pictures: Vec::new() })
}
