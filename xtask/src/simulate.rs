//! `cargo xtask simulate`: how fast and how surely the decision engine decides, by simulation.

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Result, bail};

use crate::process::{self, Progress};
use crate::setup::{self, Component};
use crate::{cargo, paths};

const LOG: &str = "simulate.log";
/// Begins the line that names the next table.
const TABLE: &str = "== ";
/// Begins the lines of progress within a table.
const PROGRESS: &str = "table ";

/// Drives the agent's own decision engine with simulated traffic and writes docs/decisions.md with its pictures: false
/// triggers, delays to detection, and whether the wanted figures are reached.
///
/// Needs no rights, no kernel and no quiet machine: a seed gives the same figures everywhere. All of it takes some
/// minutes on two cores.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One run in twenty; prints the tables and writes nothing.
    #[arg(long)]
    quick: bool,
    /// So many times as many runs, for narrower intervals; takes as many times as long.
    #[arg(long, default_value_t = 1, conflicts_with = "quick", value_parser = clap::value_parser!(u64).range(1..=100))]
    times: u64,
    /// Where all random figures come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this table (reach, false-triggers, delay, seconds, late, endpoints, clearing, alpha); may be repeated. Prints it and
    /// writes nothing.
    #[arg(long, value_name = "TABLE")]
    only: Vec<String>,
    /// As many as there are CPUs if it is not said; changes no figure.
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Component::Build])?;
    let building = Progress::start("building the simulation, optimised");
    let program = match cargo::release_program("watchdog-simulation", "simulate") {
        Ok(program) => program,
        Err(error) => {
            building.end("FAILED");
            return Err(error);
        }
    };
    building.end("done");

    let threads = args.threads.or_else(|| thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let mut command = Command::new(program);
    command.args(["--seed", &args.seed.to_string(), "--threads", &threads.to_string()]);
    command.args(["--times", &args.times.to_string()]);
    if args.quick {
        command.arg("--quick");
    }
    for table in &args.only {
        command.args(["--only", table]);
    }
    let writes = !args.quick && args.only.is_empty();
    if writes {
        command.arg("--write").arg(paths::root().join("docs"));
    }

    let mut progress: Option<Progress> = None;
    let mut tables = String::new();
    let ended = process::stream(&mut command, LOG, None, |line| {
        if let Some(table) = line.strip_prefix(TABLE) {
            if let Some(done) = progress.replace(Progress::start(table)) {
                done.end("done");
            }
        } else if line.starts_with(PROGRESS) {
            if let Some(progress) = &progress {
                progress.show(line);
            }
        } else {
            tables += line;
            tables.push('\n');
        }
    })?;
    if let Some(last) = progress {
        last.end(if ended.success { "done" } else { "FAILED" });
    }
    if !ended.success {
        bail!("the simulation {}:\n{tables}", ended.how());
    }
    if writes {
        println!("Written to docs/decisions.md and docs/decisions/.");
    } else {
        print!("{tables}");
    }
    Ok(ExitCode::SUCCESS)
}
