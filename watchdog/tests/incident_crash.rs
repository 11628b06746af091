//! An agent that dies as by `kill -9` at each step of an incident, and the next one that finds its ledger.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use support::{
    BAD, GOOD, block_on, last_note, live, new_incident, rollback, runs, service, text, with_timeout,
};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{DieAt, Driver, Point, RollbackEvent};
use watchdog::config::{Mode, RollbackConfig};
use watchdog::incident::{
    BuildState, Cost, Decision, Incident, Moment, Reconciliation, State, VerifyFacts, verify,
};
use watchdog::store::Store;

/// What the hook of a test does.
#[derive(Clone, Copy, Debug)]
enum Hook {
    /// Says that it ran, and that it came to its end.
    Quick,
    /// The same with a second in between; writes while no agent is there, and more than a pipe holds.
    Slow,
    /// Takes a minute.
    Endless,
    Failing,
    /// Asks for another attempt, and then succeeds.
    Again,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Quick, Self::Slow, Self::Endless, Self::Failing, Self::Again];

    fn config(self, dir: &Path) -> RollbackConfig {
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
            Self::Again => "[ $LOAD_WATCHDOG_ATTEMPT -gt 1 ] || exit 75".to_owned(),
        };
        rollback(["/bin/sh", "-c", &format!("echo run >> {log}; {work}; echo end >> {log}")])
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

fn driver(store: &Arc<Store>) -> Driver {
    Driver::new(Arc::clone(store)).with_backoff(Duration::from_millis(20))
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
fn next_agent(store: &Arc<Store>, hook: &RollbackConfig) -> Option<Incident> {
    let driver = driver(store);
    let found = driver.reconcile().unwrap().into_iter().next()?;
    let incident = found.incident;
    Some(match found.next {
        Reconciliation::Decide => decide_and_run(&driver, hook, &incident),
        Reconciliation::Retry { .. } => run_and_verify(&driver, hook, &incident),
        Reconciliation::Wait { attempt, process } => {
            let (events, _told) = unbounded_channel();
            let id = incident.id;
            let ended = block_on(driver.adopt(hook.hook.timeout, &id, attempt, process, &events)).unwrap();
            conclude(&driver, ended)
        }
        Reconciliation::Verify => conclude(&driver, incident),
        Reconciliation::Leave | Reconciliation::Rehearsed { .. } | Reconciliation::Escalate { .. } => {
            incident
        }
    })
}

/// No test of its own: the agent that [`killed`] starts and that dies.
#[test]
fn agent_that_dies() {
    let Ok(order) = std::env::var("AGENT_THAT_DIES") else { return };
    let (dir, point, hook) = {
        let mut parts = order.split('|').map(str::to_owned);
        (PathBuf::from(parts.next().unwrap()), parts.next().unwrap(), parts.next().unwrap())
    };
    let point = Point::from_name(&point).unwrap();
    let hook = Hook::ALL.into_iter().find(|known| format!("{known:?}") == hook).unwrap();
    let store = Arc::new(Store::open(&dir.join("state")).unwrap());
    let web = "web".into();
    store.build_appeared(&web, &GOOD.into(), BuildState::Adopted, "was there", &Moment::now()).unwrap();
    store.build_appeared(&web, &BAD.into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    let driver = driver(&store).with_fail_point(Arc::new(DieAt(point)));
    let incident = driver.open(&new_incident(BAD)).unwrap();
    let ended = decide_and_run(&driver, &hook.config(&dir), &incident);
    panic!("the agent outlived {point}: {}", ended.state);
}

/// An agent that was killed at `point`, and the ledger as the next agent opens it.
fn killed(dir: &TempDir, point: Point, hook: Hook) -> (Arc<Store>, Incident) {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_that_dies", "--nocapture"])
        .env("AGENT_THAT_DIES", format!("{}|{point}|{hook:?}", text(dir.path())))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "the agent did not die at {point} of {hook:?}");
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let incident = store.incidents(2).unwrap();
    assert_eq!(incident.len(), 1);
    (store, incident.into_iter().next().unwrap())
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has_ended(dir: &TempDir) -> bool {
    fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains("end"))
}

/// What an agent that was killed at a point leaves, what the next one makes of it, and how often the hook ran in all.
type Expected = (Point, State, State, usize);

/// `never`: points that such a course does not come to.
fn each_point(hook: Hook, expected: &[Expected], never: &[Point]) {
    let mut points: Vec<Point> = expected.iter().map(|(point, ..)| *point).chain(never.to_vec()).collect();
    for &(point, found, ended, expected_runs) in expected {
        let dir = TempDir::new().unwrap();
        let config = hook.config(dir.path());
        let (store, incident) = killed(&dir, point, hook);
        assert_eq!(incident.state, found, "{point} of {hook:?}");
        if found == State::HookRunning || point == Point::Spawned {
            // The hook does its work without an agent.
            wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
            std::thread::sleep(Duration::from_millis(200));
        }
        next_agent(&store, &config);
        let incident = store.incident(&incident.id).unwrap();
        let note = last_note(&store, &incident.id);
        assert_eq!(incident.state, ended, "{point} of {hook:?}: {note}");
        // And whatever comes after it changes nothing.
        next_agent(&store, &config);
        assert_eq!(store.incident(&incident.id).unwrap().state, ended, "{point} of {hook:?}");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(runs(&dir.path().join("log")), expected_runs, "{point} of {hook:?}");
        assert!(expected_runs > 0 || ended == State::Escalated, "{point} of {hook:?}");
        if ended == State::Escalated {
            assert!(!note.is_empty());
        }
    }
    points.sort_by_key(|point| Point::ALL.iter().position(|known| known == point));
    points.dedup();
    assert_eq!(points, Point::ALL, "not every point was tried");
}

#[test]
fn killed_at_every_point_of_a_hook_that_succeeds() {
    use State::{Armed, Detected, Escalated, HookDone, HookRunning, Recovered, Verifying};
    each_point(
        Hook::Quick,
        &[
            (Point::Detected, Detected, Recovered, 1),
            (Point::Decided, Armed, Recovered, 1),
            (Point::IntentJournaled, State::IntentJournaled, Escalated, 0),
            (Point::Spawned, State::IntentJournaled, Escalated, 1),
            (Point::StartRecorded, HookRunning, Escalated, 1),
            (Point::Ended, HookRunning, Escalated, 1),
            (Point::EndRecorded, HookDone, Recovered, 1),
            (Point::Concluded, Verifying, Recovered, 1),
            (Point::Verified, Verifying, Recovered, 1),
            (Point::Settled, Recovered, Recovered, 1),
        ],
        &[],
    );
}

#[test]
fn killed_at_every_point_of_a_hook_that_asks_for_another_attempt() {
    use State::{Armed, Detected, Escalated, HookRunning, Recovered, Verifying};
    each_point(
        Hook::Again,
        &[
            (Point::Detected, Detected, Recovered, 2),
            (Point::Decided, Armed, Recovered, 2),
            (Point::IntentJournaled, State::IntentJournaled, Escalated, 0),
            (Point::Spawned, State::IntentJournaled, Escalated, 1),
            (Point::StartRecorded, HookRunning, Escalated, 1),
            (Point::Ended, HookRunning, Escalated, 1),
            // Its own word that nothing was done is on disk: the attempt that was left is made.
            (Point::EndRecorded, Armed, Recovered, 2),
            (Point::Concluded, Verifying, Recovered, 2),
            (Point::Verified, Verifying, Recovered, 2),
            (Point::Settled, Recovered, Recovered, 2),
        ],
        &[],
    );
}

#[test]
fn killed_at_every_point_of_a_hook_that_fails() {
    use State::{Armed, Detected, Escalated, HookFailed, HookRunning};
    each_point(
        Hook::Failing,
        &[
            (Point::Detected, Detected, Escalated, 1),
            (Point::Decided, Armed, Escalated, 1),
            (Point::IntentJournaled, State::IntentJournaled, Escalated, 0),
            (Point::Spawned, State::IntentJournaled, Escalated, 1),
            (Point::StartRecorded, HookRunning, Escalated, 1),
            (Point::Ended, HookRunning, Escalated, 1),
            (Point::EndRecorded, HookFailed, Escalated, 1),
            (Point::Concluded, Escalated, Escalated, 1),
        ],
        &[Point::Verified, Point::Settled],
    );
}

#[test]
fn killed_before_the_process_was_recorded_finds_the_hook_by_its_environment() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::Spawned, Hook::Slow);
    assert_eq!(found.state, State::IntentJournaled);
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    let ended = next_agent(&store, &Hook::Slow.config(dir.path())).unwrap();
    assert_eq!(ended.state, State::Recovered);
    assert!(has_ended(&dir));
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_in_the_middle_of_the_hook_waits_for_it_and_verifies() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Slow);
    assert_eq!(found.state, State::HookRunning);
    wait_until("a hook without an agent writes on", || {
        fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains("alone"))
    });
    let driver = driver(&store);
    let settled = driver.reconcile().unwrap().remove(0);
    let Reconciliation::Wait { attempt: 1, process } = settled.next else {
        panic!("{:?}", settled.next);
    };
    assert!(!has_ended(&dir), "the hook was to be still running");
    let (events, mut told) = unbounded_channel();
    let hook = Hook::Slow.config(dir.path());
    let incident = block_on(driver.adopt(hook.hook.timeout, &found.id, 1, process, &events)).unwrap();
    assert_eq!(incident.state, State::Verifying);
    assert!(has_ended(&dir), "the hook died with the agent, or stopped at a full pipe");
    assert!(matches!(told.try_recv(), Ok(RollbackEvent::Verifying { .. })));
    let attempt = store.attempts(&found.id).unwrap().remove(0);
    assert!(attempt.outcome.unwrap().contains("exit status is unknown"));
    assert!(attempt.stdout.starts_with("alone\noooo"), "what it wrote alone is lost");
    assert!(attempt.stdout.contains("bytes left out"), "the later agent read on: {}", attempt.stdout.len());
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn an_adopted_hook_is_still_held_to_its_timeout() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Endless);
    let driver = driver(&store);
    let Reconciliation::Wait { process, .. } = driver.reconcile().unwrap().remove(0).next else {
        panic!("not waited for");
    };
    let (events, _told) = unbounded_channel();
    let hook = with_timeout(Hook::Endless.config(dir.path()), Duration::from_millis(500));
    let pid = process.pid;
    let incident = block_on(driver.adopt(hook.hook.timeout, &found.id, 1, process, &events)).unwrap();
    assert_eq!(incident.state, State::Escalated);
    assert!(last_note(&store, &found.id).contains("timed out"));
    wait_until("the group is gone", || {
        killpg(Pid::from_raw(pid), None).is_err()
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    });
}

#[test]
fn killed_together_with_the_hook_is_escalated_and_not_run_again() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Endless);
    let process = store.attempts(&found.id).unwrap().remove(0).process.unwrap();
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    killpg(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    wait_until("the hook is gone", || {
        fs::read_to_string(format!("/proc/{}/stat", process.pid)).map_or(true, |stat| stat.contains(") Z "))
    });
    let ended = next_agent(&store, &Hook::Endless.config(dir.path())).unwrap();
    assert_eq!(ended.state, State::Escalated);
    let note = last_note(&store, &found.id);
    assert!(note.contains("outcome is unknown") && note.contains(&process.pid.to_string()), "{note}");
    assert_eq!(runs(&dir.path().join("log")), 1);
}
