//! Figures and names as people read them.

use crate::model::EndpointName;

/// A time with a unit that suits it, three digits.
pub fn cpu(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", significant(s)),
        s if s >= 1e-3 => format!("{} ms", significant(s * 1e3)),
        s => format!("{} µs", significant(s * 1e6)),
    }
}

/// Three significant digits, no trailing zeros, never in exponent form.
pub(super) fn significant(figure: f64) -> String {
    let digits = match figure.abs() {
        f if f >= 99.95 => 0,
        f if f >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{figure:.digits$}");
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Seconds in the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `1 login`, `7 logins`.
pub(super) fn requests(endpoint: &EndpointName, count: u64) -> String {
    format!("{count} {}", if count == 1 { one(endpoint) } else { many(endpoint) })
}

/// `login`, or `api/v2 request`: a name is a noun where it is a plain word.
pub(in crate::verdict) fn one(endpoint: &EndpointName) -> String {
    if is_word(endpoint) { endpoint.to_string() } else { format!("{endpoint} request") }
}

/// `logins`, or `api/v2 requests`.
pub(super) fn many(endpoint: &EndpointName) -> String {
    if is_word(endpoint) { plural(endpoint.as_str()) } else { format!("{endpoint} requests") }
}

fn is_word(endpoint: &EndpointName) -> bool {
    let name = endpoint.as_str();
    name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_lowercase()) && *endpoint != EndpointName::other()
}

fn plural(word: &str) -> String {
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| word.ends_with(end));
    match word.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if hisses => format!("{word}es"),
        _ => format!("{word}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_that_suit_them() {
        for (seconds, text) in [
            (12.0, "12 s"),
            (1.234, "1.23 s"),
            (0.0105, "10.5 ms"),
            (0.25, "250 ms"),
            (0.000_34, "340 µs"),
            (0.0, "0 µs"),
        ] {
            assert_eq!(cpu(seconds), text);
        }
        let spans = [7, 60, 3600, 21_720, 86_400, 180_000].map(span);
        assert_eq!(spans, ["7 s", "1 min", "1 h", "6 h 2 min", "1 d", "2 d 2 h"]);
    }

    #[test]
    fn endpoints_are_nouns_where_they_can_be() {
        for (name, one_of_it, seven) in [
            ("login", "1 login", "7 logins"),
            ("search", "1 search", "7 searches"),
            ("query", "1 query", "7 queries"),
            ("essay", "1 essay", "7 essays"),
            ("api/v2", "1 api/v2 request", "7 api/v2 requests"),
            ("e7", "1 e7 request", "7 e7 requests"),
            ("other", "1 other request", "7 other requests"),
        ] {
            let name = EndpointName::from(name);
            assert_eq!((requests(&name, 1).as_str(), requests(&name, 7).as_str()), (one_of_it, seven));
        }
    }
}
