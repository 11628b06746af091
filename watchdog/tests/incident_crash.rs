//! An agent that dies as by `kill -9` at each step of an incident, and the next one that finds its ledger.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use support::crash::{Hook, Under, driver, has_ended, killed, next_agent, records, wait_until};
use support::{block_on, last_note, runs, with_timeout};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Point, RollbackEvent};
use watchdog::incident::{Reconciliation, State};

/// No test of its own: the agent that the others start and that dies.
#[test]
fn agent_that_dies() {
    support::crash::agent_that_dies();
}

/// What an agent that was killed at a point leaves, what the next one makes of it, and how often the hook ran in all.
type Expected = (Point, State, State, usize);

/// `never`: points that such a course does not come to.
fn each_point(hook: Hook, expected: &[Expected], never: &[Point]) {
    let mut points: Vec<Point> = expected.iter().map(|(point, ..)| *point).chain(never.to_vec()).collect();
    for &(point, found, ended, expected_runs) in expected {
        let dir = TempDir::new().unwrap();
        let config = hook.config(dir.path());
        let (store, incident) = killed(&dir, point, hook, Under::Supervisor);
        assert_eq!(incident.state, found, "{point} of {hook:?}");
        if found == State::HookRunning || point == Point::Spawned {
            // The hook does its work without an agent.
            wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
            std::thread::sleep(Duration::from_millis(200));
        }
        next_agent(&store, dir.path(), &config, Under::Supervisor);
        let incident = store.incident(&incident.id).unwrap();
        let note = last_note(&store, &incident.id);
        assert_eq!(incident.state, ended, "{point} of {hook:?}: {note}");
        // And whatever comes after it changes nothing.
        next_agent(&store, dir.path(), &config, Under::Supervisor);
        assert_eq!(store.incident(&incident.id).unwrap().state, ended, "{point} of {hook:?}");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(runs(&dir.path().join("log")), expected_runs, "{point} of {hook:?}");
        assert!(expected_runs > 0 || ended == State::Escalated, "{point} of {hook:?}");
        if ended == State::Escalated {
            assert!(!note.is_empty());
        }
        assert_eq!(records(dir.path()), [""; 0], "{point} of {hook:?}");
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
            (Point::Spawned, State::IntentJournaled, Recovered, 1),
            (Point::StartRecorded, HookRunning, Recovered, 1),
            (Point::Ended, HookRunning, Recovered, 1),
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
            (Point::Spawned, State::IntentJournaled, Recovered, 2),
            (Point::StartRecorded, HookRunning, Recovered, 2),
            (Point::Ended, HookRunning, Recovered, 2),
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
    let (store, found) = killed(&dir, Point::Spawned, Hook::Slow, Under::Nobody);
    assert_eq!(found.state, State::IntentJournaled);
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    let ended = next_agent(&store, dir.path(), &Hook::Slow.config(dir.path()), Under::Nobody).unwrap();
    assert_eq!(ended.state, State::Recovered);
    assert!(has_ended(&dir));
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_in_the_middle_of_the_hook_waits_for_it_and_verifies() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Slow, Under::Nobody);
    assert_eq!(found.state, State::HookRunning);
    wait_until("a hook without an agent writes on", || {
        fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains("alone"))
    });
    let driver = driver(&store, dir.path(), Under::Nobody);
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
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Endless, Under::Nobody);
    let driver = driver(&store, dir.path(), Under::Nobody);
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
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Endless, Under::Nobody);
    let process = store.attempts(&found.id).unwrap().remove(0).process.unwrap();
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    killpg(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    wait_until("the hook is gone", || {
        fs::read_to_string(format!("/proc/{}/stat", process.pid)).map_or(true, |stat| stat.contains(") Z "))
    });
    let ended = next_agent(&store, dir.path(), &Hook::Endless.config(dir.path()), Under::Nobody).unwrap();
    assert_eq!(ended.state, State::Escalated);
    let note = last_note(&store, &found.id);
    assert!(note.contains("outcome is unknown") && note.contains(&process.pid.to_string()), "{note}");
    assert_eq!(runs(&dir.path().join("log")), 1);
}
