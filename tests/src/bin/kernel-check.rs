//! Loads the kernel programs, measures the burn server under several loads, and says whether the figures hold.
//! This is what the virtual machines of the kernel matrix run.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;
use watchdog::kernel::{Kernel, KernelOptions, Tier};
use watchdog_tests::cases::{self, EMULATED, PROMISED};
use watchdog_tests::measure::measure;

#[derive(Parser)]
#[command(about = "Loads the kernel programs and checks their figures against the burn server's own")]
struct Args {
    /// Use this tier or fail
    #[arg(long)]
    tier: Option<String>,
    /// Requests per case
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// For an emulated machine: fewer cases, logins of 100 ms, and wider bounds
    #[arg(long)]
    slow: bool,
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only load, attach and tell; measure nothing
    #[arg(long)]
    load_only: bool,
}

fn main() -> ExitCode {
    match check(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel-check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &Args) -> anyhow::Result<()> {
    let only_tier = match args.tier.as_deref() {
        None => None,
        Some("core") => Some(Tier::Core),
        Some("a") => Some(Tier::A),
        Some(other) => anyhow::bail!("--tier {other}: want core or a"),
    };
    let mut kernel = Kernel::load(&KernelOptions { only_tier, ..KernelOptions::default() })?;
    let report = kernel.report();
    // `cargo xtask vm` reads these lines.
    println!("tier {:?}, {} programs attached", report.tier, report.attached.len());
    for name in &report.attached {
        println!("attached {name}");
    }
    for (what, why) in &report.degraded {
        println!("not used: {what}: {}", why.lines().next().unwrap_or_default());
    }
    for (program, instructions) in kernel.verified_instructions() {
        println!("verified {program}: {instructions} instructions");
    }
    if args.load_only {
        return Ok(());
    }
    let mut failed = Vec::new();
    let (cases, bounds) =
        if args.slow { (cases::emulated(), EMULATED) } else { (cases::all(args.requests), PROMISED) };
    for case in cases {
        if args.only.as_ref().is_some_and(|only| !case.name.contains(only.as_str())) {
            continue;
        }
        let measured = measure(&mut kernel, &case).with_context(|| case.name.clone())?;
        let verdict = cases::judge(&measured, bounds);
        println!("{}: {}\n{}", case.name, if verdict.is_ok() { "ok" } else { "FAILED" }, measured.told());
        if let Err(error) = verdict {
            failed.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    println!("all cases hold");
    Ok(())
}
