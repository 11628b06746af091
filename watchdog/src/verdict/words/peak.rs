//! What a build would need when the traffic is at its highest.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::nouns::significant;
use crate::verdict::evidence::Peak;

/// The day of a moment as people say it: `today`, `Monday` within the last week, else `2026-11-16`. In the given zone; an
/// unknown moment is `an unknown day`.
pub fn day_of(at_unix_ms: i64, now_unix_ms: i64, zone: &TimeZone) -> String {
    let date = |unix_ms| {
        let moment = Timestamp::from_millisecond(unix_ms).ok()?;
        Some(moment.to_zoned(zone.clone()).date())
    };
    let (Some(at), Some(now)) = (date(at_unix_ms), date(now_unix_ms)) else {
        return "an unknown day".to_owned();
    };
    match (now - at).get_days() {
        0 => "today".to_owned(),
        1..=6 => at.strftime("%A").to_string(),
        _ => at.to_string(),
    }
}

impl Peak {
    /// `the peak of 40/s` where it is declared, `Monday's peak of 38.5/s` where it was learned.
    pub(super) fn named(&self) -> String {
        let rate = significant(self.per_second);
        match &self.learned {
            None => format!("the peak of {rate}/s"),
            Some(learned) if learned.day.starts_with(char::is_alphabetic) && !learned.day.contains(' ') => {
                format!("{}'s peak of {rate}/s", learned.day)
            }
            Some(learned) => format!("the peak of {rate}/s on {}", learned.day),
        }
    }

    /// Cores that requests of this mean need at the peak.
    pub fn cores_needed(&self, mean_cpu_seconds: f64) -> f64 {
        mean_cpu_seconds * self.per_second
    }

    pub(super) fn would_need(&self, mean_cpu_seconds: f64) -> String {
        format!(
            "at {} it would need {} of {}",
            self.named(),
            two_digits(self.cores_needed(mean_cpu_seconds)),
            cores(self.cores)
        )
    }
}

pub(super) fn cores(number: f64) -> String {
    let text = significant(number);
    if text == "1" { "1 core".to_owned() } else { format!("{text} cores") }
}

/// A projection is not known to a third digit.
fn two_digits(figure: f64) -> String {
    if figure >= 9.95 {
        return format!("{figure:.0}");
    }
    let digits = if figure >= 0.995 { 1 } else { 2 };
    let text = format!("{figure:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::evidence::LearnedPeak;

    const HOUR_MS: i64 = 3_600_000;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn days_are_named_in_the_agents_zone() {
        let now = ms("2026-11-23T02:00:00Z");
        let utc = |at: &str| day_of(ms(at), now, &TimeZone::UTC);
        assert_eq!(utc("2026-11-23T00:10:00Z"), "today");
        assert_eq!(utc("2026-11-22T23:50:00Z"), "Sunday");
        assert_eq!(utc("2026-11-17T09:00:00Z"), "Tuesday");
        // Last week's Monday must not be taken for this week's.
        assert_eq!(utc("2026-11-16T09:00:00Z"), "2026-11-16");
        // The same moment is another day further east.
        let melbourne = TimeZone::fixed(jiff::tz::offset(11));
        assert_eq!(day_of(ms("2026-11-22T22:10:00Z"), now, &melbourne), "today");
        // A clock that was set back is told by the date.
        assert_eq!(day_of(now + 48 * HOUR_MS, now, &TimeZone::UTC), "2026-11-25");
        assert_eq!(day_of(i64::MAX, now, &TimeZone::UTC), "an unknown day");
    }

    #[test]
    fn a_peak_says_where_it_is_from_and_what_it_takes() {
        let declared = Peak { per_second: 40.0, cores: 4.0, learned: None };
        assert_eq!(declared.would_need(0.2121), "at the peak of 40/s it would need 8.5 of 4 cores");
        let learned = |day: &str| {
            let learned = Some(LearnedPeak { at_unix_ms: 0, day: day.to_owned() });
            Peak { per_second: 38.46, cores: 1.0, learned }
        };
        assert_eq!(
            learned("Monday").would_need(0.01),
            "at Monday's peak of 38.5/s it would need 0.38 of 1 core"
        );
        assert_eq!(
            learned("2026-11-16").would_need(0.9),
            "at the peak of 38.5/s on 2026-11-16 it would need 35 of 1 core"
        );
        assert_eq!(learned("an unknown day").named(), "the peak of 38.5/s on an unknown day");
        assert_eq!(learned("today").named(), "today's peak of 38.5/s");
    }
}
