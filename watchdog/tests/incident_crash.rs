//! An agent that dies as by `kill -9` at each step of a rollback, and the next one that finds its ledger.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use support::{block_on, detect, last_note, rollback, runs, text, with_timeout};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{FailPoint, Point, Rollback, RollbackEvent, reconcile_open};
use watchdog::config::RollbackConfig;
use watchdog::incident::{Incident, Reconciliation, State};
use watchdog::store::Store;

/// Dies as by `kill -9` when the driver comes to a point.
struct DieAt(Point);

impl FailPoint for DieAt {
    fn reached(&self, point: Point) {
        if point == self.0 {
            kill(Pid::this(), Signal::SIGKILL).unwrap();
        }
    }
}

const POINTS: [Point; 5] =
    [Point::IntentJournaled, Point::Spawned, Point::StartRecorded, Point::Ended, Point::EndRecorded];

/// What the hook of the kill tests does: says that it ran; if told to take a while, writes while no agent is there,
/// takes that while, and writes more than a pipe holds; says that it came to its end.
fn slow_hook(dir: &Path, seconds: &str) -> RollbackConfig {
    let log = text(&dir.join("log"));
    let work = match seconds {
        "0" => "true".to_owned(),
        seconds => format!(
            "sleep 0.2; echo alone; echo alone >> {log}; sleep {seconds}; head -c 300000 /dev/zero | tr '\\0' o"
        ),
    };
    rollback(["/bin/sh", "-c", &format!("echo run >> {log}; {work}; echo end >> {log}")])
}

/// No test of its own: the agent that [`killed`] starts and that dies.
#[test]
fn agent_that_dies() {
    let Ok(order) = std::env::var("AGENT_THAT_DIES") else { return };
    let (dir, point, seconds) = {
        let mut parts = order.split('|');
        (
            PathBuf::from(parts.next().unwrap()),
            parts.next().unwrap().to_owned(),
            parts.next().unwrap().to_owned(),
        )
    };
    let point = POINTS.into_iter().find(|known| format!("{known:?}") == point).unwrap();
    let store = Arc::new(Store::open(&dir.join("state")).unwrap());
    let id = detect(&store);
    let (events, _told) = unbounded_channel();
    let _ = block_on(async {
        let rollback = Rollback::start(store, slow_hook(&dir, &seconds), &id, "enforce").await.unwrap();
        rollback.with_fail_point(Arc::new(DieAt(point))).drive(events).await
    });
    panic!("the agent outlived {point:?}");
}

/// An agent that was killed at `point`, and the ledger as the next agent opens it.
fn killed(dir: &TempDir, point: Point, seconds: &str) -> (Arc<Store>, Incident) {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_that_dies", "--nocapture"])
        .env("AGENT_THAT_DIES", format!("{}|{point:?}|{seconds}", text(dir.path())))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "the agent did not die at {point:?}");
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let open = store.open_incidents().unwrap();
    assert_eq!(open.len(), 1);
    (store, open.into_iter().next().unwrap())
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

#[test]
fn killed_between_intent_and_hook_is_escalated_and_never_run() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::IntentJournaled, "0");
    assert_eq!(found.state, State::IntentJournaled);
    let settled = reconcile_open(&store).unwrap();
    assert!(matches!(&settled[0].next, Reconciliation::Escalate { note } if note.contains("not run again")));
    assert_eq!(settled[0].incident.state, State::Escalated);
    assert!(last_note(&store, &found.id).contains("roll back by hand"));
    let again = block_on(Rollback::start(Arc::clone(&store), slow_hook(dir.path(), "0"), &found.id, ""));
    assert!(again.is_err());
    assert_eq!(reconcile_open(&store).unwrap()[0].next, Reconciliation::Leave, "the next start");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(runs(&dir.path().join("log")), 0);
}

#[test]
fn killed_before_the_process_was_recorded_finds_the_hook_by_its_environment() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::Spawned, "1");
    assert_eq!(found.state, State::IntentJournaled);
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    let settled = reconcile_open(&store).unwrap().remove(0);
    let Reconciliation::Wait { attempt: 1, process } = settled.next else {
        panic!("{:?}", settled.next);
    };
    let (events, _told) = unbounded_channel();
    let hook = slow_hook(dir.path(), "1");
    let incident =
        block_on(Rollback::adopt(Arc::clone(&store), hook, &found.id, 1, process, events)).unwrap();
    assert_eq!(incident.state, State::Verifying);
    assert!(has_ended(&dir));
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_before_the_process_was_recorded_and_the_hook_gone_is_escalated() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::Spawned, "0");
    assert_eq!(found.state, State::IntentJournaled);
    wait_until("the hook ended", || has_ended(&dir));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(reconcile_open(&store).unwrap()[0].incident.state, State::Escalated);
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_in_the_middle_of_the_hook_waits_for_it_and_verifies() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, "1");
    assert_eq!(found.state, State::HookRunning);
    wait_until("a hook without an agent writes on", || {
        fs::read_to_string(dir.path().join("log")).is_ok_and(|log| log.contains("alone"))
    });
    let settled = reconcile_open(&store).unwrap().remove(0);
    let Reconciliation::Wait { attempt: 1, process } = settled.next else {
        panic!("{:?}", settled.next);
    };
    assert!(!has_ended(&dir), "the hook was to be still running");
    let (events, mut told) = unbounded_channel();
    let hook = slow_hook(dir.path(), "1");
    let incident =
        block_on(Rollback::adopt(Arc::clone(&store), hook, &found.id, 1, process, events)).unwrap();
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
    let (store, found) = killed(&dir, Point::StartRecorded, "60");
    let Reconciliation::Wait { process, .. } = reconcile_open(&store).unwrap().remove(0).next else {
        panic!("not waited for");
    };
    let (events, _told) = unbounded_channel();
    let hook = with_timeout(slow_hook(dir.path(), "60"), Duration::from_millis(500));
    let pid = process.pid;
    let incident =
        block_on(Rollback::adopt(Arc::clone(&store), hook, &found.id, 1, process, events)).unwrap();
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
    let (store, found) = killed(&dir, Point::StartRecorded, "60");
    let process = store.attempts(&found.id).unwrap().remove(0).process.unwrap();
    wait_until("the hook ran", || runs(&dir.path().join("log")) == 1);
    killpg(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
    wait_until("the hook is gone", || {
        fs::read_to_string(format!("/proc/{}/stat", process.pid)).map_or(true, |stat| stat.contains(") Z "))
    });
    let settled = reconcile_open(&store).unwrap().remove(0);
    assert_eq!(settled.incident.state, State::Escalated);
    let note = last_note(&store, &found.id);
    assert!(note.contains("outcome is unknown") && note.contains(&process.pid.to_string()), "{note}");
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_before_the_outcome_was_recorded_is_escalated() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::Ended, "0");
    assert_eq!(found.state, State::HookRunning);
    assert_eq!(reconcile_open(&store).unwrap()[0].incident.state, State::Escalated);
    assert_eq!(runs(&dir.path().join("log")), 1);
}

#[test]
fn killed_after_the_outcome_was_recorded_goes_on_verifying() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::EndRecorded, "0");
    assert_eq!(found.state, State::HookDone);
    let settled = reconcile_open(&store).unwrap().remove(0);
    assert_eq!((settled.next, settled.incident.state), (Reconciliation::Verify, State::Verifying));
    let settled = reconcile_open(&store).unwrap().remove(0);
    assert_eq!(
        (settled.next, settled.incident.state),
        (Reconciliation::Verify, State::Verifying),
        "once more"
    );
    assert_eq!(runs(&dir.path().join("log")), 1);
}
