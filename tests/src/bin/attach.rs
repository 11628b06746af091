//! Loads the kernel programs, watches processes, and drains what was measured, as the agent does but without
//! judging anything: `cargo xtask bench` measures with it what the kernel side alone costs.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use watchdog::clock::mono_ns;
use watchdog::kernel::{EndpointPattern, Kernel, KernelOptions, ProbedProcess, Uprobes};
use watchdog_common::types::Loss;
use watchdog_tests::measure::{Ticks, family};

/// Prints a line of JSON when everything is attached, another with the figures when its standard input ends.
#[derive(Parser)]
#[command(about = "Loads the kernel programs and watches processes until its standard input ends")]
struct Args {
    /// Watch this process and its children; may be repeated
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Watched endpoint, as "METHOD PATH"; may be repeated
    #[arg(long = "endpoint", value_name = "METHOD PATH")]
    endpoints: Vec<Endpoint>,
    /// Let the kernel keep run time and count of each program
    #[arg(long)]
    probe_stats: bool,
    /// Put user probes into the processes
    #[arg(long)]
    uprobes: bool,
    /// Milliseconds between two drains
    #[arg(long, default_value_t = 100)]
    tick_ms: u64,
    /// End when the parent process ends
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Clone, Debug)]
struct Endpoint {
    method: String,
    path: String,
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (method, path) =
            text.split_once(' ').with_context(|| format!("endpoint {text:?}: want \"METHOD PATH\""))?;
        Ok(Self { method: method.to_owned(), path: path.to_owned() })
    }
}

#[derive(Serialize)]
struct Ready {
    tier: String,
    load_ms: u64,
    degraded: Vec<(String, String)>,
    probed: Vec<ProbedProcess>,
}

/// Everything since the programs were attached.
#[derive(Serialize)]
struct Figures {
    /// CPU of this process since it was ready.
    cpu_us: u64,
    elapsed_us: u64,
    /// Requests that came as samples.
    samples: u64,
    started: u64,
    finished: u64,
    process_ns: u64,
    attributed_ns: u64,
    unattributed_ns: u64,
    losses: Vec<(&'static str, u64)>,
    endpoints: Vec<Cost>,
    probed: Vec<ProbedProcess>,
    probes: Vec<Probe>,
}

#[derive(Serialize)]
struct Cost {
    /// "other" for requests of no watched endpoint.
    endpoint: String,
    count: u64,
    oncpu_ns: u64,
}

#[derive(Serialize)]
struct Probe {
    program: String,
    runs: u64,
    ns: u64,
}

fn main() -> ExitCode {
    match watch(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attach: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch(args: &Args) -> anyhow::Result<()> {
    if args.exit_with_parent {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    ensure!(args.tick_ms > 0, "--tick-ms 0: want at least 1");
    let begun = Instant::now();
    let mut kernel = Kernel::load(&KernelOptions {
        probe_stats: args.probe_stats,
        uprobes: if args.uprobes { Uprobes::ALL } else { Uprobes::NONE },
        ..KernelOptions::default()
    })?;
    let patterns: Vec<EndpointPattern> = (1..)
        .zip(&args.endpoints)
        .map(|(index, endpoint)| EndpointPattern {
            index,
            method: Some(endpoint.method.clone()),
            path: endpoint.path.clone(),
        })
        .collect();
    kernel.register_service(0, &patterns)?;
    let slot = kernel.open_slot(0, u16::try_from(patterns.len() + 1)?)?;
    for &pid in &args.pids {
        for member in family(pid)? {
            kernel.watch(member, slot);
        }
    }
    let mut ticks = Ticks::default();
    ticks.add(kernel.tick(mono_ns())?);
    let probes_before = kernel.probe_stats();
    print(&Ready {
        tier: format!("{:?}", kernel.report().tier),
        load_ms: u64::try_from(begun.elapsed().as_millis())?,
        degraded: kernel.report().degraded.clone(),
        probed: kernel.probed(),
    })?;

    let ready = Instant::now();
    let cpu_before = cpu()?;
    let samples = drain_until_told(&mut kernel, &mut ticks, Duration::from_millis(args.tick_ms))?;
    let figures = ticks.conservation(slot);
    print(&Figures {
        cpu_us: u64::try_from(cpu()?.saturating_sub(cpu_before).as_micros())?,
        elapsed_us: u64::try_from(ready.elapsed().as_micros())?,
        samples,
        started: figures.started,
        finished: figures.finished,
        process_ns: figures.process_ns,
        attributed_ns: figures.attributed_ns,
        unattributed_ns: figures.unattributed_ns,
        losses: Loss::ALL
            .iter()
            .map(|loss| (loss.label(), ticks.losses[*loss as usize]))
            .filter(|(_, count)| *count > 0)
            .collect(),
        endpoints: costs(&kernel, &args.endpoints)?,
        probed: kernel.probed(),
        probes: kernel
            .probe_stats()
            .into_iter()
            .map(|(program, runs, ns)| {
                let before = probes_before.iter().find(|(name, ..)| *name == program);
                let (runs_before, ns_before) = before.map_or((0, 0), |(_, runs, ns)| (*runs, *ns));
                Probe { program, runs: runs - runs_before, ns: ns - ns_before }
            })
            .collect(),
    })
}

fn costs(kernel: &Kernel, endpoints: &[Endpoint]) -> anyhow::Result<Vec<Cost>> {
    let mut costs: Vec<Cost> = std::iter::once("other".to_owned())
        .chain(endpoints.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)))
        .map(|endpoint| Cost { endpoint, count: 0, oncpu_ns: 0 })
        .collect();
    for (key, series) in kernel.series()? {
        if let Some(cost) = costs.get_mut(usize::from(key.endpoint)) {
            cost.count += series.count;
            cost.oncpu_ns += series.oncpu_sum_ns;
        }
    }
    Ok(costs)
}

/// Drains on a timer until standard input ends; returns the number of samples.
fn drain_until_told(kernel: &mut Kernel, ticks: &mut Ticks, every: Duration) -> anyhow::Result<u64> {
    let (sender, told) = mpsc::channel::<()>();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(sender);
    })?;
    let mut samples = 0;
    let mut next = Instant::now();
    loop {
        next += every;
        let ended = told.recv_timeout(next.saturating_duration_since(Instant::now()));
        ticks.add(kernel.tick(mono_ns())?);
        samples += ticks.samples.len() as u64;
        ticks.samples.clear();
        if ended == Err(RecvTimeoutError::Disconnected) {
            return Ok(samples);
        }
    }
}

/// User and system CPU of this process.
fn cpu() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn print(figures: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(figures)?)?;
    Ok(out.flush()?)
}
