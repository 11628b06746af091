//! Requests that have not ended count too: one that burns CPU without end would otherwise never be judged.
//!
//! What a request has used so far is a lower bound of what it will have used, and bets grow with it. Of all requests in
//! the order in which they began, the ones that ended at their figure and the others at their figure so far, the evidence
//! is therefore a lower bound of what it will be: reaching the bar with it is as valid as reaching it in the end,
//! provided that all requests that have begun are in it, also the cheap ones.
//!
//! How a request will end, and so its outcome class, is not known. Bets on a class take the outcomes that speak least
//! against the build: requests of the same figure are given, one by one, to the class where the evidence grows least,
//! which makes the sum least, because what each further one adds only grows. Different figures are made equal by
//! lowering the larger ones; of all ways to do so, each of which is a lower bound, the largest counts.

use serde::{Deserialize, Serialize};

use super::{Crossing, Engine};
use crate::sequential::component::{Conditions, Kind};
use crate::sequential::process::Process;

/// A request that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unfinished {
    pub endpoint: u16,
    /// Its figure so far.
    pub x: f64,
    pub conditions: Conditions,
}

/// The evidence at least, whatever becomes of the unfinished requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    pub evidence: f64,
    /// When it reaches the bar: as of a crossing, the unfinished requests of its endpoint included.
    pub crossing: Option<Crossing>,
}

/// The numbers of requests that are tried as the large ones.
const LARGE: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 12, 16, 32];

impl Engine {
    /// The evidence `second` whole seconds after the deploy, with these requests under way: all there are.
    pub fn with_unfinished(&self, second: u64, unfinished: &[Unfinished]) -> Floor {
        let mut engine = self.clone();
        engine.advance(second);
        engine.take_pooled(unfinished);
        let released = engine.released;
        let mut evidence = engine.reserve;
        evidence += match (&engine.pool, &engine.layout.pool) {
            (Some(pool), Some(layout)) => layout.weight * pool.worth(released).0,
            _ => 0.0,
        };
        let mut most: Option<(f64, usize, u64)> = None;
        for number in 0..engine.endpoints.len() {
            let own: Vec<f64> = of_endpoint(unfinished, number);
            let (worth, component) = engine.least_of_endpoint(number, &own);
            evidence += worth;
            let requests = engine.endpoints[number].requests + own.len() as u64;
            if let Some(component) = component
                && most.is_none_or(|(before, ..)| worth > before)
            {
                most = Some((worth, component, requests));
            }
        }
        let crossing = most.and_then(|(_, component, requests)| {
            let reached = evidence >= self.parameters.bar() && requests >= self.parameters.min_requests;
            let requests_in_all = self.requests + unfinished.len() as u64;
            reached.then_some(Crossing { component, second: engine.second, requests, requests_in_all })
        });
        Floor { evidence, crossing }
    }

    /// Settles what does not depend on how the requests end.
    fn take_pooled(&mut self, unfinished: &[Unfinished]) {
        let cap = self.parameters.cap;
        for request in unfinished {
            let number = usize::from(request.endpoint);
            if !self.layout.watches(number) {
                continue;
            }
            let x = figure(request);
            let places = self.layout.places(number);
            for index in places.first..places.end {
                let component = &self.layout.components[index];
                if component.scope.class.is_none() {
                    self.processes[index].own.settle(component.kind.z(x, component.limit, cap), 1);
                }
            }
            let Some((overall, of_build)) = self.layout.largest_pool_limits(number) else { continue };
            if let Some(pool) = &mut self.pool {
                pool.overall.settle((x / overall).min(cap), 1);
                if let Some(process) = &mut pool.of_build {
                    process.settle((x / of_build).min(cap), 1);
                }
            }
        }
    }

    /// Weighted worth of an endpoint's components, and the component that is worth most.
    fn least_of_endpoint(&self, number: usize, figures: &[f64]) -> (f64, Option<usize>) {
        let places = self.layout.places(number);
        let (released, cap) = (self.released, self.parameters.cap);
        let mut by_class = Outcomes::new(released, cap);
        let mut sum = 0.0;
        let mut most: Option<(f64, usize)> = None;
        for index in places.first..places.end {
            let (component, processes) = (&self.layout.components[index], &self.processes[index]);
            let own = processes.own.value(released);
            let worth = match component.scope.class {
                Some(class) => {
                    let bet = Bet {
                        weight: component.weight,
                        process: processes.own.clone(),
                        kind: component.kind,
                        limit: component.limit,
                    };
                    by_class.add(class, bet);
                    component.weight * own
                }
                None if component.confirmation.is_empty() => {
                    sum += component.weight * own;
                    component.weight * own
                }
                None => {
                    let mut strata = Outcomes::new(released, cap);
                    for (stratum, process) in component.confirmation.iter().zip(&processes.confirmation) {
                        let bet = Bet {
                            weight: stratum.weight,
                            process: process.clone(),
                            kind: Kind::Mean,
                            limit: stratum.limit,
                        };
                        strata.add(stratum.class, bet);
                    }
                    let worth = component.weight * own.min(strata.least(figures));
                    sum += worth;
                    worth
                }
            };
            if most.is_none_or(|(before, _)| worth > before) {
                most = Some((worth, index));
            }
        }
        (sum + by_class.least(figures), most.map(|(_, index)| index))
    }
}

/// A figure with warm-up and environment taken out. What is no number is as cheap as can be.
fn figure(request: &Unfinished) -> f64 {
    let x = request.x / request.conditions.factor();
    if x.is_finite() { x.max(0.0) } else { 0.0 }
}

/// Figures of an endpoint's requests, the largest first.
fn of_endpoint(unfinished: &[Unfinished], number: usize) -> Vec<f64> {
    let own = unfinished.iter().filter(|request| usize::from(request.endpoint) == number);
    let mut figures: Vec<f64> = own.map(figure).collect();
    figures.sort_by(|a, b| b.total_cmp(a));
    figures
}

#[derive(Clone)]
struct Bet {
    weight: f64,
    process: Process,
    kind: Kind,
    limit: f64,
}

/// Bets by the class that they are about.
#[derive(Clone)]
struct Outcomes {
    classes: Vec<(u8, Vec<Bet>)>,
    released: f64,
    cap: f64,
}

impl Outcomes {
    fn new(released: f64, cap: f64) -> Self {
        Self { classes: Vec::new(), released, cap }
    }

    fn add(&mut self, class: u8, bet: Bet) {
        match self.classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, bets)) => bets.push(bet),
            None => self.classes.push((class, vec![bet])),
        }
    }

    /// Weighted worth of all bets, at least, with these figures, the largest first.
    fn least(&self, figures: &[f64]) -> f64 {
        if self.classes.is_empty() {
            return 0.0;
        }
        let numbers = LARGE.into_iter().filter(|large| *large <= figures.len());
        let tried = std::iter::once(0).chain(numbers).map(|large| self.with_large(figures, large));
        tried.fold(0.0, f64::max)
    }

    /// The `large` first figures as if all were the least of them.
    fn with_large(&self, figures: &[f64], large: usize) -> f64 {
        let mut outcomes = self.clone();
        // A bet that the others would win may be about another class than theirs; one that they would lose may not.
        for &x in &figures[large..] {
            for bet in outcomes.classes.iter_mut().flat_map(|(_, bets)| bets) {
                let z = bet.kind.z(x, bet.limit, self.cap);
                if z < 1.0 {
                    bet.process.settle(z, 1);
                }
            }
        }
        let x = large.checked_sub(1).map_or(0.0, |last| figures[last]);
        for _ in 0..large {
            outcomes.give_where_it_adds_least(x);
        }
        outcomes.classes.iter().map(|(_, bets)| worth(bets, self.released)).sum()
    }

    fn give_where_it_adds_least(&mut self, x: f64) {
        let after = |bets: &[Bet]| -> Vec<Bet> {
            let mut bets = bets.to_vec();
            for bet in &mut bets {
                let z = bet.kind.z(x, bet.limit, self.cap);
                bet.process.settle(z, 1);
            }
            bets
        };
        let tried = self.classes.iter().enumerate().map(|(place, (_, bets))| {
            let given = after(bets);
            (worth(&given, self.released) - worth(bets, self.released), place, given)
        });
        if let Some((_, place, given)) = tried.min_by(|(a, ..), (b, ..)| a.total_cmp(b)) {
            self.classes[place].1 = given;
        }
    }
}

fn worth(bets: &[Bet], released: f64) -> f64 {
    bets.iter().map(|bet| bet.weight * bet.process.value(released)).sum()
}

#[cfg(test)]
mod tests;
