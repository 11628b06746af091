//! One deploy, watched by several rules at once.

use watchdog::sequential::Parameters;

use crate::ladder::Ladder;
use crate::limits::{Baseline, Limits};
use crate::naive::Windows;
use crate::rng::Rng;
use crate::rules::{Rule, Watched};
use crate::world::{Traffic, World};

/// When a rule triggered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trigger {
    /// Seconds since the fault began.
    pub seconds: f64,
    /// Requests since then, the one that triggered included.
    pub requests: u64,
}

/// What each rule said of one deploy, in the order of the cell's rules.
pub type Outcome = Vec<Option<Trigger>>;

/// A deploy to be repeated.
#[derive(Clone, Debug)]
pub struct Deploy {
    pub world: World,
    pub rules: Vec<Rule>,
    /// Budget as a multiple of what the good build needs.
    pub budget: f64,
    pub baseline: Baseline,
    pub parameters: Parameters,
}

enum Watcher {
    Engine(Box<Watched>),
    Ladder(Ladder),
    /// Among those of the windows.
    Window(usize),
}

impl Deploy {
    /// Ends at the horizon, or when every rule has triggered.
    pub fn run(&self, mut rng: Rng) -> Outcome {
        let Self { world, rules, .. } = self;
        let limits =
            Limits::new(&world.workload, self.budget, self.baseline, &self.parameters, &mut rng.fork());
        let kayenta = rules.contains(&Rule::Kayenta);
        let mut windows = rules
            .iter()
            .any(|rule| rule.of_windows().is_some())
            .then(|| Windows::new(limits.pooled_ms, self.budget, kayenta, rng.fork()));
        let mut watchers: Vec<(usize, Watcher)> = rules
            .iter()
            .map(|&rule| match (rule.of_windows(), rule) {
                (Some(index), _) => Watcher::Window(index),
                (None, Rule::Ladder) => Watcher::Ladder(Ladder::new(&limits, &self.parameters)),
                (None, _) => {
                    let engine = Watched::new(rule, &limits, &self.parameters).expect("a rule of the engine");
                    Watcher::Engine(Box::new(engine))
                }
            })
            .enumerate()
            .collect();
        let mut outcome: Outcome = vec![None; rules.len()];
        let mut traffic = Traffic::new(world, rng);
        let mut requests = 0;
        while !watchers.is_empty() {
            let request = traffic.next();
            if let Some(windows) = &mut windows {
                let t = request.map_or(f64::INFINITY, |request| request.t);
                windows.look(t, world.horizon, |t, n, rng| traffic.control(t, n, rng));
            }
            let after_fault = request.filter(|request| request.t >= world.fault_from);
            let before = requests;
            requests += u64::from(after_fault.is_some());
            watchers.retain_mut(|(index, watcher)| {
                let trigger = match (watcher, &request) {
                    (Watcher::Window(rule), _) => {
                        let at = windows.as_ref().and_then(|windows| windows.triggered[*rule]);
                        at.map(|at| Trigger { seconds: at - world.fault_from, requests: before })
                    }
                    (_, None) => None,
                    (Watcher::Engine(engine), Some(request)) => {
                        let class = limits.class_of[usize::from(request.class)];
                        let seconds = request.t - world.fault_from;
                        engine.observe(request, class).then_some(Trigger { seconds, requests })
                    }
                    (Watcher::Ladder(ladder), Some(request)) => {
                        let class = limits.class_of[usize::from(request.class)];
                        let seconds = request.t - world.fault_from;
                        ladder.observe(request, class).then_some(Trigger { seconds, requests })
                    }
                };
                outcome[*index] = trigger;
                trigger.is_none()
            });
            let Some(request) = request else { break };
            if let Some(windows) = &mut windows {
                windows.record(request.ms);
            }
        }
        outcome
    }

    /// Evidence after each of the first `requests`, for pictures.
    pub fn evidence(&self, rule: Rule, requests: usize, mut rng: Rng) -> Vec<f64> {
        let limits =
            Limits::new(&self.world.workload, self.budget, self.baseline, &self.parameters, &mut rng.fork());
        let mut engine = Watched::new(rule, &limits, &self.parameters).expect("a rule of the engine");
        let step = |request: crate::world::Request| {
            engine.observe(&request, limits.class_of[usize::from(request.class)]);
            engine.evidence()
        };
        Traffic::new(&self.world, rng).take(requests).map(step).collect()
    }
}
