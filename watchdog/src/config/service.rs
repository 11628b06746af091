//! `[[service]]`: which processes, how judged and by whose leave.

use std::time::Duration;

use watchdog_common::abi;

use super::error::{Fault, Findings};
use super::section::{Node, Section};
use super::{Mode, Protocol, ServiceConfig, defaults, endpoint, matching, rollback, values, window};
use crate::model::{ServiceName, Uprobes};

pub(super) fn read_all(root: &mut Section<'_>, findings: &mut Findings) -> Vec<ServiceConfig> {
    let remedy = "add a [[service]] with a name, a match and an endpoint";
    let Some(node) = root.take("service") else {
        root.fault(findings, Fault::new("there is no [[service]]: nothing would be watched", remedy));
        return Vec::new();
    };
    let sections = node.tables(findings, "[[service]] with name = \"web\"");
    let most = abi::MAX_SERVICES as usize;
    if node.value().is_array() && (sections.is_empty() || sections.len() > most) {
        let found = sections.len();
        node.fault(
            findings,
            Fault::new(format!("{found} services"), format!("there must be from 1 to {most}")),
        );
    }
    let mut services: Vec<ServiceConfig> = Vec::new();
    for mut section in sections {
        if let Some(service) = read(&mut section, findings) {
            if services.iter().any(|other| other.name == service.name) {
                section.fault(
                    findings,
                    Fault::new(
                        format!("a second service with the name \"{}\"", service.name),
                        "every service needs a name of its own",
                    ),
                );
            }
            services.push(service);
        }
        section.finish(findings);
    }
    services
}

fn read(section: &mut Section<'_>, findings: &mut Findings) -> Option<ServiceConfig> {
    let name = section
        .require(findings, "name", "add for example name = \"web\"")
        .and_then(|node| node.text_as(findings, "\"web\"", values::name));
    if let Some(name) = &name {
        section.rename(format!("service[{name}]"));
    }
    let matcher = section
        .require(
            findings,
            "match",
            "say which processes belong to it, for example match = { unit = \"web.service\" }",
        )
        .and_then(|node| matching::read_match(&node, findings));
    let build = section
        .take("build")
        .and_then(|node| matching::read_build(&node, findings))
        .unwrap_or(defaults::BUILD);
    let protocol =
        section.take("protocol").and_then(|node| protocol(&node, findings)).unwrap_or(defaults::PROTOCOL);
    let uprobes =
        section.take("uprobes").and_then(|node| uprobes(&node, findings)).unwrap_or(defaults::UPROBES);
    let warmup_factor = section.take("warmup_factor").and_then(|node| {
        let number = node.number(findings, "4")?;
        node.check(findings, warmup_factor(number))
    });
    let mode = section.take("mode");
    let mode_span = mode.as_ref().map(Node::span);
    let mode = mode.and_then(|node| node.choice(findings, &MODES)).unwrap_or(defaults::MODE);
    let guard_for = section
        .take("guard_for")
        .and_then(|node| {
            values::duration_node(&node, findings, Duration::from_secs(1), Duration::from_hours(30 * 24))
        })
        .unwrap_or(defaults::GUARD_FOR);
    let false_rollback_rate = section
        .take("false_rollback_rate")
        .and_then(|node| {
            let number = node.number(findings, "0.001")?;
            node.check(findings, false_rollback_rate(number))
        })
        .unwrap_or(defaults::FALSE_ROLLBACK_RATE);
    let endpoints = endpoint::read_all(section, findings);
    let release_window = section.take("release_window").and_then(|node| window::read(&node, findings));
    let rollback_node = section.take("rollback");
    if let (Mode::Approve | Mode::Enforce, Some(span), None) = (mode, mode_span, &rollback_node) {
        findings.error(
            &section.path_of("mode"),
            &span,
            Fault::new(
                "there is nothing to run in this mode",
                "add a [service.rollback] with exec = [..] below the service, or use mode = \"observe\"",
            ),
        );
    }
    let rollback = rollback_node.and_then(|node| rollback::read(&node, findings));
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.budget == super::Budget::default()) {
        findings.warn(
            section.path(),
            &section.span(),
            "no endpoint has a budget: the service is measured, but nothing can exceed",
        );
    }
    Some(ServiceConfig {
        name: ServiceName::from(name?),
        matcher: matcher?,
        build,
        protocol,
        uprobes,
        warmup_factor,
        mode,
        guard_for,
        false_rollback_rate,
        endpoints,
        release_window,
        rollback,
    })
}

const MODES: [(&str, Mode); 3] =
    [("observe", Mode::Observe), ("approve", Mode::Approve), ("enforce", Mode::Enforce)];

fn protocol(node: &Node<'_>, findings: &mut Findings) -> Option<Protocol> {
    /// Protocols that later versions bring; ignoring the wish would leave the service unmeasured without a word.
    const LATER: [&str; 5] = ["scgi", "http2", "grpc", "ajp", "tls"];
    if let Some(text) = node.value().as_str()
        && LATER.contains(&text)
    {
        node.fault(
            findings,
            Fault::new(
                format!("\"{text}\" is not available yet in this version"),
                "use \"auto\", and watch the server behind which speaks HTTP/1, FastCGI or uwsgi",
            ),
        );
        return None;
    }
    node.choice(
        findings,
        &[
            ("auto", Protocol::Auto),
            ("http1", Protocol::Http1),
            ("fastcgi", Protocol::Fastcgi),
            ("uwsgi", Protocol::Uwsgi),
        ],
    )
}

fn uprobes(node: &Node<'_>, findings: &mut Findings) -> Option<Uprobes> {
    const KINDS: [(&str, Uprobes); 2] =
        [("pool", Uprobes { pool: true, tls: false }), ("tls", Uprobes { pool: false, tls: true })];
    let kinds = node.texts(findings, "[\"pool\", \"tls\"]")?;
    let kinds = kinds.iter().map(|(_, kind)| kind.choice(findings, &KINDS)).collect::<Vec<_>>();
    kinds.into_iter().try_fold(Uprobes::NONE, |all, kind| Some(all.or(kind?)))
}

fn warmup_factor(number: f64) -> Result<f64, Fault> {
    if (1.0..=100.0).contains(&number) {
        return Ok(number);
    }
    Err(Fault::new(
        format!("{number} is no warm-up that can be worked with"),
        "it must be from 1 (no warm-up) to 100; 4 lets the first requests of a process cost four times their budget",
    ))
}

fn false_rollback_rate(number: f64) -> Result<f64, Fault> {
    if number > 0.0 && number < 0.5 {
        return Ok(number);
    }
    Err(Fault::new(
        format!("{number} is no probability that can be worked with"),
        "it must be over 0 and below 0.5; 0.001 is one needless rollback in 1000 deploys",
    ))
}
