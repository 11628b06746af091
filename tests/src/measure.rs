//! Measures a burn server with the kernel programs and sets their figures beside the server's own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use watchdog::kernel::{EndpointPattern, Kernel};
use watchdog_common::types::{Conservation, Loss, Sample};

use crate::burn::stats::Cost;
use crate::harness::{Burn, Deviation, between, compare, table, usual_mix};
use crate::load::{LoadOptions, LoadReport, Step, run};
use crate::window::{Account, Watched, Window, coverage, losses_told};
pub use crate::window::{Ticks, family};

/// The burn server's endpoints as the kernel is told them; the index is the place in the list plus one.
pub const ENDPOINTS: [(&str, Option<&str>, &str); 5] = [
    ("login", Some("POST"), "/login"),
    ("browse", Some("GET"), "/browse"),
    ("report", None, "/report"),
    ("unknown", None, "/unknown"),
    ("api_login", Some("POST"), "/api/*/login"),
];

/// The endpoints that a slot of the burn server has, requests of no endpoint included.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub const fn endpoint_count() -> u16 {
    ENDPOINTS.len() as u16 + 1
}

/// The name of what is no endpoint.
const OTHER: &str = "other";

/// The endpoints as patterns of the kernel.
pub fn patterns() -> Vec<EndpointPattern> {
    (1..)
        .zip(ENDPOINTS)
        .map(|(index, (_, method, path))| EndpointPattern {
            index,
            method: method.map(str::to_owned),
            path: path.to_owned(),
        })
        .collect()
}

/// A server, a load, and a name for the message.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub server: Vec<String>,
    pub concurrency: usize,
    pub keep_alive: bool,
    pub requests: u64,
    pub steps: Vec<Step>,
    pub head_pieces: usize,
    pub expect_continue: bool,
    /// See [`LoadOptions`].
    pub record_bytes: usize,
    pub cookie_bytes: usize,
}

impl Case {
    /// The usual mix over keep-alive connections.
    pub fn new(name: &str, server: &[&str], concurrency: usize, requests: u64) -> Self {
        Self {
            name: name.to_owned(),
            server: server.iter().map(|arg| (*arg).to_owned()).collect(),
            concurrency,
            keep_alive: true,
            requests,
            steps: usual_mix(),
            head_pieces: 1,
            expect_continue: false,
            record_bytes: 65_528,
            cookie_bytes: 0,
        }
    }

    #[must_use]
    pub fn closing(self) -> Self {
        Self { keep_alive: false, ..self }
    }
}

/// What both sides say of a case.
#[derive(Debug)]
pub struct Measured {
    pub deviations: Vec<Deviation>,
    pub report: LoadReport,
    /// The kernel's figures over the run.
    pub conservation: Conservation,
    /// The server's CPU over the run, by its own clock.
    pub process_cpu_ns: u64,
    pub samples: Vec<Sample>,
    pub losses: [u64; Loss::ALL.len()],
    /// Requests that the kernel still holds after the run.
    pub left_ongoing: usize,
}

impl Measured {
    /// Attributed time, and what serves the runtime, over the processes' time.
    pub fn coverage(&self) -> f64 {
        coverage(&self.conservation)
    }

    pub fn deviation(&self, endpoint: &str) -> anyhow::Result<&Deviation> {
        self.deviations
            .iter()
            .find(|line| line.endpoint == endpoint)
            .with_context(|| format!("no endpoint {endpoint}"))
    }

    pub fn lost(&self, reason: Loss) -> u64 {
        self.losses[reason as usize]
    }

    /// Everything in a few lines, for a test's message.
    pub fn told(&self) -> String {
        let c = &self.conservation;
        format!(
            "{}process {:.2} ms (own clock {:.2} ms), attributed {:.2} ms, shared {:.2} ms ({:.1} %), unattributed {:.2} ms, \
             begun {}, finished {}, still ongoing {}, failed {}; losses: {}\n",
            table(&self.deviations),
            c.process_ns as f64 / 1e6,
            self.process_cpu_ns as f64 / 1e6,
            c.attributed_ns as f64 / 1e6,
            c.shared_ns as f64 / 1e6,
            100.0 * self.coverage(),
            c.unattributed_ns as f64 / 1e6,
            c.started,
            c.finished,
            self.left_ongoing,
            self.report.failures,
            losses_told(&self.losses),
        )
    }
}

/// Runs a case under a slot of its own.
pub fn measure(kernel: &mut Kernel, case: &Case) -> anyhow::Result<Measured> {
    let args: Vec<&str> = case.server.iter().map(String::as_str).collect();
    let burn = Burn::start(&args)?;
    let watched = Watched::open(kernel, 0, &patterns(), &[burn.pid()])?;
    let measured = measure_watched(kernel, case, &burn, watched.slot);
    watched.release(kernel)?;
    drop(burn);
    std::thread::sleep(Duration::from_millis(20));
    kernel.close_slot(watched.slot)?;
    measured.with_context(|| case.name.clone())
}

fn measure_watched(kernel: &mut Kernel, case: &Case, burn: &Burn, slot: u16) -> anyhow::Result<Measured> {
    let before = burn.stats()?;
    let window = Window::open(kernel, &[slot])?;
    let options = LoadOptions {
        concurrency: case.concurrency,
        keep_alive: case.keep_alive,
        head_pieces: case.head_pieces,
        expect_continue: case.expect_continue,
        protocol: burn.protocol(),
        record_bytes: case.record_bytes,
        cookie_bytes: case.cookie_bytes,
        ..LoadOptions::new(burn.target().clone(), case.steps.clone(), case.requests)
    };
    let report = run(options)?;
    // The server's account is asked for after the figures, so that asking is in neither.
    let mut seen = window.close(kernel)?;
    let account = seen.accounts.remove(&slot).context("the slot has no account")?;
    let after = burn.stats_after(&before, &report)?;

    let mut kernel_costs = by_name(&account);
    kernel_costs.remove(OTHER);
    Ok(Measured {
        deviations: compare(&kernel_costs, &between(&before, &after)),
        report,
        conservation: account.conservation,
        process_cpu_ns: after.process_cpu_ns - before.process_cpu_ns,
        samples: seen.samples,
        losses: seen.losses,
        left_ongoing: account.left_ongoing,
    })
}

/// An account's counts and sums by endpoint.
pub fn by_name(account: &Account) -> BTreeMap<String, Cost> {
    let named = (1..).zip(ENDPOINTS.map(|(name, ..)| name)).chain([(0, OTHER)]);
    named
        .map(|(index, name)| (name.to_owned(), account.of(index)))
        .filter(|(_, cost)| cost.count > 0)
        .collect()
}
