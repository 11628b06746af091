use super::*;
use crate::config::Mode;
use crate::control::{ComparedWith, EnvironmentStatus, EstimateStatus, PeakStatus, WarmingStatus};

fn snapshot() -> StatusSnapshot {
    let endpoint = |name: &str| EndpointStatus {
        endpoint: name.into(),
        uncharged_requests: 0,
        requests: 1234,
        mean_cpu_seconds: Some(0.0801),
        p99_cpu_seconds: Some(0.212),
        budget_mean_cpu_seconds: Some(0.1),
        budget_vs_baseline: Some(1.3),
        baseline_build: Some("r41".into()),
        baseline_mean_cpu_seconds: Some(0.079),
        baseline_requests: Some(396),
        at_peak: None,
        peak: Some(PeakStatus {
            since_unix_ms: Some(1_485_500_400_000),
            watched_seconds: 10_800,
            needed_seconds: 86_400,
            per_second: Some(38.46),
            at_unix_ms: Some(1_485_500_700_000),
        }),
        confidence: Some(0.98),
        estimate: Some(EstimateStatus {
            mean_cpu_seconds: 0.0813,
            lower_cpu_seconds: 0.0771,
            upper_cpu_seconds: 0.0855,
            direct_mean_cpu_seconds: Some(0.0804),
        }),
        measure_of_record: Some("direct".to_owned()),
        measure_why: Some("the estimate agrees".to_owned()),
    };
    StatusSnapshot {
        agent: AgentStatus {
            version: "0.1.0".to_owned(),
            pid: 7,
            uptime_seconds: 3725.0,
            config_file: "/etc/load-watchdog/config.toml".to_owned(),
            config_ok: false,
            tier: "core".to_owned(),
            degraded: vec![],
            losses: [("tls".to_owned(), 12)].into(),
            decisions: Vec::new(),
        },
        services: vec![ServiceStatus {
            service: "web".into(),
            mode: Mode::Enforce,
            configured_mode: None,
            observed: crate::decision::Observed::default(),
            processes: 3,
            following: vec!["3 processes: the build changes in place, with /srv/web/current (php-fpm loads its \
                             code at each request)"
                .to_owned()],
            coverage: Some(0.41),
            min_coverage: 0.8,
            hidden: [("tls".to_owned(), 0.62)].into(),
            notes: Vec::new(),
            problems: vec!["Only 41 % of the CPU time could be attributed to requests, 80 % are needed: nothing is judged. \
                            Reason most often: TLS ends in the application itself."
                .to_owned()],
            open_incident: None,
            release_window: None,
            builds: vec![BuildStatus {
                build: "release-2027-01-27T09-14-00".into(),
                state: "probation".to_owned(),
                state_since_unix_ms: 1_485_500_400_000,
                role: Some("candidate".to_owned()),
                compared_with: Some(ComparedWith { build: "r41".into(), requests: 396, processes: 7 }),
                processes: 3,
                seen_for_seconds: 61.0,
                probation_left_seconds: Some(86_000.0),
                log_evidence: Some(0.3),
                verdict: Some("not_measurable".to_owned()),
                progress: None,
                missing: Vec::new(),
                evidence: None,
                warming: Some(WarmingStatus { processes: 3, factor: 4.0 }),
                environment: Some(EnvironmentStatus {
                    factor: 1.12,
                    source: Some("loop".to_owned()),
                    control: Some("the agent's calibration loop".to_owned()),
                    violated: None,
                }),
                sentence: Some("coverage is 41 %, 80 % are needed".to_owned()),
                endpoints: vec![
                    endpoint("login"),
                    endpoint("a-very-long-endpoint-name-indeed"),
                ],
            }],
        }],
    }
}

#[test]
fn the_status_fits_80_and_120_columns_and_is_loud_about_what_cannot_be_judged() {
    for width in [80, 120] {
        let text = status(&snapshot(), width);
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{} > {width}: {line}", line.chars().count());
        }
        assert!(text.contains("NOT MEASURABLE"), "{text}");
        assert!(text.contains("!! Only 41 %"), "{text}");
        assert!(text.contains("80.1 ms") && text.contains("212 ms"), "{text}");
        assert!(text.contains("check-config"), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("compared with r41 (396 requests; runs beside it on 7 processes)"), "{text}");
        assert!(flat.contains("peak of 38.5 requests per second"), "{text}");
        assert!(flat.contains("too little traffic history (3h 0m of 1d 0h)"), "{text}");
        assert!(text.contains("login: measured directly: the estimate agrees; estimate 81.3 ms"), "{text}");
    }
}

#[test]
fn figures_keep_three_places() {
    let shown: Vec<String> =
        [0.000_012, 0.000_999, 0.0801, 0.212, 1.0, 12.34, 123.4].map(|v| seconds(Some(v))).to_vec();
    assert_eq!(shown, ["12.0 us", "999 us", "80.1 ms", "212 ms", "1.00 s", "12.3 s", "123 s"]);
    assert_eq!(duration(3725.0), "1h 2m");
    assert_eq!(duration(59.9), "59s");
    assert_eq!(duration(200_000.0), "2d 7h");
}
