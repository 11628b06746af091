//! Measures one row of `cargo xtask bench` and prints it as JSON; what it is about goes to standard error.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use watchdog_tests::bench::telemetry::{self, App};
use watchdog_tests::bench::{Plan, extremes, row};
use watchdog_tests::load::Step;
use watchdog_tests::servers;

#[derive(Parser)]
#[command(about = "Measures what watching costs one server", max_term_width = 100)]
struct Args {
    /// A server's name, otel-flask, otel-express, idle-connections, unwatched-processes or context-switches
    row: Option<String>,
    /// Print the names of all rows
    #[arg(long)]
    list: bool,
    #[arg(long, default_value_t = 6)]
    pairs: u32,
    /// Milliseconds of one run
    #[arg(long, default_value_t = 2_000)]
    ms: u64,
    /// Compare with the bpftrace script, too
    #[arg(long)]
    bpftrace: bool,
    /// Load every kind of request and not the light one alone, in which what is added shows most
    #[arg(long)]
    mix: bool,
}

const IDLE: usize = 10_000;
const UNWATCHED: usize = 1_000;
const EXTREMES: [&str; 3] = ["context-switches", "idle-connections", "unwatched-processes"];

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        let apps = App::ALL.map(App::name);
        for name in EXTREMES.into_iter().chain(servers::all().map(|server| server.name)).chain(apps) {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    match measure(&args) {
        Ok(row) => {
            println!("{row}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-row: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<Value> {
    // The last resort when whoever started this is killed.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    let name = args.row.as_deref().context("which row? --list tells their names")?;
    let steps = if args.mix { servers::mix() } else { vec![Step::get("browse", "/browse")] };
    let plan =
        Plan { pairs: args.pairs, run: Duration::from_millis(args.ms), bpftrace: args.bpftrace, steps };
    let tell = |line: &str| eprintln!("{name}: {line}");
    if let Some(app) = App::ALL.into_iter().find(|app| app.name() == name) {
        return Ok(json!({ "telemetry": telemetry::row(app, &plan, &tell)? }));
    }
    Ok(match name {
        "context-switches" => json!({ "switches": extremes::switches(&plan, &tell)? }),
        "idle-connections" => json!({ "growth": extremes::idle_connections(&plan, IDLE, &tell)? }),
        "unwatched-processes" => json!({ "growth": extremes::unwatched_processes(&plan, UNWATCHED, &tell)? }),
        server => json!({ "server": row(servers::named(server)?, &plan, &tell)? }),
    })
}
