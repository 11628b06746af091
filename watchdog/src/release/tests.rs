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
        for begin in
            ["2026-10-03T00:00:00Z", "2026-10-24T00:00:00Z", "2027-03-13T00:00:00Z", "2027-03-27T00:00:00Z"]
        {
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

/// In the hours of every day but the nights, with these freezes.
fn frozen(zone: &str, freezes: &[&str]) -> Hours {
    let date = |text: &str| -> Date { text.parse().unwrap() };
    let freezes = freezes.iter().map(|text| {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        Freeze { first: date(first), last: date(last) }
    });
    hours(zone, &[("Mon", "Sun", ("06:00", "21:59"))]).with_freezes(freezes.collect())
}

#[test]
fn a_freeze_is_whole_days_of_the_zone_and_stronger_than_a_window() {
    // Summer time, UTC+11.
    let hours = frozen("Australia/Melbourne", &["2026-12-20..2027-01-05", "2026-11-27"]);
    check(
        &hours,
        &[
            ("2026-11-26T10:59:59Z", true),
            ("2026-11-26T12:59:59Z", false),
            ("2026-11-26T19:00:00Z", false),
            ("2026-11-27T10:59:59Z", false),
            ("2026-11-27T19:00:00Z", true),
            ("2026-12-19T10:00:00Z", true),
            ("2026-12-19T19:00:00Z", false),
            ("2027-01-05T10:59:59Z", false),
            ("2027-01-05T18:59:59Z", false),
            ("2027-01-05T19:00:00Z", true),
        ],
    );
    let named = |text: &str| hours.freeze(at(text)).map(|freeze| freeze.to_string());
    assert_eq!(named("2026-11-26T13:00:00Z").as_deref(), Some("2026-11-27"));
    assert_eq!(named("2026-12-31T00:00:00Z").as_deref(), Some("2026-12-20..2027-01-05"));
    // At night, outside the window, it is still the freeze that is named.
    assert_eq!(named("2026-12-31T13:00:00Z").as_deref(), Some("2026-12-20..2027-01-05"));
    assert_eq!(named("2027-01-05T13:00:00Z"), None);
    let overlapping = frozen("UTC", &["2026-12-20..2026-12-26", "2026-12-24..2027-01-01"]);
    let longest = overlapping.freeze(at("2026-12-25T12:00:00Z")).map(|freeze| freeze.to_string());
    assert_eq!(longest.as_deref(), Some("2026-12-24..2027-01-01"));
}

#[test]
fn the_next_change_goes_over_freezes_however_long() {
    let cases: &[(&str, &[&str], &str, Option<&str>)] = &[
        // Into one, and out of it: at the first window that is open again.
        ("Europe/Vienna", &["2026-12-20..2027-01-05"], "2026-12-19T20:59:59Z", Some("2026-12-19T21:00:00Z")),
        ("Europe/Vienna", &["2026-12-20..2027-01-05"], "2026-12-19T21:00:00Z", Some("2027-01-06T05:00:00Z")),
        ("Europe/Vienna", &["2026-12-20..2027-01-05"], "2026-12-24T12:00:00Z", Some("2027-01-06T05:00:00Z")),
        // Two that meet, two that overlap, and one within the other.
        (
            "UTC",
            &["2026-12-20..2026-12-31", "2027-01-01..2027-01-31"],
            "2026-12-24T12:00:00Z",
            Some("2027-02-01T06:00:00Z"),
        ),
        (
            "UTC",
            &["2026-12-20..2027-01-15", "2027-01-01..2027-01-31"],
            "2026-12-24T12:00:00Z",
            Some("2027-02-01T06:00:00Z"),
        ),
        (
            "UTC",
            &["2026-12-01..2027-01-31", "2026-12-24"],
            "2026-12-24T12:00:00Z",
            Some("2027-02-01T06:00:00Z"),
        ),
        // A window between two.
        (
            "UTC",
            &["2026-12-20..2026-12-24", "2026-12-26"],
            "2026-12-20T12:00:00Z",
            Some("2026-12-25T06:00:00Z"),
        ),
        (
            "UTC",
            &["2026-12-20..2026-12-24", "2026-12-26"],
            "2026-12-25T22:00:00Z",
            Some("2026-12-27T06:00:00Z"),
        ),
        // One that is over, and one of nine months that ends on the day on which the clock jumps.
        ("UTC", &["2020-01-01..2020-12-31"], "2026-12-20T12:00:00Z", Some("2026-12-20T22:00:00Z")),
        ("Europe/Vienna", &["2026-07-01..2027-03-27"], "2026-07-01T12:00:00Z", Some("2027-03-28T04:00:00Z")),
    ];
    for (zone, freezes, from, expected) in cases {
        let found = frozen(zone, freezes).next_change(at(from));
        assert_eq!(found, expected.map(at), "{freezes:?} {from}");
    }
    // Always open but for a freeze: it closes when that begins, however far ahead.
    let freeze = Freeze { first: "2027-06-01".parse().unwrap(), last: "2027-06-02".parse().unwrap() };
    let always = hours("UTC", &[("Mon", "Sun", ALL_DAY)]).with_freezes(vec![freeze]);
    assert_eq!(always.next_change(at("2026-11-23T12:00:00Z")), Some(at("2027-06-01T00:00:00Z")));
    assert_eq!(always.next_change(at("2027-06-01T00:00:00Z")), Some(at("2027-06-03T00:00:00Z")));
    assert_eq!(always.next_change(at("2027-06-03T00:00:00Z")), None);
}

#[test]
fn freezes_begin_and_end_where_the_clock_changes_at_midnight() {
    let all_day = |zone: &str, day: &str| {
        let day: Date = day.parse().unwrap();
        hours(zone, &[("Mon", "Sun", ALL_DAY)]).with_freezes(vec![Freeze { first: day, last: day }])
    };
    // Havana skips the first hour of 8 March 2026: the day, and so the freeze, has 23 hours and begins at 01:00.
    let havana = all_day("America/Havana", "2026-03-08");
    assert_eq!(havana.next_change(at("2026-03-01T00:00:00Z")), Some(at("2026-03-08T05:00:00Z")));
    assert_eq!(havana.next_change(at("2026-03-08T05:00:00Z")), Some(at("2026-03-09T04:00:00Z")));
    // It repeats the first hour of 1 November 2026: 25 hours.
    let havana = all_day("America/Havana", "2026-11-01");
    assert_eq!(havana.next_change(at("2026-10-20T00:00:00Z")), Some(at("2026-11-01T04:00:00Z")));
    assert_eq!(havana.next_change(at("2026-11-01T04:00:00Z")), Some(at("2026-11-02T05:00:00Z")));
    // The last hour of 17 February 2018 came twice in Sao Paulo: a freeze of that day ends with the second one.
    let sao_paulo = all_day("America/Sao_Paulo", "2018-02-17");
    assert_eq!(sao_paulo.next_change(at("2018-02-17T12:00:00Z")), Some(at("2018-02-18T03:00:00Z")));
    let next_day = all_day("America/Sao_Paulo", "2018-02-18");
    assert_eq!(next_day.next_change(at("2018-02-17T12:00:00Z")), Some(at("2018-02-18T03:00:00Z")));
    // Samoa had no 30 December 2011: a freeze of it is none.
    let apia = all_day("Pacific/Apia", "2011-12-30");
    check(&apia, &[("2011-12-30T09:59:59Z", true), ("2011-12-30T10:00:00Z", true)]);
    assert_eq!(apia.next_change(at("2011-12-29T20:00:00Z")), None);
}

#[test]
fn changes_around_freezes_agree_with_a_walk_minute_by_minute() {
    for (zone, freeze, begin) in [
        ("Europe/Vienna", "2026-10-25", "2026-10-23T00:00:00Z"),
        ("Europe/Vienna", "2027-03-27..2027-03-28", "2027-03-26T00:00:00Z"),
        ("America/Havana", "2026-03-08", "2026-03-06T00:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03..2026-10-04", "2026-10-02T00:00:00Z"),
    ] {
        let hours = frozen(zone, &[freeze]);
        let begin = at(begin);
        let (mut open, mut expected) = (hours.is_open(begin), hours.next_change(begin).unwrap());
        for minute in 1..=60 * 96 {
            let now = begin + Span::new().minutes(minute);
            if hours.is_open(now) != open {
                assert_eq!(now, expected, "{zone} {freeze}");
                open = !open;
                expected = hours.next_change(now).unwrap();
            }
        }
        assert!(expected > begin + Span::new().hours(96), "{zone} {freeze}: {expected} was missed");
    }
}

#[test]
fn whether_it_was_open_in_between() {
    let hours = frozen("UTC", &["2026-12-20..2026-12-31"]);
    let between = |since: &str, until: &str| {
        hours.opened_between(at(since).as_millisecond(), at(until).as_millisecond())
    };
    assert!(!between("2026-12-19T22:00:00Z", "2026-12-31T23:59:59Z"), "a night, and the freeze");
    assert!(between("2026-12-19T22:00:00Z", "2027-01-01T06:00:00Z"));
    assert!(between("2026-12-18T23:00:00Z", "2026-12-19T23:00:00Z"), "it opened and closed again");
    assert!(between("2026-12-19T21:59:59Z", "2026-12-19T23:00:00Z"));
    assert!(!between("2026-12-20T12:00:00Z", "2026-12-19T23:00:00Z"), "the clock was put back");
}
