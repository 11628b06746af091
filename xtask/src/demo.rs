//! `cargo xtask demo`: a real web server, a bad build, and the agent that finds it and rolls it back.
//!
//! Nothing is acted: gunicorn, unmodified, serves the application of tests/apps/shop, the load driver logs people in,
//! the agent watches with its kernel programs and runs the application's own rollback script. This file tells the story;
//! [`stage`] sets it up, [`traffic`] loads it, [`agent`] asks the agent, [`processes`] ends everything, [`screen`] and
//! [`summary`] print. [`incident`] tells the longer story of three days.

mod agent;
mod incident;
mod processes;
mod screen;
mod stage;
mod summary;
mod traffic;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use agent::Agent;
use processes::Interrupt;
use screen::Screen;
use stage::Stage;
use summary::Outcome;
use traffic::Traffic;

pub(crate) const GOOD: &str = "v1.8.2";
pub(crate) const BAD: &str = "v1.8.3";
/// CPU of a password check in the good build; the bad one takes four times as much.
const LOGIN_MS: u64 = 5;
const BAD_FACTOR: u64 = 4;
/// CPU that a login may take on average.
const BUDGET_MS: u64 = 15;
/// The hook's time limit.
const HOOK_WITHIN: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

/// Shows the agent at work: a build whose login costs four times as much is found and rolled back, in about a minute.
///
/// Needs root, as the agent loads kernel programs. Installs what is missing below the target folder. Exits 1 if the
/// build was not rolled back or a single request failed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which traffic the bad build meets.
    #[arg(long, value_enum, default_value_t = Scenario::Day)]
    scenario: Scenario,
    /// How gunicorn serves.
    #[arg(long, value_enum, default_value_t = Workers::Gthread)]
    workers: Workers,
    /// Use the programs of this cargo profile.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Use this agent instead of the one that the workspace builds.
    #[arg(long, hide = true)]
    agent: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// 24 logins a second and other requests.
    Day,
    /// Before business hours: one login every 2 seconds.
    Night,
    /// Three days, in some two minutes: a heavy login at night, a "fix" with the same fault, and a good one in working
    /// hours.
    Incident,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workers {
    /// Processes, one request at a time each.
    Sync,
    /// Processes with threads, connections kept open.
    Gthread,
}

/// What differs between the scenarios.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) logins_per_second: f64,
    pub(crate) others_per_second: f64,
    /// Logins on the good build before the bad one is deployed.
    logins_before: u64,
    /// Longest time from the deploy to the incident.
    patience: Duration,
    /// Seconds between two lines of figures.
    line_every: Duration,
    pub(crate) verify_within: Duration,
}

impl Scenario {
    pub(crate) fn plan(self) -> Plan {
        match self {
            Self::Day => Plan {
                logins_per_second: 24.0,
                others_per_second: 14.0,
                // As many as make a baseline.
                logins_before: 220,
                patience: Duration::from_secs(30),
                line_every: Duration::from_secs(1),
                verify_within: Duration::from_secs(30),
            },
            Self::Night => Plan {
                logins_per_second: 0.5,
                others_per_second: 0.25,
                logins_before: 8,
                patience: Duration::from_secs(75),
                line_every: Duration::from_secs(4),
                verify_within: Duration::from_secs(75),
            },
            Self::Incident => incident::EVENING,
        }
    }

    /// Each with what its login costs, in multiples of the good build's; the first one serves.
    fn releases(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Day | Self::Night => &[(GOOD, 1), (BAD, BAD_FACTOR)],
            Self::Incident => &incident::RELEASES,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo needs root, because the agent loads kernel programs: run it with sudo, or as root in a virtual machine"
    );
    let interrupt = Interrupt::install()?;
    let stage = Stage::set_up(args)?;
    let result = match args.scenario {
        Scenario::Incident => incident::play(stage, &interrupt),
        Scenario::Day | Scenario::Night => play(args, stage, &interrupt).map(|outcome| outcome.is_success()),
    };
    match result {
        Err(_) if interrupt.happened() => {
            eprintln!("interrupted; everything that was started has been ended");
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error),
        Ok(is_success) => Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

fn play(args: &Args, mut stage: Stage, interrupt: &Interrupt) -> Result<Outcome> {
    let plan = args.scenario.plan();
    let mut screen = Screen::new();
    screen.title("load-watchdog demo: a build with an expensive login, found and rolled back");
    screen.facts(&stage.facts(args, &plan));
    stage.start_server(interrupt)?;
    let mut agent = Agent::start(&stage)?;
    agent.wait_until_watching(interrupt).map_err(|error| agent.explain(&error))?;
    let traffic = Traffic::start(&stage, &plan, stage.request_logs())?;
    screen.begin(Duration::from_millis(BUDGET_MS));

    let mut scene = Scene { plan, screen, agent: &mut agent, traffic, interrupt, next_line: Instant::now() };
    let played = scene.perform(&stage);
    let Scene { mut screen, traffic, .. } = scene;
    let played = played.map_err(|error| agent.explain(&error));
    let reports = traffic.stop()?;
    let report_path = match &played {
        Ok(Some(incident)) => agent.save_report(&incident.id, &stage.file("incident.txt")).map(Some)?,
        _ => None,
    };
    agent.stop();
    let outcome = Outcome::of(played?, &reports, &stage.request_logs(), report_path)?;
    outcome.print(&mut screen);
    Ok(outcome)
}

/// The running demonstration.
struct Scene<'a> {
    plan: Plan,
    screen: Screen,
    agent: &'a mut Agent,
    traffic: Traffic,
    interrupt: &'a Interrupt,
    next_line: Instant,
}

impl Scene<'_> {
    /// Plays the story; returns the incident, `None` if there was none within the plan's patience.
    fn perform(&mut self, stage: &Stage) -> Result<Option<agent::Observed>> {
        self.warm_up(stage)?;
        self.screen.event(&format!("deploying {BAD}: its login costs {BAD_FACTOR} times as much"));
        self.deploy_bad(stage, BAD)
    }

    /// Waits for the logins on the good build that the plan asks for.
    fn warm_up(&mut self, stage: &Stage) -> Result<()> {
        let before = self.plan.logins_before;
        let limit = Duration::from_secs_f64(before as f64 / self.plan.logins_per_second * 1.5 + 10.0);
        let warm = self.pass(limit, |scene| Ok((scene.agent.logins_of(GOOD) >= before).then_some(())))?;
        ensure!(
            warm.is_some(),
            "the agent has counted {} of {before} logins of {GOOD} after {limit:?}: see its log {}",
            self.agent.logins_of(GOOD),
            stage.agent_log().display()
        );
        Ok(())
    }

    /// Deploys a bad build and follows its incident to the end; `None` if there was none within the plan's patience.
    fn deploy_bad(&mut self, stage: &Stage, bad: &str) -> Result<Option<agent::Observed>> {
        let mut deploy = stage.script("deploy.sh", bad, "deploy.log")?;
        let mut deployed = false;
        let mut shown = String::new();
        let mut end = Instant::now() + self.plan.patience;
        let mut observed = None;
        let most = self.plan.patience + HOOK_WITHIN + self.plan.verify_within;
        let found = self.pass(most + POLL * 10, |scene| {
            if !deployed && let Some(status) = deploy.ended()? {
                // The rollback may come while the deploy still waits for the old master to end.
                ensure!(status.success(), "deploying {bad} failed: {status}; see {}", deploy.log().display());
                deployed = true;
                scene.screen.event(&format!("{bad} is deployed"));
            }
            observed = scene.agent.incident(bad)?;
            if let Some(incident) = &observed
                && incident.state != shown
            {
                if shown.is_empty() {
                    scene.screen.alarm(&incident.sentence);
                    end = Instant::now() + HOOK_WITHIN + scene.plan.verify_within;
                }
                shown.clone_from(&incident.state);
                scene.screen.event(&incident.describe());
            }
            let over = observed.as_ref().is_some_and(agent::Observed::is_over);
            Ok((over || Instant::now() > end).then_some(()))
        })?;
        if observed.is_some() {
            // A few more figures show that the cost is back.
            let _ = self.pass(self.plan.line_every * 2 + POLL, |_| Ok(None::<()>))?;
        }
        deploy.wait(Duration::from_secs(40))?;
        found.context("the demo's time was over")?;
        Ok(observed)
    }

    /// Prints figures until `done` returns a value or the time is over.
    fn pass<T>(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let end = Instant::now() + limit;
        loop {
            self.interrupt.check()?;
            self.traffic.check()?;
            self.agent.poll()?;
            if Instant::now() >= self.next_line {
                self.next_line += self.plan.line_every;
                if let Some(figures) = self.agent.figures_since_last() {
                    self.screen.figures(&figures);
                }
            }
            if let Some(value) = done(self)? {
                return Ok(Some(value));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A path as one would type it from here.
fn shown(path: &std::path::Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).map(std::path::Path::to_path_buf).ok());
    short.as_deref().unwrap_or(path).display().to_string()
}

/// Runs a quick program and returns its standard output; its error output goes into the error.
fn output_of(command: &mut Command) -> Result<String> {
    let described = crate::process::describe(command);
    let output = command.output().with_context(|| format!("running {described}"))?;
    if !output.status.success() {
        bail!("{described}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
