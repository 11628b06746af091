//! The load driver's command line: see `drive --help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use watchdog_tests::load::{Load, LoadOptions, LoadReport, Step, Target};

/// Sends HTTP/1.1 requests to a server on this host and counts what comes back.
#[derive(Debug, Parser)]
#[command(name = "drive", max_term_width = 100)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Args {
    /// IP:PORT or tls:IP:PORT on loopback, or unix:PATH
    target: Target,
    /// Kind of request, repeatable: NAME=METHOD PATH [xWEIGHT] [-> STATUS] [ : BODY]
    #[arg(long = "step", value_name = "STEP", required = true)]
    steps: Vec<Step>,
    /// Threads, each with a connection of its own
    #[arg(short, long, default_value_t = 1)]
    concurrency: usize,
    /// Requests in all
    #[arg(short = 'n', long, required_unless_present = "seconds")]
    requests: Option<u64>,
    /// Seconds at most
    #[arg(short, long)]
    seconds: Option<f64>,
    /// Requests per second over all threads; without it each thread sends as soon as it has its answer
    #[arg(short, long)]
    rate: Option<f64>,
    /// A new connection for each request
    #[arg(long)]
    close: bool,
    /// Send heads in so many pieces
    #[arg(long, default_value_t = 1)]
    head_pieces: usize,
    /// Pause between the pieces, milliseconds
    #[arg(long, default_value_t = 2)]
    piece_pause_ms: u64,
    /// Wait for 100 Continue before a body
    #[arg(long)]
    expect_continue: bool,
    /// Longest time for one request, seconds
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// Print reports as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Print a report this often while running, milliseconds (0: only at the end)
    #[arg(long, default_value_t = 0)]
    every_ms: u64,
    /// Write a line per request to this file (CSV)
    #[arg(long)]
    log: Option<PathBuf>,
    /// Stop, with a last report, when standard input is closed
    #[arg(long)]
    until_stdin_closes: bool,
    /// End when the parent process ends
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.exit_with_parent {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    let load = Load::start(LoadOptions {
        concurrency: args.concurrency,
        requests: args.requests,
        duration: args.seconds.map(Duration::try_from_secs_f64).transpose()?,
        rate: args.rate,
        keep_alive: !args.close,
        head_pieces: args.head_pieces,
        piece_pause: Duration::from_millis(args.piece_pause_ms),
        expect_continue: args.expect_continue,
        timeout: Duration::try_from_secs_f64(args.timeout)?,
        log: args.log,
        ..LoadOptions::new(args.target, args.steps, 0)
    })?;
    let stopper = load.stopper();
    if args.until_stdin_closes {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            stopper.stop();
        });
    }
    if args.every_ms > 0 {
        let mut next = Instant::now();
        while !load.is_finished() {
            next += Duration::from_millis(args.every_ms);
            while !load.is_finished() && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(10));
            }
            print(&load.snapshot(), args.json)?;
        }
    }
    let report = load.wait();
    print(&report, args.json)?;
    Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &LoadReport, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(out.flush()?);
    }
    writeln!(
        out,
        "{} requests in {:.1} s ({:.1}/s), {} failed, {} connections, {} found closed while idle",
        report.requests,
        report.elapsed_ms as f64 / 1e3,
        report.rate(),
        report.failures,
        report.connects,
        report.closed_idle,
    )?;
    writeln!(
        out,
        "{:<14} {:<14} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "endpoint", "build", "requests", "failed", "p50 ms", "p90 ms", "p99 ms", "max ms"
    )?;
    for line in &report.endpoints {
        let ms = |us: u64| us as f64 / 1e3;
        writeln!(
            out,
            "{:<14} {:<14} {:>8} {:>7} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            line.name,
            line.build,
            line.count,
            line.failures,
            ms(line.p50_us),
            ms(line.p90_us),
            ms(line.p99_us),
            ms(line.max_us)
        )?;
    }
    for failure in &report.failed {
        writeln!(out, "failed at {} ms: {}: {}", failure.at_ms, failure.name, failure.what)?;
    }
    Ok(out.flush()?)
}
