//! `simulate`: runs the simulation and writes or prints its tables. `cargo xtask simulate` builds and starts it.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use watchdog_simulation::document;
use watchdog_simulation::pool::{self, Cell, Results};
use watchdog_simulation::tables::{Scale, TABLES, Table};

/// Drives the decision engine with simulated traffic.
#[derive(Debug, Parser)]
struct Args {
    /// One run in twenty.
    #[arg(long)]
    quick: bool,
    /// So many times as many runs, for narrower intervals.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    times: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these tables, to the standard output.
    #[arg(long, value_parser = names())]
    only: Vec<String>,
    /// Threads; as many as there are CPUs if it is not said. Changes no figure.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Writes decisions.md and the pictures below this folder instead of printing the tables.
    #[arg(long)]
    write: Option<PathBuf>,
}

fn names() -> clap::builder::PossibleValuesParser {
    TABLES.iter().map(|table| table.name).collect::<Vec<_>>().into()
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wanted = |table: &&Table| args.only.is_empty() || args.only.iter().any(|name| name == table.name);
    let tables: Vec<&Table> = TABLES.iter().filter(wanted).collect();
    let scale = Scale { quick: args.quick, times: args.times };
    let threads =
        args.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);

    // Cells that several tables name belong to the first one.
    let mut seen = BTreeSet::new();
    let work: Vec<Vec<Cell>> = tables
        .iter()
        .map(|table| {
            (table.cells)(scale).into_iter().filter(|cell| seen.insert(cell.label.clone())).collect()
        })
        .collect();
    let cost = |cells: &[Cell]| -> f64 { cells.iter().map(|cell| cell.cost * cell.runs as f64).sum() };
    let total: f64 = work.iter().map(|cells| cost(cells)).sum();
    let started = Instant::now();
    let (mut before, mut results) = (0.0, Results::new());
    for (index, (table, cells)) in tables.iter().zip(&work).enumerate() {
        let mut told = Instant::now();
        let place = format!("table {} of {}, {}", index + 1, tables.len(), table.name);
        println!("== {place}");
        let own = cost(cells);
        results.extend(pool::run(cells, args.seed, threads, |share| {
            if told.elapsed() >= Duration::from_millis(500) {
                told = Instant::now();
                let done = (before + share * own) / total;
                let elapsed = started.elapsed().as_secs_f64();
                let left = if done < 0.01 {
                    "time left not known yet".to_owned()
                } else {
                    format!("about {:.0} s left", elapsed * (1.0 - done) / done)
                };
                println!("{place}: {:.0} %; all: {:.0} %, {left}", 100.0 * share, 100.0 * done);
            }
        }));
        before += own;
    }

    if let Some(folder) = &args.write {
        let command = match args.times {
            1 => "cargo xtask simulate".to_owned(),
            times => format!("cargo xtask simulate --times {times}"),
        };
        let (text, pictures) = document::whole(&results, &command, args.seed)?;
        let drawn = folder.join("decisions");
        fs::create_dir_all(&drawn).with_context(|| format!("cannot make {}", drawn.display()))?;
        for (name, svg) in pictures {
            let path = drawn.join(name).with_extension("svg");
            fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let path = folder.join("decisions.md");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    } else {
        for table in tables {
            print!("{}", document::one(table, &results, args.seed)?.0);
        }
    }
    Ok(())
}
