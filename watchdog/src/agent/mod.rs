//! The loop that calls the stages in order; the only caller of any of them.
//!
//! One thread. Every 100 ms, and soon when a process event waits, [`Agent::tick`] drains the kernel's maps, hands the
//! requests to the builds' judges ([`judging`]), follows the processes ([`processes`]) and carries incidents forward
//! ([`rollback`]). Commands and scrapes are answered in between ([`snapshot`]). An error in a stage is reported, and
//! the loop goes on.

mod account;
mod beside;
mod comparing;
mod coverage;
mod environment;
mod flips;
mod held;
mod hidden;
mod judging;
mod keeping;
mod lives;
mod manual;
mod processes;
mod repeats;
mod resumable;
mod resume;
mod rollback;
mod run;
mod second;
mod service;
mod snapshot;
mod unfinished;
mod users;
mod verifying;
mod windows;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use watchdog_common::types::{Conservation, Loss};

use self::processes::Processes;
use self::rollback::Incidents;
pub use self::run::run;
use self::service::Service;
use crate::action::{Driver, RollbackEvent};
use crate::config::{AgentOverrides, Config};
use crate::event::Event;
use crate::identity::Identifier;
use crate::kernel::{Kernel, KernelOptions};
use crate::metrics::{Counters, Totals};
use crate::model::BuildId;
use crate::store::Store;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    pub config_file: PathBuf,
    pub overrides: AgentOverrides,
    pub kernel: KernelOptions,
}

/// Everything the loop owns.
struct Agent {
    options: AgentOptions,
    config: Config,
    store: Arc<Store>,
    driver: Driver,
    kernel: Kernel,
    identifier: Identifier,
    /// By index, the kernel's number of the service.
    services: Vec<Service>,
    /// Open build slots.
    slots: HashMap<u16, Slot>,
    processes: Processes,
    /// Processes whose build changed in place and was not asked for again yet.
    flipped: Vec<u32>,
    /// Slots of builds that run and are not in the ledger yet, by service and build.
    reserved: HashMap<(usize, BuildId), u16>,
    incidents: Incidents,
    windows: windows::Windows,
    /// What people decided.
    manual: manual::Manual,
    keeping: keeping::Keeping,
    totals: Totals,
    counters: Counters,
    failures: Failures,
    rollback_events: UnboundedSender<RollbackEvent>,
    started_mono_ns: u64,
    last_tick_mono_ns: u64,
    losses_told: Told,
    opinions: second::Opinions,
    looked: Looked,
    environment: environment::Environment,
}

/// When it last looked for what need not be looked for at every tick, `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
struct Looked {
    at_unfinished_ns: u64,
    for_baselines_ns: u64,
}

/// An open build slot of the kernel.
#[derive(Debug)]
struct Slot {
    service: usize,
    build: BuildId,
    /// As last read, since the slot was taken.
    conservation: Conservation,
}

/// What of the losses was logged.
#[derive(Debug, Default)]
struct Told {
    counts: [u64; Loss::ALL.len()],
    mono_ns: u64,
}

/// Stages that failed, so that a lasting failure is told every ten seconds and not ten times a second.
#[derive(Debug, Default)]
struct Failures(HashMap<&'static str, Failing>);

#[derive(Debug)]
struct Failing {
    count: u64,
    told_mono_ns: u64,
    last_mono_ns: u64,
}

impl Failures {
    const TELL_EVERY_NS: u64 = 10_000_000_000;

    fn failed(
        &mut self,
        stage: &'static str,
        error: &dyn std::fmt::Display,
        now_mono_ns: u64,
        counters: &mut Counters,
    ) {
        let failing =
            self.0.entry(stage).or_insert(Failing { count: 0, told_mono_ns: 0, last_mono_ns: now_mono_ns });
        failing.count += 1;
        failing.last_mono_ns = now_mono_ns;
        if failing.count == 1 || now_mono_ns.saturating_sub(failing.told_mono_ns) >= Self::TELL_EVERY_NS {
            failing.told_mono_ns = now_mono_ns;
            Event::StageFailed { stage, error }.emit(counters);
        } else {
            counters.tick_errors += 1;
        }
    }

    /// Stages that have not failed for a while work again.
    fn recovered(&mut self, now_mono_ns: u64, counters: &mut Counters) {
        self.0.retain(|stage, failing| {
            let lasts = now_mono_ns.saturating_sub(failing.last_mono_ns) < Self::TELL_EVERY_NS;
            if !lasts {
                Event::StageWorks { stage, failures: failing.count }.emit(counters);
            }
            lasts
        });
    }
}

impl Agent {
    /// Reports the error of a stage and goes on.
    fn report<T, E: std::fmt::Display>(&mut self, stage: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failures.failed(stage, &error, self.last_tick_mono_ns, &mut self.counters);
                None
            }
        }
    }

    /// One turn: drains the kernel and acts on what came.
    fn tick(&mut self, now_mono_ns: u64) {
        let span_ns = now_mono_ns.saturating_sub(self.last_tick_mono_ns);
        self.last_tick_mono_ns = now_mono_ns;
        let drained = self.kernel.tick(now_mono_ns);
        if let Some(tick) = self.report("draining the kernel's maps", drained) {
            self.count_losses(&tick.losses, now_mono_ns);
            self.take_requests(&tick);
            self.take_streams(&tick);
            self.take_cut_off(&tick.cut_off);
            self.look_at_unfinished(now_mono_ns);
            self.take_conservation(&tick.conservation, span_ns, now_mono_ns);
            self.take_blindness(&tick);
            self.follow_processes(&tick.processes, now_mono_ns);
        } else {
            self.follow_processes(&[], now_mono_ns);
        }
        self.take_up_baselines(now_mono_ns);
        self.look_around(now_mono_ns);
        self.consult(now_mono_ns);
        self.judge(span_ns, now_mono_ns);
        self.look_at_decisions(now_mono_ns);
        self.carry_incidents(now_mono_ns);
        self.follow_windows(now_mono_ns);
        self.save_increments(now_mono_ns);
        self.failures.recovered(now_mono_ns, &mut self.counters);
    }

    fn count_losses(&mut self, losses: &[u64; Loss::ALL.len()], now_mono_ns: u64) {
        const TELL_EVERY_NS: u64 = 60_000_000_000;
        for (total, grown) in self.counters.losses.iter_mut().zip(losses) {
            *total += grown;
        }
        if losses[Loss::ProcessRingFull as usize] > 0 {
            self.processes.scan_soon();
        }
        if now_mono_ns.saturating_sub(self.losses_told.mono_ns) < TELL_EVERY_NS {
            return;
        }
        self.losses_told.mono_ns = now_mono_ns;
        let grown: Vec<String> = Loss::ALL
            .iter()
            .zip(self.counters.losses.iter().zip(self.losses_told.counts))
            // The ring's drops lose nothing: the histogram has them. What begins before the agent is no fault.
            .filter(|(loss, _)| !matches!(loss, Loss::SampleRingFull | Loss::Midstream | Loss::SliceUnknown))
            .filter(|(_, (now, before))| **now > *before)
            .map(|(loss, (now, before))| format!("{} {}", loss.label(), now - before))
            .collect();
        self.losses_told.counts = self.counters.losses;
        if !grown.is_empty() {
            Event::Lost { reasons: &grown.join(", ") }.emit(&mut self.counters);
        }
    }
}
