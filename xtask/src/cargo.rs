//! Runs the workspace's own cargo.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;

/// Builds all programs and tests. Every command builds with these words: other ones choose other features of the
/// dependencies, and compile them again.
pub(crate) const BUILD: [&str; 3] = ["build", "--bins", "--tests"];

/// `cargo <arguments>` in the workspace's folder, without the variables that `cargo run` set for this program.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(key);
        }
    }
    command.args(arguments).current_dir(paths::root());
    command
}

/// Builds everything and returns the paths of the workspace's programs, tests and xtask left out.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let mut command = command(&BUILD);
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", BUILD.join(" "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .filter(|path| {
            !path.ends_with("xtask") && path.parent().is_some_and(|folder| !folder.ends_with("deps"))
        })
        .collect())
}
