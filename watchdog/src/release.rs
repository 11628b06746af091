//! Release windows: when a new build of a service may appear. Pure: the instant is an argument, never a clock.
//!
//! A window is days and times of day in a named time zone. An instant is inside when the clock on the wall there shows a time
//! that is: an hour that a clock change repeats counts both times, and one that it skips is simply not there. A freeze is
//! whole days there, on which no window is open.

#![forbid(unsafe_code)]

use std::fmt;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// [`Hours::next_change`] looks so many days ahead, and again from each end of a freeze: every weekday once, and the same one
/// again.
const DAYS_AHEAD: i32 = 8;

/// One entry of `allow`, such as "Mon-Thu 20:00-23:59".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bit 0 is Monday.
    days: u8,
    /// Minutes of the day, the second one included: until 23:59 is until midnight.
    first_minute: i16,
    last_minute: i16,
}

/// One entry of `freezes`, such as "2026-12-20..2027-01-05": both days are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub first: Date,
    pub last: Date,
}

/// Every window of a service, and when none of them counts.
#[derive(Clone, Debug)]
pub struct Hours {
    windows: Vec<Window>,
    freezes: Vec<Freeze>,
    zone: TimeZone,
}

impl Window {
    /// From one day to the other, both included, and over the end of the week where the second comes first.
    pub fn new(first_day: Weekday, last_day: Weekday, begin: Time, end: Time) -> Self {
        let mut day = first_day;
        let mut days = bit(day);
        while day != last_day {
            day = day.next();
            days |= bit(day);
        }
        Self { days, first_minute: minute(begin), last_minute: minute(end) }
    }

    fn holds(self, day: Weekday, at: Time) -> bool {
        self.days & bit(day) != 0 && (self.first_minute..=self.last_minute).contains(&minute(at))
    }
}

impl Freeze {
    fn holds(self, day: Date) -> bool {
        (self.first..=self.last).contains(&day)
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}..{last}"),
        }
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

fn minute(at: Time) -> i16 {
    i16::from(at.hour()) * 60 + i16::from(at.minute())
}

impl Hours {
    pub fn new(windows: Vec<Window>, zone: TimeZone) -> Self {
        Self { windows, freezes: Vec::new(), zone }
    }

    /// Days on which no window is open.
    #[must_use]
    pub fn with_freezes(mut self, mut freezes: Vec<Freeze>) -> Self {
        freezes.sort_by_key(|freeze| freeze.first);
        self.freezes = freezes;
        self
    }

    /// Whether a new build may appear.
    pub fn is_open(&self, at: Timestamp) -> bool {
        let there = self.zone.to_datetime(at);
        self.freeze_on(there.date()).is_none()
            && self.windows.iter().any(|window| window.holds(there.weekday(), there.time()))
    }

    /// The freeze at an instant; of several, the one that ends last.
    pub fn freeze(&self, at: Timestamp) -> Option<Freeze> {
        self.freeze_on(self.zone.to_datetime(at).date())
    }

    fn freeze_on(&self, day: Date) -> Option<Freeze> {
        self.freezes.iter().filter(|freeze| freeze.holds(day)).max_by_key(|freeze| freeze.last).copied()
    }

    /// When [`Self::is_open`] says something else than at this instant; `None`: not within eight days of it, nor of the
    /// beginning or the end of a freeze.
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        let today = self.zone.to_datetime(at).date();
        // Between two of these days, one week is like the other.
        let mut from: Vec<Date> = self
            .freezes
            .iter()
            .flat_map(|freeze| [Some(freeze.first), freeze.last.tomorrow().ok()])
            .flatten()
            .filter(|day| *day > today)
            .collect();
        from.push(today);
        from.sort_unstable();
        from.into_iter().find_map(|day| self.change_from(day, at))
    }

    /// The next change after `at`, if it is in the days that begin with this one.
    fn change_from(&self, first: Date, at: Timestamp) -> Option<Timestamp> {
        let is_open = self.is_open(at);
        // A change is found by trying every instant at which there could be one.
        let days = (0..=DAYS_AHEAD).filter_map(|days| first.checked_add(Span::new().days(days)).ok());
        let edges = days.flat_map(|day| {
            let midnight = day.to_datetime(Time::midnight());
            std::iter::once(midnight).chain(self.windows.iter().flat_map(move |window| edges(*window, day)))
        });
        // An edge that a clock change repeats is there twice. One that it skips is where the clock jumps.
        let instants = edges.flat_map(|edge| {
            let there = self.zone.to_ambiguous_timestamp(edge);
            [there.earlier().ok(), there.later().ok()]
        });
        let begin =
            self.zone.to_ambiguous_timestamp(first.to_datetime(Time::midnight())).earlier().ok()?.max(at);
        let last = begin.checked_add(Span::new().hours(24 * i64::from(DAYS_AHEAD + 1))).ok()?;
        let jumps = self.zone.following(begin).map(|jump| jump.timestamp()).take_while(|jump| *jump <= last);
        instants.flatten().chain(jumps).filter(|then| *then > at && self.is_open(*then) != is_open).min()
    }

    /// Whether there was an instant at which a new build might appear, both ends included. `until_unix_ms` before the other:
    /// the clock was put back, and only the first one counts.
    pub fn opened_between(&self, since_unix_ms: i64, until_unix_ms: i64) -> bool {
        let instant = |unix_ms| Timestamp::from_millisecond(unix_ms).ok();
        let (Some(since), Some(until)) = (instant(since_unix_ms), instant(until_unix_ms)) else {
            return false;
        };
        self.is_open(since)
            || self.is_open(until)
            || self.next_change(since).is_some_and(|opens| opens <= until)
    }

    /// `None`: inside, or no instant at all.
    pub fn outside(&self, at_unix_ms: i64) -> Option<Outside> {
        let at = Timestamp::from_millisecond(at_unix_ms).ok().filter(|at| !self.is_open(*at))?;
        let opens = self.next_change(at);
        Some(Outside {
            at_unix_ms,
            opens_unix_ms: opens.map(Timestamp::as_millisecond),
            freeze: self.freeze(at).map(|freeze| freeze.to_string()),
            at: self.shown(at),
            opens: opens.map(|opens| self.shown(opens)),
        })
    }

    /// For people, in the window's own time zone.
    fn shown(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%A %Y-%m-%d %H:%M:%S %Z").to_string()
    }
}

/// The civil times at which a window begins and is over on a day.
fn edges(window: Window, day: Date) -> impl Iterator<Item = jiff::civil::DateTime> {
    let minutes = [window.first_minute, window.last_minute + 1];
    let midnight = day.to_datetime(Time::midnight());
    minutes.into_iter().filter_map(move |minute| midnight.checked_add(Span::new().minutes(minute)).ok())
}

/// An instant at which no new build may appear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub at_unix_ms: i64,
    /// When the window opens; `None`: not within eight days.
    pub opens_unix_ms: Option<i64>,
    /// The freeze that it is in.
    pub freeze: Option<String>,
    /// The first two for people, in the window's time zone.
    pub at: String,
    pub opens: Option<String>,
}

#[cfg(test)]
mod tests;
