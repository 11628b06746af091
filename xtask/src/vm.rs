//! `cargo xtask vm`: runs a program under Debian's kernels, in QEMU.
//!
//! The guest is a kernel and an initramfs of busybox, the program and its libraries: no disk, no network but
//! loopback. QEMU emulates the processor in software, so that it works wherever QEMU runs, nested or not.

pub(crate) mod baseline;
pub(crate) mod document;
mod initramfs;
mod kernel;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::baseline::{Baseline, Kernel};
use crate::cargo;
use crate::paths;
use crate::process;
use crate::setup::{self, Component};
use crate::toolchain;

/// The kernels that the agent has to work on, oldest first.
pub(crate) const MATRIX: [&str; 2] = ["6.1", "6.12"];

/// What the guest prints last, followed by the program's exit code.
const EXIT_MARK: &str = "@@exit=";

/// Boots Debian's kernels in QEMU and runs a program as root in each.
///
/// Without a program: `kernel-check` of the package watchdog-tests, which loads every kernel program, attaches them
/// and measures the burn server. The program and the libraries it needs are copied into the guest; a name that is
/// no file here is looked for among busybox's commands there. What `kernel-check` tells is compared with the baseline
/// in tests/baseline/kernels.toml, and so is this machine's kernel when run as root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this kernel series; may be repeated.
    #[arg(long = "kernel", value_name = "SERIES", default_values = MATRIX)]
    kernels: Vec<String>,
    /// Take what the kernels say as the new baseline (tests/baseline/kernels.toml and docs/kernels.md).
    #[arg(long, conflicts_with = "command")]
    accept: bool,
    /// Only load and attach every program, and compare the verifier's counts; measure nothing.
    #[arg(long, conflicts_with = "command")]
    load_only: bool,
    /// Another program to copy into the guest's /bin; may be repeated.
    #[arg(long = "with", value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Seconds after which a guest is ended.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Program and arguments.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What is run in the guest.
pub(crate) struct Payload {
    /// Program and arguments, as the guest's shell sees them.
    pub(crate) command: Vec<String>,
    /// Programs of this machine that lie in the guest's /bin.
    pub(crate) programs: Vec<PathBuf>,
}

/// How one guest ended.
pub(crate) struct Outcome {
    pub(crate) series: String,
    pub(crate) exit_code: u8,
    pub(crate) duration: Duration,
    /// What the program printed.
    pub(crate) lines: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Component::Vm])?;
    let checks = args.command.is_empty();
    let mut payload = match args.command.split_first() {
        Some((program, arguments)) => payload_of(program, arguments),
        None => kernel_check()?,
    };
    if args.load_only {
        payload.command = vec!["/bin/kernel-check".into(), "--load-only".into()];
    }
    payload.programs.extend(args.with.iter().cloned());
    let mut code = 0;
    let mut baseline = Baseline::load()?;
    let mut judge = |series: &str, seen: &Kernel| -> Result<()> {
        if args.accept {
            baseline.kernel.insert(series.to_owned(), seen.clone());
            return Ok(());
        }
        baseline.check(series, seen)
    };
    let mut differing = Vec::new();
    for series in &args.kernels {
        let outcome = boot(series, &payload, Duration::from_secs(args.timeout), |line| {
            println!("[{series}] {line}");
        })?;
        println!("[{series}] exit code {} after {:.1} s", outcome.exit_code, outcome.duration.as_secs_f64());
        code = code.max(outcome.exit_code);
        if checks {
            differing.extend(judge(series, &outcome.kernel()?).err());
        }
    }
    if checks && nix::unistd::geteuid().is_root() {
        let (series, seen) = own_kernel(&payload)?;
        println!("[{series}] this machine: {} programs, tier {}", seen.attached.len(), seen.tier);
        differing.extend(judge(&series, &seen).err());
    }
    for error in &differing {
        eprintln!("{error:#}");
    }
    if args.accept && code == 0 {
        baseline.save()?;
        document::write(false)?;
        println!("Written: tests/baseline/kernels.toml, docs/kernels.md.");
    }
    Ok(ExitCode::from(if differing.is_empty() { code } else { code.max(1) }))
}

/// What this machine's kernel accepts, by its series. Needs root.
pub(crate) fn own_kernel(check: &Payload) -> Result<(String, Kernel)> {
    let program = check.programs.iter().find(|program| program.ends_with("kernel-check"));
    let program = program.context("no kernel-check was built")?;
    let output = Command::new(program).arg("--load-only").output().context("cannot run kernel-check")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("kernel-check on this machine: {}{text}", String::from_utf8_lossy(&output.stderr));
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let series = baseline::series_of(&release).with_context(|| format!("which series is {release}?"))?;
    let mut seen = Kernel::read(text.lines())?;
    // A machine's own kernel changes its last numbers without notice; the series is what counts.
    "the development machine's".clone_into(&mut seen.release);
    Ok((series, seen))
}

impl Outcome {
    /// What `kernel-check` told of the kernel.
    pub(crate) fn kernel(&self) -> Result<Kernel> {
        Kernel::read(self.lines.iter().map(String::as_str))
            .with_context(|| format!("the guest with kernel {}", self.series))
    }
}

fn payload_of(program: &str, arguments: &[String]) -> Payload {
    let file = Path::new(program);
    let (name, programs) = match file.file_name() {
        Some(name) if file.is_file() => {
            (format!("/bin/{}", name.to_string_lossy()), vec![file.to_path_buf()])
        }
        _ => (program.to_owned(), Vec::new()),
    };
    Payload { command: std::iter::once(name).chain(arguments.iter().cloned()).collect(), programs }
}

/// Builds `kernel-check` and the programs it may start. The guest's processor is emulated, hence its bounds for that.
pub(crate) fn kernel_check() -> Result<Payload> {
    setup::ensure(&[Component::Build])?;
    let programs = cargo::programs()?;
    if !programs.iter().any(|program| program.ends_with("kernel-check")) {
        bail!("the package watchdog-tests has no program kernel-check");
    }
    Ok(Payload { command: vec!["/bin/kernel-check".into(), "--slow".into()], programs })
}

/// As [`boot`], the whole matrix at the same time.
pub(crate) fn boot_matrix(
    payload: &Payload,
    timeout: Duration,
    each: impl Fn(&str, &str) + Sync,
) -> Result<Vec<(&'static str, Result<Outcome>)>> {
    for series in MATRIX {
        kernel::fetch(series)?;
    }
    Ok(thread::scope(|threads| {
        let each = &each;
        let guests = MATRIX.map(|series| {
            (series, threads.spawn(move || boot(series, payload, timeout, |line| each(series, line))))
        });
        let ended = |guest: thread::ScopedJoinHandle<'_, Result<Outcome>>| {
            guest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        guests.into_iter().map(|(series, guest)| (series, ended(guest))).collect()
    }))
}

/// Boots a kernel of `series`, runs the payload, and hands its output line by line to `each`. Fails when the guest
/// could not be made, did not end within `timeout`, or ended without saying how.
pub(crate) fn boot(
    series: &str,
    payload: &Payload,
    timeout: Duration,
    mut each: impl FnMut(&str),
) -> Result<Outcome> {
    let kernel = kernel::fetch(series)?;
    let folder = paths::artefacts().join("vm").join(series);
    let initramfs = initramfs::pack(&folder, payload, EXIT_MARK)?;
    let qemu = toolchain::find_program("qemu-system-x86_64").context("no qemu-system-x86_64")?;
    let mut command = Command::new(qemu);
    // One thread for both virtual CPUs: where each has its own, one may run into a breakpoint that the other has just removed
    // when the kernel changes its code, as it does with every program that is attached, and the guest panics.
    command
        .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        // A panic reboots at once, which -no-reboot turns into QEMU's end.
        .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 rdinit=/init"]);

    let started = Instant::now();
    let mut lines = Vec::new();
    let mut exit_code = None;
    let log = format!("vm-{series}.log");
    let ended = process::stream(&mut command, &log, Some(timeout), |line| {
        if let Some(code) = line.strip_prefix(EXIT_MARK) {
            exit_code = code.trim().parse().ok();
        } else if exit_code.is_none() {
            each(line);
            lines.push(line.to_owned());
        }
    })?;
    let duration = started.elapsed();
    let Some(exit_code) = exit_code else {
        let why = if ended.timed_out {
            format!("did not end within {} s", timeout.as_secs())
        } else {
            "ended without the program's exit code: a panic, or QEMU failed".to_owned()
        };
        bail!(
            "the guest with kernel {series} {why}; its last words:\n  {}\n(whole output: {})",
            ended.last_lines.iter().cloned().collect::<Vec<_>>().join("\n  "),
            paths::artefacts().join(log).display()
        );
    };
    Ok(Outcome { series: series.to_owned(), exit_code, duration, lines })
}
