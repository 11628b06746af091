//! Repeat offenders: a new build whose requests cost what those of a condemned build did.
//!
//! Only a name: whether a build exceeds is judged against its budgets and the last good build alone, and nothing here
//! changes that. So the comparison may be simple, and is strict where it cannot be sure.

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Outcome, interval_seconds};
use super::words::{cpu, one};
use crate::aggregate::{Cell, ClassAggregate, EndpointAggregate};
use crate::model::BuildId;

/// Requests of the condemned build below which its stored figures are not used.
const MIN_REQUESTS: u64 = 5;
/// Requests count for at most so many times the limit, as in the evidence.
const CAP: f64 = 50.0;
/// Means of two builds with the same fault differ by this factor at most: on a crowded host those of six requests each are
/// up to a third apart. The intervals of a handful of requests are so wide that nearly every two of them overlap.
const ALIKE: f64 = 1.5;
/// An interval's upper end beyond so many times the mean says nothing.
const VAGUE: f64 = 10.0;

/// What is known of a build that was condemned.
#[derive(Clone, Copy, Debug)]
pub struct Condemned<'a> {
    pub build: &'a BuildId,
    /// Its requests on the endpoint of the new build's evidence.
    pub requests: Option<&'a EndpointAggregate>,
    /// What it was condemned for, with the incident's id.
    pub evidence: Option<(&'a str, &'a Evidence)>,
}

/// The condemned build that a new one repeats. Times are on-CPU seconds per request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    pub build: BuildId,
    /// In which it was condemned; absent when that is not known any more.
    pub incident: Option<String>,
    /// With the new build's outcome.
    pub requests: u64,
    pub mean_cpu_seconds: f64,
    /// 95 %.
    pub interval_cpu_seconds: (f64, f64),
}

/// Whether the build of `new` costs what the condemned one did: the same endpoint and outcome, intervals that overlap, and
/// means within a factor of 1.5.
pub fn repeats(new: &Evidence, condemned: &Condemned<'_>) -> Option<Repeat> {
    let (lower, upper) = new.interval_cpu_seconds?;
    let (requests, mean, interval) = stored(new, condemned).or_else(|| told(new, condemned))?;
    let overlap = lower <= interval.1 && interval.0 <= upper;
    let alike = mean <= ALIKE * new.mean_cpu_seconds && new.mean_cpu_seconds <= ALIKE * mean;
    (overlap && alike).then(|| Repeat {
        build: condemned.build.clone(),
        incident: condemned.evidence.map(|(incident, _)| incident.to_owned()),
        requests,
        mean_cpu_seconds: mean,
        interval_cpu_seconds: interval,
    })
}

type Figures = (u64, f64, (f64, f64));

/// By all that the ledger has of the condemned build.
fn stored(new: &Evidence, condemned: &Condemned<'_>) -> Option<Figures> {
    let cells = cells_of(new.outcome)?;
    let seen: ClassAggregate = condemned.requests?.pooled(cells);
    let mean_ns = seen.mean_ns().filter(|_| seen.requests >= MIN_REQUESTS)?;
    Some((seen.requests, mean_ns * 1e-9, interval_seconds(&seen, new.limit_cpu_seconds * 1e9, CAP)))
}

/// By what it was condemned for.
fn told(new: &Evidence, condemned: &Condemned<'_>) -> Option<Figures> {
    let (_, old) = condemned.evidence?;
    let same = old.endpoint == new.endpoint && old.outcome == new.outcome;
    let interval = old.interval_cpu_seconds.filter(|_| same)?;
    Some((old.outcome_requests, old.mean_cpu_seconds, interval))
}

/// Which cells an outcome is; `None`: that depends on the baseline.
fn cells_of(outcome: Outcome) -> Option<impl Fn(Cell) -> bool> {
    if outcome == Outcome::Rest {
        return None;
    }
    Some(move |cell: Cell| match outcome {
        Outcome::All => true,
        Outcome::Class(class) => cell.class == class,
        Outcome::Status(status) => cell.status == status,
        Outcome::Young { class, status, age } => {
            cell.class == class && status.is_none_or(|status| cell.status == status) && cell.age == age
        }
        Outcome::Rest => false,
    })
}

impl Repeat {
    /// For people, behind the sentence of the new build's evidence.
    pub fn sentence(&self, new: &Evidence) -> String {
        let condemned = match &self.incident {
            Some(incident) => format!("condemned in incident {incident}"),
            None => "condemned before".to_owned(),
        };
        format!(
            "a repeat offender: build {}, {condemned}, needed {} per {}, this one needs {}",
            self.build,
            figures(self.mean_cpu_seconds, self.interval_cpu_seconds),
            one(&new.endpoint),
            figures(new.mean_cpu_seconds, new.interval_cpu_seconds.unwrap_or((0.0, f64::INFINITY)))
        )
    }
}

fn figures(mean: f64, (lower, upper): (f64, f64)) -> String {
    match (lower > 0.0, upper < VAGUE * mean) {
        (true, true) => format!("{} ({} to {})", cpu(mean), cpu(lower), cpu(upper)),
        (true, false) => format!("{} (at least {})", cpu(mean), cpu(lower)),
        (false, _) => cpu(mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StatusClass;

    /// As an earlier version may have left it in the ledger.
    fn evidence(build: &str, mean: f64, interval: Option<(f64, f64)>) -> Evidence {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "service": "web", "build": build, "endpoint": "login",
            "budget": { "kind": "vs_baseline", "ratio": 1.5 }, "outcome": { "class": "success" }, "measure": "mean",
            "requests": 7, "outcome_requests": 7, "above_limit": 7, "limit_cpu_seconds": 0.008,
            "mean_cpu_seconds": mean, "interval_cpu_seconds": interval, "baseline": null,
            "projected_host_share": null, "log_evidence": 7.2, "log_bar": 6.9, "second": 3, "last_end_mono_ns": 0,
        }))
        .unwrap()
    }

    fn endpoint(cpu_us: u64, requests: u64) -> EndpointAggregate {
        let mut endpoint = EndpointAggregate::default();
        endpoint.record(StatusClass::Success, cpu_us * 1000, requests);
        // Refused logins cost next to nothing: they are another outcome.
        endpoint.record(StatusClass::ClientError, 50_000, 4 * requests);
        endpoint
    }

    fn found(new: &Evidence, requests: Option<&EndpointAggregate>, old: Option<&Evidence>) -> Option<Repeat> {
        let build = BuildId::from("v2");
        repeats(
            new,
            &Condemned { build: &build, requests, evidence: old.map(|old| ("20170127-abcdefgh", old)) },
        )
    }

    #[test]
    fn the_same_cost_is_a_repetition_and_another_one_is_not() {
        let new = evidence("v3", 0.0203, Some((0.0141, 0.4)));
        let repeat = found(&new, Some(&endpoint(20_000, 12)), None).unwrap();
        assert_eq!((repeat.build.as_str(), repeat.requests), ("v2", 12));
        assert!((repeat.mean_cpu_seconds / 0.020 - 1.0).abs() < 0.01, "{repeat:?}");
        let (lower, upper) = repeat.interval_cpu_seconds;
        assert!(lower < 0.020 && 0.020 < upper && lower > 0.01, "{repeat:?}");
        // Of the old fault, a quarter of the cost: over budget all the same, and something else.
        assert_eq!(
            found(&evidence("v3", 0.0101, Some((0.0090, 0.4))), Some(&endpoint(20_000, 12)), None),
            None
        );
        // Far apart for certain, near as the means may look.
        assert_eq!(
            found(&evidence("v3", 0.0250, Some((0.0249, 0.0251))), Some(&endpoint(20_000, 100_000)), None),
            None
        );
    }

    #[test]
    fn where_the_ledger_has_no_figures_what_it_was_condemned_for_has() {
        let (old, new) =
            (evidence("v2", 0.0210, Some((0.0150, 0.4))), evidence("v3", 0.0203, Some((0.0141, 0.4))));
        let repeat = found(&new, Some(&endpoint(20_000, 4)), Some(&old)).unwrap();
        assert_eq!((repeat.requests, repeat.incident.as_deref()), (7, Some("20170127-abcdefgh")));
        assert!((repeat.mean_cpu_seconds - 0.0210).abs() < 1e-12);
        let elsewhere = Evidence { endpoint: "report".into(), ..old.clone() };
        assert_eq!(found(&new, None, Some(&elsewhere)), None);
        let other = Evidence { outcome: Outcome::All, ..old };
        assert_eq!(found(&new, None, Some(&other)), None);
        assert_eq!(found(&new, None, None), None);
    }

    #[test]
    fn what_has_no_interval_is_not_compared() {
        let old = evidence("v2", 0.02, Some((0.01, 0.03)));
        assert_eq!(found(&evidence("v3", 0.02, None), Some(&endpoint(20_000, 12)), Some(&old)), None);
    }

    #[test]
    fn the_sentence_has_both_figures() {
        let new = evidence("v3", 0.0203, Some((0.0141, 0.4)));
        let repeat = Repeat {
            build: "v2".into(),
            incident: Some("20170127-abcdefgh".to_owned()),
            requests: 12,
            mean_cpu_seconds: 0.0200,
            interval_cpu_seconds: (0.0188, 0.0213),
        };
        assert_eq!(
            repeat.sentence(&new),
            "a repeat offender: build v2, condemned in incident 20170127-abcdefgh, needed 20 ms (18.8 ms to 21.3 ms) per \
             login, this one needs 20.3 ms (at least 14.1 ms)"
        );
        assert!(
            Repeat { incident: None, ..repeat }.sentence(&new).contains("build v2, condemned before, needed")
        );
    }
}
