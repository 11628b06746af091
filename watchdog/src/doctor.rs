//! Whether this machine can run the agent: each check is ok, or says what is missing and what to do.

mod running;

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use crate::config::Config;
use crate::environment::Counters;
use crate::kernel::{Kernel, KernelOptions, Uprobes};

/// The programs were tested from this release on.
const OLDEST_TESTED: (u32, u32) = (6, 1);
/// Where the kernel publishes its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// How bad a finding is, which also decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Works, but less well, or could not be told.
    Warning,
    /// The agent would fail on something that is neither the kernel, nor the configuration, nor permission.
    Failed,
    BadConfig,
    KernelCannot,
    NoPermission,
}

impl Level {
    /// As in sysexits(3).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok | Self::Warning => 0,
            Self::Failed => 1,
            Self::BadConfig => 64,
            Self::KernelCannot => 69,
            Self::NoPermission => 77,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub level: Level,
    pub finding: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, finding: finding.into(), remedy: None }
    }

    fn bad(level: Level, name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level, finding: finding.into(), remedy: Some(remedy.into()) }
    }
}

/// What was found, in the order of the checks.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// The most serious finding; missing permission first, as it makes others fail.
    pub fn worst(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
    }

    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for check in &self.checks {
            let mark = match check.level {
                Level::Ok => "ok  ",
                Level::Warning => "note",
                _ => "FAIL",
            };
            let _ = writeln!(text, "{mark}  {:<14} {}", check.name, check.finding);
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "{:21}-> {remedy}", "");
            }
        }
        text.push_str(match self.worst() {
            Level::Ok => "\nThis machine can run load-watchdog.\n",
            Level::Warning => "\nThis machine can run load-watchdog; see the notes.\n",
            _ => "\nThis machine cannot run load-watchdog as it is; see FAIL.\n",
        });
        text
    }
}

/// Runs every check; the kernel programs are loaded and attached for a moment.
pub fn diagnose(config_file: Option<&Path>) -> Diagnosis {
    let mut checks = vec![release(), btf(), capabilities(), memlock(), lockdown(), cgroups(), counters()];
    checks.extend(programs());
    let mut control = PathBuf::from(crate::config::defaults::CONTROL);
    if let Some(file) = config_file {
        checks.extend(configuration(file));
        if let Ok(config) = Config::load(file) {
            control = config.agent.control;
        }
    }
    checks.extend(running::services(&control));
    Diagnosis { checks }
}

fn release() -> Check {
    const NAME: &str = "kernel";
    let Ok(uname) = nix::sys::utsname::uname() else {
        return Check::bad(Level::Warning, NAME, "release unknown", "run `uname -r`");
    };
    let release = uname.release().to_string_lossy().into_owned();
    let finding =
        format!("{} {release} {}", uname.sysname().to_string_lossy(), uname.machine().to_string_lossy());
    match version_of(&release) {
        Some(version) if version >= OLDEST_TESTED => Check::ok(NAME, finding),
        _ => Check::bad(
            Level::Warning,
            NAME,
            finding,
            format!(
                "tested from {}.{} on; the line \"programs\" says whether this one works",
                OLDEST_TESTED.0, OLDEST_TESTED.1
            ),
        ),
    }
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf() -> Check {
    const NAME: &str = "type info";
    match fs::metadata(BTF) {
        Ok(metadata) => Check::ok(NAME, format!("{BTF}, {} KiB", metadata.len() / 1024)),
        Err(error) => Check::bad(
            Level::KernelCannot,
            NAME,
            format!("{BTF}: {error}"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution kernel is); in a container, mount /sys",
        ),
    }
}

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    // Bits as in linux/capability.h.
    const SYS_ADMIN: u32 = 21;
    const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_PTRACE", 19)];
    let Some(effective) = effective_capabilities() else {
        return Check::bad(Level::Warning, NAME, "cannot read /proc/self/status", "mount /proc");
    };
    let has = |bit: u32| effective & (1 << bit) != 0;
    // CAP_SYS_ADMIN stands for BPF and PERFMON, not for SYS_PTRACE.
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(name, bit)| !has(*bit) && (*name == "CAP_SYS_PTRACE" || !has(SYS_ADMIN)))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Check::ok(NAME, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE");
    }
    Check::bad(
        Level::NoPermission,
        NAME,
        format!("missing: {}", missing.join(", ")),
        "run as root, or through load-watchdog.service, which grants them; in a container, add them",
    )
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn memlock() -> Check {
    const NAME: &str = "memlock";
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft == nix::libc::RLIM_INFINITY => Check::ok(NAME, "unlimited"),
        // Since 5.11 maps are charged to the memory cgroup.
        Ok((soft, _)) => Check::ok(NAME, format!("{} KiB, not used by kernels from 5.11 on", soft / 1024)),
        Err(error) => Check::bad(Level::Warning, NAME, error.to_string(), "run `ulimit -l`"),
    }
}

fn lockdown() -> Check {
    const NAME: &str = "lockdown";
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Check::ok(NAME, "not in this kernel, or not visible here");
    };
    let mode = text.split_ascii_whitespace().find(|word| word.starts_with('[')).unwrap_or("[none]");
    if mode == "[confidentiality]" {
        return Check::bad(
            Level::KernelCannot,
            NAME,
            "confidentiality: eBPF may not read kernel memory",
            "boot with lockdown=integrity or without; Secure Boot alone asks for integrity only",
        );
    }
    Check::ok(NAME, mode.trim_matches(['[', ']']))
}

fn cgroups() -> Check {
    const NAME: &str = "cgroups";
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check::ok(NAME, "unified (version 2)");
    }
    Check::bad(
        Level::Warning,
        NAME,
        "no unified hierarchy on /sys/fs/cgroup",
        "match services by exe, cmdline or listen instead of unit or cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
    )
}

/// Nothing depends on them: they say why the calibration loop became dearer.
fn counters() -> Check {
    const NAME: &str = "counters";
    match Counters::open() {
        Ok(_) => Check::ok(NAME, "cycles and instructions of the calibration loop can be read"),
        Err(why) => Check::ok(
            NAME,
            format!(
                "cycles and instructions cannot be read: {why}; whether the host is slow is told by the CPU time of the \
                 calibration loop alone"
            ),
        ),
    }
}

fn programs() -> Vec<Check> {
    const NAME: &str = "programs";
    match Kernel::load(&KernelOptions { uprobes: Uprobes::ALL, ..KernelOptions::default() }) {
        Ok(mut kernel) => {
            let uprobes = uprobes(&mut kernel);
            let report = kernel.report();
            let finding = format!(
                "tier {:?}, {} attached: {}",
                report.tier,
                report.attached.len(),
                report.attached.join(", ")
            );
            let mut checks = vec![Check::ok(NAME, finding)];
            checks.extend(report.degraded.iter().map(|(what, why)| {
                Check::bad(
                    Level::Warning,
                    NAME,
                    format!("{what}: {why}"),
                    "measured another way; nothing to do unless a service lacks coverage",
                )
            }));
            checks.push(uprobes);
            checks
        }
        Err(error) => {
            let level = if effective_capabilities().is_some_and(|caps| caps & (1 << 39 | 1 << 21) == 0) {
                Level::NoPermission
            } else {
                Level::KernelCannot
            };
            vec![Check::bad(
                level,
                NAME,
                error.to_string(),
                "the agent cannot measure anything until this works",
            )]
        }
    }
}

fn uprobes(kernel: &mut Kernel) -> Check {
    const NAME: &str = "user probes";
    match kernel.try_uprobes() {
        Ok(()) => Check::ok(NAME, "can be put into processes; services ask for them with `uprobes`"),
        Err(why) => Check::bad(
            Level::Warning,
            NAME,
            why,
            "needed only by services with `uprobes`; without them TLS in the process hides its requests",
        ),
    }
}

fn configuration(file: &Path) -> Vec<Check> {
    const NAME: &str = "configuration";
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            let check = |error: &crate::config::ConfigError| {
                Check::bad(Level::BadConfig, NAME, error.to_string(), format!("correct {}", file.display()))
            };
            return errors.iter().map(check).collect();
        }
    };
    let mut checks = vec![Check::ok(NAME, format!("{}: {} services", file.display(), config.services.len()))];
    for warning in &config.warnings {
        checks.push(Check::bad(Level::Warning, NAME, warning.clone(), "see the line"));
    }
    checks.push(writable("state", &config.agent.state_dir));
    if let Some(directory) = config.agent.control.parent() {
        checks.push(writable("control socket", directory));
    }
    checks.push(listen(&config));
    checks
}

/// The directory, or the nearest parent that exists: the agent creates what is missing below it.
fn writable(name: &'static str, directory: &Path) -> Check {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        let finding = format!("{} is no directory", existing.display());
        return Check::bad(Level::Failed, name, finding, "move it away, or configure another place");
    }
    match nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK) {
        Ok(()) if existing == directory => Check::ok(name, format!("{} can be written", directory.display())),
        Ok(()) => Check::ok(name, format!("{} can be created", directory.display())),
        Err(nix::errno::Errno::EROFS) => Check::bad(
            Level::Failed,
            name,
            format!("{} is on a read-only file system", existing.display()),
            "configure another place, or add it to ReadWritePaths= of the unit",
        ),
        Err(error) => Check::bad(
            Level::NoPermission,
            name,
            format!("{} cannot be written: {error}", existing.display()),
            "run as root, or give the agent's user the directory",
        ),
    }
}

fn listen(config: &Config) -> Check {
    const NAME: &str = "metrics";
    let address = config.agent.listen;
    match std::net::TcpListener::bind(address) {
        Ok(_) => Check::ok(NAME, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Check::bad(
            Level::Warning,
            NAME,
            format!("{address} is in use"),
            "fine if that is the running agent; else configure another agent.listen",
        ),
        Err(error) => Check::bad(
            Level::Failed,
            NAME,
            format!("{address}: {error}"),
            "configure an address of this machine as agent.listen, such as 127.0.0.1:9847",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse() {
        assert_eq!(version_of("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version_of("6.18.44"), Some((6, 18)));
        assert_eq!(version_of("5.15-generic"), Some((5, 15)));
        assert_eq!(version_of("linux"), None);
    }

    #[test]
    fn permission_counts_more_than_the_kernel_and_both_more_than_notes() {
        let diagnosis = |levels: &[Level]| Diagnosis {
            checks: levels.iter().map(|level| Check::bad(*level, "x", "", "")).collect(),
        };
        assert_eq!(diagnosis(&[Level::KernelCannot, Level::NoPermission, Level::Ok]).worst().exit_code(), 77);
        assert_eq!(diagnosis(&[Level::KernelCannot, Level::Warning]).worst().exit_code(), 69);
        assert_eq!(diagnosis(&[Level::Warning]).worst().exit_code(), 0);
        assert_eq!(diagnosis(&[]).worst().exit_code(), 0);
    }

    #[test]
    fn a_directory_below_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = writable("state", &file.path().join("below"));
        assert_eq!(check.level, Level::Failed);
        assert!(check.finding.contains("is no directory"), "{}", check.finding);
    }
}
