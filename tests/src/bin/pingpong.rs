//! Two processes on one CPU hand a byte to and fro: each hand-over is a context switch, and nothing else costs much.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Prints nanoseconds per context switch, as JSON.
#[derive(Parser)]
#[command(about = "Measures how long a context switch between two processes takes")]
struct Args {
    /// Milliseconds to run
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// Send back what comes: the other process
    #[arg(long, hide = true)]
    echo: bool,
}

/// Longest run, whatever is asked for.
const MAX: Duration = Duration::from_mins(1);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.echo {
        // The pipes end when the parent does.
        let mut byte = [0u8; 1];
        while std::io::stdin().read(&mut byte)? > 0 {
            let mut out = std::io::stdout();
            out.write_all(&byte)?;
            out.flush()?;
        }
        return Ok(());
    }
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("pinning to CPU 0")?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the other process")?;
    let mut to = child.stdin.take().context("its standard input was asked for")?;
    let mut from = child.stdout.take().context("its standard output was asked for")?;
    let mut byte = [1u8; 1];
    let until = Duration::from_millis(args.ms).min(MAX);
    let begun = Instant::now();
    let mut rounds = 0u64;
    while begun.elapsed() < until {
        for _ in 0..100 {
            to.write_all(&byte)?;
            from.read_exact(&mut byte)?;
        }
        rounds += 100;
    }
    let elapsed = begun.elapsed();
    drop(to);
    ensure!(child.wait()?.success(), "the other process failed");
    let switches = 2 * rounds;
    let ns = elapsed.as_secs_f64() * 1e9 / switches as f64;
    println!("{}", serde_json::json!({ "switches": switches, "ns_per_switch": ns }));
    Ok(())
}
