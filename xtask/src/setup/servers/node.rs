//! Node.js and the packages of the Node applications, from npm's registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::{Component, Get, Step, version};
use super::folder;
use crate::paths;
use crate::process::{self, Progress};
use crate::toolchain;

const LOG: &str = "setup.log";
/// The applications, with the pinned packages in a lock file.
const APPLICATION: &str = "tests/apps/node";
/// The oldest that the packages and the clock of the applications (WASI) work with: Debian 12's.
const OLDEST_MAJOR: u32 = 18;

pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Servers,
        name: "Node.js with npm",
        why: "the tests watch it",
        find: found,
        get: Get::Packages(&["nodejs", "npm"]),
    },
    Step {
        component: Component::Servers,
        name: "Express and its company",
        why: "the tests watch them",
        find: || installed(APPLICATION, &folder("node")),
        get: Get::With(|progress| install(APPLICATION, &folder("node"), progress)),
    },
];

fn found() -> Option<String> {
    let node = version(&mut Command::new("node"))?;
    let npm = version(&mut Command::new("npm"))?;
    let major: u32 = node.strip_prefix('v')?.split('.').next()?.parse().ok()?;
    (major >= OLDEST_MAJOR).then(|| format!("node {node}, npm {npm}"))
}

/// Where an application's packages are, if they are those that its lock file names today.
pub(crate) fn installed(application: &str, folder: &Path) -> Option<String> {
    let wanted = fs::read(paths::root().join(application).join("package-lock.json")).ok()?;
    let there = fs::read(folder.join("installed-lock.json")).ok()?;
    let packages = folder.join("node_modules");
    (wanted == there && packages.is_dir()).then(|| packages.display().to_string())
}

/// Installs exactly what an application's lock file names. No package's script is run: those with native parts bring
/// them built.
pub(crate) fn install(application: &str, folder: &Path, progress: &Progress) -> Result<()> {
    toolchain::find_program("npm").context("needs Node.js with npm first")?;
    let source = paths::root().join(application);
    fs::create_dir_all(folder)?;
    // `npm ci` starts over by itself. The note of what is installed goes first, in case it is interrupted.
    let note = folder.join("installed-lock.json");
    if note.exists() {
        fs::remove_file(&note)?;
    }
    for name in ["package.json", "package-lock.json"] {
        let file = source.join(name);
        fs::copy(&file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder);
    process::run(&mut npm, progress, LOG).context(
        "the packages come from npm's registry; where that cannot be reached, set NPM_CONFIG_REGISTRY to a mirror",
    )?;
    fs::copy(source.join("package-lock.json"), note).context("cannot note what is installed")?;
    Ok(())
}
