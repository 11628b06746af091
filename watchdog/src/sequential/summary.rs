//! What one host's requests of one second do to the evidence, small enough to send, and how hosts add up.
//!
//! The evidence of a fleet is the product over all requests, so hosts send sums of logarithms and the sums are added:
//! exactly what one host would have that saw all requests, at the end of each second. Averages of the hosts' own evidence
//! would need several times the requests.
//!
//! A host's warm-up and environment are in its summaries already; they are known on the host only. The limits have to be
//! the same everywhere.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Parameters;
use super::bets::Bets;
use super::component::{Component, Conditions, InvalidComponents, Pool};
use super::engine::Engine;
use super::late::Totals;
use super::layout::{Layout, Place};
use super::process::Process;
use super::tally::Tally;

/// Of [`Summary`]; another one is not read.
pub const SUMMARY_VERSION: u16 = 1;

/// All requests of one second on one host, or on several: O(1) in their number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub version: u16,
    /// Whole seconds after the deploy.
    pub second: u64,
    /// Requests by endpoint index.
    pub requests: Vec<u64>,
    /// Requests whose figure was no finite number from 0 on.
    pub rejected: u64,
    pub components: Vec<ComponentSummary>,
    /// `None` without a pool.
    pub pool: Option<PoolSummary>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentSummary {
    pub totals: Totals,
    /// The largest figure; 0 without requests.
    pub max_x: f64,
    pub own: Factors,
    /// By stratum.
    pub confirmation: Vec<Factors>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSummary {
    pub overall: Factors,
    /// `None` where it would be the same.
    pub of_build: Option<Factors>,
}

/// What the requests do to the stakes of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    pub requests: u64,
    /// By bet: the sum of the logarithms of the factors. Empty without requests.
    pub ln: Vec<f64>,
    /// The largest `z`, falling: as many as may be left out as outliers, or all.
    pub largest: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SummaryMismatch {
    #[error(
        "the summary has version {found}, this program reads version {SUMMARY_VERSION}: use the same release on all hosts"
    )]
    Version { found: u16 },
    #[error(
        "the summaries are of the seconds {0} and {1}: merge those of one second, and apply the seconds in turn"
    )]
    Second(u64, u64),
    #[error(
        "{what}: the summary has {found}, {wanted} are judged here: all hosts need the same budgets and baseline"
    )]
    Shape { what: &'static str, found: usize, wanted: usize },
    #[error("{what} of the summary is not a possible figure")]
    Figure { what: &'static str },
}

impl Factors {
    fn merge(&mut self, other: &Self, outlier_allowance: usize) -> Result<(), SummaryMismatch> {
        if other.requests == 0 {
            return Ok(());
        }
        if self.requests == 0 {
            self.clone_from(other);
            return Ok(());
        }
        same("bets", other.ln.len(), self.ln.len())?;
        self.requests = self.requests.saturating_add(other.requests);
        self.ln.iter_mut().zip(&other.ln).for_each(|(sum, ln)| *sum += ln);
        self.largest.extend(&other.largest);
        self.largest.sort_by(|a, b| b.total_cmp(a));
        self.largest.truncate(outlier_allowance);
        Ok(())
    }

    fn of(tally: &mut Tally, bets: &Bets) -> Self {
        let requests = tally.requests();
        let largest = tally.largest().to_vec();
        let count = if requests == 0 { 0 } else { bets.count() };
        Self { requests, ln: tally.ln().iter().flatten().copied().take(count).collect(), largest }
    }

    /// That it is about so many bets, and made of numbers that requests can lead to.
    fn check(&self, bets: &Bets, allowance: usize) -> Result<(), SummaryMismatch> {
        let wanted = if self.requests == 0 { 0 } else { bets.count() };
        same("bets", self.ln.len(), wanted)?;
        let most = u64::try_from(allowance).unwrap_or(u64::MAX).min(self.requests);
        same("largest figures", self.largest.len(), usize::try_from(most).unwrap_or(usize::MAX))?;
        let possible = self.ln.iter().all(|ln| ln.is_finite())
            && self.largest.iter().all(|z| z.is_finite() && *z >= 0.0)
            && self.largest.is_sorted_by(|a, b| a >= b);
        if possible { Ok(()) } else { Err(SummaryMismatch::Figure { what: "a sum or a largest figure" }) }
    }
}

impl Summary {
    /// Adds another host's requests of the same second. `outlier_allowance` as in the [`Parameters`]. In no order: the
    /// outcome is the same to the last few digits. Nothing is changed when the two do not fit.
    pub fn merge(&mut self, other: &Self, outlier_allowance: usize) -> Result<(), SummaryMismatch> {
        let mut merged = self.clone();
        merged.add(other, outlier_allowance)?;
        *self = merged;
        Ok(())
    }

    fn add(&mut self, other: &Self, allowance: usize) -> Result<(), SummaryMismatch> {
        for version in [self.version, other.version] {
            if version != SUMMARY_VERSION {
                return Err(SummaryMismatch::Version { found: version });
            }
        }
        if self.second != other.second {
            return Err(SummaryMismatch::Second(self.second, other.second));
        }
        same("endpoints", other.requests.len(), self.requests.len())?;
        same("components", other.components.len(), self.components.len())?;
        self.rejected = self.rejected.saturating_add(other.rejected);
        for (requests, more) in self.requests.iter_mut().zip(&other.requests) {
            *requests = requests.saturating_add(*more);
        }
        for (own, other) in self.components.iter_mut().zip(&other.components) {
            own.totals.add(&other.totals);
            own.max_x = own.max_x.max(other.max_x);
            own.own.merge(&other.own, allowance)?;
            same("strata", other.confirmation.len(), own.confirmation.len())?;
            for (own, other) in own.confirmation.iter_mut().zip(&other.confirmation) {
                own.merge(other, allowance)?;
            }
        }
        match (&mut self.pool, &other.pool) {
            (None, None) => Ok(()),
            (Some(own), Some(other)) => {
                own.overall.merge(&other.overall, allowance)?;
                match (&mut own.of_build, &other.of_build) {
                    (None, None) => Ok(()),
                    (Some(own), Some(other)) => own.merge(other, allowance),
                    (own, other) => same("confirmed pools", other.iter().len(), own.iter().len()),
                }
            }
            (own, other) => same("pools", other.iter().len(), own.iter().len()),
        }
    }
}

fn same(what: &'static str, found: usize, wanted: usize) -> Result<(), SummaryMismatch> {
    if found == wanted { Ok(()) } else { Err(SummaryMismatch::Shape { what, found, wanted }) }
}

/// A host's part: sums up what an [`Engine`] elsewhere is to judge. Nothing is allocated per request.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    parameters: Parameters,
    layout: Layout,
    second: u64,
    requests: Vec<u64>,
    rejected: u64,
    components: Vec<Parts>,
    pool: Option<(Tally, Option<Tally>)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    totals: Totals,
    max_x: f64,
    own: Tally,
    confirmation: Vec<Tally>,
}

impl Collector {
    /// The same as the engine's.
    pub fn new(
        parameters: Parameters,
        components: Vec<Component>,
        pool: Option<Pool>,
    ) -> Result<Self, InvalidComponents> {
        let layout = Layout::new(components, pool)?;
        let tally = || Tally::new(&parameters.bets, parameters.outlier_allowance);
        let parts = |component: &Component| Parts {
            totals: Totals::default(),
            max_x: 0.0,
            own: tally(),
            confirmation: component.confirmation.iter().map(|_| tally()).collect(),
        };
        Ok(Self {
            components: layout.components.iter().map(parts).collect(),
            pool: layout.pool.as_ref().map(|_| (tally(), layout.pool_is_confirmed().then(tally))),
            requests: vec![0; layout.endpoints()],
            rejected: 0,
            second: 0,
            layout,
            parameters,
        })
    }

    /// As [`Engine::observe`]. A request of a later second than those before it gives back their summary.
    pub fn observe(
        &mut self,
        second: u64,
        endpoint: u16,
        class: u8,
        x: f64,
        count: u64,
        conditions: Conditions,
    ) -> Option<Summary> {
        let number = usize::from(endpoint);
        if count == 0 || !self.layout.watches(number) {
            return None;
        }
        let finished = if second > self.second { self.finish(second) } else { None };
        if !x.is_finite() || x < 0.0 {
            self.rejected = self.rejected.saturating_add(count);
            return finished;
        }
        self.requests[number] = self.requests[number].saturating_add(count);
        let (bets, cap) = (&self.parameters.bets, self.parameters.cap);
        let (components, pool) = (&mut self.components, &mut self.pool);
        self.layout.each(number, class, x / conditions.factor(), cap, |place, z| match place {
            Place::Own(index) => {
                let parts = &mut components[index];
                parts.totals.add(&Totals::of(x, z, count));
                parts.max_x = parts.max_x.max(x);
                parts.own.add(bets, z, count);
            }
            Place::Confirmation(index, stratum) => {
                components[index].confirmation[stratum].add(bets, z, count);
            }
            Place::Pool => pool.iter_mut().for_each(|(overall, _)| overall.add(bets, z, count)),
            Place::PoolOfBuild => {
                pool.iter_mut()
                    .filter_map(|(_, of_build)| of_build.as_mut())
                    .for_each(|t| t.add(bets, z, count));
            }
        });
        finished
    }

    /// The second that is summed up is over, and `next` begins. `None` when it had no requests.
    pub fn finish(&mut self, next: u64) -> Option<Summary> {
        let bets = &self.parameters.bets;
        let any = self.rejected > 0 || self.requests.iter().any(|&requests| requests > 0);
        let summary = any.then(|| Summary {
            version: SUMMARY_VERSION,
            second: self.second,
            requests: self.requests.clone(),
            rejected: self.rejected,
            components: self
                .components
                .iter_mut()
                .map(|parts| ComponentSummary {
                    totals: parts.totals,
                    max_x: parts.max_x,
                    own: Factors::of(&mut parts.own, bets),
                    confirmation: parts.confirmation.iter_mut().map(|t| Factors::of(t, bets)).collect(),
                })
                .collect(),
            pool: self.pool.as_mut().map(|(overall, of_build)| PoolSummary {
                overall: Factors::of(overall, bets),
                of_build: of_build.as_mut().map(|tally| Factors::of(tally, bets)),
            }),
        });
        self.second = self.second.max(next);
        self.rejected = 0;
        self.requests.fill(0);
        for parts in &mut self.components {
            (parts.totals, parts.max_x) = (Totals::default(), 0.0);
            parts.own.clear();
            parts.confirmation.iter_mut().for_each(Tally::clear);
        }
        if let Some((overall, of_build)) = &mut self.pool {
            overall.clear();
            of_build.iter_mut().for_each(Tally::clear);
        }
        summary
    }
}

impl Engine {
    /// All requests of a second, of one host or of several. The summaries of a second may come in one or one after the
    /// other; one that comes after a later second counts as of that second.
    ///
    /// Looks once, when all requests are in: a bar that is reached inside the second only is not noticed, as evidence at a
    /// moment of one's choice is valid all the same. Nothing is changed when the summary does not fit.
    pub fn apply(&mut self, summary: &Summary) -> Result<(), SummaryMismatch> {
        self.check(summary)?;
        self.advance(summary.second);
        self.rejected = self.rejected.saturating_add(summary.rejected);
        for (endpoint, requests) in self.endpoints.iter_mut().zip(&summary.requests) {
            endpoint.requests = endpoint.requests.saturating_add(*requests);
            self.requests = self.requests.saturating_add(*requests);
        }
        for (index, component) in summary.components.iter().enumerate() {
            let processes = &mut self.processes[index];
            settle(&mut processes.own, &component.own);
            let strata = processes.confirmation.iter_mut().zip(&component.confirmation);
            strata.for_each(|(process, factors)| settle(process, factors));
            self.late[index].add_tick(self.second, &component.own.ln, &component.totals);
        }
        if let (Some(pool), Some(of_pool)) = (&mut self.pool, &summary.pool) {
            pool.requests = pool.requests.saturating_add(of_pool.overall.requests);
            settle(&mut pool.overall, &of_pool.overall);
            if let (Some(process), Some(factors)) = (&mut pool.of_build, &of_pool.of_build) {
                settle(process, factors);
            }
        }
        (0..self.endpoints.len()).for_each(|endpoint| self.add_up(endpoint));
        self.look();
        Ok(())
    }

    fn check(&self, summary: &Summary) -> Result<(), SummaryMismatch> {
        if summary.version != SUMMARY_VERSION {
            return Err(SummaryMismatch::Version { found: summary.version });
        }
        same("endpoints", summary.requests.len(), self.endpoints.len())?;
        same("components", summary.components.len(), self.processes.len())?;
        let of = |factors: &Factors| factors.check(&self.parameters.bets, self.parameters.outlier_allowance);
        for (component, processes) in summary.components.iter().zip(&self.processes) {
            of(&component.own)?;
            same("strata", component.confirmation.len(), processes.confirmation.len())?;
            component.confirmation.iter().try_for_each(of)?;
            let Totals { sum_x, sum_z, .. } = component.totals;
            if ![sum_x, sum_z].iter().all(|sum| sum.is_finite() && *sum >= 0.0) {
                return Err(SummaryMismatch::Figure { what: "a sum" });
            }
        }
        same("pools", summary.pool.iter().len(), self.pool.iter().len())?;
        for (of_pool, pool) in summary.pool.iter().zip(&self.pool) {
            of(&of_pool.overall)?;
            same("confirmed pools", of_pool.of_build.iter().len(), pool.of_build.iter().len())?;
            of_pool.of_build.iter().try_for_each(of)?;
        }
        Ok(())
    }
}

fn settle(process: &mut Process, factors: &Factors) {
    if factors.requests > 0 {
        process.settle_summary(&factors.ln, &factors.largest);
    }
}

#[cfg(test)]
mod tests;
