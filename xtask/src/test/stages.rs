//! The stages of `cargo xtask test`, cheapest first.

use std::env;
use std::io::{self, IsTerminal};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::counts::{Counts, Reader};
use super::unit_file;
use crate::cargo::TestProgram;
use crate::process::{self, Progress};
use crate::setup::{self, Component};
use crate::toolchain::{Host, Toolchain};
use crate::vm::baseline::{Baseline, Kernel};
use crate::{cargo, fuzz, paths, vm};

pub(super) const LOG: &str = "test.log";
/// A guest under software emulation boots in 3 s and measures for some more.
const VM_TIMEOUT: Duration = Duration::from_mins(5);
/// Everything from nothing takes some minutes on two cores.
const COMPILE_TIMEOUT: Duration = Duration::from_mins(15);
/// A test program; the longest goes through all servers, a quarter of a minute for each.
const TEST_TIMEOUT: Duration = Duration::from_mins(20);
/// Each fuzz target.
const FUZZED_FOR: Duration = Duration::from_secs(5);
/// A tool that reads a few files.
const TOOL_TIMEOUT: Duration = Duration::from_mins(1);

/// The package whose tests want a kernel to themselves, but for these, which only read files.
const KERNEL_TESTS: &str = "tests";
const READING_ONLY: [&str; 2] = ["house", "contract"];
/// So many failed kernel tests of a run are tried once more, by themselves: a host that is shared and stands still for a
/// second fails tests that are right. More than these are no accident.
const SECOND_TRIES: usize = 2;

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
    Stage { name: "scripts", needs: &[Component::Lint], run: scripts, ..STAGE },
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
    Stage {
        name: "unit tests",
        needs: &[Component::Build, Component::Tests],
        takes_filter: true,
        run: unit_tests,
        ..STAGE
    },
    Stage { name: "examples in docs", needs: &[Component::Build], run: documentation, ..STAGE },
    Stage { name: "fuzzing", needs: &[Component::Build], run: fuzzing, ..STAGE },
    Stage {
        name: "kernel tests",
        needs: &[Component::Build, Component::Tests, Component::Python, Component::Servers],
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
    one(&mut cargo::command(&["fmt", "--all", "--", "--check", "-l"]), progress, TOOL_TIMEOUT)
        .context("`cargo fmt --all` formats these files")
}

fn scripts(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let files = process::capture(
        Command::new("git").args(["ls-files", "*.sh", ".ci/run"]).current_dir(paths::root()),
    )
    .context("git does not list the scripts")?;
    let mut command = Command::new("shellcheck");
    one(command.args(files.lines()).current_dir(paths::root()), progress, TOOL_TIMEOUT)
}

fn lint(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    one(&mut cargo::command(&["clippy", "--all-targets", "--", "-D", "warnings"]), progress, COMPILE_TIMEOUT)
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
    one(&mut command, progress, COMPILE_TIMEOUT)
}

fn build(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    one(&mut cargo::command(&cargo::BUILD), progress, COMPILE_TIMEOUT)
}

fn unit_tests(filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    run_tests(progress, |test| !needs_kernel(test), |test| test.command(filter))
}

/// Each target for a few seconds: `cargo xtask fuzz` is the long form.
fn fuzzing(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    fuzz::build(progress)?;
    let mut sum = Counts::default();
    for target in fuzz::targets()? {
        sum.add(&match fuzz::feed(&target, fuzz::Limit::Time(FUZZED_FOR), progress) {
            Ok(fed) => {
                show(progress, &format!("{}: {} inputs", fed.target, fed.runs));
                Counts::one_passed()
            }
            Err(error) => Counts::one_failed(format!("{error:#}")),
        });
    }
    Ok(sum)
}

/// One after another: they share one kernel, and many measure CPU time.
fn kernel_tests(filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let command = |test: &TestProgram, filter: Option<&str>| {
        let mut command = test.command(filter);
        command.arg("--test-threads=1");
        with_servers(&mut command);
        command
    };
    let mut counts = run_tests(progress, needs_kernel, |test| command(test, filter))?;
    let failed = std::mem::take(&mut counts.failed_tests);
    // What failed without a name, a crash say, is no accident either.
    if failed.len() > SECOND_TRIES || failed.len() as u64 != counts.failed {
        counts.failed_tests = failed;
        return Ok(counts);
    }
    for failed in failed {
        let of_name = |test: &TestProgram| test.label() == failed.program;
        let again = run_tests(progress, of_name, |test| {
            let mut command = command(test, Some(&failed.test));
            command.arg("--exact");
            command
        })?;
        counts.tried_again(failed, &again);
    }
    Ok(counts)
}

/// Tells a test where the servers are that `setup` has found or unpacked.
pub(super) fn with_servers(command: &mut Command) {
    command.env("SHOP_GUNICORN", setup::gunicorn());
    if let Some(nginx) = setup::nginx() {
        command.env("NGINX", nginx);
    }
}

fn needs_kernel(test: &TestProgram) -> bool {
    test.package() == KERNEL_TESTS && !READING_ONLY.contains(&test.name.as_str())
}

fn run_tests(
    progress: &Progress,
    wanted: impl Fn(&TestProgram) -> bool,
    command: impl Fn(&TestProgram) -> Command,
) -> Result<Counts> {
    let promtool = setup::promtool();
    let mut sum = Counts::default();
    for test in cargo::tests()?.iter().filter(|test| wanted(test)) {
        let mut command = command(test);
        if let Some(promtool) = &promtool {
            command.env("PROMTOOL", promtool);
        }
        sum.add(&read(&mut command, progress, TEST_TIMEOUT, &test.label())?);
    }
    Ok(sum)
}

fn documentation(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    read(&mut cargo::command(&["test", "--doc"]), progress, COMPILE_TIMEOUT, "examples")
}

fn kernels(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    if env::consts::ARCH != "x86_64" {
        return Ok(Counts::one_skipped("the guests' kernels are for x86_64".into()));
    }
    let payload = vm::kernel_check()?;
    let baseline = Baseline::load()?;
    let mut sum = Counts::default();
    let told = |series: &str, line: &str| show(progress, &format!("[{series}] {line}"));
    for (series, outcome) in vm::boot_matrix(&payload, VM_TIMEOUT, told)? {
        let counts = match outcome {
            Ok(outcome) => {
                sum.add(&compared(&baseline, series, outcome.kernel()));
                count_guest(&outcome)
            }
            Err(error) => Counts::one_failed(format!("{error:#}")),
        };
        sum.add(&counts);
    }
    if nix::unistd::geteuid().is_root() {
        let (series, seen) = vm::own_kernel(&payload)?;
        // Whoever runs another kernel than the matrix has is not to blame for it.
        sum.add(&if baseline.kernel.contains_key(&series) {
            compared(&baseline, &series, Ok(seen))
        } else {
            Counts::one_skipped(format!("there is no baseline for this machine's kernel, {series}"))
        });
    }
    Ok(sum)
}

/// What a kernel accepted against what it did before.
fn compared(baseline: &Baseline, series: &str, seen: Result<Kernel>) -> Counts {
    match seen.and_then(|seen| baseline.check(series, &seen)) {
        Ok(()) => Counts::one_passed(),
        Err(error) => Counts::one_failed(format!("{error:#}")),
    }
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
fn one(command: &mut Command, progress: &Progress, timeout: Duration) -> Result<Counts> {
    process::run_within(command, progress, LOG, Some(timeout))?;
    Ok(Counts::one_passed())
}

/// Runs tests and counts them; `name` says where a failure is.
fn read(command: &mut Command, progress: &Progress, timeout: Duration, name: &str) -> Result<Counts> {
    let mut reader = Reader::default();
    let mut since = Instant::now();
    let ended = process::stream(command, LOG, Some(timeout), |line| {
        reader.line(name, line);
        if line.starts_with("test ") && !line.starts_with("test result") {
            let took = std::mem::replace(&mut since, Instant::now()).elapsed();
            reader.took(name, line, took);
            show(progress, &format!("{name}: {line} ({:.1} s)", took.as_secs_f64()));
        }
    })?;
    let how = format!("{name} {}:", ended.how());
    Ok(reader.end(ended.success, std::iter::once(how).chain(ended.last_lines)))
}

/// A line under way: in the spinner, or as a line where there is no terminal.
fn show(progress: &Progress, line: &str) {
    progress.show(line);
    if !io::stderr().is_terminal() {
        eprintln!("    {line}");
    }
}
