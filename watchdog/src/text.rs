//! Text from outside, made safe to show: names of builds, paths, what a hook printed, what a person typed.
//!
//! Whoever names a build, prints in a hook or starts a process chooses text that an operator reads as root. A control
//! character in it could move the cursor, forge a line of the log or hide one; a character that turns the writing direction
//! could show a name that is another. So such characters are never shown, but written out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character takes its place on the line and does nothing else.
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !is_invisible(c)
}

/// Unicode's format characters (Cf), its line and paragraph separators, and tags: they are not seen, and change how what is
/// seen is read.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// One line: every other character written out, as `\n` or `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Several lines: as [`line`], but lines end where they end, and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || c == '\t')
}

fn escaped(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let shown = |c: char| is_plain(c) || kept(c);
    if text.chars().all(shown) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 16), |mut line, c| {
            if shown(c) {
                line.push(c);
            } else {
                line.extend(c.escape_default());
            }
            line
        })
        .into()
}

/// A JSON text that means the same and shows nothing but plain characters: `serde_json` leaves those above U+007E as they
/// are, and a terminal obeys some of them.
pub fn json(text: &str) -> Cow<'_, str> {
    let shown = |c: char| is_plain(c) || c == '\n';
    if text.chars().all(shown) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 16), |mut json, c| {
            if shown(c) {
                json.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
            json
        })
        .into()
}

/// At most so many bytes, cut at a character.
pub fn bounded(text: &str, most_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(most_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(line("v1.8.3"), "v1.8.3");
        assert_eq!(line("grün 発行"), "grün 発行");
        assert_eq!(line("v1\u{1b}[2Jv2\r\nroot: ok\u{7}"), "v1\\u{1b}[2Jv2\\r\\nroot: ok\\u{7}");
        // CSI in one character, text from right to left, nothing at all, a line of its own.
        for hidden in ['\u{9b}', '\u{202e}', '\u{200b}', '\u{2028}', '\u{e0041}', '\u{7f}', '\0'] {
            let text = format!("a{hidden}b");
            assert!(line(&text).chars().all(is_plain), "{:?}", line(&text));
            assert_ne!(line(&text), "ab");
        }
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else() {
        assert_eq!(lines("a\tb\nc\u{1b}[1m\r\n"), "a\tb\nc\\u{1b}[1m\\r\n");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value =
            serde_json::json!({ "build": "a\u{9b}31m\u{202e}\u{e0041}\u{1b}\u{7f}é", "n": [1, "\u{2028}"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = json(&text);
        assert!(shown.chars().all(|c| is_plain(c) || c == '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn bounds_are_cut_at_characters() {
        assert_eq!(bounded("aéb", 2), "a");
        assert_eq!(bounded("aéb", 3), "aé");
        assert_eq!(bounded("a", 99), "a");
    }
}
