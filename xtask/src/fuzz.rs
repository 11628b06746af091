//! `cargo xtask fuzz`: feeds arbitrary bytes to every parser, guided by what they reach.
//!
//! The targets are those of cargo-fuzz (`fuzz/fuzz_targets`), but built by the stable compiler: what guides libFuzzer
//! is a pass of LLVM that it can run too. Only the address sanitizer needs a nightly, and the parsers hold no `unsafe`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;
use crate::paths;
use crate::process::{self, Progress};
use crate::setup::{self, Component};

const LOG: &str = "fuzz.log";
/// What cargo-fuzz passes too, without its sanitizer. Overflows and assertions count as faults.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1";
/// Longest input; the parsers look at the first few hundred bytes.
const MAX_LEN: u32 = 1024;
/// Compiling, and a run of the longest kind.
const BUILD_TIMEOUT: Duration = Duration::from_mins(10);
const RUN_TIMEOUT: Duration = Duration::from_hours(6);

/// Feeds arbitrary bytes to every parser that sees bytes from outside, and keeps inputs that reach something new.
///
/// Needs the stable compiler and a C++ compiler (libFuzzer is built from source). An input that breaks a parser is kept
/// below fuzz/artifacts; run the target's program with that file to see it again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Inputs for each target.
    #[arg(long, default_value_t = 10_000_000)]
    runs: u64,
    /// Only these targets; all of them if none is named.
    targets: Vec<String>,
}

/// How long a target is fed.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    Runs(u64),
    Time(Duration),
}

/// One target's end.
pub(crate) struct Fed {
    pub(crate) target: String,
    pub(crate) runs: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Component::Build])?;
    let targets = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !targets.contains(name)) {
        bail!("no target {unknown}: there are {}", targets.join(", "));
    }
    let progress = Progress::start("building the targets");
    build(&progress)?;
    progress.end("done");
    for target in targets.iter().filter(|name| args.targets.is_empty() || args.targets.contains(name)) {
        let progress = Progress::start(target);
        match feed(target, Limit::Runs(args.runs), &progress) {
            Ok(fed) => progress.end(&format!("{} inputs, clean", fed.runs)),
            Err(error) => {
                progress.end("FAILED");
                return Err(error);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of the targets, as their files are called.
pub(crate) fn targets() -> Result<Vec<String>> {
    let folder = paths::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "no fuzz targets in {}", folder.display());
    Ok(names)
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn folder() -> PathBuf {
    paths::artefacts().join("fuzz")
}

pub(crate) fn build(progress: &Progress) -> Result<()> {
    let mut command =
        cargo::command(&["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target named, the flags do not reach build scripts.
    command.args(["--target", &triple()]).env("CARGO_TARGET_DIR", folder()).env("RUSTFLAGS", FLAGS);
    process::run_within(&mut command, progress, LOG, Some(BUILD_TIMEOUT))
        .context("the fuzz targets cannot be built (libFuzzer needs a C++ compiler: g++ or clang++)")
}

pub(crate) fn feed(target: &str, limit: Limit, progress: &Progress) -> Result<Fed> {
    let program = folder().join(triple()).join("release").join(target);
    let [corpus, artifacts] =
        ["corpus", "artifacts"].map(|kind| paths::root().join("fuzz").join(kind).join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Command::new(&program);
    command.arg(match limit {
        Limit::Runs(runs) => format!("-runs={runs}"),
        Limit::Time(time) => format!("-max_total_time={}", time.as_secs()),
    });
    command.arg(format!("-max_len={MAX_LEN}")).args([
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&corpus);
    command.args(seeds(target));
    let mut runs = None;
    let ended = process::stream(&mut command, LOG, Some(RUN_TIMEOUT), |line| {
        progress.show(line);
        if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
            runs = number.trim().parse().ok();
        }
    })?;
    let last = || ended.last_lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    ensure!(ended.success, "fuzz target {target} {}:\n{}", ended.how(), last());
    let runs: u64 = runs.with_context(|| format!("{target} does not tell its runs:\n{}", last()))?;
    ensure!(runs > 0, "{target} was fed nothing");
    Ok(Fed { target: target.to_owned(), runs })
}

/// Inputs that are kept in the repository, where a target has any.
fn seeds(target: &str) -> Option<PathBuf> {
    Some(paths::root().join("fuzz/seeds").join(target)).filter(|folder: &PathBuf| Path::is_dir(folder))
}
