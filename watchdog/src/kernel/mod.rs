//! Loads the kernel programs, tells them what to watch, and drains what they measured. Only this module uses aya.
//!
//! - `load`: tiers are tried by attaching; [`KernelReport`] says which one serves.
//! - `offsets`: kernel fields, from the kernel's own type information.
//! - `slots`: which (service, build) pairs and which processes are watched.
//! - `uprobes`: the extra tier, probes inside watched processes.
//! - `runtime`: what a process's runtime is, where that changes how its work is followed.
//! - `streams`: requests of HTTP/2, whose heads the agent decodes.
//! - `drain`: one [`tick::Tick`] from rings and counters; `rebuild`: what the ring had to drop.

mod drain;
mod load;
mod offsets;
mod ongoing;
mod rebuild;
mod runtime;
mod selftest;
mod slots;
mod streams;
mod tgid_slots;
pub mod tick;
mod uprobes;

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};
use serde::Serialize;
use watchdog_common::abi::map;
use watchdog_common::types::{
    Blind, BuildSlot, Conservation, EndpointKey, Habit, Losses, ProcessEvent, Series, SeriesKey,
    ServicePatterns,
};

use self::ongoing::OngoingTable;
use self::rebuild::Accounted;
use self::streams::Streams;
use self::tgid_slots::TgidSlots;
pub use self::uprobes::ProbedProcess;
use self::uprobes::UserProbes;
pub use crate::model::Uprobes;

/// The eBPF object, embedded at build time.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/watchdog-ebpf"));

/// Which way of seeing socket traffic could be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Tracepoints `sock_recv_length` and `sock_send_length` (kernel 6.3 and later).
    Core,
    /// Function exits of `inet_recvmsg` and its like.
    A,
}

/// What was loaded and attached, for the log, `doctor` and the metrics.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    pub tier: Tier,
    /// Attached programs.
    pub attached: Vec<String>,
    /// Why better tiers, or single programs, could not be had: (what, why).
    pub degraded: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct KernelOptions {
    /// Size of the sample ring in bytes (a power of two), for tests of its overflow.
    pub sample_ring_bytes: Option<u32>,
    /// Use this tier or fail.
    pub only_tier: Option<Tier>,
    /// Let the kernel keep run time and count of each program (costs two clock reads per run).
    pub probe_stats: bool,
    /// User probes that services may ask for; none unless said otherwise.
    pub uprobes: Uprobes,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("{what}: {why}; {remedy}")]
    Cannot { what: String, why: String, remedy: String },
}

impl KernelError {
    fn map(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Cannot {
            what: what.to_owned(),
            why: load::chain(error),
            remedy:
                "the kernel refused an operation on a map; if memory is short, raise MemoryMax of the unit"
                    .into(),
        }
    }
}

/// One endpoint pattern of a service; index 0 is reserved for "other".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPattern {
    pub index: u16,
    pub method: Option<String>,
    pub path: String,
}

/// A shared type as aya moves it in and out of maps.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Shared<T>(T);

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: `#[repr(C)]`, integers only, no padding (asserted beside each type).
        unsafe impl Pod for Shared<$type> {}
    )*};
}
plain!(Blind, BuildSlot, Conservation, EndpointKey, Habit, Losses, Series, SeriesKey, ServicePatterns);

/// The loaded programs and their maps. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    report: KernelReport,
    hash_key: u64,
    tgid_slots: TgidSlots,
    /// Open slots: service and number of endpoints, "other" included.
    open: BTreeMap<u16, (u32, u16)>,
    last_slot: u16,
    samples: RingBuf<MapData>,
    streams: Streams,
    processes: RingBuf<MapData>,
    /// Taken from the ring already, for the next tick.
    process_news: Vec<ProcessEvent>,
    series: HashMap<MapData, Shared<SeriesKey>, Shared<Series>>,
    conservation: PerCpuArray<MapData, Shared<Conservation>>,
    blind: PerCpuArray<MapData, Shared<Blind>>,
    losses: PerCpuArray<MapData, Shared<Losses>>,
    losses_before: BTreeMap<u16, tick::LossCounts>,
    accounted: BTreeMap<SeriesKey, Accounted>,
    ongoing: OngoingTable,
    swept_mono_ns: u64,
    uprobes: UserProbes,
    /// What each service asked for; the others get all that `KernelOptions` allows.
    service_uprobes: BTreeMap<u32, Uprobes>,
    /// Faults that the programs themselves report; absent where the kernel refuses the ring.
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    stats_switch: Option<OwnedFd>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("report", &self.report)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads and attaches the best tier that this kernel allows, and checks that what it measures is true.
    pub fn load(options: &KernelOptions) -> Result<Self, KernelError> {
        let hash_key = random_key()?;
        let (mut ebpf, mut report) = load::load(options, hash_key)?;
        // Before any map is taken out of it: what is loaded later would not find it.
        let uprobes = UserProbes::load(&mut ebpf, options.uprobes, &mut report)?;
        let stats = if options.probe_stats {
            let stats = aya::sys::enable_stats(aya::sys::Stats::RunTime);
            Some(stats.map_err(|error| {
                KernelError::map("switching the programs' run-time statistics on", &error)
            })?)
        } else {
            None
        };
        let log = aya_log::EbpfLogger::init(&mut ebpf).ok();
        let tgid_slots = TgidSlots::map(array(&mut ebpf, map::TGID_SLOTS)?.fd())
            .map_err(|error| KernelError::map("mapping the process table", &error))?;
        let ongoing = OngoingTable::map(array(&mut ebpf, map::ONGOING)?.fd())
            .map_err(|error| KernelError::map("mapping the table of requests", &error))?;
        let mut kernel = Self {
            report,
            hash_key,
            tgid_slots,
            open: BTreeMap::new(),
            last_slot: 0,
            samples: typed(&mut ebpf, map::SAMPLES)?,
            streams: Streams::new(typed(&mut ebpf, map::STREAMS)?, hash_key),
            processes: typed(&mut ebpf, map::PROCESSES)?,
            process_news: Vec::new(),
            series: typed(&mut ebpf, map::SERIES)?,
            conservation: typed(&mut ebpf, map::CONSERVATION)?,
            blind: typed(&mut ebpf, map::BLIND)?,
            losses: typed(&mut ebpf, map::LOSSES)?,
            losses_before: BTreeMap::new(),
            accounted: BTreeMap::new(),
            ongoing,
            swept_mono_ns: 0,
            uprobes,
            service_uprobes: BTreeMap::new(),
            log,
            stats_switch: stats,
            ebpf,
        };
        kernel.self_test()?;
        // Reading the kernel's type information took some tens of megabytes that are free again.
        // SAFETY: a call without preconditions.
        unsafe { libc::malloc_trim(0) };
        Ok(kernel)
    }

    pub fn report(&self) -> &KernelReport {
        &self.report
    }

    /// Says which user probes the processes of a service get that are watched from now on.
    pub fn set_uprobes(&mut self, service: u32, wanted: Uprobes) {
        self.service_uprobes.insert(service, wanted);
    }

    /// The processes that have user probes, or should have.
    pub fn probed(&self) -> Vec<ProbedProcess> {
        self.uprobes.probed()
    }

    /// What could not be probed since the last call, and what to do about it.
    pub fn take_probe_notices(&mut self) -> Vec<String> {
        self.uprobes.take_notices()
    }

    /// Whether user probes can be put into processes here; why not, and what to do.
    pub fn try_uprobes(&mut self) -> Result<(), String> {
        uprobes::try_out(&mut self.ebpf)
    }

    /// (program, runs, nanoseconds) as the kernel counted them, empty unless `probe_stats` is on.
    pub fn probe_stats(&self) -> Vec<(String, u64, u64)> {
        if self.stats_switch.is_none() {
            return Vec::new();
        }
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                let ns = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
                Some((name.to_owned(), info.run_count(), ns))
            })
            .collect()
    }

    /// (program, instructions the verifier walked), of the loaded programs.
    pub fn verified_instructions(&self) -> Vec<(String, u32)> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                Some((name.to_owned(), program.info().ok()?.verified_instruction_count()?))
            })
            .collect()
    }

    /// Becomes readable when a process event waits.
    pub fn process_events_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.processes.as_fd()
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::Cannot {
        what: format!("finding the map {name}"),
        why: "the built object does not have it".into(),
        remedy: "the agent and its kernel programs are of different versions: rebuild both".into(),
    })
}

fn typed<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, KernelError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    M::try_from(take(ebpf, name)?)
        .map_err(|error| KernelError::map(&format!("opening the map {name}"), &error))
}

fn array(ebpf: &mut Ebpf, name: &str) -> Result<MapData, KernelError> {
    match take(ebpf, name)? {
        aya::maps::Map::Array(data) => Ok(data),
        _ => Err(wrong_kind(name)),
    }
}

fn wrong_kind(name: &str) -> KernelError {
    KernelError::Cannot {
        what: format!("opening the map {name}"),
        why: "it is of another kind".into(),
        remedy: "the agent and its kernel programs are of different versions: rebuild both".into(),
    }
}

/// The key of the path hashes: nobody outside may know it.
fn random_key() -> Result<u64, KernelError> {
    use std::io::Read as _;
    let mut bytes = [0u8; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| KernelError::map("reading /dev/urandom", &error))?;
    Ok(u64::from_ne_bytes(bytes))
}
