//! The table at the end, and docs/performance.md.

use std::fmt::Write as _;
use std::fs;

use super::agent::Probe;
use super::engine;
use super::rows::{self, Row};
use super::statistics::Spread;
use super::{AgentCost, Comparison, Switches};
use crate::process;

/// Throughput with the agent over throughput without, at least.
pub(super) const MIN_THROUGHPUT: f64 = 0.97;
/// Resident memory of the agent, MiB, at most.
pub(super) const MAX_RSS_MIB: f64 = 40.0;
/// CPU of the agent in percent of one core at 2,000 watched requests per second, at most.
pub(super) const MAX_AGENT_CPU: f64 = 1.0;

/// Load average from which on the figures say little.
pub(super) const BUSY: f64 = 0.5;

/// Everything that one run measured.
#[derive(Default)]
pub(super) struct Report {
    /// What was loaded, requests, and the programs' statistics over that load.
    pub(super) probes: Vec<(String, u64, Vec<Probe>)>,
    pub(super) switches: Option<Switches>,
    pub(super) comparisons: Vec<Comparison>,
    pub(super) agent: Option<AgentCost>,
    /// Servers and the like, and the rows that could not be measured, with the reason.
    pub(super) rows: Vec<Row>,
    pub(super) failed: Vec<(String, String)>,
    /// What a request costs the decision engine.
    pub(super) engine: Vec<engine::Row>,
    pub(super) command: String,
    /// The machine was also used by others.
    pub(super) load_before: f64,
}

fn reached(yes: bool) -> &'static str {
    if yes { "reached" } else { "NOT reached" }
}

/// Whether the goal is reached, if the pairs agree on it. That it costs nothing at all is not believed.
fn told(comparison: &Comparison) -> &'static str {
    if comparison.throughput.high_quartile < MIN_THROUGHPUT {
        "NOT reached"
    } else if comparison.throughput.low_quartile >= MIN_THROUGHPUT && comparison.added_ns > 0.0 {
        "reached"
    } else {
        "not told: the spread is too wide"
    }
}

impl Report {
    /// Markdown that a terminal shows well, too.
    pub(super) fn figures(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_probes(&mut text);
        let _ = self.write_comparisons(&mut text);
        let _ = self.write_agent(&mut text);
        text + &engine::told(&self.engine) + &rows::told_all(&self.rows, &self.failed)
    }

    fn write_probes(&self, text: &mut String) -> std::fmt::Result {
        if !self.probes.is_empty() {
            writeln!(text, "## Kernel programs\n")?;
            writeln!(
                text,
                "Nanoseconds per run as the kernel counts them (`kernel.bpf_stats_enabled`), which includes most of \
                 the two clock reads that the counting itself adds to each run. The runs of wrk, which nobody watches, are \
                 among them: those return at once.\n"
            )?;
        }
        for (what, requests, probes) in &self.probes {
            writeln!(text, "{what}, {requests} requests:\n")?;
            writeln!(text, "| program | runs | ns per run | ns per request |")?;
            writeln!(text, "|---|---:|---:|---:|")?;
            let mut probes: Vec<&Probe> = probes.iter().filter(|probe| probe.runs > 0).collect();
            probes.sort_by_key(|probe| std::cmp::Reverse(probe.ns));
            let per_request = |ns: u64| ns as f64 / (*requests).max(1) as f64;
            for probe in &probes {
                writeln!(
                    text,
                    "| {} | {} | {:.0} | {:.0} |",
                    probe.program,
                    probe.runs,
                    probe.ns as f64 / probe.runs as f64,
                    per_request(probe.ns),
                )?;
            }
            let sum = probes.iter().map(|probe| probe.ns).sum();
            writeln!(text, "| all | | | {:.0} |\n", per_request(sum))?;
        }
        if let Some(switches) = &self.switches {
            writeln!(
                text,
                "Context switches between two processes that nobody watches: {:.0} ns without the programs; with \
                 them x {}. The program `sched_switch` itself: {:.0} ns per run.\n",
                switches.ns_without, switches.ratio, switches.program_ns
            )?;
        }
        Ok(())
    }

    fn write_comparisons(&self, text: &mut String) -> std::fmt::Result {
        if self.comparisons.is_empty() {
            return Ok(());
        }
        writeln!(text, "## A saturated server\n")?;
        writeln!(
            text,
            "wrk on {} keep-alive connections; the server on one CPU, wrk on another. Runs without and with the \
             kernel programs follow each other, in changing order; each ratio is of such a pair.\n",
            super::load::CONNECTIONS
        )?;
        writeln!(
            text,
            "| server | pairs | requests/s without | CPU per request without | added | throughput ratio | CPU ratio | at \
             least {MIN_THROUGHPUT} |"
        )?;
        writeln!(text, "|---|---:|---:|---:|---:|---|---|---|")?;
        for c in &self.comparisons {
            writeln!(
                text,
                "| {} | {} | {:.0} | {:.1} us | {:.2} us | {} | {} | {} |",
                c.name,
                c.pairs,
                c.requests_per_second,
                c.cpu_ns / 1e3,
                c.added_ns / 1e3,
                c.throughput,
                c.cpu,
                told(c)
            )?;
        }
        writeln!(text)
    }

    fn write_agent(&self, text: &mut String) -> std::fmt::Result {
        let Some(agent) = &self.agent else { return Ok(()) };
        writeln!(text, "## The agent\n")?;
        writeln!(
            text,
            "`load-watchdog run`, {} build, at {:.0} watched requests per second for {:.0} s:\n",
            agent.profile, agent.rate, agent.seconds
        )?;
        let rss = agent.rss_kib as f64 / 1024.0;
        writeln!(text, "| figure | value | goal | |")?;
        writeln!(text, "|---|---:|---:|---|")?;
        writeln!(
            text,
            "| CPU, share of one core | {:.2} % | {MAX_AGENT_CPU} % | {} |",
            agent.cpu_percent,
            reached(agent.cpu_percent < MAX_AGENT_CPU)
        )?;
        writeln!(
            text,
            "| resident memory | {rss:.1} MiB | {MAX_RSS_MIB} MiB | {} |",
            reached(rss < MAX_RSS_MIB)
        )?;
        writeln!(text, "| resident memory, highest | {:.1} MiB | | |\n", agent.peak_kib as f64 / 1024.0)
    }

    /// The whole document.
    pub(super) fn document(&self) -> String {
        format!(
            "# What the agent costs\n\nWritten by `{}`; it measures anew and overwrites this file.\n\n\
             {}\n{}",
            self.command,
            machine(self.load_before),
            self.figures()
        )
    }
}

/// A comparison's line for those who watch the run.
pub(super) fn one_line(throughput: &Spread, added_ns: f64) -> String {
    format!("throughput ratio {throughput}, {added_ns:+.0} ns per request")
}

/// Processor, kernel and how busy the machine was.
fn machine(load_before: f64) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let flag = |name: &str| cpuinfo.lines().any(|line| line.starts_with("flags") && line.contains(name));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let clock = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024 / 1024);
    let rustc = process::capture(std::process::Command::new("rustc").arg("--version")).unwrap_or_default();
    format!(
        "Machine: {model}, {cpus} CPUs, {memory} GiB{}; Linux {}, clock {}; {rustc}. Load average before the run: \
         {load_before:.1}.{}\n",
        if flag("hypervisor") { ", a virtual machine" } else { "" },
        kernel.trim(),
        clock.trim(),
        if load_before > BUSY {
            " **The machine was busy with other work: measure again on a quiet one before a figure is quoted.**"
        } else {
            ""
        }
    )
}
