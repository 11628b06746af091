//! Counters that outlive a build slot: the kernel's start at zero whenever a slot is taken again.

use std::collections::{BTreeMap, HashMap, VecDeque};

use watchdog_common::types::{Conservation, Series, SeriesKey};

use super::fold::Folded;
use crate::model::{BuildId, EndpointName, ServiceName, StatusClass};

/// Builds per service whose figures are kept after their last process is gone.
pub const GONE_BUILDS_KEPT: usize = 8;

/// Whose figures a build slot holds.
#[derive(Clone, Debug)]
pub struct SlotOwner {
    pub service: ServiceName,
    pub build: BuildId,
    /// By endpoint index; index 0 is "other".
    pub endpoints: Vec<EndpointName>,
}

/// Labels of one exported series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    pub service: ServiceName,
    pub build: BuildId,
    pub endpoint: EndpointName,
    pub status_class: StatusClass,
}

#[derive(Debug, Default)]
struct Counted {
    /// Of slots that are closed.
    closed: Folded,
    /// Of open slots, as last read.
    open: HashMap<u16, Folded>,
}

#[derive(Debug, Default)]
struct ServiceTime {
    closed: Conservation,
    open: HashMap<u16, Conservation>,
    /// Builds without an open slot, the longest gone first.
    gone: VecDeque<BuildId>,
}

/// Totals per (service, build, endpoint, status class) and per service that never go backwards.
#[derive(Debug, Default)]
pub struct Totals {
    slots: HashMap<u16, SlotOwner>,
    requests: BTreeMap<RequestKey, Counted>,
    services: BTreeMap<ServiceName, ServiceTime>,
}

impl Totals {
    /// A slot was taken; its kernel counters start at zero.
    pub fn open_slot(&mut self, slot: u16, owner: SlotOwner) {
        let service = self.services.entry(owner.service.clone()).or_default();
        service.gone.retain(|build| *build != owner.build);
        service.open.insert(slot, Conservation::default());
        self.slots.insert(slot, owner);
    }

    /// Latest cumulative figures of the open slots. Keys of unknown slots or endpoints are left out.
    pub fn observe_series(&mut self, series: &[(SeriesKey, Box<Series>)]) {
        for (key, counts) in series {
            let Some(owner) = self.slots.get(&key.build_slot) else { continue };
            let Some(endpoint) = owner.endpoints.get(usize::from(key.endpoint)) else { continue };
            let labels = RequestKey {
                service: owner.service.clone(),
                build: owner.build.clone(),
                endpoint: endpoint.clone(),
                status_class: StatusClass::of_index(key.status_class),
            };
            let counted = self.requests.entry(labels).or_default();
            counted.open.entry(key.build_slot).or_default().rise_to(&Folded::of(counts));
        }
    }

    /// Latest conservation figures of a slot, since it was taken.
    pub fn observe_conservation(&mut self, slot: u16, figures: &Conservation) {
        let Some(owner) = self.slots.get(&slot) else { return };
        let service = self.services.entry(owner.service.clone()).or_default();
        service.open.insert(slot, *figures);
    }

    /// A slot was given back: what was last observed of it is kept in the totals.
    pub fn close_slot(&mut self, slot: u16) {
        let Some(owner) = self.slots.remove(&slot) else { return };
        for counted in self.requests.values_mut() {
            if let Some(figures) = counted.open.remove(&slot) {
                counted.closed.add(&figures);
            }
        }
        let still_open = self.slots.values().any(|o| o.service == owner.service && o.build == owner.build);
        let service = self.services.entry(owner.service.clone()).or_default();
        if let Some(figures) = service.open.remove(&slot) {
            add(&mut service.closed, &figures);
        }
        if still_open {
            return;
        }
        service.gone.push_back(owner.build);
        if service.gone.len() > GONE_BUILDS_KEPT
            && let Some(dropped) = service.gone.pop_front()
        {
            self.requests.retain(|key, _| key.service != owner.service || key.build != dropped);
        }
    }

    /// Every exported series with its total.
    pub fn requests(&self) -> impl Iterator<Item = (&RequestKey, Folded)> {
        self.requests.iter().map(|(key, counted)| {
            let mut total = counted.closed;
            for figures in counted.open.values() {
                total.add(figures);
            }
            (key, total)
        })
    }

    /// Every service with its conservation total.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, Conservation)> {
        self.services.iter().map(|(name, time)| {
            let mut total = time.closed;
            for figures in time.open.values() {
                add(&mut total, figures);
            }
            (name, total)
        })
    }
}

fn add(total: &mut Conservation, part: &Conservation) {
    total.process_ns += part.process_ns;
    total.attributed_ns += part.attributed_ns;
    total.shared_ns += part.shared_ns;
    total.unattributed_ns += part.unattributed_ns;
    total.started += part.started;
    total.finished += part.finished;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(build: &str) -> SlotOwner {
        SlotOwner {
            service: "web".into(),
            build: build.into(),
            endpoints: vec![EndpointName::other(), "login".into()],
        }
    }

    fn series(slot: u16, count: u64) -> (SeriesKey, Box<Series>) {
        let key = SeriesKey { build_slot: slot, endpoint: 1, status_class: 2, _pad: 0 };
        let mut series = Series { count, oncpu_sum_ns: count * 3_000_000, ..Series::default() };
        series.buckets[watchdog_common::histogram::bucket_of(3_000_000)] = count;
        (key, Box::new(series))
    }

    fn count_of(totals: &Totals, build: &str) -> Option<u64> {
        totals.requests().find(|(key, _)| key.build.as_str() == build).map(|(_, folded)| folded.count)
    }

    #[test]
    fn a_slot_that_is_taken_again_adds_to_the_build_s_total() {
        let mut totals = Totals::default();
        totals.open_slot(1, owner("a"));
        totals.observe_series(&[series(1, 5)]);
        totals.observe_conservation(1, &Conservation { process_ns: 10, started: 5, ..Default::default() });
        totals.close_slot(1);
        assert_eq!(count_of(&totals, "a"), Some(5));
        totals.open_slot(1, owner("b"));
        totals.observe_series(&[series(1, 2)]);
        totals.open_slot(2, owner("a"));
        totals.observe_series(&[series(2, 3)]);
        totals.observe_conservation(2, &Conservation { process_ns: 7, started: 3, ..Default::default() });
        assert_eq!((count_of(&totals, "a"), count_of(&totals, "b")), (Some(8), Some(2)));
        let (_, time) = totals.services().next().unwrap();
        assert_eq!((time.process_ns, time.started), (17, 8));
    }

    #[test]
    fn a_stale_reading_never_lowers_a_counter() {
        let mut totals = Totals::default();
        totals.open_slot(1, owner("a"));
        totals.observe_series(&[series(1, 5)]);
        totals.observe_series(&[series(1, 4)]);
        assert_eq!(count_of(&totals, "a"), Some(5));
    }

    #[test]
    fn figures_of_gone_builds_are_bounded_and_the_oldest_goes_first() {
        let mut totals = Totals::default();
        for n in 0..GONE_BUILDS_KEPT + 3 {
            totals.open_slot(1, owner(&format!("build-{n}")));
            totals.observe_series(&[series(1, 1)]);
            totals.close_slot(1);
        }
        assert_eq!(totals.requests().count(), GONE_BUILDS_KEPT);
        assert_eq!(count_of(&totals, "build-2"), None);
        assert_eq!(count_of(&totals, "build-3"), Some(1));
    }

    #[test]
    fn a_build_that_comes_back_is_not_dropped() {
        let mut totals = Totals::default();
        totals.open_slot(1, owner("a"));
        totals.observe_series(&[series(1, 1)]);
        totals.close_slot(1);
        totals.open_slot(1, owner("a"));
        for n in 0..=GONE_BUILDS_KEPT {
            totals.open_slot(2, owner(&format!("build-{n}")));
            totals.observe_series(&[series(2, 1)]);
            totals.close_slot(2);
        }
        assert_eq!(count_of(&totals, "a"), Some(1));
    }
}
