//! A good build that is known well enough only when the probation has begun: the comparison with it begins then.
//!
//! Its part of the capital was kept for it ([`Engine::begin`](crate::sequential::Engine::begin) says why that is valid), so
//! the promised rate of false rollbacks holds. Requests from before are not judged by it.

use super::judge::{Judge, outcomes_ns};
use super::plan::{Meaning, Plan};
use super::{BudgetKind, HostFacts};
use crate::aggregate::Baseline;
use crate::config::ServiceConfig;
use crate::sequential::Component;

impl Judge {
    /// Whether a comparison waits for a good build, and could begin.
    pub fn waits_for_baseline(&self) -> bool {
        let mut plans = self.endpoints.iter().map(|watched| &watched.plan);
        !self.is_decided() && plans.any(|plan| plan.waits_for_baseline() && plan.reserve > 0.0)
    }

    /// Begins the comparisons that `baseline` makes possible, with the budgets of `service`, which are those that the judge
    /// was made with. Whether there were any.
    pub fn take_up(&mut self, service: &ServiceConfig, baseline: &Baseline) -> bool {
        if !self.waits_for_baseline() {
            return false;
        }
        let host = HostFacts { cores: self.cores() };
        let Plan { endpoints, components, meanings, .. } =
            Plan::new(service, host, Some(baseline), self.engine.parameters());
        let mut taken_up = false;
        for (number, (watched, plan)) in (1u16..).zip(self.endpoints.iter_mut().zip(endpoints)) {
            let own = &mut watched.plan;
            if own.name != plan.name || !own.waits_for_baseline() {
                continue;
            }
            if plan.ratio.is_none() || own.reserve <= 0.0 {
                // How far it is.
                if plan.waits_for_baseline() {
                    own.missing = plan.missing;
                }
                continue;
            }
            let of_comparison = |(component, meaning): &(&Component, &Meaning)| {
                component.scope.endpoint == number && matches!(meaning.budget, BudgetKind::VsBaseline { .. })
            };
            let (mut begun, meant): (Vec<Component>, Vec<Meaning>) = components
                .iter()
                .zip(&meanings)
                .filter(of_comparison)
                .map(|(component, meaning)| (component.clone(), meaning.clone()))
                .unzip();
            let weight: f64 = begun.iter().map(|component| component.weight).sum();
            for component in &mut begun {
                component.weight *= own.reserve / weight;
            }
            let Ok(places) = self.engine.begin(begun) else { continue };
            for (place, meaning) in places.into_iter().zip(meant) {
                self.meanings.insert(place, meaning);
            }
            own.reserve = 0.0;
            own.classes = plan.classes;
            own.ratio = plan.ratio;
            own.scale_ns = own.scale_ns.or(plan.scale_ns);
            own.baseline = plan.baseline;
            own.warm_up_is_known = plan.warm_up_is_known;
            own.missing = plan.missing;
            // Those of an outcome are the comparison's.
            own.claims.extend(plan.claims.into_iter().filter(|claim| claim.class.is_some()));
            watched.baseline_ns = outcomes_ns(Some(baseline), &own.name);
            taken_up = true;
        }
        taken_up
    }

    fn is_decided(&self) -> bool {
        self.is_over() || self.over_budget.is_some() || self.estimated.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        baseline, judge, mean_budget, relative_budget, service, traffic, until_exceeds, verdict,
    };
    use super::*;
    use crate::config::Budget;
    use crate::sequential::workload::{Login, median_and_p95};
    use crate::verdict::{Missing, Verdict};

    fn both() -> Budget {
        Budget { vs_baseline: Some(1.3), ..mean_budget(10.0) }
    }

    /// A judge that has seen `requests` of a good build's requests without anything to compare them with.
    fn uncompared(budget: &Budget, requests: usize) -> Judge {
        let mut judge = judge(&[("login", budget.clone())], None);
        traffic(Login::USUAL, 99, 10).take(requests).for_each(|seen| judge.observe(&seen));
        judge
    }

    /// Requests that are said to be known of a good build.
    fn known_of_one(judge: &Judge) -> Option<u64> {
        let Verdict::Undecided { missing, .. } = verdict(judge) else { panic!("{:?}", verdict(judge)) };
        missing.iter().find_map(|missing| match missing {
            Missing::Baseline { requests, .. } => Some(*requests),
            _ => None,
        })
    }

    #[test]
    fn a_dear_build_is_found_once_there_is_something_to_compare_it_with() {
        let known = baseline(2_000, 1000);
        for budget in [relative_budget(1.3), both()] {
            let configured = service(&[("login", budget.clone())]);
            let mut delays = Vec::new();
            for seed in 0..40 {
                let mut judge = uncompared(&budget, 300);
                assert!(judge.waits_for_baseline());
                assert_eq!(
                    until_exceeds(&mut judge, Login::with_mean(2.0), seed, 200),
                    None,
                    "nothing says so"
                );
                let before = judge.log_evidence();
                assert!(judge.take_up(&configured, &known) && !judge.waits_for_baseline());
                assert_eq!(judge.log_evidence(), before);
                assert!(!judge.take_up(&configured, &known), "once");
                let seen = judge.requests();
                until_exceeds(&mut judge, Login::with_mean(2.0), seed, 2_000).expect("it is found");
                delays.push(judge.requests() - seen);
                let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("it stays") };
                assert!(matches!(evidence.budget, BudgetKind::VsBaseline { .. }), "{evidence:?}");
                assert_eq!(evidence.baseline.map(|of| of.build), Some("good".into()));
            }
            // Known from the start it takes 10; half of the capital costs ln 2, and so does a stake that is not renewed.
            let (median, p95) = median_and_p95(delays);
            assert!(median <= 16 && p95 <= 40, "{median} / {p95}");
        }
    }

    #[test]
    fn a_good_build_stays_and_is_within_only_after_the_comparison() {
        let known = baseline(2_000, 1000);
        let configured = service(&[("login", both())]);
        let mut judge = uncompared(&both(), 3_000);
        assert_eq!(known_of_one(&judge), Some(0));
        // Of one that is known too little, it is said how much.
        assert!(!judge.take_up(&configured, &baseline(150, 1)));
        assert_eq!(known_of_one(&judge), Some(150));
        assert!(judge.take_up(&configured, &known));
        assert_eq!(verdict(&judge).label(), "undecided", "nothing was compared yet");
        traffic(Login::USUAL, 5, 10).take(3_000).for_each(|seen| judge.observe(&seen));
        assert_eq!(verdict(&judge).label(), "within");
    }

    #[test]
    fn a_build_at_the_allowed_ratio_is_called_over_no_more_often_than_promised() {
        const RUNS: u64 = 150;
        let mut configured = service(&[("login", relative_budget(1.3))]);
        configured.false_rollback_rate = 0.05;
        let at_the_limit = Login { slow_down: 1.3, ..Login::USUAL };
        let called = (0..RUNS).filter(|&seed| {
            let probation = super::super::Probation::new("new".into(), 0);
            let mut judge = Judge::new(&configured, probation, HostFacts { cores: 4.0 }, None);
            traffic(at_the_limit, 500 + seed, 10).take(100).for_each(|seen| judge.observe(&seen));
            assert!(judge.take_up(&configured, &baseline(2_000, 10_000 + seed)));
            until_exceeds(&mut judge, at_the_limit, seed, 1_000).is_some()
        });
        // 7.5 expected at most; three standard deviations are 8 more.
        let called = called.count();
        assert!(called <= 15, "{called} of {RUNS}");
    }

    #[test]
    fn a_judge_that_took_up_a_baseline_survives_json_and_an_older_one_waits_for_ever() {
        let configured = service(&[("login", both())]);
        let mut judge = uncompared(&both(), 20);
        assert!(judge.take_up(&configured, &baseline(2_000, 1000)));
        traffic(Login::USUAL, 5, 10).take(50).for_each(|seen| judge.observe(&seen));
        let text = serde_json::to_string(&judge).unwrap();
        assert_eq!(serde_json::from_str::<Judge>(&text).unwrap(), judge);
        // One that was kept before there were reserves: its capital is all on what it had.
        let mut older = uncompared(&mean_budget(1.5), 20);
        older.endpoints[0].plan.missing =
            Some(Missing::Baseline { endpoint: "login".into(), requests: 0, needed: 200 });
        assert!(!older.waits_for_baseline() && !older.take_up(&configured, &baseline(2_000, 1000)));
    }
}
