//! nginx for the measurements, without installing it: Debian's package would start a server on port 80.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt;
use crate::paths;
use crate::process::{self, Progress};
use crate::toolchain;

const LOG: &str = "setup.log";

/// The system's nginx, else the one that [`unpack`] made.
pub(crate) fn nginx() -> Option<PathBuf> {
    let system = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().map(PathBuf::from);
    toolchain::find_program("nginx")
        .into_iter()
        .chain(system)
        .chain([unpacked().join("usr/sbin/nginx")])
        .find(|path| path.is_file())
}

fn unpacked() -> PathBuf {
    paths::artefacts().join("nginx")
}

/// Fetches Debian's package and unpacks it below the target folder.
pub(super) fn unpack(progress: &Progress) -> Result<()> {
    if !apt::is_debian() {
        bail!("this is not Debian or a relative of it; install nginx (it need not run)");
    }
    if !apt::has_candidate("nginx") {
        bail!("apt-get knows no package nginx; run apt-get update, or install nginx (it need not run)");
    }
    let folder = unpacked();
    fs::create_dir_all(&folder)?;
    process::run(apt::apt_get(&["download", "nginx"]).current_dir(&folder), progress, LOG)?;
    let package = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .max()
        .context("apt-get download left no package")?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&folder), progress, LOG)?;
    fs::remove_file(&package)?;
    let program = folder.join("usr/sbin/nginx");
    if version_of(&program).is_none() {
        fs::remove_file(&program)?;
        bail!("the unpacked nginx does not run here, most likely for want of a library; install nginx");
    }
    Ok(())
}

/// `nginx version: nginx/1.22.1`: it writes that to stderr.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("-v").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// What was found, for `cargo xtask setup`.
pub(super) fn describe() -> Option<String> {
    let program = nginx()?;
    Some(format!("{} ({})", program.display(), version_of(&program)?))
}
