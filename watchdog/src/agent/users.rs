//! How many requests a service had of late on its endpoints, whichever build answered: whether anybody is there.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

const SECOND_NS: u64 = 1_000_000_000;
/// As long as `users_within` may be.
const KEPT_SECONDS: u64 = 3600;

/// Requests by the second, of the last hour.
#[derive(Debug)]
pub(super) struct Users {
    since_mono_ns: u64,
    /// The second, `CLOCK_MONOTONIC`, and the requests that ended in it, ascending.
    seconds: VecDeque<(u64, u64)>,
}

/// What was seen before a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Seen {
    pub(super) requests: u64,
    /// The span that was asked for.
    pub(super) within_seconds: f64,
    /// As much of it as this agent watched.
    pub(super) watched_seconds: f64,
}

impl Users {
    pub(super) fn since(mono_ns: u64) -> Self {
        Self { since_mono_ns: mono_ns, seconds: VecDeque::new() }
    }

    pub(super) fn count(&mut self, end_mono_ns: u64, requests: u64) {
        let second = end_mono_ns / SECOND_NS;
        match self.seconds.back_mut() {
            // What comes a little late counts for the newest second.
            Some((newest, count)) if *newest >= second => *count = count.saturating_add(requests),
            _ => self.seconds.push_back((second, requests)),
        }
        while self.seconds.front().is_some_and(|(oldest, _)| *oldest + KEPT_SECONDS < second) {
            self.seconds.pop_front();
        }
    }

    /// Whole seconds count, so the span may be longer by one.
    pub(super) fn seen(&self, now_mono_ns: u64, within: Duration) -> Seen {
        let span_ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        let from = now_mono_ns.saturating_sub(span_ns) / SECOND_NS;
        let counts = self.seconds.iter().rev().take_while(|(second, _)| *second >= from);
        let watched = Duration::from_nanos(now_mono_ns.saturating_sub(self.since_mono_ns)).min(within);
        Seen {
            requests: counts.map(|(_, count)| count).sum(),
            within_seconds: within.as_secs_f64(),
            watched_seconds: watched.as_secs_f64(),
        }
    }
}

impl Seen {
    /// For people, such as "no request on its endpoints in the 5m before".
    pub(super) fn sentence(&self) -> String {
        let whole = |seconds: f64| crate::control::span(Duration::from_secs_f64(seconds));
        let requests = match self.requests {
            0 => "no request".to_owned(),
            1 => "1 request".to_owned(),
            requests => format!("{requests} requests"),
        };
        let before = if self.watched_seconds < self.within_seconds {
            let (watched, within) = (whole(self.watched_seconds), whole(self.within_seconds));
            format!("in the {watched} of the {within} before that this agent watched")
        } else {
            format!("in the {} before", whole(self.within_seconds))
        };
        format!("{requests} on its endpoints {before}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_for_as_long_as_is_asked() {
        let at = |seconds: u64| seconds * SECOND_NS;
        let mut users = Users::since(at(1000));
        let within = Duration::from_mins(5);
        let seen = users.seen(at(1042), within);
        assert_eq!(
            seen.sentence(),
            "no request on its endpoints in the 42s of the 5m before that this agent watched"
        );
        for second in [1100, 1100, 1099, 1200, 4000] {
            users.count(at(second) + 7, 3);
        }
        assert_eq!(
            users.seen(at(4000), Duration::from_secs(1)).sentence(),
            "3 requests on its endpoints in the 1s before"
        );
        assert_eq!(users.seen(at(4299), within).requests, 3);
        assert_eq!(users.seen(at(4301), within).sentence(), "no request on its endpoints in the 5m before");
        let hour = Duration::from_hours(1);
        assert_eq!(users.seen(at(4500), hour).requests, 15);
        assert_eq!(users.seen(at(4750), hour).requests, 6);
        users.count(at(9000), 1);
        assert_eq!(users.seconds.len(), 1, "what nobody can ask for is dropped");
    }
}
