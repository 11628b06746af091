//! Processes that have just begun: what their first requests may cost more.

use std::collections::HashMap;

/// For runtimes that compile, load or fill caches at the first requests, where the configuration says nothing else.
pub const COLD_FACTOR: f64 = 4.0;
/// A process is warm when it is this old ...
const WARM_AFTER_NS: u64 = 30_000_000_000;
/// ... and has served so many requests of the endpoint.
const WARM_AFTER_REQUESTS: u64 = 5;

/// The processes that warm up, by thread-group id. Pure: time arrives as an argument.
#[derive(Debug, Default)]
pub struct Warmup {
    processes: HashMap<u32, Starting>,
}

#[derive(Debug)]
struct Starting {
    /// `CLOCK_MONOTONIC`, when it began to run the build.
    began_mono_ns: u64,
    factor: f64,
    /// Requests by endpoint, as far as they matter.
    served: Vec<u64>,
}

impl Warmup {
    /// A process runs a build since then. What an earlier process of this id did is forgotten.
    pub fn began(&mut self, tgid: u32, began_mono_ns: u64, factor: f64) {
        self.processes.insert(tgid, Starting { began_mono_ns, factor, served: Vec::new() });
    }

    /// A copy of another process: it runs the same program, and is cold by itself.
    pub fn forked(&mut self, tgid: u32, parent: u32, now_mono_ns: u64) {
        if let Some(factor) = self.processes.get(&parent).map(|parent| parent.factor) {
            self.began(tgid, now_mono_ns, factor);
        }
    }

    /// It ended, or runs another program, or belongs to no service any more.
    pub fn ended(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
    }

    pub fn knows(&self, tgid: u32) -> bool {
        self.processes.contains_key(&tgid)
    }

    /// What the budgets of a request are multiplied with, 1 or more; known before the request has ended.
    ///
    /// A process that is not known yet has forked a moment ago and counts as the coldest of its `siblings`.
    pub fn factor(
        &self,
        tgid: u32,
        endpoint: u16,
        request_began_mono_ns: u64,
        siblings: impl IntoIterator<Item = u32>,
    ) -> f64 {
        match self.processes.get(&tgid) {
            Some(process) => process.factor_at(endpoint, request_began_mono_ns),
            None => self.coldest(siblings),
        }
    }

    /// The same for requests whose process is not known: as if the coldest of these had served them.
    pub fn factor_of_any(
        &self,
        endpoint: u16,
        at_mono_ns: u64,
        processes: impl IntoIterator<Item = u32>,
    ) -> f64 {
        let known = processes.into_iter().filter_map(|tgid| self.processes.get(&tgid));
        known.map(|process| process.factor_at(endpoint, at_mono_ns)).fold(1.0, f64::max)
    }

    /// Requests that the process has answered; they count from the next one on.
    pub fn served(&mut self, tgid: u32, endpoint: u16, count: u64) {
        let Some(process) = self.processes.get_mut(&tgid) else { return };
        // A process that has nothing to warm up needs no count.
        if process.factor <= 1.0 {
            return;
        }
        let place = usize::from(endpoint);
        if process.served.len() <= place {
            process.served.resize(place + 1, 0);
        }
        process.served[place] = process.served[place].saturating_add(count);
    }

    /// How many of these processes are younger than the warm-up lasts, and the largest of their factors.
    pub fn warming(&self, now_mono_ns: u64, processes: impl IntoIterator<Item = u32>) -> (u64, f64) {
        let young = processes
            .into_iter()
            .filter_map(|tgid| self.processes.get(&tgid))
            .filter(|process| process.factor > 1.0 && process.is_young(now_mono_ns));
        young.fold((0, 1.0), |(count, factor), process| (count + 1, factor.max(process.factor)))
    }

    fn coldest(&self, processes: impl IntoIterator<Item = u32>) -> f64 {
        let known = processes.into_iter().filter_map(|tgid| self.processes.get(&tgid));
        known.map(|process| process.factor).fold(1.0, f64::max)
    }
}

impl Starting {
    fn is_young(&self, at_mono_ns: u64) -> bool {
        at_mono_ns.saturating_sub(self.began_mono_ns) < WARM_AFTER_NS
    }

    fn factor_at(&self, endpoint: u16, at_mono_ns: u64) -> f64 {
        let served = self.served.get(usize::from(endpoint)).copied().unwrap_or(0);
        if self.is_young(at_mono_ns) || served < WARM_AFTER_REQUESTS { self.factor } else { 1.0 }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "factors are handed through unchanged")]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_process_is_warm_when_it_is_old_enough_and_has_served_enough_of_the_endpoint() {
        let mut warmup = Warmup::default();
        warmup.began(7, 100 * S, 4.0);
        let at = |warmup: &Warmup, endpoint, second| warmup.factor(7, endpoint, second * S, []);
        warmup.served(7, 1, 5);
        assert_eq!(at(&warmup, 1, 129), 4.0, "not old enough");
        assert_eq!(at(&warmup, 1, 130), 1.0);
        assert_eq!(at(&warmup, 2, 130), 4.0, "another endpoint was never asked for");
        warmup.served(7, 2, 4);
        assert_eq!(at(&warmup, 2, 4000), 4.0);
        warmup.served(7, 2, 1);
        assert_eq!(at(&warmup, 2, 4000), 1.0);
        // The id comes again, for another process.
        warmup.ended(7);
        warmup.began(7, 5000 * S, 4.0);
        assert_eq!(at(&warmup, 1, 5001), 4.0);
    }

    #[test]
    fn children_are_cold_by_themselves_and_unknown_ones_as_cold_as_their_siblings() {
        let mut warmup = Warmup::default();
        warmup.began(1, 0, 4.0);
        warmup.served(1, 1, 100);
        warmup.forked(2, 1, 60 * S);
        assert_eq!(warmup.factor(1, 1, 60 * S, []), 1.0);
        assert_eq!(warmup.factor(2, 1, 61 * S, []), 4.0);
        assert_eq!(warmup.factor(3, 1, 61 * S, [1, 2]), 4.0);
        assert_eq!(warmup.factor(3, 1, 61 * S, []), 1.0);
        assert_eq!(warmup.factor_of_any(1, 60 * S, [1]), 1.0);
        assert_eq!(warmup.factor_of_any(1, 60 * S, [1, 2]), 4.0);
        assert_eq!(warmup.warming(61 * S, [1, 2, 9]), (1, 4.0));
    }

    #[test]
    fn what_was_compiled_ahead_of_time_is_warm_at_once() {
        let mut warmup = Warmup::default();
        warmup.began(1, 0, 1.0);
        assert_eq!(warmup.factor(1, 1, 1, []), 1.0);
        assert_eq!(warmup.warming(S, [1]), (0, 1.0));
        assert!(warmup.knows(1) && !warmup.knows(2));
    }
}
