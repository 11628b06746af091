//! Whether the engine comes to the reference values.

use std::fmt;

use super::super::bets::Bets;
use super::super::clearance::Clearance;
use super::super::component::Component;
use super::super::engine::Engine;
use super::super::interval::{Weighted, interval_with, ln_evidence_above_with};
use super::super::{Parameters, component};
use super::format::{ComponentRow, Point, Vector};

/// Relative difference that is still an agreement.
pub const TOLERANCE: f64 = 1e-9;

/// A sequence whose values all agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    pub requests: u64,
    /// Figures that were compared.
    pub compared: usize,
    /// The largest relative difference among them.
    pub largest_error: f64,
    /// From this request on a stake is at the most that the engine counts, and `M` cannot be compared any more. Decisions
    /// can.
    pub full_from: Option<u64>,
}

/// The first value that does not agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub sequence: String,
    /// The field of the file.
    pub field: &'static str,
    /// After so many requests.
    pub n: u64,
    pub wanted: String,
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, field, n, wanted, got } = self;
        write!(f, "{sequence}: {field} after {n} requests: wanted {wanted}, got {got}")
    }
}

/// Runs a sequence through the engine.
pub fn check(vector: &Vector) -> Result<Agreement, Box<Difference>> {
    let params = &vector.params;
    let bets = Bets::new(&params.lambda, &params.pi).expect("the file was checked when it was read");
    let parameters = Parameters {
        alpha: params.alpha,
        beta: params.beta,
        first_stake: params.w0,
        cap: params.cap,
        min_requests: params.n_min,
        outlier_allowance: params.outlier_allowance,
        bets,
    };
    let mut run = Run {
        vector,
        parameters,
        agreement: Agreement {
            requests: vector.x_ms.len() as u64,
            compared: 0,
            largest_error: 0.0,
            full_from: None,
        },
    };
    let violated = run.violation()?;
    let cleared = run.clearance()?;
    run.decisions(violated, cleared)?;
    run.estimate()?;
    Ok(run.agreement)
}

struct Run<'a> {
    vector: &'a Vector,
    parameters: Parameters,
    agreement: Agreement,
}

impl Run<'_> {
    fn violation(&mut self) -> Result<Option<u64>, Box<Difference>> {
        let components: Vec<Component> = self.vector.components.iter().map(ComponentRow::component).collect();
        let mut engine =
            Engine::new(self.parameters.clone(), components).expect("the file was checked when it was read");
        let mut max_m = 0.0_f64;
        let mut points = self.vector.trajectory.iter().peekable();
        for (n, index) in (1u64..).zip(0..self.vector.x_ms.len()) {
            let tick = self.vector.tick[index];
            let conditions = self.vector.params.conditions(tick);
            engine.observe(tick, 0, self.vector.cls[index], self.vector.x_ms[index], 1, conditions);
            max_m = max_m.max(engine.evidence());
            if self.agreement.full_from.is_none() && engine.is_full() {
                self.agreement.full_from = Some(n);
            }
            let Some(&Point { m, max_m: wanted_max, .. }) = points.next_if(|point| point.n == n) else {
                continue;
            };
            for (field, wanted, got) in [("M", m, engine.evidence()), ("max_M", wanted_max, max_m)] {
                let compared = self.compare(field, n, wanted, got, wanted.abs());
                if compared.is_err() && self.agreement.full_from.is_some() {
                    continue;
                }
                compared?;
            }
        }
        Ok(engine.violated().map(|crossing| crossing.requests))
    }

    /// `Some` where clearing is defined: the request, if there was one.
    fn clearance(&mut self) -> Result<Option<u64>, Box<Difference>> {
        if !self.vector.is_cleared_by_v() {
            return Ok(None);
        }
        let bets = self.parameters.bets.clone();
        let mut clearance = Clearance::with_bets(bets, self.vector.params.cap_clear);
        let mut points = self.vector.trajectory.iter().peekable();
        for (n, index) in (1u64..).zip(0..self.vector.x_ms.len()) {
            let bar = 1.0 / self.parameters.beta;
            clearance.settle(self.z(index), 1, self.parameters.min_requests, bar);
            if let Some(Point { v: Some(v), .. }) = points.next_if(|point| point.n == n) {
                self.compare("V", n, *v, clearance.value(), v.abs())?;
            }
        }
        Ok(clearance.cleared_after())
    }

    fn decisions(&mut self, violated: Option<u64>, cleared: Option<u64>) -> Result<(), Box<Difference>> {
        let vector = self.vector;
        self.same("first_violation_n", vector.first_violation_n, violated)?;
        self.same("first_clear_n", vector.first_clear_n, cleared)?;
        let all = self.agreement.requests;
        let (verdict, at) = match (violated, cleared) {
            (Some(violated), None) => ("violated", violated),
            (Some(violated), Some(cleared)) if violated <= cleared => ("violated", violated),
            (_, Some(cleared)) => ("cleared", cleared),
            (None, None) => ("undecided", all),
        };
        self.agreement.compared += 1;
        if vector.verdict != verdict {
            return Err(self.difference("verdict", at, vector.verdict.clone(), verdict.to_owned()));
        }
        self.same("decided_at_n", Some(vector.decided_at_n), Some(at))
    }

    fn estimate(&mut self) -> Result<(), Box<Difference>> {
        let Some(wanted) = self.vector.at_decision else { return Ok(()) };
        let n = self.vector.decided_at_n;
        let decided = usize::try_from(n).unwrap_or(usize::MAX).min(self.vector.x_ms.len());
        let z: Vec<f64> = (0..decided).map(|index| self.z(index)).collect();
        let values: Vec<Weighted> = z.iter().map(|&z| Weighted { low: z, high: z, count: 1 }).collect();
        let (bets, cap) = (self.parameters.bets.clone(), self.parameters.cap);
        let found = interval_with(&bets, &values, cap);
        let mean = |figure: &dyn Fn(f64) -> f64| z.iter().map(|&z| figure(z)).sum::<f64>() / decided as f64;
        let ln_evidence = ln_evidence_above_with(&bets, &values, cap, 1.0);
        for (field, wanted, got) in [
            ("at_decision.mean_z", wanted.mean_z, mean(&|z| z)),
            ("at_decision.mean_z_capped", wanted.mean_z_capped, mean(&|z| z.min(cap))),
            ("at_decision.lower95_z", wanted.lower95_z, found.lower),
            ("at_decision.upper95_z", wanted.upper95_z, found.upper),
        ] {
            self.compare(field, n, wanted, got, wanted.abs())?;
        }
        // Of a logarithm the difference itself counts: it is the relative one of what it is the logarithm of.
        let scale = wanted.log_e_start_only.abs().max(1.0);
        self.compare("at_decision.log_e_start_only", n, wanted.log_e_start_only, ln_evidence, scale)
    }

    /// Multiples of the first component's limit.
    fn z(&self, index: usize) -> f64 {
        let conditions: component::Conditions = self.vector.params.conditions(self.vector.tick[index]);
        self.vector.x_ms[index] / (self.vector.components[0].limit_ms * conditions.factor())
    }

    fn compare(
        &mut self,
        field: &'static str,
        n: u64,
        wanted: f64,
        got: f64,
        scale: f64,
    ) -> Result<(), Box<Difference>> {
        let error = (got - wanted).abs() / scale.max(f64::MIN_POSITIVE);
        if error <= TOLERANCE {
            self.agreement.compared += 1;
            self.agreement.largest_error = self.agreement.largest_error.max(error);
            return Ok(());
        }
        Err(self.difference(field, n, format!("{wanted:?}"), format!("{got:?} ({error:.1e} off)")))
    }

    fn same(
        &mut self,
        field: &'static str,
        wanted: Option<u64>,
        got: Option<u64>,
    ) -> Result<(), Box<Difference>> {
        self.agreement.compared += 1;
        if wanted == got {
            return Ok(());
        }
        let told = |n: Option<u64>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let n = got.or(wanted).unwrap_or(self.agreement.requests);
        Err(self.difference(field, n, told(wanted), told(got)))
    }

    fn difference(&self, field: &'static str, n: u64, wanted: String, got: String) -> Box<Difference> {
        Box::new(Difference { sequence: self.vector.name.clone(), field, n, wanted, got })
    }
}
