//! `[[service.endpoint]]`: which requests, and what they may cost.

use std::collections::HashMap;
use std::time::Duration;

use watchdog_common::abi;

use super::error::{Fault, Findings};
use super::section::{Node, Section};
use super::{Budget, EndpointConfig, values};
use crate::model::EndpointName;

const MAX_METHOD_BYTES: usize = 8;
const LEAST_CPU: Duration = Duration::from_micros(1);
const MOST_CPU: Duration = Duration::from_hours(1);

pub(super) fn read_all(service: &mut Section<'_>, findings: &mut Findings) -> Vec<EndpointConfig> {
    let example = "[[service.endpoint]] with name = \"login\", path = \"/login\"";
    let Some(node) = service.require(
        findings,
        "endpoint",
        "add a [[service.endpoint]] below the service: only requests of an endpoint are judged",
    ) else {
        return Vec::new();
    };
    let sections = node.tables(findings, example);
    let most = abi::MAX_ENDPOINTS as usize - 1;
    if sections.is_empty() || sections.len() > most {
        let found = sections.len();
        node.fault(
            findings,
            Fault::new(format!("{found} endpoints"), format!("a service has from 1 to {most} endpoints")),
        );
    }
    let mut endpoints: Vec<EndpointConfig> = Vec::new();
    for mut section in sections {
        let Some(endpoint) = read(&mut section, service.path(), findings) else {
            section.finish(findings);
            continue;
        };
        check_against(&endpoint, &endpoints, &section, findings);
        section.finish(findings);
        endpoints.push(endpoint);
    }
    check_masks(&endpoints, &node, findings);
    endpoints
}

/// Bit `i` is set when segment `i` of the pattern is `*`.
pub fn wildcard_mask(path: &str) -> u32 {
    segments(path)
        .enumerate()
        .filter(|(index, segment)| *segment == "*" && *index < 32)
        .fold(0, |mask, (index, _)| mask | 1 << index)
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn read(section: &mut Section<'_>, service: &str, findings: &mut Findings) -> Option<EndpointConfig> {
    let name = section
        .require(findings, "name", "add for example name = \"login\"")
        .and_then(|node| node.text_as(findings, "\"login\"", name));
    if let Some(name) = &name {
        section.rename(format!("{service}.endpoint[{name}]"));
    }
    let path = section
        .require(findings, "path", "add the path of its requests, for example path = \"/login\"")
        .and_then(|node| node.text_as(findings, "\"/login\"", pattern));
    let method = section.take("method").and_then(|node| node.text_as(findings, "\"POST\"", method));
    let budget = section.take("budget").and_then(|node| self::budget(&node, findings)).unwrap_or_default();
    let control = section.take("control");
    let is_control = control.as_ref().and_then(|node| values::flag(node, findings)).unwrap_or(false);
    if let Some(node) = control.filter(|_| is_control && budget != Budget::default()) {
        node.fault(
            findings,
            Fault::new(
                "an endpoint with a budget cannot be a control as well",
                "remove one of the two: a control is what the service's changes do not touch",
            ),
        );
    }
    Some(EndpointConfig { name: EndpointName::from(name?), method, path: path?, control: is_control, budget })
}

fn name(text: &str) -> Result<String, Fault> {
    if text == EndpointName::other().as_str() {
        return Err(Fault::new(
            "\"other\" is the name of the requests that match no endpoint",
            "choose another name",
        ));
    }
    values::name(text)
}

fn method(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.len() > MAX_METHOD_BYTES || !text.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(Fault::new(
            format!("{text:?} is not a method"),
            format!(
                "write one of at most {MAX_METHOD_BYTES} letters such as \"POST\", or leave it out for any"
            ),
        ));
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(Fault::new(
            format!("methods are case-sensitive and \"{text}\" is not in upper case"),
            format!("write \"{upper}\""),
        ));
    }
    Ok(upper)
}

fn pattern(text: &str) -> Result<String, Fault> {
    let fault = |problem: String, remedy: &str| Err(Fault::new(problem, remedy));
    if text.contains("://") {
        return fault(format!("{text:?} is a whole address"), "write only its path, such as \"/login\"");
    }
    if !text.starts_with('/') {
        return fault(format!("{text:?} does not start with '/'"), "write for example \"/login\"");
    }
    if let Some(cut) = text.find(['?', '#']) {
        return Err(Fault::new(
            format!("{text:?} has a query string or fragment, which is not matched"),
            format!("write \"{}\"", &text[..cut]),
        ));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fault(
            format!("{text:?} has a character that never travels in a request line"),
            "write it percent-encoded, as the client sends it",
        );
    }
    if text.len() > abi::MAX_PATTERN_BYTES {
        return Err(Fault::new(
            format!("the path has {} bytes", text.len()),
            format!("at most {}; put * for the segments that vary", abi::MAX_PATTERN_BYTES),
        ));
    }
    let count = segments(text).count();
    if count > abi::MAX_SEGMENTS as usize {
        return Err(Fault::new(
            format!("the path has {count} segments"),
            format!("at most {}", abi::MAX_SEGMENTS),
        ));
    }
    if let Some(segment) = segments(text).find(|segment| segment.contains('*') && *segment != "*") {
        return fault(
            format!("'*' is only a part of the segment {segment:?}"),
            "'*' stands for one whole segment, as in \"/api/*/login\"",
        );
    }
    Ok(text.to_owned())
}

/// Names must differ, and no request may belong to two endpoints in a way that nobody would expect.
fn check_against(
    endpoint: &EndpointConfig,
    earlier: &[EndpointConfig],
    section: &Section<'_>,
    findings: &mut Findings,
) {
    if earlier.iter().any(|other| other.name == endpoint.name) {
        section.fault(
            findings,
            Fault::new(
                format!("a second endpoint with the name \"{}\"", endpoint.name),
                "every endpoint of a service needs a name of its own",
            ),
        );
    }
    if let Some(other) = earlier.iter().find(|other| collide(endpoint, other)) {
        section.fault(
            findings,
            Fault::new(
                format!("some requests match both this and endpoint \"{}\" ({})", other.name, other.path),
                "make one of the paths more specific than the other, or give them different methods",
            ),
        );
    }
}

/// Whether some request matches both and neither pattern is the more specific one.
///
/// A literal segment beats `*`, and a named method beats any method at the same path pattern.
fn collide(a: &EndpointConfig, b: &EndpointConfig) -> bool {
    let methods_overlap = a.method.is_none() || b.method.is_none() || a.method == b.method;
    let paths_overlap = segments(&a.path).count() == segments(&b.path).count()
        && segments(&a.path).zip(segments(&b.path)).all(|(x, y)| x == y || x == "*" || y == "*");
    if !methods_overlap || !paths_overlap {
        return false;
    }
    let (mask_a, mask_b) = (wildcard_mask(&a.path), wildcard_mask(&b.path));
    if mask_a == mask_b {
        return a.method == b.method;
    }
    mask_a & mask_b != mask_a && mask_a & mask_b != mask_b
}

fn check_masks(endpoints: &[EndpointConfig], node: &Node<'_>, findings: &mut Findings) {
    let mut masks: HashMap<u32, &str> = HashMap::new();
    for endpoint in endpoints {
        masks.entry(wildcard_mask(&endpoint.path)).or_insert(&endpoint.path);
    }
    if masks.len() > abi::MAX_WILDCARD_MASKS {
        let mut examples: Vec<&str> = masks.into_values().collect();
        examples.sort_unstable();
        node.fault(
            findings,
            Fault::new(
                format!(
                    "the paths have '*' at {} different sets of positions ({})",
                    examples.len(),
                    examples.join(", ")
                ),
                format!(
                    "at most {} sets per service, paths without '*' being one of them; watch fewer endpoints",
                    abi::MAX_WILDCARD_MASKS
                ),
            ),
        );
    }
}

fn budget(node: &Node<'_>, findings: &mut Findings) -> Option<Budget> {
    let mut section = node.table(findings, "{ mean_cpu = \"80ms\" }")?;
    let mean_node = section.take("mean_cpu");
    let (peak, host) = (section.take("peak_rate"), section.take("max_host_share"));
    let ratio = section.take("vs_baseline");
    let mut quantile_cpu: Vec<(f64, Duration)> = Vec::new();
    for (key, node) in section.rest() {
        if let Some(p) = quantile_of(key) {
            quantile_cpu.extend(cpu_limit(&node, findings).map(|limit| (p, limit)));
        } else if is_quantile_like(key) {
            let problem = format!("`{key}` is not a quantile that can be watched");
            node.fault(
                findings,
                Fault::new(problem, "it can be `p50_cpu` to `p99_cpu`, or `p999_cpu` for 99.9 %"),
            );
        }
    }
    quantile_cpu.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let Some(pair) = quantile_cpu.windows(2).find(|pair| pair[1].1 < pair[0].1) {
        section.fault(
            findings,
            Fault::new(
                format!("the limit at {} is below the limit at {}", percent(pair[1].0), percent(pair[0].0)),
                "a higher quantile cannot have a lower limit",
            ),
        );
    }
    if section.is_empty() {
        section.fault(
            findings,
            Fault::new(
                "the budget has nothing in it",
                "add for example mean_cpu = \"80ms\" or vs_baseline = 1.3, or leave `budget` out to measure only",
            ),
        );
    }
    match (&peak, &host) {
        (Some(node), None) => node.fault(
            findings,
            Fault::new("`peak_rate` says nothing without `max_host_share`", "add max_host_share = 0.25"),
        ),
        (None, Some(node)) => node.fault(
            findings,
            Fault::new(
                "`max_host_share` needs the rate at which the peak comes",
                "add peak_rate = 40.0 (requests per second at the busiest time), or \"auto\" to learn it",
            ),
        ),
        _ => {}
    }
    let learn_peak_rate = peak.as_ref().is_some_and(is_auto);
    let result = Budget {
        mean_cpu: mean_node.and_then(|node| cpu_limit(&node, findings)),
        quantile_cpu,
        vs_baseline: ratio.and_then(|node| {
            let number = node.number(findings, "1.3")?;
            node.check(findings, baseline_ratio(number))
        }),
        peak_rate: peak.filter(|node| !is_auto(node)).and_then(|node| peak_rate(&node, findings)),
        learn_peak_rate,
        max_host_share: host.and_then(|node| {
            let number = node.number(findings, "0.25")?;
            node.check(findings, values::share(number))
        }),
    };
    // Asked for last, so that the message about an unknown key can offer one of them.
    section.take("p99_cpu");
    section.finish_with(findings, |key| quantile_of(key).is_some() || is_quantile_like(key));
    Some(result)
}

/// `p50_cpu` to `p99_cpu`, and `p999_cpu` for 99.9 %.
fn quantile_of(key: &str) -> Option<f64> {
    let digits = key.strip_prefix('p')?.strip_suffix("_cpu")?;
    match (digits.len(), digits.parse::<u16>().ok()?) {
        (2, percent @ 50..=99) => Some(f64::from(percent) / 100.0),
        (3, 999) => Some(0.999),
        _ => None,
    }
}

/// A key that means a quantile, whichever.
fn is_quantile_like(key: &str) -> bool {
    key.strip_prefix('p').and_then(|rest| rest.strip_suffix("_cpu")).is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    })
}

fn percent(p: f64) -> String {
    format!("{} %", (p * 1000.0).round() / 10.0)
}

fn cpu_limit(node: &Node<'_>, findings: &mut Findings) -> Option<Duration> {
    values::duration_node(node, findings, LEAST_CPU, MOST_CPU)
}

fn baseline_ratio(number: f64) -> Result<f64, Fault> {
    if number > 1.0 && number <= 1000.0 {
        return Ok(number);
    }
    Err(Fault::new(
        format!("{number} would condemn a build that costs the same as the last good one"),
        "it must be over 1 (1.3 allows 30 % more) and at most 1000",
    ))
}

fn is_auto(node: &Node<'_>) -> bool {
    node.value().as_str() == Some("auto")
}

fn peak_rate(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    let number = node.number(findings, "40.0")?;
    if number > 0.0 && number <= 1e7 {
        return Some(number);
    }
    node.fault(
        findings,
        Fault::new(
            format!("{number} is not a rate"),
            "write the requests per second at the busiest time, such as 40.0",
        ),
    );
    None
}
