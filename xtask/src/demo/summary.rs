//! The table at the end: how many requests and seconds it took, and whether anybody noticed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::BAD;
use super::agent::Observed;
use super::screen::{Colour, Screen};
use super::traffic::Report;

/// A login, from the drivers' logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// Which build answered it.
    pub(super) build: String,
    pub(super) sent_unix_ms: i64,
    pub(super) answered_unix_ms: i64,
}

#[derive(Debug)]
pub(super) struct Outcome {
    incident: Option<Observed>,
    bad_logins: Vec<Login>,
    requests: u64,
    failures: u64,
    failed: Vec<String>,
    report: Option<PathBuf>,
}

impl Outcome {
    pub(super) fn of(
        incident: Option<Observed>,
        reports: &[Report],
        logs: &[PathBuf],
        report: Option<PathBuf>,
    ) -> Result<Self> {
        let mut bad_logins = read_logins(logs)?;
        bad_logins.retain(|login| login.build == BAD);
        Ok(Self {
            incident,
            bad_logins,
            requests: reports.iter().map(|report| report.requests).sum(),
            failures: reports.iter().map(|report| report.failures).sum(),
            failed: reports.iter().flat_map(Report::failed).collect(),
            report,
        })
    }

    fn rolled_back(&self) -> bool {
        self.incident.as_ref().is_some_and(Observed::is_recovered)
    }

    pub(super) fn is_success(&self) -> bool {
        self.rolled_back() && self.failures == 0
    }

    pub(super) fn print(&self, screen: &mut Screen) {
        let verdict = match (&self.incident, self.rolled_back()) {
            (_, true) => "the bad build was found and rolled back".to_owned(),
            (Some(incident), false) => format!("NOT rolled back: the incident is {}", incident.state),
            (None, false) => "NOT rolled back: the agent opened no incident".to_owned(),
        };
        screen.title(&format!("Outcome: {verdict}"));
        if let Some(incident) = &self.incident {
            let first = self.bad_logins.first().map(|login| login.sent_unix_ms);
            let until = |at: Option<i64>| match (first, at) {
                (Some(first), Some(at)) => format!("{:.1} s", (at - first) as f64 / 1e3),
                _ => "-".to_owned(),
            };
            let before = self
                .bad_logins
                .iter()
                .filter(|login| login.answered_unix_ms <= incident.verdict_unix_ms)
                .count();
            screen.row("bad logins until the verdict", &before.to_string(), Colour::Bold);
            screen.row(
                "first bad login to the verdict",
                &until(Some(incident.verdict_unix_ms)),
                Colour::Bold,
            );
            screen.row("first bad login to the hook", &until(incident.hook_unix_ms), Colour::Bold);
            screen.row("first bad login to the recovery", &until(incident.recovered_unix_ms), Colour::Bold);
        }
        screen.row("bad logins in all", &self.bad_logins.len().to_string(), Colour::Plain);
        screen.row("requests in all", &self.requests.to_string(), Colour::Plain);
        let colour = if self.failures == 0 { Colour::Green } else { Colour::Red };
        screen.row("failed requests", &self.failures.to_string(), colour);
        for failure in self.failed.iter().take(10) {
            screen.line(&format!("    {failure}"));
        }
        if let Some(path) = &self.report {
            screen.row("incident report", "", Colour::Plain);
            screen.line(&format!("    {}", super::shown(path)));
        }
        screen.line("");
    }
}

/// The logins in the drivers' logs, in the order in which they were sent.
pub(super) fn read_logins(logs: &[PathBuf]) -> Result<Vec<Login>> {
    let mut logins = Vec::new();
    for log in logs {
        let text = std::fs::read_to_string(log)
            .with_context(|| format!("reading the request log {}", log.display()))?;
        logins.extend(text.lines().skip(1).filter_map(parse));
    }
    logins.sort_by_key(|login| login.sent_unix_ms);
    Ok(logins)
}

/// One line: `sent_unix_ms,name,build,ok,latency_us`.
fn parse(line: &str) -> Option<Login> {
    let fields: Vec<&str> = line.split(',').collect();
    let [sent, "login", build, _, latency] = fields[..] else { return None };
    let sent_unix_ms: i64 = sent.parse().ok()?;
    let latency_us: i64 = latency.parse().ok()?;
    let answered_unix_ms = sent_unix_ms + latency_us / 1_000;
    Some(Login { build: build.to_owned(), sent_unix_ms, answered_unix_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logins_count_each_for_its_build() {
        let login = parse(&format!("1000,login,{BAD},1,25000")).unwrap();
        let expected = Login { build: BAD.to_owned(), sent_unix_ms: 1000, answered_unix_ms: 1025 };
        assert_eq!(login, expected);
        assert_eq!(parse(&format!("1000,browse,{BAD},1,25000")), None);
        assert_eq!(parse("sent_unix_ms,name,build,ok,latency_us"), None);
    }
}
