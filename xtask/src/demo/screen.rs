//! What the demo prints: plain lines of at most 80 columns, in colour on a terminal that wants it.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

const WIDTH: usize = 78;
/// Characters of a bar; the budget's mark stands at a third.
const BAR: usize = 30;

/// What the logins of the last moment have cost, as the agent measured it.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) build: String,
    /// Logins of that build so far, and among them those of the last moment.
    pub(super) logins: u64,
    pub(super) recent: u64,
    pub(super) mean: Duration,
    pub(super) verdict: Option<String>,
}

#[derive(Clone, Copy)]
pub(super) enum Colour {
    Plain,
    Bold,
    Dim,
    Green,
    Red,
}

pub(super) struct Screen {
    colours: bool,
    begun: Instant,
    budget: Duration,
}

impl Screen {
    pub(super) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, begun: Instant::now(), budget: Duration::ZERO }
    }

    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Green => 32,
            Colour::Red => 31,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a line at once; a reader that has gone away does not end the demo before it has cleaned up.
    #[expect(clippy::unused_self, reason = "all output goes through the screen")]
    pub(super) fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.trim_end());
        let _ = out.flush();
    }

    pub(super) fn title(&self, text: &str) {
        self.line("");
        self.line(&self.paint(Colour::Bold, text));
        self.line("");
    }

    pub(super) fn facts(&self, facts: &[(&str, String)]) {
        for (name, value) in facts {
            self.line(&format!("  {} {value}", self.paint(Colour::Dim, &format!("{name:<11}"))));
        }
    }

    /// The head of the figures; time counts from here.
    pub(super) fn begin(&mut self, budget: Duration) {
        self.begun = Instant::now();
        self.budget = budget;
        let mark = format!("{:>width$} budget", "|", width = BAR / 3 + 1);
        self.line("");
        let head = format!("{:>8}  {:<8} {:>6} {:>13}  {mark}", "time", "build", "logins", "CPU per login");
        self.line(&self.paint(Colour::Dim, &head));
    }

    fn time(&self) -> String {
        format!("{:>6.1} s", self.begun.elapsed().as_secs_f64())
    }

    pub(super) fn figures(&self, figures: &Figures) {
        let over = figures.mean > self.budget;
        let colour = if over { Colour::Red } else { Colour::Green };
        let text = format!(
            "{}  {:<8} {:>6} {:>10.1} ms  {} {}",
            self.time(),
            figures.build,
            figures.logins,
            figures.mean.as_secs_f64() * 1e3,
            self.paint(colour, &bar(figures.mean, self.budget)),
            figures.verdict.as_deref().unwrap_or("")
        );
        self.line(&text);
    }

    pub(super) fn event(&self, text: &str) {
        self.notice(Colour::Bold, text);
    }

    pub(super) fn alarm(&self, text: &str) {
        self.notice(Colour::Red, text);
    }

    fn notice(&self, colour: Colour, text: &str) {
        let (mut time, mut mark) = (self.time(), ">");
        for line in wrap(text, WIDTH - 12) {
            self.line(&format!("{time:>8}  {}", self.paint(colour, &format!("{mark} {line}"))));
            (time, mark) = (String::new(), " ");
        }
    }

    pub(super) fn row(&self, name: &str, value: &str, colour: Colour) {
        self.line(&format!("  {name:<36} {}", self.paint(colour, value)));
    }
}

/// A bar whose length is the mean, with the budget's mark at a third.
fn bar(mean: Duration, budget: Duration) -> String {
    let mark = BAR / 3;
    let ratio = mean.as_secs_f64() / budget.as_secs_f64().max(1e-9) * mark as f64;
    let length = (0..BAR).take_while(|place| (*place as f64) + 0.5 <= ratio).count();
    (0..BAR)
        .map(|place| {
            if place < length {
                '#'
            } else if place == mark {
                '|'
            } else {
                ' '
            }
        })
        .collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_with_the_mean_and_stops_at_its_end() {
        let budget = Duration::from_millis(10);
        assert_eq!(bar(Duration::from_millis(5), budget).trim_end(), "#####     |");
        assert_eq!(bar(Duration::from_millis(20), budget).trim_end(), "#".repeat(20));
        assert_eq!(bar(Duration::from_secs(1), budget), "#".repeat(BAR));
    }

    #[test]
    fn long_notices_are_wrapped() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }
}
