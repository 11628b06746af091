//! `cargo xtask codegen`: writes what is made from the sources and kept beside them.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cargo;
use crate::process::{self, Progress};
use crate::setup::{self, Component};
use crate::vm;

/// The test that compares the files with the sources, and writes them where [`WRITE`] is set.
pub(crate) const TEST: &str = "generated";
const WRITE: &str = "LOAD_WATCHDOG_WRITE_GENERATED";
const LOG: &str = "codegen.log";

/// Writes docs/metrics.md, docs/kernels.md, the man pages and the shells' completions anew from the sources.
///
/// They are kept in the repository, so that packagers need not run anything; a test fails when one is out of date.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only compare; exit 1 if a file differs.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Component::Build])?;
    let tests = cargo::tests()?;
    let test =
        tests.iter().find(|test| test.name == TEST).context("there is no test of the generated files")?;
    let mut command = test.command(None);
    if !args.check {
        command.env(WRITE, "1");
    }
    vm::document::write(args.check)?;
    let progress = Progress::start("metrics.md, kernels.md, man pages, completions");
    match process::run(&mut command, &progress, LOG) {
        Ok(()) => progress.end(if args.check { "up to date" } else { "written" }),
        Err(error) => {
            progress.end("FAILED");
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}
