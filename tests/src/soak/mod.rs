//! The soak: the real agent beside servers that come and go, for as long as one likes, and a look at what is left.
//!
//! All the while: a burn server deployed anew every few seconds, one that forks its children again and again, gunicorn
//! and nginx reloaded, connections that are opened and thrown away, programs started, and a second set of kernel
//! programs attached and detached. Requests come at fixed rates and none may fail. Afterwards the agent's maps must
//! hold what they held before the first server came, its memory must not have grown, and CPU time must still add up.

mod churn;
pub mod maps;
pub mod memory;
pub mod servers;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use watchdog_common::types::Conservation;

use crate::agent::site::{GOOD_US, Site};
use crate::agent::{Agent, bpf};
use crate::harness::{Burn, usual_mix};
use crate::load::{LoadOptions, Step, Target};
use churn::{Churned, Driven};
use maps::{Entries, Maps};
use memory::Memory;
pub use verdict::judge;

/// Shortest soak that says anything: half of it is warm-up.
pub const SHORTEST: Duration = Duration::from_secs(30);
const WATCHED_WITHIN: Duration = Duration::from_secs(30);
/// Slots are closed 2 s after their last process, and requests swept every 5 s.
const EMPTY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Requests of the last look at conservation.
const LAST_REQUESTS: u64 = 400;

/// All figures of a soak.
#[derive(Debug)]
pub struct Outcome {
    pub elapsed: Duration,
    pub driven: Vec<Driven>,
    pub churned: Churned,
    /// Before the first server, at most in between (each figure on its own), and after the last server.
    pub before: Entries,
    pub most: Entries,
    pub after: Entries,
    /// Whose states are left.
    pub owners: Vec<String>,
    pub memory: Memory,
    pub descriptors: (usize, usize),
    pub services: Vec<ServiceFigures>,
    pub last: Last,
    /// What the agent left behind in the kernel.
    pub programs_left: usize,
    pub maps_left: usize,
    pub agent_exit: String,
    pub losses: Vec<(String, f64)>,
    pub tick_errors: f64,
}

/// A service as the agent's metrics tell it at the end; seconds.
#[derive(Debug)]
pub struct ServiceFigures {
    pub name: &'static str,
    pub requests: f64,
    pub process: f64,
    pub attributed: f64,
    pub shared: f64,
    pub unattributed: f64,
}

/// One server under load at the very end.
#[derive(Debug)]
pub struct Last {
    pub figures: Conservation,
    pub own_clock_ns: u64,
    pub failures: u64,
}

/// Names of the services; requests of those that keep their process (or its parent) are counted exactly.
pub const SERVICES: [&str; 5] = ["web", "kept", "forking", "gunicorn", "nginx"];

struct Fleet {
    kept: Burn,
    forking: Burn,
    gunicorn: servers::Reloading,
    nginx: servers::Reloading,
}

/// Runs for `time`. Fails when something could not be run; [`judge`] says whether the promises hold.
pub fn run(time: Duration) -> anyhow::Result<Outcome> {
    ensure!(
        time >= SHORTEST,
        "a soak of {} s says nothing: at least {} s",
        time.as_secs(),
        SHORTEST.as_secs()
    );
    let site = Site::new()?;
    site.configure(&servers::services(&site)?)?;
    let mut agent = Agent::start(&site)?;
    let maps = Maps::of(agent.pid())?;
    let programs = bpf::programs_of(agent.pid())?;
    let before = maps.entries()?;

    let fleet = Fleet::start(&site)?;
    let web = site.deploy("r0", GOOD_US)?;
    Fleet::wait_until_watched(&agent)?;

    let descriptors = descriptors_of(agent.pid())?;
    let mut soaked = soak(time, &site, &fleet, web, &agent, &maps)?;
    let last = fleet.last(&maps)?;
    let services = services_of(&agent)?;
    let losses = losses_of(&agent)?;
    let tick_errors = agent.metrics()?.sum("load_watchdog_tick_errors_total", &[]).unwrap_or(0.0);
    let descriptors = (descriptors, descriptors_of(agent.pid())?);

    drop(soaked.web.take());
    drop(fleet);
    let after = empty_again(&maps, &before)?;
    let owners = maps.owners()?;
    let map_ids = maps.ids();
    drop(maps);
    agent.signal(Signal::SIGTERM)?;
    let status = agent.wait_for_end(Duration::from_secs(10))?;
    let gone = |left: &dyn Fn() -> usize| {
        let end = Instant::now() + Duration::from_secs(5);
        while left() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        left()
    };
    Ok(Outcome {
        elapsed: soaked.elapsed,
        driven: soaked.driven,
        churned: soaked.churned,
        before,
        most: soaked.most,
        after,
        owners,
        memory: soaked.memory,
        descriptors,
        services,
        last,
        programs_left: gone(&|| programs.iter().filter(|id| bpf::is_loaded(**id)).count()),
        maps_left: gone(&|| map_ids.iter().filter(|id| maps::is_there(**id)).count()),
        agent_exit: status.to_string(),
        losses,
        tick_errors,
    })
}

struct Soaked {
    elapsed: Duration,
    driven: Vec<Driven>,
    churned: Churned,
    most: Entries,
    memory: Memory,
    web: Option<Burn>,
}

/// Load and churn, and a look at the agent every second.
fn soak(
    time: Duration,
    site: &Site,
    fleet: &Fleet,
    web: Burn,
    agent: &Agent,
    maps: &Maps,
) -> anyhow::Result<Soaked> {
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let (driven, churned, most, memory, web) = std::thread::scope(|scope| {
        let loads: Vec<_> = fleet
            .loads(site)
            .into_iter()
            .map(|(name, options)| {
                let stop = &stop;
                scope.spawn(move || churn::drive(name, &options, stop))
            })
            .collect();
        let deploys = scope.spawn(|| churn::deploy(site, web, &stop));
        let reloads = scope.spawn(|| churn::reload(&[&fleet.gunicorn, &fleet.nginx], &stop));
        let attachments = scope.spawn(|| churn::attach(fleet.kept.pid(), &stop));
        let thrown = scope.spawn(|| churn::throw_away(fleet.kept.target(), &stop));
        let programs = scope.spawn(|| churn::start_programs(&stop));

        let mut memory = Memory::default();
        let mut most = Entries::default();
        let looked = loop {
            let look = memory.add(begun.elapsed(), agent.pid()).and_then(|()| maps.entries());
            match look {
                Ok(now) => most = most.at_least(&now),
                Err(error) => break Err(error),
            }
            if begun.elapsed() + LOOK_EVERY > time {
                break Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        };
        stop.store(true, Ordering::Relaxed);
        let join = |name| move |_| anyhow::anyhow!("{name} panicked; the reason is above");
        let driven = loads
            .into_iter()
            .map(|load| load.join().map_err(join("a load"))?)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (web, deploys) = deploys.join().map_err(join("deploying"))??;
        let (thrown_away, half_requests) = thrown.join().map_err(join("connecting"))??;
        let churned = Churned {
            deploys,
            reloads: reloads.join().map_err(join("reloading"))??,
            attachments: attachments.join().map_err(join("attaching"))??,
            thrown_away,
            half_requests,
            programs: programs.join().map_err(join("starting programs"))??,
        };
        looked?;
        anyhow::Ok((driven, churned, most, memory, web))
    })?;
    Ok(Soaked { elapsed: begun.elapsed(), driven, churned, most, memory, web: Some(web) })
}

impl Fleet {
    fn start(site: &Site) -> anyhow::Result<Self> {
        let nginx = crate::servers::nginx()?;
        Ok(Self {
            kept: servers::start_burn(site, "kept", &[])?,
            forking: servers::start_burn(site, "forking", &["--model", "prefork", "--refork-after", "10"])?,
            gunicorn: servers::start_gunicorn(site.folder())?,
            nginx: servers::start_nginx(&nginx, site.folder())?,
        })
    }

    fn wait_until_watched(agent: &Agent) -> anyhow::Result<()> {
        agent.wait_for("every service to be watched", WATCHED_WITHIN, |agent| {
            let metrics = agent.metrics()?;
            let of = |name| metrics.sum("load_watchdog_watched_processes", &[("service", name)]);
            let all = SERVICES.iter().zip([1.0, 1.0, 5.0, 3.0, 3.0]);
            Ok(all.into_iter().all(|(name, least)| of(name).is_some_and(|it| it >= least)).then_some(()))
        })
    }

    fn loads(&self, site: &Site) -> Vec<(&'static str, LoadOptions)> {
        let light = || {
            vec![
                Step::post("login", "/login", "user=ann&password=secret"),
                Step::get("browse", "/browse").weighing(3),
            ]
        };
        let at = |target: Target, rate: f64, keep_alive: bool| LoadOptions {
            concurrency: 4,
            requests: None,
            rate: Some(rate),
            keep_alive,
            ..LoadOptions::new(target, light(), 1)
        };
        vec![
            ("web", LoadOptions { requests: None, rate: Some(20.0), concurrency: 2, ..site.visitors(1) }),
            ("kept", LoadOptions { steps: usual_mix(), ..at(self.kept.target().clone(), 40.0, true) }),
            ("forking", at(self.forking.target().clone(), 20.0, false)),
            ("gunicorn", at(self.gunicorn.target(), 20.0, false)),
            ("nginx", at(self.nginx.target(), 60.0, false)),
        ]
    }

    /// Loads the server that was there all the time once more, by itself, and reads the maps.
    fn last(&self, maps: &Maps) -> anyhow::Result<Last> {
        let pid = self.kept.pid();
        let slot = maps.slot_of(pid)?;
        ensure!(slot != 0, "the server that stayed is not watched any more");
        let settle = || std::thread::sleep(Duration::from_millis(300));
        settle();
        let (before, clock_before) = (maps.conservation(slot)?, cpu_of(pid)?);
        let options = LoadOptions {
            concurrency: 4,
            ..LoadOptions::new(self.kept.target().clone(), usual_mix(), LAST_REQUESTS)
        };
        let report = crate::load::run(options)?;
        settle();
        let (now, clock) = (maps.conservation(slot)?, cpu_of(pid)?);
        Ok(Last {
            figures: Conservation {
                process_ns: now.process_ns - before.process_ns,
                attributed_ns: now.attributed_ns - before.attributed_ns,
                shared_ns: now.shared_ns - before.shared_ns,
                kept_ns: now.kept_ns.wrapping_sub(before.kept_ns),
                unattributed_ns: now.unattributed_ns - before.unattributed_ns,
                started: now.started - before.started,
                finished: now.finished - before.finished,
            },
            own_clock_ns: u64::try_from(clock.saturating_sub(clock_before).as_nanos())?,
            failures: report.failures,
        })
    }
}

impl Entries {
    /// The larger of each figure.
    fn at_least(self, other: &Self) -> Self {
        Self {
            watched: self.watched.max(other.watched),
            watched_dead: self.watched_dead.max(other.watched_dead),
            ongoing: self.ongoing.max(other.ongoing),
            series: self.series.max(other.series),
            threads: self.threads.max(other.threads),
            sockets: self.sockets.max(other.sockets),
            memory_kib: self.memory_kib.max(other.memory_kib),
        }
    }
}

/// Waits until the maps hold no more than before, and tells what they hold then.
fn empty_again(maps: &Maps, before: &Entries) -> anyhow::Result<Entries> {
    let end = Instant::now() + EMPTY_WITHIN;
    loop {
        let now = maps.entries()?;
        if verdict::leftovers(before, &now).is_empty() || Instant::now() > end {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

fn services_of(agent: &Agent) -> anyhow::Result<Vec<ServiceFigures>> {
    let metrics = agent.metrics()?;
    let of = |name: &str, service| metrics.sum(name, &[("service", service)]).unwrap_or(0.0);
    let service = |name| ServiceFigures {
        name,
        requests: of("load_watchdog_requests_total", name),
        process: of("load_watchdog_service_cpu_seconds_total", name),
        attributed: of("load_watchdog_attributed_cpu_seconds_total", name),
        shared: of("load_watchdog_shared_cpu_seconds_total", name),
        unattributed: of("load_watchdog_unattributed_cpu_seconds_total", name),
    };
    Ok(SERVICES.map(service).into())
}

fn losses_of(agent: &Agent) -> anyhow::Result<Vec<(String, f64)>> {
    let metrics = agent.metrics()?;
    let all = watchdog_common::types::Loss::ALL.iter().filter_map(|loss| {
        let count = metrics.sum("load_watchdog_lost_total", &[("reason", loss.label())])?;
        (count > 0.0).then(|| (loss.label().to_owned(), count))
    });
    Ok(all.collect())
}

fn descriptors_of(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// User and system CPU of a process.
fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
    Ok(nix::time::clock_gettime(clock)?.into())
}
