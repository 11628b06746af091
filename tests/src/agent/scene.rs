//! What the tests of faults have in common: a good build that is known, a bad one under visitors, and what is true at the end
//! whatever happened in between.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use watchdog::control::{Command, IncidentDetail, IncidentSummary, Outcome};

use super::site::{BAD_US, BASELINE, GOOD_US, Service, Site};
use super::{Agent, ENDED};
use crate::harness::Burn;
use crate::load::Load;

/// For anything that an incident comes to.
pub const WITHIN: Duration = Duration::from_secs(40);
/// Time for a second run of the hook, were there one.
pub const A_WHILE: Duration = Duration::from_millis(1200);
/// A hook with this body goes on when the file `go` is there.
pub const UNTIL_GO: &str = "while [ ! -e go ]; do sleep 0.05; done";

/// Builds and visitors of a site, whose agents come and go.
pub struct Scene {
    pub site: Site,
    /// In the order in which they were deployed; one that is taken out ends.
    pub builds: Vec<Burn>,
    load: Option<Load>,
}

impl Scene {
    /// A good build that the agent knows the cost of.
    pub fn begin(
        site: Site,
        services: &[Service],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<(Self, Agent)> {
        site.configure(services)?;
        let good = site.deploy("good", GOOD_US)?;
        let agent = Agent::start_with(&site, environment)?;
        site.visit(BASELINE)?;
        Ok((Self { site, builds: vec![good], load: None }, agent))
    }

    /// A build that costs four times as much, or as a good one does, and serves from now on.
    pub fn deploy(&mut self, build: &str, is_bad: bool) -> anyhow::Result<()> {
        let cost = if is_bad { BAD_US } else { GOOD_US };
        self.builds.push(self.site.deploy(build, cost)?);
        if self.load.is_none() {
            self.load = Some(self.site.visit_at(60.0)?);
        }
        Ok(())
    }

    /// Lets a hook that waits ([`UNTIL_GO`]) go on.
    pub fn go(&self) -> anyhow::Result<()> {
        fs::write(self.site.file("go"), "").context("letting the hook go on")
    }

    /// The build that new connections reach.
    pub fn serving(&self) -> Option<String> {
        let link = fs::read_link(self.site.file("current.sock")).ok()?;
        link.to_str()?.strip_suffix(".sock").map(str::to_owned)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.site.log()).unwrap_or_default()
    }

    /// Waits until the agents' log has this text so many times.
    pub fn wait_for_log(&self, text: &str, times: usize) -> anyhow::Result<()> {
        let end = Instant::now() + WITHIN;
        while self.log().matches(text).count() < times {
            ensure!(Instant::now() < end, "the log never said {text:?} {times} times:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Gives the agent another configuration.
    pub fn reload(&self, agent: &Agent, services: &[Service]) -> anyhow::Result<()> {
        let loaded = self.log().matches("configuration loaded").count();
        self.site.configure(services)?;
        agent.signal(Signal::SIGHUP)?;
        self.wait_for_log("configuration loaded", loaded + 1)
    }

    /// Ends the visitors, none of whom may have met a failure.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        let Some(load) = self.load.take() else { return Ok(()) };
        load.stop();
        let report = load.wait();
        ensure!(report.failures == 0, "{} requests failed: {:?}", report.failures, report.failed);
        Ok(())
    }

    /// The only incident, at its end, a while after it: so many runs of the hook, and the whole story.
    pub fn ended(&self, agent: &Agent, runs: usize) -> anyhow::Result<IncidentDetail> {
        let ended = agent.wait_for_incident(&ENDED, WITHIN)?;
        std::thread::sleep(A_WHILE);
        let detail = agent.incident(&ended.id)?;
        let incidents = agent.incidents()?;
        ensure!(incidents.len() == 1, "more than one incident: {incidents:#?}");
        let ran = self.site.hook_runs();
        ensure!(ran == runs, "the hook ran {ran} times, not {runs}: {detail:#?}\n{}", self.log());
        Ok(detail)
    }
}

/// Whether the timeline says this.
pub fn says(detail: &IncidentDetail, text: &str) -> bool {
    detail.timeline.iter().any(|entry| entry.text.contains(text))
}

/// The newest incident about a build, once it is in one of these states.
pub fn incident_of(agent: &Agent, build: &str, states: &[&str]) -> anyhow::Result<IncidentSummary> {
    agent.wait_for(&format!("an incident of {build} that is {}", states.join(" or ")), WITHIN, |agent| {
        let of_build = agent.incidents()?.into_iter().find(|it| it.bad_build.as_str() == build);
        Ok(of_build.filter(|incident| states.contains(&incident.state.as_str())))
    })
}

/// Carries out what a person types.
pub fn done(agent: &Agent, command: Command) -> anyhow::Result<String> {
    match agent.ask(command)? {
        Outcome::Done(said) => Ok(said),
        other => anyhow::bail!("refused: {other:?}"),
    }
}
