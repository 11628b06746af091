//! What a run has counted.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{LineWriter, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use watchdog::clock;

use super::http::Answered;
use super::{LOG_HEADER, LoadOptions};
use crate::burn::stats::Cost;

/// Failures told in full; the rest is only counted.
const MAX_FAILURES: usize = 50;

/// All figures of a run. Times are since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoadReport {
    /// When the run began, wall clock.
    pub begun_unix_ms: i64,
    pub elapsed_ms: u64,
    pub requests: u64,
    pub failures: u64,
    /// Connections made.
    pub connects: u64,
    /// Kept connections that the server had closed before the next request was sent: no failures.
    pub closed_idle: u64,
    pub endpoints: Vec<EndpointReport>,
    /// The first failures.
    pub failed: Vec<Failure>,
}

/// Requests of one step that one build answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EndpointReport {
    pub name: String,
    /// From the `X-Build` header; empty where there was none.
    pub build: String,
    pub count: u64,
    pub failures: u64,
    /// Answers with an `X-Cpu-Ns` header, and the sum of what they told: nanoseconds of thread CPU as the application
    /// itself measured them.
    pub own_count: u64,
    pub own_cpu_ns: u64,
    /// When the first such request was sent and the last answer came.
    pub first_ms: u64,
    pub last_ms: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// A request that was not answered as expected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub name: String,
    pub at_ms: u64,
    pub what: String,
}

impl LoadReport {
    /// Requests of one step over all builds.
    pub fn count(&self, name: &str) -> u64 {
        self.endpoints.iter().filter(|endpoint| endpoint.name == name).map(|endpoint| endpoint.count).sum()
    }

    /// What the application itself said that one step's requests cost, over all builds.
    pub fn own(&self, name: &str) -> Cost {
        self.endpoints.iter().filter(|endpoint| endpoint.name == name).fold(
            Cost::default(),
            |sum, endpoint| Cost {
                count: sum.count + endpoint.own_count,
                sum_ns: sum.sum_ns + endpoint.own_cpu_ns,
            },
        )
    }

    pub fn of(&self, name: &str, build: &str) -> Option<&EndpointReport> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name && endpoint.build == build)
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        if self.elapsed_ms == 0 { 0.0 } else { self.requests as f64 * 1_000.0 / self.elapsed_ms as f64 }
    }
}

struct Line {
    failures: u64,
    count: u64,
    own: Cost,
    first: Duration,
    last: Duration,
    latency_us: Histogram<u64>,
}

/// The counters behind a report.
pub(super) struct Tally {
    names: Vec<String>,
    lines: BTreeMap<(usize, String), Line>,
    /// The build that answered last, to which failures without an answer are counted.
    last_build: HashMap<usize, String>,
    requests: u64,
    failures: u64,
    connects: u64,
    closed_idle: u64,
    failed: Vec<Failure>,
    begun_unix_ms: i64,
    log: Option<LineWriter<File>>,
}

impl Tally {
    pub(super) fn new(options: &LoadOptions) -> anyhow::Result<Self> {
        let log = match &options.log {
            Some(path) => {
                let file =
                    File::create(path).with_context(|| format!("creating the log {}", path.display()))?;
                let mut log = LineWriter::new(file);
                writeln!(log, "{LOG_HEADER}")?;
                Some(log)
            }
            None => None,
        };
        Ok(Self {
            begun_unix_ms: clock::unix_ms(),
            log,
            names: options.steps.iter().map(|step| step.name.clone()).collect(),
            lines: BTreeMap::new(),
            last_build: HashMap::new(),
            requests: 0,
            failures: 0,
            connects: 0,
            closed_idle: 0,
            failed: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, step: usize, answered: Answered, sent: Instant, begun: Instant) {
        let now = begun.elapsed();
        let first = sent.saturating_duration_since(begun);
        self.requests += 1;
        self.connects += u64::from(answered.connects);
        self.closed_idle += u64::from(answered.closed_idle);
        let build = match answered.build {
            Some(build) => {
                if self.last_build.get(&step) != Some(&build) {
                    self.last_build.insert(step, build.clone());
                }
                build
            }
            None => self.last_build.get(&step).cloned().unwrap_or_default(),
        };
        let latency_us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(log) = &mut self.log {
            let sent_unix_ms = self.begun_unix_ms + i64::try_from(first.as_millis()).unwrap_or(i64::MAX);
            let ok = u8::from(answered.result.is_ok());
            // A full disk must not look like a failing server; the log then ends early.
            let _ = writeln!(log, "{sent_unix_ms},{},{build},{ok},{latency_us}", self.names[step]);
        }
        let line = self.lines.entry((step, build)).or_insert_with(|| Line {
            failures: 0,
            count: 0,
            own: Cost::default(),
            first,
            last: now,
            latency_us: Histogram::new_with_max(3_600_000_000, 3).expect("an hour in three digits fits"),
        });
        line.count += 1;
        if let Some(ns) = answered.own_cpu_ns {
            line.own.count += 1;
            line.own.sum_ns += ns;
        }
        line.first = line.first.min(first);
        line.last = now;
        line.latency_us.saturating_record(latency_us);
        if let Err(error) = answered.result {
            line.failures += 1;
            self.failures += 1;
            if self.failed.len() < MAX_FAILURES {
                let name = self.names[step].clone();
                self.failed.push(Failure { name, at_ms: millis(first), what: format!("{error:#}") });
            }
        }
    }

    pub(super) fn report(&self, elapsed: Duration) -> LoadReport {
        let endpoints = self.lines.iter().map(|((step, build), line)| EndpointReport {
            name: self.names[*step].clone(),
            build: build.clone(),
            count: line.count,
            failures: line.failures,
            own_count: line.own.count,
            own_cpu_ns: line.own.sum_ns,
            first_ms: millis(line.first),
            last_ms: millis(line.last),
            p50_us: line.latency_us.value_at_quantile(0.50),
            p90_us: line.latency_us.value_at_quantile(0.90),
            p99_us: line.latency_us.value_at_quantile(0.99),
            max_us: line.latency_us.max(),
        });
        LoadReport {
            begun_unix_ms: self.begun_unix_ms,
            elapsed_ms: millis(elapsed),
            requests: self.requests,
            failures: self.failures,
            connects: self.connects,
            closed_idle: self.closed_idle,
            endpoints: endpoints.collect(),
            failed: self.failed.clone(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
