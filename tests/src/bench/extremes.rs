//! What must not cost more when there is more of it: idle connections, and processes that nobody watches.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use watchdog::kernel::Uprobes;

use super::empty::Empty;
use super::watcher::{Draining, Programs, programs};
use super::{Plan, Run, cpu_ns, load, pin};
use crate::agent::Agent;
use crate::agent::site::Site;
use crate::harness::executable;
use crate::load::Target;
use crate::servers::nginx;
use crate::soak::servers::{Reloading, start_nginx};

/// Requests per second of the runs, far below saturation.
const RATE: f64 = 1_000.0;
/// The agent scans all processes every 5 s: two scans, at least.
const AGENT_TIME: Duration = Duration::from_secs(11);

/// The same load with none and with many of something.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    pub what: String,
    pub many: usize,
    /// A server's CPU per request, and the programs' time, with none and with many.
    pub none: (Run, Programs),
    pub with: (Run, Programs),
    /// CPU of the real agent in percent of a core, nothing under load; `None` where it is not asked for.
    pub agent_percent: Option<(f64, f64)>,
}

/// Context switches between two processes that nobody watches.
#[derive(Clone, Debug, Serialize)]
pub struct Switches {
    /// Of `sched_switch`, nanoseconds per run, and of a program that does nothing beside it, by pair.
    pub pairs: Vec<(f64, f64)>,
    pub switches: u64,
}

/// Ended when dropped.
struct Sleepers(Vec<Child>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// nginx on the first CPU, this process on the second.
fn server(site: &Site) -> anyhow::Result<Reloading> {
    pin(0)?;
    let nginx = nginx()?;
    let started = start_nginx(&nginx, site.folder());
    pin(1)?;
    started
}

fn measured(target: &Target, pid: u32, plan: &Plan) -> anyhow::Result<(Run, Programs)> {
    let guard = Draining::start(Uprobes::NONE, &[pid], &plan.steps, false)?;
    let (run, _) = load(target, &[pid], plan, Some(RATE))?;
    let counted = guard.end()?.counted;
    ensure!(counted > 0, "the kernel programs counted no request");
    Ok((Run { counted, ..run }, programs(target, &[pid], plan, RATE)?))
}

/// Connections that carried a request and stay open.
pub fn idle_connections(plan: &Plan, many: usize, tell: &dyn Fn(&str)) -> anyhow::Result<Growth> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = many as u64 + 500;
    ensure!(
        hard >= wanted,
        "{many} connections need {wanted} descriptors, and the limit is {hard}: ulimit -Hn"
    );
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    let site = Site::new()?;
    let server = server(&site)?;
    let Target::Tcp(address) = server.target() else { anyhow::bail!("a server on a port was expected") };
    let none = measured(&server.target(), server.id(), plan)?;
    tell(&format!("none: programs {:.0} ns per request", none.1.net_ns_per_request));
    // The programs that will be measured must know them, but those are loaded anew each time; an idle connection costs
    // memory where it was seen, and else nothing. So they are opened while a set of programs watches.
    let guard = Draining::start(Uprobes::NONE, &[server.id()], &plan.steps, false)?;
    let held = (0..many).map(|_| idle(address)).collect::<anyhow::Result<Vec<_>>>()?;
    let (run, _) = load(&server.target(), &[server.id()], plan, Some(RATE))?;
    let counted = guard.end()?.counted;
    ensure!(counted >= many as u64, "only {counted} requests were seen of {many} idle connections");
    let with = (Run { counted, ..run }, programs(&server.target(), &[server.id()], plan, RATE)?);
    tell(&format!("{many}: programs {:.0} ns per request", with.1.net_ns_per_request));
    drop(held);
    Ok(Growth {
        what: "idle connections to the watched server".to_owned(),
        many,
        none,
        with,
        agent_percent: None,
    })
}

fn idle(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("an idle connection")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /browse HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = [0_u8; 1024];
    ensure!(stream.read(&mut answer)? > 12, "an idle connection was not answered");
    Ok(stream)
}

/// Processes that sleep, and that nobody watches.
pub fn unwatched_processes(plan: &Plan, many: usize, tell: &dyn Fn(&str)) -> anyhow::Result<Growth> {
    let site = Site::new()?;
    let server = server(&site)?;
    let agent = |site: &Site| -> anyhow::Result<f64> {
        site.configure(&crate::soak::servers::services(site)?)?;
        let agent = Agent::start(site)?;
        // The first look at all processes is not what is asked for.
        std::thread::sleep(Duration::from_secs(2));
        let cpu = |agent: &Agent| -> anyhow::Result<u64> { Ok(cpu_ns(&[agent.pid()])?.values().sum()) };
        let before = cpu(&agent)?;
        std::thread::sleep(AGENT_TIME);
        Ok(100.0 * (cpu(&agent)? - before) as f64 / 1e9 / AGENT_TIME.as_secs_f64())
    };
    let none = measured(&server.target(), server.id(), plan)?;
    let percent = agent(&site)?;
    tell(&format!("none: programs {:.0} ns per request, agent {percent:.2} %", none.1.net_ns_per_request));
    let mut sleepers = Sleepers(Vec::new());
    for _ in 0..many {
        let sleeper = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
        sleepers.0.push(sleeper.context("a process that sleeps")?);
    }
    let with = measured(&server.target(), server.id(), plan)?;
    let percent_with = agent(&site)?;
    tell(&format!(
        "{many}: programs {:.0} ns per request, agent {percent_with:.2} %",
        with.1.net_ns_per_request
    ));
    Ok(Growth {
        what: "processes that nobody watches".to_owned(),
        many,
        none,
        with,
        agent_percent: Some((percent, percent_with)),
    })
}

/// `sched_switch` on processes that nobody watches, net of what the kernel's statistics cost.
pub fn switches(plan: &Plan, tell: &dyn Fn(&str)) -> anyhow::Result<Switches> {
    let mut all = Switches { pairs: Vec::new(), switches: 0 };
    for _ in 0..plan.pairs {
        let empty = Empty::attach("sched_switch")?;
        let draining = Draining::start(Uprobes::NONE, &[], &plan.steps, true)?;
        let (runs_before, ns_before) = empty.figures()?;
        let output = Command::new(executable("pingpong")?)
            .args(["--ms", &plan.run.as_millis().to_string()])
            .output()
            .context("cannot run pingpong")?;
        let (runs, ns) = empty.figures()?;
        let ended = draining.end()?;
        ensure!(output.status.success(), "pingpong: {}", String::from_utf8_lossy(&output.stderr));
        let ours = ended.programs.iter().find(|program| program.program == "sched_switch");
        let ours = ours.context("the kernel tells nothing of sched_switch")?;
        let pair = (ours.ns as f64 / ours.runs as f64, (ns - ns_before) as f64 / (runs - runs_before) as f64);
        tell(&format!("{:.1} ns per run, {:.1} ns of it the statistics'", pair.0, pair.1));
        all.switches += ours.runs;
        all.pairs.push(pair);
    }
    Ok(all)
}
