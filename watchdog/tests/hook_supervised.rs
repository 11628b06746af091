//! A hook that ends while no agent runs: its supervisor held it to its contract, and the next agent knows how it ended.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;
use support::crash::{Hook, Under, driver, has_ended, killed, next_agent, records, wait_until};
use support::{block_on, detect, last_note, live, rollback, rollback_by, runs, service};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Driver, Point, Recorder, SUPERVISE};
use watchdog::config::{ExecConfig, Mode, RollbackConfig};
use watchdog::incident::{Attempt, Incident, State};
use watchdog::store::Store;

/// No test of its own: the agent that the others start and that dies.
#[test]
fn agent_that_dies() {
    support::crash::agent_that_dies();
}

/// An agent was killed as soon as the hook ran; it has ended since, and its supervisor has recorded that.
fn ended_alone(dir: &TempDir, hook: Hook) -> (Arc<Store>, Incident) {
    let (store, found) = killed(dir, Point::StartRecorded, hook, Under::Supervisor);
    assert_eq!(found.state, State::HookRunning);
    // The lock goes once the record is durable.
    let lock = dir.path().join(format!("state/hooks/{}.1.run", found.id));
    wait_until("the end was recorded", || fs::File::open(&lock).unwrap().try_lock_shared().is_ok());
    (store, found)
}

/// What the next agent makes of it.
fn settled(dir: &TempDir, store: &Arc<Store>, hook: Hook) -> (Incident, Attempt) {
    let incident = next_agent(store, dir.path(), &hook.config(dir.path()), Under::Supervisor).unwrap();
    let attempt = store.attempts(&incident.id).unwrap().remove(0);
    assert_eq!(runs(&dir.path().join("log")), 1, "it ran once");
    (store.incident(&incident.id).unwrap(), attempt)
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// The process that started this one.
fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hook_that_ended_well_without_an_agent_is_verified() {
    let dir = TempDir::new().unwrap();
    let (store, _) = ended_alone(&dir, Hook::Slow);
    assert!(has_ended(&dir));
    let (incident, attempt) = settled(&dir, &store, Hook::Slow);
    assert_eq!(incident.state, State::Recovered);
    assert_eq!(attempt.exit_code, Some(0));
    let outcome = attempt.outcome.unwrap();
    assert!(outcome.starts_with("done") && outcome.contains("recorded by its supervisor"), "{outcome}");
    assert!(attempt.stdout.starts_with("alone\noooo"), "what it wrote alone is lost");
    assert_eq!(records(dir.path()), [""; 0], "a record outlived its incident");
}

#[test]
fn a_hook_that_failed_without_an_agent_is_escalated_with_its_exit_code_and_output() {
    let dir = TempDir::new().unwrap();
    let (store, found) = ended_alone(&dir, Hook::FailsLate);
    let (incident, attempt) = settled(&dir, &store, Hook::FailsLate);
    assert_eq!(incident.state, State::Escalated);
    assert!(last_note(&store, &found.id).contains("failed (exit 3)"), "{}", last_note(&store, &found.id));
    assert_eq!((attempt.exit_code, attempt.stderr.as_str()), (Some(3), "no such build\n"));
}

#[test]
fn a_hook_that_ends_while_a_later_agent_watches_ends_as_recorded() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::FailsLate, Under::Supervisor);
    assert!(!records(dir.path()).contains(&format!("{}.1.json", found.id)), "it was to be still running");
    let (incident, attempt) = settled(&dir, &store, Hook::FailsLate);
    assert_eq!((incident.state, attempt.exit_code), (State::Escalated, Some(3)));
    assert_eq!(attempt.stderr, "no such build\n");
}

#[test]
fn the_time_limit_holds_without_an_agent() {
    let dir = TempDir::new().unwrap();
    let begin = Instant::now();
    let (store, found) = ended_alone(&dir, Hook::Overdue);
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    let pids = fs::read_to_string(dir.path().join("log.pids")).unwrap();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    for pid in pids.lines() {
        wait_until("the whole group is gone", || !is_running(pid));
    }
    let (incident, _) = settled(&dir, &store, Hook::Overdue);
    assert_eq!(incident.state, State::Escalated);
    let note = last_note(&store, &found.id);
    assert!(note.contains("timed out after 300 ms"), "{note}");
}

#[test]
fn a_daemon_that_the_hook_left_lives_and_writes_on_without_an_agent() {
    let dir = TempDir::new().unwrap();
    let (store, _) = ended_alone(&dir, Hook::Daemon);
    let daemon = fs::read_to_string(dir.path().join("log.daemon")).unwrap();
    let wrote = || fs::read_to_string(dir.path().join("log")).unwrap().contains("wrote");
    assert!(is_running(&daemon) && !wrote(), "it was to outlive its hook");
    let (incident, attempt) = settled(&dir, &store, Hook::Daemon);
    assert_eq!(incident.state, State::Recovered);
    assert!(attempt.outcome.unwrap().contains("a background process still holds its output open"));
    fs::write(dir.path().join("log.go"), "").unwrap();
    wait_until("it stopped at a full pipe", wrote);
    assert!(is_running(&daemon));
    kill(Pid::from_raw(daemon.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_flood_without_an_agent_neither_blocks_the_hook_nor_fills_the_record() {
    let dir = TempDir::new().unwrap();
    let (store, found) = ended_alone(&dir, Hook::Flood);
    let record = fs::metadata(dir.path().join(format!("state/hooks/{}.1.json", found.id))).unwrap();
    assert!(record.len() < 200_000, "{} bytes", record.len());
    assert_eq!(record.permissions().mode() & 0o777, 0o600);
    let folder = fs::metadata(dir.path().join("state/hooks")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let (incident, attempt) = settled(&dir, &store, Hook::Flood);
    assert_eq!(incident.state, State::Recovered);
    assert!(attempt.stdout.starts_with("first\noooo") && attempt.stdout.ends_with("oooolast\n"));
    assert!(attempt.stdout.contains("bytes left out") && attempt.stderr.contains("bytes left out"));
}

#[test]
fn records_that_cannot_be_believed_are_ignored_and_the_incident_is_escalated() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("cut off", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
        ("of another process", |path| {
            let text = fs::read_to_string(path).unwrap();
            let (before, after) = text.split_once("\"start_ticks\":").unwrap();
            fs::write(path, format!("{before}\"start_ticks\":1{after}")).unwrap();
        }),
        ("of another incident", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("\"incident\":\"", "\"incident\":\"x", 1)).unwrap();
        }),
        ("open to others", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap()),
    ];
    for (how, spoil) in spoil {
        let dir = TempDir::new().unwrap();
        let (store, found) = ended_alone(&dir, Hook::Quick);
        spoil(&dir.path().join(format!("state/hooks/{}.1.json", found.id)));
        let (incident, _) = settled(&dir, &store, Hook::Quick);
        assert_eq!(incident.state, State::Escalated, "{how}");
        let note = last_note(&store, &found.id);
        assert!(note.contains("outcome is unknown"), "{how}: {note}");
    }
}

#[test]
fn a_supervisor_that_is_killed_leaves_the_hook_to_the_next_agent() {
    let dir = TempDir::new().unwrap();
    let (store, found) = killed(&dir, Point::StartRecorded, Hook::Slow, Under::Supervisor);
    let process = store.attempts(&found.id).unwrap().remove(0).process.unwrap();
    kill(Pid::from_raw(parent(process.pid)), Signal::SIGKILL).unwrap();
    let (incident, attempt) = settled(&dir, &store, Hook::Slow);
    assert!(has_ended(&dir), "the hook went with its supervisor");
    assert_eq!(incident.state, State::Recovered);
    assert!(attempt.outcome.unwrap().contains("exit status is unknown"));
}

/// Runs a hook to its end, with an agent that lives.
fn run(
    dir: &TempDir,
    hook: &RollbackConfig,
    under: Under,
    meanwhile: impl FnOnce(i32) + Send + 'static,
) -> (Incident, Attempt) {
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let driver = driver(&store, dir.path(), under);
    let id = detect(&store);
    driver.settle(&service(Some(hook.clone())), &id, &live(Mode::Enforce)).unwrap();
    let (events, _told) = unbounded_channel();
    let (watched, of) = (Arc::clone(&store), id.clone());
    let other = std::thread::spawn(move || {
        let pid = || watched.attempts(&of).unwrap().first().and_then(|it| it.process.clone());
        wait_until("the hook started", || pid().is_some());
        meanwhile(pid().unwrap().pid);
    });
    let incident = block_on(driver.roll_back(hook.clone(), &id, &events)).unwrap();
    other.join().unwrap();
    let attempt = store.attempts(&id).unwrap().remove(0);
    (incident, attempt)
}

#[test]
fn a_supervisor_that_is_killed_under_a_living_agent_is_escalated() {
    let dir = TempDir::new().unwrap();
    let hook = rollback(["/bin/sh", "-c", "echo before; sleep 1; echo after"]);
    let (incident, attempt) = run(&dir, &hook, Under::Supervisor, |pid| {
        kill(Pid::from_raw(parent(pid)), Signal::SIGKILL).unwrap();
    });
    assert_eq!(incident.state, State::Escalated);
    let outcome = attempt.outcome.unwrap();
    assert!(outcome.contains("its supervisor was killed"), "{outcome}");
    assert!(attempt.stdout.ends_with("after\n"), "nobody read on: {}", attempt.stdout);
}

#[test]
fn what_stops_everything_around_the_hook_does_not_stop_who_records_it() {
    let dir = TempDir::new().unwrap();
    let hook = rollback(["/bin/sh", "-c", "sleep 0.5; exit 4"]);
    let (incident, attempt) = run(&dir, &hook, Under::Supervisor, |pid| {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(Pid::from_raw(parent(pid)), signal).unwrap();
        }
    });
    assert_eq!((incident.state, attempt.exit_code), (State::Escalated, Some(4)));
}

#[test]
fn a_supervisor_inherits_neither_environment_nor_descriptors_of_the_agent() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("leaked");
    fs::write(&path, "").unwrap();
    // Without close-on-exec, as a careless library would leave it.
    let leaked = nix::unistd::dup(fs::File::open(&path).unwrap()).unwrap();
    let hook = rollback(["/bin/sh", "-c", "sleep 0.5"]);
    let (incident, _) = run(&dir, &hook, Under::Supervisor, move |pid| {
        let supervisor = parent(pid);
        assert_eq!(fs::read(format!("/proc/{supervisor}/environ")).unwrap(), b"");
        let open: Vec<_> = fs::read_dir(format!("/proc/{supervisor}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .collect();
        let files: Vec<_> = open.iter().filter(|target| target.starts_with("/")).collect();
        // Its standard error, and the attempt's lock; the order is a memory file, which has a name too.
        let is_its_own = |target: &Path| {
            target == Path::new("/dev/null")
                || target.extension().is_some_and(|extension| extension == "run")
                || target.starts_with("/memfd:load-watchdog-order (deleted)")
        };
        assert!(files.iter().all(|target| is_its_own(target)), "{open:?}");
    });
    assert_eq!(incident.state, State::Verifying);
    drop(leaked);
}

#[test]
fn people_are_told_that_a_supervisor_is_not_for_them() {
    let run = |argument: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_load-watchdog"));
        command.arg(argument).stdin(Stdio::null()).output().unwrap()
    };
    let refused = run(SUPERVISE);
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("load-watchdog hook test"));
    assert!(!String::from_utf8_lossy(&run("--help").stdout).contains(SUPERVISE), "it is in the help");
}

/// A bad build serves: better a rollback that a later agent cannot judge than none.
#[test]
fn a_hook_runs_without_a_supervisor_where_none_can_be_started() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let recorder = Recorder::with_program(&dir.path().join("state"), Path::new("/no/such/agent")).unwrap();
    let driver = Driver::new(Arc::clone(&store)).with_recorder(recorder);
    let hook = rollback(["/bin/sh", "-c", "echo here"]);
    let id = detect(&store);
    driver.settle(&service(Some(hook.clone())), &id, &live(Mode::Enforce)).unwrap();
    let (events, _told) = unbounded_channel();
    let incident = block_on(driver.roll_back(hook, &id, &events)).unwrap();
    assert_eq!(incident.state, State::Verifying);
    assert_eq!(store.attempts(&id).unwrap().remove(0).stdout, "here\n");
}

/// Descriptors, directory, mask, group, signals, environment, user and groups.
const TELL: &str = "
import os
fds = [fd for fd in range(0, 1024) if os.path.exists(f'/proc/self/fd/{fd}')]
status = [line.strip() for line in open('/proc/self/status') if line[:3] in ('Sig', 'Cap', 'Uid', 'Gid', 'Gro')]
status = [line for line in status if not line.startswith('SigQ')]
names = {name: value for name, value in os.environ.items() if name != 'LOAD_WATCHDOG_INCIDENT'}
print(fds, os.getcwd(), oct(os.umask(0)), os.getpgid(0) == os.getpid(), status, sorted(names.items()))
print(len(open(0).read()))
";

#[test]
fn a_hook_finds_the_same_with_a_supervisor_as_without_but_in_another_session() {
    let exec = ExecConfig { umask: 0o027, cwd: "/usr".into(), ..ExecConfig::new(["python3", "-c", TELL]) };
    let as_user = ExecConfig { user: Some("nobody".to_owned()), ..exec.clone() };
    let is_root = nix::unistd::geteuid().is_root();
    // As in the background of a shell, or under `nohup`.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }.unwrap();
    for exec in [Some(exec), is_root.then_some(as_user)].into_iter().flatten() {
        let said = |under| {
            let dir = TempDir::new().unwrap();
            let (incident, attempt) = run(&dir, &rollback_by(exec.clone()), under, |_| {});
            assert_eq!(incident.state, State::Verifying, "{attempt:?}");
            attempt.stdout
        };
        let supervised = said(Under::Supervisor);
        assert!(supervised.starts_with("[0, 1, 2] /usr 0o27 True"), "{supervised}");
        assert_eq!(supervised, said(Under::Nobody));
        let ignored = supervised.split("SigIgn:\\t").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 0, "SIGHUP is ignored: {supervised}");
    }
    let session = |under| {
        let dir = TempDir::new().unwrap();
        let hook = rollback(["python3", "-c", "import os; print(os.getsid(0))"]);
        run(&dir, &hook, under, |_| {}).1.stdout.trim().parse::<i32>().unwrap()
    };
    let own = nix::unistd::getsid(None).unwrap().as_raw();
    assert_eq!(session(Under::Nobody), own);
    assert_ne!(session(Under::Supervisor), own);
}

#[test]
fn a_hook_that_cannot_be_started_says_why_and_leaves_no_record() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
    let driver = driver(&store, dir.path(), Under::Supervisor);
    let hook = rollback(["/no/such/program"]);
    let id = detect(&store);
    driver.settle(&service(Some(hook.clone())), &id, &live(Mode::Enforce)).unwrap();
    let (events, _told) = unbounded_channel();
    let incident = block_on(driver.roll_back(hook, &id, &events)).unwrap();
    assert_eq!(incident.state, State::Escalated);
    assert!(last_note(&store, &id).contains("/no/such/program does not exist"), "{}", last_note(&store, &id));
    assert_eq!(records(dir.path()), [""; 0]);
}

/// From the verdict to the hook's first instruction, with everything that is written to disk before it.
///
/// The figures are for people (`cargo test -p load-watchdog --test hook_supervised starts_at_once -- --nocapture`); the
/// limit is only there to find a mistake.
#[test]
fn a_supervised_hook_starts_at_once() {
    const RUNS: usize = 30;
    let measure = |under| {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("state")).unwrap());
        let driver = driver(&store, dir.path(), under);
        let hook = rollback(["/bin/bash", "-c", "echo $EPOCHREALTIME"]);
        let mut web = service(Some(hook.clone()));
        let mut took_ms = Vec::new();
        for run in 0..RUNS {
            let name = format!("web{run}");
            web.name = name.as_str().into();
            let good = (support::GOOD.into(), watchdog::incident::BuildState::Adopted);
            let bad = (support::BAD.into(), watchdog::incident::BuildState::Probation);
            for (build, state) in [good, bad] {
                store
                    .build_appeared(&web.name, &build, state, "", &watchdog::incident::Moment::now())
                    .unwrap();
            }
            let new = watchdog::incident::NewIncident {
                service: web.name.clone(),
                ..support::new_incident(support::BAD)
            };
            let verdict = watchdog::incident::Moment::now();
            let id = driver.open(&new).unwrap().id;
            driver.settle(&web, &id, &live(Mode::Enforce)).unwrap();
            let (events, _told) = unbounded_channel();
            block_on(driver.roll_back(hook.clone(), &id, &events)).unwrap();
            let attempt = store.attempts(&id).unwrap().remove(0);
            // Bash has begun by then: a little more than the first instruction.
            let began_s: f64 = attempt.stdout.trim().parse().unwrap();
            took_ms.push(began_s * 1e3 - verdict_ms(&verdict));
        }
        took_ms.sort_by(f64::total_cmp);
        took_ms
    };
    for (name, under) in
        [("without a supervisor", Under::Nobody), ("under its supervisor", Under::Supervisor)]
    {
        let took_ms = measure(under);
        let median = took_ms[RUNS / 2];
        println!(
            "from the verdict to a hook {name}: median {median:.1} ms of {RUNS} runs ({:.1} to {:.1} ms)",
            took_ms[0],
            took_ms[RUNS - 1]
        );
        assert!(median < 2000.0, "{name}: {took_ms:?}");
    }
}

fn verdict_ms(verdict: &watchdog::incident::Moment) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let unix_ms = verdict.unix_ms as f64;
    unix_ms
}
