//! The contract of hooks that are programs (docs/hooks.md), with real ones.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use support::{block_on, rollback, rollback_by, script, service, text, with_timeout};
use tempfile::TempDir;
use watchdog::action::{HookKind, HookOutcome, HookRun, hook_test};
use watchdog::config::{ExecConfig, RollbackConfig};

fn run(hook: RollbackConfig) -> HookRun {
    block_on(hook_test(&service(Some(hook)), HookKind::Rollback)).expect("a hook is configured")
}

fn run_by(exec: ExecConfig) -> HookRun {
    run(rollback_by(exec))
}

fn sh(body: &str) -> HookRun {
    run(rollback(["/bin/sh", "-c", body]))
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

fn why_not_started(run: &HookRun) -> &str {
    match &run.outcome {
        HookOutcome::NotStarted { why } => why,
        other => panic!("started: {other:?}"),
    }
}

#[test]
fn exit_statuses_have_their_meanings() {
    let done = sh("echo out; echo err >&2");
    assert_eq!(done.outcome, HookOutcome::Done);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    assert!(done.notes.is_empty(), "{:?}", done.notes);
    assert_eq!(sh("exit 75").outcome, HookOutcome::TryAgain);
    assert_eq!(sh("exit 3").outcome, HookOutcome::Failed { code: 3 });
    assert!(sh("no-such-command").outcome.to_string().contains("not found"));
    let killed = sh("kill -SEGV $$");
    assert_eq!(killed.outcome, HookOutcome::Signalled { signal: 11, name: "SIGSEGV".to_owned() });
    assert_eq!(killed.outcome.to_string(), "killed by SIGSEGV (signal 11)");
}

#[test]
fn a_service_without_a_hook_says_what_to_add() {
    let error = block_on(hook_test(&service(None), HookKind::Rollback)).unwrap_err().to_string();
    assert!(error.contains("web") && error.contains("[service.rollback]"), "{error}");
    let web = service(Some(rollback(["/bin/true"])));
    let error = block_on(hook_test(&web, HookKind::Escalate)).unwrap_err().to_string();
    assert!(error.contains("[service.rollback.escalate]"), "{error}");
}

#[test]
fn programs_that_cannot_run_are_named_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let missing = text(&dir.path().join("absent"));
    let why = run(rollback([&missing]));
    assert!(why_not_started(&why).contains(&missing) && why_not_started(&why).contains("does not exist"));
    let why = run(rollback(["no-such-program-anywhere"]));
    assert!(why_not_started(&why).contains("looked up in PATH"));

    let plain = script(&dir, "plain", "#!/bin/sh\n");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let why = run(rollback([text(&plain)]));
    assert!(why_not_started(&why).contains("chmod +x"), "{why:?}");
    let why = run(rollback([text(dir.path())]));
    assert!(why_not_started(&why).contains("is a directory"), "{why:?}");
    let why = run(rollback([text(&script(&dir, "lost", "#!/no/such/interpreter\n"))]));
    assert!(why_not_started(&why).contains("interpreter"), "{why:?}");
    let why = run(rollback(Vec::<String>::new()));
    assert!(why_not_started(&why).contains("empty"), "{why:?}");
    let why =
        run_by(ExecConfig { user: Some("no-such-user-here".to_owned()), ..ExecConfig::new(["/bin/true"]) });
    assert!(why_not_started(&why).contains("no-such-user-here"), "{why:?}");
}

#[test]
fn the_environment_is_exactly_the_documented_one() {
    let printed = run(rollback(["/usr/bin/env", "-0"])).stdout;
    // NUL is kept as U+FFFD in the text.
    let seen: BTreeMap<&str, &str> =
        printed.split_terminator('\u{fffd}').map(|entry| entry.split_once('=').unwrap()).collect();
    let names: Vec<&str> = seen.keys().copied().collect();
    assert_eq!(
        names,
        [
            "HOME",
            "LANG",
            "LOAD_WATCHDOG_ATTEMPT",
            "LOAD_WATCHDOG_BAD_BUILD",
            "LOAD_WATCHDOG_ENDPOINT",
            "LOAD_WATCHDOG_GOOD_BUILD",
            "LOAD_WATCHDOG_HOOK",
            "LOAD_WATCHDOG_INCIDENT",
            "LOAD_WATCHDOG_NOTE",
            "LOAD_WATCHDOG_OUTCOME",
            "LOAD_WATCHDOG_REASON",
            "LOAD_WATCHDOG_SERVICE",
            "LOAD_WATCHDOG_TEST",
            "LOGNAME",
            "PATH",
            "USER",
        ]
    );
    assert_eq!((seen["LOAD_WATCHDOG_TEST"], seen["LOAD_WATCHDOG_ATTEMPT"]), ("1", "1"));
    assert_eq!(seen["LOAD_WATCHDOG_GOOD_BUILD"], "test-good-build");
    let documented = include_str!("../../docs/hooks.md");
    for name in names {
        assert!(documented.contains(name), "docs/hooks.md does not name {name}");
    }
}

#[test]
fn the_payload_is_marked_json_with_the_documented_fields() {
    let run = sh("cat");
    let payload: BTreeMap<String, serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(payload["version"], 1);
    assert_eq!(payload["test"], true);
    assert_eq!(payload["bad_build"], "test-bad-build");
    let documented = include_str!("../../docs/hooks.md");
    for name in payload.keys() {
        assert!(documented.contains(&format!("\"{name}\"")), "docs/hooks.md does not name {name}");
    }
}

#[test]
fn the_process_starts_clean() {
    // Descriptors without close-on-exec, as a careless library would leave them.
    let leaked: Vec<_> =
        (0..3).map(|_| nix::unistd::dup(fs::File::open("/dev/null").unwrap()).unwrap()).collect();
    let run = run(rollback([
        "python3",
        "-c",
        "import os\n\
         fds = [fd for fd in range(0, 1024) if os.path.exists(f'/proc/self/fd/{fd}')]\n\
         print(fds, os.getcwd(), oct(os.umask(0)), os.getpgid(0) == os.getpid())",
    ]));
    assert_eq!(run.stdout, "[0, 1, 2] / 0o22 True\n", "{run:?}");
    drop(leaked);
}

#[test]
fn the_hook_becomes_its_user_with_all_groups() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can switch users");
        return;
    }
    // Somebody with supplementary groups, where there is one.
    let groups = fs::read_to_string("/etc/group").unwrap();
    let name = groups
        .lines()
        .filter_map(|line| line.rsplit(':').next()?.split(',').find(|member| !["", "root"].contains(member)))
        .find(|member| nix::unistd::User::from_name(member).is_ok_and(|user| user.is_some()))
        .unwrap_or("nobody");
    let user = nix::unistd::User::from_name(name).unwrap().unwrap();
    let script = "id -un; id -G; echo $HOME $USER $LOGNAME; grep -E '^(Uid|CapPrm)' /proc/self/status";
    let user_of = |groups: Option<Vec<String>>| {
        let exec = ExecConfig::new(["/bin/sh", "-c", script]);
        run_by(ExecConfig { user: Some(name.to_owned()), groups, ..exec })
    };
    let run = user_of(None);
    let expected = std::process::Command::new("id").args(["-G", name]).output().unwrap();
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], name, "{run:?}");
    assert_eq!(lines[1], String::from_utf8_lossy(&expected.stdout).trim());
    assert_eq!(lines[2], format!("{} {name} {name}", user.dir.display()));
    let uid = user.uid.to_string();
    assert_eq!(lines[3].split_whitespace().skip(1).collect::<Vec<_>>(), [uid.as_str(); 4]);
    assert_eq!(lines[4].split_whitespace().last(), Some("0000000000000000"), "capabilities were kept");

    let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    let run = user_of(Some(vec!["daemon".to_owned()]));
    let mut groups: Vec<&str> = run.stdout.lines().nth(1).unwrap().split(' ').collect();
    groups.sort_unstable();
    let mut expected = [user.gid.to_string(), daemon.gid.to_string()];
    expected.sort_unstable();
    assert_eq!(groups, expected);
    let run = user_of(Some(vec!["no-such-group-here".to_owned()]));
    assert!(why_not_started(&run).contains("no-such-group-here"), "{run:?}");
}

#[test]
fn the_working_directory_the_mask_and_further_variables_are_the_configured_ones() {
    let dir = TempDir::new().unwrap();
    let exec = ExecConfig {
        cwd: dir.path().to_owned(),
        umask: 0o027,
        environment: vec![("STAGE".to_owned(), Some("blue green".to_owned())), ("CARGO".to_owned(), None)],
        ..ExecConfig::new(["/bin/sh", "-c", "pwd; umask; echo \"$STAGE\"; echo \"$CARGO\"; touch new"])
    };
    let run = run_by(exec.clone());
    let cargo = std::env::var("CARGO").unwrap_or_default();
    assert_eq!(run.stdout, format!("{}\n0027\nblue green\n{cargo}\n", text(dir.path())), "{run:?}");
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().permissions().mode() & 0o777, 0o640);

    let run = run_by(ExecConfig { cwd: dir.path().join("absent"), ..exec });
    assert!(why_not_started(&run).contains("absent cannot be entered"), "{run:?}");
}

/// `check-config` looked at it, and since then somebody opened it to others.
#[test]
fn a_hook_that_others_may_change_is_not_run() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("mark");
    let hook = script(&dir, "hook", &format!("#!/bin/sh\ntouch {}\n", text(&mark)));
    let refused = |words: &str, path: &str| {
        let run = run(rollback([path]));
        assert!(why_not_started(&run).contains(words), "{run:?}");
        assert!(!mark.exists(), "it was run");
    };
    let mode = |mode| fs::set_permissions(&hook, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o775);
    refused("may be written by others", &text(&hook));
    mode(0o755);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    refused("may be written by others", &text(&hook));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&hook, Some(65_534), None).unwrap();
        refused("belongs to", &text(&hook));
        chown(&hook, Some(0), None).unwrap();
    }
    assert_eq!(run(rollback([text(&hook)])).outcome, HookOutcome::Done);
    assert!(mark.exists());
}

/// A server that a hook starts anew: it leaves the group and the session, and closes what it inherited.
#[test]
fn a_hook_that_starts_a_daemon_ends_at_once_and_the_daemon_lives() {
    let begin = Instant::now();
    let run = sh("setsid sh -c 'echo $$; exec sleep 20 >/dev/null 2>&1 </dev/null' & wait_for=$!; \
                  sleep 0.3; kill -0 $wait_for; exit 0");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!((&run.outcome, run.notes.len()), (&HookOutcome::Done, 0), "{run:?}");
    let pid = run.stdout.trim();
    assert!(is_running(pid), "the daemon was killed");
    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_hook_that_ignores_its_input_or_closes_it_is_not_disturbed() {
    assert_eq!(sh("exec 0<&-; sleep 0.1; exit 0").outcome, HookOutcome::Done);
    assert_eq!(sh("head -c 3 >/dev/null").outcome, HookOutcome::Done);
}

#[test]
fn a_timeout_ends_the_whole_process_group() {
    let dir = TempDir::new().unwrap();
    let pids = text(&dir.path().join("pids"));
    let body = format!(
        "echo $$ >> {pids}\n\
         (trap '' TERM; sh -c 'echo $$ >> {pids}; trap \"\" TERM; while :; do sleep 1; done') &\n\
         while [ $(wc -l < {pids}) -lt 2 ]; do sleep 0.01; done\n\
         echo before; wait"
    );
    let hook = with_timeout(rollback(["/bin/sh", "-c", &body]), Duration::from_secs(1));
    let begin = Instant::now();
    let run = run(hook);
    assert_eq!(run.outcome, HookOutcome::TimedOut { after_ms: 1000, forced: false }, "{run:?}");
    assert_eq!(run.stdout, "before\n");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let pids = fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 2);
    std::thread::sleep(Duration::from_millis(200));
    for pid in pids.lines() {
        assert!(!is_running(pid), "{pid} outlived the timeout");
    }
}

#[test]
fn a_hook_that_ignores_sigterm_is_killed_after_the_grace() {
    let begin = Instant::now();
    let stubborn = rollback(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let hook = with_timeout(stubborn, Duration::from_millis(200));
    let run = run(hook);
    assert_eq!(run.outcome, HookOutcome::TimedOut { after_ms: 200, forced: true });
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[test]
fn a_flood_neither_blocks_the_hook_nor_fills_the_memory() {
    let peak_kib = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = peak_kib();
    let run = sh("echo first; (head -c 100000000 /dev/zero | tr '\\0' e >&2) & \
                  head -c 100000000 /dev/zero | tr '\\0' o; wait; echo last");
    assert_eq!(run.outcome, HookOutcome::Done);
    assert!(run.stdout.starts_with("first\noooo") && run.stdout.ends_with("oooolast\n"));
    assert!(run.stdout.contains("bytes left out") && run.stderr.contains("bytes left out"));
    assert!(run.stdout.len() < 66_000 && run.stderr.len() < 66_000);
    let grown = peak_kib() - before;
    assert!(grown < 16 * 1024, "{grown} KiB more for 200 MB of output");
}

#[test]
fn a_background_process_that_keeps_the_output_is_not_waited_for() {
    let begin = Instant::now();
    let run = sh("sleep 20 & echo $!; exit 0");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(run.outcome, HookOutcome::Done);
    assert!(run.notes[0].contains("background process"), "{:?}", run.notes);
    let pid = run.stdout.trim();
    assert!(is_running(pid), "a server that the hook started was killed");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

#[test]
fn a_background_process_may_go_on_writing() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("mark");
    let body = format!("(sleep 0.8; head -c 300000 /dev/zero; echo ok > {}) & exit 0", text(&mark));
    block_on(async {
        let run = {
            let web = service(Some(rollback(["/bin/sh", "-c", &body])));
            hook_test(&web, HookKind::Rollback).await.unwrap()
        };
        assert_eq!(run.outcome, HookOutcome::Done);
        for _ in 0..100 {
            if mark.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it was stopped at a full pipe");
    });
}

#[test]
fn the_agents_loop_goes_on_while_the_hook_runs() {
    block_on(async {
        let mut ticks = 0;
        let web = service(Some(rollback(["/bin/sleep", "0.5"])));
        let hook = hook_test(&web, HookKind::Rollback);
        tokio::pin!(hook);
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        let run = loop {
            tokio::select! {
                run = &mut hook => break run.unwrap(),
                _ = interval.tick() => ticks += 1,
            }
        };
        assert_eq!(run.outcome, HookOutcome::Done);
        assert!(ticks > 10, "{ticks} ticks in half a second");
    });
}
