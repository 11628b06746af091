use serde_json::json;

use super::*;
use crate::control::{IncidentSummary, TimelineEntry};
use crate::incident::IncidentKind;

fn detail(build: &str, evidence: serde_json::Value) -> IncidentDetail {
    IncidentDetail {
        summary: IncidentSummary {
            id: "20170127-7k3f9x2q".to_owned(),
            kind: IncidentKind::Cost,
            service: "web".into(),
            endpoint: Some("login".into()),
            bad_build: build.into(),
            good_build: Some("r41".into()),
            state: "recovered".to_owned(),
            opened_unix_ms: 1_485_500_400_000,
            repeats: None,
            sentence: format!("build {build} needs 212 ms CPU per login, budget 110 ms"),
        },
        timeline: vec![TimelineEntry {
            unix_ms: 1_485_500_401_000,
            text: "the hook (attempt 1) printed: <script>alert(1)</script>\u{1b}[2J & done".to_owned(),
        }],
        evidence,
    }
}

fn evidence() -> serde_json::Value {
    json!({
        "schema": 1, "service": "web", "build": "9f3c", "endpoint": "login", "budget": {"kind": "mean_cpu"},
        "outcome": "all", "measure": "mean", "requests": 7, "outcome_requests": 7, "above_limit": 7,
        "limit_cpu_seconds": 0.11, "mean_cpu_seconds": 0.212, "interval_cpu_seconds": [0.141, 9.0],
        "baseline": {"build": "r41", "requests": 396, "mean_cpu_seconds": 0.079}, "projected_host_share": null,
        "log_evidence": 7.2, "log_bar": 6.9, "second": 3, "last_end_mono_ns": 0,
    })
}

#[test]
fn a_review_tells_everything_and_needs_nothing_beside_itself() {
    let page = html(&detail("9f3c", evidence())).unwrap();
    for told in
        ["web/login: bad build 9f3c", "recovered", "good build r41", "limit 110 ms", "212 ms", "79 ms"]
    {
        assert!(page.contains(told), "{told} is missing:\n{page}");
    }
    assert!(page.contains("evidence 7.2 after 7 logins, 6.9 needed"), "{page}");
    for reference in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(reference), "{reference} in:\n{page}");
    }
}

#[test]
fn what_comes_from_outside_is_text() {
    let hostile = "\"><img src=x onerror=alert(1)>\u{202e}&amp;'";
    let mut figures = evidence();
    figures["build"] = hostile.into();
    let page = html(&detail(hostile, figures)).unwrap();
    assert!(!page.contains("<img") && !page.contains("<script"), "{page}");
    assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "{page}");
    assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}'), "{page}");
}

#[test]
fn the_picture_keeps_its_bars_inside_and_in_proportion() {
    let figures = Evidence::deserialize(evidence()).unwrap();
    let chart = chart(&figures);
    let [bad, good] = &chart.bars[..] else { panic!("{chart:?}") };
    assert!((bad.width / good.width - 0.212 / 0.079).abs() < 1e-9, "{chart:?}");
    assert!((bad.width / chart.limit_x - 0.212 / 0.11).abs() < 1e-9, "{chart:?}");
    let interval = bad.interval.as_ref().unwrap();
    // Its upper end is far outside, and does not make everything else small.
    assert!(!interval.ends && interval.to <= BARS && bad.width > BARS / 4.0, "{chart:?}");
}

#[test]
fn without_a_verdict_there_is_no_picture() {
    let page = html(&detail("9f3c", json!({"schema": 1, "kind": "release_window"}))).unwrap();
    assert!(!page.contains("<svg") && page.contains("release_window"), "{page}");
}
