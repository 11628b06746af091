//! `--scenario incident`: the three days of the incident that this program was written after, told again with the agent.
//!
//! Two nights with a build whose login costs eight times as much, and a release in working hours. A night lasts half a
//! minute: only the traffic is compressed. Which hour it is, the release window says, which a reload moves around the
//! present. [`days`] keeps what happened and prints it at the end.

mod days;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::days::{Days, Night, WorkingDay};
use super::agent::{Agent, Outside};
use super::processes::Interrupt;
use super::screen::Screen;
use super::stage::Stage;
use super::summary::{Login, read_logins};
use super::traffic::Traffic;
use super::{BAD, BUDGET_MS, GOOD, LOGIN_MS, Plan, Scene};

/// It was to mend `BAD`, and has its fault.
const FIX: &str = "v1.8.4";
/// That one mends it.
const GOOD_FIX: &str = "v1.8.5";
const FACTOR: u64 = 8;
pub(super) const RELEASES: [(&str, u64); 4] = [(GOOD, 1), (BAD, FACTOR), (FIX, FACTOR), (GOOD_FIX, 1)];

const VERIFY_WITHIN: Duration = Duration::from_secs(75);
/// The evening before: the comparison with the last good build needs 200 logins.
pub(super) const EVENING: Plan = Plan {
    logins_per_second: 30.0,
    others_per_second: 14.0,
    logins_before: 220,
    patience: Duration::from_secs(30),
    line_every: Duration::from_secs(2),
    verify_within: VERIFY_WITHIN,
};
const NIGHT: Plan = Plan {
    logins_per_second: 0.5,
    others_per_second: 0.25,
    patience: Duration::from_secs(75),
    line_every: Duration::from_secs(4),
    ..EVENING
};
const MORNING: Plan = Plan { logins_per_second: 50.0, ..EVENING };
const WORKING_HOURS: Plan = Plan { logins_per_second: 12.0, ..EVENING };
const MORNING_LASTS: Duration = Duration::from_secs(6);
/// Logins on the good fix before it is evening.
const A_DAYS_LOGINS: u64 = 120;

/// The end of the configuration while releases are allowed: a window that holds the present.
pub(super) const AT_NIGHT: &str = r#"# Two nights are a minute apart here; by default, the second rollback would wait for half an hour.
cooldown = "0s"

[service.release_window]
allow = ["Mon-Sun 00:00-23:59"]
timezone = "UTC"
on_violation = "alert"
"#;

/// The same in working hours: the window is on another day of the week.
fn in_working_hours(unix_ms: i64) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    // 1 January 1970 was a Thursday; three days from now, midnight does not matter.
    let day = (unix_ms / 86_400_000 + 3 + 3).rem_euclid(7);
    AT_NIGHT.replace("Mon-Sun", DAYS[usize::try_from(day).unwrap_or(0)])
}

/// Plays the three days; whether they went as they should.
pub(super) fn play(mut stage: Stage, interrupt: &Interrupt) -> Result<bool> {
    let mut screen = Screen::new();
    screen.title("load-watchdog demo: the three days of an incident");
    screen.facts(&facts(&stage));
    stage.start_server(interrupt)?;
    let mut agent = Agent::start(&stage)?;
    agent.wait_until_watching(interrupt).map_err(|error| agent.explain(&error))?;
    let traffic = Traffic::start(&stage, &EVENING, logs(&stage, 0))?;
    screen.begin(Duration::from_millis(BUDGET_MS));
    let scene =
        Scene { plan: EVENING, screen, agent: &mut agent, traffic, interrupt, next_line: Instant::now() };
    let mut story = Story { scene, stage: &stage, phase: 0, days: Days::default() };
    let told = story.tell();
    let Story { scene: Scene { screen, traffic, .. }, mut days, .. } = story;
    told.map_err(|error| agent.explain(&error))?;
    days.count(&traffic.stop()?);
    agent.stop();
    days.print(&screen);
    Ok(days.is_success())
}

fn facts(stage: &Stage) -> Vec<(&'static str, String)> {
    let mut facts = stage.players();
    facts.extend([
        ("good build", format!("{GOOD}: checking a password takes about {LOGIN_MS} ms of CPU")),
        ("day 1", format!("at night comes {BAD}, whose check takes {FACTOR} times as much")),
        ("day 2", format!("at night comes {FIX}, which should mend that and does not")),
        ("day 3", format!("in working hours comes {GOOD_FIX}, which does")),
        ("budget", format!("{BUDGET_MS} ms of CPU per login on average, 1.5 times the last good build")),
        ("time", "only the traffic is compressed: a night lasts half a minute".to_owned()),
        ("folder", super::shown(stage.folder())),
    ]);
    facts
}

/// Of one part of the story.
fn logs(stage: &Stage, phase: usize) -> [PathBuf; 2] {
    ["kept", "new"].map(|kind| stage.file(&format!("requests-{phase}-{kind}.csv")))
}

struct Story<'a> {
    scene: Scene<'a>,
    stage: &'a Stage,
    /// The traffic under way.
    phase: usize,
    days: Days,
}

impl Story<'_> {
    fn tell(&mut self) -> Result<()> {
        self.says(&format!(
            "THE EVENING BEFORE: people log in, and the agent learns what that costs on {GOOD}"
        ));
        self.scene.warm_up(self.stage)?;
        self.change(NIGHT)?;
        self.says(&format!("DAY 1, 04:00: {BAD} is deployed; one login every 2 s"));
        self.night(BAD, NIGHT)?;
        self.says(&format!("DAY 2, 04:00: {FIX} is deployed, the \"fix\"; one login every 2 s"));
        self.night(FIX, WORKING_HOURS)?;
        self.working_day()
    }

    fn says(&self, text: &str) {
        self.scene.screen.line("");
        self.scene.screen.event(text);
    }

    /// Other traffic from now on; what logged in until then.
    fn change(&mut self, plan: Plan) -> Result<Vec<Login>> {
        let ended = logs(self.stage, self.phase);
        self.phase += 1;
        let next = Traffic::start(self.stage, &plan, logs(self.stage, self.phase))?;
        let before = std::mem::replace(&mut self.scene.traffic, next);
        self.scene.plan = plan;
        self.scene.next_line = Instant::now() + plan.line_every;
        self.days.count(&before.stop()?);
        read_logins(&ended)
    }

    /// A bad build is deployed, found and rolled back; then it is morning, and after that `next`.
    fn night(&mut self, build: &'static str, next: Plan) -> Result<()> {
        let day = self.days.nights.len() + 1;
        let observed = self.scene.deploy_bad(self.stage, build)?;
        let observed = observed.with_context(|| {
            format!("no incident about {build} within {} s", self.scene.plan.patience.as_secs())
        })?;
        ensure!(
            observed.is_recovered(),
            "{build} was not rolled back: incident {} is {}; {}",
            observed.id,
            observed.state,
            observed.sentence
        );
        let path = self.stage.file(&format!("incident-day-{day}.txt"));
        let report = self.scene.agent.save_report(&observed.id, &path)?;
        let mut logins = self.change(MORNING)?;
        logins.retain(|login| login.build == build);
        self.says(&format!("DAY {day}, 09:00: everybody logs in"));
        self.scene.pass(MORNING_LASTS, |_| Ok(None::<()>))?;
        let cost = |build: &str| self.scene.agent.login_cost(build).unwrap_or_default();
        let (good_cost, bad_cost) = (cost(GOOD), cost(build));
        let morning = self.change(next)?;
        let night = Night { build, observed, report, logins, morning, good_cost, bad_cost };
        self.scene.screen.event(&night.morning_told(GOOD));
        self.days.nights.push(night);
        Ok(())
    }

    /// A good build is released in working hours: told at once, not judged bad, accepted in the evening.
    fn working_day(&mut self) -> Result<()> {
        self.stage.configure(&in_working_hours(super::agent::unix_ms()))?;
        self.scene.agent.reload(false)?;
        self.says(&format!("DAY 3, 10:30: {GOOD_FIX} is released while people work"));
        let mut deploy = self.stage.script("deploy.sh", GOOD_FIX, "deploy.log")?;
        let told = self.outside("observed")?;
        self.scene.screen.alarm(&told.sentence);
        self.scene.screen.event(&format!(
            "noticed {:.2} s after its first process had begun: told, and nothing is run",
            told.noticed_after.as_secs_f64()
        ));
        let limit = Duration::from_mins(1);
        let served = self.scene.pass(limit, |scene| {
            let logins = scene.agent.logins_of(GOOD_FIX);
            Ok((logins >= A_DAYS_LOGINS).then_some(logins))
        })?;
        let logins = served.with_context(|| format!("fewer than {A_DAYS_LOGINS} logins on {GOOD_FIX}"))?;
        deploy.wait(Duration::from_secs(40))?;
        let judged_bad = self.scene.agent.incident(GOOD_FIX)?.map(|incident| incident.sentence);
        let cost = self.scene.agent.login_cost(GOOD_FIX).unwrap_or_default();

        self.stage.configure(AT_NIGHT)?;
        self.scene.agent.reload(true)?;
        self.says(&format!(
            "DAY 3, 18:00: {logins} logins of {:.1} ms CPU, {} verdict against it: accepted by hand",
            cost.as_secs_f64() * 1e3,
            if judged_bad.is_none() { "no" } else { "and a" }
        ));
        self.scene.agent.accept(GOOD_FIX)?;
        let closed = self.outside("closed")?;
        // What `status` said may be a moment older than what `incidents` did.
        self.scene.pass(Duration::from_secs(20), |scene| {
            Ok(scene.agent.state_of(GOOD_FIX).filter(|state| *state == "good").map(drop))
        })?;
        let state = self.scene.agent.state_of(GOOD_FIX).unwrap_or("not known").to_owned();
        let report = self.scene.agent.save_report(&closed.id, &self.stage.file("incident-day-3.txt"))?;
        self.days.third = Some(WorkingDay { build: GOOD_FIX, told, logins, cost, judged_bad, state, report });
        Ok(())
    }

    /// The incident about the release in working hours, in this state.
    fn outside(&mut self, state: &str) -> Result<Outside> {
        let limit = Duration::from_secs(20);
        let found = self.scene.pass(limit, |scene| {
            Ok(scene.agent.outside_window(GOOD_FIX)?.filter(|incident| incident.state == state))
        })?;
        found.with_context(|| {
            format!("no incident about {GOOD_FIX} outside the release window is {state} after {limit:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_hours_have_their_window_on_another_day() {
        // A Monday.
        let monday = 1_795_392_000_000;
        assert!(in_working_hours(monday).contains("allow = [\"Thu 00:00-23:59\"]"));
        assert!(in_working_hours(monday + 4 * 86_400_000).contains("allow = [\"Mon 00:00-23:59\"]"));
    }
}
