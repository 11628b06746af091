//! `[service.rollback]`: the hook and its limits.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, Section, suggest};
use super::{RollbackConfig, defaults, matching, values};

/// What `{name}` in an argument can stand for.
pub const PLACEHOLDERS: [&str; 5] = ["good_build", "bad_build", "service", "endpoint", "incident"];

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "busybox"];

static PLACEHOLDER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{([A-Za-z_][A-Za-z0-9_]*)\}").expect("a constant expression"));

pub(super) fn read(node: &Node<'_>, findings: &mut Findings) -> Option<RollbackConfig> {
    let mut section = node.table(findings, "[service.rollback]")?;
    if let Some(webhook) = section.take("webhook") {
        webhook.fault(
            findings,
            Fault::new(
                "a webhook is not available yet in this version",
                "use exec = [\"/usr/local/bin/rollback-web\", \"{good_build}\"]",
            ),
        );
    }
    let exec = section
        .require(
            findings,
            "exec",
            "add the command that brings the good build back, for example exec = [\"/usr/local/bin/rollback-web\", \"{good_build}\"]",
        )
        .and_then(|node| {
            let argv = matching::argv(&node, findings, "[\"/usr/local/bin/rollback-web\", \"{good_build}\"]")?;
            check_placeholders(&node, &argv, findings);
            Some(argv)
        });
    let user = section.take("user").and_then(|node| node.text_as(findings, "\"deploy\"", values::account));
    let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
    let hour = Duration::from_hours(1);
    let timeout = duration(&mut section, findings, "timeout", second, hour, defaults::ROLLBACK_TIMEOUT);
    let retries = section
        .take("retries")
        .and_then(|node| node.integer(findings, 0..=10))
        .unwrap_or(defaults::ROLLBACK_RETRIES);
    let cooldown =
        duration(&mut section, findings, "cooldown", Duration::ZERO, 7 * day, defaults::ROLLBACK_COOLDOWN);
    let max_per_day = section
        .take("max_per_day")
        .and_then(|node| node.integer(findings, 1..=100))
        .unwrap_or(defaults::ROLLBACK_MAX_PER_DAY);
    let verify_within =
        duration(&mut section, findings, "verify_within", second, day, defaults::VERIFY_WITHIN);
    let dry_run = section.take("dry_run").and_then(|node| values::flag(&node, findings)).unwrap_or(false);
    section.finish(findings);
    Some(RollbackConfig {
        exec: exec?,
        user,
        timeout,
        retries,
        cooldown,
        max_per_day,
        verify_within,
        dry_run,
    })
}

fn duration(
    section: &mut Section<'_>,
    findings: &mut Findings,
    key: &'static str,
    least: Duration,
    most: Duration,
    default: Duration,
) -> Duration {
    section.take(key).and_then(|node| values::duration_node(&node, findings, least, most)).unwrap_or(default)
}

fn check_placeholders(node: &Node<'_>, argv: &[String], findings: &mut Findings) {
    let shell = argv[0].rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    for (index, argument) in argv.iter().enumerate() {
        for capture in PLACEHOLDER.captures_iter(argument) {
            let name = &capture[1];
            let fault = if !PLACEHOLDERS.contains(&name) {
                Fault::new(
                    format!("unknown placeholder {{{name}}} in {argument:?}"),
                    suggest(name, &PLACEHOLDERS),
                )
            } else if index == 0 {
                Fault::new(
                    format!("the program itself contains the placeholder {{{name}}}"),
                    "write the program's path, and pass what varies as an argument",
                )
            } else if shell && argv[index - 1].starts_with('-') && argv[index - 1].ends_with('c') {
                Fault::new(
                    format!(
                        "{{{name}}} would become part of a shell script, which a build's name must never be"
                    ),
                    format!("use \"$LOAD_WATCHDOG_{}\" in the script", name.to_ascii_uppercase()),
                )
            } else {
                continue;
            };
            node.fault(findings, fault);
        }
    }
}
