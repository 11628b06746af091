//! Release windows, and incidents by what they are about.

use super::{loud, moment, wrap};
use crate::control::{IncidentSummary, ServiceStatus};
use crate::incident::IncidentKind;

/// Whether a new build may appear, until when, and which ones did although they may not.
pub(super) fn window(text: &mut String, service: &ServiceStatus, width: usize) {
    let Some(window) = &service.release_window else { return };
    let line = match (window.open, window.changes_unix_ms.map(moment)) {
        (true, Some(until)) => format!("release window open until {until}"),
        (true, None) => "release window always open".to_owned(),
        (false, Some(until)) => format!("release window closed until {until}"),
        (false, None) => "release window closed for more than a week".to_owned(),
    };
    let freeze = window.freeze.as_ref().map_or_else(String::new, |freeze| format!(", freeze {freeze}"));
    let hours = format!("{}; {}", window.allow.join(", "), window.timezone);
    wrap(text, &format!("{line} ({hours}{freeze})"), "  ", "    ", width);
    for outside in &window.outside {
        let line = format!(
            "Build {} appeared outside the release window: `load-watchdog incidents show {}` tells more.",
            outside.build, outside.incident
        );
        loud(text, &line, "  ", width);
    }
}

/// What a line of the list calls the build that an incident is about.
/// What the build is in its incident.
pub fn role(incident: &IncidentSummary) -> &'static str {
    match incident.kind {
        IncidentKind::Cost => "bad build",
        IncidentKind::ReleaseWindow => "outside the release window: build",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{OutsideStatus, ReleaseWindowStatus, table};

    #[test]
    fn the_window_and_what_came_outside_it_fit_80_columns() {
        let outside = vec![OutsideStatus { build: "v4".into(), incident: "20170127-abcdefgh".to_owned() }];
        let mut status: ServiceStatus = serde_json::from_value(serde_json::json!({
            "service": "web", "mode": "observe", "processes": 0, "coverage": null, "min_coverage": 0.8,
            "problems": [], "open_incident": null, "builds": [],
        }))
        .unwrap();
        let shown = |status: &ServiceStatus| {
            let mut text = String::new();
            window(&mut text, status, 80);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&status), "");
        let configured = ReleaseWindowStatus {
            allow: vec!["Mon-Thu 20:00-23:59".to_owned(), "Sun 00:00-23:59".to_owned()],
            timezone: "Australia/Melbourne".to_owned(),
            open: false,
            freeze: None,
            changes_unix_ms: Some(1_485_500_400_000),
            outside,
        };
        status.release_window = Some(configured.clone());
        let text = shown(&status);
        let zone = "(Mon-Thu 20:00-23:59, Sun 00:00-23:59; Australia/Melbourne)";
        let until = moment(1_485_500_400_000);
        assert!(text.starts_with(&format!("release window closed until {until} {zone}")), "{text}");
        assert!(
            text.contains("!! Build v4 appeared outside") && text.contains("20170127-abcdefgh"),
            "{text}"
        );
        status.release_window = Some(ReleaseWindowStatus {
            freeze: Some("2017-01-26..2017-01-27".to_owned()),
            ..configured.clone()
        });
        assert!(shown(&status).contains("Australia/Melbourne, freeze 2017-01-26..2017-01-27)"));
        let open =
            ReleaseWindowStatus { open: true, changes_unix_ms: None, outside: Vec::new(), ..configured };
        status.release_window = Some(open);
        assert_eq!(shown(&status), format!("release window always open {zone}"));
    }

    #[test]
    fn a_list_says_what_an_incident_is_about() {
        let json = serde_json::json!({
            "id": "20170127-abcdefgh", "kind": "release_window", "service": "web", "endpoint": null, "bad_build": "v4",
            "good_build": "v1", "state": "observed", "opened_unix_ms": 0, "sentence": "build v4 appeared on Friday",
        });
        let incident: IncidentSummary = serde_json::from_value(json).unwrap();
        let text = table::incidents(&[incident], 120);
        assert!(
            text.contains("web  observed: outside the release window: build v4, good build v1"),
            "{text}"
        );
    }
}
