//! One tick: drain the rings, read the counters, rebuild what the ring dropped, sweep what was abandoned.

use std::collections::BTreeMap;
use std::mem::size_of;

use aya::maps::{MapData, RingBuf};
use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::types::{Loss, OngoingRequest, ProcessEvent, RequestFlags, Sample, SeriesKey};

use super::slots::{SELF_TEST_SLOT, series_of};
use super::tick::{LossCounts, Tick};
use super::{Kernel, KernelError};

/// How often requests that will never end are looked for.
const SWEEP_EVERY_NS: u64 = 5_000_000_000;
/// How long a closed connection's request may still collect time: the handler often does not notice.
const CLOSED_KEPT_NS: u64 = 60_000_000_000;

impl Kernel {
    /// Drains both rings and reads the conservation figures.
    pub fn tick(&mut self, now_mono_ns: u64) -> Result<Tick, KernelError> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut slot_losses = self.slot_losses()?;
        let dropped = total(&slot_losses)[Loss::SampleRingFull as usize] > 0;
        // The series are read before the ring: a sample that is in both is taken from the ring, and what is only
        // in the series was dropped.
        let before = if dropped { self.watched_series()? } else { Vec::new() };
        let samples: Vec<Sample> = drain(&mut self.samples, parse_sample);
        for sample in &samples {
            let key = SeriesKey {
                build_slot: sample.build_slot,
                endpoint: sample.endpoint,
                status_class: if sample.status < 600 { sample.status / 100 } else { 0 },
                _pad: 0,
            };
            self.accounted.entry(key).or_default().add(sample);
        }
        let rebuilt = before
            .into_iter()
            .filter_map(|(key, series)| self.accounted.entry(key).or_default().catch_up(key, &series))
            .collect();
        let streams = self.drain_streams(&mut slot_losses);
        let mut processes = std::mem::take(&mut self.process_news);
        processes.extend(drain(&mut self.processes, parse_process));
        self.tick_uprobes(&processes, &total(&slot_losses), now_mono_ns);
        let cut_off = self.sweep(now_mono_ns);
        for request in &cut_off {
            let of_slot = slot_losses.entry(request.build_slot).or_default();
            of_slot[Loss::Abandoned as usize] += 1;
        }
        let slots: Vec<u16> = self.open.keys().copied().filter(|slot| *slot != SELF_TEST_SLOT).collect();
        let conservation = slots
            .iter()
            .map(|&slot| Ok((slot, self.read_conservation(slot)?)))
            .collect::<Result<_, KernelError>>()?;
        let mut blind = Vec::with_capacity(slots.len());
        for slot in slots {
            let told = self.read_blind(slot)?;
            blind.push((slot, self.divide_streams(slot, told, &streams)));
        }
        Ok(Tick {
            mono_ns: now_mono_ns,
            samples,
            rebuilt,
            cut_off,
            streams,
            processes,
            conservation,
            blind,
            losses: total(&slot_losses),
            slot_losses: slot_losses
                .into_iter()
                .filter(|(_, counts)| counts.iter().any(|n| *n > 0))
                .collect(),
        })
    }

    /// What is new of processes. The next tick has it too.
    pub fn process_news(&mut self) -> &[ProcessEvent] {
        let told = self.process_news.len();
        self.process_news.extend(drain(&mut self.processes, parse_process));
        &self.process_news[told..]
    }

    /// Requests under way, as far as their time was handed to them.
    pub fn ongoing(&self) -> Vec<OngoingRequest> {
        self.ongoing.requests().collect()
    }

    /// Losses since the last call, of the open slots and of slot 0.
    fn slot_losses(&mut self) -> Result<BTreeMap<u16, LossCounts>, KernelError> {
        let slots: Vec<u16> = std::iter::once(0).chain(self.open.keys().copied()).collect();
        let mut since = BTreeMap::new();
        for slot in slots {
            let now = self.read_losses(slot)?;
            let before = self.losses_before.insert(slot, now).unwrap_or_default();
            since.insert(slot, std::array::from_fn(|index| now[index].saturating_sub(before[index])));
        }
        Ok(since)
    }

    fn read_losses(&self, slot: u16) -> Result<LossCounts, KernelError> {
        let per_cpu = self
            .losses
            .get(&u32::from(slot), 0)
            .map_err(|error| KernelError::map("reading the loss counters", &error))?;
        Ok(std::array::from_fn(|index| per_cpu.iter().map(|cpu| cpu.0.0[index]).sum()))
    }

    fn watched_series(&self) -> Result<Vec<(SeriesKey, Box<watchdog_common::types::Series>)>, KernelError> {
        let keys = self.open.iter().flat_map(|(&slot, &(_, count))| series_of(slot, count));
        keys.filter(|key| key.endpoint != ENDPOINT_OTHER)
            .filter_map(|key| match self.read_series(key) {
                Ok(series) => series.map(|series| Ok((key, series))),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    /// Removes requests that can never end: their process is gone, or their connection was closed long ago.
    fn sweep(&mut self, now_mono_ns: u64) -> Vec<OngoingRequest> {
        if now_mono_ns.saturating_sub(self.swept_mono_ns) < SWEEP_EVERY_NS {
            return Vec::new();
        }
        self.swept_mono_ns = now_mono_ns;
        self.sweep_streams(now_mono_ns);
        self.ongoing.end(|request| {
            let closed = request.flags & RequestFlags::CLOSED != 0;
            self.slot_of(request.tgid) == 0
                || closed && now_mono_ns.saturating_sub(request.last_mono_ns) > CLOSED_KEPT_NS
        })
    }
}

/// All slots together.
fn total(slots: &BTreeMap<u16, LossCounts>) -> LossCounts {
    std::array::from_fn(|index| slots.values().map(|counts| counts[index]).sum())
}

fn drain<T>(ring: &mut RingBuf<MapData>, parse: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(item) = ring.next() {
        all.extend(parse(&item));
    }
    all
}

fn parse_sample(bytes: &[u8]) -> Option<Sample> {
    if bytes.len() < size_of::<Sample>() {
        return None;
    }
    // SAFETY: long enough, any bit pattern is a valid Sample, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Sample>().read_unaligned() })
}

fn parse_process(bytes: &[u8]) -> Option<ProcessEvent> {
    if bytes.len() < size_of::<ProcessEvent>() {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { bytes.as_ptr().cast::<ProcessEvent>().read_unaligned() })
}
