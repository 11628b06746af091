//! How much of a service's CPU time could be charged to requests, over the last minute.
//!
//! Two things belong to no request and are no blindness: a process that starts (it loads its code), and a process that
//! waits (timers, a supervisor's polling). The first seconds of a process are left out; a millisecond per process and
//! second is allowed for the second.

//!
//! Requests of HTTP/2 are counted and not charged. Where there are any to speak of, the figure says nothing, and there is
//! none: that no request goes unseen is told by what the service receives ([`super::hidden`]).

use std::collections::VecDeque;

use watchdog_common::types::Conservation;

const WINDOW_SECONDS: u64 = 60;
/// A process counts as starting for this long.
pub(super) const STARTING_NS: u64 = 5_000_000_000;
/// 0.1 % of a core: what requests that cost less than this together cannot harm anybody.
const HOUSEKEEPING_NS_PER_SECOND: u64 = 1_000_000;
/// Below this much CPU time in the window nothing can be said.
const LEAST_CPU_NS: u64 = 100_000_000;
/// Without a single request, this much CPU time in the window is more than waiting.
const LEAST_CPU_WITHOUT_REQUESTS_NS: u64 = 1_000_000_000;
/// So many of a hundred requests may be only counted without a word.
const MOST_UNCHARGED_PER_CENT: u64 = 1;

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Seconds of `CLOCK_MONOTONIC`.
    at: u64,
    settled: Figures,
    starting: Figures,
    /// Requests that were counted and not charged.
    uncharged: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    process_ns: u64,
    attributed_ns: u64,
    started: u64,
    housekeeping_ns: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.process_ns += other.process_ns;
        self.attributed_ns += other.attributed_ns;
        self.started += other.started;
        self.housekeeping_ns += other.housekeeping_ns;
    }

    fn ratio(&self) -> Option<f64> {
        let least = if self.started == 0 { LEAST_CPU_WITHOUT_REQUESTS_NS } else { LEAST_CPU_NS };
        if self.process_ns < least {
            return None;
        }
        let unattributed = self.process_ns.saturating_sub(self.attributed_ns);
        let serving = self.process_ns - unattributed.min(self.housekeeping_ns);
        Some((self.attributed_ns as f64 / serving as f64).min(1.0))
    }
}

/// The recent window of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    seconds: VecDeque<Second>,
}

impl Coverage {
    /// What grew since the last tick, `span_ns` ago, over all of the service's slots.
    pub(super) fn add(
        &mut self,
        mono_ns: u64,
        span_ns: u64,
        grown: &Conservation,
        processes: u64,
        starting: bool,
    ) {
        let figures = Figures {
            process_ns: grown.process_ns,
            // What serves the runtime is accounted for, though no single request owns it.
            attributed_ns: grown.attributed_ns + grown.shared_ns,
            started: grown.started,
            housekeeping_ns: span_ns.saturating_mul(processes) / (1_000_000_000 / HOUSEKEEPING_NS_PER_SECOND),
        };
        let second = self.second(mono_ns);
        if starting { &mut second.starting } else { &mut second.settled }.add(&figures);
    }

    /// Requests that are counted and not charged.
    pub(super) fn add_uncharged(&mut self, mono_ns: u64, requests: u64) {
        self.second(mono_ns).uncharged += requests;
    }

    /// Of all requests, whether so many are only counted that the charged ones do not tell.
    pub(super) fn is_uncharged(&self) -> bool {
        let uncharged: u64 = self.seconds.iter().map(|second| second.uncharged).sum();
        let started: u64 =
            self.seconds.iter().map(|second| second.settled.started + second.starting.started).sum();
        100 * uncharged > MOST_UNCHARGED_PER_CENT * (started + uncharged)
    }

    fn second(&mut self, mono_ns: u64) -> &mut Second {
        let at = mono_ns / 1_000_000_000;
        if self.seconds.back().is_none_or(|last| last.at != at) {
            self.seconds.push_back(Second { at, ..Second::default() });
        }
        while self.seconds.front().is_some_and(|first| first.at + WINDOW_SECONDS <= at) {
            self.seconds.pop_front();
        }
        self.seconds.back_mut().expect("one was just put there, and the newest is never too old")
    }

    /// Attributed over total, 0 to 1; `None` while there is too little to judge by, or where it says nothing.
    ///
    /// A service that is always starting (a process per request) is judged by all it did.
    pub(super) fn ratio(&self) -> Option<f64> {
        if self.is_uncharged() {
            return None;
        }
        let (mut settled, mut all) = (Figures::default(), Figures::default());
        for second in &self.seconds {
            settled.add(&second.settled);
            all.add(&second.settled);
            all.add(&second.starting);
        }
        let span = self.seconds.back()?.at - self.seconds.front()?.at;
        let always_starting = span + 1 >= WINDOW_SECONDS && settled.process_ns == 0;
        if always_starting { all.ratio() } else { settled.ratio() }
    }
}

/// The growth between two cumulative readings of a slot.
pub(super) fn growth(before: &Conservation, after: &Conservation) -> Conservation {
    Conservation {
        process_ns: after.process_ns.saturating_sub(before.process_ns),
        attributed_ns: after.attributed_ns.saturating_sub(before.attributed_ns),
        shared_ns: after.shared_ns.saturating_sub(before.shared_ns),
        kept_ns: after.kept_ns.wrapping_sub(before.kept_ns),
        unattributed_ns: after.unattributed_ns.saturating_sub(before.unattributed_ns),
        started: after.started.saturating_sub(before.started),
        finished: after.finished.saturating_sub(before.finished),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn grown(process_ms: u64, attributed_ms: u64, started: u64) -> Conservation {
        Conservation {
            process_ns: process_ms * MS,
            attributed_ns: attributed_ms * MS,
            shared_ns: 0,
            kept_ns: 0,
            unattributed_ns: (process_ms - attributed_ms) * MS,
            started,
            finished: started,
        }
    }

    #[test]
    fn start_up_is_left_out_and_housekeeping_allowed() {
        let mut coverage = Coverage::default();
        coverage.add(S, S, &grown(2000, 0, 0), 4, true);
        assert_eq!(coverage.ratio(), None);
        for second in 2..32 {
            // One login every two seconds, four processes that poll.
            let login = u64::from(second % 2 == 0);
            coverage.add(second * S, S, &grown(login * 10 + 2, login * 10, login), 4, false);
        }
        assert_eq!(coverage.ratio(), Some(1.0));
    }

    #[test]
    fn work_without_requests_is_blindness_and_waiting_is_not() {
        let mut idle = Coverage::default();
        let mut blind = Coverage::default();
        for second in 0..60 {
            idle.add(second * S, S, &grown(5, 0, 0), 8, false);
            blind.add(second * S, S, &grown(400, 0, 0), 8, false);
        }
        assert_eq!(idle.ratio(), None);
        assert_eq!(blind.ratio(), Some(0.0));
    }

    #[test]
    fn where_requests_are_only_counted_it_says_nothing() {
        let mut coverage = Coverage::default();
        for second in 0..60 {
            coverage.add(second * S, S, &grown(400, 200, 10), 0, false);
        }
        coverage.add_uncharged(59 * S, 6);
        assert_eq!((coverage.is_uncharged(), coverage.ratio()), (false, Some(0.5)));
        coverage.add_uncharged(59 * S, 100);
        assert_eq!((coverage.is_uncharged(), coverage.ratio()), (true, None));
    }

    #[test]
    fn half_seen_is_half() {
        let mut coverage = Coverage::default();
        for second in 0..100 {
            coverage.add(second * S, S, &grown(400, 200, 10), 0, false);
        }
        let ratio = coverage.ratio().unwrap();
        assert!((ratio - 0.5).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn a_process_per_request_is_judged_by_all() {
        let mut coverage = Coverage::default();
        for second in 0..59 {
            coverage.add(second * S, S, &grown(400, 100, 10), 0, true);
        }
        assert_eq!(coverage.ratio(), None);
        coverage.add(59 * S, S, &grown(400, 100, 10), 0, true);
        assert!((coverage.ratio().unwrap() - 0.25).abs() < 1e-9);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut coverage = Coverage::default();
        coverage.add(0, S, &grown(10_000, 0, 1), 0, false);
        coverage.add(61 * S, S, &grown(1000, 1000, 1), 0, false);
        assert_eq!(coverage.ratio(), Some(1.0));
    }
}
