//! How far a judge is from a verdict, and how many more requests may settle it.

use serde::{Deserialize, Serialize};

use super::gather::is_of;
use super::judge::{Judge, Watched, endpoint, is_direct};
use super::record::Record;
use crate::model::EndpointName;
use crate::sequential::{Carrier, Standing};

/// Evidence (its logarithm) below which nobody can say that it grows.
const LN_SPEAKS: f64 = 0.4;
/// Requests since the likely start without which there is no pace.
const LEAST_FOR_A_PACE: u64 = 3;
/// A guess that is further away is none.
const MOST_TO_TELL: f64 = 1e6;

/// For `status`, metrics and the words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Natural logarithm of the evidence against the build now; 0 when it came, and below while nothing speaks against it.
    pub log_evidence: f64,
    /// Of the largest so far.
    pub log_evidence_max: f64,
    /// Where the verdict "exceeds" falls: `ln(1 / false_rollback_rate)`.
    pub log_bar: f64,
    /// The bar less the largest; 0 once it was reached.
    pub log_missing: f64,
    /// Requests on all configured endpoints, seen in the probation.
    pub requests: u64,
    /// Those on endpoints that are judged.
    pub judged: u64,
    /// What would show the build over a budget, if it goes on; absent where that cannot be told.
    pub to_exceed: Option<ToGo>,
    /// What would show it within all budgets, if it goes on: of each endpoint that is not there yet. Empty where that
    /// cannot be told.
    pub to_clear: Vec<ToGo>,
}

/// About so many requests more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToGo {
    pub endpoint: EndpointName,
    pub requests: u64,
}

impl Judge {
    /// Costs some logarithms for each budget and outcome: for reports.
    pub fn progress(&self) -> Progress {
        let (standing, records) = (self.engine.standing(), self.records());
        let counted: u64 = self.endpoints.iter().map(|watched| watched.counted).sum();
        Progress {
            log_evidence: standing.ln_evidence,
            log_evidence_max: standing.ln_max_evidence,
            log_bar: standing.ln_bar,
            log_missing: standing.ln_missing.max(0.0),
            requests: self.requests(),
            judged: standing.requests + counted,
            to_exceed: self.to_exceed(&standing, &records),
            to_clear: self.to_clear(&records).unwrap_or_default(),
        }
    }

    fn to_exceed(&self, standing: &Standing, records: &[Option<Record>]) -> Option<ToGo> {
        let Some(Carrier::Component(component)) = standing.carrier else { return None };
        let since = standing.parts[component].since_start?;
        let speaks = standing.ln_evidence >= LN_SPEAKS && since.totals.requests >= LEAST_FOR_A_PACE;
        let scope = self.engine.components()[component].scope;
        let watched = endpoint(&self.endpoints, scope.endpoint)?;
        if !speaks || !is_direct(records[usize::from(scope.endpoint) - 1].as_ref()) {
            return None;
        }
        let more = in_requests(standing.requests_to_go?, watched, scope.class)?;
        let fewest = self.engine.parameters().min_requests.saturating_sub(watched.requests());
        Some(ToGo { endpoint: watched.plan.name.clone(), requests: more.max(fewest).max(1) })
    }

    /// `None`: at least one of the budgets does not tell.
    fn to_clear(&self, records: &[Option<Record>]) -> Option<Vec<ToGo>> {
        let parameters = self.engine.parameters();
        let mut to_clear = Vec::new();
        for (watched, record) in self.endpoints.iter().zip(records) {
            if watched.plan.missing.is_some() {
                return None;
            }
            let open = watched.plan.claims.iter().filter(|claim| claim.clearance.cleared_after().is_none());
            let mut most = 0;
            for claim in open {
                let more = claim.clearance.to_go(parameters.min_requests, 1.0 / parameters.beta)?;
                most = most.max(in_requests(more, watched, claim.class)?);
            }
            if most > 0 && !is_direct(record.as_ref()) {
                return None;
            }
            if most > 0 {
                to_clear.push(ToGo { endpoint: watched.plan.name.clone(), requests: most });
            }
        }
        Some(to_clear)
    }
}

/// Requests of the endpoint that hold so many of the class, as outcomes are mixed so far.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
fn in_requests(of_class: f64, watched: &Watched, class: Option<u8>) -> Option<u64> {
    let seen = watched.seen.pooled(|_| true).requests as f64;
    let own = watched.seen.pooled(|cell| is_of(watched, class, cell)).requests as f64;
    let requests = (of_class * seen / own).ceil();
    (own > 0.0 && requests <= MOST_TO_TELL).then_some(requests as u64)
}
