//! Puts the programs on their places in one process's file.

use std::num::NonZeroU32;
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};
use aya::sys::SyscallError;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use watchdog_common::abi::program;

use super::mapped::Probed;
use super::symbols::Point;
use crate::kernel::load::chain;
use crate::model::Uprobes;

/// A file of a process, with the probes in it. The kernel puts them in again by itself when the process runs another
/// program that maps the same file.
pub(super) struct ProbedFile {
    pub(super) file: Arc<Probed>,
    pub(super) links: Vec<UProbeLink>,
    pub(super) pool: bool,
    pub(super) tls: bool,
    pub(super) problems: Vec<String>,
}

/// Puts in all probes of a kind, or none.
pub(super) fn probe(ebpf: &mut Ebpf, tgid: u32, wanted: Uprobes, file: Arc<Probed>) -> ProbedFile {
    let found = Arc::clone(&file.found);
    let mut probed = ProbedFile { file, links: Vec::new(), pool: false, tls: false, problems: Vec::new() };
    if wanted.pool && found.stripped_pool {
        probed.problems.push(format!(
            "{}: its pool cannot be probed, as its symbols were stripped; jobs are told by wake-ups, which is not \
             exact when the pool is busy: install a build with symbols",
            probed.file.name
        ));
    }
    if wanted.tls
        && let Some(problem) = found.go_problem
    {
        probed.problems.push(format!("{}: {problem}", probed.file.name));
    }
    for (wanted, points, served) in
        [(wanted.pool, &found.pool, &mut probed.pool), (wanted.tls, &found.tls, &mut probed.tls)]
    {
        if !wanted || points.is_empty() {
            continue;
        }
        match attach(ebpf, tgid, &probed.file, points) {
            Ok(links) => {
                probed.links.extend(links);
                *served = true;
            }
            Err(problem) => probed.problems.push(problem),
        }
    }
    probed
}

fn attach(ebpf: &mut Ebpf, tgid: u32, file: &Probed, points: &[Point]) -> Result<Vec<UProbeLink>, String> {
    let Some(pid) = NonZeroU32::new(tgid) else { return Ok(Vec::new()) };
    let path = file.path();
    let mut links = Vec::new();
    for point in points {
        let program = uprobe(ebpf, point.program).map_err(|(what, why)| format!("{what}: {why}"))?;
        let place = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(point.file_offset),
            // The programs check it: see `watchdog-ebpf/src/probe.rs`.
            cookie: Some(u64::from(tgid)),
        };
        let link = program
            .attach(place, &path, UProbeScope::OneProcess(pid))
            .and_then(|id| program.take_link(id))
            .map_err(|error| {
                format!(
                    "{}: {} cannot be put there: {}; {}",
                    file.name,
                    point.program,
                    chain(&error),
                    remedy(&error)
                )
            })?;
        links.push(link);
    }
    Ok(links)
}

fn remedy(error: &ProgramError) -> &'static str {
    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else {
        return "please report it";
    };
    match io_error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "give the agent CAP_SYS_ADMIN, which kernels with the fix of CVE-2025-38466 ask for, or switch `uprobes` off"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "raise LimitNOFILE of the unit: each probe takes a file",
        Some(Errno::ENOENT) => "the kernel needs CONFIG_UPROBE_EVENTS=y",
        Some(Errno::ESRCH) => "its first thread has ended, or it has",
        _ => "see `load-watchdog doctor`, or switch `uprobes` off for this service",
    }
}

pub(super) fn uprobe<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut UProbe, (String, String)> {
    let told = |why: String| (format!("user probe {name}"), why);
    let program = ebpf.program_mut(name).ok_or_else(|| told("the built object does not have it".into()))?;
    program.try_into().map_err(|error: ProgramError| told(error.to_string()))
}

/// Each probe in each process takes a file.
pub(super) fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Puts a probe into this process, where it is never hit, and takes it out again.
pub(in crate::kernel) fn try_out(ebpf: &mut Ebpf) -> Result<(), String> {
    let tgid = std::process::id();
    let own = Probed::own().map_err(|error| format!("/proc/self/exe: {error}"))?;
    let names = program::TLS.iter().chain(&program::POOL).copied();
    let points: Vec<Point> = names
        .filter(|name| uprobe(ebpf, name).is_ok_and(|program| program.fd().is_ok()))
        .take(1)
        .map(|program| Point { program, file_offset: own.entry })
        .collect();
    if points.is_empty() {
        return Err("no program for them could be loaded".into());
    }
    attach(ebpf, tgid, &own.file, &points).map(drop)
}
