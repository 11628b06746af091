//! Puts a mixed load on a server and sets what the kernel programs say beside what the application itself measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use watchdog::kernel::tick::StreamRequest;
use watchdog::kernel::{EndpointPattern, Kernel};
use watchdog_common::types::Loss;

use super::contend::BusyLoops;
use super::{Running, Server, mix};
use crate::burn::stats::Cost;
use crate::load::{LoadOptions, LoadReport, Step, Target, run};
use crate::window::{Account, Watched, Window};

/// The kernel's endpoints; the number of each is its place plus one.
const ENDPOINTS: [(&str, &str); 3] = [("POST", "/login"), ("GET", "/browse"), ("GET", "/report")];
/// What of the difference between the process's CPU and the application's own figures may be a server's own work on a
/// request. More would hide what was charged wrongly. In a process that ends TLS itself, agreeing on keys takes 2 to 3 ms
/// for each connection.
const MAX_OVERHEAD_NS: f64 = 2e6;
const MAX_OVERHEAD_WITH_TLS_NS: f64 = 4e6;
/// Loads what is loaded late, and starts what is started late.
const WARM_UP: Trial =
    Trial { concurrency: 8, keep_alive: true, requests: 120, contended: false, distant: false };
/// Requests of one kind, one after another, from which its cost is learned where the application cannot tell it.
const CALIBRATION: Trial = Trial { concurrency: 1, requests: 60, ..WARM_UP };

/// Longer than any server looks for a request on a connection that it has just accepted.
const DISTANCE: Duration = Duration::from_millis(3);

/// A load, and what runs beside it.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub concurrency: usize,
    pub keep_alive: bool,
    pub requests: u64,
    /// Two loops compete for the CPUs.
    pub contended: bool,
    /// The first request of a connection comes a while after it, as over a network.
    pub distant: bool,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = if self.keep_alive { "keep-alive" } else { "closing" };
        let contended = if self.contended { ", contended" } else { "" };
        let distant = if self.distant { ", distant" } else { "" };
        write!(f, "concurrency {}, {connections}{contended}{distant}", self.concurrency)
    }
}

/// A started and watched server.
#[derive(Debug)]
pub struct Session {
    running: Running,
    watched: Watched,
    fronts: Vec<(&'static str, Watched)>,
    /// Nanoseconds of process CPU by kind of request, for an application that has no thread CPU clock.
    calibrated: Option<BTreeMap<String, f64>>,
}

/// One kind of request under a load.
#[derive(Clone, Debug)]
pub struct Line {
    pub step: String,
    /// Requests answered.
    pub sent: u64,
    pub kernel: Cost,
    /// Mean of the application's own figures, nanoseconds. Where it has none, what the kind cost alone, or, for
    /// logins, what the others left of the process's CPU; without the server's own part either way.
    pub own_ns: f64,
}

/// What both sides say of a trial.
#[derive(Debug)]
pub struct Outcome {
    pub trial: Trial,
    pub lines: Vec<Line>,
    /// CPU of the server per request beside the application's own figures, nanoseconds, as far as it is believed.
    pub overhead_ns: f64,
    /// Whether the application itself has told its figures.
    pub told_by_application: bool,
    pub account: Account,
    /// By the processes' own clocks.
    pub process_cpu_ns: u64,
    pub fronts: Vec<Front>,
    /// Requests of HTTP/2 that the server's processes were seen to serve.
    pub streams: Vec<StreamRequest>,
    pub losses: [u64; Loss::ALL.len()],
    pub report: LoadReport,
}

/// A proxy's part of a trial.
#[derive(Debug)]
pub struct Front {
    pub name: &'static str,
    /// Requests answered and requests counted, by kind.
    pub counts: Vec<(String, u64, u64)>,
    pub account: Account,
    pub process_cpu_ns: u64,
}

impl Session {
    /// Starts the server, sends some requests, and watches its processes once they are idle.
    pub fn open(kernel: &mut Kernel, server: &Server) -> anyhow::Result<Self> {
        let running = (server.start)().with_context(|| format!("starting {}", server.name))?;
        let patterns = patterns();
        let watched = Watched::open(kernel, 0, &patterns, &running.roots)?;
        let mut fronts = Vec::new();
        for (service, (name, pid)) in (1..).zip(&running.fronts) {
            fronts.push((*name, Watched::open(kernel, service, &patterns, &[*pid])?));
        }
        let mut session = Self { running, watched, fronts, calibrated: None };
        let warmed = session.load(WARM_UP, mix())?;
        ensure!(
            warmed.failures == 0,
            "{} requests failed while warming up: {:?}",
            warmed.failures,
            warmed.failed
        );
        session.settle()?;
        if warmed.own("login").count == 0 {
            session.calibrated = Some(session.calibrate()?);
        }
        Ok(session)
    }

    pub fn target(&self) -> &Target {
        &self.running.target
    }

    /// The build slot under which the server is watched.
    pub fn slot(&self) -> u16 {
        self.watched.slot
    }

    /// Loads the server and compares.
    pub fn run(&self, kernel: &mut Kernel, trial: Trial) -> anyhow::Result<Outcome> {
        let slots: Vec<u16> =
            self.fronts.iter().map(|(_, watched)| watched.slot).chain([self.watched.slot]).collect();
        let busy = trial.contended.then(BusyLoops::start);
        let window = Window::open(kernel, &slots)?;
        let clocks = self.clocks()?;
        let report = self.load(trial, mix())?;
        let mut seen = window.close(kernel)?;
        let process_cpu = elapsed(&clocks, &self.clocks()?)?;
        drop(busy);
        let mut account_of = |watched: &Watched| {
            seen.accounts.remove(&watched.slot).context("the kernel has no account of the slot")
        };
        let account = account_of(&self.watched)?;
        let mut fronts = Vec::new();
        for ((name, watched), process_cpu_ns) in self.fronts.iter().zip(&process_cpu[1..]) {
            let account = account_of(watched)?;
            let counts = mix().into_iter().map(|step| {
                let counted = cost_of(&account, &step).count;
                let sent = report.count(&step.name);
                (step.name, sent, counted)
            });
            fronts.push(Front { name, counts: counts.collect(), account, process_cpu_ns: *process_cpu_ns });
        }
        let by_requests_ns = process_cpu[0].saturating_sub(account.conservation.shared_ns);
        let (own, overhead_ns) = self.own_figures(&report, by_requests_ns as f64);
        let lines = mix().into_iter().zip(own).map(|(step, own_ns)| Line {
            sent: report.count(&step.name),
            kernel: cost_of(&account, &step),
            step: step.name,
            own_ns,
        });
        Ok(Outcome {
            trial,
            lines: lines.collect(),
            overhead_ns,
            told_by_application: self.calibrated.is_none(),
            account,
            process_cpu_ns: process_cpu[0],
            fronts,
            streams: seen.streams.into_iter().filter(|one| one.build_slot == self.watched.slot).collect(),
            losses: seen.losses,
            report,
        })
    }

    /// Watches no more and ends the server.
    pub fn close(self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let slots: Vec<&Watched> =
            self.fronts.iter().map(|(_, watched)| watched).chain([&self.watched]).collect();
        for watched in &slots {
            watched.release(kernel)?;
        }
        drop(self.running);
        for watched in slots {
            kernel.close_slot(watched.slot)?;
        }
        Ok(())
    }

    fn load(&self, trial: Trial, steps: Vec<Step>) -> anyhow::Result<LoadReport> {
        run(LoadOptions {
            concurrency: trial.concurrency,
            keep_alive: trial.keep_alive,
            head_pause: if trial.distant { DISTANCE } else { Duration::ZERO },
            ..LoadOptions::new(self.running.target.clone(), steps, trial.requests)
        })
    }

    /// The processes' clocks: the server's first, then those of what stands before it.
    fn clocks(&self) -> anyhow::Result<Vec<BTreeMap<u32, u64>>> {
        std::iter::once(&self.watched)
            .chain(self.fronts.iter().map(|(_, watched)| watched))
            .map(Watched::cpu_ns)
            .collect()
    }

    /// Waits until the server does next to nothing.
    fn settle(&self) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(200);
        const IDLE_NS: u64 = 4_000_000;
        let end = Instant::now() + Duration::from_secs(10);
        let mut before = self.clocks()?;
        loop {
            std::thread::sleep(PAUSE);
            let now = self.clocks()?;
            // Processes that come or go are no rest either.
            if elapsed(&before, &now).is_ok_and(|used| used.iter().sum::<u64>() < IDLE_NS) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the server does not come to rest without requests");
            before = now;
        }
    }

    /// What each kind of request costs alone, server's part included.
    fn calibrate(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let mut costs = BTreeMap::new();
        for step in mix().into_iter().filter(|step| step.name != "login") {
            let name = step.name.clone();
            let before = self.clocks()?;
            let report = self.load(CALIBRATION, vec![step])?;
            ensure!(report.failures == 0, "{} requests failed while calibrating {name}", report.failures);
            self.settle()?;
            let used = elapsed(&before, &self.clocks()?)?[0];
            costs.insert(name, used as f64 / report.requests as f64);
        }
        Ok(costs)
    }

    fn max_overhead_ns(&self) -> f64 {
        match self.running.target {
            Target::Tls(_) => MAX_OVERHEAD_WITH_TLS_NS,
            _ => MAX_OVERHEAD_NS,
        }
    }

    /// Own mean of each kind, in the mix's order, and the server's part of a request, from the CPU of the processes
    /// without what serves their runtime.
    fn own_figures(&self, report: &LoadReport, process_ns: f64) -> (Vec<f64>, f64) {
        let Some(alone) = &self.calibrated else {
            let own: Vec<Cost> = mix().iter().map(|step| report.own(&step.name)).collect();
            let told_ns = own.iter().map(|cost| cost.sum_ns).sum::<u64>() as f64;
            let overhead_ns = (process_ns - told_ns) / report.requests.max(1) as f64;
            return (own.iter().map(Cost::mean_ns).collect(), overhead_ns.clamp(0.0, self.max_overhead_ns()));
        };
        // The sleeping endpoint does next to nothing itself.
        let overhead_ns = alone["report"].min(self.max_overhead_ns());
        let light_ns: f64 = alone.iter().map(|(name, cost)| cost * report.count(name) as f64).sum();
        let login_ns = (process_ns - light_ns) / report.count("login").max(1) as f64;
        let own = mix()
            .iter()
            .map(|step| (alone.get(&step.name).copied().unwrap_or(login_ns) - overhead_ns).max(0.0))
            .collect();
        (own, overhead_ns)
    }
}

impl Outcome {
    pub fn line(&self, step: &str) -> anyhow::Result<&Line> {
        self.lines.iter().find(|line| line.step == step).with_context(|| format!("no step {step}"))
    }

    /// Requests that the kernel counted under an endpoint or a status that was never asked for.
    pub fn strays(&self) -> u64 {
        strays(&self.account)
    }
}

pub(super) fn strays(account: &Account) -> u64 {
    let all: u64 = account.costs.values().map(|cost| cost.count).sum();
    all - mix().iter().map(|step| cost_of(account, step).count).sum::<u64>()
}

fn patterns() -> Vec<EndpointPattern> {
    (1..)
        .zip(ENDPOINTS)
        .map(|(index, (method, path))| EndpointPattern {
            index,
            method: Some(method.to_owned()),
            path: path.to_owned(),
        })
        .collect()
}

/// What the kernel counted for a step: its endpoint with its status.
fn cost_of(account: &Account, step: &Step) -> Cost {
    let endpoint = (1..)
        .zip(ENDPOINTS)
        .find(|(_, (method, path))| step.method == *method && step.path == *path)
        .map_or(0, |(index, _)| index);
    account.costs.get(&(endpoint, step.expect / 100)).copied().unwrap_or_default()
}

/// Nanoseconds of CPU between two readings of the clocks, for each group of processes.
fn elapsed(before: &[BTreeMap<u32, u64>], after: &[BTreeMap<u32, u64>]) -> anyhow::Result<Vec<u64>> {
    let group = |(before, after): (&BTreeMap<u32, u64>, &BTreeMap<u32, u64>)| {
        if let Some(pid) = before.keys().find(|pid| !after.contains_key(pid)) {
            bail!("process {pid} ended meanwhile, and what it used with it");
        }
        Ok(after.iter().map(|(pid, ns)| ns - before.get(pid).copied().unwrap_or(0)).sum())
    };
    before.iter().zip(after).map(group).collect()
}
