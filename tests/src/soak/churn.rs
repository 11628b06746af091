//! What happens during the soak, each in a thread of its own until it is told to stop.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use watchdog::clock::mono_ns;
use watchdog::kernel::{Kernel, KernelOptions};

use super::servers::Reloading;
use crate::agent::site::{GOOD_US, Site};
use crate::harness::Burn;
use crate::load::{Load, LoadOptions, Target};
use crate::measure::{endpoint_count, patterns};

/// A run of the load driver; it bounds its runs itself, so a long soak is many of them.
const ROUND: Duration = Duration::from_mins(1);
const DEPLOY_EVERY: Duration = Duration::from_secs(4);
const RELOAD_EVERY: Duration = Duration::from_secs(3);
const ATTACH_EVERY: Duration = Duration::from_secs(4);
/// How long a second set of programs stays.
const ATTACHED_FOR: Duration = Duration::from_secs(1);
const THROW_EVERY: Duration = Duration::from_millis(200);
const PROGRAM_EVERY: Duration = Duration::from_millis(250);
/// From a new build's start until it serves, and from then until the old one is ended.
const SETTLES: Duration = Duration::from_secs(1);

/// What one load has done.
#[derive(Clone, Debug)]
pub struct Driven {
    pub name: &'static str,
    pub requests: u64,
    pub connects: u64,
    pub failures: u64,
    /// The first failures.
    pub failed: Vec<String>,
}

/// How often things changed.
#[derive(Clone, Copy, Debug)]
pub struct Churned {
    pub deploys: u64,
    pub reloads: u64,
    pub attachments: u64,
    pub thrown_away: u64,
    /// Of these, with a request line: a request to the kernel, although nobody waited for its answer.
    pub half_requests: u64,
    pub programs: u64,
}

/// Sleeps, but not beyond the stop. Returns whether to go on.
fn pause(time: Duration, stop: &AtomicBool) -> bool {
    let end = Instant::now() + time;
    while !stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    false
}

pub(super) fn drive(name: &'static str, options: &LoadOptions, stop: &AtomicBool) -> anyhow::Result<Driven> {
    let mut driven = Driven { name, requests: 0, connects: 0, failures: 0, failed: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        let load = Load::start(LoadOptions { duration: Some(ROUND), ..options.clone() })?;
        while !load.is_finished() {
            if !pause(Duration::from_millis(100), stop) {
                load.stop();
                break;
            }
        }
        let report = load.wait();
        driven.requests += report.requests;
        driven.connects += report.connects;
        driven.failures += report.failures;
        let failed = report.failed.iter().map(|failure| format!("{}: {}", failure.name, failure.what));
        driven.failed.extend(failed.take(5));
        driven.failed.truncate(5);
    }
    Ok(driven)
}

/// Deploys the next of three builds again and again; returns the last one, and how many there were.
pub(super) fn deploy(site: &Site, first: Burn, stop: &AtomicBool) -> anyhow::Result<(Burn, u64)> {
    let mut serving = first;
    let mut deploys = 0;
    while pause(DEPLOY_EVERY, stop) {
        let build = format!("r{}", (deploys + 1) % 3);
        let next = site.start(&build, GOOD_US)?;
        std::thread::sleep(SETTLES);
        site.switch(&build)?;
        std::thread::sleep(SETTLES);
        // Its last requests were answered in the meantime.
        serving = next;
        deploys += 1;
    }
    Ok((serving, deploys))
}

pub(super) fn reload(servers: &[&Reloading], stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut reloads = 0;
    for server in servers.iter().cycle() {
        if !pause(RELOAD_EVERY, stop) {
            break;
        }
        server.reload()?;
        reloads += 1;
    }
    Ok(reloads)
}

/// Attaches a second set of kernel programs to a server that the agent watches too, and detaches it.
pub(super) fn attach(pid: u32, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut attachments = 0;
    while pause(ATTACH_EVERY, stop) {
        let mut kernel = Kernel::load(&KernelOptions::default())?;
        kernel.register_service(0, &patterns())?;
        let slot = kernel.open_slot(0, endpoint_count())?;
        kernel.watch(pid, slot);
        let end = Instant::now() + ATTACHED_FOR;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            kernel.tick(mono_ns())?;
        }
        drop(kernel);
        attachments += 1;
    }
    Ok(attachments)
}

/// Connections that say nothing, half of a head, or no HTTP at all, and go away.
///
/// Returns how many there were, and how many of them named a request.
pub(super) fn throw_away(target: &Target, stop: &AtomicBool) -> anyhow::Result<(u64, u64)> {
    const SAID: [&[u8]; 4] =
        [b"", b"POST /lo", b"GET /browse HTTP/1.1\r\nHost: so", b"\x16\x03\x01\x02\x00\x01"];
    let Target::Tcp(address) = target else { bail!("a server on a port was expected") };
    let (mut thrown, mut named) = (0, 0);
    for said in SAID.iter().cycle() {
        if !pause(THROW_EVERY, stop) {
            break;
        }
        let mut connection = TcpStream::connect(address).context("connecting")?;
        connection.write_all(said)?;
        std::thread::sleep(Duration::from_millis(20));
        thrown += 1;
        named += u64::from(said.contains(&b'\n'));
    }
    Ok((thrown, named))
}

/// Programs that nobody watches: the agent is told of each.
pub(super) fn start_programs(stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut programs = 0;
    while pause(PROGRAM_EVERY, stop) {
        let mut command = Command::new("/bin/true");
        command.stdin(Stdio::null()).status().context("starting /bin/true")?;
        programs += 1;
    }
    Ok(programs)
}
