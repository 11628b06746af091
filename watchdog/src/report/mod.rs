//! The review of an incident as one HTML page: what was seen, what was decided, what was run, how it ended.
//!
//! The page needs nothing beside itself (no script, no font, no other file), so that it can be mailed and kept. Whatever comes
//! from outside (names of builds, what a hook printed) is written out by [`crate::text`] and then escaped by the template.

use std::fmt::Write as _;

use askama::Template;
use serde::Deserialize as _;

use crate::control::IncidentDetail;
use crate::control::table::{moment, role};
use crate::text;
use crate::verdict::{Evidence, cpu};

/// Width of the longest bar, in the picture's own units.
const BARS: f64 = 780.0;
/// From one bar to the next.
const ROW: f64 = 48.0;

#[derive(Debug, Template)]
#[template(path = "incident.html")]
struct Page {
    id: String,
    place: String,
    role: &'static str,
    bad_build: String,
    good_build: Option<String>,
    state: String,
    /// `good`, `open` or `bad`: its colour.
    mood: &'static str,
    opened: String,
    sentence: String,
    facts: Vec<String>,
    chart: Option<Chart>,
    timeline: Vec<Entry>,
    evidence: String,
    version: &'static str,
}

#[derive(Debug)]
struct Entry {
    at: String,
    text: String,
}

/// CPU time per request, as bars from zero.
#[derive(Debug)]
struct Chart {
    what: String,
    height: f64,
    bars: Vec<Bar>,
    limit_x: f64,
    limit: String,
}

#[derive(Debug)]
struct Bar {
    label: String,
    y: f64,
    width: f64,
    interval: Option<Interval>,
    /// Of the build that the incident is about.
    bad: bool,
}

/// 95 %, along the bar.
#[derive(Debug)]
struct Interval {
    from: f64,
    to: f64,
    /// Its upper end is in the picture.
    ends: bool,
}

/// The page of one incident.
///
/// # Errors
/// None that the figures could cause; what [`askama`] itself reports.
pub fn html(detail: &IncidentDetail) -> Result<String, askama::Error> {
    let incident = &detail.summary;
    let shown = |text: &str| text::line(text).into_owned();
    // An incident that no verdict opened has none.
    let evidence = Evidence::deserialize(&detail.evidence).ok();
    let place = match &incident.endpoint {
        Some(endpoint) => format!("{}/{endpoint}", incident.service),
        None => incident.service.to_string(),
    };
    Page {
        id: shown(&incident.id),
        place: shown(&place),
        role: role(incident),
        bad_build: shown(incident.bad_build.as_str()),
        good_build: incident.good_build.as_ref().map(|build| shown(build.as_str())),
        state: shown(&incident.state).replace('_', " "),
        mood: mood(&incident.state),
        opened: moment(incident.opened_unix_ms),
        sentence: shown(&incident.sentence),
        facts: evidence.iter().flat_map(Evidence::details).map(|line| shown(&line)).collect(),
        chart: evidence.as_ref().map(chart),
        timeline: detail
            .timeline
            .iter()
            .map(|entry| Entry { at: moment(entry.unix_ms), text: shown(&entry.text) })
            .collect(),
        evidence: text::json(&serde_json::to_string_pretty(&detail.evidence).unwrap_or_default())
            .into_owned(),
        version: env!("CARGO_PKG_VERSION"),
    }
    .render()
}

fn mood(state: &str) -> &'static str {
    match state {
        "recovered" | "closed" => "good",
        "escalated" => "bad",
        _ => "open",
    }
}

/// The bad build beside its limit and beside what it was compared with.
fn chart(evidence: &Evidence) -> Chart {
    let own =
        (format!("build {}", evidence.build), evidence.mean_cpu_seconds, evidence.interval_cpu_seconds, true);
    let estimated = evidence.estimate.as_ref().map(|estimate| {
        let label = format!("build {}, estimated from CPU time and counts alone", evidence.build);
        (label, estimate.mean_cpu_seconds, Some(estimate.interval_cpu_seconds), true)
    });
    let good = evidence
        .baseline
        .as_ref()
        .map(|baseline| (format!("good build {}", baseline.build), baseline.mean_cpu_seconds, None, false));
    let figures: Vec<_> = [Some(own), estimated, good].into_iter().flatten().collect();
    let limit = evidence.limit_cpu_seconds;
    // An interval may reach far beyond everything that matters.
    let means = figures.iter().map(|(_, mean, ..)| *mean).fold(limit, f64::max);
    let widest = figures.iter().filter_map(|(.., interval, _)| *interval).map(|(_, upper)| upper);
    let longest = widest.fold(means, f64::max).min(3.0 * means).max(f64::MIN_POSITIVE);
    let x = |seconds: f64| BARS * (seconds / longest).clamp(0.0, 1.0);
    let bars = figures.iter().zip(0_u32..).map(|((label, mean, interval, bad), row)| {
        let (mut label, mean) = (format!("{}: {}", text::line(label), cpu(*mean)), *mean);
        if let Some((lower, upper)) = interval {
            let _ = write!(label, " ({} to {})", cpu(*lower), cpu(*upper));
        }
        let interval =
            interval.map(|(lower, upper)| Interval { from: x(lower), to: x(upper), ends: upper <= longest });
        Bar { label, y: ROW * f64::from(row), width: x(mean), interval, bad: *bad }
    });
    let bars: Vec<Bar> = bars.collect();
    Chart {
        what: format!("CPU per {}", text::line(&evidence.request())),
        height: ROW * bars.len() as f64 + 24.0,
        bars,
        limit_x: x(limit),
        limit: cpu(limit),
    }
}

#[cfg(test)]
mod tests;
