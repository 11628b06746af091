//! Runs the workspace's own cargo.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;

/// Builds all programs and tests. Every command builds with these words: other ones choose other features of the
/// dependencies, and compile them again. That is why tests are run from here and not by `cargo test --package`.
pub(crate) const BUILD: [&str; 3] = ["build", "--bins", "--tests"];

/// What cargo has built, or found built.
struct Built {
    programs: Vec<PathBuf>,
    tests: Vec<TestProgram>,
}

/// A program of Rust's test harness.
pub(crate) struct TestProgram {
    /// The folder of its package, in which its tests are run.
    pub(crate) folder: PathBuf,
    /// The name of its source: `house` for tests/house.rs, `watchdog` for the tests beside the code of a library.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl TestProgram {
    /// The folder of its package, as in `watchdog-common`.
    pub(crate) fn package(&self) -> &str {
        self.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// As in `watchdog-common contract`.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.package(), self.name)
    }

    /// Runs the tests whose names contain `filter`.
    pub(crate) fn command(&self, filter: Option<&str>) -> Command {
        let mut command = Command::new(&self.path);
        without_own_variables(&mut command);
        command.arg("--show-output").args(filter);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        if SLOW.get().is_some() {
            command.arg("--include-ignored").env("LOAD_WATCHDOG_SLOW", "1");
        }
        command
    }
}

/// Set where tests that take long are wanted too.
pub(crate) static SLOW: OnceLock<()> = OnceLock::new();

/// `cargo <arguments>` in the workspace's folder, without the variables that `cargo run` set for this program.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    without_own_variables(&mut command);
    command.args(arguments).current_dir(paths::root());
    command
}

fn without_own_variables(command: &mut Command) {
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(key);
        }
    }
}

/// Builds everything and returns the paths of the workspace's programs, tests and xtask left out.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    Ok(built(&BUILD)?.programs)
}

/// Builds everything and returns the test programs.
pub(crate) fn tests() -> Result<Vec<TestProgram>> {
    Ok(built(&BUILD)?.tests)
}

/// As [`programs`], optimised and without the tests.
pub(crate) fn release_programs() -> Result<Vec<PathBuf>> {
    Ok(built(&["build", "--release", "--bins"])?.programs)
}

/// One optimised program of one package. Built by itself, as the others need much that this one does not.
pub(crate) fn release_program(package: &str, name: &str) -> Result<PathBuf> {
    let built = built(&["build", "--release", "--package", package, "--bin", name])?;
    let program = built.programs.into_iter().find(|path| path.ends_with(name));
    program.with_context(|| format!("the build made no program {name}"))
}

/// Builds one example of the library and returns its path: of all packages the library and what it needs are built, with
/// the features that the other commands choose.
pub(crate) fn example(name: &str, release: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--example", name];
    if release {
        arguments.push("--release");
    }
    let programs = built(&arguments)?.programs;
    let program = programs.into_iter().find(|path| path.file_name().is_some_and(|file| file == name));
    program.with_context(|| format!("the build made no example {name}"))
}

fn built(arguments: &[&str]) -> Result<Built> {
    let mut command = command(arguments);
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let mut built = Built { programs: Vec::new(), tests: Vec::new() };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
        if message["profile"]["test"] == true {
            let manifest = message["manifest_path"].as_str().map(Path::new);
            let folder = manifest.and_then(Path::parent).context("cargo names no manifest of a test")?;
            let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
            built.tests.push(TestProgram { folder: folder.to_path_buf(), name, path });
        } else if !path.ends_with("xtask") {
            built.programs.push(path);
        }
    }
    Ok(built)
}
