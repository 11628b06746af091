//! Debian packages: installed when that is possible, else named.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, Progress};

const LOG: &str = "setup.log";

/// Installs packages with apt-get, after `apt-get update` when one of them is not known.
pub(crate) fn install(packages: &[&str], progress: &Progress) -> Result<()> {
    let list = packages.join(" ");
    if !is_debian() {
        bail!("this is not Debian or a relative of it; install what Debian calls: {list}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("not root; run: sudo apt-get install --no-install-recommends {list}");
    }
    if !packages.iter().all(|package| has_candidate(package)) {
        process::run(&mut apt_get(&["update"]), progress, LOG)?;
    }
    if let Some(unknown) = packages.iter().find(|package| !has_candidate(package)) {
        bail!(
            "apt-get knows no package {unknown}, even after apt-get update: are all of Debian's archives enabled?"
        );
    }
    let run_install = || {
        process::run(apt_get(&["install", "--yes", "--no-install-recommends"]).args(packages), progress, LOG)
    };
    // An index that has aged names files that the mirror has replaced since.
    run_install().or_else(|_| {
        process::run(&mut apt_get(&["update"]), progress, LOG)?;
        run_install()
    })
}

/// Downloads a package and unpacks it into `folder`, which is made anew; installs nothing and needs no root.
pub(crate) fn unpack(package: &str, folder: &Path, progress: &Progress) -> Result<()> {
    if !is_debian() {
        bail!("{package} comes from Debian's archive by apt-get, which is not here");
    }
    // Beside and renamed, so that an interrupted run leaves nothing half done.
    let fresh = folder.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let fetch = || process::run(apt_get(&["download", package]).current_dir(&fresh), progress, LOG);
    // An index that has aged names files that the mirror has replaced since.
    fetch().or_else(|_| {
        process::run(&mut apt_get(&["update"]), progress, LOG)?;
        fetch()
    })?;
    let archive = fs::read_dir(&fresh)?
        .flatten()
        .map(|entry| entry.path())
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&fresh), progress, LOG)?;
    fs::remove_file(archive)?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(&fresh, folder).with_context(|| format!("cannot make {}", folder.display()))
}

pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && Path::new("/usr/bin/apt-get").exists()
}

/// Whether apt could install the package now.
pub(crate) fn has_candidate(package: &str) -> bool {
    process::capture(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package])).is_some_and(
        |text| {
            text.lines().any(|line| {
                line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)")
            })
        },
    )
}

/// `apt-get <arguments>`, asking nothing and waiting for another apt-get instead of failing.
pub(crate) fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command
}
