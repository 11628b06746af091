//! OpenTelemetry for Flask and Express, which `cargo xtask bench` compares the agent with.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::super::{Component, Get, Step, install};
use super::folder;
use crate::paths;
use crate::process::{self, Progress};

const FLASK: &str = "tests/apps/otel-flask/requirements.txt";
const EXPRESS: &str = "tests/apps/otel-express";
/// What a run of npm leaves when it has installed all.
const DONE: &str = "node_modules/.package-lock.json";
const LOG: &str = "setup.log";

pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Bench,
        name: "Flask, OpenTelemetry",
        why: "the agent is compared with instrumentation in the process",
        find: || install::python_packages(FLASK, &folder("otel-flask")),
        get: Get::With(|progress| install::install_python_packages(FLASK, &folder("otel-flask"), progress)),
    },
    Step {
        component: Component::Bench,
        name: "Express, OpenTelemetry",
        why: "the agent is compared with instrumentation in the process",
        find: || {
            let folder = folder("otel-express");
            folder.join(DONE).is_file().then(|| folder.display().to_string())
        },
        get: Get::With(express),
    },
];

/// Beside a copy of the application: the repository stays as it is.
fn express(progress: &Progress) -> Result<()> {
    let (from, to) = (paths::root().join(EXPRESS), folder("otel-express"));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?.flatten() {
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    process::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&to), progress, LOG)
        .context("the packages come from npm (Node.js 18.19 or later)")
}
