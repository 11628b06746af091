//! `cargo xtask vectors`: the decision engine against reference values.
//!
//! The library has an example for it, which is run: depending on the library here would make every command wait for the
//! kernel programs and all that the agent is built from.

use std::path::{self, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::cargo;
use crate::setup::{self, Component};

/// Checks files of reference values of the decision engine, in the format of watchdog/tests/data/vectors.json.
///
/// Every figure has to agree to 1e-9 relative, every decision to the request. Prints a line for each sequence; ends with
/// status 1 and the first difference when there is one, or when a file is not of that format.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Before cargo is asked, which runs in the workspace's folder.
    let files = args
        .files
        .iter()
        .map(|file| path::absolute(file).with_context(|| format!("{} is no path", file.display())))
        .collect::<Result<Vec<_>>>()?;
    setup::ensure(&[Component::Build])?;
    let program = cargo::example("engine", false)?;
    let status = Command::new(&program)
        .arg("vectors")
        .args(&files)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
