//! What does not come as one Debian package: the BPF compiler, its linker and linter, the test application's packages,
//! and promtool without the server it is packed with.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, version};
use crate::paths;
use crate::process::{self, Progress};
use crate::toolchain::{self, Compiler};

const LOG: &str = "setup.log";
/// Later ones may want an LLVM that Debian does not carry.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// The pinned packages of the application that the demo and the tests watch.
const SHOP_PACKAGES: &str = "tests/apps/shop/requirements.txt";

/// Debian's compiler where it can be installed, else rustup's nightly.
pub(super) fn compiler(progress: &Progress) -> Result<()> {
    const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
    let debian = apt::install(&PACKAGES, progress);
    let Err(debian) = debian else { return Ok(()) };
    let Some(rustup) = toolchain::find_program("rustup") else {
        bail!(
            "{debian:#}\nor install rustup (https://rustup.rs) and run: \
             rustup toolchain install nightly --profile minimal --component rust-src"
        );
    };
    process::run(
        Command::new(rustup).args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]),
        progress,
        LOG,
    )
    .with_context(|| format!("Debian's compiler could not be had either: {debian:#}"))
}

/// Builds bpf-linker against the LLVM of the compiler: bitcode of a newer LLVM than its own cannot be linked.
pub(super) fn linker(progress: &Progress) -> Result<()> {
    let compiler = toolchain::find_compiler()
        .context("needs the Rust compiler for BPF first, to know its LLVM's version")?;
    let major =
        llvm_major(&compiler).context("the Rust compiler for BPF does not tell its LLVM's version")?;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if !prefix.join("bin/llvm-config").exists() {
        apt::install(&[&format!("llvm-{major}-dev")], progress).with_context(|| {
            format!(
                "bpf-linker is built against LLVM {major}; a finished one comes with `cargo binstall bpf-linker` \
                 (https://github.com/aya-rs/bpf-linker)"
            )
        })?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([prefix.join("bin")].into_iter().chain(env::split_paths(&path)))?;
    process::run(
        Command::new("cargo")
            .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"])
            .args(["--no-default-features", "--features", &format!("llvm-{major}")])
            // Not the workspace's: cargo install picks a temporary folder.
            .env_remove("CARGO_TARGET_DIR")
            .env("PATH", path)
            .env("LLVM_PREFIX", &prefix)
            .env(format!("LLVM_SYS_{major}1_PREFIX"), &prefix),
        progress,
        LOG,
    )
}

pub(super) fn describe(compiler: &Compiler) -> String {
    let name = version(&mut rustc(compiler)).unwrap_or_default();
    match compiler {
        Compiler::Nightly { .. } => format!("{name} with rust-src"),
        Compiler::Prebuilt { bin } => format!("{name} in {} with a prebuilt core", bin.display()),
    }
}

fn rustc(compiler: &Compiler) -> Command {
    match compiler {
        Compiler::Nightly { rustup } => {
            let mut command = Command::new(rustup);
            command.args(["run", "nightly", "rustc"]);
            command
        }
        Compiler::Prebuilt { bin } => Command::new(bin.join("rustc")),
    }
}

fn llvm_major(compiler: &Compiler) -> Option<u32> {
    let text = process::capture(rustc(compiler).arg("-vV"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// A Python that can make virtual environments: the system's before one of a version manager.
pub(super) fn python() -> Option<PathBuf> {
    let system = PathBuf::from("/usr/bin/python3");
    [Some(system), toolchain::find_program("python3")].into_iter().flatten().find(|python| {
        process::capture(Command::new(python).args(["-c", "import ensurepip, venv"])).is_some()
    })
}

/// gunicorn's program in the virtual environment that `ensure(&[Component::Python])` makes.
pub(crate) fn gunicorn() -> PathBuf {
    venv().join("bin/gunicorn")
}

fn venv() -> PathBuf {
    paths::artefacts().join("venv")
}

/// Where the shop's packages are, if they are those of today's list.
pub(super) fn shop_packages() -> Option<String> {
    python_packages(SHOP_PACKAGES, &venv())?;
    Some(gunicorn().display().to_string())
}

pub(super) fn install_shop_packages(progress: &Progress) -> Result<()> {
    install_python_packages(SHOP_PACKAGES, &venv(), progress)
}

/// A copy of the list of packages, written when all of them are installed.
fn installed_packages(venv: &Path) -> PathBuf {
    venv.join("installed-requirements.txt")
}

/// A virtual environment, if it has the packages of today's list (a path in the workspace).
pub(super) fn python_packages(list: &str, venv: &Path) -> Option<String> {
    let wanted = fs::read_to_string(paths::root().join(list)).ok()?;
    let installed = fs::read_to_string(installed_packages(venv)).ok()?;
    (wanted == installed && venv.join("bin/python").is_file()).then(|| venv.display().to_string())
}

/// Makes a virtual environment anew, with the packages of a list.
pub(super) fn install_python_packages(list: &str, venv: &Path, progress: &Progress) -> Result<()> {
    let list = paths::root().join(list);
    let wanted = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let python = python().context("needs Python with venv first")?;
    // Half of an environment is worse than none: a run that was interrupted starts over.
    if venv.exists() {
        fs::remove_dir_all(venv)?;
    }
    process::run(Command::new(python).args(["-m", "venv"]).arg(venv), progress, LOG)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--disable-pip-version-check", "--requirement"]).arg(&list);
    process::run(&mut pip, progress, LOG).context(
        "the packages come from PyPI; where that cannot be reached, set PIP_INDEX_URL to a mirror",
    )?;
    fs::write(installed_packages(venv), wanted).context("cannot note what is installed")
}

/// Prometheus's checker: the system's, or the one that `ensure(&[Component::Tests])` unpacks.
pub(crate) fn promtool() -> Option<PathBuf> {
    let own = promtool_folder().join("usr/bin/promtool");
    toolchain::find_program("promtool").or_else(|| own.is_file().then_some(own))
}

fn promtool_folder() -> PathBuf {
    paths::artefacts().join("promtool")
}

/// Unpacked rather than installed: Debian's package starts a Prometheus server.
pub(super) fn install_promtool(progress: &Progress) -> Result<()> {
    apt::unpack("prometheus", &promtool_folder(), progress)
        .context("promtool comes with Prometheus (https://prometheus.io/download); put it on PATH")
}

pub(super) fn lints() -> Option<String> {
    let clippy = version(Command::new("cargo").arg("clippy"))?;
    let rustfmt = version(Command::new("cargo").arg("fmt"))?;
    Some(format!("{clippy}, {rustfmt}"))
}

pub(super) fn install_lints(progress: &Progress) -> Result<()> {
    let rustup = toolchain::find_program("rustup")
        .context("no rustup; install rustfmt and clippy the way your Rust compiler was installed")?;
    process::run(Command::new(rustup).args(["component", "add", "rustfmt", "clippy"]), progress, LOG)
}

pub(super) fn bpf_clippy() -> Option<String> {
    match toolchain::find_compiler()? {
        Compiler::Nightly { rustup } => version(
            Command::new(rustup).args(["run", "nightly", "cargo-clippy"]).env_remove("RUSTUP_TOOLCHAIN"),
        ),
        Compiler::Prebuilt { bin } => version(&mut Command::new(bin.join("clippy-driver"))),
    }
}

pub(super) fn install_bpf_clippy(progress: &Progress) -> Result<()> {
    match toolchain::find_compiler().context("needs the Rust compiler for BPF first")? {
        Compiler::Nightly { rustup } => process::run(
            Command::new(rustup).args(["component", "add", "clippy", "--toolchain", "nightly"]),
            progress,
            LOG,
        ),
        Compiler::Prebuilt { bin } if bin == Path::new("/usr/bin") => {
            apt::install(&["rust-web-clippy"], progress)
        }
        Compiler::Prebuilt { bin } => bail!("no clippy-driver beside {}", bin.join("rustc").display()),
    }
}
