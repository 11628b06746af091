//! The same figures for people, at any width from 80 columns on.

use std::fmt::Write as _;

use serde::Deserialize as _;

use super::{AgentStatus, BuildStatus, DecisionRecord, EndpointStatus, IncidentDetail, IncidentSummary};
use super::{ServiceStatus, StatusSnapshot};
use crate::verdict::Evidence;

mod builds;
mod manual;
mod windows;

pub use builds::builds;
use builds::{compared, peak};
pub use manual::audit;
pub use windows::role;
use windows::window;

/// The status page.
pub fn status(snapshot: &StatusSnapshot, width: usize) -> String {
    let mut text = String::new();
    agent(&mut text, &snapshot.agent, width);
    manual::pause(&mut text, &snapshot.agent.decisions, width);
    if snapshot.services.is_empty() {
        text.push_str("\nNo service is configured: add a [[service]] to the configuration.\n");
    }
    for service in &snapshot.services {
        self::service(&mut text, service, &snapshot.agent.decisions, width);
    }
    text
}

fn agent(text: &mut String, agent: &AgentStatus, width: usize) {
    let _ = writeln!(
        text,
        "load-watchdog {} (pid {}), up {}, kernel tier {}",
        agent.version,
        agent.pid,
        duration(agent.uptime_seconds),
        agent.tier
    );
    if !agent.config_ok {
        let line = format!(
            "The last reload of {} failed; the configuration before it is in force. \
             `load-watchdog check-config {}` says what is wrong.",
            agent.config_file, agent.config_file
        );
        loud(text, &line, "", width);
    }
    for degraded in &agent.degraded {
        loud(text, &format!("Degraded: {degraded}"), "", width);
    }
    if !agent.losses.is_empty() {
        let losses: Vec<String> =
            agent.losses.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        wrap(text, &format!("Not measured since the start: {}", losses.join(", ")), "", "  ", width);
    }
}

fn service(text: &mut String, service: &ServiceStatus, decisions: &[DecisionRecord], width: usize) {
    let coverage =
        service.coverage.map_or_else(|| "not known yet".to_owned(), |c| format!("{:.0} %", c * 100.0));
    let _ = writeln!(
        text,
        "\n{}  mode {}, {} process{}, coverage {coverage}",
        service.service,
        mode(service),
        service.processes,
        if service.processes == 1 { "" } else { "es" },
    );
    for following in &service.following {
        wrap(text, following, "  ", "    ", width);
    }
    manual::service(text, service, decisions, width);
    for note in &service.notes {
        wrap(text, note, "  ", "    ", width);
    }
    for problem in &service.problems {
        loud(text, problem, "  ", width);
    }
    if let Some(incident) = &service.open_incident {
        let line =
            format!("Incident {incident} is open: `load-watchdog incidents show {incident}` tells more.");
        loud(text, &line, "  ", width);
    }
    window(text, service, width);
    for build in &service.builds {
        self::build(text, build, width);
    }
}

fn mode(service: &ServiceStatus) -> &'static str {
    match service.mode {
        crate::config::Mode::Observe => "observe",
        crate::config::Mode::Approve => "approve",
        crate::config::Mode::Enforce => "enforce",
    }
}

fn build(text: &mut String, build: &BuildStatus, width: usize) {
    let mut line = format!("  build {}: {}", build.build, build.state);
    if let Some(left) = build.probation_left_seconds {
        let _ = write!(line, " for another {}", duration(left));
    }
    let _ = write!(line, ", {} process{}", build.processes, if build.processes == 1 { "" } else { "es" });
    let _ = write!(line, ", seen for {}", duration(build.seen_for_seconds));
    if build.state_since_unix_ms > 0 {
        let _ = write!(line, ", {} since {}", build.state, moment(build.state_since_unix_ms));
    }
    wrap(text, &line, "", "    ", width);
    match (build.role.as_deref(), &build.compared_with) {
        (Some("candidate"), Some(baseline)) => {
            wrap(text, &format!("candidate, compared with {}", compared(baseline)), "    ", "      ", width);
        }
        (Some("candidate"), None) => {
            wrap(text, "candidate, with no good build to compare it with", "    ", "      ", width);
        }
        (Some("control"), _) => {
            wrap(text, "control: candidates are compared with it", "    ", "      ", width);
        }
        _ => {}
    }
    verdict(text, build, width);
    surroundings(text, build, width);
    if build.endpoints.is_empty() {
        return;
    }
    let longest = build.endpoints.iter().map(|e| e.endpoint.as_str().chars().count()).max().unwrap_or(0);
    // The figures take 57 columns; the name gets what is left of the width.
    let name_width = longest.max(8).min(width.saturating_sub(61).max(8));
    let _ = writeln!(
        text,
        "    {:name_width$} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "ENDPOINT", "REQUESTS", "MEAN CPU", "P99", "BUDGET", "BASELINE", "OF BASE"
    );
    for endpoint in &build.endpoints {
        self::endpoint(text, endpoint, name_width);
    }
    for endpoint in &build.endpoints {
        measured(text, endpoint, width);
        peak(text, endpoint, width);
    }
}

/// Both measurements, and which one is believed.
fn measured(text: &mut String, endpoint: &EndpointStatus, width: usize) {
    let Some(measure) = endpoint.measure_of_record.as_deref().filter(|_| endpoint.requests > 0) else {
        return;
    };
    let why = endpoint.measure_why.as_deref().unwrap_or_default();
    let believed = match measure {
        "direct" => "measured directly",
        "estimate" => "BY THE ESTIMATE",
        "waiting" => "NOT JUDGED YET",
        _ => "NOT MEASURABLE",
    };
    let mut line = format!("{}: {believed}: {why}", endpoint.endpoint);
    if let Some(estimate) = &endpoint.estimate {
        let _ = write!(
            line,
            "; estimate {} ({} to {}), direct {}",
            seconds(Some(estimate.mean_cpu_seconds)),
            seconds(Some(estimate.lower_cpu_seconds)),
            seconds(Some(estimate.upper_cpu_seconds)),
            seconds(estimate.direct_mean_cpu_seconds)
        );
    }
    if let Some(confidence) = endpoint.confidence {
        let _ = write!(line, "; {:.0} % charged on exact signs", 100.0 * confidence);
    }
    match measure {
        "direct" => wrap(text, &line, "    ", "      ", width),
        _ => loud(text, &line, "    ", width),
    }
}

fn endpoint(text: &mut String, endpoint: &EndpointStatus, name_width: usize) {
    let of_baseline = match (endpoint.mean_cpu_seconds, endpoint.baseline_mean_cpu_seconds) {
        (Some(mean), Some(baseline)) if baseline > 0.0 => format!("x{:.2}", mean / baseline),
        _ => "-".to_owned(),
    };
    let _ = writeln!(
        text,
        "    {:name_width$} {:>8} {:>8} {:>8} {:>8} {:>8} {of_baseline:>7}",
        clip(endpoint.endpoint.as_str(), name_width),
        count(endpoint.requests),
        seconds(endpoint.mean_cpu_seconds),
        seconds(endpoint.p99_cpu_seconds),
        budget(endpoint),
        seconds(endpoint.baseline_mean_cpu_seconds),
    );
}

/// What is wrong comes first in the eye, what is well is said quietly.
fn verdict(text: &mut String, build: &BuildStatus, width: usize) {
    let Some(verdict) = &build.verdict else { return };
    let sentence = build.sentence.as_deref().unwrap_or_default();
    match verdict.as_str() {
        "exceeds" => loud(text, &format!("EXCEEDS: {sentence}"), "    ", width),
        "not_measurable" => loud(text, &format!("NOT MEASURABLE, so not judged: {sentence}"), "    ", width),
        "environment" => loud(text, &format!("ENVIRONMENT: {sentence}"), "    ", width),
        "over_budget_unattributed" => loud(text, sentence, "    ", width),
        _ => wrap(text, sentence, "    ", "      ", width),
    }
}

/// What is not the build's doing.
fn surroundings(text: &mut String, build: &BuildStatus, width: usize) {
    let Some(environment) = &build.environment else { return };
    let Some(control) = &environment.control else {
        let line =
            "surroundings: nothing tells yet whether the host is slower than it was; limits stay as they are";
        wrap(text, line, "    ", "      ", width);
        return;
    };
    let factor = environment.factor;
    let line = format!("surroundings: {factor:.2} times as slow as for the good build, by {control}");
    wrap(text, &line, "    ", "      ", width);
    if let Some(ratio) = environment.violated {
        loud(text, &format!("HELD: {control} costs {ratio:.2} times what it used to"), "    ", width);
    }
}

/// The absolute budget, else the relative one.
fn budget(endpoint: &EndpointStatus) -> String {
    match (endpoint.budget_mean_cpu_seconds, endpoint.budget_vs_baseline) {
        (Some(mean), _) => seconds(Some(mean)),
        (None, Some(ratio)) => format!("x{ratio}"),
        (None, None) => "-".to_owned(),
    }
}

/// The list of incidents, newest first as the agent gives them.
pub fn incidents(incidents: &[IncidentSummary], width: usize) -> String {
    if incidents.is_empty() {
        return "No incident was recorded.\n".to_owned();
    }
    let mut text = String::new();
    for incident in incidents {
        incident_head(&mut text, incident, width);
    }
    text
}

/// One incident with its timeline.
pub fn incident(detail: &IncidentDetail, width: usize) -> String {
    let mut text = String::new();
    incident_head(&mut text, &detail.summary, width);
    // An incident that no verdict opened has none.
    if let Ok(evidence) = Evidence::deserialize(&detail.evidence) {
        text.push('\n');
        for line in evidence.details() {
            wrap(&mut text, &line, "    ", "      ", width);
        }
    }
    text.push('\n');
    for entry in &detail.timeline {
        let head = format!("{}  ", moment(entry.unix_ms));
        wrap(&mut text, &format!("{head}{}", entry.text), "", &" ".repeat(head.len()), width);
    }
    text
}

fn incident_head(text: &mut String, incident: &IncidentSummary, width: usize) {
    let endpoint = incident.endpoint.as_ref().map(|e| format!("/{e}")).unwrap_or_default();
    let good = incident.good_build.as_ref().map(|b| format!(", good build {b}")).unwrap_or_default();
    let head = format!(
        "{}  {}  {}{endpoint}  {}: {} {}{good}",
        incident.id,
        moment(incident.opened_unix_ms),
        incident.service,
        incident.state,
        role(incident),
        incident.bad_build
    );
    wrap(text, &head, "", "    ", width);
    wrap(text, &incident.sentence, "    ", "    ", width);
}

/// Columns as wide as their content; the last one is wrapped by the terminal if need be, all others never.
fn grid<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>, width: usize) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let mut widths = head.map(|title| title.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let before_last: usize = widths[..N - 1].iter().map(|w| w + 2).sum();
    let mut line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells[..N - 1].iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.push_str(cells[N - 1]);
        wrap(&mut text, line.trim_end(), "", &" ".repeat(before_last.min(width / 2)), width);
    };
    line(head);
    for row in &rows {
        line(std::array::from_fn(|i| row[i].as_str()));
    }
    text
}

fn loud(text: &mut String, line: &str, indent: &str, width: usize) {
    wrap(text, &format!("!! {line}"), indent, &format!("{indent}   "), width);
}

/// Breaks at spaces; runs of spaces inside a line are kept, a word longer than the line is not broken.
fn wrap(text: &mut String, line: &str, first_indent: &str, next_indent: &str, width: usize) {
    let mut column = first_indent.chars().count();
    text.push_str(first_indent);
    let mut at_start = true;
    let mut gap = 0;
    for word in line.split(' ') {
        if word.is_empty() {
            gap += 1;
            continue;
        }
        let length = word.chars().count();
        if !at_start && column + gap + length > width {
            text.push('\n');
            text.push_str(next_indent);
            column = next_indent.chars().count();
        } else {
            text.extend(std::iter::repeat_n(' ', gap));
            column += gap;
        }
        text.push_str(word);
        column += length;
        gap = 1;
        at_start = false;
    }
    text.push('\n');
}

fn clip(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn count(requests: u64) -> String {
    match requests {
        0..10_000_000 => requests.to_string(),
        10_000_000..10_000_000_000 => format!("{}M", requests / 1_000_000),
        _ => format!("{}G", requests / 1_000_000_000),
    }
}

/// Three significant figures with a unit, at most eight columns.
fn seconds(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let (figure, unit) = if value >= 1.0 {
        (value, "s")
    } else if value >= 1e-3 {
        (value * 1e3, "ms")
    } else {
        (value * 1e6, "us")
    };
    let decimals = if figure >= 99.95 {
        0
    } else if figure >= 9.995 {
        1
    } else {
        2
    };
    format!("{figure:.decimals$} {unit}")
}

/// The two largest units of a span.
pub fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a century")]
    let whole = seconds.clamp(0.0, 3.2e9) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m {}s", whole % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// In the time zone of whoever asks.
pub fn moment(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(
        |_| "-".to_owned(),
        |moment| moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests;
