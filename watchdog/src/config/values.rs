//! Single values: what each may be, and the message when it is not.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use tracing_subscriber::EnvFilter;

use super::error::{Fault, Findings};
use super::section::{Node, suggest};

/// Names become labels of metrics and words of a command line.
pub(super) const MAX_NAME_BYTES: usize = 64;

const LOG_LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn name(text: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() {
        return Err(Fault::new("the name is empty", "give it a name such as \"web\""));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(Fault::new(
            format!("the name has {} bytes", text.len()),
            format!("at most {MAX_NAME_BYTES}, for it becomes a label of every metric"),
        ));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(fits) {
        return Err(Fault::new(
            format!("{text:?} is not a name"),
            "use letters, digits, '.', '_' and '-', beginning with a letter or digit, for it becomes a label of every metric",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn account(text: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.chars().all(fits) {
        return Err(Fault::new(
            format!("{text:?} is not the name of a user or group"),
            "write a name such as \"deploy\" or \"adm\"",
        ));
    }
    Ok(text.to_owned())
}

/// "80ms", "1h 30m"; between the two bounds.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Fault> {
    let examples = "a number with its unit, such as \"80ms\", \"120s\", \"30m\" or \"24h\"";
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(Fault::new(
            format!("\"{text}\" has no unit"),
            format!("write \"{text}ms\", \"{text}s\", \"{text}m\" or \"{text}h\", whichever is meant"),
        ));
    }
    if text.trim_start().starts_with('-') {
        return Err(Fault::new(format!("\"{text}\" is negative"), format!("write {examples}")));
    }
    let parsed = SpanParser::new().parse_unsigned_duration(text).map_err(|_| {
        let days = text.trim_end().ends_with(['d', 'w']) || text.contains("day") || text.contains("week");
        if days {
            Fault::new(
                format!("\"{text}\" is given in days or weeks, whose length varies"),
                "write it in hours, such as \"24h\"",
            )
        } else {
            Fault::new(format!("\"{text}\" is not a duration"), format!("write {examples}"))
        }
    })?;
    if parsed < least || parsed > most {
        return Err(Fault::new(
            format!("\"{text}\" is out of range"),
            format!("it must be from {} to {}", show(least), show(most)),
        ));
    }
    Ok(parsed)
}

fn show(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |d| format!("{d:#}"))
}

/// A duration under a key; a bare number gets the message about its missing unit.
pub(super) fn duration_node(
    node: &Node<'_>,
    findings: &mut Findings,
    least: Duration,
    most: Duration,
) -> Option<Duration> {
    match node.value() {
        toml::de::DeValue::Integer(integer) => node.check(findings, duration(integer.as_str(), least, most)),
        toml::de::DeValue::Float(float) => node.check(findings, duration(float.as_str(), least, most)),
        _ => node.text_as(findings, "\"30s\"", |text| duration(text, least, most)),
    }
}

/// `true` or `false`.
pub(super) fn flag(node: &Node<'_>, findings: &mut Findings) -> Option<bool> {
    let flag = node.value().as_bool();
    if flag.is_none() {
        node.wrong_type(findings, "true or false", "true");
    }
    flag
}

pub(super) fn absolute_path(text: &str, example: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Fault::new(
            format!("{text:?} is not an absolute path"),
            format!("write it from the root, such as \"{example}\""),
        ));
    }
    if text.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        return Err(Fault::new(
            format!("{text:?} contains '..' or a zero byte"),
            format!("write the path as it is, such as \"{example}\""),
        ));
    }
    Ok(path.to_owned())
}

pub(super) fn loopback(text: &str) -> Result<SocketAddr, Fault> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Fault::new(
            format!("{text:?} is not an address with a port"),
            "write for example \"127.0.0.1:9847\" or \"[::1]:9847\"",
        )
    })?;
    loopback_address(address)
}

pub(super) fn loopback_address(address: SocketAddr) -> Result<SocketAddr, Fault> {
    if !address.ip().is_loopback() {
        return Err(Fault::new(
            format!("{address} can be reached from other hosts, but metrics are plain HTTP without a login"),
            format!(
                "listen on \"127.0.0.1:{}\" and let a reverse proxy or an agent on this host pass them on",
                address.port()
            ),
        ));
    }
    if address.port() == 0 {
        return Err(Fault::new("port 0 is no fixed port", "choose one, such as 9847"));
    }
    Ok(address)
}

/// A share of something: over 0 and at most 1.
pub(super) fn share(number: f64) -> Result<f64, Fault> {
    if number > 0.0 && number <= 1.0 {
        return Ok(number);
    }
    let percent = if number > 1.0 && number <= 100.0 {
        format!("; for {number} % write {}", number / 100.0)
    } else {
        String::new()
    };
    Err(Fault::new(format!("{number} is not a share"), format!("it must be over 0 and at most 1{percent}")))
}

/// A level, or the filter language of `tracing-subscriber`: `info,watchdog::kernel=debug`.
pub(super) fn log_filter(text: &str) -> Result<String, Fault> {
    for directive in text.split(',').map(str::trim) {
        let is_level = LOG_LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive));
        if !is_level && !directive.contains('=') {
            return Err(Fault::new(
                format!("{directive:?} is not a log level"),
                suggest(directive, &LOG_LEVELS),
            ));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| {
        Fault::new(
            format!("{text:?} is not a log filter ({error})"),
            "write a level such as \"info\", or levels per module such as \"info,watchdog::kernel=debug\"",
        )
    })
}
