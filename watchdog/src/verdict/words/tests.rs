use super::*;
use crate::aggregate::Age;
use crate::model::StatusClass;
use crate::verdict::evidence::{
    BaselineFigures, BudgetKind, EVIDENCE_SCHEMA, HostFactor, LearnedPeak, Measure as Measured, Outcome,
    Peak, Setting, SinceFigures, UnfinishedFigures,
};
use crate::verdict::record::Measure;

fn evidence() -> Evidence {
    Evidence {
        schema: EVIDENCE_SCHEMA,
        service: "web".into(),
        build: "9f3c".into(),
        endpoint: "login".into(),
        budget: BudgetKind::MeanCpu,
        outcome: Outcome::All,
        measure: Measured::Mean,
        requests: 7,
        outcome_requests: 7,
        above_limit: 7,
        limit_cpu_seconds: 0.110,
        mean_cpu_seconds: 0.2121,
        interval_cpu_seconds: Some((0.1413, 0.9)),
        baseline: None,
        projected_host_share: None,
        log_evidence: 7.2,
        log_bar: 6.9,
        second: 3,
        last_end_mono_ns: 0,
        measured_by: Measure::Direct,
        confidence: None,
        estimate: None,
        unfinished: None,
        endpoint_mean_cpu_seconds: Some(0.2121),
        since: None,
        setting: None,
    }
}

fn monday() -> Setting {
    let learned = Some(LearnedPeak { at_unix_ms: 1_795_000_000_000, day: "Monday".to_owned() });
    Setting { peak: Some(Peak { per_second: 40.0, cores: 4.0, learned }), ..Setting::default() }
}

fn of_share() -> Evidence {
    Evidence {
        budget: BudgetKind::HostShare { peak_rate: 40.0, max_share: 0.25 },
        limit_cpu_seconds: 0.025,
        projected_host_share: Some(2.121),
        ..evidence()
    }
}

fn relative() -> Evidence {
    Evidence {
        budget: BudgetKind::VsBaseline { ratio: 1.3 },
        outcome: Outcome::Class(StatusClass::Redirect),
        baseline: Some(BaselineFigures { build: "41aa".into(), requests: 9830, mean_cpu_seconds: 0.0892 }),
        ..evidence()
    }
}

fn progress() -> Progress {
    Progress {
        log_evidence: 2.5,
        log_evidence_max: 2.5,
        log_bar: libm::log(1000.0),
        log_missing: libm::log(1000.0) - 2.5,
        requests: 4,
        judged: 4,
        to_exceed: Some(ToGo { endpoint: "login".into(), requests: 12 }),
        to_clear: Vec::new(),
    }
}

fn say(verdict: &Verdict, progress: Option<&Progress>) -> String {
    Account { verdict, progress, warming: None }.sentence()
}

fn undecided(missing: &[Missing], evidence: Option<Evidence>, progress: Option<&Progress>) -> String {
    say(&Verdict::Undecided { missing: missing.to_vec(), evidence: evidence.map(Box::new) }, progress)
}

#[test]
fn a_build_over_its_budget_at_mondays_peak() {
    let exceeds = Verdict::Exceeds { evidence: Box::new(Evidence { setting: Some(monday()), ..evidence() }) };
    assert_eq!(
        exceeds.sentence(),
        "build 9f3c needs 212 ms CPU per login (at least 141 ms), budget 110 ms; 7 logins were enough; at Monday's peak of \
         40/s it would need 8.5 of 4 cores"
    );
    // Nothing is said of a peak that is not known.
    assert_eq!(
        evidence().sentence(),
        "build 9f3c needs 212 ms CPU per login (at least 141 ms), budget 110 ms; 7 logins were enough"
    );
    assert_eq!(
        Evidence { endpoint: "api/v2".into(), requests: 1, ..evidence() }.sentence(),
        "build 9f3c needs 212 ms CPU per api/v2 request (at least 141 ms), budget 110 ms; 1 api/v2 request was enough"
    );
}

#[test]
fn a_build_over_its_share_of_the_host() {
    let peak = Some(Peak { per_second: 40.0, cores: 4.0, learned: None });
    let declared = Evidence { setting: Some(Setting { peak, ..Setting::default() }), ..of_share() };
    assert_eq!(
        declared.sentence(),
        "build 9f3c needs 212 ms CPU per login (at least 141 ms), budget 25 ms (25 % of 4 cores at 40/s); 7 logins were \
         enough; at the peak of 40/s it would need 8.5 of 4 cores"
    );
    assert_eq!(
        of_share().sentence(),
        "build 9f3c needs 212 ms CPU per login (at least 141 ms), budget 25 ms (25 % of the cores at 40/s); 7 logins were \
         enough; at its peak it would need 212 % of the cores"
    );
}

#[test]
fn a_build_dearer_than_the_good_one() {
    // All outcomes together decide what the peak takes.
    let of_all = Evidence { setting: Some(monday()), endpoint_mean_cpu_seconds: Some(0.1), ..relative() };
    assert_eq!(
        of_all.sentence(),
        "build 9f3c needs 212 ms CPU per login answered 3xx (at least 141 ms), 2.4 times the 89.2 ms of the good build 41aa \
         (9830 requests), allowed 1.3 times; 7 logins were enough; at Monday's peak of 40/s it would need 4 of 4 cores"
    );
    let young = Outcome::Young { class: StatusClass::Redirect, status: Some(302), age: Age::To10 };
    assert!(
        Evidence { outcome: young, ..relative() }
            .finding()
            .contains("per login answered 302 by a process that has run 3 to 10 s")
    );
    let host = Some(HostFactor { factor: 1.12, control: Some("the agent's calibration loop".to_owned()) });
    let slow = Evidence { setting: Some(Setting { host, ..Setting::default() }), ..relative() };
    assert!(
        slow.sentence().ends_with(
            "; the limit was raised 1.12 times, as the agent's calibration loop costs so much more than before"
        ),
        "{}",
        slow.sentence()
    );
    let never = BaselineFigures { build: "41aa".into(), requests: 0, mean_cpu_seconds: 0.0 };
    assert!(Evidence { outcome: Outcome::Rest, baseline: Some(never), ..relative() }.finding().ends_with(
        "per login with a rare outcome (at least 141 ms), an outcome that the good build 41aa never had"
    ));
}

#[test]
fn too_many_dear_requests() {
    let quantile = Evidence {
        budget: BudgetKind::QuantileCpu { p: 0.99 },
        measure: Measured::Quantile { p: 0.99 },
        above_limit: 3,
        limit_cpu_seconds: 0.4,
        ..evidence()
    };
    assert_eq!(
        quantile.sentence(),
        "build 9f3c needed more than 400 ms CPU for 3 of 7 logins; the budget allows 1 %; 7 logins were enough"
    );
}

#[test]
fn how_it_was_measured_is_told_where_it_was_not_directly() {
    let estimated =
        Evidence { measured_by: Measure::Estimate, confidence: Some(0.41), requests: 900, ..evidence() };
    assert_eq!(
        estimated.sentence(),
        "build 9f3c needs 212 ms CPU per login (at least 141 ms), budget 110 ms (estimated from CPU time and counts, as \
         only 41 % of the time could be charged for certain); 900 logins were enough"
    );
    let counted = Evidence { confidence: None, ..estimated };
    assert!(counted.sentence().contains("as the requests came by HTTP/2"), "{}", counted.sentence());
}

#[test]
fn requests_that_have_not_ended() {
    let unfinished = UnfinishedFigures { requests: 5, cpu_seconds: 9.87, longest_cpu_seconds: 4.0 };
    let hanging =
        Evidence { unfinished: Some(unfinished), requests: 5, setting: Some(monday()), ..evidence() };
    assert_eq!(
        hanging.sentence(),
        "build 9f3c: 5 logins have not ended and have used 9.87 s CPU so far, the longest 4 s; budget 110 ms per login; 5 \
         logins were enough"
    );
    let relative = Evidence { unfinished: Some(unfinished), requests: 5, ..relative() };
    assert!(
        relative.sentence().contains("the good build 41aa needed 89.2 ms per login"),
        "{}",
        relative.sentence()
    );
}

#[test]
fn a_regression_that_began_late_is_told_by_what_came_since() {
    let since = Some(SinceFigures {
        endpoint: "login".into(),
        second: 21_720,
        requests: 18,
        mean_cpu_seconds: 0.1604,
    });
    let late =
        Evidence { since, requests: 21_700, mean_cpu_seconds: 0.0752, setting: Some(monday()), ..evidence() };
    assert_eq!(
        late.sentence(),
        "build 9f3c has needed about 160 ms CPU per login since 6 h 2 min after it came (75.2 ms over all), budget 110 ms; \
         18 logins since then were enough; at Monday's peak of 40/s it would need 6.4 of 4 cores"
    );
    assert!(late.details().iter().any(|line| line.contains("rather too high")), "{:?}", late.details());
}

#[test]
fn undecided_without_a_request() {
    let missing = [Missing::Requests { endpoint: "login".into() }];
    let none = Progress { log_evidence: 0.0, requests: 0, judged: 0, to_exceed: None, ..progress() };
    assert_eq!(undecided(&missing, None, Some(&none)), "undecided: no login yet");
    assert_eq!(undecided(&[], None, None), "undecided: not judged yet");
    let baseline = Missing::Baseline { endpoint: "login".into(), requests: 150, needed: 200 };
    let uncompared = Progress { requests: 500, ..none };
    assert_eq!(
        undecided(&[baseline], None, Some(&uncompared)),
        "undecided after 500 requests: no good build to compare logins with yet (150 of 200 requests are known of \
         one)"
    );
}

#[test]
fn undecided_with_some_requests_says_how_far_it_is() {
    let missing = [Missing::Evidence { requests: 4 }];
    let some = Evidence {
        requests: 4,
        mean_cpu_seconds: 0.16,
        interval_cpu_seconds: Some((0.0352, 2.41)),
        ..evidence()
    };
    assert_eq!(
        undecided(&missing, Some(some.clone()), Some(&progress())),
        "undecided after 4 logins: build 9f3c needs 160 ms CPU per login so far (35.2 ms to 2.41 s), budget 110 ms; the \
         evidence against it is 12 of the 1000 that it takes; about 12 more logins at this cost would show it over budget"
    );
    let to_clear = vec![
        ToGo { endpoint: "login".into(), requests: 40 },
        ToGo { endpoint: "browse".into(), requests: 1 },
    ];
    let well = Progress { log_evidence: -1.2, to_exceed: None, to_clear, ..progress() };
    assert_eq!(
        undecided(&missing, Some(Evidence { interval_cpu_seconds: None, ..some.clone() }), Some(&well)),
        "undecided after 4 logins: build 9f3c needs 160 ms CPU per login so far, budget 110 ms; nothing speaks against it \
         yet; about 40 more logins and about 1 more browse like those so far would show it within budget"
    );
    let nobody_knows = Progress { to_exceed: None, ..progress() };
    let told = undecided(&missing, Some(some.clone()), Some(&nobody_knows));
    assert!(told.ends_with("; how many more requests that takes cannot be told yet"), "{told}");
    // Something else is missing too, and no number would be right.
    let missing = [missing[0].clone(), Missing::PeakRate { endpoint: "login".into() }];
    let told = undecided(&missing, Some(some.clone()), Some(&nobody_knows));
    assert!(told.ends_with("judged by it)") && !told.contains("cannot be told"), "{told}");
    // The log knows the verdict only.
    let told = undecided(&missing[..1], Some(some), None);
    assert!(told.ends_with("; 4 requests are too few to tell within from over budget"), "{told}");
}

#[test]
fn within_and_what_it_takes_at_the_peak() {
    let within = Evidence {
        requests: 400,
        mean_cpu_seconds: 0.0801,
        endpoint_mean_cpu_seconds: Some(0.0801),
        interval_cpu_seconds: Some((0.0762, 0.0843)),
        setting: Some(monday()),
        ..evidence()
    };
    assert_eq!(
        Verdict::Within { evidence: Box::new(within) }.sentence(),
        "within its budgets after 400 logins: build 9f3c needs 80.1 ms CPU per login so far (76.2 ms to 84.3 ms), budget \
         110 ms; at Monday's peak of 40/s it would need 3.2 of 4 cores"
    );
    let mixed = Verdict::OverBudgetNotAttributed { evidence: Box::new(evidence()) };
    assert!(mixed.sentence().contains("budget 110 ms; not attributed to the build"), "{}", mixed.sentence());
}

#[test]
fn a_warm_up_that_still_runs() {
    let verdict =
        Verdict::Undecided { missing: vec![Missing::Requests { endpoint: "login".into() }], evidence: None };
    let of = |processes| {
        let warming = Some(Warming { processes, factor: 4.0 });
        Account { verdict: &verdict, progress: None, warming }.sentence()
    };
    assert_eq!(
        of(2),
        "undecided: no login yet; warm-up: 2 processes are younger than 30 s, and what they serve may cost 4 times the \
         budget"
    );
    assert!(
        of(1).ends_with("1 process is younger than 30 s, and what it serves may cost 4 times the budget")
    );
    assert_eq!(of(0), "undecided: no login yet");
}

#[test]
fn a_hold_names_what_is_to_blame() {
    let violation =
        Violation { control: "the agent's calibration loop".to_owned(), ratio: 1.62, allowed: 1.25 };
    assert_eq!(
        Verdict::Environment { violation }.sentence(),
        "held, as the surroundings are to blame or may be: the agent's calibration loop costs 1.62 times what it used to \
         (a build may 1.25 times); budgets relative to the last good build are judged again when that is over"
    );
}

#[test]
fn every_reason_for_not_measuring_has_words() {
    let login = || EndpointName::from("login");
    for (reason, words) in [
        (
            NotMeasurable::Coverage { coverage: 0.41, needed: 0.8 },
            "not measurable: only 41 % of the service's CPU could be charged to requests, 80 % needed (min_coverage)",
        ),
        (
            NotMeasurable::Lost { lost: 12, seen: 90 },
            "not measurable: 12 requests were lost, 90 seen; `load-watchdog doctor` says why",
        ),
        (
            NotMeasurable::Blind { why: "62 % of what web receives is TLS".to_owned() },
            "not measurable: 62 % of what web receives is TLS",
        ),
        (
            NotMeasurable::Contradiction {
                endpoint: login(),
                direct_cpu_seconds: 0.02,
                estimate_cpu_seconds: 0.04,
                interval_cpu_seconds: (0.038, 0.042),
            },
            "not measurable: two measurements of login contradict each other: 20 ms per request were charged to its \
             requests, while CPU time and counts alone say 40 ms (38 ms to 42 ms)",
        ),
        (
            NotMeasurable::Unsure { endpoint: login(), why: "the load hardly varies".to_owned() },
            "not measurable: login: the load hardly varies",
        ),
    ] {
        assert_eq!(Verdict::NotMeasurable { reason }.sentence(), words);
    }
}

#[test]
fn the_report_has_all_figures() {
    let setting = Setting {
        baseline_processes: Some(0),
        host: Some(HostFactor {
            factor: 1.02,
            control: Some("service other, which did not change".to_owned()),
        }),
        ..monday()
    };
    let lines = Evidence { setting: Some(setting), ..relative() }.details();
    assert_eq!(
        lines,
        [
            "evidence 7.2 after 7 logins, 6.9 needed (natural logarithms), 3 s after the build came",
            "212 ms CPU per login answered 3xx (7 logins of 7), 95 % interval 141 ms to 900 ms; limit 110 ms",
            "compared with the good build 41aa: 9830 requests, 89.2 ms each, its stored figures",
            "surroundings: 1.02 times as slow, by service other, which did not change",
            "at Monday's peak of 40/s it would need 8.5 of 4 cores",
        ]
    );
}

#[test]
fn odds_have_two_digits() {
    let told = [1.52, 2.0, 9.97, 12.18, 99.6, 480.4, 1239.0].map(at_most_two_digits);
    assert_eq!(told, ["1.5", "2", "10", "12", "100", "480", "1200"]);
}

#[test]
fn evidence_survives_json_and_older_evidence_is_read() {
    let whole = Evidence { setting: Some(monday()), ..relative() };
    let text = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), whole);
    let mut older = serde_json::to_value(evidence()).unwrap();
    for field in ["endpoint_mean_cpu_seconds", "since", "setting", "unfinished", "estimate"] {
        older.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(
        serde_json::from_value::<Evidence>(older).unwrap(),
        Evidence { endpoint_mean_cpu_seconds: None, ..evidence() }
    );
}
