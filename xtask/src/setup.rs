//! `cargo xtask setup`: finds what the project's commands need, and installs what is missing.
//!
//! Each need is a row of [`STEPS`] or of a family of servers: how to find it, and how to get it. The other commands call [`ensure`] with the
//! components they use, so that nobody has to run `setup` by hand.

pub(crate) mod apt;
mod install;
mod nginx;
mod servers;

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::process::{self, Progress};
use crate::toolchain;

pub(crate) use install::{gunicorn, promtool};
pub(crate) use nginx::nginx;

/// Finds what the build, the tests and the demo need, and installs what is missing.
///
/// Installs Debian packages (as root), bpf-linker from crates.io, and into the target folder the test
/// application's packages from Python's index. Says what it does and why; where it cannot, says what to install. May be run again at any time.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only print what is found and what is missing; exit 1 if something is.
    #[arg(long)]
    check: bool,
    /// Only these parts; all of them if none is named.
    #[arg(value_enum)]
    components: Vec<Component>,
}

/// A part of what can be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Component {
    /// Compile the agent and its kernel programs.
    Build,
    /// Run real Python application servers, in the demo and the tests.
    Python,
    /// Check the figures that the agent exports, in the tests.
    Tests,
    /// Run the servers that people use, in the tests.
    Servers,
    /// Format and lint.
    Lint,
    /// Boot other kernels in QEMU.
    Vm,
    /// Measure what the agent costs.
    Bench,
}

/// One thing that is needed.
struct Step {
    component: Component,
    name: &'static str,
    why: &'static str,
    /// What was found, in a few words.
    find: fn() -> Option<String>,
    get: Get,
}

/// How a missing thing is installed.
enum Get {
    Packages(&'static [&'static str]),
    With(fn(&Progress) -> Result<()>),
}

const STEPS: &[Step] = &[
    Step {
        component: Component::Build,
        name: "C compiler",
        why: "the embedded SQLite is C",
        find: || find_any(&["cc", "gcc"]),
        get: Get::Packages(&["gcc", "libc6-dev"]),
    },
    Step {
        component: Component::Build,
        name: "Rust compiler for BPF",
        why: "stable Rust has no `core` for the kernel's target",
        find: || prebuilt_object().or_else(|| Some(install::describe(&toolchain::find_compiler()?))),
        get: Get::With(install::compiler),
    },
    Step {
        component: Component::Build,
        name: "bpf-linker",
        why: "links the kernel programs and writes their BTF",
        find: || prebuilt_object().or_else(|| Some(toolchain::find_linker()?.display().to_string())),
        get: Get::With(install::linker),
    },
    Step {
        component: Component::Python,
        name: "Python with venv",
        why: "the demo and the tests watch a real gunicorn",
        find: || install::python().map(|path| path.display().to_string()),
        get: Get::Packages(&["python3", "python3-venv"]),
    },
    Step {
        component: Component::Python,
        name: "gunicorn and Flask",
        why: "the demo and the tests watch a real gunicorn",
        find: install::shop_packages,
        get: Get::With(install::install_shop_packages),
    },
    Step {
        component: Component::Tests,
        name: "promtool",
        why: "Prometheus's own check reads what the agent exports",
        find: || promtool().map(|path| path.display().to_string()),
        get: Get::With(install::install_promtool),
    },
    Step {
        component: Component::Tests,
        name: "jq",
        why: "the ready-made hooks read JSON with it",
        find: || find_any(&["jq"]),
        get: Get::Packages(&["jq"]),
    },
    Step {
        component: Component::Tests,
        name: "curl",
        why: "the ready-made hooks speak to GitHub and Slack with it",
        find: || find_any(&["curl"]),
        get: Get::Packages(&["curl"]),
    },
    Step {
        component: Component::Tests,
        name: "systemd-escape",
        why: "a ready-made hook names units with it, and its unit is verified",
        find: || find_any(&["systemd-escape"]),
        get: Get::Packages(&["systemd"]),
    },
    Step {
        component: Component::Lint,
        name: "rustfmt and clippy",
        why: "style is checked, not discussed",
        find: install::lints,
        get: Get::With(install::install_lints),
    },
    Step {
        component: Component::Lint,
        name: "clippy for BPF",
        why: "the kernel programs are linted by the compiler that builds them",
        find: install::bpf_clippy,
        get: Get::With(install::install_bpf_clippy),
    },
    Step {
        component: Component::Lint,
        name: "shellcheck",
        why: "checks the shell scripts",
        find: || find_any(&["shellcheck"]),
        get: Get::Packages(&["shellcheck"]),
    },
    Step {
        component: Component::Lint,
        name: "systemd-analyze",
        why: "checks the unit file and how far it is hardened",
        find: || find_any(&["systemd-analyze"]),
        get: Get::Packages(&["systemd"]),
    },
    Step {
        component: Component::Vm,
        name: "QEMU",
        why: "boots Debian's 6.1 and 6.12 kernels",
        find: || find_any(&["qemu-system-x86_64"]),
        get: Get::Packages(&["qemu-system-x86"]),
    },
    Step {
        component: Component::Vm,
        name: "busybox",
        why: "the shell of the small system in QEMU",
        find: || find_any(&["busybox"]),
        get: Get::Packages(&["busybox-static"]),
    },
    Step {
        component: Component::Vm,
        name: "cpio",
        why: "packs that system",
        find: || find_any(&["cpio"]),
        get: Get::Packages(&["cpio"]),
    },
    Step {
        component: Component::Bench,
        name: "wrk",
        why: "loads web servers to saturation",
        find: || find_any(&["wrk"]),
        get: Get::Packages(&["wrk"]),
    },
    Step {
        component: Component::Bench,
        name: "bpftrace",
        why: "measured beside the agent: what one would pick instead",
        find: || find_any(&["bpftrace"]),
        get: Get::Packages(&["bpftrace"]),
    },
    Step {
        component: Component::Bench,
        name: "nginx",
        why: "the cheapest requests there are show what measuring costs",
        find: nginx::describe,
        get: Get::With(nginx::unpack),
    },
];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        return Ok(check(&args.components));
    }
    get_missing(&args.components)?;
    println!("Everything needed is there. `cargo xtask demo` and `cargo xtask test` are next.");
    Ok(ExitCode::SUCCESS)
}

/// Installs what the components lack; silent when nothing is missing.
pub(crate) fn ensure(components: &[Component]) -> Result<()> {
    if steps(components).all(|step| (step.find)().is_some()) {
        return Ok(());
    }
    get_missing(components)
}

fn steps(components: &[Component]) -> impl Iterator<Item = &'static Step> + '_ {
    STEPS
        .iter()
        .chain(servers::steps())
        .filter(|step| components.is_empty() || components.contains(&step.component))
}

fn check(components: &[Component]) -> ExitCode {
    let mut complete = true;
    for step in steps(components) {
        let component = format!("{:?}", step.component).to_lowercase();
        let found = (step.find)();
        complete &= found.is_some();
        let found = found.unwrap_or_else(|| format!("MISSING: {}", step.why));
        println!("{component:8}{:24}{found}", step.name);
    }
    if complete {
        return ExitCode::SUCCESS;
    }
    println!("`cargo xtask setup` installs what is missing.");
    ExitCode::FAILURE
}

/// Goes through all steps even when one fails, so that one run tells everything that has to be done by hand.
fn get_missing(components: &[Component]) -> Result<()> {
    let steps: Vec<_> = steps(components).collect();
    let mut failed = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let number = format!("[{}/{}]", index + 1, steps.len());
        if let Some(found) = (step.find)() {
            eprintln!("{number} {}: {found}", step.name);
            continue;
        }
        let progress = Progress::start(&format!("{number} {} ({})", step.name, step.why));
        let got = match step.get {
            Get::Packages(packages) => apt::install(packages, &progress),
            Get::With(install) => install(&progress),
        };
        let got = got.and_then(|()| (step.find)().context("installed, but still not found on PATH"));
        match got {
            Ok(found) => progress.end(&format!("installed {found}")),
            Err(error) => {
                progress.end("FAILED");
                eprintln!("{error:#}");
                failed.push(step.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("still missing: {}; the reasons and what to do are above", failed.join(", "));
    }
    Ok(())
}

/// With an object built elsewhere, the kernel programs are not compiled here.
fn prebuilt_object() -> Option<String> {
    let object = env::var_os(toolchain::PREBUILT_OBJECT)?;
    Some(format!("not needed: {}={}", toolchain::PREBUILT_OBJECT, object.display()))
}

fn find_any(programs: &[&str]) -> Option<String> {
    programs.iter().find_map(|name| toolchain::find_program(name)).map(|path| path.display().to_string())
}

/// The output of `<program> --version`, first line.
fn version(program: &mut Command) -> Option<String> {
    process::capture(program.arg("--version")).and_then(|text| text.lines().next().map(str::to_owned))
}
