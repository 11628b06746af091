//! `[service.release_window]`: when a new build may appear.

use std::sync::LazyLock;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, list, suggest};
use super::{OnViolation, ReleaseWindow, defaults};
use crate::release::{Hours, Window};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

static ENTRY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([A-Za-z]+)(?:-([A-Za-z]+))? +(\d{1,2}:\d{2})-(\d{1,2}:\d{2})$")
        .expect("a constant expression")
});

pub(super) fn read(node: &Node<'_>, findings: &mut Findings) -> Option<ReleaseWindow> {
    let mut section = node.table(findings, "[service.release_window]")?;
    let allow = section
        .require(
            findings,
            "allow",
            "say when releases are allowed, for example allow = [\"Mon-Thu 20:00-23:59\"]",
        )
        .and_then(|node| node.texts(findings, "[\"Mon-Thu 20:00-23:59\"]"));
    let windows: Option<Vec<Window>> = allow
        .iter()
        .flatten()
        .map(|(text, node)| node.check(findings, entry(text)))
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    let zone = section
        .take("timezone")
        .and_then(|node| node.text_as(findings, "\"Australia/Melbourne\"", timezone))
        .unwrap_or_else(|| (defaults::TIMEZONE.to_owned(), TimeZone::UTC));
    let on_violation = section
        .take("on_violation")
        .and_then(|node| {
            let chosen =
                node.choice(findings, &[("alert", OnViolation::Alert), ("rollback", OnViolation::Rollback)]);
            if chosen == Some(OnViolation::Rollback) {
                findings.warn(&node.path, &node.span(), "checked, but not acted on in this version");
            }
            chosen
        })
        .unwrap_or(defaults::ON_VIOLATION);
    section.finish(findings);
    let (timezone, zone) = zone;
    let allow = allow?.into_iter().map(|(text, _)| text.to_owned()).collect();
    Some(ReleaseWindow { allow, timezone, on_violation, hours: Hours::new(windows?, zone) })
}

fn entry(text: &str) -> Result<Window, Fault> {
    let parts = ENTRY.captures(text).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is not a window"),
            "write days and times such as \"Mon-Thu 20:00-23:59\" or \"Sun 00:00-23:59\"",
        )
    })?;
    let first = day(&parts[1])?;
    let last = parts.get(2).map_or(Ok(first), |last| day(last.as_str()))?;
    let time = |text: &str| {
        Time::strptime("%H:%M", text).map_err(|_| {
            Fault::new(format!("\"{text}\" is not a time of day"), "write it from 00:00 to 23:59")
        })
    };
    let (begin, end) = (time(&parts[3])?, time(&parts[4])?);
    if end <= begin {
        return Err(Fault::new(
            format!("{text:?} ends before it begins"),
            "for a window past midnight, write two: one until 23:59 and one from 00:00 on the next day",
        ));
    }
    Ok(Window::new(first, last, begin, end))
}

fn day(text: &str) -> Result<Weekday, Fault> {
    let index = (0..).zip(DAYS).find(|(_, name)| *name == text).map(|(index, _)| index);
    let day = index.and_then(|index| Weekday::from_monday_zero_offset(index).ok());
    day.ok_or_else(|| Fault::new(format!("\"{text}\" is not a day"), suggest(text, &DAYS)))
}

fn timezone(text: &str) -> Result<(String, TimeZone), Fault> {
    if let Ok(zone) = jiff::tz::db().get(text) {
        return Ok((text.to_owned(), zone));
    }
    let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let examples = ["Australia/Melbourne", "Europe/Vienna", "UTC"];
    let remedy = match suggest(text, &known) {
        near if text.contains('/') && near.starts_with("did you mean") => near,
        _ => format!("write a name of the time zone database, such as {}", list(&examples)),
    };
    Err(Fault::new(format!("{text:?} is not a time zone"), remedy))
}
