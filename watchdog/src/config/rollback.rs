//! `[service.rollback]`: the hooks and their limits.

use std::time::Duration;

use super::error::Findings;
use super::section::{Node, Section};
use super::{RollbackConfig, defaults, hook, values};

pub(super) fn read(node: &Node<'_>, findings: &mut Findings) -> Option<RollbackConfig> {
    let mut section = node.table(findings, "[service.rollback]")?;
    let rollback = hook::read(&mut section, findings, defaults::ROLLBACK_TIMEOUT);
    let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
    let cooldown =
        duration(&mut section, findings, "cooldown", Duration::ZERO, 7 * day, defaults::ROLLBACK_COOLDOWN);
    let max_per_day = section
        .take("max_per_day")
        .and_then(|node| node.integer(findings, 1..=100))
        .unwrap_or(defaults::ROLLBACK_MAX_PER_DAY);
    let verify_within =
        duration(&mut section, findings, "verify_within", second, day, defaults::VERIFY_WITHIN);
    let dry_run = section.take("dry_run").and_then(|node| values::flag(&node, findings)).unwrap_or(false);
    let mut beside = |key| section.take(key).and_then(|node| hook::read_table(&node, findings));
    let (pre, post, escalate) = (beside("pre"), beside("post"), beside("escalate"));
    section.finish(findings);
    Some(RollbackConfig {
        hook: rollback?,
        pre,
        post,
        escalate,
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
