//! `[service.release_window]`: when a new build may appear.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, list, suggest};
use super::{OnViolation, ReleaseWindow, defaults, values};
use crate::release::{Freeze, Hours, Window};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

static ENTRY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([A-Za-z]+)(?:-([A-Za-z]+))? +(\d{1,2}:\d{2})-(\d{1,2}:\d{2})$")
        .expect("a constant expression")
});

static FREEZE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(\d{4}-\d{2}-\d{2})(?:\.\.(\d{4}-\d{2}-\d{2}))?$").expect("a constant expression")
});

/// Nobody freezes releases for longer: the year is mistyped.
const LONGEST_FREEZE_DAYS: i32 = 366;
/// The agent counts requests for so long.
pub(crate) const LONGEST_USERS_WITHIN: Duration = Duration::from_hours(1);

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
            node.choice(findings, &[("alert", OnViolation::Alert), ("rollback", OnViolation::Rollback)])
        })
        .unwrap_or(defaults::ON_VIOLATION);
    let users_within = section
        .take("users_within")
        .and_then(|node| values::duration_node(&node, findings, Duration::from_secs(1), LONGEST_USERS_WITHIN))
        .unwrap_or(defaults::USERS_WITHIN);
    let frozen = section.take("freezes").and_then(|node| freezes(&node, findings));
    section.finish(findings);
    let (timezone, zone) = zone;
    let allow = allow?.into_iter().map(|(text, _)| text.to_owned()).collect();
    let freezes = frozen.unwrap_or_default();
    let hours = Hours::new(windows?, zone).with_freezes(freezes.clone());
    Some(ReleaseWindow { allow, freezes, timezone, on_violation, users_within, hours })
}

fn freezes(node: &Node<'_>, findings: &mut Findings) -> Option<Vec<Freeze>> {
    if node.value().as_array().is_some_and(|array| array.is_empty()) {
        return None;
    }
    let texts = node.texts(findings, "[\"2026-12-20..2027-01-05\"]")?;
    texts
        .into_iter()
        .map(|(text, node)| node.check(findings, freeze(text)))
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

fn freeze(text: &str) -> Result<Freeze, Fault> {
    let parts = FREEZE.captures(text).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is not a freeze"),
            "write a day such as \"2026-11-27\", or the first and the last one such as \"2026-12-20..2027-01-05\"",
        )
    })?;
    let date = |text: &str| {
        text.parse::<Date>().map_err(|_| {
            Fault::new(format!("\"{text}\" is not a day of the calendar"), "write it as year-month-day")
        })
    };
    let first = date(&parts[1])?;
    let last = parts.get(2).map_or(Ok(first), |last| date(last.as_str()))?;
    if last < first {
        let remedy = format!("the first day comes first: \"{last}..{first}\"");
        return Err(Fault::new(format!("{text:?} ends before it begins"), remedy));
    }
    let days = first.until(last).map_or(i32::MAX, |span| span.get_days());
    if days >= LONGEST_FREEZE_DAYS {
        return Err(Fault::new(
            format!("{text:?} is longer than a year"),
            "check the years; if it is meant, write a freeze for each of them",
        ));
    }
    Ok(Freeze { first, last })
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
