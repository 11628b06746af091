//! Rows that the program `bench-row` measures, one process each, and what they say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::statistics::Spread;
use crate::process::Progress;
use crate::setup;

/// CPU per request with the agent over that without, at most: uprobes off, and with those for TLS.
const MAX_CPU: f64 = 1.015;
const MAX_CPU_TLS: f64 = 1.03;
/// In-process instrumentation's cost over the agent's, at least.
const MIN_CHEAPER: f64 = 10.0;
/// Nanoseconds per context switch of processes that nobody watches, at most.
const MAX_SWITCH_NS: f64 = 10.0;
/// "Does not grow" means: by no more than this share, and 100 ns per request.
const MAX_GROWTH: f64 = 1.15;
const MAX_GROWTH_NS: f64 = 100.0;

#[derive(Debug, Deserialize)]
pub(super) struct Run {
    requests_per_second: f64,
    cpu_ns: f64,
    p99_us: u64,
    counted: u64,
    requests: u64,
}

#[derive(Debug, Deserialize)]
struct Pair {
    without: Run,
    with: Run,
}

type Set = BTreeMap<String, Run>;

#[derive(Debug, Deserialize)]
pub(super) struct Program {
    #[serde(rename = "program")]
    name: String,
    runs: u64,
    ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Programs {
    requests: u64,
    list: Vec<Program>,
    statistics_ns: f64,
    net_ns_per_request: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Server {
    name: String,
    model: String,
    tls: bool,
    saturated: Vec<Pair>,
    rate: f64,
    steady: Vec<Set>,
    programs: Programs,
}

#[derive(Debug, Deserialize)]
pub(super) struct Telemetry {
    name: String,
    rate: f64,
    sets: Vec<Set>,
    programs: Programs,
}

#[derive(Debug, Deserialize)]
pub(super) struct Growth {
    what: String,
    many: usize,
    none: (Run, Programs),
    with: (Run, Programs),
    agent_percent: Option<(f64, f64)>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Switches {
    pairs: Vec<(f64, f64)>,
    switches: u64,
}

/// A row that could not be measured, and why.
pub(super) type Failed = (String, String);

/// What `bench-row` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Row {
    Server(Server),
    Telemetry(Telemetry),
    Growth(Growth),
    Switches(Switches),
}

/// How much is measured for each row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) pairs: u32,
    pub(super) ms: u32,
    pub(super) mix: bool,
}

/// Names of all rows there are.
pub(super) fn names(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program).arg("--list").output().context("cannot run bench-row")?;
    ensure!(output.status.success(), "bench-row tells no rows");
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Measures one row.
pub(super) fn measure(program: &Path, name: &str, plan: Plan) -> Result<Row> {
    let progress = Progress::start(name);
    let mut command = Command::new(program);
    command.arg(name).args(["--pairs", &plan.pairs.to_string(), "--ms", &plan.ms.to_string()]);
    if plan.mix {
        command.arg("--mix");
    }
    if crate::toolchain::find_program("bpftrace").is_some() {
        command.arg("--bpftrace");
    }
    if let Some(nginx) = setup::nginx() {
        command.env("NGINX", nginx);
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run bench-row")?;
    if !output.status.success() {
        progress.end("FAILED");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::bail!("{}", said.lines().last().unwrap_or("bench-row failed without a word"));
    }
    let row = serde_json::from_slice(&output.stdout).context("bench-row's figures cannot be read")?;
    progress.end("done");
    Ok(row)
}

fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    Spread::of(values.filter(|value| value.is_finite()))
}

fn short(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "not measured".to_owned(),
        |s| format!("{:.3} ({:.3} to {:.3})", s.median, s.low_quartile, s.high_quartile),
    )
}

/// Ratio of two runs' CPU per request over the sets that have both.
fn cpu_ratio(sets: &[Set], of: &str, over: &str) -> Option<Spread> {
    spread(sets.iter().filter_map(|set| Some(set.get(of)?.cpu_ns / set.get(over)?.cpu_ns)))
}

/// CPU per request that one has more than another, ns.
fn added(sets: &[Set], of: &str, over: &str) -> Option<Spread> {
    spread(sets.iter().filter_map(|set| Some(set.get(of)?.cpu_ns - set.get(over)?.cpu_ns)))
}

fn median_cpu(sets: &[Set], of: &str) -> f64 {
    spread(sets.iter().filter_map(|set| Some(set.get(of)?.cpu_ns))).map_or(f64::NAN, |s| s.median)
}

/// By the pairs where they agree, else by the programs' own time, which is told apart.
fn told(measured: Option<Spread>, by_programs: f64, limit: f64) -> String {
    match measured {
        Some(s) if s.high_quartile <= limit => "reached".to_owned(),
        Some(s) if s.low_quartile > limit => "NOT reached".to_owned(),
        _ => {
            let word = if by_programs <= limit { "reached" } else { "NOT reached" };
            format!("pairs spread too wide; by the programs' own time {word}")
        }
    }
}

/// Markdown of all rows, and of those that failed.
pub(super) fn told_all(rows: &[Row], failed: &[(String, String)]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_servers(rows, &mut text);
    let _ = write_telemetry(rows, &mut text);
    let _ = write_extremes(rows, &mut text);
    let _ = write_programs(rows, &mut text);
    if !failed.is_empty() {
        let _ = writeln!(text, "## Rows that could not be measured\n");
        for (name, why) in failed {
            let _ = writeln!(text, "- {name}: {why}");
        }
        let _ = writeln!(text);
    }
    text
}

fn write_servers(rows: &[Row], text: &mut String) -> std::fmt::Result {
    let servers: Vec<&Server> = rows
        .iter()
        .filter_map(|row| if let Row::Server(server) = row { Some(server) } else { None })
        .collect();
    if servers.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "## Servers\n\n`GET /browse` (light: what is added shows most in it) over 16 keep-alive connections; the server on \
         one CPU, the load on another. \"At a rate\" is half of what the server could do. CPU is that of the server's \
         processes by their own clocks. Ratios are of runs that followed each other: median (middle half). \"Programs\" \
         is the kernel programs' own time per request, net of what the statistics cost, over the CPU per request. \
         bpftrace runs [request-cpu.bt](../bench/bpftrace/request-cpu.bt) on the same processes.\n"
    )?;
    writeln!(
        text,
        "| server | requests/s | with agent | at a rate of | CPU per request | CPU with agent | programs | p99 \
         without, with | CPU with bpftrace | bpftrace counted | goal | |"
    )?;
    writeln!(text, "|---|---:|---|---:|---:|---|---:|---:|---|---:|---|---|")?;
    for server in &servers {
        let throughput = spread(
            server
                .saturated
                .iter()
                .map(|pair| pair.with.requests_per_second / pair.without.requests_per_second),
        );
        let requests = spread(server.saturated.iter().map(|pair| pair.without.requests_per_second));
        let cpu = median_cpu(&server.steady, "nobody");
        let ratio = cpu_ratio(&server.steady, "agent", "nobody");
        let by_programs = 1.0 + server.programs.net_ns_per_request / cpu;
        let limit = if server.tls { MAX_CPU_TLS } else { MAX_CPU };
        let p99 = |of: &str| {
            spread(server.steady.iter().filter_map(|set| Some(set.get(of)?.p99_us as f64 / 1e3)))
                .map_or(f64::NAN, |s| s.median)
        };
        let counted = server.steady.iter().filter_map(|set| set.get("bpftrace"));
        let (counted, sent) =
            counted.fold((0, 0), |(counted, sent), run| (counted + run.counted, sent + run.requests));
        writeln!(
            text,
            "| {} | {:.0} | x {} | {:.0} | {:.1} us | x {} | +{:.2} % | {:.2}, {:.2} ms | x {} | {} | at most x {limit} \
             | {} |",
            server.name,
            requests.map_or(f64::NAN, |s| s.median),
            short(throughput),
            server.rate,
            cpu / 1e3,
            short(ratio),
            100.0 * (by_programs - 1.0),
            p99("nobody"),
            p99("agent"),
            short(cpu_ratio(&server.steady, "bpftrace", "nobody")),
            if sent == 0 { "-".to_owned() } else { format!("{:.0} %", 100.0 * counted as f64 / sent as f64) },
            told(ratio, by_programs, limit)
        )?;
    }
    writeln!(text)?;
    for server in &servers {
        writeln!(text, "- {}: {}", server.name, server.model)?;
    }
    writeln!(text)
}

fn write_telemetry(rows: &[Row], text: &mut String) -> std::fmt::Result {
    let apps = rows.iter().filter_map(|row| if let Row::Telemetry(app) = row { Some(app) } else { None });
    let apps: Vec<&Telemetry> = apps.collect();
    if apps.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "## Against instrumentation inside the process\n\nOpenTelemetry in the same application, switched by its \
         environment: `drop` makes spans and metrics and throws them away, `otlp` sends them to a collector. What is \
         added to the CPU per request, median (middle half) of sets of runs at one rate.\n"
    )?;
    writeln!(
        text,
        "| application | at a rate of | CPU per request | agent adds | agent's programs | OpenTelemetry, drop | \
         OpenTelemetry, otlp | bpftrace adds | otlp over programs | goal | |"
    )?;
    writeln!(text, "|---|---:|---:|---|---:|---|---|---|---:|---|---|")?;
    let us = |spread: Option<Spread>| {
        spread.map_or_else(
            || "not measured".to_owned(),
            |s| {
                format!(
                    "{:.1} us ({:.1} to {:.1})",
                    s.median / 1e3,
                    s.low_quartile / 1e3,
                    s.high_quartile / 1e3
                )
            },
        )
    };
    for app in &apps {
        let otlp = added(&app.sets, "otlp", "off");
        let times = otlp.map_or(f64::NAN, |s| s.median) / app.programs.net_ns_per_request;
        let word = if times >= MIN_CHEAPER { "reached" } else { "NOT reached" };
        writeln!(
            text,
            "| {} | {:.0} | {:.1} us | {} | {:.1} us | {} | {} | {} | x {times:.0} | at least x {MIN_CHEAPER} | {word} |",
            app.name,
            app.rate,
            median_cpu(&app.sets, "off") / 1e3,
            us(added(&app.sets, "agent", "off")),
            app.programs.net_ns_per_request / 1e3,
            us(added(&app.sets, "drop", "off")),
            us(otlp),
            us(added(&app.sets, "bpftrace", "off")),
        )?;
    }
    writeln!(text)
}

fn write_extremes(rows: &[Row], text: &mut String) -> std::fmt::Result {
    for row in rows {
        match row {
            Row::Switches(switches) => {
                let net = spread(switches.pairs.iter().map(|(ours, empty)| ours - empty));
                let word = match net {
                    Some(s) if s.high_quartile <= MAX_SWITCH_NS => "reached",
                    Some(s) if s.low_quartile > MAX_SWITCH_NS => "NOT reached",
                    _ => "not told: the spread is too wide",
                };
                writeln!(
                    text,
                    "## Processes that nobody watches\n\n`sched_switch` over {} context switches, net of what a program that \
                     does nothing seems to cost beside it: {} ns; goal at most {MAX_SWITCH_NS} ns: {word}.\n",
                    switches.switches,
                    short(net)
                )?;
            }
            Row::Growth(growth) => {
                let (none, many) = (growth.none.1.net_ns_per_request, growth.with.1.net_ns_per_request);
                let word = if many <= (none * MAX_GROWTH).max(none + MAX_GROWTH_NS) {
                    "reached"
                } else {
                    "NOT reached"
                };
                writeln!(
                    text,
                    "## {} {}\n\nProgram time per request: {none:.0} ns with none, {many:.0} ns with {}; the server's CPU \
                     per request {:.1} us and {:.1} us. Goal: does not grow (by more than {:.0} %): {word}.\n",
                    growth.many,
                    growth.what,
                    growth.many,
                    growth.none.0.cpu_ns / 1e3,
                    growth.with.0.cpu_ns / 1e3,
                    100.0 * (MAX_GROWTH - 1.0)
                )?;
                if let Some((none, many)) = growth.agent_percent {
                    writeln!(
                        text,
                        "The agent itself, without load: {none:.2} % of a core with none, {many:.2} % with {}.\n",
                        growth.many
                    )?;
                }
            }
            Row::Server(_) | Row::Telemetry(_) => {}
        }
    }
    Ok(())
}

fn write_programs(rows: &[Row], text: &mut String) -> std::fmt::Result {
    let servers =
        rows.iter().filter_map(|row| if let Row::Server(server) = row { Some(server) } else { None });
    let mut first = true;
    for server in servers {
        if first {
            writeln!(
                text,
                "## Kernel programs by server\n\nNanoseconds per request, net of the statistics' own cost (per run in \
                 the last column); all processes' runs, the load driver's too.\n"
            )?;
            writeln!(
                text,
                "| server | program: runs per request, ns per run, ns per request | all | statistics |"
            )?;
            writeln!(text, "|---|---|---:|---:|")?;
            first = false;
        }
        let programs = &server.programs;
        let per = |value: f64| value / programs.requests.max(1) as f64;
        let mut list: Vec<&Program> = programs.list.iter().collect();
        list.sort_by_key(|program| std::cmp::Reverse(program.ns));
        let list: Vec<String> = list
            .into_iter()
            .map(|program| {
                let net = (program.ns as f64 - programs.statistics_ns * program.runs as f64).max(0.0);
                let per_run = net / program.runs.max(1) as f64;
                format!("{}: {:.1}, {per_run:.0}, {:.0}", program.name, per(program.runs as f64), per(net))
            })
            .collect();
        writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} |",
            server.name,
            list.join("<br>"),
            programs.net_ns_per_request,
            programs.statistics_ns
        )?;
    }
    if !first {
        writeln!(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpu_ns: f64) -> String {
        format!(r#"{{"requests":10,"requests_per_second":100.0,"cpu_ns":{cpu_ns},"p99_us":5,"counted":10}}"#)
    }

    fn server(with: f64) -> Row {
        let programs = r#"{"requests":10,"counted":10,"list":[{"program":"sched_switch","runs":20,"ns":2000}],
                          "statistics_ns":50.0,"net_ns_per_request":100.0}"#;
        let (nobody, agent) = (run(100_000.0), run(with));
        serde_json::from_str(&format!(
            r#"{{"server":{{"name":"one","model":"m","tls":false,"rate":50.0,"programs":{programs},
                "saturated":[{{"without":{nobody},"with":{agent}}}],"steady":[{{"nobody":{nobody},"agent":{agent}}}]}}}}"#
        ))
        .expect("a row")
    }

    #[test]
    fn goals_are_told_by_the_pairs() {
        let reached = told_all(&[server(101_000.0)], &[]);
        assert!(reached.contains("| reached |"), "{reached}");
        assert!(reached.contains("x 1.010 (1.010 to 1.010)") && reached.contains("+0.10 %"), "{reached}");
        let not = told_all(&[server(102_000.0)], &[("two".to_owned(), "no such program".to_owned())]);
        assert!(not.contains("| NOT reached |") && not.contains("- two: no such program"), "{not}");
    }

    #[test]
    fn pairs_that_disagree_leave_it_to_the_programs() {
        let wide = Spread::of([0.9, 1.0, 1.1]);
        assert!(told(wide, 1.001, MAX_CPU).ends_with(" reached"));
        assert!(told(wide, 1.2, MAX_CPU).ends_with("NOT reached"));
        assert_eq!(told(Spread::of([1.0, 1.001]), 1.2, MAX_CPU), "reached");
    }
}
