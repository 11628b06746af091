//! All components of a deploy against one bar.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Parameters;
use super::process::{Process, released};

/// Which requests a component looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub endpoint: u16,
    /// Outcome class, `None` for all of the endpoint.
    pub class: Option<u8>,
}

/// What a component claims about its requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Their mean is at most the limit.
    Mean,
    /// At most a share `1 - p` of them is above the limit.
    Quantile { p: f64 },
}

/// One claim that the build keeps while it is within budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Share of the deploy's capital; all weights sum to 1.
    pub weight: f64,
    pub scope: Scope,
    pub kind: Kind,
    /// In the unit of the requests' figures.
    pub limit: f64,
    /// Mean limits by outcome class that say the same of the build alone, weights summing to 1. When there are any, the
    /// component counts against the build no further than they do: a mean also rises when users do other things.
    pub confirmation: Vec<Stratum>,
}

/// One outcome class of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stratum {
    pub weight: f64,
    pub class: u8,
    pub limit: f64,
}

/// What scales the limits; has to be known before the request it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Declared factor while a process warms up, 1 or more.
    warmup: f64,
    /// How much slower than at baseline time the host is, by something the build cannot change.
    environment: f64,
}

impl Conditions {
    pub const NORMAL: Self = Self { warmup: 1.0, environment: 1.0 };

    /// The environment factor is kept within 0.8 to 1.25: beyond, it explains nothing any more.
    pub fn new(warmup: f64, environment: f64) -> Self {
        Self { warmup: warmup.max(1.0), environment: environment.clamp(0.8, 1.25) }
    }

    /// No warm-up is declared: requests count towards clearing a build, too.
    pub fn is_warm(self) -> bool {
        self.warmup <= 1.0
    }

    pub fn factor(self) -> f64 {
        self.warmup * self.environment
    }
}

/// When the evidence first reached the bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// Index of the component with the largest part in it.
    pub component: usize,
    pub second: u64,
    /// Requests of that component's endpoint until then.
    pub requests: u64,
    /// Requests of all endpoints until then.
    pub requests_in_all: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum InvalidComponents {
    #[error("the weights of the components sum to {0}, not to 1")]
    Weights(f64),
    #[error("component {0} has a limit that is not a positive number")]
    Limit(usize),
    #[error("component {0} is about a quantile outside 0 to 1")]
    Quantile(usize),
    #[error("component {0} stands apart from the others of its endpoint")]
    Scattered(usize),
}

/// The running evidence that a build is over budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    parameters: Parameters,
    components: Vec<Component>,
    processes: Vec<Processes>,
    /// By endpoint index.
    endpoints: Vec<Endpoint>,
    second: u64,
    released: f64,
    requests: u64,
    of_build: Track,
    overall: Track,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Processes {
    own: Process,
    confirmation: Vec<Process>,
}

/// An endpoint's components are `first..end`; the sums are their weighted values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Endpoint {
    first: usize,
    end: usize,
    requests: u64,
    of_build: f64,
    overall: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Track {
    now: f64,
    max: f64,
    crossed: Option<Crossing>,
}

impl Track {
    const START: Self = Self { now: 1.0, max: 1.0, crossed: None };
}

impl Engine {
    /// No components: an engine that never decides. Those of one endpoint have to stand together.
    pub fn new(parameters: Parameters, components: Vec<Component>) -> Result<Self, InvalidComponents> {
        check(&components)?;
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (index, component) in components.iter().enumerate() {
            let number = usize::from(component.scope.endpoint);
            if endpoints.len() <= number {
                endpoints.resize(number + 1, Endpoint::default());
            }
            let endpoint = &mut endpoints[number];
            if endpoint.end == 0 {
                endpoint.first = index;
            } else if endpoint.end != index {
                return Err(InvalidComponents::Scattered(index));
            }
            endpoint.end = index + 1;
        }
        let process = || Process::new(parameters.first_stake, parameters.outlier_allowance);
        let processes = components
            .iter()
            .map(|component| Processes {
                own: process(),
                confirmation: component.confirmation.iter().map(|_| process()).collect(),
            })
            .collect();
        let released = released(0, parameters.first_stake);
        let (of_build, overall) = (Track::START, Track::START);
        let mut engine = Self {
            parameters,
            components,
            processes,
            endpoints,
            second: 0,
            released,
            requests: 0,
            of_build,
            overall,
        };
        (0..engine.endpoints.len()).for_each(|endpoint| engine.add_up(endpoint));
        Ok(engine)
    }

    /// `count` requests of figure `x` that ended `second` whole seconds after the deploy. A second that lies before the
    /// last one counts as the last one: the order inside a second does not matter, and stakes are never taken back.
    ///
    /// With no allowance for outliers, looking once after `count` equal requests misses nothing: the evidence is convex
    /// in their number, so it is largest before the first or after the last.
    pub fn observe(
        &mut self,
        second: u64,
        endpoint: u16,
        class: u8,
        x: f64,
        count: u64,
        conditions: Conditions,
    ) {
        let number = usize::from(endpoint);
        if count == 0 || self.endpoints.get(number).is_none_or(|endpoint| endpoint.end == 0) {
            return;
        }
        self.advance(second);
        self.requests += count;
        self.endpoints[number].requests += count;
        let Endpoint { first, end, .. } = self.endpoints[number];
        let x = x / conditions.factor();
        let cap = self.parameters.cap;
        for (component, processes) in self.components[first..end].iter().zip(&mut self.processes[first..end])
        {
            if component.scope.class.is_none_or(|own| own == class) {
                let z = match component.kind {
                    Kind::Mean => (x / component.limit).min(cap),
                    Kind::Quantile { p } if x > component.limit => 1.0 / (1.0 - p),
                    Kind::Quantile { .. } => 0.0,
                };
                processes.own.settle(z, count);
            }
            for (stratum, process) in component.confirmation.iter().zip(&mut processes.confirmation) {
                if stratum.class == class {
                    process.settle((x / stratum.limit).min(cap), count);
                }
            }
        }
        self.add_up(number);
        self.of_build.now = self.endpoints.iter().map(|endpoint| endpoint.of_build).sum();
        self.overall.now = self.endpoints.iter().map(|endpoint| endpoint.overall).sum();
        self.look();
    }

    /// Evidence against the build: the present value of a process that starts at 1.
    pub fn evidence(&self) -> f64 {
        self.of_build.now
    }

    /// The largest evidence so far; its reciprocal is a p-value that is valid whenever one looks.
    pub fn max_evidence(&self) -> f64 {
        self.of_build.max
    }

    /// The same when confirmation by outcome class is not asked for: "over budget, for whatever reason".
    pub fn max_evidence_overall(&self) -> f64 {
        self.overall.max
    }

    /// When the evidence against the build reached the bar, if it did. Stays.
    pub fn violated(&self) -> Option<Crossing> {
        self.of_build.crossed
    }

    /// The same without confirmation.
    pub fn over_budget(&self) -> Option<Crossing> {
        self.overall.crossed
    }

    /// Present value of a component by itself, confirmation included: above 1 speaks against the build.
    pub fn component_evidence(&self, index: usize) -> f64 {
        self.value(index).0 / self.components[index].weight
    }

    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// A component's limit is so many times the one before, from the next request on; its confirmation's too.
    pub fn scale_limit(&mut self, index: usize, factor: f64) {
        let component = &mut self.components[index];
        component.limit *= factor;
        component.confirmation.iter_mut().for_each(|stratum| stratum.limit *= factor);
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Requests of all endpoints with a component.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    fn advance(&mut self, second: u64) {
        if second <= self.second {
            return;
        }
        let now = released(second, self.parameters.first_stake);
        let share = now - self.released;
        (self.second, self.released) = (second, now);
        for processes in &mut self.processes {
            processes.own.release(share);
            processes.confirmation.iter_mut().for_each(|process| process.release(share));
        }
        (0..self.endpoints.len()).for_each(|endpoint| self.add_up(endpoint));
    }

    fn add_up(&mut self, number: usize) {
        let Endpoint { first, end, .. } = self.endpoints[number];
        let (mut of_build, mut overall) = (0.0, 0.0);
        for index in first..end {
            let (confirmed, own) = self.value(index);
            of_build += confirmed;
            overall += own;
        }
        self.endpoints[number].of_build = of_build;
        self.endpoints[number].overall = overall;
    }

    /// A component's weighted value, confirmed and on its own.
    #[inline]
    fn value(&self, index: usize) -> (f64, f64) {
        let (component, processes) = (&self.components[index], &self.processes[index]);
        let own = processes.own.value(self.released);
        if component.confirmation.is_empty() {
            return (component.weight * own, component.weight * own);
        }
        let strata = component.confirmation.iter().zip(&processes.confirmation);
        // The lesser of two e-processes is at most either: it is valid when the budget holds and also when no outcome
        // class became dearer.
        let confirmed: f64 =
            strata.map(|(stratum, process)| stratum.weight * process.value(self.released)).sum();
        (component.weight * own.min(confirmed), component.weight * own)
    }

    fn look(&mut self) {
        self.of_build.max = self.of_build.max.max(self.of_build.now);
        self.overall.max = self.overall.max.max(self.overall.now);
        let bar = self.parameters.bar();
        if self.of_build.crossed.is_none() && self.of_build.now >= bar {
            self.of_build.crossed = self.crossing(|index| self.value(index).0);
        }
        if self.overall.crossed.is_none() && self.overall.now >= bar {
            self.overall.crossed = self.crossing(|index| self.value(index).1);
        }
    }

    fn crossing(&self, value: impl Fn(usize) -> f64) -> Option<Crossing> {
        let component = (0..self.components.len()).max_by(|&a, &b| value(a).total_cmp(&value(b)))?;
        let endpoint = &self.endpoints[usize::from(self.components[component].scope.endpoint)];
        (endpoint.requests >= self.parameters.min_requests).then_some(Crossing {
            component,
            second: self.second,
            requests: endpoint.requests,
            requests_in_all: self.requests,
        })
    }
}

fn check(components: &[Component]) -> Result<(), InvalidComponents> {
    let all_to_one = |weights: f64| (weights - 1.0).abs() < 1e-9;
    let positive = |limit: f64| limit.is_finite() && limit > 0.0;
    let total: f64 = components.iter().map(|component| component.weight).sum();
    if !components.is_empty() && !all_to_one(total) {
        return Err(InvalidComponents::Weights(total));
    }
    for (index, component) in components.iter().enumerate() {
        let strata = &component.confirmation;
        if !positive(component.limit) || !strata.iter().all(|stratum| positive(stratum.limit)) {
            return Err(InvalidComponents::Limit(index));
        }
        if matches!(component.kind, Kind::Quantile { p } if !(p > 0.0 && p < 1.0)) {
            return Err(InvalidComponents::Quantile(index));
        }
        let total: f64 = strata.iter().map(|stratum| stratum.weight).sum();
        if !strata.is_empty() && !all_to_one(total) {
            return Err(InvalidComponents::Weights(total));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
