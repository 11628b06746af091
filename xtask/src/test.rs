//! `cargo xtask test`: every check of the project, stage by stage, with a table at the end.

mod counts;
mod soak;
mod stages;
mod unit_file;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::prctl::set_child_subreaper;

use self::counts::Counts;
use self::stages::{STAGES, Stage};
use crate::cargo;
use crate::process::Progress;
use crate::setup::{self, Component};

/// Tests that are named for the time that they took.
const SHOWN_LONG: usize = 40;

/// Runs every check: format, lints, unit tests, kernel tests, the unit file, and the kernels in QEMU.
///
/// Kernel tests need root. A test that cannot run here says why and counts as skipped; with CI=true a skip is a
/// failure. Installs what it needs first, as `cargo xtask setup` does.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what needs neither root nor QEMU: format, lints, unit tests and the unit file.
    #[arg(long)]
    quick: bool,
    /// Only the soak, for so long (as in 10m or 1h) instead of the half minute that it gets among the others.
    #[arg(long, value_name = "TIME", value_parser = soak::time, conflicts_with_all = ["quick", "filter"])]
    soak: Option<Duration>,
    /// Also what takes too long for every day: some minutes more.
    #[arg(long, conflicts_with = "quick")]
    slow: bool,
    /// Only tests whose name contains this, without the other stages.
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(time) = args.soak {
        set_child_subreaper(true).context("cannot ask to be given orphaned processes")?;
        return soak::run(time);
    }
    if args.slow {
        cargo::SLOW.get_or_init(|| ());
    }
    let stages: Vec<_> = STAGES
        .iter()
        .filter(|stage| !(args.quick && stage.slow))
        .filter(|stage| args.filter.is_none() || stage.takes_filter)
        .collect();
    ensure_needs(&stages)?;
    // What a test leaves behind stays below this process, and is ended with the test when its time is over.
    set_child_subreaper(true).context("cannot ask to be given orphaned processes")?;

    let started = Instant::now();
    let mut rows = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let progress = Progress::start(&format!("[{}/{}] {}", index + 1, stages.len(), stage.name));
        let begun = Instant::now();
        let counts = (stage.run)(args.filter.as_deref(), &progress)
            .unwrap_or_else(|error| Counts::one_failed(format!("{error:#}")));
        progress.end(&counts.to_string());
        for reason in &counts.skip_reasons {
            eprintln!("  skipped: {reason}");
        }
        for failure in &counts.failures {
            eprintln!("{failure}");
        }
        let stop = stage.others_need_it && counts.failed > 0;
        rows.push((stage.name, counts, begun.elapsed()));
        if stop {
            for later in &stages[index + 1..] {
                let counts = Counts::one_skipped(format!("{} failed", stage.name));
                rows.push((later.name, counts, Duration::ZERO));
            }
            break;
        }
    }
    Ok(summary(&rows, started.elapsed()))
}

fn ensure_needs(stages: &[&Stage]) -> Result<()> {
    let mut needs: Vec<Component> = Vec::new();
    for need in stages.iter().flat_map(|stage| stage.needs) {
        if !needs.contains(need) {
            needs.push(*need);
        }
    }
    setup::ensure(&needs)
}

fn summary(rows: &[(&str, Counts, Duration)], total: Duration) -> ExitCode {
    println!();
    println!("{:22}{:>8}{:>8}{:>9}{:>10}", "stage", "passed", "failed", "skipped", "seconds");
    let mut sum = Counts::default();
    for (name, counts, duration) in rows {
        let seconds = duration.as_secs_f64();
        println!("{name:22}{:>8}{:>8}{:>9}{seconds:>10.1}", counts.passed, counts.failed, counts.skipped);
        sum.add(counts);
    }
    println!("{:47}{:>10.1}", "total", total.as_secs_f64());
    if !sum.long.is_empty() {
        sum.long.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        println!("what took longest:");
        for (time, test) in sum.long.iter().take(SHOWN_LONG) {
            println!("{:>8.1} s  {test}", time.as_secs_f64());
        }
    }
    let strict = env::var_os("CI").is_some_and(|value| value == "true");
    if strict && sum.skipped > 0 {
        println!("with CI=true, what is skipped counts as failed:");
        for reason in &sum.skip_reasons {
            println!("  {reason}");
        }
    }
    println!("{sum}");
    if sum.failed > 0 || (strict && sum.skipped > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
