//! Release windows around the present, for tests that cannot wait for the evening: lines of a `[[service]]`.

use watchdog::clock;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// At any time: the present is inside.
pub fn always() -> String {
    window("Mon-Sun")
}

/// On one day of the week, three days from now: neither the present nor a test that runs past midnight is inside.
pub fn another_day() -> String {
    // 1 January 1970 was a Thursday.
    let day = (clock::unix_ms() / DAY_MS + 3 + 3).rem_euclid(7);
    window(DAYS[usize::try_from(day).unwrap_or(0)])
}

/// At any time but yesterday, today and tomorrow.
pub fn frozen() -> String {
    let day = |days: i64| {
        let instant = jiff::Timestamp::from_millisecond(clock::unix_ms() + days * DAY_MS).unwrap_or_default();
        instant.strftime("%Y-%m-%d").to_string()
    };
    with(&always(), &format!("freezes = [\"{}..{}\"]", day(-1), day(1)))
}

/// The same window with another key.
pub fn with(window: &str, more: &str) -> String {
    format!("{}, {more} }}", window.trim_end().trim_end_matches('}').trim_end())
}

fn window(days: &str) -> String {
    format!("release_window = {{ allow = [\"{days} 00:00-23:59\"], timezone = \"UTC\" }}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchdog::config::Config;

    #[test]
    fn one_holds_the_present_and_the_other_does_not() {
        let now = clock::unix_ms();
        let rolled_back = with(&another_day(), "on_violation = \"rollback\"");
        let cases = [(always(), true), (another_day(), false), (frozen(), false), (rolled_back, false)];
        for (window, expected) in cases {
            let text = format!(
                "[[service]]\nname = \"web\"\nmatch = {{ listen = 1 }}\n{window}\n[[service.endpoint]]\nname = \"login\"\n\
                 path = \"/login\"\nbudget = {{ vs_baseline = 1.5 }}\n"
            );
            let config = Config::parse(&text, "c.toml").unwrap();
            let hours = &config.services[0].release_window.as_ref().unwrap().hours;
            assert_eq!(hours.outside(now).is_none(), expected, "{window}");
        }
    }
}
