//! The judge with a second opinion.

use super::tests::{baseline, judge, mean_budget, relative_budget, traffic, until_exceeds, verdict};
use super::{Measure, NotMeasurable, Opinion, Verdict};
use crate::config::Budget;
use crate::estimate::{Answer, EndpointEstimate, Figure};
use crate::sequential::workload::{Login, Rng};

fn figure(mean_ms: f64, error_ms: f64) -> Figure {
    Figure { mean_ns: mean_ms * 1e6, centre_ns: mean_ms * 1e6, error_ns: error_ms * 1e6, degrees: 29.0 }
}

fn opinion(direct_ms: f64, confidence: f64, answer: Answer) -> Opinion {
    Opinion {
        confidence: Some(confidence),
        estimate: EndpointEstimate {
            uncharged: 0,
            endpoint: 1,
            requests: 1000,
            direct_mean_ns: Some(direct_ms * 1e6),
            answer,
        },
        uncharged_ns: 0.0,
        dearest_ns: direct_ms * 1e6,
        windows: 300,
        baseline: None,
    }
}

fn known(mean_ms: f64, error_ms: f64) -> Answer {
    Answer::Known { figure: figure(mean_ms, error_ms) }
}

/// A judge with a budget of `factor` times the usual mean that has seen `requests` usual requests.
fn seen(factor: f64, requests: usize) -> super::Judge {
    let mut judge = judge(&[("login", mean_budget(factor))], None);
    traffic(Login::USUAL, 7, 10).take(requests).for_each(|seen| judge.observe(&seen));
    judge
}

#[test]
fn an_estimate_over_budget_exceeds_where_attribution_had_to_guess() {
    let usual_ms = Login::mean_ms();
    let mut judge = seen(1.2, 500);
    judge.consult(vec![opinion(usual_ms, 0.6, known(2.0 * usual_ms, 0.05 * usual_ms))]);
    let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("{:?}", verdict(&judge)) };
    assert_eq!(evidence.measured_by, Measure::Estimate);
    assert!(evidence.log_evidence > evidence.log_bar, "{evidence:?}");
    assert!(
        evidence.sentence().contains("estimated from CPU time and counts, as only 60 %"),
        "{}",
        evidence.sentence()
    );
    let json = serde_json::to_value(&evidence).unwrap();
    assert_eq!((&json["measured_by"], &json["estimate"]["windows"]), (&"estimate".into(), &300.into()));
    // It stays, as every verdict of this kind, whatever a later look says.
    judge.consult(vec![opinion(usual_ms, 0.6, known(usual_ms, 0.05 * usual_ms))]);
    assert_eq!(verdict(&judge).label(), "exceeds");
}

#[test]
fn requests_that_are_only_counted_are_judged_by_the_estimate() {
    let usual_ms = Login::mean_ms();
    let counted = |estimate_ms: f64| {
        let mut judge = judge(&[("login", mean_budget(1.2))], None);
        judge.count(1, 600, 9_000_000_000);
        let mut opinion = opinion(0.0, 0.0, known(estimate_ms, 0.02 * usual_ms));
        opinion.confidence = None;
        opinion.estimate.uncharged = 1000;
        opinion.estimate.direct_mean_ns = None;
        judge.consult(vec![opinion]);
        (judge.requests(), verdict(&judge))
    };
    let (requests, over) = counted(2.0 * usual_ms);
    let Verdict::Exceeds { evidence } = over else { panic!("{over:?}") };
    assert_eq!((requests, evidence.requests, evidence.measured_by), (600, 600, Measure::Estimate));
    assert!(evidence.sentence().contains("came by HTTP/2"), "{}", evidence.sentence());
    let (_, within) = counted(usual_ms);
    assert_eq!(within.label(), "within", "{within:?}");
    let (_, near) = counted(1.19 * usual_ms);
    assert!(matches!(&near, Verdict::Undecided { evidence: Some(_), .. }), "{near:?}");
}

#[test]
fn a_loose_estimate_over_budget_decides_nothing() {
    let usual_ms = Login::mean_ms();
    let mut judge = seen(1.2, 500);
    // Above the budget by two standard errors only.
    judge.consult(vec![opinion(usual_ms, 0.6, known(1.5 * usual_ms, 0.15 * usual_ms))]);
    let Verdict::Undecided { .. } = verdict(&judge) else { panic!("{:?}", verdict(&judge)) };
}

#[test]
fn an_estimate_within_budget_is_within_and_direct_evidence_is_not_believed() {
    let usual_ms = Login::mean_ms();
    let mut judge = judge(&[("login", mean_budget(1.5))], None);
    assert!(until_exceeds(&mut judge, Login::with_mean(4.0), 3, 2000).is_some());
    judge.consult(vec![opinion(4.0 * usual_ms, 0.3, known(usual_ms, 0.05 * usual_ms))]);
    assert_eq!(verdict(&judge).label(), "within");
    // Sure again, and with an estimate that says the same.
    judge.consult(vec![opinion(4.0 * usual_ms, 0.95, known(3.9 * usual_ms, 0.1 * usual_ms))]);
    assert_eq!(verdict(&judge).label(), "exceeds");
}

#[test]
fn two_sure_measurements_that_contradict_each_other_are_no_measurement() {
    let usual_ms = Login::mean_ms();
    let mut judge = judge(&[("login", mean_budget(1.5))], None);
    assert!(until_exceeds(&mut judge, Login::with_mean(4.0), 3, 2000).is_some());
    judge.consult(vec![opinion(4.0 * usual_ms, 0.99, known(usual_ms, 0.05 * usual_ms))]);
    let said = verdict(&judge);
    assert!(
        matches!(said, Verdict::NotMeasurable { reason: NotMeasurable::Contradiction { .. } }),
        "{said:?}"
    );
    assert!(
        said.sentence().contains("two measurements of login contradict each other"),
        "{}",
        said.sentence()
    );
}

#[test]
fn without_a_sure_measurement_nothing_is_concluded() {
    let mut judge = judge(&[("login", mean_budget(1.5))], None);
    assert!(until_exceeds(&mut judge, Login::with_mean(4.0), 3, 2000).is_some());
    judge.consult(vec![opinion(4.0, 0.3, Answer::Windows { seen: 3, needed: 24 })]);
    let said = verdict(&judge);
    assert!(said.sentence().contains("3 of 24 windows"), "{}", said.sentence());
    assert_eq!(said.label(), "undecided");
    judge.consult(vec![opinion(4.0, 0.3, Answer::Even)]);
    let said = verdict(&judge);
    assert!(said.sentence().contains("the load hardly varies"), "{}", said.sentence());
    assert_eq!(said.label(), "not_measurable");
}

#[test]
fn an_unsure_endpoint_does_not_silence_the_others() {
    let budgets = [("browse", mean_budget(1.0)), ("login", mean_budget(1.2))];
    let mut judge = judge(&budgets, None);
    for mut seen in traffic(Login::with_mean(4.0), 5, 10).take(400) {
        seen.endpoint = 2;
        judge.observe(&seen);
    }
    let unsure = opinion(1.0, 0.2, known(1.0, 0.1));
    judge.consult(vec![unsure]);
    let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("{:?}", verdict(&judge)) };
    assert_eq!((evidence.endpoint.as_str(), evidence.measured_by), ("login", Measure::Direct));
}

#[test]
fn a_change_of_the_mix_is_not_the_builds_fault_for_the_estimate_either() {
    let baseline = baseline(10_000, 1000);
    let more = Login { successes: 0.95, ..Login::USUAL };
    // Successes cost the same as ever, there are more of them.
    let success_ms = Login::mean_ms() * 1.36;
    let both = Budget { vs_baseline: Some(1.2), ..mean_budget(1.2) };
    for budget in [relative_budget(1.2), both] {
        let mut judge = judge(&[("login", budget)], Some(&baseline));
        traffic(more, 11, 10).take(2000).for_each(|seen| judge.observe(&seen));
        judge.consult(vec![opinion(success_ms, 0.5, known(success_ms, 0.01 * success_ms))]);
        assert_ne!(verdict(&judge).label(), "exceeds", "{:?}", verdict(&judge));
    }
}

/// A build exactly at its budget, looked at every five seconds for an hour; the estimate as uncertain as it is in truth.
#[test]
fn a_build_at_its_budget_is_called_over_by_the_estimate_no_more_often_than_promised() {
    const RUNS: u64 = 200;
    let usual_ms = Login::mean_ms();
    let mut called = 0;
    for seed in 0..RUNS {
        let mut rng = Rng::new(seed);
        let mut judge = super::tests::judge_with_rate(&[("login", mean_budget(1.0))], 0.5);
        let mut requests = traffic(Login::USUAL, seed, 10);
        let mut error_sum = 0.0;
        for look in 1..=60_u32 {
            requests.by_ref().take(50).for_each(|seen| judge.observe(&seen));
            // Each look adds independent windows: a random walk, as the mean of a growing sample is.
            error_sum += rng.log_normal(1.0, 0.1).ln() * 3.0 * usual_ms;
            let looks = f64::from(look);
            let answer = known(usual_ms + error_sum / looks, 0.3 * usual_ms / looks.sqrt());
            judge.consult(vec![opinion(usual_ms, 0.5, answer)]);
        }
        called += u64::from(
            matches!(&verdict(&judge), Verdict::Exceeds { evidence } if evidence.measured_by == Measure::Estimate),
        );
    }
    // The estimate may use a tenth of the rate.
    let (promised, runs) = (0.05, RUNS as f64);
    let most = promised * runs + 3.0 * (promised * (1.0 - promised) * runs).sqrt();
    assert!((called as f64) <= most, "{called} of {RUNS}");
    assert!(called > 0, "a test that cannot fail");
}
