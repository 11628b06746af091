//! Debian's kernel images: downloaded with apt-get, unpacked, kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{self, Progress};
use crate::setup::apt;

const LOG: &str = "vm-kernels.log";

/// The image of the newest kernel of `series` (such as `6.1`), from the cache below the target folder or from
/// Debian's archive. Needs no root.
pub(super) fn fetch(series: &str) -> Result<PathBuf> {
    let folder = paths::artefacts().join("kernels").join(series);
    if let Some(image) = image_in(&folder) {
        return Ok(image);
    }
    let progress = Progress::start(&format!("kernel {series} from Debian"));
    match download(series, &folder, &progress) {
        Ok(image) => {
            progress.end(&image.file_name().unwrap_or_default().to_string_lossy());
            Ok(image)
        }
        Err(error) => {
            progress.end("FAILED");
            Err(error)
        }
    }
}

fn download(series: &str, folder: &Path, progress: &Progress) -> Result<PathBuf> {
    if !apt::is_debian() {
        bail!("kernels come from Debian's archive by apt-get, which is not here");
    }
    let package = newest_package(series).map_or_else(
        || {
            process::run(&mut apt::apt_get(&["update"]), progress, LOG)
                .context("apt knows no kernel of this series and its index cannot be updated")?;
            newest_package(series)
                .with_context(|| format!("apt knows no package linux-image-{series}.*-cloud-amd64"))
        },
        Ok,
    )?;
    apt::unpack(&package, folder, progress)?;
    // The modules are 20 times the image, and the guest needs none: loopback and unix sockets are built in.
    fs::remove_dir_all(folder.join("lib")).or_else(|_| fs::remove_dir_all(folder.join("usr/lib")))?;
    image_in(folder).with_context(|| format!("{package} holds no boot/vmlinuz-*"))
}

/// Among `linux-image-6.1.0-50-cloud-amd64` and its like, the highest version that can be downloaded.
fn newest_package(series: &str) -> Option<String> {
    let prefix = format!("linux-image-{series}.");
    let names = process::capture(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let mut packages: Vec<_> =
        names.lines().filter(|name| name.starts_with(&prefix) && name.ends_with("-cloud-amd64")).collect();
    packages.sort_by_key(|name| numbers(name));
    packages.into_iter().rev().find(|name| apt::has_candidate(name)).map(str::to_owned)
}

/// The numbers in a name, for comparing versions.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn image_in(folder: &Path) -> Option<PathBuf> {
    files_in(&folder.join("boot"))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
}

fn files_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("linux-image-6.1.0-9-cloud-amd64") < numbers("linux-image-6.1.0-56-cloud-amd64"));
        assert!(
            numbers("linux-image-6.12.94+deb12-cloud-amd64")
                < numbers("linux-image-6.12.117+deb12-cloud-amd64")
        );
    }
}
