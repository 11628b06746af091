//! Starts real servers, watches them, and prints what the kernel says beside what the applications themselves measured.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;
use watchdog::kernel::{Kernel, KernelOptions, Uprobes};
use watchdog_tests::servers::{self, Server, Session, Trial, judge};

/// Puts the same mixed load on each server, and exits with 1 when a figure does not hold.
///
/// `HASH_COST=3` in the environment makes the logins of every server three times as heavy.
#[derive(Parser)]
#[command(max_term_width = 100)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Args {
    /// Only servers whose name contains this; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Requests at the same time, one run for each
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    concurrency: Vec<usize>,
    /// Requests of each run
    #[arg(long, default_value_t = 240)]
    requests: u64,
    /// A new connection for each request, instead of keep-alive
    #[arg(long)]
    closing: bool,
    /// Keep-alive, then a new connection for each request
    #[arg(long, conflicts_with = "closing")]
    both: bool,
    /// Run two busy loops beside the server
    #[arg(long)]
    contended: bool,
    /// Send the first request of a connection a while after it, as over a network
    #[arg(long)]
    distant: bool,
    /// Tell all figures, also of runs in which all hold
    #[arg(short, long)]
    verbose: bool,
    /// Only print the servers' names
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted =
        |server: &&Server| args.only.is_empty() || args.only.iter().any(|part| server.name.contains(part));
    let servers: Vec<_> = servers::all().filter(wanted).collect();
    if args.list {
        for server in servers {
            println!("{:<28}{:>4.0} %  {}", server.name, 100.0 * server.bound, server.model);
        }
        return ExitCode::SUCCESS;
    }
    match check(&args, &servers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server-check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &Args, servers: &[&Server]) -> anyhow::Result<()> {
    ensure!(!servers.is_empty(), "no server has such a name; --list names them all");
    let mut kernel = Kernel::load(&KernelOptions { uprobes: Uprobes::ALL, ..KernelOptions::default() })?;
    let trials = trials(args);
    let mut failed = 0;
    for server in servers {
        println!("{} ({}), bound {:.0} %", server.name, server.model, 100.0 * server.bound);
        match run(&mut kernel, server, &trials, args.verbose) {
            Ok(bad) => failed += bad,
            Err(error) => {
                println!("  COULD NOT BE MEASURED: {error:#}");
                failed += trials.len();
            }
        }
    }
    let all = servers.len() * trials.len();
    ensure!(failed == 0, "{failed} of {all} runs do not hold");
    println!("all {all} runs hold");
    Ok(())
}

fn trials(args: &Args) -> Vec<Trial> {
    let connections: &[bool] = match (args.both, args.closing) {
        (true, _) => &[true, false],
        (false, true) => &[false],
        (false, false) => &[true],
    };
    let (requests, contended, distant) = (args.requests, args.contended, args.distant);
    args.concurrency
        .iter()
        .flat_map(|concurrency| connections.iter().map(|keep_alive| (*concurrency, *keep_alive)))
        .map(|(concurrency, keep_alive)| Trial { concurrency, keep_alive, requests, contended, distant })
        .collect()
}

/// The number of trials that do not hold.
fn run(kernel: &mut Kernel, server: &Server, trials: &[Trial], verbose: bool) -> anyhow::Result<usize> {
    let session = Session::open(kernel, server)?;
    let mut failed = 0;
    for trial in trials {
        let outcome = session.run(kernel, *trial).with_context(|| trial.to_string())?;
        let wrong = judge(server, &outcome);
        println!("{:<28}{trial}: {}", server.name, if wrong.is_empty() { "ok" } else { "FAILED" });
        for line in &wrong {
            println!("  - {line}");
        }
        if verbose || !wrong.is_empty() {
            print!("{}", outcome.told(server));
        }
        failed += usize::from(!wrong.is_empty());
    }
    session.close(kernel)?;
    Ok(failed)
}
