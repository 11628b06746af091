//! What a request costs the decision engine.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cargo;
use crate::process::Progress;

/// At most so much per sample and component.
const MAX_NS: f64 = 100.0;

/// One setting, as the example `engine` tells it: nanoseconds per request and bet settled.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    setting: String,
    settled: u16,
    engine_ns: f64,
    collector_ns: f64,
}

/// Optimised, whatever the rest of the run is: figures of a debug build say nothing here.
pub(super) fn measure(quick: bool) -> Result<Vec<Row>> {
    let progress = Progress::start("the decision engine");
    let program = cargo::example("engine", true)?;
    let mut command = Command::new(&program);
    command.arg("speed");
    if quick {
        command.args(["--requests", "100000", "--runs", "3"]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} ended with {}", program.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rows = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no row of the engine: {line}")))
        .collect::<Result<Vec<Row>>>()?;
    progress.end(&format!("{:.0} ns at most", rows.iter().map(|row| row.engine_ns).fold(0.0, f64::max)));
    Ok(rows)
}

pub(super) fn told(rows: &[Row]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    text.push_str(
        "## The decision engine\n\nNanoseconds per sample and component, release build; the pool counts as a component. \
         A request also pays for adding up all endpoints, and one of a new second for the new stakes of all \
         components.\n\n| setting | components per request | engine | a host's summary | at most 100 |\n\
         |---|---:|---:|---:|---|\n",
    );
    for row in rows {
        let reached = if row.engine_ns.max(row.collector_ns) <= MAX_NS { "reached" } else { "NOT reached" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} ns | {:.1} ns | {reached} |",
            row.setting, row.settled, row.engine_ns, row.collector_ns
        );
    }
    text.push('\n');
    text
}
