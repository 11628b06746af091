//! `cargo xtask bench`: what measuring costs the servers, and what the agent costs itself.
//!
//! Everything is compared without and with, one after the other in changing order, so that what else happens on the
//! machine meets both; the figures are ratios of such pairs, with their spread.

mod agent;
mod engine;
mod load;
mod report;
mod rows;
mod server;
mod statistics;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use self::agent::{Agent, Attached, Probe};
use self::report::Report;
use self::server::Server;
use self::statistics::Spread;
use crate::process::Progress;
use crate::setup::{self, Component};
use crate::{cargo, paths};

/// Measures nanoseconds per kernel program, throughput of nginx and the burn server with and without the programs,
/// and CPU and memory of the agent.
///
/// Needs root. Installs what it needs first, as `cargo xtask setup` does. Loads this host's loopback only. The
/// figures are worth something on a quiet machine: they are written to docs/performance.md.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A smoke run of less than a minute, with the debug build; writes nothing.
    #[arg(long)]
    quick: bool,
    /// Pairs of runs without and with the programs, per server.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    /// Seconds of one run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only these rows (servers and the like; `--list` tells them); may be repeated.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Print the names of all rows.
    #[arg(long)]
    list: bool,
    /// Load the servers with every kind of request, not with the light one alone.
    #[arg(long)]
    mix: bool,
    /// Only these parts; all of them if none is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Nanoseconds per run of each kernel program.
    Probes,
    /// Context switches between processes that nobody watches.
    Switches,
    /// Throughput and CPU per request of saturated servers.
    Throughput,
    /// CPU and memory of the agent.
    Agent,
    /// Nanoseconds of the decision engine per sample and component; by itself it needs no root.
    Engine,
    /// Every server of the tests, OpenTelemetry and bpftrace beside it, idle connections, unwatched processes.
    Rows,
}

/// Throughput and CPU of one server, with over without.
struct Comparison {
    name: &'static str,
    pairs: usize,
    /// Medians of the runs without.
    requests_per_second: f64,
    cpu_ns: f64,
    /// CPU per request, with minus without, median of the pairs.
    added_ns: f64,
    throughput: Spread,
    cpu: Spread,
}

/// Context switches between two processes that nobody watches.
struct Switches {
    ns_without: f64,
    ratio: Spread,
    /// Run time of `sched_switch` when it finds nothing watched.
    program_ns: f64,
}

/// The agent under a steady rate.
struct AgentCost {
    profile: &'static str,
    rate: f64,
    seconds: f64,
    cpu_percent: f64,
    rss_kib: u64,
    peak_kib: u64,
}

/// Watched requests per second at which the agent is measured.
const AGENT_RATE: f64 = 2_000.0;
/// What `--quick` looks at.
const QUICK_ROWS: [&str; 2] = ["context-switches", "gunicorn-sync"];
/// CPU of the burn server's cheapest request: little, but not nothing.
const CHEAP_US: u64 = 20;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.parts == [Part::Engine] && args.only.is_empty() && !args.list {
        setup::ensure(&[Component::Build])?;
        println!("\n{}", engine::told(&engine::measure(args.quick)?));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "attaching kernel programs needs root; build first, then run: sudo --preserve-env cargo xtask bench"
    );
    setup::ensure(&[Component::Build])?;
    // What cannot be installed here is told by the rows that lack it.
    if !args.list
        && let Err(error) = setup::ensure(&[Component::Bench])
    {
        eprintln!("{error:#}");
    }
    if args.only.is_empty()
        && !args.list
        && (args.parts.is_empty() || args.parts.contains(&Part::Rows))
        && let Err(error) = setup::ensure(&[Component::Servers])
    {
        eprintln!("{error:#}");
    }
    let bench = Bench::new(args)?;
    if args.list {
        rows::names(bench.program("bench-row")?)?.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report {
        command: if args.quick { "cargo xtask bench --quick" } else { "cargo xtask bench" }.to_owned(),
        load_before: load_average(),
        ..Report::default()
    };
    if report.load_before > report::BUSY {
        eprintln!("The machine is busy (load average {:.1}): expect a wide spread.", report.load_before);
    }
    if bench.does(Part::Probes) {
        report.probes = bench.probes()?;
    }
    if bench.does(Part::Switches) {
        report.switches = Some(bench.switches()?);
    }
    if bench.does(Part::Throughput) {
        report.comparisons = bench.throughput()?;
    }
    if bench.does(Part::Agent) {
        report.agent = Some(bench.agent()?);
    }
    if bench.does(Part::Engine) && !args.quick {
        report.engine = engine::measure(false)?;
    }
    if bench.does(Part::Rows) {
        (report.rows, report.failed) = bench.rows(args)?;
    }
    println!("\n{}", report.figures());
    if !args.quick && args.parts.is_empty() && args.only.is_empty() {
        let path = paths::root().join("docs/performance.md");
        fs::create_dir_all(paths::root().join("docs"))?;
        fs::write(&path, report.document()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("Written to docs/performance.md.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The first figure of /proc/loadavg: runnable tasks over the last minute.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// What is run, and the programs it is run with.
struct Bench {
    quick: bool,
    pairs: u32,
    seconds: u32,
    parts: Vec<Part>,
    programs: Vec<PathBuf>,
}

impl Bench {
    fn new(args: &Args) -> Result<Self> {
        let progress = Progress::start("building");
        let programs = if args.quick { cargo::programs()? } else { cargo::release_programs()? };
        progress.end("done");
        let (pairs, seconds) = if args.quick { (1, 1) } else { (args.pairs, args.seconds) };
        let parts = if args.only.is_empty() { args.parts.clone() } else { vec![Part::Rows] };
        Ok(Self { quick: args.quick, pairs, seconds, parts, programs })
    }

    fn does(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn program(&self, name: &str) -> Result<&PathBuf> {
        self.programs
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .with_context(|| format!("the build made no program {name}"))
    }

    fn burn(&self) -> Result<Server> {
        Server::burn(self.program("burn")?, CHEAP_US)
    }

    fn probes(&self) -> Result<Vec<(String, u64, Vec<Probe>)>> {
        let of = |what: &str, server: &Server, path: &str| -> Result<(String, u64, Vec<Probe>)> {
            let progress = Progress::start(&format!("kernel programs: {what}"));
            let attached = Attached::start(self.program("attach")?, Some(server.pid()), &[path], true)?;
            load::saturate(server, path, self.seconds)?;
            let figures = attached.end()?;
            progress.end(&format!("{} requests", figures.finished));
            ensure!(figures.finished > 0, "{what}: the kernel programs counted no request");
            Ok((what.to_owned(), figures.finished, figures.probes))
        };
        Ok(vec![
            of("nginx, answered from the configuration", &Server::nginx()?, "/login")?,
            of("burn server, a thread per connection", &self.burn()?, "/browse")?,
        ])
    }

    fn switches(&self) -> Result<Switches> {
        let progress = Progress::start("context switches of unwatched processes");
        let pingpong = || -> Result<f64> {
            let output = Command::new(self.program("pingpong")?)
                .args(["--ms", &(self.seconds * 500).to_string()])
                .output()
                .context("cannot run pingpong")?;
            let said: serde_json::Value =
                serde_json::from_slice(&output.stdout).context("pingpong's figures cannot be read")?;
            said["ns_per_switch"].as_f64().context("pingpong tells no ns_per_switch")
        };
        let attach = |stats| Attached::start(self.program("attach")?, None, &[], stats);
        let mut without_ns = Vec::new();
        let mut ratios = Vec::new();
        for pair in 0..self.pairs {
            let (without, with) = in_turn(pair, &pingpong, &|| {
                let attached = attach(false)?;
                let ns = pingpong()?;
                attached.end().map(|_| ns)
            })?;
            progress.show(&format!("pair {} of {}: {without:.0} ns, {with:.0} ns", pair + 1, self.pairs));
            without_ns.push(without);
            ratios.push(with / without);
        }
        let attached = attach(true)?;
        pingpong()?;
        let probes = attached.end()?.probes;
        let program = probes.iter().find(|probe| probe.program == "sched_switch");
        let program = program.context("the kernel tells nothing of sched_switch")?;
        let switches = Switches {
            ns_without: median(without_ns)?,
            ratio: spread(ratios)?,
            program_ns: program.ns as f64 / program.runs.max(1) as f64,
        };
        progress.end(&format!("x {}", switches.ratio));
        Ok(switches)
    }

    fn throughput(&self) -> Result<Vec<Comparison>> {
        let nginx = Server::nginx()?;
        let mut all = vec![
            self.compare("nginx, answered from the configuration", &nginx, "/login")?,
            self.compare("nginx, a file of 4 KB", &nginx, "/page.html")?,
        ];
        drop(nginx);
        all.push(self.compare("burn server, 20 us per request", &self.burn()?, "/browse")?);
        Ok(all)
    }

    fn compare(&self, name: &'static str, server: &Server, path: &str) -> Result<Comparison> {
        let progress = Progress::start(name);
        // The first run warms caches and connections; it counts for neither side.
        load::saturate(server, path, 1)?;
        let run = || load::saturate(server, path, self.seconds);
        let mut runs = Vec::new();
        for pair in 0..self.pairs {
            let (without, with) = in_turn(pair, &run, &|| {
                let attached = Attached::start(self.program("attach")?, Some(server.pid()), &[path], false)?;
                let run = run()?;
                let figures = attached.end()?;
                ensure!(figures.finished > 0, "{name}: the kernel programs counted no request");
                Ok(run)
            })?;
            let ratio = with.requests_per_second / without.requests_per_second;
            progress.show(&format!("pair {} of {}: throughput ratio {ratio:.3}", pair + 1, self.pairs));
            runs.push((without, with));
        }
        let comparison = Comparison {
            name,
            pairs: runs.len(),
            requests_per_second: median(runs.iter().map(|(without, _)| without.requests_per_second))?,
            cpu_ns: median(runs.iter().map(|(without, _)| without.cpu_ns))?,
            added_ns: median(runs.iter().map(|(without, with)| with.cpu_ns - without.cpu_ns))?,
            throughput: spread(
                runs.iter().map(|(without, with)| with.requests_per_second / without.requests_per_second),
            )?,
            cpu: spread(runs.iter().map(|(without, with)| with.cpu_ns / without.cpu_ns))?,
        };
        progress.end(&report::one_line(&comparison.throughput, comparison.added_ns));
        Ok(comparison)
    }

    /// Each row in a process of its own; one that fails is told, and the others are measured all the same.
    fn rows(&self, args: &Args) -> Result<(Vec<rows::Row>, Vec<rows::Failed>)> {
        let program = self.program("bench-row")?;
        let all = rows::names(program)?;
        if let Some(unknown) = args.only.iter().find(|name| !all.contains(name)) {
            bail!("no row {unknown}; `cargo xtask bench --list` tells their names");
        }
        let wanted: Vec<&String> = match (args.only.as_slice(), self.quick) {
            ([], true) => all.iter().filter(|name| QUICK_ROWS.contains(&name.as_str())).collect(),
            ([], false) => all.iter().collect(),
            (only, _) => only.iter().collect(),
        };
        let plan = rows::Plan { pairs: self.pairs, ms: self.seconds * 1000, mix: args.mix };
        let (mut measured, mut failed) = (Vec::new(), Vec::new());
        for name in wanted {
            match rows::measure(program, name, plan) {
                Ok(row) => measured.push(row),
                Err(error) => failed.push((name.clone(), format!("{error:#}"))),
            }
        }
        ensure!(!measured.is_empty(), "no row could be measured: {failed:?}");
        Ok((measured, failed))
    }

    fn agent(&self) -> Result<AgentCost> {
        let progress = Progress::start("the agent at 2,000 watched requests per second");
        let burn = self.burn()?;
        let agent = Agent::start(self.program("load-watchdog")?, burn.address, "/browse")?;
        let time = Duration::from_secs(if self.quick { 3 } else { 10 });
        let drive = self.program("drive")?;
        // Start-up and the first requests are not what is asked for.
        load::at_rate(drive, burn.address, "/browse", AGENT_RATE, Duration::from_secs(1))?;
        thread::sleep(Duration::from_millis(300));
        let before = agent.cpu()?;
        let rate = load::at_rate(drive, burn.address, "/browse", AGENT_RATE, time)?;
        let cpu = agent.cpu()?.saturating_sub(before);
        let (rss_kib, peak_kib) = agent.memory_kib()?;
        if rate < 0.9 * AGENT_RATE {
            bail!("only {rate:.0} of {AGENT_RATE} requests per second were reached: is the machine busy?");
        }
        let cost = AgentCost {
            profile: if self.quick { "debug" } else { "release" },
            rate,
            seconds: time.as_secs_f64(),
            cpu_percent: 100.0 * cpu.as_secs_f64() / time.as_secs_f64(),
            rss_kib,
            peak_kib,
        };
        progress.end(&format!("{:.2} % of a core, {} KiB", cost.cpu_percent, cost.rss_kib));
        Ok(cost)
    }
}

/// One measurement without and one with, in an order that changes from pair to pair.
fn in_turn<T>(pair: u32, without: &dyn Fn() -> Result<T>, with: &dyn Fn() -> Result<T>) -> Result<(T, T)> {
    if pair.is_multiple_of(2) {
        let without = without()?;
        Ok((without, with()?))
    } else {
        let with = with()?;
        Ok((without()?, with))
    }
}

fn spread(values: impl IntoIterator<Item = f64>) -> Result<Spread> {
    Spread::of(values).context("nothing was measured")
}

fn median(values: impl IntoIterator<Item = f64>) -> Result<f64> {
    Ok(spread(values)?.median)
}
