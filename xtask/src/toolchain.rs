//! Finds a way to compile the kernel programs, and builds the cargo command for it.
//!
//! Stable Rust ships no `core` for the BPF targets, so one of two routes is needed:
//!
//! * rustup's nightly with the component `rust-src`, which compiles `core` itself (`-Z build-std`);
//! * a compiler whose sysroot holds `core` for BPF already, as Debian's `rustc-web` with
//!   `libstd-rust-web-dev-bpf`. `aya-ebpf` and the kernel programs need an unstable feature each, which
//!   `RUSTC_BOOTSTRAP` grants to these two crates alone.
//!
//! Both link with `bpf-linker`. This file is shared by `watchdog/build.rs` and xtask, hence plain `std`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package that holds the kernel programs.
pub(crate) const PACKAGE: &str = "watchdog-ebpf";
/// Overrides everything: the path of an object built elsewhere, for packagers.
pub(crate) const PREBUILT_OBJECT: &str = "LOAD_WATCHDOG_EBPF_OBJECT";

const LINKER: &str = "bpf-linker";

/// A compiler that can produce code for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's nightly toolchain with `rust-src`; holds rustup's path.
    Nightly { rustup: PathBuf },
    /// A compiler with a prebuilt `core` for BPF; holds the folder of its `cargo` and `rustc`.
    Prebuilt { bin: PathBuf },
}

/// Everything the kernel programs need to be compiled.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// What could not be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    pub(crate) compiler: bool,
    pub(crate) linker: bool,
}

impl Toolchain {
    /// Looks at rustup first, then at the compilers beside it.
    pub(crate) fn find() -> Result<Self, Missing> {
        match (find_compiler(), find_linker()) {
            (Some(compiler), Some(linker)) => Ok(Self { compiler, linker }),
            (compiler, linker) => Err(Missing { compiler: compiler.is_none(), linker: linker.is_none() }),
        }
    }

    /// `cargo <subcommand>` for the kernel programs, in release mode, for the BPF target of a host of
    /// architecture `arch` (as in `CARGO_CFG_TARGET_ARCH`) and byte order `big_endian`.
    ///
    /// `root` is the workspace's folder, `target_dir` the folder to build in: never the folder that an outer
    /// cargo holds locked.
    pub(crate) fn cargo(&self, subcommand: &str, host: &Host, root: &Path, target_dir: &Path) -> Command {
        let mut command = match &self.compiler {
            Compiler::Nightly { rustup } => {
                let mut command = Command::new(rustup);
                command.args(["run", "nightly", "cargo", subcommand]);
                command
            }
            // `cargo clippy` would pick the cargo-clippy of CARGO_HOME, which belongs to rustup.
            Compiler::Prebuilt { bin } if subcommand == "clippy" => {
                let mut command = Command::new(bin.join("cargo-clippy"));
                command.arg(subcommand);
                command
            }
            Compiler::Prebuilt { bin } => {
                let mut command = Command::new(bin.join("cargo"));
                command.arg(subcommand);
                command
            }
        };
        // The outer cargo, and rustup's proxies, leave variables that would lead this one to their compiler.
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(belongs_to_outer_build) {
                command.env_remove(key);
            }
        }
        match &self.compiler {
            Compiler::Nightly { .. } => {
                command.args(["-Z", "build-std=core"]);
            }
            Compiler::Prebuilt { bin } => {
                command.env("CARGO", bin.join("cargo")).env("RUSTC", bin.join("rustc"));
                command.env("RUSTC_BOOTSTRAP", "aya_ebpf,watchdog_ebpf");
            }
        }
        let target = if host.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
        command
            .current_dir(root)
            .args(["--package", PACKAGE, "--release", "--target", target, "--target-dir"])
            .arg(target_dir)
            .env("PATH", path_with(self.linker.parent()))
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&host.arch, root));
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.compiler {
            Compiler::Nightly { .. } => write!(f, "rustup nightly with rust-src")?,
            Compiler::Prebuilt { bin } => {
                write!(f, "{} with a prebuilt core for BPF", bin.join("rustc").display())?;
            }
        }
        write!(f, ", {}", self.linker.display())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.compiler, self.linker) {
            (true, true) => "neither a Rust compiler with `core` for BPF nor bpf-linker",
            (true, false) => {
                "no Rust compiler with `core` for BPF (rustup's nightly with rust-src, or Debian's)"
            }
            (false, _) => "no bpf-linker on PATH or in cargo's bin folder",
        })
    }
}

/// The machine whose kernel the programs will run in.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) arch: String,
    pub(crate) big_endian: bool,
}

pub(crate) fn find_compiler() -> Option<Compiler> {
    if let Some(rustup) = find_program("rustup") {
        let sysroot = sysroot(Command::new(&rustup).args(["run", "nightly", "rustc"]));
        if sysroot.is_some_and(|root| root.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()) {
            return Some(Compiler::Nightly { rustup });
        }
    }
    let folders =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    folders.into_iter().chain([PathBuf::from("/usr/bin")]).find_map(|bin| {
        let complete = bin.join("cargo").is_file() && bin.join("rustc").is_file();
        let has_core = complete
            && sysroot(&mut Command::new(bin.join("rustc")))
                .is_some_and(|root| root.join("lib/rustlib/bpfel-unknown-none/lib").is_dir());
        has_core.then_some(Compiler::Prebuilt { bin })
    })
}

pub(crate) fn find_linker() -> Option<PathBuf> {
    find_program(LINKER)
}

/// A program on PATH, else in cargo's bin folder (which need not be on PATH in a build script).
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(home_of("CARGO_HOME", ".cargo").map(|home| home.join("bin")))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc
        .args(["--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end()))
}

/// Keeps what says where crates come from and how to talk; drops what says how the outer build compiles.
fn belongs_to_outer_build(key: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_MAKEFLAGS",
        "RUSTUP_HOME",
    ];
    (key.starts_with("CARGO") || key.starts_with("RUSTC") || key.starts_with("RUSTUP") || key == "RUSTFLAGS")
        && !KEPT.iter().any(|kept| key.starts_with(kept))
}

/// bpf-linker makes BTF out of full debug info; paths of the building machine stay out of it.
fn rustflags(arch: &str, root: &Path) -> OsString {
    let mut flags =
        OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"));
    let remapped = [
        (Some(root.to_path_buf()), "."),
        (home_of("CARGO_HOME", ".cargo"), "cargo"),
        (home_of("RUSTUP_HOME", ".rustup"), "rustup"),
    ];
    for (from, to) in remapped {
        let Some(from) = from else { continue };
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    }
    flags
}

fn home_of(variable: &str, below_home: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(below_home)))
}

fn path_with(first: Option<&Path>) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = first.map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).unwrap_or_else(|_| OsStr::new("/usr/bin:/bin").to_owned())
}
