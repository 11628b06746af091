//! Where things lie: everything that is downloaded or made goes below the target folder.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let crate_folder =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    crate_folder.parent().map(Path::to_path_buf).unwrap_or(crate_folder)
}

/// Cargo's target folder, wherever `CARGO_TARGET_DIR` puts it.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// What the commands of this crate fetch and make: kernels, Python packages, logs.
pub(crate) fn artefacts() -> PathBuf {
    target().join("xtask")
}
