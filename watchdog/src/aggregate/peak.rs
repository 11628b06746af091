//! The highest rate of an endpoint that lasted: what `peak_rate = "auto"` is.
//!
//! Sustained means over [`WINDOW_MINUTES`] whole minutes in a row: a burst of a few seconds is queued and served, and five
//! minutes over what the host can do are an outage. Minutes are the monotonic clock's. The wall clock only dates what was
//! found, for people: setting it changes no rate and no length of the history.

use std::collections::VecDeque;

/// Length of the window whose mean counts.
pub const WINDOW_MINUTES: usize = 5;
/// History below which a peak is not known: a day, so that it has a morning.
pub const NEEDED_SECONDS: u64 = 24 * 3600;
const MINUTE_NS: u64 = 60_000_000_000;

/// Learns the rate of one endpoint of a service, all its builds together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeakRate {
    /// When learning began, for people; `None` before the first minute.
    pub since_unix_ms: Option<i64>,
    /// Time that was watched, all agents together.
    pub watched_seconds: u64,
    /// Requests per second, and when the window ended.
    pub highest: Option<(f64, i64)>,
    window: VecDeque<u64>,
    count: u64,
    minute_began_mono_ns: Option<u64>,
}

impl PeakRate {
    /// Goes on from what was stored. Windows do not reach over a time that nobody watched.
    pub fn resume(since_unix_ms: i64, watched_seconds: u64, highest: Option<(f64, i64)>) -> Self {
        Self { since_unix_ms: Some(since_unix_ms), watched_seconds, highest, ..Self::default() }
    }

    pub fn count(&mut self, requests: u64) {
        self.count += requests;
    }

    /// Call it several times a minute. `serving`: the service has processes; without any, nothing is learned. Whether a
    /// minute ended, and there is something to store.
    pub fn advance(&mut self, serving: bool, now_mono_ns: u64, now_unix_ms: i64) -> bool {
        let began = match self.minute_began_mono_ns {
            Some(began_mono_ns) if serving => began_mono_ns,
            _ => {
                self.minute_began_mono_ns = serving.then_some(now_mono_ns);
                self.window.clear();
                self.count = 0;
                return false;
            }
        };
        let elapsed_ns = now_mono_ns.saturating_sub(began);
        if elapsed_ns < MINUTE_NS {
            return false;
        }
        let count = std::mem::take(&mut self.count);
        if elapsed_ns >= 2 * MINUTE_NS {
            // Nobody looked for long: which minute the requests were of cannot be told.
            self.minute_began_mono_ns = Some(now_mono_ns);
            self.window.clear();
            return false;
        }
        self.minute_began_mono_ns = Some(began + MINUTE_NS);
        self.since_unix_ms.get_or_insert(now_unix_ms);
        self.watched_seconds += 60;
        self.window.push_back(count);
        if self.window.len() > WINDOW_MINUTES {
            self.window.pop_front();
        }
        if self.window.len() == WINDOW_MINUTES {
            let per_second = self.window.iter().sum::<u64>() as f64 / (60 * WINDOW_MINUTES) as f64;
            if per_second > 0.0 && self.highest.is_none_or(|(highest, _)| per_second > highest) {
                self.highest = Some((per_second, now_unix_ms));
            }
        }
        true
    }

    /// Requests per second, once the history is long enough to have a peak in it.
    pub fn known(&self) -> Option<f64> {
        let (per_second, _) = self.highest?;
        (self.watched_seconds >= NEEDED_SECONDS).then_some(per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// Seconds with so many requests each; the wall clock shows what `wall` says.
    fn run(peak: &mut PeakRate, from: u64, seconds: u64, each: u64, wall: impl Fn(u64) -> i64) -> usize {
        (from..from + seconds)
            .filter(|second| {
                peak.count(each);
                peak.advance(true, (second + 1) * SECOND_NS, wall(second + 1))
            })
            .count()
    }

    fn same(second: u64) -> i64 {
        i64::try_from(second).unwrap() * 1000
    }

    #[test]
    fn five_minutes_in_a_row_count_and_a_burst_does_not() {
        let mut peak = PeakRate::default();
        peak.advance(true, 0, 0);
        assert_eq!(run(&mut peak, 0, 299, 10, same), 4);
        assert_eq!(peak.highest, None);
        run(&mut peak, 299, 1, 10, same);
        assert_eq!(peak.highest, Some((10.0, 300_000)));
        // 30 s of 100 a second are 19 a second over five minutes.
        run(&mut peak, 300, 30, 100, same);
        run(&mut peak, 330, 270, 10, same);
        assert_eq!(peak.highest, Some((19.0, 360_000)));
        // A quieter time takes nothing back.
        run(&mut peak, 600, 3600, 1, same);
        assert_eq!((peak.highest, peak.watched_seconds), (Some((19.0, 360_000)), 4200));
        assert_eq!(peak.known(), None);
        run(&mut peak, 4200, NEEDED_SECONDS - 4200, 1, same);
        assert_eq!(peak.known(), Some(19.0));
    }

    #[test]
    fn a_wall_clock_that_jumps_changes_dates_only() {
        let learn = |wall: &dyn Fn(u64) -> i64| {
            let mut peak = PeakRate::default();
            peak.advance(true, 0, wall(0));
            run(&mut peak, 0, 900, 7, wall);
            (peak.highest.map(|(rate, _)| rate), peak.watched_seconds)
        };
        let day_ms = 86_400_000;
        for step_ms in [-day_ms, 0, day_ms, 3650 * day_ms] {
            assert_eq!(
                learn(&|second| same(second) + if second > 400 { step_ms } else { 0 }),
                (Some(7.0), 900)
            );
        }
    }

    #[test]
    fn time_that_nobody_watched_is_in_no_window() {
        let mut peak = PeakRate::default();
        peak.advance(true, 0, 0);
        run(&mut peak, 0, 240, 50, same);
        // The service was down, or the loop stood still, and everything that waited came at once.
        peak.advance(false, 300 * SECOND_NS, 0);
        peak.count(100_000);
        peak.advance(true, 301 * SECOND_NS, 0);
        run(&mut peak, 301, 299, 3, same);
        assert_eq!(peak.highest, None);
        run(&mut peak, 600, 1, 3, same);
        assert_eq!(peak.highest, Some((3.0, 601_000)));
        peak.count(100_000);
        peak.advance(true, 900 * SECOND_NS, 0);
        run(&mut peak, 900, 300, 4, same);
        assert_eq!(peak.highest.map(|(rate, _)| rate), Some(4.0));

        // After a restart the history goes on, the window begins anew.
        let (since, watched) = (peak.since_unix_ms.unwrap(), peak.watched_seconds);
        let mut next = PeakRate::resume(since, watched, peak.highest);
        next.advance(true, 5 * SECOND_NS, 0);
        assert_eq!(run(&mut next, 5, 240, 90, same), 4);
        assert_eq!((next.highest, next.watched_seconds), (peak.highest, watched + 240));
    }
}
