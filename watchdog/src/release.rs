//! Release windows: when a new build of a service may appear. Pure: the instant is an argument, never a clock.
//!
//! A window is days and times of day in a named time zone. An instant is inside when the clock on the wall there shows a time
//! that is: an hour that a clock change repeats counts both times, and one that it skips is simply not there.

#![forbid(unsafe_code)]

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// [`Hours::next_change`] looks so many days ahead: every weekday once, and the same one again.
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

/// Every window of a service.
#[derive(Clone, Debug)]
pub struct Hours {
    windows: Vec<Window>,
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

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

fn minute(at: Time) -> i16 {
    i16::from(at.hour()) * 60 + i16::from(at.minute())
}

impl Hours {
    pub fn new(windows: Vec<Window>, zone: TimeZone) -> Self {
        Self { windows, zone }
    }

    /// Whether a new build may appear.
    pub fn is_open(&self, at: Timestamp) -> bool {
        let there = self.zone.to_datetime(at);
        self.windows.iter().any(|window| window.holds(there.weekday(), there.time()))
    }

    /// When [`Self::is_open`] says something else than at this instant; `None`: not within eight days.
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        let is_open = self.is_open(at);
        let today = self.zone.to_datetime(at).date();
        // A change is found by trying every instant at which there could be one.
        let days = (0..=DAYS_AHEAD).filter_map(|days| today.checked_add(Span::new().days(days)).ok());
        let edges = days.flat_map(|day| self.windows.iter().flat_map(move |window| edges(*window, day)));
        // An edge that a clock change repeats is there twice. One that it skips is where the clock jumps.
        let instants = edges.flat_map(|edge| {
            let there = self.zone.to_ambiguous_timestamp(edge);
            [there.earlier().ok(), there.later().ok()]
        });
        let last = at.checked_add(Span::new().hours(24 * i64::from(DAYS_AHEAD + 1))).ok()?;
        let jumps = self.zone.following(at).map(|jump| jump.timestamp()).take_while(|jump| *jump <= last);
        instants.flatten().chain(jumps).filter(|then| *then > at && self.is_open(*then) != is_open).min()
    }

    /// `None`: inside, or no instant at all.
    pub fn outside(&self, at_unix_ms: i64) -> Option<Outside> {
        let at = Timestamp::from_millisecond(at_unix_ms).ok().filter(|at| !self.is_open(*at))?;
        let opens = self.next_change(at);
        Some(Outside {
            at_unix_ms,
            opens_unix_ms: opens.map(Timestamp::as_millisecond),
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
    /// The same two for people, in the window's time zone.
    pub at: String,
    pub opens: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::time;

    const ALL_DAY: (&str, &str) = ("00:00", "23:59");

    fn day(name: &str) -> Weekday {
        let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let index = names.iter().position(|known| *known == name).unwrap();
        Weekday::from_monday_zero_offset(i8::try_from(index).unwrap()).unwrap()
    }

    fn hours(zone: &str, windows: &[(&str, &str, (&str, &str))]) -> Hours {
        let time = |text: &str| Time::strptime("%H:%M", text).unwrap();
        let windows = windows
            .iter()
            .map(|(first, last, (begin, end))| Window::new(day(first), day(last), time(begin), time(end)));
        Hours::new(windows.collect(), TimeZone::get(zone).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Instants in UTC, each with whether the window is open then.
    fn check(hours: &Hours, instants: &[(&str, bool)]) {
        for (text, expected) in instants {
            assert_eq!(hours.is_open(at(text)), *expected, "{text}");
        }
    }

    #[test]
    fn days_and_times_are_those_of_the_named_zone() {
        // The example of the documentation; Melbourne has UTC+11 in its summer.
        let melbourne =
            hours("Australia/Melbourne", &[("Mon", "Thu", ("20:00", "23:59")), ("Sun", "Sun", ALL_DAY)]);
        check(
            &melbourne,
            &[
                // Friday 27 January 2017, 9 in the morning; and 4.
                ("2017-01-26T22:00:00Z", false),
                ("2017-01-26T17:00:00Z", false),
                // Thursday 19:59:59 and 20:00, its last minute, and the first of Friday.
                ("2017-01-26T08:59:59.999Z", false),
                ("2017-01-26T09:00:00Z", true),
                ("2017-01-26T12:59:59.999Z", true),
                ("2017-01-26T13:00:00Z", false),
                // Sunday begins while UTC still has Saturday, and ends with its last minute.
                ("2017-01-28T12:59:59Z", false),
                ("2017-01-28T13:00:00Z", true),
                ("2017-01-29T12:59:59Z", true),
                ("2017-01-29T13:00:00Z", false),
            ],
        );
    }

    #[test]
    fn days_go_over_the_end_of_the_week() {
        let weekend = hours("UTC", &[("Fri", "Mon", ("06:00", "06:00"))]);
        let open: Vec<bool> =
            (20..27).map(|day| weekend.is_open(at(&format!("2027-09-{day}T06:00:30Z")))).collect();
        // 20 September 2027 is a Monday.
        assert_eq!(open, [true, false, false, false, true, true, true]);
        let always = hours("UTC", &[("Mon", "Sun", ALL_DAY)]);
        assert_eq!(always.next_change(at("2027-09-20T06:00:00Z")), None);
        assert_eq!(hours("UTC", &[]).next_change(at("2027-09-20T06:00:00Z")), None);
    }

    #[test]
    fn an_hour_that_is_skipped_is_not_there_and_one_that_is_repeated_counts_twice() {
        // Vienna: 02:00 becomes 03:00 on 28 March 2027 (at 01:00 UTC), 03:00 becomes 02:00 on 25 October 2026 (the same).
        let vienna = hours("Europe/Vienna", &[("Sun", "Sun", ("02:15", "02:44"))]);
        check(
            &vienna,
            &[
                ("2027-03-28T00:30:00Z", false),
                ("2027-03-28T00:59:59Z", false),
                ("2027-03-28T01:00:00Z", false),
                ("2027-03-28T01:30:00Z", false),
                ("2027-04-04T00:30:00Z", true),
                ("2026-10-25T00:14:59Z", false),
                ("2026-10-25T00:15:00Z", true),
                ("2026-10-25T00:44:59Z", true),
                ("2026-10-25T00:45:00Z", false),
                ("2026-10-25T01:15:00Z", true),
                ("2026-10-25T01:44:59Z", true),
                ("2026-10-25T01:45:00Z", false),
            ],
        );
        // A whole night has an hour less, and one more.
        let night = hours("Europe/Vienna", &[("Sun", "Sun", ("00:00", "05:59"))]);
        let length = |from: &str| {
            let opens = night.next_change(at(from)).unwrap();
            night.next_change(opens).unwrap().duration_since(opens).as_hours()
        };
        assert_eq!(length("2027-03-27T12:00:00Z"), 5);
        assert_eq!(length("2026-10-24T12:00:00Z"), 7);
        assert_eq!(length("2026-11-21T12:00:00Z"), 6);
    }

    #[test]
    fn clock_changes_elsewhere() {
        // The southern summer begins on 4 October 2026 at 02:00 (16:00 UTC of the day before).
        let melbourne = hours("Australia/Melbourne", &[("Sun", "Sun", ("01:00", "03:29"))]);
        check(
            &melbourne,
            &[
                ("2026-10-03T14:59:59Z", false),
                ("2026-10-03T15:00:00Z", true),
                ("2026-10-03T15:59:59Z", true),
                ("2026-10-03T16:29:59Z", true),
                ("2026-10-03T16:30:00Z", false),
            ],
        );
        // Lord Howe Island changes by half an hour.
        let lord_howe = hours("Australia/Lord_Howe", &[("Sun", "Sun", ("02:00", "02:29"))]);
        check(&lord_howe, &[("2026-10-03T15:29:59Z", false), ("2026-10-03T15:30:00Z", false)]);
        // In Havana the first hour of 8 March 2026 is skipped, and so is midnight.
        let havana = hours("America/Havana", &[("Sun", "Sun", ("00:00", "00:29"))]);
        check(&havana, &[("2026-03-08T04:59:59Z", false), ("2026-03-08T05:00:00Z", false)]);
        assert_eq!(havana.next_change(at("2026-03-07T12:00:00Z")), Some(at("2026-03-15T04:00:00Z")));
        // Samoa had no Friday 30 December 2011.
        let apia = hours("Pacific/Apia", &[("Fri", "Fri", ALL_DAY)]);
        check(&apia, &[("2011-12-30T09:59:59Z", false), ("2011-12-30T10:00:00Z", false)]);
        assert_eq!(apia.next_change(at("2011-12-29T20:00:00Z")), Some(at("2012-01-05T10:00:00Z")));
    }

    #[test]
    fn the_next_change_is_the_first_instant_that_differs() {
        let vienna = hours(
            "Europe/Vienna",
            &[
                ("Mon", "Thu", ("20:00", "23:59")),
                ("Tue", "Fri", ("00:00", "01:59")),
                ("Sun", "Sun", ("02:30", "04:00")),
            ],
        );
        let cases = [
            // Monday noon: opens in the evening; in the evening: closes at 02:00, as midnight only joins two windows.
            ("2026-11-23T11:00:00Z", "2026-11-23T19:00:00Z"),
            ("2026-11-23T19:00:00Z", "2026-11-24T01:00:00Z"),
            // Friday: the next one is Sunday.
            ("2026-11-27T12:00:00Z", "2026-11-29T01:30:00Z"),
            // The clock jumps from 02:00 into the middle of the window.
            ("2027-03-27T12:00:00Z", "2027-03-28T01:00:00Z"),
            // It goes back from 03:00 to before the window, and out of it.
            ("2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"),
            ("2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
            ("2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"),
            ("2026-10-25T01:30:00Z", "2026-10-25T03:01:00Z"),
        ];
        for (from, expected) in cases {
            assert_eq!(vienna.next_change(at(from)), Some(at(expected)), "{from}");
        }
    }

    #[test]
    fn next_changes_agree_with_a_walk_minute_by_minute() {
        let zones = ["Europe/Vienna", "America/Havana", "Australia/Lord_Howe", "UTC"];
        let windows = [
            ("Sat", "Mon", ("23:10", "23:59")),
            ("Sun", "Sun", ("00:00", "02:20")),
            ("Sun", "Sun", ("02:40", "02:50")),
        ];
        for zone in zones {
            let hours = hours(zone, &windows);
            for begin in [
                "2026-10-03T00:00:00Z",
                "2026-10-24T00:00:00Z",
                "2027-03-13T00:00:00Z",
                "2027-03-27T00:00:00Z",
            ] {
                let begin = at(begin);
                let mut expected = hours.next_change(begin).unwrap();
                let mut open = hours.is_open(begin);
                for minute in 1..=60 * 60 {
                    let now = begin + Span::new().minutes(minute);
                    if hours.is_open(now) != open {
                        assert_eq!(now, expected, "{zone}");
                        open = !open;
                        expected = hours.next_change(now).unwrap();
                    }
                }
                assert!(expected > begin + Span::new().hours(60), "{zone}: a change was missed, {expected}");
            }
        }
    }

    #[test]
    fn what_is_outside_is_told_in_the_windows_zone() {
        let vienna = hours("Europe/Vienna", &[("Mon", "Mon", ("20:00", "23:59"))]);
        let now = at("2026-11-23T09:14:03Z").as_millisecond();
        let outside = vienna.outside(now).unwrap();
        assert_eq!(outside.at, "Monday 2026-11-23 10:14:03 CET");
        assert_eq!(outside.opens.as_deref(), Some("Monday 2026-11-23 20:00:00 CET"));
        assert_eq!(vienna.outside(at("2026-11-23T19:00:00Z").as_millisecond()), None);
        assert_eq!(vienna.outside(i64::MAX), None);
        assert!(
            Window::new(day("Mon"), day("Mon"), time(20, 0, 0, 0), time(23, 59, 0, 0))
                .holds(day("Mon"), time(23, 59, 59, 999_999_999))
        );
    }
}
