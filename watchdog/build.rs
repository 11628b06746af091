//! Compiles the kernel programs and leaves the object as `watchdog-ebpf` in `OUT_DIR`, to be embedded.
//!
//! The compiler for them is another one than the compiler of this crate: see `xtask/src/toolchain.rs`.

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use toolchain::{Host, PACKAGE, PREBUILT_OBJECT, Toolchain};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told(lines)) => {
            for line in lines {
                println!("cargo::error={line}");
            }
            ExitCode::SUCCESS // cargo fails for the errors, without repeating this script's whole output
        }
        Err(Failure::Compiler) => ExitCode::FAILURE, // cargo prints what the compiler wrote to stderr
    }
}

enum Failure {
    Told(Vec<String>),
    Compiler,
}

fn build() -> Result<(), Failure> {
    let variable = |name: &str| env::var(name).map_err(|error| told(format!("{name}: {error}")));
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root =
        manifest_dir.parent().ok_or_else(|| told("this crate does not lie in its workspace".into()))?;
    let embedded = out_dir.join(PACKAGE);

    println!("cargo::rerun-if-env-changed={PREBUILT_OBJECT}");
    if let Some(object) = env::var_os(PREBUILT_OBJECT).map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", object.display());
        return copy(&object, &embedded);
    }
    for input in [
        "Cargo.toml",
        "Cargo.lock",
        "watchdog-ebpf/Cargo.toml",
        "watchdog-ebpf/src",
        "watchdog-common/Cargo.toml",
        "watchdog-common/src",
        "watchdog/build.rs",
        "xtask/src/toolchain.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }

    let toolchain = Toolchain::find().map_err(|missing| {
        Failure::Told(vec![
            format!("the kernel programs cannot be compiled: {missing}."),
            "`cargo xtask setup` finds or installs what is missing and says what it does.".into(),
            format!("To embed an object built elsewhere, set {PREBUILT_OBJECT} to its path."),
        ])
    })?;
    let host = Host {
        arch: variable("CARGO_CFG_TARGET_ARCH")?,
        big_endian: variable("CARGO_CFG_TARGET_ENDIAN")? == "big",
    };
    // target/<profile>/build/<package>/out: one folder beside the profiles serves them all, so that a debug and
    // a release build of the agent compile the kernel programs once.
    let target_dir = out_dir.ancestors().nth(4).unwrap_or(&out_dir).join("ebpf");
    let mut command = toolchain.cargo("build", &host, root, &target_dir);
    let status = command.status().map_err(|error| told(format!("cannot run {command:?}: {error}")))?;
    if !status.success() {
        eprintln!("compiling the kernel programs failed ({status}) with {toolchain}");
        return Err(Failure::Compiler);
    }
    let target = if host.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    copy(&target_dir.join(target).join("release").join(PACKAGE), &embedded)
}

fn copy(object: &Path, embedded: &Path) -> Result<(), Failure> {
    fs::copy(object, embedded)
        .map(drop)
        .map_err(|error| told(format!("{} cannot be embedded: {error}", object.display())))
}

fn told(line: String) -> Failure {
    Failure::Told(vec![line])
}
