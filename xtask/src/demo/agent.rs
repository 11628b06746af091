//! The agent, and what it says over its control socket: one JSON request a line, one JSON response a line.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::output_of;
use super::processes::{Interrupt, Process, tail};
use super::screen::Figures;
use super::stage::Stage;

/// Of the control protocol.
const PROTOCOL: u32 = 1;
const SERVICE: &str = "shop";
const ENDPOINT: &str = "login";

/// The parts of `status --json` that are read here.
#[derive(Debug, Default, Deserialize)]
struct Status {
    services: Vec<Service>,
}

#[derive(Debug, Default, Deserialize)]
struct Service {
    #[serde(rename = "service")]
    name: String,
    processes: u64,
    #[serde(default)]
    problems: Vec<String>,
    #[serde(default)]
    release_window: Option<ReleaseWindow>,
    builds: Vec<Build>,
}

#[derive(Debug, Deserialize)]
struct ReleaseWindow {
    open: bool,
}

#[derive(Debug, Deserialize)]
struct Build {
    #[serde(rename = "build")]
    name: String,
    state: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Endpoint {
    #[serde(rename = "endpoint")]
    name: String,
    requests: u64,
    mean_cpu_seconds: Option<f64>,
    verdict: Option<String>,
}

impl Endpoint {
    /// Seconds of CPU of all its requests.
    fn cpu(&self) -> f64 {
        self.mean_cpu_seconds.unwrap_or(0.0) * self.requests as f64
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Incident {
    id: String,
    /// `cost` or `release_window`.
    kind: String,
    service: String,
    bad_build: String,
    good_build: Option<String>,
    state: String,
    opened_unix_ms: i64,
    repeats: Option<String>,
    sentence: String,
}

#[derive(Debug, Deserialize)]
struct Detail {
    timeline: Vec<Entry>,
    #[serde(default)]
    evidence: Value,
}

#[derive(Debug, Deserialize)]
struct Entry {
    unix_ms: i64,
    text: String,
}

/// An incident with the times at which it went on, wall clock in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) sentence: String,
    /// The condemned build whose cost this one has again.
    pub(super) repeats: Option<String>,
    good_build: String,
    pub(super) verdict_unix_ms: i64,
    pub(super) hook_unix_ms: Option<i64>,
    pub(super) recovered_unix_ms: Option<i64>,
}

impl Observed {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "recovered" | "escalated" | "closed" | "observed")
    }

    pub(super) fn is_recovered(&self) -> bool {
        self.recovered_unix_ms.is_some()
    }

    pub(super) fn describe(&self) -> String {
        let to = &self.good_build;
        match self.state.as_str() {
            "detected" => format!("incident {} opened", self.id),
            "intent_journaled" => format!("about to run the rollback to {to}"),
            "hook_running" => format!("the rollback to {to} is running"),
            "hook_done" => "the rollback script has ended".to_owned(),
            "verifying" => "checking that the good build serves and its cost is back".to_owned(),
            "recovered" => format!("recovered: {to} serves and a login costs what it did"),
            other => format!("incident {} is now {other}", self.id),
        }
    }
}

/// An incident about a build that appeared outside the release window.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) sentence: String,
    /// After the build's first process had begun.
    pub(super) noticed_after: Duration,
}

pub(super) struct Agent {
    process: Process,
    program: PathBuf,
    control: PathBuf,
    state: PathBuf,
    status: Service,
    /// Requests and seconds of CPU per build when figures were last shown.
    shown: Vec<(String, u64, f64)>,
    asked: Instant,
    /// States of incidents by their ids, and when each was first seen here.
    states: Vec<(String, String, i64)>,
}

/// Status changes slowly; incidents are asked for every time.
const STATUS_EVERY: Duration = Duration::from_millis(250);

impl Agent {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        fs::create_dir_all(stage.state()).context("creating the agent's state folder")?;
        let mut command = Command::new(&stage.agent_program);
        command.arg("run").arg("--config").arg(stage.config()).stdin(Stdio::null());
        Ok(Self {
            process: Process::start("the agent", &mut command, &stage.agent_log(), false)?,
            program: stage.agent_program.clone(),
            control: stage.control(),
            state: stage.state(),
            status: Service::default(),
            shown: Vec::new(),
            asked: Instant::now(),
            states: Vec::new(),
        })
    }

    /// Waits until the agent watches the server's processes.
    pub(super) fn wait_until_watching(&mut self, interrupt: &Interrupt) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        let mut last = None;
        while Instant::now() < end {
            interrupt.check()?;
            self.process.check_running()?;
            match self.refresh() {
                Ok(()) if self.status.processes > 0 => return Ok(()),
                Ok(()) => last = None,
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        match last {
            Some(error) => Err(error.context("the agent does not answer after 15 s")),
            None => {
                bail!("the agent sees no process of the server; it says: {}", self.status.problems.join("; "))
            }
        }
    }

    /// The error with the end of the agent's log.
    pub(super) fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\nthe agent's log ends with:\n{}", tail(self.process.log()))
    }

    pub(super) fn poll(&mut self) -> Result<()> {
        self.process.check_running()?;
        if self.asked.elapsed() >= STATUS_EVERY { self.refresh() } else { Ok(()) }
    }

    fn refresh(&mut self) -> Result<()> {
        self.asked = Instant::now();
        let status: Status = self.ask(&json!({ "command": "status" }))?;
        self.status = status
            .services
            .into_iter()
            .find(|service| service.name == SERVICE)
            .with_context(|| format!("the agent knows no service {SERVICE}"))?;
        Ok(())
    }

    fn ask<T: DeserializeOwned>(&self, command: &Value) -> Result<T> {
        let mut request = command.clone();
        request["version"] = PROTOCOL.into();
        let mut stream = UnixStream::connect(&self.control)
            .with_context(|| format!("connecting to the agent's socket {}", self.control.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{request}\n").as_bytes()).context("asking the agent")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).context("reading the agent's answer")?;
        let mut answer: Value =
            serde_json::from_str(&line).with_context(|| format!("the agent answered {line:?}"))?;
        ensure!(answer["result"] != "error", "the agent refused {command}: {}", answer["data"]["message"]);
        serde_json::from_value(answer["data"].take()).with_context(|| format!("the agent answered {line:?}"))
    }

    fn logins(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.status.builds.iter().filter_map(|build| {
            let endpoint = build.endpoints.iter().find(|endpoint| endpoint.name == ENDPOINT)?;
            Some((build.name.as_str(), endpoint))
        })
    }

    /// Logins that the agent has measured for a build.
    pub(super) fn logins_of(&self, build: &str) -> u64 {
        self.logins().find(|(name, _)| *name == build).map_or(0, |(_, endpoint)| endpoint.requests)
    }

    /// What the logins since the last call have cost, for the build that served most of them.
    pub(super) fn figures_since_last(&mut self) -> Option<Figures> {
        let mut now = Vec::new();
        let mut best: Option<Figures> = None;
        for (build, endpoint) in self.logins() {
            now.push((build.to_owned(), endpoint.requests, endpoint.cpu()));
            let (requests, cpu) = self
                .shown
                .iter()
                .find(|(name, ..)| name == build)
                .map_or((0, 0.0), |(_, requests, cpu)| (*requests, *cpu));
            let recent = endpoint.requests.saturating_sub(requests);
            if recent > best.as_ref().map_or(0, |figures| figures.recent) {
                best = Some(Figures {
                    build: build.to_owned(),
                    logins: endpoint.requests,
                    recent,
                    mean: Duration::try_from_secs_f64((endpoint.cpu() - cpu) / recent as f64)
                        .unwrap_or_default(),
                    verdict: endpoint.verdict.clone(),
                });
            }
        }
        self.shown = now;
        best
    }

    fn find(&self, kind: &str, build: &str) -> Result<Option<Incident>> {
        let incidents: Vec<Incident> = self.ask(&json!({ "command": "incidents" }))?;
        let about = |it: &Incident| it.service == SERVICE && it.kind == kind && it.bad_build == build;
        Ok(incidents.into_iter().find(about))
    }

    /// The incident about a build that appeared outside the release window, if there is one: its id, when it was opened,
    /// and what it says.
    pub(super) fn outside_window(&self, build: &str) -> Result<Option<Outside>> {
        let Some(incident) = self.find("release_window", build)? else { return Ok(None) };
        let detail: Detail = self.ask(&json!({ "command": "incident", "id": incident.id }))?;
        let noticed = detail.evidence["noticed_after_seconds"].as_f64().context("when it was noticed")?;
        Ok(Some(Outside {
            id: incident.id,
            state: incident.state,
            sentence: incident.sentence,
            noticed_after: Duration::try_from_secs_f64(noticed).unwrap_or_default(),
        }))
    }

    /// The incident about what a build costs, if there is one.
    pub(super) fn incident(&mut self, bad_build: &str) -> Result<Option<Observed>> {
        let Some(incident) = self.find("cost", bad_build)? else { return Ok(None) };
        if !self.states.iter().any(|(id, state, _)| *id == incident.id && *state == incident.state) {
            self.states.push((incident.id.clone(), incident.state.clone(), unix_ms()));
        }
        let detail: Detail = self.ask(&json!({ "command": "incident", "id": incident.id }))?;
        let first = |word: &str| {
            let entry = detail.timeline.iter().find(|entry| entry.text.to_lowercase().contains(word));
            entry.map(|entry| entry.unix_ms)
        };
        // Where the timeline has no such line: when this program first saw the state.
        let seen = |states: &[&str]| {
            let own = |(id, state, _): &&(String, String, i64)| {
                *id == incident.id && states.contains(&state.as_str())
            };
            self.states.iter().find(own).map(|(_, _, at)| *at)
        };
        Ok(Some(Observed {
            hook_unix_ms: first("hook")
                .or_else(|| seen(&["hook_running", "hook_done", "verifying", "recovered"])),
            recovered_unix_ms: if incident.state == "recovered" || incident.state == "closed" {
                first("recovered").or_else(|| seen(&["recovered"]))
            } else {
                None
            },
            id: incident.id,
            state: incident.state,
            sentence: incident.sentence,
            repeats: incident.repeats,
            good_build: incident.good_build.unwrap_or_else(|| "no build".to_owned()),
            verdict_unix_ms: incident.opened_unix_ms,
        }))
    }

    /// Writes what `load-watchdog incidents show ID` prints into a file and returns its path.
    pub(super) fn save_report(&self, incident: &str, path: &Path) -> Result<PathBuf> {
        let text = self.command(&["incidents", "show", incident])?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.to_owned())
    }

    /// Takes a build on probation for good, as a person does.
    pub(super) fn accept(&self, build: &str) -> Result<()> {
        self.command(&["builds", "accept", SERVICE, build]).map(drop)
    }

    /// What a command of the agent's own program prints.
    fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--control").arg(&self.control).arg("--state-dir").arg(&self.state);
        output_of(&mut command)
    }

    /// Has the agent read its configuration again, and waits until the release window is open, or is not.
    pub(super) fn reload(&mut self, open: bool) -> Result<()> {
        let pid = Pid::from_raw(self.process.child().id().cast_signed());
        kill(pid, Signal::SIGHUP).context("asking the agent to read its configuration again")?;
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            self.refresh()?;
            if self.status.release_window.as_ref().is_some_and(|window| window.open == open) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the agent has not taken its new release window after 5 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `adopted`, `probation`, `good` or `condemned`.
    pub(super) fn state_of(&self, build: &str) -> Option<&str> {
        self.status.builds.iter().find(|known| known.name == build).map(|build| build.state.as_str())
    }

    /// What a login of a build has cost on average.
    pub(super) fn login_cost(&self, build: &str) -> Option<Duration> {
        let (_, endpoint) = self.logins().find(|(name, _)| *name == build)?;
        Duration::try_from_secs_f64(endpoint.mean_cpu_seconds?).ok()
    }

    pub(super) fn stop(&mut self) {
        self.process.stop(Duration::from_secs(3));
    }
}

/// Wall clock, to set beside the agent's and the driver's.
pub(super) fn unix_ms() -> i64 {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
