//! All components of a deploy against one bar.
//!
//! `M = w M_pool + sum of weight x M_component`: the pool is one process that all requests feed, and finds what makes
//! everything a little slower; the components find what makes one thing much slower. Each part is worth 1 in expectation at
//! most while the budgets hold, so their weighted sum is as well, whatever depends on whatever.

mod reserve;
mod unfinished;

use serde::{Deserialize, Serialize};

use super::Parameters;
use super::component::{Component, Conditions, InvalidComponents, Pool, positive};
use super::late::{Late, SinceStart, Totals};
use super::layout::{Layout, Place};
use super::process::{Process, released};

pub use self::unfinished::{Floor, Unfinished};

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

/// What carries the evidence: the part that is worth most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    Component(usize),
    /// All endpoints together; no single component is worth as much.
    Pool,
}

/// How things stood when the evidence reached the bar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    pub crossing: Crossing,
    pub carrier: Carrier,
    /// Evidence at that moment.
    pub evidence: f64,
    /// All requests that the crossing's component had looked at.
    pub totals: Totals,
    /// The same since the most likely start of the regression; see [`SinceStart`] for what it is worth.
    pub since_start: Option<SinceStart>,
}

/// The running evidence that a build is over budget.
///
/// Its state is a function of the ordered calls: [`super::Log`] records them, and plays them again bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    pub(super) parameters: Parameters,
    pub(super) layout: Layout,
    pub(super) processes: Vec<Processes>,
    pub(super) pool: Option<Pooled>,
    /// Of each component.
    pub(super) late: Vec<Late>,
    /// By endpoint index.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) second: u64,
    pub(super) released: f64,
    pub(super) requests: u64,
    pub(super) rejected: u64,
    pub(super) of_build: Track,
    pub(super) overall: Track,
    /// The part of the capital that is on nothing yet.
    #[serde(default)]
    reserve: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Processes {
    pub(super) own: Process,
    pub(super) confirmation: Vec<Process>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pooled {
    pub(super) overall: Process,
    /// `None` where it would be the same.
    pub(super) of_build: Option<Process>,
    pub(super) requests: u64,
}

/// The sums are the weighted values of the endpoint's components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub(super) requests: u64,
    of_build: f64,
    overall: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    pub(super) now: f64,
    pub(super) max: f64,
    pub(super) stop: Option<Stop>,
}

impl Track {
    const START: Self = Self { now: 1.0, max: 1.0, stop: None };
}

impl Engine {
    /// No components: an engine that never decides. Those of one endpoint have to stand together.
    pub fn new(parameters: Parameters, components: Vec<Component>) -> Result<Self, InvalidComponents> {
        Self::with_pool(parameters, components, None)
    }

    /// With the product over all endpoints beside the average; the weights of all sum to 1.
    pub fn with_pool(
        parameters: Parameters,
        components: Vec<Component>,
        pool: Option<Pool>,
    ) -> Result<Self, InvalidComponents> {
        Self::with_reserve(parameters, components, pool, 0.0)
    }

    /// With a part of the capital that is kept for what [`Self::begin`] adds; the weights of all and it sum to 1.
    pub fn with_reserve(
        parameters: Parameters,
        components: Vec<Component>,
        pool: Option<Pool>,
        reserve: f64,
    ) -> Result<Self, InvalidComponents> {
        let layout = Layout::with_reserve(components, pool, reserve)?;
        let process = || {
            Process::with_bets(parameters.bets.clone(), parameters.first_stake, parameters.outlier_allowance)
        };
        let processes = |component: &Component| Processes {
            own: process(),
            confirmation: component.confirmation.iter().map(|_| process()).collect(),
        };
        let pool = layout.pool.as_ref().map(|_| Pooled {
            overall: process(),
            of_build: layout.pool_is_confirmed().then(process),
            requests: 0,
        });
        let mut engine = Self {
            processes: layout.components.iter().map(processes).collect(),
            pool,
            late: layout.components.iter().map(|_| Late::new(&parameters.bets)).collect(),
            endpoints: vec![Endpoint::default(); layout.endpoints()],
            layout,
            second: 0,
            released: released(0, parameters.first_stake),
            parameters,
            requests: 0,
            rejected: 0,
            of_build: Track::START,
            overall: Track::START,
            reserve,
        };
        (0..engine.endpoints.len()).for_each(|endpoint| engine.add_up(endpoint));
        Ok(engine)
    }

    /// `count` requests of figure `x` that ended `second` whole seconds after the deploy. A second that lies before the
    /// last one counts as the last one: the order inside a second does not matter, and stakes are never taken back.
    /// Figures that are no finite number from 0 on are counted as [`Self::rejected`], and nothing else.
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
        if count == 0 || !self.layout.watches(number) {
            return;
        }
        if !x.is_finite() || x < 0.0 {
            self.rejected = self.rejected.saturating_add(count);
            return;
        }
        self.advance(second);
        self.requests = self.requests.saturating_add(count);
        self.endpoints[number].requests = self.endpoints[number].requests.saturating_add(count);
        let scaled = x / conditions.factor();
        let (bets, cap) = (&self.parameters.bets, self.parameters.cap);
        let (processes, late, pool) = (&mut self.processes, &mut self.late, &mut self.pool);
        self.layout.each(number, class, scaled, cap, |place, z| match place {
            Place::Own(index) => {
                processes[index].own.settle(z, count);
                late[index].add(bets, x, z, count);
            }
            Place::Confirmation(index, stratum) => processes[index].confirmation[stratum].settle(z, count),
            Place::Pool => {
                if let Some(pool) = pool {
                    pool.requests = pool.requests.saturating_add(count);
                    pool.overall.settle(z, count);
                }
            }
            Place::PoolOfBuild => {
                if let Some(of_build) = pool.as_mut().and_then(|pool| pool.of_build.as_mut()) {
                    of_build.settle(z, count);
                }
            }
        });
        self.add_up(number);
        self.look();
    }

    /// Another limit for a component from the next request on. It has to be known before the request. What the component
    /// stands for must not change, and the pool keeps its limits.
    pub fn set_limit(&mut self, component: usize, limit: f64) -> Result<(), InvalidComponents> {
        match self.layout.components.get_mut(component) {
            Some(component) if positive(limit) => component.limit = limit,
            _ => return Err(InvalidComponents::Limit(component)),
        }
        Ok(())
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
        self.of_build.stop.map(|stop| stop.crossing)
    }

    /// How things stood then.
    pub fn stop(&self) -> Option<Stop> {
        self.of_build.stop
    }

    /// The same without confirmation.
    pub fn over_budget(&self) -> Option<Crossing> {
        self.overall.stop.map(|stop| stop.crossing)
    }

    /// Present value of a component by itself, confirmation included: above 1 speaks against the build.
    pub fn component_evidence(&self, index: usize) -> f64 {
        let (of_build, _) = self.worth(index);
        of_build
    }

    /// The same of the pool; `None` without one.
    pub fn pool_evidence(&self) -> Option<f64> {
        self.pool.as_ref().map(|pool| pool.worth(self.released).0)
    }

    /// Whether the endpoint's requests feed the pool.
    pub fn feeds_pool(&self, endpoint: u16) -> bool {
        self.layout.feeds_pool(usize::from(endpoint))
    }

    pub fn components(&self) -> &[Component] {
        &self.layout.components
    }

    pub fn pool(&self) -> Option<&Pool> {
        self.layout.pool.as_ref()
    }

    /// A component's limit is so many times the one before, from the next request on; its confirmation's too, and with
    /// `in_pool` those of its endpoint in the pool.
    pub fn scale_limit(&mut self, index: usize, factor: f64, in_pool: bool) {
        let component = &mut self.layout.components[index];
        component.limit *= factor;
        component.confirmation.iter_mut().for_each(|stratum| stratum.limit *= factor);
        let endpoint = component.scope.endpoint;
        let pooled = self.layout.pool.iter_mut().filter(|_| in_pool).flat_map(|pool| &mut pool.limits);
        for limit in pooled.filter(|limit| limit.scope.endpoint == endpoint) {
            limit.overall *= factor;
            limit.of_build *= factor;
        }
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Requests of all endpoints that are judged.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Requests whose figure was no finite number from 0 on.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Whether a stake is at the most that is counted: from then on the evidence is at least what is told.
    pub fn is_full(&self) -> bool {
        let of = |processes: &Processes| {
            processes.own.is_full() || processes.confirmation.iter().any(Process::is_full)
        };
        self.processes.iter().any(of) || self.pool.as_ref().is_some_and(|pool| pool.overall.is_full())
    }

    pub(super) fn advance(&mut self, second: u64) {
        if second <= self.second {
            return;
        }
        for late in &mut self.late {
            late.end_tick(self.second);
        }
        let now = released(second, self.parameters.first_stake);
        let share = now - self.released;
        (self.second, self.released) = (second, now);
        for processes in &mut self.processes {
            processes.own.release(share);
            processes.confirmation.iter_mut().for_each(|process| process.release(share));
        }
        if let Some(pool) = &mut self.pool {
            pool.overall.release(share);
            pool.of_build.iter_mut().for_each(|process| process.release(share));
        }
        (0..self.endpoints.len()).for_each(|endpoint| self.add_up(endpoint));
    }

    pub(super) fn add_up(&mut self, number: usize) {
        let places = self.layout.places(number);
        let (mut of_build, mut overall) = (0.0, 0.0);
        for index in places.first..places.end {
            let weight = self.layout.components[index].weight;
            let (confirmed, own) = self.worth(index);
            of_build += weight * confirmed;
            overall += weight * own;
        }
        self.endpoints[number].of_build = of_build;
        self.endpoints[number].overall = overall;
    }

    /// A component's value, confirmed and on its own.
    #[inline]
    pub(super) fn worth(&self, index: usize) -> (f64, f64) {
        let (component, processes) = (&self.layout.components[index], &self.processes[index]);
        let own = processes.own.value(self.released);
        if component.confirmation.is_empty() {
            return (own, own);
        }
        let strata = component.confirmation.iter().zip(&processes.confirmation);
        // The lesser of two e-processes is at most either: it is valid when the budget holds and also when no outcome
        // class became dearer.
        let confirmed: f64 =
            strata.map(|(stratum, process)| stratum.weight * process.value(self.released)).sum();
        (own.min(confirmed), own)
    }

    pub(super) fn look(&mut self) {
        let (mut of_build, mut overall) = (self.reserve, self.reserve);
        for endpoint in &self.endpoints {
            of_build += endpoint.of_build;
            overall += endpoint.overall;
        }
        if let (Some(pool), Some(layout)) = (&self.pool, &self.layout.pool) {
            let (confirmed, own) = pool.worth(self.released);
            of_build += layout.weight * confirmed;
            overall += layout.weight * own;
        }
        (self.of_build.now, self.overall.now) = (of_build, overall);
        self.of_build.max = self.of_build.max.max(of_build);
        self.overall.max = self.overall.max.max(overall);
        let bar = self.parameters.bar();
        if self.of_build.stop.is_none() && of_build >= bar {
            self.of_build.stop = self.stop_at(of_build, |worth| worth.0);
        }
        if self.overall.stop.is_none() && overall >= bar {
            self.overall.stop = self.stop_at(overall, |worth| worth.1);
        }
    }

    /// `side` takes the confirmed worth or the other one.
    pub(super) fn carrier(&self, side: fn((f64, f64)) -> f64) -> Option<(Carrier, usize)> {
        let value = |index: usize| self.layout.components[index].weight * side(self.worth(index));
        let of_pool = match (&self.pool, &self.layout.pool) {
            (Some(pool), Some(layout)) => layout.weight * side(pool.worth(self.released)),
            _ => 0.0,
        };
        let largest = |among: &dyn Fn(usize) -> bool| {
            let indices = (0..self.layout.components.len()).filter(|&index| among(index));
            indices.max_by(|&a, &b| value(a).total_cmp(&value(b)))
        };
        let component = largest(&|_| true)?;
        if of_pool <= value(component) {
            return Some((Carrier::Component(component), component));
        }
        // Of what the pool looked at, the component that says most by itself, of an endpoint that has been seen enough.
        let requests = |index: usize| self.endpoint_of(index).requests;
        let seen = |index: usize, least: u64| {
            let endpoint = self.layout.components[index].scope.endpoint;
            requests(index) >= least && self.feeds_pool(endpoint)
        };
        let component = largest(&|index| seen(index, self.parameters.min_requests.max(1)))
            .or_else(|| largest(&|index| seen(index, 1)))
            .unwrap_or(component);
        Some((Carrier::Pool, component))
    }

    fn endpoint_of(&self, component: usize) -> &Endpoint {
        &self.endpoints[usize::from(self.layout.components[component].scope.endpoint)]
    }

    fn stop_at(&self, evidence: f64, side: fn((f64, f64)) -> f64) -> Option<Stop> {
        let (carrier, component) = self.carrier(side)?;
        let requests = self.endpoint_of(component).requests;
        let judged = match carrier {
            Carrier::Component(_) => requests,
            Carrier::Pool => self.pool.as_ref().map_or(0, |pool| pool.requests),
        };
        let crossing = Crossing { component, second: self.second, requests, requests_in_all: self.requests };
        (judged >= self.parameters.min_requests).then(|| Stop {
            crossing,
            carrier,
            evidence,
            totals: self.late[component].whole,
            since_start: self.since_start(component),
        })
    }

    /// What a component's requests cost since the most likely start of a regression; `None` while nothing speaks for one.
    pub fn since_start(&self, component: usize) -> Option<SinceStart> {
        self.late.get(component)?.since_start(&self.parameters.bets, self.second)
    }

    /// Everything that a component has looked at.
    pub fn totals(&self, component: usize) -> Option<Totals> {
        self.late.get(component).map(|late| late.whole)
    }
}

impl Pooled {
    /// Confirmed, and on its own.
    #[inline]
    pub(super) fn worth(&self, released: f64) -> (f64, f64) {
        let own = self.overall.value(released);
        (self.of_build.as_ref().map_or(own, |process| own.min(process.value(released))), own)
    }
}

#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod tests;
