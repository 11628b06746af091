//! Loading and attaching: tiers are tried, never inferred from a version number.

use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, FExit, PerfEvent};
use aya::util::online_cpus;
use aya::{Btf, Ebpf, EbpfLoader};
use watchdog_common::abi::{ABI_VERSION, global, map, program};

use super::{KernelError, KernelOptions, KernelReport, OBJECT, Tier, offsets};

/// At what runs on each CPU.
const LOOKS_PER_SECOND: u64 = 20;
const PRIVILEGE: &str = "run as root, or with CAP_BPF and CAP_PERFMON";

pub(super) fn load(options: &KernelOptions, hash_key: u64) -> Result<(Ebpf, KernelReport), KernelError> {
    check_version()?;
    let globals = offsets::resolve()?;
    let btf = Btf::from_sys_fs().map_err(|error| KernelError::Cannot {
        what: "reading the kernel's type information".into(),
        why: error.to_string(),
        remedy: "the kernel must be built with CONFIG_DEBUG_INFO_BTF=y".into(),
    })?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).allow_unsupported_maps();
    for (name, offset) in &globals {
        loader.override_global(name, offset, true);
    }
    loader.override_global(global::HASH_KEY, &hash_key, true);
    if let Some(bytes) = options.sample_ring_bytes {
        loader.map_max_entries(map::SAMPLES, bytes);
    }
    // Maps of a tier that is off take no room.
    if !options.uprobes.pool {
        loader.map_max_entries(map::JOBS, 1);
    }
    if !options.uprobes.tls {
        loader.map_max_entries(map::TLS, 1).map_max_entries(map::TLS_SERVED, 1);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Cannot {
        what: "creating the maps of the kernel programs".into(),
        why: chain(&error),
        remedy: PRIVILEGE.into(),
    })?;

    let mut report = KernelReport { tier: Tier::Core, attached: Vec::new(), degraded: Vec::new() };
    for name in program::ALWAYS {
        attach_tracepoint(&mut ebpf, name, &btf).map_err(|why| KernelError::Cannot {
            what: format!("attaching the kernel program {name}"),
            why,
            remedy: format!("{PRIVILEGE}; `load-watchdog doctor` tells more"),
        })?;
        report.attached.push(name.to_owned());
    }
    attach_sockets(&mut ebpf, &btf, options.only_tier, &mut report)?;
    match attach_clock(&mut ebpf) {
        Ok(()) => report.attached.push(program::CPU_CLOCK.to_owned()),
        Err(why) => report.degraded.push((program::CPU_CLOCK.to_owned(), why)),
    }
    Ok((ebpf, report))
}

/// An object that was built elsewhere may be of another version: its maps would be misread.
fn check_version() -> Result<(), KernelError> {
    let found = object_version();
    if found == Some(ABI_VERSION) {
        return Ok(());
    }
    Err(KernelError::Cannot {
        what: "checking the version of the embedded kernel programs".into(),
        why: match found {
            Some(found) => format!("they are of version {found}, the agent needs {ABI_VERSION}"),
            None => "they do not tell it".into(),
        },
        remedy: "build the agent and its kernel programs from the same source".into(),
    })
}

fn object_version() -> Option<u32> {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
    let file = object::File::parse(OBJECT).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(global::ABI_VERSION))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let at = usize::try_from(symbol.address() - section.address()).ok()?;
    let bytes = section.data().ok()?.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn attach_sockets(
    ebpf: &mut Ebpf,
    btf: &Btf,
    only: Option<Tier>,
    report: &mut KernelReport,
) -> Result<(), KernelError> {
    if only != Some(Tier::A) {
        let result = program::CORE.iter().try_for_each(|name| {
            attach_tracepoint(ebpf, name, btf).map_err(|why| (format!("tier core: {name}"), why))
        });
        match result {
            Ok(()) => {
                report.tier = Tier::Core;
                report.attached.extend(program::CORE.map(str::to_owned));
                return Ok(());
            }
            Err(failure) => report.degraded.push(failure),
        }
    }
    if only != Some(Tier::Core) {
        for name in program::TIER_A {
            match attach_fexit(ebpf, name, btf) {
                Ok(()) => report.attached.push(name.to_owned()),
                Err(why) => report.degraded.push((format!("tier A: {name}"), why)),
            }
        }
        report.tier = Tier::A;
        let has = |name: &str| report.attached.iter().any(|attached| attached == name);
        if has(program::INET_RECVMSG) && has(program::INET_SENDMSG) {
            return Ok(());
        }
    }
    let why =
        report.degraded.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ");
    Err(KernelError::Cannot {
        what: "seeing what is received and sent on sockets".into(),
        why,
        remedy: "needs kernel 6.3 or later, or one that allows fexit programs (5.17 or later)".into(),
    })
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), String> {
    let program: &mut BtfTracePoint = program_of(ebpf, name)?;
    program.load(name, btf).map_err(|error| chain(&error))?;
    program.attach().map(drop).map_err(|error| chain(&error))
}

fn attach_fexit(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), String> {
    let program: &mut FExit = program_of(ebpf, name)?;
    program.load(name, btf).map_err(|error| chain(&error))?;
    program.attach().map(drop).map_err(|error| chain(&error))
}

/// Without it, requests that do not end are known by what the scheduler's switches tell.
fn attach_clock(ebpf: &mut Ebpf) -> Result<(), String> {
    let program: &mut PerfEvent = program_of(ebpf, program::CPU_CLOCK)?;
    program.load().map_err(|error| chain(&error))?;
    let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
    for cpu in online_cpus().map_err(|(what, error)| format!("{what}: {error}"))? {
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        program
            .attach(clock, scope, SamplePolicy::Frequency(LOOKS_PER_SECOND), false)
            .map_err(|error| chain(&error))?;
    }
    Ok(())
}

fn program_of<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, String>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the built object has no program {name}"))?;
    program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())
}

/// An error with its causes in one line; of the verifier's log only the end, which names the reason.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > 12 && std::env::var_os("LOAD_WATCHDOG_VERIFIER_LOG").is_none() {
        return format!("{} ... {}", lines[0], lines[lines.len() - 8..].join(" | "));
    }
    text
}
