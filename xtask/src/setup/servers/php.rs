//! PHP as most sites run it: php-fpm, and Apache with PHP inside.
//!
//! Nothing here starts a service: Apache's program and its module are packages of their own without one, and php-fpm's
//! package, which has one, is unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::super::{Component, Get, Step, apt};
use super::folder;
use crate::process::{self, Progress};

const MODULES: &str = "/usr/lib/apache2/modules";

pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Servers,
        name: "Apache with PHP",
        why: "the tests watch it; php-fpm needs what PHP brings",
        find: apache,
        get: Get::Packages(&["apache2-bin", "libapache2-mod-php", "php-cli", "libapparmor1"]),
    },
    Step {
        component: Component::Servers,
        name: "php-fpm",
        why: "the tests watch it behind nginx",
        find: || Some(described(&fpm()?)),
        get: Get::With(unpack),
    },
];

fn apache() -> Option<String> {
    let program = Path::new("/usr/sbin/apache2");
    let module = newest(Path::new(MODULES), "libphp")?;
    let php = Path::new("/usr/bin/php");
    (program.is_file() && php.is_file()).then(|| format!("{}, {}", program.display(), module.display()))
}

/// The system's, else the one that [`unpack`] made.
fn fpm() -> Option<PathBuf> {
    [PathBuf::from("/usr/sbin"), folder("php").join("usr/sbin")]
        .iter()
        .filter_map(|folder| newest(folder, "php-fpm"))
        .find(|program| version_of(program).is_some())
}

fn described(program: &Path) -> String {
    format!("{} ({})", program.display(), version_of(program).unwrap_or_default())
}

fn unpack(progress: &Progress) -> Result<()> {
    // `php-fpm` only says which version is meant.
    let depends = process::capture(Command::new("apt-cache").env("LC_ALL", "C").args(["depends", "php-fpm"]))
        .context("apt-cache cannot say which php-fpm there is; install php-fpm (it need not run)")?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("php") && name.ends_with("-fpm"))
        .context("apt-get knows no package php-fpm; run apt-get update, or install it (it need not run)")?;
    apt::unpack(package, &folder("php"), progress)?;
    if fpm().is_none() {
        bail!("the unpacked {package} does not run here, most likely for want of a library; install php-fpm");
    }
    Ok(())
}

/// The first line of `php-fpm -v`.
fn version_of(program: &Path) -> Option<String> {
    process::capture(Command::new(program).arg("-v")).and_then(|text| text.lines().next().map(str::to_owned))
}

/// The file of the highest version whose name begins like that.
fn newest(folder: &Path, prefix: &str) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .max()
}
