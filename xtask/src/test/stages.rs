//! The stages of `cargo xtask test`, cheapest first.

use std::env;
use std::io::{self, IsTerminal};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::counts::{Counts, Reader};
use super::unit_file;
use crate::process::{self, Progress};
use crate::setup::Component;
use crate::toolchain::{Host, Toolchain};
use crate::{cargo, paths, vm};

const LOG: &str = "test.log";
/// A guest under software emulation boots in 3 s and measures for some more.
const VM_TIMEOUT: Duration = Duration::from_mins(5);

/// Lints of the workspace that make no sense for the kernel programs.
const ALLOWED_IN_KERNEL_PROGRAMS: [(&str, &str); 4] = [
    ("unreachable_pub", "the crate is one program; nothing can reach into it"),
    ("clippy::needless_pass_by_value", "aya's macros hand the context over by value"),
    (
        "clippy::cast_possible_truncation",
        "lengths and ids are cut to the widths of the kernel boundary on purpose",
    ),
    ("clippy::cast_sign_loss", "the kernel's helpers return ids and lengths as signed numbers"),
];

pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Component],
    /// Left out by `--quick`.
    pub(crate) slow: bool,
    /// Runs tests by name.
    pub(crate) takes_filter: bool,
    /// The stages after it cannot run when it failed.
    pub(crate) others_need_it: bool,
    pub(crate) run: fn(Option<&str>, &Progress) -> Result<Counts>,
}

const STAGE: Stage = Stage {
    name: "",
    needs: &[],
    slow: false,
    takes_filter: false,
    others_need_it: false,
    run: |_, _| Ok(Counts::default()),
};

pub(crate) const STAGES: &[Stage] = &[
    Stage { name: "format", needs: &[Component::Lint], run: format, ..STAGE },
    Stage { name: "unit file", needs: &[Component::Lint], run: unit_file::check, ..STAGE },
    Stage {
        name: "lint kernel programs",
        needs: &[Component::Build, Component::Lint],
        run: lint_kernel_programs,
        ..STAGE
    },
    Stage { name: "lint", needs: &[Component::Build, Component::Lint], run: lint, ..STAGE },
    Stage {
        name: "build",
        needs: &[Component::Build],
        takes_filter: true,
        others_need_it: true,
        run: build,
        ..STAGE
    },
    Stage { name: "unit tests", needs: &[Component::Build], takes_filter: true, run: unit_tests, ..STAGE },
    Stage {
        name: "kernel tests",
        needs: &[Component::Build, Component::Python],
        slow: true,
        takes_filter: true,
        run: kernel_tests,
        ..STAGE
    },
    Stage {
        name: "Debian's kernels",
        needs: &[Component::Build, Component::Vm],
        slow: true,
        run: kernels,
        ..STAGE
    },
];

fn format(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    one(&mut cargo::command(&["fmt", "--all", "--", "--check", "-l"]), progress)
        .context("`cargo fmt --all` formats these files")
}

fn lint(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    one(&mut cargo::command(&["clippy", "--all-targets", "--", "-D", "warnings"]), progress)
}

/// In a pass of its own: another compiler, another target.
fn lint_kernel_programs(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!("{missing}; `cargo xtask setup build` installs it"),
    };
    let host = Host { arch: env::consts::ARCH.to_owned(), big_endian: cfg!(target_endian = "big") };
    let mut command = toolchain.cargo("clippy", &host, &paths::root(), &paths::target().join("ebpf"));
    command.args(["--", "-D", "warnings"]);
    for (lint, _reason) in ALLOWED_IN_KERNEL_PROGRAMS {
        command.args(["-A", lint]);
    }
    one(&mut command, progress)
}

fn build(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    one(&mut cargo::command(&cargo::BUILD), progress)
}

fn unit_tests(filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let mut command = cargo::command(&["test", "--no-fail-fast"]);
    command.args(["--package", "load-watchdog", "--package", "watchdog-common", "--package", "xtask"]);
    tests(command.args(["--", "--show-output"]).args(filter), progress)
}

/// One after another: they share one kernel, and many measure CPU time.
fn kernel_tests(filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let mut command = cargo::command(&["test", "--no-fail-fast", "--package", "watchdog-tests"]);
    tests(command.args(["--", "--show-output", "--test-threads=1"]).args(filter), progress)
}

fn kernels(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let payload = vm::kernel_check(&[])?;
    let mut sum = Counts::default();
    for series in vm::MATRIX {
        let outcome = vm::boot(series, &payload, VM_TIMEOUT, |line| {
            show(progress, &format!("[{series}] {line}"));
        });
        let counts = match outcome {
            Ok(outcome) => count_guest(&outcome),
            Err(error) => Counts::one_failed(format!("{error:#}")),
        };
        sum.add(&counts);
    }
    Ok(sum)
}

/// Counts the cases that `kernel-check` tells, `<case>: ok` or `<case>: FAILED`. Its exit code has the last word: a
/// guest that failed without a failed case, or that ran no case at all, has failed.
fn count_guest(outcome: &vm::Outcome) -> Counts {
    let ending = |word: &str| outcome.lines.iter().filter(|line| line.ends_with(word)).count() as u64;
    let mut counts = Counts { passed: ending(": ok"), failed: ending(": FAILED"), ..Counts::default() };
    if counts.failed == 0 && (outcome.exit_code != 0 || counts.passed == 0) {
        counts.failed = 1;
    }
    if counts.failed > 0 {
        counts.failures.push(format!("kernel {}: exit code {}", outcome.series, outcome.exit_code));
        counts.failures.extend(outcome.lines.iter().map(|line| format!("  [{}] {line}", outcome.series)));
    }
    counts
}

/// A program that passes or fails as a whole.
fn one(command: &mut Command, progress: &Progress) -> Result<Counts> {
    process::run(command, progress, LOG)?;
    Ok(Counts::one_passed())
}

fn tests(command: &mut Command, progress: &Progress) -> Result<Counts> {
    let mut reader = Reader::default();
    let ended = process::stream(command, LOG, None, |line| {
        reader.line(line);
        if line.starts_with("test ") && !line.starts_with("test result") {
            show(progress, line);
        }
    })?;
    Ok(reader.end(ended.success, ended.last_lines))
}

/// A line under way: in the spinner, or as a line where there is no terminal.
fn show(progress: &Progress, line: &str) {
    progress.show(line);
    if !io::stderr().is_terminal() {
        eprintln!("    {line}");
    }
}
