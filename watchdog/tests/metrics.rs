//! The exposition: valid text, the figures that went in, and the generated page.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use watchdog::decision::Observed;
use watchdog::kernel::Tier;
use watchdog::metrics::{
    BuildEvidence, Counters, Detection, Environment, Judged, JudgedCpu, Opinion, SlotOwner, Snapshot,
    Surrounded, Totals, render,
};
use watchdog_common::histogram::bucket_of;
use watchdog_common::types::{Conservation, Series, SeriesKey};

fn totals() -> Totals {
    let mut totals = Totals::default();
    let endpoints = vec!["other".into(), "login".into()];
    totals.open_slot(1, SlotOwner { service: "web".into(), build: "r\"1\\\n".into(), endpoints });
    let mut series = Series { count: 3, oncpu_sum_ns: 90_000_000, ..Series::default() };
    for ms in [10, 20, 60] {
        series.buckets[bucket_of(ms * 1_000_000)] += 1;
    }
    let key = SeriesKey { build_slot: 1, endpoint: 1, status_class: 2, _pad: 0 };
    totals.observe_series(&[(key, Box::new(series))]);
    let time = Conservation {
        process_ns: 100_000_000,
        attributed_ns: 90_000_000,
        shared_ns: 4_000_000,
        kept_ns: 0,
        unattributed_ns: 6_000_000,
        started: 4,
        finished: 3,
    };
    totals.observe_conservation(1, &time);
    totals
}

fn exposition() -> String {
    let totals = totals();
    let mut counters = Counters::default();
    counters.incidents.insert(("web".into(), "mean_cpu".to_owned()), 1);
    counters.rollbacks.insert(("web".into(), "recovered".to_owned()), 1);
    let mut detection = Detection::default();
    detection.observe(0.12);
    counters.detection.insert("web".into(), detection);
    counters.losses[0] = 7;
    let judged = |build: &str| Judged {
        service: "web".into(),
        endpoint: "login".into(),
        build: build.into(),
        ratios: vec![("mean_cpu", 1.5)],
        baseline: Some(("r0".into(), 0.02)),
        baseline_requests: Some(396),
        host_share: Some(0.4),
    };
    render(&Snapshot {
        tier: Some(Tier::Core),
        totals: &totals,
        counters: &counters,
        coverage: vec![("web".into(), Some(0.9)), ("idle".into(), None)],
        hidden: vec![("web".into(), "tls", 0.62)],
        opinions: vec![Opinion {
            service: "web".into(),
            endpoint: "login".into(),
            build: "r1".into(),
            confidence: Some(0.95),
            estimate: Some([0.021, 0.019, 0.023]),
            measure: Some("direct".to_owned()),
        }],
        environment: Environment {
            loop_seconds: Some(8e-6),
            loop_cpu_seconds: 0.8,
            loop_cycles_per_instruction: Some(0.4),
            builds: vec![Surrounded {
                service: "web".into(),
                build: "r1".into(),
                factor: 1.1,
                source: "loop",
                violated: false,
            }],
        },
        judged: vec![judged("r1"), judged("r2")],
        evidence: vec![BuildEvidence {
            service: "web".into(),
            build: "r1".into(),
            verdict: "exceeds",
            log_evidence: 7.5,
            log_bar: 6.9,
            requests: 33,
            to_go: vec![("login".into(), "within", 40)],
            cpu: Some(JudgedCpu {
                endpoint: "login".into(),
                mean_seconds: 0.03,
                interval_seconds: Some((0.025, 0.04)),
                limit_seconds: 0.02,
            }),
            warming: 2,
        }],
        processes: vec![("web".into(), "r1".into(), 2)],
        observed: vec![(
            "web".into(),
            Observed { would_have_rolled_back: 2, would_have_refused: 1, last_unix_ms: Some(7) },
        )],
        probes: vec![("sched_switch".to_owned(), 10, 2_000)],
    })
    .unwrap()
}

#[test]
fn figures_arrive_as_they_went_in() {
    let text = exposition();
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "no line {line}\nin\n{text}");
    let labels = r#"service="web",endpoint="login",build="r\"1\\\n",status_class="2xx""#;
    // 10 ms and 20 ms lie in buckets that the bounds cut: they count below the next bound.
    has(&format!(r#"load_watchdog_request_cpu_seconds_bucket{{{labels},le="0.01"}} 0"#));
    has(&format!(r#"load_watchdog_request_cpu_seconds_bucket{{{labels},le="0.05"}} 2"#));
    has(&format!(r#"load_watchdog_request_cpu_seconds_bucket{{{labels},le="+Inf"}} 3"#));
    has(&format!("load_watchdog_request_cpu_seconds_sum{{{labels}}} 0.09"));
    has(&format!("load_watchdog_request_cpu_seconds_count{{{labels}}} 3"));
    has(&format!("load_watchdog_requests_total{{{labels}}} 3"));
    has(r#"load_watchdog_service_cpu_seconds_total{service="web"} 0.1"#);
    has(r#"load_watchdog_shared_cpu_seconds_total{service="web"} 0.004"#);
    has(r#"load_watchdog_verdict{service="web",build="r1",verdict="exceeds"} 1"#);
    has(r#"load_watchdog_verdict{service="web",build="r1",verdict="within"} 0"#);
    has(r#"load_watchdog_request_cpu_baseline_seconds{service="web",endpoint="login",build="r0"} 0.02"#);
    has(r#"load_watchdog_baseline_requests{service="web",endpoint="login",build="r0"} 396"#);
    has(r#"load_watchdog_log_evidence_bar{service="web",build="r1"} 6.9"#);
    has(r#"load_watchdog_judged_requests{service="web",build="r1"} 33"#);
    has(
        r#"load_watchdog_requests_to_verdict{service="web",endpoint="login",build="r1",verdict="within"} 40"#,
    );
    has(r#"load_watchdog_judged_cpu_seconds{service="web",endpoint="login",build="r1",bound="lower"} 0.025"#);
    has(r#"load_watchdog_judged_cpu_seconds{service="web",endpoint="login",build="r1",bound="limit"} 0.02"#);
    has(r#"load_watchdog_warming_processes{service="web",build="r1"} 2"#);
    has(r#"load_watchdog_lost_total{reason="sample_ring_full"} 7"#);
    has(r#"load_watchdog_lost_total{reason="abandoned"} 0"#);
    has(r#"load_watchdog_tier_info{tier="core"} 1"#);
    has(r#"load_watchdog_tier_info{tier="a"} 0"#);
    has("load_watchdog_config_reload_success 1");
    has(r#"load_watchdog_observed_incidents_total{service="web",would="roll_back"} 2"#);
    has(r#"load_watchdog_observed_incidents_total{service="web",would="refuse"} 1"#);
    has(r#"load_watchdog_hidden_traffic_ratio{service="web",kind="tls"} 0.62"#);
    let login = r#"service="web",endpoint="login",build="r1""#;
    has(&format!("load_watchdog_attribution_confidence_ratio{{{login}}} 0.95"));
    has(&format!(r#"load_watchdog_request_cpu_estimate_seconds{{{login},bound="lower"}} 0.019"#));
    has(&format!(r#"load_watchdog_measure_of_record{{{login},measure="direct"}} 1"#));
    has(&format!(r#"load_watchdog_measure_of_record{{{login},measure="estimate"}} 0"#));
    let baselines =
        text.lines().filter(|l| l.starts_with("load_watchdog_request_cpu_baseline_seconds{")).count();
    assert_eq!(baselines, 1, "two builds share one baseline");
    assert!(!text.contains(r#"service="idle""#), "a service without CPU has no coverage");
}

#[test]
fn every_family_of_the_catalogue_can_appear_and_nothing_else() {
    let text = exposition();
    let shown: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()).collect();
    let table: Vec<String> = watchdog::metrics::catalogue::ALL
        .iter()
        .map(watchdog::metrics::catalogue::Metric::full_name)
        .collect();
    assert_eq!(shown, table);
}

/// `promtool` comes with Debian's `prometheus` package, which `cargo xtask setup` installs.
#[test]
fn promtool_accepts_the_exposition() {
    let child = Command::new(std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into()))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: promtool is not installed (Debian: apt-get install prometheus)");
        return;
    };
    child.stdin.take().unwrap().write_all(exposition().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
