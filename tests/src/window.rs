//! What the kernel programs count under a slot over a span of time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use watchdog::clock::mono_ns;
use watchdog::kernel::tick::{StreamRequest, Tick};
use watchdog::kernel::{EndpointPattern, Kernel};
use watchdog_common::types::{Conservation, Loss, Sample};

use crate::burn::meter;
use crate::burn::stats::Cost;

/// For what was under way to come to rest: requests are finished when their thread next sleeps.
const SETTLES_WITHIN: Duration = Duration::from_millis(100);

/// Processes with their children, watched under a slot of their own. To be [`Watched::release`]d.
#[derive(Debug)]
pub struct Watched {
    pub slot: u16,
    roots: Vec<u32>,
}

impl Watched {
    /// Takes a slot of `service`, tells the kernel its endpoints, and watches.
    pub fn open(
        kernel: &mut Kernel,
        service: u32,
        patterns: &[EndpointPattern],
        roots: &[u32],
    ) -> anyhow::Result<Self> {
        kernel.register_service(service, patterns)?;
        let endpoints = u16::try_from(patterns.len() + 1).context("too many endpoints")?;
        let slot = kernel.open_slot(service, endpoints)?;
        let watched = Self { slot, roots: roots.to_vec() };
        // The parents first: what they fork from here on inherits the slot, and what they forked before is in the list.
        for pid in roots {
            kernel.watch(*pid, slot);
        }
        for pid in watched.pids()? {
            kernel.watch(pid, slot);
        }
        Ok(watched)
    }

    /// The processes as they are now.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = Vec::new();
        for root in &self.roots {
            all.extend(family(*root)?);
        }
        Ok(all)
    }

    /// CPU of the processes by their own clocks, nanoseconds by process.
    pub fn cpu_ns(&self) -> anyhow::Result<BTreeMap<u32, u64>> {
        Ok(self.pids()?.into_iter().filter_map(|pid| Some((pid, meter::process_cpu_ns(pid)?))).collect())
    }

    /// Watches no more. The slot is given back with [`Kernel::close_slot`] once the processes have ended.
    pub fn release(&self, kernel: &mut Kernel) -> anyhow::Result<()> {
        for pid in self.pids()? {
            kernel.unwatch(pid);
        }
        Ok(())
    }
}

/// What was counted under one slot.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// By endpoint number and status class.
    pub costs: BTreeMap<(u16, u16), Cost>,
    /// Of their sums, what was attributed by inference.
    pub inferred_ns: u64,
    pub conservation: Conservation,
    /// Requests that the kernel still holds.
    pub left_ongoing: usize,
}

impl Account {
    /// The figures of a slot as they stand after a tick.
    fn read(kernel: &Kernel, slot: u16, ticks: &Ticks) -> anyhow::Result<Self> {
        let mut account = Self {
            conservation: ticks.conservation(slot),
            left_ongoing: kernel.ongoing().iter().filter(|request| request.build_slot == slot).count(),
            ..Self::default()
        };
        for (key, series) in kernel.series()?.into_iter().filter(|(key, _)| key.build_slot == slot) {
            let cost = Cost { count: series.count, sum_ns: series.oncpu_sum_ns };
            account.costs.insert((key.endpoint, key.status_class), cost);
            account.inferred_ns += series.inferred_ns;
        }
        Ok(account)
    }

    fn since(mut self, before: &Self) -> Self {
        for (key, cost) in &mut self.costs {
            let old = before.costs.get(key).copied().unwrap_or_default();
            cost.count -= old.count;
            cost.sum_ns -= old.sum_ns;
        }
        self.costs.retain(|_, cost| cost.count > 0 || cost.sum_ns > 0);
        self.inferred_ns -= before.inferred_ns;
        let (now, old) = (&mut self.conservation, &before.conservation);
        now.process_ns -= old.process_ns;
        now.attributed_ns -= old.attributed_ns;
        now.shared_ns -= old.shared_ns;
        now.kept_ns = now.kept_ns.wrapping_sub(old.kept_ns);
        now.unattributed_ns -= old.unattributed_ns;
        now.started -= old.started;
        now.finished -= old.finished;
        self
    }

    /// An endpoint's requests over all status classes.
    pub fn of(&self, endpoint: u16) -> Cost {
        self.costs.iter().filter(|((of, _), _)| *of == endpoint).fold(Cost::default(), |sum, (_, cost)| {
            Cost { count: sum.count + cost.count, sum_ns: sum.sum_ns + cost.sum_ns }
        })
    }

    pub fn coverage(&self) -> f64 {
        coverage(&self.conservation)
    }

    /// What was given to requests, to a runtime's housekeeping or to nobody: all of the processes' time, if nothing
    /// was given twice or forgotten.
    pub fn given_ns(&self) -> u64 {
        let figures = &self.conservation;
        (figures.attributed_ns + figures.shared_ns + figures.unattributed_ns).wrapping_add(figures.kept_ns)
    }
}

/// Attributed time, and what serves the runtime, over the processes' time.
pub fn coverage(figures: &Conservation) -> f64 {
    (figures.attributed_ns + figures.shared_ns) as f64 / figures.process_ns.max(1) as f64
}

/// A span of time over which slots are looked at.
#[derive(Debug)]
pub struct Window {
    before: BTreeMap<u16, Account>,
}

/// The figures of a [`Window`].
#[derive(Debug)]
pub struct Seen {
    pub accounts: BTreeMap<u16, Account>,
    pub samples: Vec<Sample>,
    /// Requests of HTTP/2, of all slots.
    pub streams: Vec<StreamRequest>,
    pub losses: [u64; Loss::ALL.len()],
}

impl Window {
    pub fn open(kernel: &mut Kernel, slots: &[u16]) -> anyhow::Result<Self> {
        Ok(Self { before: read(kernel, slots)?.accounts })
    }

    pub fn close(self, kernel: &mut Kernel) -> anyhow::Result<Seen> {
        let slots: Vec<u16> = self.before.keys().copied().collect();
        let mut seen = read(kernel, &slots)?;
        for (slot, account) in &mut seen.accounts {
            *account = std::mem::take(account).since(&self.before[slot]);
        }
        Ok(seen)
    }
}

fn read(kernel: &mut Kernel, slots: &[u16]) -> anyhow::Result<Seen> {
    std::thread::sleep(SETTLES_WITHIN);
    let mut ticks = Ticks::default();
    ticks.add(kernel.tick(mono_ns())?);
    let accounts: anyhow::Result<_> =
        slots.iter().map(|slot| Ok((*slot, Account::read(kernel, *slot, &ticks)?))).collect();
    Ok(Seen { accounts: accounts?, samples: ticks.samples, streams: ticks.streams, losses: ticks.losses })
}

/// What several ticks brought together.
#[derive(Debug, Default)]
pub struct Ticks {
    pub samples: Vec<Sample>,
    pub streams: Vec<StreamRequest>,
    pub losses: [u64; Loss::ALL.len()],
    last: Vec<(u16, Conservation)>,
}

impl Ticks {
    pub fn add(&mut self, tick: Tick) {
        self.samples.extend(tick.samples);
        self.streams.extend(tick.streams);
        for (sum, more) in self.losses.iter_mut().zip(tick.losses) {
            *sum += more;
        }
        self.last = tick.conservation;
    }

    pub fn conservation(&self, slot: u16) -> Conservation {
        self.last.iter().find(|(s, _)| *s == slot).map(|(_, figures)| *figures).unwrap_or_default()
    }
}

/// The losses that happened, as `reason=count`; "none" where nothing was lost.
pub fn losses_told(losses: &[u64; Loss::ALL.len()]) -> String {
    let told: Vec<String> = Loss::ALL
        .iter()
        .map(|loss| (loss, losses[*loss as usize]))
        .filter(|(_, count)| *count > 0)
        .map(|(loss, count)| format!("{}={count}", loss.label()))
        .collect();
    if told.is_empty() { "none".to_owned() } else { told.join(" ") }
}

/// A process and its children, as they are now.
pub fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        // Each thread lists the children that it forked itself. One that ends meanwhile has none.
        for thread in std::fs::read_dir(format!("/proc/{}/task", all[next])).into_iter().flatten().flatten() {
            if let Ok(text) = std::fs::read_to_string(thread.path().join("children")) {
                all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
            }
        }
        next += 1;
    }
    Ok(all)
}
