//! Measures a burn server with the kernel programs and sets their figures beside the server's own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use watchdog::clock::mono_ns;
use watchdog::kernel::tick::Tick;
use watchdog::kernel::{EndpointPattern, Kernel};
use watchdog_common::types::{Conservation, Loss, Sample};

use crate::burn::stats::Cost;
use crate::harness::{Burn, Deviation, between, compare, table, usual_mix};
use crate::load::{LoadOptions, LoadReport, Step, run};

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
        (self.conservation.attributed_ns + self.conservation.shared_ns) as f64
            / self.conservation.process_ns.max(1) as f64
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
        let losses: Vec<String> = Loss::ALL
            .iter()
            .filter(|loss| self.lost(**loss) > 0)
            .map(|loss| format!("{}={}", loss.label(), self.lost(*loss)))
            .collect();
        format!(
            "{}process {:.2} ms (own clock {:.2} ms), attributed {:.2} ms ({:.1} %), unattributed {:.2} ms, begun {}, \
             finished {}, still ongoing {}, failed {}; losses: {}\n",
            table(&self.deviations),
            c.process_ns as f64 / 1e6,
            self.process_cpu_ns as f64 / 1e6,
            c.attributed_ns as f64 / 1e6,
            100.0 * self.coverage(),
            c.unattributed_ns as f64 / 1e6,
            c.started,
            c.finished,
            self.left_ongoing,
            self.report.failures,
            if losses.is_empty() { "none".to_owned() } else { losses.join(" ") },
        )
    }
}

/// Runs a case under a slot of its own.
pub fn measure(kernel: &mut Kernel, case: &Case) -> anyhow::Result<Measured> {
    let args: Vec<&str> = case.server.iter().map(String::as_str).collect();
    let burn = Burn::start(&args)?;
    kernel.register_service(0, &patterns())?;
    let slot = kernel.open_slot(0, endpoint_count())?;
    // The parent first: what it forks from here on inherits the slot, and what it forked before is in the list.
    kernel.watch(burn.pid(), slot);
    for pid in family(burn.pid())? {
        kernel.watch(pid, slot);
    }
    let measured = measure_watched(kernel, case, &burn, slot);
    for pid in family(burn.pid())? {
        kernel.unwatch(pid);
    }
    drop(burn);
    std::thread::sleep(Duration::from_millis(20));
    kernel.close_slot(slot)?;
    measured.with_context(|| case.name.clone())
}

fn measure_watched(kernel: &mut Kernel, case: &Case, burn: &Burn, slot: u16) -> anyhow::Result<Measured> {
    let mut ticks = Ticks::default();
    let before = burn.stats()?;
    std::thread::sleep(Duration::from_millis(60));
    ticks.add(kernel.tick(mono_ns())?);
    let base = ticks.conservation(slot);
    let figures_before = figures(kernel, slot)?;
    let options = LoadOptions {
        concurrency: case.concurrency,
        keep_alive: case.keep_alive,
        head_pieces: case.head_pieces,
        expect_continue: case.expect_continue,
        ..LoadOptions::new(burn.target().clone(), case.steps.clone(), case.requests)
    };
    ticks = Ticks::default();
    let report = run(options)?;
    // The account is asked for after the figures, so that asking is in neither.
    std::thread::sleep(Duration::from_millis(100));
    ticks.add(kernel.tick(mono_ns())?);
    let now = ticks.conservation(slot);
    let figures_after = figures(kernel, slot)?;
    let left_ongoing = kernel.ongoing().iter().filter(|request| request.build_slot == slot).count();
    let after = burn.stats_after(&before, &report)?;

    let kernel_costs = figures_after
        .into_iter()
        .map(|(name, cost)| {
            let old: Cost = figures_before.get(&name).copied().unwrap_or_default();
            (name, Cost { count: cost.count - old.count, sum_ns: cost.sum_ns - old.sum_ns })
        })
        .filter(|(name, cost)| cost.count > 0 && name != "other")
        .collect();
    Ok(Measured {
        deviations: compare(&kernel_costs, &between(&before, &after)),
        report,
        conservation: Conservation {
            process_ns: now.process_ns - base.process_ns,
            attributed_ns: now.attributed_ns - base.attributed_ns,
            shared_ns: now.shared_ns - base.shared_ns,
            unattributed_ns: now.unattributed_ns - base.unattributed_ns,
            started: now.started - base.started,
            finished: now.finished - base.finished,
        },
        process_cpu_ns: after.process_cpu_ns - before.process_cpu_ns,
        samples: ticks.samples,
        losses: ticks.losses,
        left_ongoing,
    })
}

/// The kernel's count and sum by endpoint.
pub fn figures(kernel: &Kernel, slot: u16) -> anyhow::Result<BTreeMap<String, Cost>> {
    let mut all = BTreeMap::<String, Cost>::new();
    for (key, series) in kernel.series()? {
        if key.build_slot != slot {
            continue;
        }
        let name = match usize::from(key.endpoint).checked_sub(1).and_then(|index| ENDPOINTS.get(index)) {
            Some((name, ..)) => name,
            None => "other",
        };
        let cost = all.entry(name.to_owned()).or_default();
        cost.count += series.count;
        cost.sum_ns += series.oncpu_sum_ns;
    }
    Ok(all)
}

/// What several ticks brought together.
#[derive(Debug, Default)]
pub struct Ticks {
    pub samples: Vec<Sample>,
    pub losses: [u64; Loss::ALL.len()],
    last: Vec<(u16, Conservation)>,
}

impl Ticks {
    pub fn add(&mut self, tick: Tick) {
        self.samples.extend(tick.samples);
        for (sum, more) in self.losses.iter_mut().zip(tick.losses) {
            *sum += more;
        }
        self.last = tick.conservation;
    }

    pub fn conservation(&self, slot: u16) -> Conservation {
        self.last.iter().find(|(s, _)| *s == slot).map(|(_, figures)| *figures).unwrap_or_default()
    }
}

/// A process and its children, as they are now.
pub fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        let path = format!("/proc/{0}/task/{0}/children", all[next]);
        if let Ok(text) = std::fs::read_to_string(&path) {
            all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
        next += 1;
    }
    Ok(all)
}
