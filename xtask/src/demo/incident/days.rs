//! What happened on the three days, and the table at the end.

use std::path::PathBuf;
use std::time::Duration;

use crate::demo::agent::{Observed, Outside};
use crate::demo::screen::{Colour, Screen};
use crate::demo::summary::Login;
use crate::demo::traffic::Report;

#[derive(Debug, Default)]
pub(super) struct Days {
    pub(super) nights: Vec<Night>,
    pub(super) third: Option<WorkingDay>,
    requests: u64,
    failures: u64,
    failed: Vec<String>,
}

/// A night with a bad build, and the morning after.
#[derive(Debug)]
pub(super) struct Night {
    pub(super) build: &'static str,
    pub(super) observed: Observed,
    pub(super) report: PathBuf,
    /// Those that the bad build answered.
    pub(super) logins: Vec<Login>,
    pub(super) morning: Vec<Login>,
    /// CPU per login, as the agent measured it.
    pub(super) good_cost: Duration,
    pub(super) bad_cost: Duration,
}

/// A release in working hours.
#[derive(Debug)]
pub(super) struct WorkingDay {
    pub(super) build: &'static str,
    pub(super) told: Outside,
    pub(super) logins: u64,
    pub(super) cost: Duration,
    /// What a verdict against it says; there should be none.
    pub(super) judged_bad: Option<String>,
    /// Of the build, in the evening.
    pub(super) state: String,
    pub(super) report: PathBuf,
}

impl Night {
    fn until(&self, then_unix_ms: Option<i64>) -> String {
        match (self.logins.first(), then_unix_ms) {
            (Some(first), Some(then)) => format!("{:.1} s", (then - first.sent_unix_ms) as f64 / 1e3),
            _ => "-".to_owned(),
        }
    }

    fn logins_before_the_verdict(&self) -> usize {
        self.logins.iter().filter(|login| login.answered_unix_ms <= self.observed.verdict_unix_ms).count()
    }

    /// Logins a second in the morning.
    fn rate(&self) -> f64 {
        let span_ms = self.morning.last().zip(self.morning.first());
        let span_ms = span_ms.map_or(0, |(last, first)| last.sent_unix_ms - first.sent_unix_ms);
        if span_ms > 0 { self.morning.len() as f64 * 1e3 / span_ms as f64 } else { 0.0 }
    }

    /// How the morning went, and how it would have gone.
    pub(super) fn morning_told(&self, good: &str) -> String {
        let mut latencies: Vec<i64> =
            self.morning.iter().map(|login| login.answered_unix_ms - login.sent_unix_ms).collect();
        latencies.sort_unstable();
        let on_good = self.morning.iter().filter(|login| login.build == good).count();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        format!(
            "{on_good} of {} logins on {good}, half of them within {} ms; at {:.0} logins/s, {} would have needed {:.1} of \
             this machine's {cores} cores for them",
            self.morning.len(),
            latencies.get(latencies.len() / 2).copied().unwrap_or(0),
            self.rate(),
            self.build,
            self.bad_cost.as_secs_f64() * self.rate()
        )
    }
}

impl Days {
    /// Adds what drivers have counted.
    pub(super) fn count(&mut self, reports: &[Report]) {
        for report in reports {
            self.requests += report.requests;
            self.failures += report.failures;
            self.failed.extend(report.failed());
        }
    }

    fn repeats(&self) -> Option<&str> {
        self.nights.get(1)?.observed.repeats.as_deref()
    }

    /// Two rollbacks, the second one of a named repeat offender, a release that was told and accepted, and nobody noticed.
    pub(super) fn is_success(&self) -> bool {
        let [first, second] = &self.nights[..] else { return false };
        first.observed.is_recovered()
            && second.observed.is_recovered()
            && self.repeats() == Some(first.build)
            && self.third.as_ref().is_some_and(|day| day.judged_bad.is_none() && day.state == "good")
            && self.failures == 0
    }

    pub(super) fn print(&self, screen: &Screen) {
        let outcome = if self.is_success() {
            "two bad builds found at night and rolled back before the morning"
        } else {
            "NOT as it should be: see below"
        };
        screen.title(&format!("Outcome: {outcome}"));
        for (night, day) in self.nights.iter().zip(1..) {
            self.night(screen, night, day);
        }
        if let Some(day) = &self.third {
            third(screen, day);
        }
        screen.row("requests in all", &self.requests.to_string(), Colour::Plain);
        let colour = if self.failures == 0 { Colour::Green } else { Colour::Red };
        screen.row("failed requests", &self.failures.to_string(), colour);
        for failure in self.failed.iter().take(10) {
            screen.line(&format!("    {failure}"));
        }
        screen.line("");
    }

    fn night(&self, screen: &Screen, night: &Night, day: usize) {
        let Night { build, observed, .. } = night;
        let what = if day == 1 { "a login that costs too much" } else { "a fix with the same fault" };
        screen.line(&screen.paint(Colour::Bold, &format!("  Day {day}: {build}, {what}")));
        let costs = format!("{} instead of {}", ms(night.bad_cost), ms(night.good_cost));
        screen.row("CPU per login", &costs, Colour::Plain);
        screen.row(
            "logins on it until the verdict",
            &night.logins_before_the_verdict().to_string(),
            Colour::Bold,
        );
        screen.row(
            "first of them to the verdict",
            &night.until(Some(observed.verdict_unix_ms)),
            Colour::Bold,
        );
        screen.row("first of them to the recovery", &night.until(observed.recovered_unix_ms), Colour::Bold);
        screen.row("logins on it in all", &night.logins.len().to_string(), Colour::Plain);
        if day == 2 {
            let (text, colour) = match self.repeats() {
                Some(build) => (format!("yes, of {build}"), Colour::Bold),
                None => ("NOT recognised".to_owned(), Colour::Red),
            };
            screen.row("a repeat offender", &text, colour);
        }
        report(screen, &night.report);
    }
}

fn third(screen: &Screen, day: &WorkingDay) {
    let title = format!("  Day 3: {}, a good fix in working hours", day.build);
    screen.line(&screen.paint(Colour::Bold, &title));
    let noticed = format!("{:.2} s after its process began", day.told.noticed_after.as_secs_f64());
    screen.row("outside the release window: noticed", &noticed, Colour::Bold);
    screen.row("logins on it until the evening", &day.logins.to_string(), Colour::Plain);
    screen.row("CPU per login", &ms(day.cost), Colour::Plain);
    let (verdict, colour) = match &day.judged_bad {
        None => ("none", Colour::Bold),
        Some(sentence) => (sentence.as_str(), Colour::Red),
    };
    screen.row("verdict against it", verdict, colour);
    screen.row("in the evening, accepted by hand", &format!("it is {}", day.state), Colour::Bold);
    report(screen, &day.report);
}

fn report(screen: &Screen, path: &std::path::Path) {
    screen.row("report", "", Colour::Plain);
    screen.line(&format!("    {}", crate::demo::shown(path)));
    screen.line("");
}

fn ms(cost: Duration) -> String {
    format!("{:.1} ms", cost.as_secs_f64() * 1e3)
}
