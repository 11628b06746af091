//! The visitors: two load drivers, one that keeps its connections and one that makes a new one for each request.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Plan;
use super::processes::Process;
use super::stage::Stage;

const LOGIN: &str = "login=POST /login : user=ann&password=correct+horse";
/// Longer than any scenario lasts.
const SECONDS: &str = "600";

/// What a driver reports at its end; more is in its output than is read here.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub(super) requests: u64,
    pub(super) failures: u64,
    failed: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    name: String,
    at_ms: u64,
    what: String,
}

impl Report {
    /// The first failures, for people.
    pub(super) fn failed(&self) -> impl Iterator<Item = String> {
        self.failed.iter().map(|it| format!("{} at {} ms: {}", it.name, it.at_ms, it.what))
    }
}

pub(super) struct Traffic {
    drivers: Vec<Process>,
}

impl Traffic {
    /// Each driver writes a line per request into its log.
    pub(super) fn start(stage: &Stage, plan: &Plan, logs: [PathBuf; 2]) -> Result<Self> {
        let [kept, new] = logs;
        let others = [
            "browse=GET /browse x12",
            "report=GET /report x1",
            "unknown=POST /login x1 -> 401 : user=zoe&password=x",
        ];
        // Half of the logins comes over each kind of connection; the other requests take turns with the logins.
        let mut drivers = Vec::new();
        if plan.logins_per_second < 1.0 {
            drivers.push(drive(
                stage,
                "visitors",
                &kept,
                plan.others_per_second,
                &["browse=GET /browse"],
                false,
            )?);
            drivers.push(drive(stage, "logins", &new, plan.logins_per_second, &[LOGIN], true)?);
        } else {
            let weight = plan.logins_per_second / plan.others_per_second * 14.0;
            let login = LOGIN.replace("/login :", &format!("/login x{weight:.0} :"));
            let steps: Vec<&str> = std::iter::once(login.as_str()).chain(others).collect();
            let rate = f64::midpoint(plan.logins_per_second, plan.others_per_second);
            drivers.push(drive(stage, "visitors on kept connections", &kept, rate, &steps, false)?);
            drivers.push(drive(stage, "visitors on new connections", &new, rate, &steps, true)?);
        }
        Ok(Self { drivers })
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.drivers.iter_mut().try_for_each(Process::check_running)
    }

    /// Lets the requests under way finish and returns what each driver has counted.
    pub(super) fn stop(mut self) -> Result<Vec<Report>> {
        self.drivers.iter_mut().map(finish).collect()
    }
}

fn drive(
    stage: &Stage,
    name: &str,
    requests: &Path,
    rate: f64,
    steps: &[&str],
    new: bool,
) -> Result<Process> {
    let mut command = Command::new(&stage.driver_program);
    command.arg(stage.server.to_string()).args([
        "--concurrency",
        "4",
        "--seconds",
        SECONDS,
        "--timeout",
        "20",
    ]);
    command.args(["--json", "--until-stdin-closes", "--rate", &rate.to_string(), "--log"]).arg(requests);
    for step in steps {
        command.args(["--step", step]);
    }
    if new {
        command.arg("--close");
    }
    command.stdin(Stdio::piped());
    let log = requests.with_extension("log");
    Process::start(name, &mut command, &log, true)
}

fn finish(driver: &mut Process) -> Result<Report> {
    drop(driver.child().stdin.take());
    let stdout = driver.child().stdout.take().context("the driver's output was asked for")?;
    // One line at its end: it fits into the pipe, so waiting first cannot block it.
    driver.wait(Duration::from_secs(25))?.context("the driver does not end")?;
    let text = std::io::read_to_string(stdout).context("reading the driver's report")?;
    let last = text.lines().last().context("the driver ended without a report")?;
    serde_json::from_str(last).with_context(|| format!("the driver reported {last:?}"))
}
