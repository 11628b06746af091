//! Whether the hook helped: the good build serves again, and what a request costs is back.

use std::time::Duration;

/// Requests on the good build since the hook ended before its cost is believed.
pub const MIN_REQUESTS: u64 = 5;

/// What the agent saw since the hook ended.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyFacts {
    /// Whether a process of the good build runs.
    pub good_build_serves: bool,
    /// Whether the bad build still finishes requests that began after the hook ended.
    pub bad_build_serves: bool,
    /// Requests on the incident's endpoint that the good build began after the hook ended.
    pub requests: u64,
    /// Their mean CPU time.
    pub mean_cpu: Option<Duration>,
    /// The endpoint's `mean_cpu` budget.
    pub budget: Option<Duration>,
    /// The good build's own mean, from its stored baseline.
    pub baseline: Option<Duration>,
    /// The largest ratio to the baseline that counts as back.
    pub vs_baseline: f64,
    /// Since the hook ended.
    pub since_hook: Duration,
    pub verify_within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verification {
    Pending,
    Recovered,
    /// `verify_within` is over.
    Failed(NotRecovered),
}

/// What is missing for a recovery.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NotRecovered {
    #[error("the good build does not run")]
    GoodBuildAbsent,
    #[error("the bad build still serves requests")]
    BadBuildServes,
    #[error("only {requests} requests on the good build, {MIN_REQUESTS} are needed to judge")]
    TooFewRequests { requests: u64 },
    #[error(
        "requests on the good build cost {:.1} ms on average, {:.1} ms are allowed: the cause may not be the build",
        mean.as_secs_f64() * 1e3,
        limit.as_secs_f64() * 1e3
    )]
    StillExpensive { mean: Duration, limit: Duration },
}

/// Judges once; the agent asks again with newer facts while the answer is `Pending`.
pub fn verify(facts: &VerifyFacts) -> Verification {
    match missing(facts) {
        None => Verification::Recovered,
        Some(missing) if facts.since_hook >= facts.verify_within => Verification::Failed(missing),
        Some(_) => Verification::Pending,
    }
}

fn missing(facts: &VerifyFacts) -> Option<NotRecovered> {
    if !facts.good_build_serves {
        return Some(NotRecovered::GoodBuildAbsent);
    }
    if facts.bad_build_serves {
        return Some(NotRecovered::BadBuildServes);
    }
    let too_few = NotRecovered::TooFewRequests { requests: facts.requests };
    let Some(mean) = facts.mean_cpu.filter(|_| facts.requests >= MIN_REQUESTS) else {
        return Some(too_few);
    };
    let limit = limit(facts)?;
    (mean > limit).then_some(NotRecovered::StillExpensive { mean, limit })
}

/// The stricter of the budget and the baseline with its tolerance; `None` when the endpoint has neither.
///
/// A good build whose own baseline lies above the budget (it was adopted so) is held to its baseline alone: the
/// rollback can bring back what was there, not more.
fn limit(facts: &VerifyFacts) -> Option<Duration> {
    let baseline = facts.baseline.map(|mean| {
        Duration::try_from_secs_f64(mean.as_secs_f64() * facts.vs_baseline.max(1.0)).unwrap_or(Duration::MAX)
    });
    match (facts.budget, baseline, facts.baseline) {
        (Some(budget), Some(limit), Some(mean)) if mean <= budget => Some(budget.min(limit)),
        (_, Some(limit), _) => Some(limit),
        (budget, None, _) => budget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn with(change: impl FnOnce(&mut VerifyFacts)) -> Verification {
        let mut facts = VerifyFacts {
            good_build_serves: true,
            bad_build_serves: false,
            requests: MIN_REQUESTS,
            mean_cpu: Some(50 * MS),
            budget: Some(80 * MS),
            baseline: Some(48 * MS),
            vs_baseline: 1.3,
            since_hook: Duration::from_secs(10),
            verify_within: Duration::from_mins(5),
        };
        change(&mut facts);
        verify(&facts)
    }

    #[test]
    fn recovers_as_soon_as_everything_is_back() {
        assert_eq!(with(|_| ()), Verification::Recovered);
        assert_eq!(
            with(|f| f.since_hook = f.verify_within * 2),
            Verification::Recovered,
            "late is recovered too"
        );
        assert_eq!(with(|f| (f.budget, f.baseline) = (None, None)), Verification::Recovered);
    }

    #[test]
    fn waits_while_anything_is_missing_and_names_it_at_the_end() {
        type Change = fn(&mut VerifyFacts);
        let cases: [(Change, NotRecovered); 5] = [
            (|f| f.good_build_serves = false, NotRecovered::GoodBuildAbsent),
            (|f| f.bad_build_serves = true, NotRecovered::BadBuildServes),
            (|f| f.requests = 4, NotRecovered::TooFewRequests { requests: 4 }),
            (|f| f.mean_cpu = None, NotRecovered::TooFewRequests { requests: 5 }),
            (
                |f| f.mean_cpu = Some(63 * MS),
                NotRecovered::StillExpensive { mean: 63 * MS, limit: Duration::from_micros(62_400) },
            ),
        ];
        for (change, missing) in cases {
            assert_eq!(with(change), Verification::Pending, "{missing}");
            let at_end = with(|f| {
                change(f);
                f.since_hook = f.verify_within;
            });
            assert_eq!(at_end, Verification::Failed(missing));
        }
    }

    #[test]
    fn the_stricter_of_budget_and_baseline_holds() {
        let tight_budget = |mean| {
            with(|f| {
                f.budget = Some(52 * MS);
                f.mean_cpu = Some(mean);
            })
        };
        assert_eq!(tight_budget(52 * MS), Verification::Recovered);
        assert_eq!(tight_budget(53 * MS), Verification::Pending);
        let only_budget = |mean| {
            with(|f| {
                f.baseline = None;
                f.mean_cpu = Some(mean);
            })
        };
        assert_eq!(only_budget(80 * MS), Verification::Recovered);
        assert_eq!(only_budget(81 * MS), Verification::Pending);
    }

    #[test]
    fn a_good_build_over_its_budget_is_held_to_its_baseline() {
        let over = |mean| {
            with(|f| {
                f.baseline = Some(100 * MS);
                f.mean_cpu = Some(mean);
            })
        };
        assert_eq!(over(130 * MS), Verification::Recovered);
        assert_eq!(over(131 * MS), Verification::Pending);
    }
}
