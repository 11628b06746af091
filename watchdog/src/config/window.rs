//! `[service.release_window]`: when a new build may appear.

use std::sync::LazyLock;

use jiff::civil::Time;
use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, list, suggest};
use super::{OnViolation, ReleaseWindow, defaults};

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
    for (text, node) in allow.iter().flatten() {
        node.check(findings, entry(text));
    }
    let timezone = section
        .take("timezone")
        .and_then(|node| node.text_as(findings, "\"Australia/Melbourne\"", timezone))
        .unwrap_or_else(|| defaults::TIMEZONE.to_owned());
    let on_violation = section
        .take("on_violation")
        .and_then(|node| {
            node.choice(findings, &[("alert", OnViolation::Alert), ("rollback", OnViolation::Rollback)])
        })
        .unwrap_or(defaults::ON_VIOLATION);
    findings.warn(&node.path, &node.span(), "checked, but not acted on in this version");
    section.finish(findings);
    let allow = allow?.into_iter().map(|(text, _)| text.to_owned()).collect();
    Some(ReleaseWindow { allow, timezone, on_violation })
}

fn entry(text: &str) -> Result<(), Fault> {
    let parts = ENTRY.captures(text).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is not a window"),
            "write days and times such as \"Mon-Thu 20:00-23:59\" or \"Sun 00:00-23:59\"",
        )
    })?;
    for day in [parts.get(1), parts.get(2)].into_iter().flatten().map(|day| day.as_str()) {
        if !DAYS.contains(&day) {
            return Err(Fault::new(format!("\"{day}\" is not a day"), suggest(day, &DAYS)));
        }
    }
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
    Ok(())
}

fn timezone(text: &str) -> Result<String, Fault> {
    if jiff::tz::db().get(text).is_ok() {
        return Ok(text.to_owned());
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
