//! What a judge says of how far it is, held against what then happens.

use super::tests::{baseline, judge, mean_budget, relative_budget, traffic, verdict};
use super::{Judge, Observation, Verdict};
use crate::aggregate::Age;
use crate::config::Budget;
use crate::model::StatusClass;
use crate::sequential::Conditions;
use crate::sequential::workload::Login;

const S: u64 = 1_000_000_000;

fn feed(judge: &mut Judge, seconds: std::ops::Range<u64>, ms: u64) {
    for second in seconds {
        judge.observe(&Observation {
            end_mono_ns: (1 + second) * S,
            cpu_ns: ms * 1_000_000,
            count: 1,
            endpoint: 1,
            class: StatusClass::Success,
            status: 200,
            age: Age::Older,
        });
    }
}

#[test]
fn nothing_is_guessed_before_there_are_requests() {
    let judge = judge(&[("login", mean_budget(1.1))], None);
    let progress = judge.progress();
    assert!(progress.log_evidence.abs() < 1e-12 && (progress.log_missing - progress.log_bar).abs() < 1e-12);
    assert_eq!((progress.requests, progress.to_exceed, progress.to_clear), (0, None, Vec::new()));
}

#[test]
fn what_is_told_of_a_dear_build_comes_true() {
    // The budget is 98 ms.
    for (ms, seen) in [(160, 6), (160, 12), (300, 5)] {
        let mut judge = judge(&[("login", mean_budget(1.1))], None);
        feed(&mut judge, 0..seen, ms);
        let progress = judge.progress();
        assert_eq!((progress.requests, progress.judged, &progress.to_clear), (seen, seen, &Vec::new()));
        let told = progress.to_exceed.expect("it goes one way").requests;
        let needed = (1..500).find(|more| {
            feed(&mut judge, seen + more - 1..seen + more, ms);
            matches!(verdict(&judge), Verdict::Exceeds { .. })
        });
        let needed = needed.expect("it is found");
        // Those bets that are not counted on help a little.
        assert!(
            told >= needed && told <= needed + 2 + needed / 4,
            "{ms} ms, {seen} seen: {told} told, {needed} needed"
        );
        let progress = judge.progress();
        assert!(progress.log_missing < 1e-12 && progress.to_exceed.is_none(), "{progress:?}");
    }
}

#[test]
fn what_is_told_of_a_good_build_comes_true_with_the_same_mix() {
    let baseline = baseline(5_000, 3);
    let budget = Budget { vs_baseline: Some(1.3), ..mean_budget(1.5) };
    let (mut told, mut needed) = (Vec::new(), Vec::new());
    for seed in 0..30 {
        let mut judge = judge(&[("login", budget.clone())], Some(&baseline));
        let mut requests = traffic(Login::USUAL, seed, 10);
        requests.by_ref().take(30).for_each(|seen| judge.observe(&seen));
        let progress = judge.progress();
        let Some(to_go) = progress.to_clear.first() else { continue };
        let cleared = requests.take(3_000).position(|seen| {
            judge.observe(&seen);
            matches!(verdict(&judge), Verdict::Within { .. })
        });
        if let Some(more) = cleared {
            told.push(to_go.requests as f64);
            needed.push(more as f64 + 1.0);
        }
    }
    assert!(told.len() >= 15, "{} of 30 could be told", told.len());
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (told, needed) = (median(&mut told), median(&mut needed));
    assert!(told / needed > 0.5 && told / needed < 2.0, "{told} told, {needed} needed");
}

#[test]
fn a_budget_that_cannot_be_judged_leaves_no_number_for_within() {
    let budget = Budget { vs_baseline: Some(1.3), ..mean_budget(2.0) };
    let mut judge = judge(&[("login", budget)], None);
    feed(&mut judge, 0..30, 40);
    assert_eq!(judge.progress().to_clear, Vec::new());
    assert!(!matches!(verdict(&judge), Verdict::Within { .. }));
}

#[test]
fn requests_of_a_warm_up_bring_nobody_nearer_to_within() {
    let mut judge = judge(&[("login", mean_budget(1.1))], None);
    judge.set_conditions(Conditions::new(4.0, 1.0));
    feed(&mut judge, 0..30, 40);
    let progress = judge.progress();
    assert_eq!((progress.requests, progress.to_clear), (30, Vec::new()));
    judge.set_conditions(Conditions::NORMAL);
    feed(&mut judge, 30..60, 40);
    assert!(!judge.progress().to_clear.is_empty());
}

#[test]
fn a_late_regression_is_told_by_what_came_since_it_began() {
    let mut judge = judge(&[("login", mean_budget(1.1))], None);
    feed(&mut judge, 0..3600, 70);
    let before = judge.evidence().unwrap();
    assert_eq!(before.since, None, "nothing began");
    feed(&mut judge, 3600..3700, 200);
    let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("{:?}", verdict(&judge)) };
    let since = evidence.since.as_ref().expect("it began late");
    assert_eq!(since.second, 3600);
    assert!((since.mean_cpu_seconds - 0.2).abs() < 1e-9 && evidence.mean_cpu_seconds < 0.075, "{evidence:?}");
    let text = evidence.sentence();
    assert!(text.contains("has needed about 200 ms CPU per login since 1 h after it came"), "{text}");
    assert!(text.contains(&format!("{} logins since then were enough", since.requests)), "{text}");
}

#[test]
fn a_build_that_was_bad_from_the_start_has_no_late_one() {
    let baseline = baseline(5_000, 4);
    for seed in 0..20 {
        let mut judge = judge(&[("login", relative_budget(1.1))], Some(&baseline));
        for seen in traffic(Login::with_mean(1.5), seed, 1).take(400) {
            judge.observe(&seen);
            if let Verdict::Exceeds { evidence } = verdict(&judge) {
                // A minute in, a start by chance may still be told; it must not be told of the first minute.
                assert!(evidence.since.is_none() || evidence.second > 60, "{evidence:?}");
                break;
            }
        }
    }
}
