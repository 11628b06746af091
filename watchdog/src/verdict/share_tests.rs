//! The share of the host at peak: rates that are learned, cores that change.

use std::time::Duration;

use super::tests::service;
use super::{BudgetKind, HostFacts, Judge, Measurability, Missing, Observation, Probation, Verdict};
use crate::aggregate::Age;
use crate::config::Budget;
use crate::model::StatusClass;

const HOST: HostFacts = HostFacts { cores: 4.0 };

#[test]
fn a_peak_that_is_not_known_yet_is_missing_and_not_guessed() {
    let mut budget = Budget { learn_peak_rate: true, max_host_share: Some(0.25), ..Budget::default() };
    let judge = |budget: &Budget| {
        Judge::new(&service(&[("login", budget.clone())]), Probation::new("new".into(), 0), HOST, None)
    };
    let unknown = judge(&budget).verdict(&Measurability::default());
    let Verdict::Undecided { missing, .. } = &unknown else { panic!("{unknown:?}") };
    assert!(missing.contains(&Missing::PeakRate { endpoint: "login".into() }), "{missing:?}");
    assert!(unknown.sentence().contains("too little traffic history"), "{}", unknown.sentence());
    assert_eq!(judge(&budget).endpoints().next().unwrap().limit_cpu_seconds, None);
    // Learned: 0.25 of 4 cores at 40 a second.
    budget.peak_rate = Some(40.0);
    assert_eq!(judge(&budget).endpoints().next().unwrap().limit_cpu_seconds, Some(0.025));
}

#[test]
fn a_quota_that_changes_in_the_middle_changes_the_limit_from_the_next_request_on() {
    let budget = Budget {
        mean_cpu: Some(Duration::from_millis(200)),
        peak_rate: Some(40.0),
        max_host_share: Some(0.5),
        ..Budget::default()
    };
    let configured = service(&[("login", budget)]);
    let start = |cores| Judge::new(&configured, Probation::new("new".into(), 0), HostFacts { cores }, None);
    let limit = |judge: &Judge| judge.endpoints().next().unwrap().limit_cpu_seconds.unwrap();
    let feed = |judge: &mut Judge, ms: u64, count: u64| {
        for n in 0..count {
            let class = StatusClass::Success;
            let end_mono_ns = n * 100_000_000;
            let age = Age::Older;
            judge.observe(&Observation {
                end_mono_ns,
                cpu_ns: ms * 1_000_000,
                count: 1,
                endpoint: 1,
                class,
                status: 200,
                age,
            });
        }
    };
    let mut judge = start(4.0);
    assert!((limit(&judge) - 0.050).abs() < 1e-12);
    feed(&mut judge, 30, 2000);
    assert!(matches!(judge.verdict(&Measurability::default()), Verdict::Within { .. }));
    // Half the cores: what was shown of 50 ms says nothing of 25, and the same requests are over it.
    judge.set_cores(2.0);
    assert!((limit(&judge) - 0.025).abs() < 1e-12);
    assert!(matches!(judge.verdict(&Measurability::default()), Verdict::Undecided { .. }));
    feed(&mut judge, 60, 60);
    let verdict = judge.verdict(&Measurability::default());
    let Verdict::Exceeds { evidence } = &verdict else { panic!("{verdict:?}") };
    assert!((evidence.limit_cpu_seconds - 0.025).abs() < 1e-12, "{evidence:?}");

    // With so many cores that the other budget is the stricter one, that is what it is judged by.
    let mut judge = start(4.0);
    judge.set_cores(64.0);
    assert!((limit(&judge) - 0.2).abs() < 1e-12);
    feed(&mut judge, 900, 60);
    let verdict = judge.verdict(&Measurability::default());
    assert_eq!(verdict.evidence().unwrap().budget, BudgetKind::MeanCpu);
    // The same as if it had always been so.
    let mut fresh = start(2.0);
    let mut changed = start(4.0);
    changed.set_cores(2.0);
    feed(&mut fresh, 60, 60);
    feed(&mut changed, 60, 60);
    assert!((fresh.log_evidence().0 - changed.log_evidence().0).abs() < 1e-9);
}
