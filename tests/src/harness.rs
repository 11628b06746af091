//! Starts burn servers for tests, asks them for their own account, and compares it with the kernel's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::burn::stats::{Cost, Stats};
use crate::load::{Get, LoadReport, Protocol, Step, Target};

const READY_WITHIN: Duration = Duration::from_secs(10);
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// A built program of this workspace, by name, as found beside the running test.
pub fn executable(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no program {name} beside {}: run `cargo build` in the workspace's folder first",
            own.display()
        )
    })
}

/// A burn server in a process of its own, ended when dropped.
#[derive(Debug)]
pub struct Burn {
    child: Child,
    address: String,
    target: Target,
    protocol: Protocol,
}

fn spoken(command: &Command) -> Protocol {
    let mut args = command.get_args().skip_while(|arg| *arg != "--protocol").skip(1);
    match args.next().and_then(|value| value.to_str()) {
        Some("fastcgi") => Protocol::Fastcgi,
        Some("uwsgi") => Protocol::Uwsgi,
        _ => Protocol::Http,
    }
}

#[derive(Deserialize)]
struct Announcement {
    listening: String,
}

impl Burn {
    /// Starts `burn` with these arguments and waits until it takes connections.
    pub fn start(args: &[&str]) -> anyhow::Result<Self> {
        Self::start_program(&executable("burn")?, args)
    }

    pub fn start_program(program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        Self::start_command(Command::new(program).args(args))
    }

    /// As a command with an environment or a folder of its own.
    pub fn start_command(command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .arg("--exit-with-parent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        // From here on the child is ended by the drop.
        let target = Target::Unix(PathBuf::new());
        let mut burn = Self { child, address: String::new(), target, protocol: spoken(command) };
        let stdout = burn.child.stdout.take().context("the server's standard output was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("reading the server's address")?;
        ensure!(!line.is_empty(), "{command:?} ended before it listened; its error is above");
        let said: Announcement =
            serde_json::from_str(&line).with_context(|| format!("burn announced itself with {line:?}"))?;
        burn.target = said.listening.parse()?;
        burn.address = said.listening;
        Ok(burn)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What it was told to speak.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `IP:PORT` or `unix:PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's own account up to now. The request that asks is itself counted, as `stats`, afterwards.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let answer = Get::fetch_by(self.protocol, &self.target, "/stats", READY_WITHIN)?;
        ensure!(answer.status == 200, "/stats answered {}", answer.status);
        serde_json::from_slice(&answer.body).context("reading the server's account")
    }

    /// The account once it holds every request of a run; the last ones are counted just after their answers.
    pub fn stats_after(&self, before: &Stats, report: &LoadReport) -> anyhow::Result<Stats> {
        let asked_by = Instant::now() + SETTLED_WITHIN;
        loop {
            let stats = self.stats()?;
            let counted = own_requests(&stats) - own_requests(before);
            if counted >= report.requests - report.failures {
                return Ok(stats);
            }
            if Instant::now() > asked_by {
                bail!("the server has counted {counted} of {} requests", report.requests);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Burn {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_requests(stats: &Stats) -> u64 {
    stats.total().count - stats.cost("stats").count
}

/// What an endpoint's requests cost between two accounts.
pub fn between(before: &Stats, after: &Stats) -> BTreeMap<String, Cost> {
    after
        .endpoints
        .iter()
        .map(|(name, cost)| {
            let old = before.cost(name);
            (name.clone(), Cost { count: cost.count - old.count, sum_ns: cost.sum_ns - old.sum_ns })
        })
        .filter(|(name, cost)| cost.count > 0 && name != "stats")
        .collect()
}

/// The mix that most tests use: mostly logins, some cheap and some sleeping requests.
pub fn usual_mix() -> Vec<Step> {
    vec![
        Step::post("login", "/login", "user=ann&password=secret").weighing(4),
        Step::get("browse", "/browse").weighing(4),
        Step::get("report", "/report").weighing(1),
        Step::get("unknown", "/unknown").expecting(401).weighing(1),
    ]
}

/// How the kernel's figure of an endpoint stands to the server's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    pub endpoint: String,
    pub kernel: Cost,
    pub own: Cost,
}

impl Deviation {
    /// The kernel's mean over the server's own; 1 is agreement, 0 means that the kernel saw nothing.
    pub fn ratio(&self) -> f64 {
        let own = self.own.mean_ns();
        if own > 0.0 { self.kernel.mean_ns() / own } else { f64::INFINITY }
    }

    /// Requests that the kernel counted too much (positive) or too few.
    pub fn miscounted(&self) -> i64 {
        self.kernel.count.cast_signed() - self.own.count.cast_signed()
    }
}

/// Sets the kernel's figures beside the server's own, for every endpoint that either knows.
pub fn compare(kernel: &BTreeMap<String, Cost>, own: &BTreeMap<String, Cost>) -> Vec<Deviation> {
    let mut names: Vec<&String> = kernel.keys().chain(own.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let cost = |of: &BTreeMap<String, Cost>, name: &String| of.get(name).copied().unwrap_or_default();
    names
        .into_iter()
        .map(|name| Deviation { endpoint: name.clone(), kernel: cost(kernel, name), own: cost(own, name) })
        .collect()
}

/// A table of deviations for a test's message.
pub fn table(deviations: &[Deviation]) -> String {
    let mut text = format!(
        "{:<12} {:>8} {:>8} {:>12} {:>12} {:>8}\n",
        "endpoint", "kernel n", "own n", "kernel us", "own us", "ratio"
    );
    for line in deviations {
        let _ = writeln!(
            text,
            "{:<12} {:>8} {:>8} {:>12.1} {:>12.1} {:>8.4}",
            line.endpoint,
            line.kernel.count,
            line.own.count,
            line.kernel.mean_ns() / 1e3,
            line.own.mean_ns() / 1e3,
            line.ratio()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(of: &[(&str, u64, u64)]) -> BTreeMap<String, Cost> {
        of.iter()
            .map(|(name, count, sum_ns)| ((*name).to_owned(), Cost { count: *count, sum_ns: *sum_ns }))
            .collect()
    }

    #[test]
    fn deviations_cover_what_either_side_knows() {
        let lines = compare(
            &costs(&[("login", 9, 9_900), ("ghost", 1, 5)]),
            &costs(&[("login", 10, 10_000), ("browse", 2, 4)]),
        );
        let names: Vec<_> = lines.iter().map(|line| line.endpoint.as_str()).collect();
        assert_eq!(names, ["browse", "ghost", "login"]);
        assert!((lines[2].ratio() - 1.1).abs() < 1e-9);
        assert_eq!(lines[2].miscounted(), -1);
        assert_eq!(lines[1].miscounted(), 1);
        assert!(table(&lines).contains("1.1000"));
    }
}
