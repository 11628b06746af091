//! Whether the hook helped: the good build serves again, and what a request costs is back.

use std::time::Duration;

use serde::Serialize;

use super::Step;
use super::cost::{Cost, MIN_REQUESTS};
use crate::model::BuildId;

/// What the agent saw since the hook ended.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyFacts {
    /// Whether a process of the good build runs.
    pub good_build_serves: bool,
    /// Whether the bad build still finishes requests that began after the hook ended.
    pub bad_build_serves: bool,
    /// Another build that appeared after the bad one, and runs.
    pub newer_build: Option<BuildId>,
    /// Of requests on the incident's endpoint that the good build began after the hook ended.
    pub cost: Cost,
    /// From the hook's end to the good build's first request.
    pub good_served_after: Option<Duration>,
    /// From the hook's end to the end of the bad build's last request that began after it.
    pub bad_served_until: Option<Duration>,
    /// Since the hook ended.
    pub since_hook: Duration,
    pub verify_within: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verification {
    Pending,
    Recovered,
    /// `verify_within` is over.
    Failed(NotRecovered),
}

/// What is missing for a recovery.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotRecovered {
    #[error("the good build does not run")]
    GoodBuildAbsent,
    #[error("build {newer_build} was deployed meanwhile and serves in its place: it is judged by itself")]
    Superseded { newer_build: BuildId },
    #[error("the bad build still serves requests")]
    BadBuildServes,
    #[error("the bad build still runs, and no request came that could show which of the two serves")]
    NoRequests,
    #[error("only {requests} requests on the good build, {MIN_REQUESTS} are needed to judge")]
    TooFewRequests { requests: u64 },
    #[error(
        "requests on the good build cost {:.1} ms on average, {:.1} ms are allowed, and they are too few to tell whether \
         the build was the cause",
        mean.as_secs_f64() * 1e3,
        limit.as_secs_f64() * 1e3
    )]
    StillExpensive { mean: Duration, limit: Duration },
    #[error(
        "requests on the good build cost {:.1} ms on average as well, {:.1} ms are allowed: the cause was not the build; its \
         condemnation is lifted, look at the host, the database and the traffic",
        mean.as_secs_f64() * 1e3,
        limit.as_secs_f64() * 1e3
    )]
    NotTheBuild { mean: Duration, limit: Duration },
}

/// What a verification found, for the ledger. Durations count from the step into `verifying`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerificationRecord {
    pub good_served_after: Option<Duration>,
    pub bad_served_until: Option<Duration>,
    pub ended_after: Duration,
    pub requests: u64,
    pub mean_cpu: Option<Duration>,
    pub limit: Option<Duration>,
    /// Of the good build, before.
    pub baseline: Option<Duration>,
}

/// Judges once; the agent asks again with newer facts while the answer is `Pending`.
pub fn verify(facts: &VerifyFacts) -> Verification {
    let is_over = facts.since_hook >= facts.verify_within;
    match missing(facts, is_over) {
        None => Verification::Recovered,
        Some(missing) if is_over => Verification::Failed(missing),
        Some(_) => Verification::Pending,
    }
}

/// As [`verify`], of a build that was taken away for when it was released: what a request costs says nothing about that, so it
/// is enough that the good build serves, and that the bad one is gone or gets no requests.
///
/// `bad_build_runs`: whether a process of the bad build is left; `quiet_after`: it serves no more when it got no request for so
/// long.
pub fn verify_release(facts: &VerifyFacts, bad_build_runs: bool, quiet_after: Duration) -> Verification {
    let is_over = facts.since_hook >= facts.verify_within;
    let missing = not_serving(facts).or_else(|| {
        let has_served = facts.cost.requests > 0;
        let is_quiet = !bad_build_runs || (has_served && facts.since_hook >= quiet_after);
        // Nobody may have come: then that the bad build is gone must do, at the end.
        let is_shown = is_quiet && (has_served || is_over);
        (!is_shown).then_some(NotRecovered::NoRequests)
    });
    match missing {
        None => Verification::Recovered,
        Some(missing) if is_over => Verification::Failed(missing),
        Some(_) => Verification::Pending,
    }
}

fn missing(facts: &VerifyFacts, is_over: bool) -> Option<NotRecovered> {
    if let Some(missing) = not_serving(facts) {
        return Some(missing);
    }
    let cost = &facts.cost;
    let Some(mean) = cost.mean.filter(|_| cost.requests >= MIN_REQUESTS) else {
        return Some(NotRecovered::TooFewRequests { requests: cost.requests });
    };
    let limit = cost.limit?;
    if cost.is_back {
        return None;
    }
    if is_over && cost.is_high {
        return Some(NotRecovered::NotTheBuild { mean, limit });
    }
    // Too few requests for a proof: at the end their mean must do.
    (!is_over || mean > limit).then_some(NotRecovered::StillExpensive { mean, limit })
}

/// The good build does not serve, or not alone.
fn not_serving(facts: &VerifyFacts) -> Option<NotRecovered> {
    match &facts.newer_build {
        Some(newer_build) if !facts.good_build_serves && !facts.bad_build_serves => {
            return Some(NotRecovered::Superseded { newer_build: newer_build.clone() });
        }
        _ if !facts.good_build_serves => return Some(NotRecovered::GoodBuildAbsent),
        _ => {}
    }
    facts.bad_build_serves.then_some(NotRecovered::BadBuildServes)
}

impl Verification {
    /// The step that follows, with its line in the timeline; `None` while pending.
    pub fn conclusion(&self, facts: &VerifyFacts) -> Option<(Step, String)> {
        match self {
            Self::Pending => None,
            Self::Recovered => Some((Step::Recover, recovered(facts))),
            Self::Failed(missing @ NotRecovered::NotTheBuild { .. }) => {
                Some((Step::Exonerate, format!("the rollback did not help: {missing}")))
            }
            Self::Failed(missing) => Some((Step::Escalate, format!("the rollback did not help: {missing}"))),
        }
    }
}

fn recovered(facts: &VerifyFacts) -> String {
    let cost = &facts.cost;
    if cost.requests == 0 {
        return format!(
            "the good build runs and the bad one is gone, {:.1} s after the hook; no request came meanwhile",
            facts.since_hook.as_secs_f64()
        );
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let first = facts.good_served_after.map_or_else(String::new, |after| {
        format!(" (its first request {:.1} s after the hook)", after.as_secs_f64())
    });
    let limit = cost.limit.map_or_else(String::new, |limit| format!(", {:.1} ms are allowed", ms(limit)));
    let sure = if cost.is_back || cost.limit.is_none() {
        ""
    } else {
        "; too few requests to prove it, and none of it contradicts"
    };
    format!(
        "the good build serves{first}, {:.1} ms per request over {} requests{limit}, {:.1} s after the hook{sure}",
        ms(cost.mean.unwrap_or_default()),
        cost.requests,
        facts.since_hook.as_secs_f64()
    )
}

impl VerifyFacts {
    pub fn record(&self) -> VerificationRecord {
        VerificationRecord {
            good_served_after: self.good_served_after,
            bad_served_until: self.bad_served_until,
            ended_after: self.since_hook,
            requests: self.cost.requests,
            mean_cpu: self.cost.mean,
            limit: self.cost.limit,
            baseline: self.cost.baseline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn facts() -> VerifyFacts {
        VerifyFacts {
            good_build_serves: true,
            bad_build_serves: false,
            newer_build: None,
            cost: Cost {
                requests: 40,
                mean: Some(50 * MS),
                limit: Some(62 * MS),
                baseline: Some(48 * MS),
                is_back: true,
                is_high: false,
            },
            good_served_after: Some(400 * MS),
            bad_served_until: None,
            since_hook: Duration::from_secs(10),
            verify_within: Duration::from_mins(5),
        }
    }

    fn with(change: impl FnOnce(&mut VerifyFacts)) -> Verification {
        let mut facts = facts();
        change(&mut facts);
        verify(&facts)
    }

    #[test]
    fn recovers_as_soon_as_everything_is_back() {
        assert_eq!(with(|_| ()), Verification::Recovered);
        assert_eq!(with(|f| f.since_hook = f.verify_within * 2), Verification::Recovered, "late is as well");
        let without_limit = with(|f| (f.cost.limit, f.cost.is_back) = (None, false));
        assert_eq!(without_limit, Verification::Recovered);
        let (step, said) = Verification::Recovered.conclusion(&facts()).unwrap();
        assert_eq!(step, Step::Recover);
        for part in
            ["first request 0.4 s", "50.0 ms per request over 40", "62.0 ms are allowed", "10.0 s after"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn waits_while_anything_is_missing_and_names_it_at_the_end() {
        type Change = fn(&mut VerifyFacts);
        let cases: [(Change, NotRecovered); 5] = [
            (|f| f.good_build_serves = false, NotRecovered::GoodBuildAbsent),
            (|f| f.bad_build_serves = true, NotRecovered::BadBuildServes),
            (|f| f.cost.requests = 4, NotRecovered::TooFewRequests { requests: 4 }),
            (|f| f.cost.mean = None, NotRecovered::TooFewRequests { requests: 40 }),
            (
                |f| (f.cost.mean, f.cost.is_back) = (Some(63 * MS), false),
                NotRecovered::StillExpensive { mean: 63 * MS, limit: 62 * MS },
            ),
        ];
        for (change, missing) in cases {
            assert_eq!(with(change), Verification::Pending, "{missing}");
            let at_end = with(|f| {
                change(f);
                f.since_hook = f.verify_within;
            });
            assert_eq!(at_end, Verification::Failed(missing.clone()));
            assert_eq!(at_end.conclusion(&facts()).unwrap().0, Step::Escalate, "{missing}");
        }
    }

    #[test]
    fn without_a_proof_the_mean_decides_at_the_end() {
        let unproven = |mean: Duration| {
            move |f: &mut VerifyFacts| {
                (f.cost.mean, f.cost.is_back, f.since_hook) = (Some(mean), false, f.verify_within);
            }
        };
        assert_eq!(with(unproven(62 * MS)), Verification::Recovered);
        let mut facts = facts();
        unproven(62 * MS)(&mut facts);
        let (_, said) = verify(&facts).conclusion(&facts).unwrap();
        assert!(said.contains("too few requests to prove it"), "{said}");
        facts.since_hook = Duration::from_secs(299);
        assert_eq!(verify(&facts), Verification::Pending, "there is still time for a proof");
    }

    #[test]
    fn a_good_build_that_is_as_dear_exonerates_the_bad_one() {
        let high = |f: &mut VerifyFacts| {
            (f.cost.mean, f.cost.is_back, f.cost.is_high) = (Some(200 * MS), false, true);
        };
        assert_eq!(with(high), Verification::Pending);
        let at_end = with(|f| {
            high(f);
            f.since_hook = f.verify_within;
        });
        assert!(matches!(at_end, Verification::Failed(NotRecovered::NotTheBuild { .. })), "{at_end:?}");
        let (step, said) = at_end.conclusion(&facts()).unwrap();
        assert_eq!(step, Step::Exonerate);
        assert!(said.contains("the cause was not the build"), "{said}");
    }

    #[test]
    fn a_release_is_undone_when_the_good_build_serves_alone_whatever_that_costs() {
        const QUIET: Duration = Duration::from_secs(3);
        let with = |bad_build_runs: bool, change: &dyn Fn(&mut VerifyFacts)| {
            let mut facts = facts();
            facts.cost = Cost { requests: 1, mean: Some(900 * MS), ..Cost::default() };
            facts.since_hook = Duration::from_secs(1);
            change(&mut facts);
            verify_release(&facts, bad_build_runs, QUIET)
        };
        let at_end = |f: &mut VerifyFacts| f.since_hook = f.verify_within;
        let nobody = |f: &mut VerifyFacts| f.cost = Cost::default();
        assert_eq!(with(false, &|_| ()), Verification::Recovered);
        // Its processes are there still: they must have got no request for a while.
        assert_eq!(with(true, &|_| ()), Verification::Pending);
        assert_eq!(with(true, &|f| f.since_hook = QUIET), Verification::Recovered);
        assert_eq!(
            with(true, &|f| (f.since_hook, f.bad_build_serves) = (QUIET, true)),
            Verification::Pending
        );
        let not_alone = with(true, &|f| {
            at_end(f);
            f.bad_build_serves = true;
        });
        assert_eq!(not_alone, Verification::Failed(NotRecovered::BadBuildServes));
        let absent = with(false, &|f| {
            at_end(f);
            f.good_build_serves = false;
        });
        assert_eq!(absent, Verification::Failed(NotRecovered::GoodBuildAbsent));
        assert_eq!(absent.conclusion(&facts()).unwrap().0, Step::Escalate);
        // Nobody came.
        assert_eq!(with(false, &nobody), Verification::Pending);
        let gone = with(false, &|f| (nobody(f), at_end(f)).1);
        assert_eq!(gone, Verification::Recovered);
        let none = VerifyFacts { cost: Cost::default(), ..facts() };
        let (_, said) = gone.conclusion(&none).unwrap();
        assert!(said.contains("no request came"), "{said}");
        let unknown = with(true, &|f| (nobody(f), at_end(f)).1);
        assert_eq!(unknown, Verification::Failed(NotRecovered::NoRequests));
    }

    #[test]
    fn a_deploy_during_the_rollback_is_named() {
        let superseded = with(|f| {
            f.good_build_serves = false;
            f.newer_build = Some("v3".into());
            f.since_hook = f.verify_within;
        });
        assert_eq!(superseded, Verification::Failed(NotRecovered::Superseded { newer_build: "v3".into() }));
        // Beside the good build it changes nothing.
        assert_eq!(with(|f| f.newer_build = Some("v3".into())), Verification::Recovered);
    }
}
