//! PostgreSQL and Redis for the applications under test, without installing Debian's packages: those start servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::{Component, Get, Step, apt};
use super::folder;
use crate::process::{self, Progress};
use crate::toolchain;

/// `redis-server` is a name that the program in redis-tools is called by; the others are what it is linked to.
const REDIS_PACKAGES: [&str; 4] = ["redis-tools", "libjemalloc2", "liblzf1", "libatomic1"];

pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Servers,
        name: "PostgreSQL",
        why: "applications in the tests keep their users in it",
        find: postgres,
        get: Get::With(install_postgres),
    },
    Step {
        component: Component::Servers,
        name: "Redis",
        why: "applications in the tests keep their sessions in it",
        find: redis,
        get: Get::With(install_redis),
    },
];

/// The folder of the newest PostgreSQL's programs: the system's, or what [`install_postgres`] unpacked.
fn postgres() -> Option<String> {
    let roots = [PathBuf::from("/usr/lib/postgresql"), folder("postgresql").join("usr/lib/postgresql")];
    let mut found: Vec<(u32, PathBuf)> = roots
        .iter()
        .flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten())
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| runs(&bin.join("postgres")) && runs(&bin.join("initdb")))
        .collect();
    found.sort_unstable();
    found.pop().map(|(_, bin)| bin.display().to_string())
}

fn install_postgres(progress: &Progress) -> Result<()> {
    let listed = depends("postgresql");
    let package = listed
        .iter()
        .find(|name| name.strip_prefix("postgresql-").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .context("apt-get knows no package postgresql; run apt-get update, or install PostgreSQL (it need not run)")?;
    let libraries: Vec<String> =
        depends(package).into_iter().filter(|name| name.starts_with("lib") || name == "tzdata").collect();
    let libraries: Vec<&str> = libraries.iter().map(String::as_str).collect();
    apt::install(&libraries, progress)?;
    apt::unpack(package, &folder("postgresql"), progress)
}

/// The system's redis-server, or the unpacked program of which that is another name.
fn redis() -> Option<String> {
    let own = unpacked("redis-tools").join("usr/bin/redis-check-rdb");
    let complete = || REDIS_PACKAGES.iter().all(|package| unpacked(package).is_dir());
    toolchain::find_program("redis-server")
        .or_else(|| (own.is_file() && complete()).then_some(own))
        .map(|path| path.display().to_string())
}

fn install_redis(progress: &Progress) -> Result<()> {
    for package in REDIS_PACKAGES {
        apt::unpack(package, &unpacked(package), progress)
            .with_context(|| format!("Redis needs {package}; or install redis-server (it need not run)"))?;
    }
    Ok(())
}

fn unpacked(package: &str) -> PathBuf {
    folder("redis").join(package)
}

fn runs(program: &Path) -> bool {
    process::capture(Command::new(program).arg("--version")).is_some()
}

/// What a package depends on, the first choice of each.
fn depends(package: &str) -> Vec<String> {
    let mut apt_cache = Command::new("apt-cache");
    apt_cache.env("LC_ALL", "C").args(["depends", "--no-recommends", "--no-suggests", package]);
    process::capture(&mut apt_cache)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}
