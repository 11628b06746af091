//! Agents that die in the middle of a rollback, and the ones after them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{DieAt, Driver, Point, Recorder};
use watchdog::config::{Mode, RollbackConfig};
use watchdog::incident::{
    BuildState, Cost, Decision, Incident, Moment, Reconciliation, State, VerifyFacts, verify,
};
use watchdog::store::Store;

use super::{BAD, GOOD, block_on, live, new_incident, rollback, service, text, with_timeout};

/// What the hook of a test does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    /// Says that it ran, and that it came to its end.
    Quick,
    /// The same with a second in between; writes while no agent is there, and more than a pipe holds.
    Slow,
    /// Takes a minute.
    Endless,
    Failing,
    /// Asks for another attempt after a while, and then succeeds.
    Again,
    /// Fails after a while, saying why.
    FailsLate,
    /// Takes longer than its time limit, and has a child that ignores SIGTERM.
    Overdue,
    /// Leaves a process that writes into its output when the file `log.go` is there.
    Daemon,
    /// Writes megabytes into both outputs.
    Flood,
}

impl Hook {
    const ALL: [Self; 9] = [
        Self::Quick,
        Self::Slow,
        Self::Endless,
        Self::Failing,
        Self::Again,
        Self::FailsLate,
        Self::Overdue,
        Self::Daemon,
        Self::Flood,
    ];

    pub(crate) fn config(self, dir: &Path) -> RollbackConfig {
        let log = text(&dir.join("log"));
        let slow = |seconds: u32| {
            format!(
                "sleep 0.2; echo alone; echo alone >> {log}; sleep {seconds}; head -c 300000 /dev/zero | tr '\\0' o"
            )
        };
        let work = match self {
            Self::Quick => "true".to_owned(),
            Self::Slow => slow(1),
            Self::Endless => slow(60),
            Self::Failing => "exit 3".to_owned(),
            Self::Again => "[ $LOAD_WATCHDOG_ATTEMPT -gt 1 ] || { sleep 0.4; exit 75; }".to_owned(),
            Self::FailsLate => "sleep 0.5; echo no such build >&2; exit 3".to_owned(),
            Self::Overdue => format!(
                "echo $$ >> {log}.pids; (trap '' TERM; sh -c 'echo $$ >> {log}.pids; trap \"\" TERM; \
                 while :; do sleep 1; done') & wait"
            ),
            Self::Daemon => format!(
                "setsid sh -c 'echo $$ > {log}.daemon; for i in $(seq 400); do [ -e {log}.go ] && break; sleep 0.05; done; \
                 head -c 300000 /dev/zero; echo wrote >> {log}; sleep 20' & sleep 0.3"
            ),
            Self::Flood => "echo first; (head -c 3000000 /dev/zero | tr '\\0' e >&2) & \
                            head -c 3000000 /dev/zero | tr '\\0' o; wait; echo last"
                .to_owned(),
        };
        let hook = rollback(["/bin/sh", "-c", &format!("echo run >> {log}; {work}; echo end >> {log}")]);
        if matches!(self, Self::Overdue) { with_timeout(hook, Duration::from_millis(300)) } else { hook }
    }
}

/// Traffic on the good build as it was before.
fn all_is_well() -> VerifyFacts {
    let ms = Duration::from_millis;
    VerifyFacts {
        good_build_serves: true,
        bad_build_serves: false,
        newer_build: None,
        cost: Cost {
            requests: 40,
            mean: Some(ms(50)),
            limit: Some(ms(62)),
            baseline: Some(ms(48)),
            is_back: true,
            is_high: false,
        },
        good_served_after: Some(ms(400)),
        bad_served_until: None,
        since_hook: ms(2000),
        verify_within: Duration::from_mins(5),
    }
}

/// Whether hooks have a supervisor, as those of the agent have, or not, as where none can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Under {
    Supervisor,
    Nobody,
}

pub(crate) fn driver(store: &Arc<Store>, dir: &Path, under: Under) -> Driver {
    let driver = Driver::new(Arc::clone(store)).with_backoff(Duration::from_millis(20));
    match under {
        Under::Supervisor => driver.with_recorder(recorder(dir)),
        Under::Nobody => driver,
    }
}

pub(crate) fn recorder(dir: &Path) -> Recorder {
    let program = Path::new(env!("CARGO_BIN_EXE_load-watchdog"));
    Recorder::with_program(&dir.join("state"), program).unwrap()
}

/// The names of the files in the folder of the records.
pub(crate) fn records(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("state/hooks")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The rest of an incident's course, from a decision on.
fn decide_and_run(driver: &Driver, hook: &RollbackConfig, incident: &Incident) -> Incident {
    let web = service(Some(hook.clone()));
    let (settled, decision) = driver.settle(&web, &incident.id, &live(Mode::Enforce)).unwrap();
    if decision != Decision::Act {
        return settled;
    }
    run_and_verify(driver, hook, &settled)
}

fn run_and_verify(driver: &Driver, hook: &RollbackConfig, incident: &Incident) -> Incident {
    let (events, _told) = unbounded_channel();
    let incident = block_on(driver.roll_back(hook.clone(), &incident.id, &events)).unwrap();
    conclude(driver, incident)
}

fn conclude(driver: &Driver, incident: Incident) -> Incident {
    if incident.state != State::Verifying {
        return incident;
    }
    let facts = all_is_well();
    let concluded = driver.conclude(&incident.id, &verify(&facts), &facts).unwrap();
    concluded.expect("it is not pending").0
}

/// What the next agent does with what it finds, as the agent's own `reconcile` does.
pub(crate) fn next_agent(
    store: &Arc<Store>,
    dir: &Path,
    hook: &RollbackConfig,
    under: Under,
) -> Option<Incident> {
    let driver = driver(store, dir, under);
    let found = driver.reconcile().unwrap().into_iter().next()?;
    let incident = found.incident;
    Some(match found.next {
        Reconciliation::Decide => decide_and_run(&driver, hook, &incident),
        Reconciliation::Retry { .. } => run_and_verify(&driver, hook, &incident),
        Reconciliation::Wait { attempt, process } => {
            let (events, _told) = unbounded_channel();
            let id = incident.id;
            let ended = block_on(driver.adopt(hook.hook.timeout, &id, attempt, process, &events)).unwrap();
            if ended.state == State::Armed {
                return Some(run_and_verify(&driver, hook, &ended));
            }
            conclude(&driver, ended)
        }
        Reconciliation::Verify => conclude(&driver, incident),
        Reconciliation::Leave | Reconciliation::Rehearsed { .. } | Reconciliation::Escalate { .. } => {
            incident
        }
    })
}

/// The agent that [`killed`] starts and that dies: a test of this name in each test program calls it.
pub(crate) fn agent_that_dies() {
    let Ok(order) = std::env::var("AGENT_THAT_DIES") else { return };
    let [dir, point, hook, under] = order.split('|').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let dir = Path::new(dir);
    let point = Point::from_name(point).unwrap();
    let under = if under == "Supervisor" { Under::Supervisor } else { Under::Nobody };
    let hook = Hook::ALL.into_iter().find(|known| format!("{known:?}") == hook).unwrap();
    let store = Arc::new(Store::open(&dir.join("state")).unwrap());
    let web = "web".into();
    store.build_appeared(&web, &GOOD.into(), BuildState::Adopted, "was there", &Moment::now()).unwrap();
    store.build_appeared(&web, &BAD.into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let driver = driver(&store, dir, under).with_fail_point(Arc::new(DieAt(point)));
    let incident = driver.open(&new_incident(BAD)).unwrap();
    let ended = decide_and_run(&driver, &hook.config(dir), &incident);
    panic!("the agent outlived {point}: {}", ended.state);
}

/// An agent that was killed at `point`, and the ledger as the next agent opens it.
pub(crate) fn killed(dir: &TempDir, point: Point, hook: Hook, under: Under) -> (Arc<Store>, Incident) {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_that_dies", "--nocapture"])
        .env("AGENT_THAT_DIES", format!("{}|{point}|{hook:?}|{under:?}", text(dir.path())))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "the agent did not die at {point} of {hook:?}");
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let incident = store.incidents(2).unwrap();
    assert_eq!(incident.len(), 1);
    (store, incident.into_iter().next().unwrap())
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn has_ended(dir: &TempDir) -> bool {
    fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains("end"))
}
