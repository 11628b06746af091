//! The judge on seeded traffic.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    BudgetKind, HostFacts, Judge, Measurability, Missing, NotMeasurable, Observation, Outcome, Probation,
    Verdict,
};
use crate::aggregate::{Age, Baseline, BuildAggregate};
use crate::config::{Budget, BuildSource, EndpointConfig, Match, Mode, Protocol, ServiceConfig};
use crate::model::{StatusClass, Uprobes};
use crate::sequential::workload::{Login, Rng, median_and_p95};

const HOST: HostFacts = HostFacts { cores: 4.0 };
const MS: f64 = 1e6;

pub(super) fn service(budgets: &[(&str, Budget)]) -> ServiceConfig {
    let endpoint = |(name, budget): &(&str, Budget)| EndpointConfig {
        name: (*name).into(),
        method: None,
        path: format!("/{name}"),
        control: false,
        budget: budget.clone(),
    };
    ServiceConfig {
        name: "web".into(),
        matcher: Match::default(),
        build: BuildSource::Auto,
        protocol: Protocol::Auto,
        uprobes: Uprobes::NONE,
        warmup_factor: None,
        mode: Mode::Enforce,
        guard_for: Duration::from_hours(24),
        false_rollback_rate: 1e-3,
        endpoints: budgets.iter().map(endpoint).collect(),
        release_window: None,
        rollback: None,
    }
}

pub(super) fn mean_budget(factor: f64) -> Budget {
    Budget { mean_cpu: Some(Duration::from_secs_f64(factor * Login::mean_ms() * 1e-3)), ..Budget::default() }
}

pub(super) fn relative_budget(ratio: f64) -> Budget {
    Budget { vs_baseline: Some(ratio), ..Budget::default() }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a request")]
fn ns(ms: f64) -> u64 {
    (ms * MS) as u64
}

/// `rate` requests per second on the first endpoint.
pub(super) fn traffic(login: Login, seed: u64, rate: u64) -> impl Iterator<Item = Observation> {
    let mut rng = Rng::new(seed);
    (0..).map(move |n: u64| {
        let (class, ms) = login.draw(&mut rng);
        let end_mono_ns = 1_000_000_000 + n * (1_000_000_000 / rate);
        Observation { end_mono_ns, cpu_ns: ns(ms), count: 1, endpoint: 1, class, status: 0, age: Age::Older }
    })
}

pub(super) fn baseline(requests: usize, seed: u64) -> Baseline {
    let mut aggregate = BuildAggregate::default();
    let endpoint = aggregate.endpoint_mut(&"login".into());
    for seen in traffic(Login::USUAL, seed, 10).take(requests) {
        endpoint.record(seen.class, seen.cpu_ns, seen.count);
    }
    Baseline::new("good".into(), aggregate)
}

pub(super) fn judge(budgets: &[(&str, Budget)], baseline: Option<&Baseline>) -> Judge {
    Judge::new(&service(budgets), Probation::new("new".into(), 1_000_000_000), HOST, baseline)
}

/// Without a baseline.
pub(super) fn judge_with_rate(budgets: &[(&str, Budget)], false_rollback_rate: f64) -> Judge {
    let service = ServiceConfig { false_rollback_rate, ..service(budgets) };
    Judge::new(&service, Probation::new("new".into(), 1_000_000_000), HOST, None)
}

pub(super) fn verdict(judge: &Judge) -> Verdict {
    judge.verdict(&Measurability::default())
}

/// Requests until the build is called over budget.
pub(super) fn until_exceeds(judge: &mut Judge, login: Login, seed: u64, most: usize) -> Option<u64> {
    traffic(login, seed, 10).take(most).find_map(|seen| {
        judge.observe(&seen);
        let (evidence, bar) = judge.log_evidence();
        // Asking for the verdict each time would be most of the run.
        match (evidence >= bar).then(|| verdict(judge)) {
            Some(Verdict::Exceeds { evidence }) => Some(evidence.requests),
            _ => None,
        }
    })
}

#[test]
fn slower_builds_are_found_against_the_baseline() {
    let baseline = baseline(10_000, 1000);
    // The note has 33/68, 8/16 and about 5/7 for a baseline of this size and a ratio of 1.1.
    for (factor, median_range, p95_most) in [(1.5, 24..=45, 90), (2.0, 6..=10, 20), (4.0, 5..=6, 9)] {
        let delays = (0..100)
            .map(|seed| {
                let mut judge = judge(&[("login", relative_budget(1.1))], Some(&baseline));
                until_exceeds(&mut judge, Login::with_mean(factor), seed, 2000).expect("it is found")
            })
            .collect();
        let (median, p95) = median_and_p95(delays);
        assert!(median_range.contains(&median) && p95 <= p95_most, "{factor} times: {median} / {p95}");
    }
}

#[test]
fn slower_builds_are_found_without_a_baseline() {
    for (factor, median_range) in [(2.0, 34..=48), (4.0, 11..=18)] {
        let delays = (0..100)
            .map(|seed| {
                let mut judge = judge(&[("login", mean_budget(1.1))], None);
                until_exceeds(&mut judge, Login::with_mean(factor), seed, 2000).expect("it is found")
            })
            .collect();
        let (median, _) = median_and_p95(delays);
        assert!(median_range.contains(&median), "{factor} times: {median}");
    }
}

#[test]
fn the_same_code_deployed_again_is_never_called_over() {
    let mut cleared = 0;
    for seed in 0..40 {
        let baseline = baseline(2_000, 500 + seed);
        let budget = Budget { vs_baseline: Some(1.3), ..mean_budget(1.3) };
        let mut judge = judge(&[("login", budget)], Some(&baseline));
        for seen in traffic(Login::USUAL, seed, 10).take(3_000) {
            judge.observe(&seen);
        }
        let figures = judge.endpoints().next().unwrap();
        assert_eq!(figures.requests, 3_000);
        assert!((0.70..0.90).contains(&figures.budget_ratio.unwrap()), "{figures:?}");
        match verdict(&judge) {
            Verdict::Within { evidence } => {
                cleared += 1;
                assert!(evidence.outcome_requests > 500, "it is about what was seen: {evidence:?}");
            }
            Verdict::Undecided { .. } => {}
            other => panic!("seed {seed}: {}", other.sentence()),
        }
    }
    assert!(cleared >= 36, "{cleared} of 40 were cleared");
}

#[test]
fn another_mix_of_requests_is_not_the_builds_fault() {
    let baseline = baseline(10_000, 7);
    for seed in 0..10 {
        let mut judge = judge(&[("login", mean_budget(1.1))], Some(&baseline));
        for seen in traffic(Login { successes: 0.95, ..Login::USUAL }, seed, 10).take(4_000) {
            judge.observe(&seen);
        }
        let verdict = verdict(&judge);
        assert_eq!(verdict.label(), "over_budget_unattributed", "{}", verdict.sentence());
        assert!(verdict.sentence().contains("not attributed to the build"), "{}", verdict.sentence());
    }
}

#[test]
fn a_build_that_is_slower_and_over_the_absolute_budget_is_confirmed_by_its_outcomes() {
    let baseline = baseline(10_000, 8);
    let delays = (0..60)
        .map(|seed| {
            let mut judge = judge(&[("login", mean_budget(1.1))], Some(&baseline));
            until_exceeds(&mut judge, Login::with_mean(2.0), seed, 2000).expect("it is found")
        })
        .collect();
    let (median, _) = median_and_p95(delays);
    assert!((30..=55).contains(&median), "{median}");
}

#[test]
fn a_build_that_answers_with_dear_errors_does_not_escape_for_lack_of_comparison() {
    let baseline = baseline(10_000, 9);
    let budget = Budget { vs_baseline: Some(1.3), ..mean_budget(1.3) };
    let mut judge = judge(&[("login", budget)], Some(&baseline));
    for n in 0..60 {
        let end_mono_ns = 1_000_000_000 + n * 100_000_000;
        let class = StatusClass::ServerError;
        judge.observe(&Observation {
            end_mono_ns,
            cpu_ns: ns(400.0),
            count: 1,
            endpoint: 1,
            class,
            status: 0,
            age: Age::Older,
        });
    }
    let verdict = verdict(&judge);
    assert_eq!(verdict.label(), "exceeds", "{}", verdict.sentence());
}

#[test]
fn the_host_share_is_a_limit_of_the_mean() {
    // 0.25 of 4 cores at 40 per second is 25 ms.
    let budget = Budget { peak_rate: Some(40.0), max_host_share: Some(0.25), ..mean_budget(1.1) };
    let mut judge = judge(&[("login", budget)], None);
    until_exceeds(&mut judge, Login::USUAL, 3, 500).expect("89 ms are over 25 ms");
    let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("it exceeds") };
    assert!((evidence.limit_cpu_seconds - 0.025).abs() < 1e-12);
    assert!(matches!(evidence.budget, BudgetKind::HostShare { .. }));
    let share = evidence.projected_host_share.unwrap();
    assert!((share / (evidence.mean_cpu_seconds * 10.0) - 1.0).abs() < 1e-9, "{share}");
}

#[test]
fn a_quantile_budget_is_judged_and_cleared() {
    let p99 = |ms| Budget { quantile_cpu: vec![(0.99, Duration::from_millis(ms))], ..Budget::default() };
    let mut over = judge(&[("login", p99(200))], None);
    let found = until_exceeds(&mut over, Login::with_mean(2.0), 1, 500).expect("most are above 200 ms");
    assert!(found <= 8, "{found}");
    let Verdict::Exceeds { evidence } = verdict(&over) else { panic!("it exceeds") };
    assert!(evidence.sentence().contains("the budget allows 1 %"), "{}", evidence.sentence());

    let mut within = judge(&[("login", p99(2_000))], None);
    traffic(Login::USUAL, 1, 10).take(1_500).for_each(|seen| within.observe(&seen));
    assert_eq!(verdict(&within).label(), "within");
}

#[test]
fn one_bad_endpoint_of_many_is_found() {
    let names: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    let budgets: Vec<(&str, Budget)> = names.iter().map(|name| (name.as_str(), mean_budget(1.1))).collect();
    let delays = (0..30)
        .map(|seed| {
            let mut judge = judge(&budgets, None);
            let mut rng = Rng::new(seed);
            let evidence = (0..6_000u64).find_map(|n| {
                let endpoint = u16::try_from(n % 20).unwrap() + 1;
                let login = if endpoint == 8 { Login::with_mean(2.0) } else { Login::USUAL };
                let (class, ms) = login.draw(&mut rng);
                let end_mono_ns = 1_000_000_000 + n * 50_000_000;
                judge.observe(&Observation {
                    end_mono_ns,
                    cpu_ns: ns(ms),
                    count: 1,
                    endpoint,
                    class,
                    status: 0,
                    age: Age::Older,
                });
                let (evidence, bar) = judge.log_evidence();
                match (evidence >= bar).then(|| verdict(&judge)) {
                    Some(Verdict::Exceeds { evidence }) => Some(evidence),
                    _ => None,
                }
            });
            let evidence = evidence.expect("it is found");
            assert_eq!((evidence.endpoint.as_str(), evidence.outcome), ("e7", Outcome::All));
            evidence.requests
        })
        .collect();
    // The note has 54 of that endpoint's requests.
    let (median, p95) = median_and_p95(delays);
    assert!((42..=75).contains(&median) && p95 < 150, "{median} / {p95}");
}

#[test]
fn what_could_not_be_measured_never_exceeds() {
    let mut judge = judge(&[("login", mean_budget(1.1))], None);
    until_exceeds(&mut judge, Login::with_mean(4.0), 1, 500).expect("it is found");
    let of = |measured: Measurability| judge.verdict(&measured);
    let good = Measurability { coverage: Some(0.95), min_coverage: 0.8, ..Measurability::default() };
    assert_eq!(of(good.clone()).label(), "exceeds");

    let low = of(Measurability { coverage: Some(0.79), ..good.clone() });
    assert!(matches!(low, Verdict::NotMeasurable { reason: NotMeasurable::Coverage { .. } }));
    assert!(low.sentence().contains("only 79 %"), "{}", low.sentence());
    let odd = of(Measurability { coverage: Some(f64::NAN), ..good.clone() });
    assert_eq!(odd.label(), "not_measurable");
    let lost = of(Measurability { lost_requests: 100, ..good.clone() });
    assert!(matches!(lost, Verdict::NotMeasurable { reason: NotMeasurable::Lost { lost: 100, .. } }));
    let blind = of(Measurability { blind: Some("connections speak TLS".into()), ..good });
    assert_eq!(blind.sentence(), "not measurable: connections speak TLS");
}

#[test]
fn an_undecided_build_says_what_is_missing() {
    let missing = |judge: &Judge| match verdict(judge) {
        Verdict::Undecided { missing, .. } => missing,
        other => panic!("{}", other.sentence()),
    };
    assert_eq!(missing(&judge(&[("login", Budget::default())], None)), [Missing::Budget]);
    let mut relative = judge(&[("login", relative_budget(1.3))], Some(&baseline(150, 1)));
    let no_baseline = Missing::Baseline { endpoint: "login".into(), requests: 150, needed: 200 };
    assert_eq!(missing(&relative), [Missing::Requests { endpoint: "login".into() }, no_baseline.clone()]);
    // However slow: there is nothing to compare it with.
    traffic(Login::with_mean(20.0), 1, 10).take(500).for_each(|seen| relative.observe(&seen));
    assert_eq!(missing(&relative), [no_baseline]);

    let mut absolute = judge(&[("login", mean_budget(1.0))], None);
    traffic(Login::USUAL, 1, 10).take(20).for_each(|seen| absolute.observe(&seen));
    assert_eq!(missing(&absolute), [Missing::Evidence { requests: 20 }]);
    let evidence = absolute.evidence().unwrap();
    let (lower, upper) = evidence.interval_cpu_seconds.unwrap();
    assert!(lower < 0.089 && 0.089 < upper && lower > 0.01, "{lower} to {upper}");
}

#[test]
fn a_recorded_run_replays_bit_for_bit() {
    let baseline = baseline(2_000, 2);
    let budgets = [("login", Budget { vs_baseline: Some(1.3), ..mean_budget(1.2) })];
    let recorded: Vec<Observation> = traffic(Login::with_mean(2.0), 4, 10).take(200).collect();
    let mut first = judge(&budgets, Some(&baseline));
    for seen in &recorded {
        first.observe(seen);
    }

    // The second comes from JSON: recording, baseline and, after every request, the judge itself.
    let through_json = serde_json::to_string(&recorded).unwrap();
    let replayed: Vec<Observation> = serde_json::from_str(&through_json).unwrap();
    let baseline: Baseline = serde_json::from_str(&serde_json::to_string(&baseline).unwrap()).unwrap();
    let mut second = judge(&budgets, Some(&baseline));
    for seen in &replayed {
        second.observe(seen);
        second = serde_json::from_str(&serde_json::to_string(&second).unwrap()).unwrap();
    }
    let bits = |judge: &Judge| serde_json::to_string(&(judge.evidence(), verdict(judge))).unwrap();
    assert_eq!(bits(&first), bits(&second));
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
    assert_eq!(verdict(&first).label(), "exceeds");
}

#[test]
fn the_deciding_request_is_the_one_in_the_evidence() {
    let mut judge = judge(&[("login", mean_budget(1.1))], None);
    let mut deciding = None;
    for seen in traffic(Login::with_mean(4.0), 6, 10).take(200) {
        judge.observe(&seen);
        if deciding.is_none() && verdict(&judge).label() == "exceeds" {
            deciding = Some(seen);
        }
    }
    let deciding = deciding.expect("it is found");
    let Verdict::Exceeds { evidence } = verdict(&judge) else { panic!("it stays") };
    assert_eq!(evidence.last_end_mono_ns, deciding.end_mono_ns);
    assert_eq!(evidence.second, (deciding.end_mono_ns - 1_000_000_000) / 1_000_000_000);
    assert!(evidence.log_evidence >= evidence.log_bar && evidence.requests < 200);
    let (lower, upper) = evidence.interval_cpu_seconds.unwrap();
    assert!(lower < evidence.mean_cpu_seconds && evidence.mean_cpu_seconds < upper);
}

#[test]
fn other_endpoints_and_continuations_are_not_judged() {
    let mut judge = judge(&[("login", mean_budget(1.1))], None);
    let before = judge.clone();
    for endpoint in [0, 2, u16::MAX] {
        let class = StatusClass::Success;
        judge.observe(&Observation {
            end_mono_ns: 5,
            cpu_ns: ns(9_999.0),
            count: 1,
            endpoint,
            class,
            status: 0,
            age: Age::Older,
        });
        judge.continuation(endpoint, class, 1);
    }
    assert_eq!(judge, before);
}

#[test]
fn a_build_at_the_allowed_ratio_is_called_over_no_more_often_than_promised() {
    const RUNS: u64 = 150;
    let mut config = service(&[("login", relative_budget(1.3))]);
    config.false_rollback_rate = 0.05;
    let at_the_limit = Login { slow_down: 1.3, ..Login::USUAL };
    let called = (0..RUNS).filter(|&seed| {
        let baseline = baseline(2_000, 10_000 + seed);
        let mut judge = Judge::new(&config, Probation::new("new".into(), 0), HOST, Some(&baseline));
        until_exceeds(&mut judge, at_the_limit, seed, 1_000).is_some()
    });
    let called = called.count();
    // 7.5 expected at most; three standard deviations are 8 more.
    assert!(called <= 15, "{called} of {RUNS}");
    // A step further and it shows.
    let baseline = baseline(2_000, 10_000);
    let mut judge = Judge::new(&config, Probation::new("new".into(), 0), HOST, Some(&baseline));
    let over = Login { slow_down: 1.3 * 1.25, ..Login::USUAL };
    assert!(until_exceeds(&mut judge, over, 1, 2_000).is_some());
}

proptest! {
    #[test]
    fn no_budget_and_no_baseline_makes_a_judge_fall_over(
        mean_ns in prop::option::of(0..u64::MAX), quantile in prop::option::of((-0.5..1.5f64, 0..u64::MAX)),
        figures in prop::collection::vec(prop::option::of(any::<f64>()), 3),
        cores in any::<f64>(), requests in prop::collection::vec((0u16..6, any::<u64>(), 0u64..300), 0..8),
    ) {
        let budget = Budget {
            mean_cpu: mean_ns.map(Duration::from_nanos),
            quantile_cpu: quantile.into_iter().map(|(p, ns)| (p, Duration::from_nanos(ns))).collect(),
            vs_baseline: figures[0],
            peak_rate: figures[1],
            learn_peak_rate: false,
            max_host_share: figures[2],
        };
        let mut aggregate = BuildAggregate::default();
        for &(class, cpu_ns, count) in &requests {
            aggregate.endpoint_mut(&"login".into()).record(StatusClass::of_index(class), cpu_ns, count);
        }
        let baseline = Baseline::new("good".into(), aggregate);
        let service = service(&[("login", budget.clone()), ("search", budget)]);
        let mut judge = Judge::new(&service, Probation::new("new".into(), 0), HostFacts { cores }, Some(&baseline));
        for &(class, cpu_ns, count) in &requests {
            let class = StatusClass::of_index(class);
            judge.observe(&Observation { end_mono_ns: cpu_ns, cpu_ns, count, endpoint: 1, class, status: 0, age: Age::Older });
        }
        prop_assert!(!verdict(&judge).sentence().is_empty());
        prop_assert!(judge.log_evidence().0 >= 0.0 && judge.log_evidence().0.is_finite());
    }
}
