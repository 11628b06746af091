//! Which processes are watched, and under which build's slot.
//!
//! Events of the kernel come first, a scan of all processes every few seconds is the safety net. A child is watched
//! from its first instruction under its parent's slot; what it really is shows a moment later.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use watchdog_common::types::{self, Conservation, ProcessEvent, ProcessEventKind};

use super::service::host_cores;
use super::{Agent, Slot};
use crate::aggregate::Age;
use crate::config::Protocol;
use crate::event::Event;
use crate::identity::{Identified, Identifier};
use crate::incident::BuildState;
use crate::kernel::{EndpointPattern, KernelError};
use crate::metrics::SlotOwner;
use crate::model::BuildId;

const SCAN_EVERY_NS: u64 = 5_000_000_000;
/// A process is asked again this long after it forked or ran a program: it may have changed directory, or listen now.
const ASK_AGAIN_AFTER_NS: u64 = 1_000_000_000;
/// More than this waiting to be asked again: the next scan does it.
const MAX_WAITING: usize = 4096;
/// The samples of a build's last requests are still in the ring.
const CLOSE_SLOT_AFTER_NS: u64 = 2_000_000_000;
/// Processes that changed their build in place may still be at a request of the one before.
const CLOSE_SLOT_ANYWAY_NS: u64 = 60_000_000_000;
/// A build that is gone keeps its judge and its figures for so long: a restart is not a new build.
const FORGET_BUILD_AFTER_NS: u64 = 600_000_000_000;

/// The processes that are watched.
#[derive(Debug, Default)]
pub(super) struct Processes {
    watched: HashMap<u32, Place>,
    /// When each of them began (or its build, in place), `CLOCK_MONOTONIC`.
    began_mono_ns: HashMap<u32, u64>,
    /// They have just run a program that is of no service; their events come with the next tick.
    strangers: HashSet<u32>,
    /// When to ask which process again.
    waiting: Vec<(u64, u32)>,
    last_scan_mono_ns: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) service: usize,
    pub(super) build: BuildId,
}

impl Processes {
    /// The next tick scans.
    pub(super) fn scan_soon(&mut self) {
        self.last_scan_mono_ns = None;
    }

    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether a watched process has another build of the same service now.
    pub(super) fn moves(&self, identified: &Identified) -> bool {
        self.watched.get(&identified.pid).is_some_and(|place| {
            place.service == identified.service && identified.build.as_ref() != Some(&place.build)
        })
    }

    /// How old a process was at a moment.
    pub(super) fn age(&self, tgid: u32, mono_ns: u64) -> Age {
        self.began_mono_ns.get(&tgid).map_or(Age::Older, |began_mono_ns| {
            Age::of(Duration::from_nanos(mono_ns.saturating_sub(*began_mono_ns)))
        })
    }

    fn ask_at(&mut self, mono_ns: u64, tgid: u32) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push((mono_ns, tgid));
        } else {
            self.scan_soon();
        }
    }
}

impl Agent {
    /// Tells the kernel the endpoint patterns of every service.
    pub(super) fn register_services(&mut self) -> Result<(), KernelError> {
        for (index, service) in self.services.iter().enumerate() {
            let patterns: Vec<EndpointPattern> = (1_u16..)
                .zip(&service.config.endpoints)
                .map(|(index, endpoint)| EndpointPattern {
                    index,
                    method: endpoint.method.clone(),
                    path: endpoint.path.clone(),
                })
                .collect();
            let protocol = match service.config.protocol {
                Protocol::Auto => types::Protocol::AUTO,
                Protocol::Http1 => types::Protocol::HTTP1,
                Protocol::Fastcgi => types::Protocol::FASTCGI,
                Protocol::Uwsgi => types::Protocol::UWSGI,
            };
            self.kernel.register_service_speaking(number(index), protocol, &patterns)?;
            self.kernel.set_uprobes(number(index), service.config.uprobes);
        }
        Ok(())
    }

    /// Watches at once what has just run a program, if it is of a service: the next tick, which does all the rest, may be later
    /// than its first request.
    pub(super) fn meet_newcomers(&mut self) {
        let ran_a_program = |event: &&ProcessEvent| event.kind == ProcessEventKind::Exec as u32;
        let news = self.kernel.process_news().iter().filter(ran_a_program);
        let unwatched: Vec<u32> =
            news.filter(|event| event.build_slot == 0).map(|event| event.tgid).collect();
        for tgid in unwatched {
            match self.identifier.identify(tgid) {
                Ok(Some(identified)) => self.watch_at_once(&identified),
                Ok(None) => {
                    self.processes.strangers.insert(tgid);
                }
                // The tick asks again, and reports it.
                Err(_) => {}
            }
        }
    }

    pub(super) fn follow_processes(&mut self, events: &[ProcessEvent], now_mono_ns: u64) {
        for event in events {
            self.on_process_event(event, now_mono_ns);
        }
        self.follow_flips(now_mono_ns);
        let mut due = HashSet::new();
        self.processes.waiting.retain(|(at, tgid)| {
            let is_due = *at <= now_mono_ns;
            if is_due {
                due.insert(*tgid);
            }
            !is_due
        });
        for tgid in due {
            self.ask(tgid, now_mono_ns);
        }
        let scan_due = self
            .processes
            .last_scan_mono_ns
            .is_none_or(|last| now_mono_ns.saturating_sub(last) >= SCAN_EVERY_NS);
        if scan_due {
            self.scan(now_mono_ns);
        }
        for notice in self.kernel.take_probe_notices() {
            Event::Warning { what: "user probes", why: &notice }.emit(&mut self.counters);
        }
        // Whatever came with the first look was there before the agent; what comes from now on is new.
        for service in &mut self.services {
            service.adopting &= service.builds.is_empty();
        }
        self.retire_builds(now_mono_ns);
    }

    fn on_process_event(&mut self, event: &ProcessEvent, now_mono_ns: u64) {
        match ProcessEventKind::try_from(event.kind) {
            Ok(ProcessEventKind::Fork) => {
                // The kernel watches it under its parent's slot already.
                let parent = self.processes.watched.get(&event.parent_tgid).cloned();
                if let Some(place) = parent {
                    self.enter(event.tgid, &place);
                    self.processes.began_mono_ns.insert(event.tgid, now_mono_ns);
                    self.began(&place, now_mono_ns);
                    self.environment.warmup.forked(event.tgid, event.parent_tgid, now_mono_ns);
                }
                self.processes.ask_at(now_mono_ns, event.tgid);
                self.processes.ask_at(now_mono_ns + ASK_AGAIN_AFTER_NS, event.tgid);
            }
            Ok(ProcessEventKind::Exec) => {
                self.environment.warmup.ended(event.tgid);
                if !self.processes.strangers.remove(&event.tgid) {
                    self.processes.ask_at(now_mono_ns, event.tgid);
                }
                if event.build_slot != 0
                    || self.processes.watched.contains_key(&event.tgid)
                    || self.identifier.matches_by_listening()
                {
                    self.processes.ask_at(now_mono_ns + ASK_AGAIN_AFTER_NS, event.tgid);
                }
            }
            Ok(ProcessEventKind::Exit) => {
                self.leave(event.tgid, now_mono_ns);
                self.processes.began_mono_ns.remove(&event.tgid);
                self.identifier.forget(event.tgid);
            }
            Err(_) => {}
        }
    }

    fn ask(&mut self, tgid: u32, now_mono_ns: u64) {
        match self.identifier.identify(tgid) {
            Ok(Some(identified)) => self.place(&identified, now_mono_ns),
            Ok(None) => self.unwatch(tgid, now_mono_ns),
            Err(error) => {
                self.report("reading a process", Err::<(), _>(error));
            }
        }
    }

    fn scan(&mut self, now_mono_ns: u64) {
        self.processes.last_scan_mono_ns = Some(now_mono_ns);
        let found = self.identifier.scan();
        let present: HashSet<u32> = found.iter().map(|identified| identified.pid).collect();
        let gone: Vec<u32> =
            self.processes.watched.keys().filter(|tgid| !present.contains(tgid)).copied().collect();
        for tgid in gone {
            self.unwatch(tgid, now_mono_ns);
        }
        for service in &mut self.services {
            service.nameless.retain(|tgid, _| present.contains(tgid));
        }
        for identified in &found {
            self.place(identified, now_mono_ns);
        }
        self.look_at_quotas();
        for notice in self.identifier.take_notices() {
            Event::Warning { what: "processes", why: &notice }.emit(&mut self.counters);
        }
    }

    /// A quota may be set at any time, and nothing tells of it.
    fn look_at_quotas(&mut self) {
        let host = host_cores();
        for service in &mut self.services {
            let processes = service.builds.values().flat_map(|build| &build.processes).copied();
            let cores = Identifier::cores(processes, host);
            if (cores - service.cores).abs() > 1e-9 {
                let text = format!(
                    "service {} may use {cores:.2} of the host's {host} cores, {:.2} before: max_host_share is of that",
                    service.config.name, service.cores
                );
                Event::Warning { what: "CPU quota", why: &text }.emit(&mut self.counters);
                service.cores = cores;
            }
            for judged in service.builds.values_mut().filter_map(|build| build.judged.as_mut()) {
                judged.judge.set_cores(cores);
            }
        }
    }

    /// Puts a process under its build's slot.
    pub(super) fn place(&mut self, identified: &Identified, now_mono_ns: u64) {
        let Some(service) = self.services.get_mut(identified.service) else { return };
        let Some(build) = identified.build.clone() else {
            let problem = identified.problem.clone().unwrap_or_else(|| "its build cannot be told".to_owned());
            if service.nameless.insert(identified.pid, problem.clone()).is_none()
                && service.nameless.len() == 1
            {
                let why = format!("service {}, process {}: {problem}", service.config.name, identified.pid);
                Event::Warning { what: "a process cannot be judged", why: &why }.emit(&mut self.counters);
            }
            self.unwatch(identified.pid, now_mono_ns);
            return;
        };
        service.nameless.remove(&identified.pid);
        let age_ns = u64::try_from(identified.age().as_nanos()).unwrap_or(u64::MAX);
        self.processes.began_mono_ns.insert(identified.pid, now_mono_ns.saturating_sub(age_ns));
        let place = Place { service: identified.service, build };
        if self.processes.watched.get(&identified.pid) == Some(&place) {
            if !self.environment.warmup.knows(identified.pid) {
                self.note_start(identified, &place, now_mono_ns);
            }
            return;
        }
        let before = self.processes.watched.get(&identified.pid);
        let flipped =
            identified.is_in_place() && before.is_some_and(|before| before.service == place.service);
        self.watch_at_once(identified);
        let entered = self.open(&place, identified, now_mono_ns);
        if self.report("opening a build", entered).is_some() {
            self.leave(identified.pid, now_mono_ns);
            self.enter(identified.pid, &place);
            self.note_start(identified, &place, now_mono_ns);
            if !flipped {
                self.began(&place, now_mono_ns);
            }
        }
    }

    /// Counts a process's requests under its build before that is written to the ledger: the disk takes longer than a server
    /// takes to its first request.
    pub(super) fn watch_at_once(&mut self, identified: &Identified) {
        let Some(build) = &identified.build else { return };
        let slot = self.slot_of(identified.service, build);
        if let Some(slot) = self.report("taking a build's slot", slot) {
            self.kernel.watch(identified.pid, slot);
        }
    }

    /// The slot of a build. One that is taken here is [reserved](Agent::reserved) until the ledger knows the build.
    fn slot_of(&mut self, service: usize, build: &BuildId) -> anyhow::Result<u16> {
        let (number, key) = (number(service), (service, build.clone()));
        let service = &self.services[service];
        let taken = service.builds.get(build).and_then(|build| build.slot);
        if let Some(slot) = taken.or_else(|| self.reserved.get(&key).copied()) {
            return Ok(slot);
        }
        let slot = self.kernel.open_slot(number, u16::try_from(service.endpoints.len())?)?;
        self.reserved.insert(key, slot);
        Ok(slot)
    }

    /// Makes the build known if it is not, and its slot its own.
    fn open(&mut self, place: &Place, first: &Identified, now_mono_ns: u64) -> anyhow::Result<()> {
        if !self.services[place.service].builds.contains_key(&place.build) {
            self.build_appeared(place, first, now_mono_ns)?;
        } else if self.services[place.service].builds[&place.build].processes.is_empty() {
            self.build_is_back(place, first, now_mono_ns)?;
        }
        let slot = self.slot_of(place.service, &place.build)?;
        self.reserved.remove(&(place.service, place.build.clone()));
        if self.slots.contains_key(&slot) {
            return Ok(());
        }
        let service = &mut self.services[place.service];
        let build = service.builds.get_mut(&place.build).expect("it was made above");
        build.slot = Some(slot);
        let owner = SlotOwner {
            service: service.config.name.clone(),
            build: place.build.clone(),
            endpoints: service.endpoints.clone(),
        };
        self.totals.open_slot(slot, owner);
        let entry = Slot {
            service: place.service,
            build: place.build.clone(),
            conservation: Conservation::default(),
        };
        self.slots.insert(slot, entry);
        Ok(())
    }

    fn enter(&mut self, tgid: u32, place: &Place) {
        let service = &mut self.services[place.service];
        if let Some(build) = service.builds.get_mut(&place.build) {
            build.processes.insert(tgid);
            build.gone_since_mono_ns = None;
        }
        self.processes.watched.insert(tgid, place.clone());
    }

    /// A process is new to a build: what it uses until it serves belongs to no request.
    fn began(&mut self, place: &Place, now_mono_ns: u64) {
        if let Some(build) = self.services[place.service].builds.get_mut(&place.build) {
            build.youngest_mono_ns = Some(now_mono_ns);
        }
    }

    /// The process ended or moves to another build.
    fn leave(&mut self, tgid: u32, now_mono_ns: u64) {
        let Some(place) = self.processes.watched.remove(&tgid) else { return };
        self.environment.warmup.ended(tgid);
        let Some(service) = self.services.get_mut(place.service) else { return };
        if let Some(build) = service.builds.get_mut(&place.build) {
            build.processes.remove(&tgid);
            if build.processes.is_empty() {
                build.gone_since_mono_ns = Some(now_mono_ns);
            }
        }
    }

    pub(super) fn unwatch(&mut self, tgid: u32, now_mono_ns: u64) {
        if self.processes.watched.contains_key(&tgid) || self.kernel.slot_of(tgid) != 0 {
            self.kernel.unwatch(tgid);
            self.leave(tgid, now_mono_ns);
            self.processes.began_mono_ns.remove(&tgid);
        }
    }

    /// Gives slots of builds back whose last process ended, and forgets builds that are gone for long.
    fn retire_builds(&mut self, now_mono_ns: u64) {
        let mut closing = Vec::new();
        let mut ongoing = None;
        let kernel = &self.kernel;
        // The table of requests is read once, and only when a slot could be closed.
        let mut under_way = |slot: u16| {
            let slots = ongoing.get_or_insert_with(|| {
                kernel.ongoing().iter().map(|request| request.build_slot).collect::<HashSet<u16>>()
            });
            slots.contains(&slot)
        };
        for (index, service) in self.services.iter_mut().enumerate() {
            for (id, build) in &mut service.builds {
                let Some(slot) = build.slot.filter(|_| build.processes.is_empty()) else {
                    build.idle_since_mono_ns = None;
                    continue;
                };
                let ago_ns = |since: Option<u64>| since.map_or(0, |since| now_mono_ns.saturating_sub(since));
                let anyway = ago_ns(build.gone_since_mono_ns) >= CLOSE_SLOT_ANYWAY_NS;
                if under_way(slot) && !anyway {
                    build.idle_since_mono_ns = None;
                    continue;
                }
                let idle_since = *build.idle_since_mono_ns.get_or_insert(now_mono_ns);
                if anyway || ago_ns(Some(idle_since)) >= CLOSE_SLOT_AFTER_NS {
                    build.slot = None;
                    closing.push((index, id.clone(), slot));
                }
            }
            service.builds.retain(|_, build| {
                let gone_ns = build.gone_since_mono_ns.map_or(0, |since| now_mono_ns.saturating_sub(since));
                let saved = build.unsaved.is_empty() || build.state == BuildState::Condemned;
                build.slot.is_some() || gone_ns < FORGET_BUILD_AFTER_NS || !saved
            });
        }
        if closing.is_empty() {
            return;
        }
        self.read_series();
        for (service, build, slot) in closing {
            self.close_slot(slot);
            let name = self.services[service].config.name.clone();
            Event::BuildGone { service: &name, build: &build }.emit(&mut self.counters);
        }
    }

    /// After the last reading of its figures.
    fn close_slot(&mut self, slot: u16) {
        self.totals.close_slot(slot);
        self.slots.remove(&slot);
        let closed = self.kernel.close_slot(slot);
        self.report("closing a build slot", closed);
    }

    /// Everything off, for a new configuration: processes are watched again by the scan that follows.
    pub(super) fn release_all(&mut self) {
        self.read_series();
        let watched: Vec<u32> = self.processes.watched.keys().copied().collect();
        for tgid in watched {
            self.unwatch(tgid, self.last_tick_mono_ns);
        }
        let reserved = std::mem::take(&mut self.reserved).into_values();
        let slots: Vec<u16> = self.slots.keys().copied().chain(reserved).collect();
        for slot in slots {
            self.close_slot(slot);
        }
        for service in &mut self.services {
            for build in service.builds.values_mut() {
                build.slot = None;
            }
        }
        self.processes = Processes::default();
    }

    /// Takes the kernel's cumulative figures into the totals: at scrapes and before slots are closed.
    pub(super) fn read_series(&mut self) {
        let series = self.kernel.series();
        if let Some(series) = self.report("reading the request counters", series) {
            self.totals.observe_series(&series);
        }
    }
}

fn number(service: usize) -> u32 {
    u32::try_from(service).expect("the configuration has at most 64 services")
}
