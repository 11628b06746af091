//! The extra tier: user probes on libuv's pool and on TLS libraries, put into watched processes only, one by one, and
//! taken out when a process is watched no more. The kernel removes the breakpoints with the last probe on them.
//!
//! - `symbols`: which functions, and where they lie in a file; `golang`: those of Go programs, also of stripped ones.
//! - `attach`: puts programs on their places; `detach`: out again.
//! - `mapped`: which files a process executes; each file is read once.

mod attach;
mod detach;
mod golang;
mod mapped;
mod symbols;

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use aya::{Ebpf, Pod};
use serde::Serialize;
use watchdog_common::abi::{CONNECTION_BYTES, GO_READ_BYTES, JOB_BYTES, map, program};
use watchdog_common::types::{Loss, ProcessEvent, ProcessEventKind};

pub(super) use self::attach::try_out;
use self::attach::{ProbedFile, probe, raise_open_files, uprobe};
use self::detach::Detacher;
use self::mapped::Files;
use super::load::chain;
use super::{KernelError, KernelReport, typed};
use crate::model::Uprobes;

/// What user probes serve in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbedProcess {
    pub tgid: u32,
    pub pool: bool,
    pub tls: bool,
    /// Probes in force.
    pub probes: usize,
    /// What could not be probed, why, and what to do.
    pub problems: Vec<String>,
}

/// When a process is looked at again after it began or ran another program: libraries are loaded at any time, mostly
/// at the beginning. Each time is so many times the one before.
const FIRST_LOOK_NS: u64 = 20_000_000;
const LOOK_FACTOR: u64 = 3;
const LAST_LOOK_NS: u64 = 60_000_000_000;
/// A file that is not mapped so long after a process began or ran another program will not be.
const SETTLED_NS: u64 = 1_000_000_000;
/// After this long without a look, one for all: traffic was hidden by TLS.
const TLS_LOOK_NS: u64 = 1_000_000_000;
/// How often what ended processes left in the maps is removed.
const SWEEP_EVERY_NS: u64 = 5_000_000_000;

struct Process {
    wanted: Uprobes,
    files: Vec<ProbedFile>,
    /// Why it cannot be looked at.
    problem: Option<String>,
    /// It is in the programs' map of those whose TLS is read.
    is_served: bool,
    next_look_mono_ns: u64,
    wait_ns: u64,
}

impl Process {
    fn pool(&self) -> bool {
        self.files.iter().any(|file| file.pool)
    }

    fn tls(&self) -> bool {
        self.files.iter().any(|file| file.tls)
    }

    fn problems(&self) -> Vec<String> {
        self.files.iter().flat_map(|file| &file.problems).chain(&self.problem).cloned().collect()
    }

    fn look_again(&mut self) {
        self.next_look_mono_ns = 0;
        self.wait_ns = FIRST_LOOK_NS;
    }

    fn new(wanted: Uprobes) -> Self {
        Self {
            wanted,
            files: Vec::new(),
            problem: None,
            is_served: false,
            next_look_mono_ns: 0,
            wait_ns: FIRST_LOOK_NS,
        }
    }
}

/// An address in a process, as the programs' maps have it for a key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PointerKey {
    _address: u64,
    tgid: u32,
    _pad: u32,
}
// SAFETY: `#[repr(C)]`, integers only, no padding.
unsafe impl Pod for PointerKey {}

/// A value whose content is the programs' business.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Opaque<const BYTES: usize>([u8; BYTES]);
// SAFETY: bytes.
unsafe impl<const BYTES: usize> Pod for Opaque<BYTES> {}

/// The probes that are in force. Dropping it takes them all out.
pub(super) struct UserProbes {
    /// What could be loaded of what was asked for.
    loaded: Uprobes,
    processes: BTreeMap<u32, Process>,
    files: Files,
    detacher: Detacher,
    /// What could not be probed, until the agent takes it.
    notices: Vec<String>,
    served: HashMap<MapData, u32, u32>,
    jobs: HashMap<MapData, PointerKey, Opaque<JOB_BYTES>>,
    sessions: HashMap<MapData, PointerKey, Opaque<CONNECTION_BYTES>>,
    go_reads: HashMap<MapData, PointerKey, Opaque<GO_READ_BYTES>>,
    all_looked_mono_ns: u64,
    swept_mono_ns: u64,
}

impl UserProbes {
    /// Loads the programs that were asked for; what cannot be loaded is told in the report.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        wanted: Uprobes,
        report: &mut KernelReport,
    ) -> Result<Self, KernelError> {
        let mut loaded = wanted;
        for (wanted, names, loaded) in [
            (wanted.pool, &program::POOL[..], &mut loaded.pool),
            (wanted.tls, &program::TLS[..], &mut loaded.tls),
        ] {
            if !wanted {
                continue;
            }
            let result = names.iter().try_for_each(|name| {
                uprobe(ebpf, name)?.load().map_err(|error| (format!("user probe {name}"), chain(&error)))
            });
            match result {
                Ok(()) => report.attached.extend(names.iter().map(|name| (*name).to_owned())),
                Err(failure) => {
                    *loaded = false;
                    report.degraded.push(failure);
                }
            }
        }
        if loaded.any() {
            raise_open_files();
        }
        Ok(Self {
            loaded,
            processes: BTreeMap::new(),
            files: Files::default(),
            detacher: Detacher::new(),
            notices: Vec::new(),
            served: typed(ebpf, map::TLS_SERVED)?,
            jobs: typed(ebpf, map::JOBS)?,
            sessions: typed(ebpf, map::TLS)?,
            go_reads: typed(ebpf, map::GO_READS)?,
            all_looked_mono_ns: 0,
            swept_mono_ns: 0,
        })
    }

    /// Probes a process that is watched from now on, or under another service.
    pub(super) fn watch(&mut self, ebpf: &mut Ebpf, tgid: u32, wanted: Uprobes, now_mono_ns: u64) {
        let wanted = wanted.and(self.loaded);
        if self.processes.get(&tgid).is_some_and(|process| process.wanted == wanted) {
            return;
        }
        self.unwatch(tgid);
        if wanted.any() {
            self.processes.insert(tgid, Process::new(wanted));
            self.look(ebpf, tgid, now_mono_ns);
        }
    }

    /// Takes the probes out of a process.
    pub(super) fn unwatch(&mut self, tgid: u32) {
        if let Some(process) = self.processes.remove(&tgid) {
            if process.is_served {
                let _ = self.served.remove(&tgid);
            }
            for file in process.files {
                self.detacher.take_out(tgid, file.links);
            }
        }
    }

    /// Follows forks, programs and ends, and looks again at processes whose time has come.
    pub(super) fn tick(
        &mut self,
        ebpf: &mut Ebpf,
        events: &[ProcessEvent],
        losses: &[u64; Loss::ALL.len()],
        now_mono_ns: u64,
        wanted_of: impl Fn(u32) -> Uprobes,
    ) {
        if !self.loaded.any() {
            return;
        }
        for event in events {
            match ProcessEventKind::try_from(event.kind) {
                Ok(ProcessEventKind::Fork) => {
                    self.watch(ebpf, event.tgid, wanted_of(event.tgid), now_mono_ns);
                }
                Ok(ProcessEventKind::Exec) => {
                    if let Some(process) = self.processes.get_mut(&event.tgid) {
                        process.look_again();
                    }
                    self.watch(ebpf, event.tgid, wanted_of(event.tgid), now_mono_ns);
                }
                Ok(ProcessEventKind::Exit) => self.unwatch(event.tgid),
                Err(_) => {}
            }
        }
        let hidden = losses[Loss::Tls as usize] > 0
            && now_mono_ns.saturating_sub(self.all_looked_mono_ns) >= TLS_LOOK_NS;
        if hidden {
            self.all_looked_mono_ns = now_mono_ns;
        }
        let due: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, process)| {
                process.next_look_mono_ns <= now_mono_ns || hidden && process.wanted.tls && !process.tls()
            })
            .map(|(tgid, _)| *tgid)
            .collect();
        for tgid in due {
            if wanted_of(tgid).any() {
                self.look(ebpf, tgid, now_mono_ns);
            } else {
                self.unwatch(tgid);
            }
        }
        if now_mono_ns.saturating_sub(self.swept_mono_ns) >= SWEEP_EVERY_NS {
            self.swept_mono_ns = now_mono_ns;
            sweep(&mut self.jobs, &self.processes);
            sweep(&mut self.sessions, &self.processes);
            sweep(&mut self.go_reads, &self.processes);
        }
    }

    /// What could not be probed since the last call, and what to do.
    pub(super) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    pub(super) fn probed(&self) -> Vec<ProbedProcess> {
        let told = |(tgid, process): (&u32, &Process)| ProbedProcess {
            tgid: *tgid,
            pool: process.pool(),
            tls: process.tls(),
            probes: process.files.iter().map(|file| file.links.len()).sum(),
            problems: process.problems(),
        };
        self.processes.iter().map(told).collect()
    }

    /// Puts probes into the files that the process maps by now.
    fn look(&mut self, ebpf: &mut Ebpf, tgid: u32, now_mono_ns: u64) {
        let Some(process) = self.processes.get_mut(&tgid) else { return };
        process.next_look_mono_ns = now_mono_ns + process.wait_ns;
        // With two sets of probes in it, everything would count twice.
        if self.detacher.is_busy_with(tgid) {
            return;
        }
        let settled = process.wait_ns > SETTLED_NS;
        process.wait_ns = (process.wait_ns * LOOK_FACTOR).min(LAST_LOOK_NS);
        let files = match self.files.of_process(tgid) {
            Ok(files) => files,
            // It ended, which an event will tell.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                let why =
                    format!("/proc/{tgid}/maps cannot be read: {error}; the agent needs CAP_SYS_PTRACE");
                process.problem = Some(why);
                return;
            }
        };
        if settled {
            let is_gone = |old: &mut ProbedFile| files.iter().all(|file| file.key != old.file.key);
            for old in process.files.extract_if(.., is_gone) {
                self.detacher.take_out(tgid, old.links);
            }
        }
        let turn = self.detacher.turn();
        for file in files {
            if process.files.iter().all(|old| old.file.key != file.key) {
                let probed = probe(ebpf, tgid, process.wanted, file);
                self.notices.extend(probed.problems.iter().map(|why| format!("process {tgid}: {why}")));
                process.files.push(probed);
            }
        }
        drop(turn);
        if process.tls() && !process.is_served {
            match self.served.insert(tgid, 1, 0) {
                Ok(()) => process.is_served = true,
                Err(error) => {
                    let why = format!("its TLS traffic counts as lost all the same: {}", chain(&error));
                    process.problem = Some(why);
                }
            }
        }
    }
}

impl Drop for UserProbes {
    fn drop(&mut self) {
        for (tgid, process) in std::mem::take(&mut self.processes) {
            for file in process.files {
                self.detacher.take_out(tgid, file.links);
            }
        }
    }
}

/// Removes the entries of processes that are probed no more.
fn sweep<V: Pod>(entries: &mut HashMap<MapData, PointerKey, V>, processes: &BTreeMap<u32, Process>) {
    let left: Vec<PointerKey> =
        entries.keys().filter_map(Result::ok).filter(|key| !processes.contains_key(&key.tgid)).collect();
    for key in left {
        let _ = entries.remove(&key);
    }
}
