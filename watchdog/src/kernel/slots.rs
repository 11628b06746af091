//! What is watched: services with their endpoint patterns, (service, build) slots, and processes.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, PerCpuValues};
use watchdog_common::abi::{
    ENDPOINT_OTHER, MAX_BUILD_SLOTS, MAX_ENDPOINTS, MAX_SERVICES, MAX_WILDCARD_MASKS, SLOT_MASK,
    STATUS_CLASSES, map,
};
use watchdog_common::http::{method_code, path_hash};
use watchdog_common::types::{
    Blind, BuildSlot, Conservation, EndpointKey, Habit, Loss, ProcessEvent, Protocol, Series, SeriesKey,
    ServicePatterns,
};

use super::{EndpointPattern, Kernel, KernelError, Shared, Uprobes, runtime};

/// The last slot belongs to the self-test at start-up.
#[expect(clippy::cast_possible_truncation, reason = "checked when it is compiled")]
pub(super) const SELF_TEST_SLOT: u16 = {
    assert!(MAX_BUILD_SLOTS <= 1 << 16);
    (MAX_BUILD_SLOTS - 1) as u16
};

fn limit(what: String, remedy: &str) -> KernelError {
    KernelError::Cannot {
        what,
        why: "a limit of the kernel programs is reached".into(),
        remedy: remedy.into(),
    }
}

/// The wildcard positions of a pattern as a mask, and the pattern's key.
fn key_of(pattern: &EndpointPattern, service: u32, hash_key: u64) -> EndpointKey {
    let mask = pattern
        .path
        .split('/')
        .skip(1)
        .enumerate()
        .filter(|(_, segment)| *segment == "*")
        .fold(0u32, |mask, (index, _)| mask | 1 << (index & 31));
    EndpointKey {
        path_hash: path_hash(pattern.path.as_bytes(), mask, hash_key),
        method: pattern.method.as_ref().map_or(0, |method| method_code(method.as_bytes())),
        service,
        mask,
    }
}

impl Kernel {
    /// Tells the kernel a service's endpoint patterns. Patterns without wildcards win over those with.
    pub fn register_service(
        &mut self,
        service: u32,
        endpoints: &[EndpointPattern],
    ) -> Result<(), KernelError> {
        self.register_service_speaking(service, Protocol::AUTO, endpoints)
    }

    /// The same for a service whose connections speak one [`Protocol`]; others count as unknown.
    pub fn register_service_speaking(
        &mut self,
        service: u32,
        protocol: u32,
        endpoints: &[EndpointPattern],
    ) -> Result<(), KernelError> {
        if service >= MAX_SERVICES {
            return Err(limit(
                format!("watching service number {service}"),
                "watch at most 64 services with one agent",
            ));
        }
        let keys: BTreeMap<u16, EndpointKey> = endpoints
            .iter()
            .map(|pattern| (pattern.index, key_of(pattern, service, self.hash_key)))
            .collect();
        let mut masks: Vec<u32> = keys.values().map(|key| key.mask).collect();
        masks.sort_unstable_by_key(|mask| (mask.count_ones(), *mask));
        masks.dedup();
        if masks.len() > MAX_WILDCARD_MASKS {
            let what = format!("watching {} different sets of wildcard positions", masks.len());
            return Err(limit(what, "use at most 4 in the path patterns of one service"));
        }
        let mut patterns = ServicePatterns { protocol, ..ServicePatterns::default() };
        for (slot, mask) in patterns.masks.iter_mut().zip(masks) {
            *slot = mask;
            patterns.mask_count += 1;
        }

        self.streams.register(service, patterns, &keys);
        let mut rules: HashMap<_, Shared<EndpointKey>, u32> = self.opened(map::ENDPOINTS)?;
        let stale: Vec<EndpointKey> = rules
            .keys()
            .filter_map(|key| key.ok().map(|key| key.0))
            .filter(|key| key.service == service)
            .collect();
        for key in stale {
            let _ = rules.remove(&Shared(key));
        }
        for (index, key) in keys {
            rules
                .insert(Shared(key), u32::from(index), 0)
                .map_err(|error| KernelError::map("storing an endpoint pattern", &error))?;
        }
        let mut services: Array<_, Shared<ServicePatterns>> = self.opened(map::SERVICES)?;
        services
            .set(service, Shared(patterns), 0)
            .map_err(|error| KernelError::map("storing a service's patterns", &error))
    }

    /// Takes a build slot for a (service, build) pair; its counters start at zero. `endpoint_count` includes "other".
    pub fn open_slot(&mut self, service: u32, endpoint_count: u16) -> Result<u16, KernelError> {
        // Slots are given out in turn, so that a request of a closed slot cannot be counted for its successor.
        let slot = (1..SELF_TEST_SLOT)
            .map(|step| (self.last_slot + step - 1) % (SELF_TEST_SLOT - 1) + 1)
            .find(|slot| !self.open.contains_key(slot))
            .ok_or_else(|| {
                limit("watching one more build".into(), "at most 254 builds run at the same time")
            })?;
        self.occupy(slot, service, endpoint_count)?;
        self.last_slot = slot;
        Ok(slot)
    }

    pub(super) fn occupy(&mut self, slot: u16, service: u32, endpoint_count: u16) -> Result<(), KernelError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| KernelError::map("counting the CPUs", &error))?;
        let zeros = PerCpuValues::try_from(vec![Shared(Conservation::default()); cpus])
            .map_err(|error| KernelError::map("clearing a slot's counters", &error))?;
        self.conservation
            .set(u32::from(slot), zeros, 0)
            .map_err(|error| KernelError::map("clearing a slot's counters", &error))?;
        let zeros = PerCpuValues::try_from(vec![Shared(Blind::default()); cpus])
            .map_err(|error| KernelError::map("clearing a slot's counters", &error))?;
        self.blind
            .set(u32::from(slot), zeros, 0)
            .map_err(|error| KernelError::map("clearing a slot's counters", &error))?;
        for key in series_of(slot, endpoint_count) {
            self.series
                .insert(Shared(key), Shared(Series::default()), 0)
                .map_err(|error| KernelError::map("making a series", &error))?;
        }
        // Another build may have other habits.
        let mut habits: Array<_, Shared<Habit>> = self.opened(map::HABITS)?;
        for endpoint in 0..MAX_ENDPOINTS {
            habits
                .set(u32::from(slot) * MAX_ENDPOINTS + endpoint, Shared(Habit::default()), 0)
                .map_err(|error| KernelError::map("clearing a slot's counters", &error))?;
        }
        self.streams.open_slot(slot);
        self.set_build_slot(slot, BuildSlot { service, active: 1 })?;
        self.open.insert(slot, (service, endpoint_count));
        Ok(())
    }

    /// Gives a slot back; no process may be watched under it any more.
    pub fn close_slot(&mut self, slot: u16) -> Result<(), KernelError> {
        let Some((_, endpoint_count)) = self.open.remove(&slot) else { return Ok(()) };
        self.set_build_slot(slot, BuildSlot::default())?;
        for key in series_of(slot, endpoint_count) {
            let _ = self.series.remove(&Shared(key));
            self.accounted.remove(&key);
        }
        Ok(())
    }

    /// Watches a process (all its threads, its later children too) under a slot; also moves it to another slot.
    pub fn watch(&mut self, tgid: u32, slot: u16) {
        self.tgid_slots.set(tgid, slot | runtime::of(tgid));
        let wanted = uprobes_of(&self.open, &self.service_uprobes, slot);
        self.uprobes.watch(&mut self.ebpf, tgid, wanted, crate::clock::mono_ns());
    }

    pub fn unwatch(&mut self, tgid: u32) {
        self.tgid_slots.set(tgid, 0);
        self.uprobes.unwatch(tgid);
    }

    pub(super) fn tick_uprobes(
        &mut self,
        processes: &[ProcessEvent],
        losses: &[u64; Loss::ALL.len()],
        now_mono_ns: u64,
    ) {
        let (slots, open, of_service) = (&self.tgid_slots, &self.open, &self.service_uprobes);
        let wanted_of = |tgid| uprobes_of(open, of_service, slots.get(tgid) & SLOT_MASK);
        self.uprobes.tick(&mut self.ebpf, processes, losses, now_mono_ns, wanted_of);
    }

    /// The slot under which a process is watched, 0 for none. The kernel gives children their parent's.
    pub fn slot_of(&self, tgid: u32) -> u16 {
        self.tgid_slots.get(tgid) & SLOT_MASK
    }

    /// Counts, sums and histograms of every open slot, cumulative.
    pub fn series(&self) -> Result<Vec<(SeriesKey, Box<Series>)>, KernelError> {
        let mut all = Vec::new();
        for (&slot, &(_, endpoint_count)) in &self.open {
            for key in series_of(slot, endpoint_count) {
                if let Some(series) = self.read_series(key)? {
                    all.push((key, series));
                }
            }
        }
        Ok(all)
    }

    pub(super) fn read_series(&self, key: SeriesKey) -> Result<Option<Box<Series>>, KernelError> {
        match self.series.get(&Shared(key), 0) {
            Ok(series) => Ok(Some(Box::new(series.0))),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("reading a series", &error)),
        }
    }

    pub(super) fn read_conservation(&self, slot: u16) -> Result<Conservation, KernelError> {
        let per_cpu = self
            .conservation
            .get(&u32::from(slot), 0)
            .map_err(|error| KernelError::map("reading a slot's counters", &error))?;
        Ok(per_cpu.iter().fold(Conservation::default(), |sum, cpu| Conservation {
            process_ns: sum.process_ns + cpu.0.process_ns,
            attributed_ns: sum.attributed_ns + cpu.0.attributed_ns,
            shared_ns: sum.shared_ns + cpu.0.shared_ns,
            kept_ns: sum.kept_ns.wrapping_add(cpu.0.kept_ns),
            unattributed_ns: sum.unattributed_ns + cpu.0.unattributed_ns,
            started: sum.started + cpu.0.started,
            finished: sum.finished + cpu.0.finished,
        }))
    }

    pub(super) fn read_blind(&self, slot: u16) -> Result<Blind, KernelError> {
        let per_cpu = self
            .blind
            .get(&u32::from(slot), 0)
            .map_err(|error| KernelError::map("reading a slot's counters", &error))?;
        Ok(per_cpu.iter().fold(Blind::default(), |sum, cpu| Blind {
            readable_bytes: sum.readable_bytes + cpu.0.readable_bytes,
            tls_bytes: sum.tls_bytes + cpu.0.tls_bytes,
            http2_bytes: sum.http2_bytes + cpu.0.http2_bytes,
            streams_bytes: sum.streams_bytes + cpu.0.streams_bytes,
            unknown_bytes: sum.unknown_bytes + cpu.0.unknown_bytes,
            io_uring_bytes: sum.io_uring_bytes + cpu.0.io_uring_bytes,
        }))
    }

    fn set_build_slot(&mut self, slot: u16, value: BuildSlot) -> Result<(), KernelError> {
        let mut slots: Array<_, Shared<BuildSlot>> = self.opened(map::BUILD_SLOTS)?;
        slots
            .set(u32::from(slot), Shared(value), 0)
            .map_err(|error| KernelError::map("storing a build slot", &error))
    }

    fn opened<'a, M>(&'a mut self, name: &str) -> Result<M, KernelError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map_mut(name).ok_or_else(|| super::wrong_kind(name))?;
        M::try_from(map).map_err(|error| KernelError::map(&format!("opening the map {name}"), &error))
    }
}

/// Which user probes the processes under a slot get.
fn uprobes_of(open: &BTreeMap<u16, (u32, u16)>, of_service: &BTreeMap<u32, Uprobes>, slot: u16) -> Uprobes {
    match open.get(&slot) {
        Some((service, _)) if slot != SELF_TEST_SLOT => {
            of_service.get(service).copied().unwrap_or(Uprobes::ALL)
        }
        _ => Uprobes::NONE,
    }
}

pub(super) fn series_of(slot: u16, endpoint_count: u16) -> impl Iterator<Item = SeriesKey> {
    (ENDPOINT_OTHER..endpoint_count).flat_map(move |endpoint| {
        (0..STATUS_CLASSES).map(move |status_class| SeriesKey {
            build_slot: slot,
            endpoint,
            status_class,
            _pad: 0,
        })
    })
}
