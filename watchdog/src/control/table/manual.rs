//! What people decided, and who did what.

use std::fmt::Write as _;

use super::{duration, grid, loud, moment, wrap};
use crate::config::Mode;
use crate::control::{AuditRecord, DecisionRecord, ServiceStatus};

/// What is in force for the whole agent, at the top of the status.
pub(super) fn pause(text: &mut String, decisions: &[DecisionRecord], width: usize) {
    for pause in decisions.iter().filter(|decision| decision.kind == "pause") {
        let line = format!(
            "All rollbacks are PAUSED by {} {}; `load-watchdog resume` ends that.",
            pause.by,
            held(pause)
        );
        loud(text, &line, "", width);
    }
}

/// What is in force for one service, and what mode observe kept from happening to it.
pub(super) fn service(
    text: &mut String,
    service: &ServiceStatus,
    decisions: &[DecisionRecord],
    width: usize,
) {
    let of_service = decisions.iter().filter(|it| it.service.as_ref() == Some(&service.service));
    for decision in of_service {
        let what = match (decision.mode, &decision.build) {
            (Some(mode), _) => format!(
                "mode {mode} instead of {} as configured,",
                service.configured_mode.unwrap_or(service.mode)
            ),
            (None, Some(build)) => match &decision.endpoint {
                Some(endpoint) => format!("build {build} {} on endpoint {endpoint}", decision.kind),
                None => format!("build {build} {}", decision.kind),
            },
            (None, None) => decision.kind.clone(),
        };
        wrap(text, &format!("{what} by {} {}", decision.by, held(decision)), "  ", "    ", width);
    }
    let observed = &service.observed;
    if service.mode == Mode::Observe && observed.last_unix_ms.is_some() {
        let mut line = format!(
            "observed: mode enforce would have rolled back {}",
            times(observed.would_have_rolled_back)
        );
        if observed.would_have_refused > 0 {
            let _ = write!(line, ", and asked or refused {}", times(observed.would_have_refused));
        }
        if let Some(last) = observed.last_unix_ms {
            let _ = write!(line, ", last at {}", moment(last));
        }
        wrap(text, &line, "  ", "    ", width);
    }
}

/// The audit trail, newest first.
pub fn audit(lines: &[AuditRecord], width: usize) -> String {
    if lines.is_empty() {
        return "Nobody has decided anything yet.\n".to_owned();
    }
    let rows = lines.iter().map(|line| {
        [
            moment(line.unix_ms),
            line.by.to_string(),
            line.command.clone(),
            if line.done { line.said.clone() } else { format!("REFUSED: {}", line.said) },
        ]
    });
    grid(["WHEN", "WHO", "COMMAND", "WHAT CAME OF IT"], rows, width)
}

fn held(decision: &DecisionRecord) -> String {
    let since = moment(decision.since_unix_ms);
    match decision.left_seconds {
        Some(left) => format!("since {since}, for another {}", duration(left)),
        None => format!("since {since}, until that is withdrawn"),
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Who;

    #[test]
    fn the_trail_tells_who_did_what_and_what_was_refused() {
        let line = |done| AuditRecord {
            unix_ms: 1_485_500_400_000,
            by: Who { uid: Some(1000), name: "ann".to_owned() },
            command: "builds condemn web v2".to_owned(),
            done,
            said: "build v2 of web is condemned".to_owned(),
        };
        let text = audit(&[line(true), line(false)], 140);
        assert!(text.contains("ann (uid 1000)") && text.contains("REFUSED: build v2"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(audit(&[], 80).contains("Nobody"));
    }

    #[test]
    fn a_pause_is_loud() {
        let record = DecisionRecord {
            kind: "pause".to_owned(),
            service: None,
            mode: None,
            build: None,
            endpoint: None,
            by: "ann (uid 1000)".to_owned(),
            since_unix_ms: 1_485_500_400_000,
            left_seconds: Some(3600.0),
        };
        let mut text = String::new();
        pause(&mut text, &[record], 100);
        assert!(text.starts_with("!! ") && text.contains("for another 1h 0m"), "{text}");
    }
}
