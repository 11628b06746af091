//! The real agent in a process of its own: started with a configuration, asked over its control socket, signalled and
//! killed by its process id.

pub mod bpf;
pub mod hours;
pub mod metrics;
pub mod scene;
pub mod site;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchdog::control::client::ask;
use watchdog::control::{self, BuildStatus, IncidentDetail, IncidentSummary, Outcome};
use watchdog::control::{ServiceStatus, StatusSnapshot};

use crate::harness::executable;
use crate::load::{Get, Target};

use metrics::Metrics;
use site::Site;

/// Loading the kernel programs takes the longest; much longer where other builds have the cores.
const READY_WITHIN: Duration = Duration::from_mins(1);
const POLL_EVERY: Duration = Duration::from_millis(20);
const SCRAPE_WITHIN: Duration = Duration::from_secs(5);
/// Lines of the log in the message of a failure.
const LOG_LINES: usize = 40;

/// States in which nothing more happens to an incident by itself.
pub const ENDED: [&str; 4] = ["recovered", "escalated", "observed", "closed"];

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    site: Site,
}

impl Agent {
    /// Starts the agent on a site's configuration and waits until it has looked at the processes once.
    pub fn start(site: &Site) -> anyhow::Result<Self> {
        Self::start_with(site, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(site: &Site, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut command = Self::command(site)?;
        command.envs(environment.iter().copied());
        Self::start_command(site, command)
    }

    /// The same as a command of its own, such as another copy of the program.
    pub fn start_command(site: &Site, mut command: Command) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(site.log())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the agent")?;
        let mut agent = Self { child, site: site.clone() };
        let end = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended ({status}):\n{}", agent.log_tail());
            }
            match agent.status() {
                Ok(_) => return Ok(agent),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("the agent does not answer:\n{}", agent.log_tail())));
                }
                Err(_) => std::thread::sleep(POLL_EVERY),
            }
        }
    }

    /// `load-watchdog run` on a site's configuration.
    pub fn command(site: &Site) -> anyhow::Result<Command> {
        Ok(Self::command_of(site, &executable("load-watchdog")?))
    }

    /// The same by another copy of the program.
    pub fn command_of(site: &Site, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(site.config());
        command
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn status(&self) -> anyhow::Result<StatusSnapshot> {
        match self.ask(control::Command::Status)? {
            Outcome::Status(status) => Ok(status),
            other => bail!("a status was asked for, and {other:?} came"),
        }
    }

    /// A service as `status` shows it.
    pub fn service(&self, name: &str) -> anyhow::Result<ServiceStatus> {
        let services = self.status()?.services;
        services
            .into_iter()
            .find(|service| service.service.as_str() == name)
            .with_context(|| format!("the agent knows no service {name}"))
    }

    /// A build of a service as `status` shows it; `None`: not seen.
    pub fn build(&self, service: &str, build: &str) -> anyhow::Result<Option<BuildStatus>> {
        let builds = self.service(service)?.builds;
        Ok(builds.into_iter().find(|candidate| candidate.build.as_str() == build))
    }

    /// Requests of a build on an endpoint that the agent has measured.
    pub fn requests(&self, service: &str, build: &str, endpoint: &str) -> anyhow::Result<u64> {
        let build = self.build(service, build)?;
        let endpoints = build.into_iter().flat_map(|build| build.endpoints);
        Ok(endpoints.filter(|it| it.endpoint.as_str() == endpoint).map(|it| it.requests).sum())
    }

    pub fn incidents(&self) -> anyhow::Result<Vec<IncidentSummary>> {
        match self.ask(control::Command::Incidents)? {
            Outcome::Incidents(incidents) => Ok(incidents),
            other => bail!("incidents were asked for, and {other:?} came"),
        }
    }

    pub fn incident(&self, id: &str) -> anyhow::Result<IncidentDetail> {
        match self.ask(control::Command::Incident { id: id.to_owned() })? {
            Outcome::Incident(detail) => Ok(detail),
            other => bail!("an incident was asked for, and {other:?} came"),
        }
    }

    pub fn ask(&self, command: control::Command) -> anyhow::Result<Outcome> {
        Ok(ask(&self.site.control(), command)?)
    }

    /// Waits until `condition` gives a value; otherwise the message has the last status and the end of the log.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(value) = condition(self).map_err(|error| self.explain(&error))? {
                return Ok(value);
            }
            if Instant::now() > end {
                let status = self.status().map_or_else(|error| error.to_string(), |s| format!("{s:#?}"));
                let late = anyhow!("not within {} s: {what}\n{status}", limit.as_secs_f64());
                return Err(self.explain(&late));
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// The only incident there is, once it is in one of these states.
    pub fn wait_for_incident(&self, states: &[&str], limit: Duration) -> anyhow::Result<IncidentSummary> {
        self.wait_for(&format!("an incident that is {}", states.join(" or ")), limit, |agent| {
            let incidents = agent.incidents()?;
            ensure!(incidents.len() <= 1, "more than one incident: {incidents:#?}");
            Ok(incidents.into_iter().find(|incident| states.contains(&incident.state.as_str())))
        })
    }

    /// The error with the end of the log.
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\nthe agent's log ends with:\n{}", self.log_tail())
    }

    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = Get::fetch(&Target::Tcp(self.site.metrics()), "/metrics", SCRAPE_WITHIN)?;
        ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Ok(Metrics::new(String::from_utf8(answer.body).context("the exposition is UTF-8")?))
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).context("signalling the agent")
    }

    /// Waits for the end of the process.
    pub fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the agent still runs after {} s", limit.as_secs_f64());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// As a power cut does.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        tail(&self.site.log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
