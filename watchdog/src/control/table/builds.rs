//! What builds are compared with, and the list of them.

use std::fmt::Write as _;

use super::{duration, grid, moment, wrap};
use crate::control::{BuildRecord, BuildsSnapshot, ComparedWith, EndpointStatus};

/// The baseline, its size, and whether it still runs.
pub(super) fn compared(with: &ComparedWith) -> String {
    let running = match with.processes {
        0 => "its stored figures".to_owned(),
        1 => "runs beside it on 1 process".to_owned(),
        processes => format!("runs beside it on {processes} processes"),
    };
    format!("{} ({} requests; {running})", with.build, with.requests)
}

/// What was learned of an endpoint's peak, and since when.
pub(super) fn peak(text: &mut String, endpoint: &EndpointStatus, width: usize) {
    let Some(peak) = &endpoint.peak else { return };
    let mut line = format!("{}: ", endpoint.endpoint);
    match (peak.per_second, peak.at_unix_ms) {
        (Some(per_second), Some(at)) => {
            let _ = write!(
                line,
                "peak of {per_second:.1} requests per second (five minutes until {})",
                moment(at)
            );
        }
        _ => line.push_str("no peak rate yet"),
    }
    match peak.since_unix_ms {
        Some(since) => {
            let _ = write!(line, ", learning since {}", moment(since));
        }
        None => line.push_str(", learning has just begun"),
    }
    if peak.watched_seconds < peak.needed_seconds {
        let seconds = |seconds: u64| duration(seconds as f64);
        let _ = write!(
            line,
            "; not used yet: too little traffic history ({} of {})",
            seconds(peak.watched_seconds),
            seconds(peak.needed_seconds)
        );
    }
    wrap(text, &line, "    ", "      ", width);
}

/// The ledger of builds.
pub fn builds(snapshot: &BuildsSnapshot, width: usize) -> String {
    if snapshot.builds.is_empty() {
        return "No build was seen yet. `load-watchdog status` says whether the services' processes were found.\n".to_owned();
    }
    let rows = snapshot.builds.iter().map(|record| {
        [
            record.service.to_string(),
            record.build.to_string(),
            record.state.clone(),
            moment(record.state_since_unix_ms),
            record.processes.to_string(),
            note(record),
        ]
    });
    grid(["SERVICE", "BUILD", "STATE", "SINCE", "PROCESSES", "NOTE"], rows, width)
}

fn note(record: &BuildRecord) -> String {
    let mut note = record.note.clone();
    for decision in record.decisions.iter().filter(|decision| decision.endpoint.is_some()) {
        let endpoint = decision.endpoint.as_ref().map_or("", |endpoint| endpoint.as_str());
        let _ = write!(note, "; {} on endpoint {endpoint} by {}", decision.kind, decision.by);
    }
    for left in record.decisions.iter().filter(|it| it.endpoint.is_none()).filter_map(|it| it.left_seconds) {
        let _ = write!(note, ", for another {}", duration(left));
    }
    if let Some(with) = &record.compared_with {
        let _ = write!(note, "; compared with {}", compared(with));
    }
    if let Some(sentence) = record.sentence.as_ref().filter(|_| record.state == "probation") {
        let _ = write!(note, "; {sentence}");
    }
    note
}
