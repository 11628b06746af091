//! The built binary: what it prints, and its exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn config(&self, hook: &Path) -> PathBuf {
        let text = format!(
            r#"
[agent]
state_dir = "{state}"
control = "{control}"

[[service]]
name = "web"
match = {{ exe = "/usr/bin/python3" }}

[[service.endpoint]]
name = "login"
method = "POST"
path = "/login"
budget = {{ mean_cpu = "80ms" }}

[service.rollback]
exec = ["{hook}", "{{good_build}}"]
timeout = "5s"
"#,
            state = self.path("state").display(),
            control = self.path("control.sock").display(),
            hook = hook.display(),
        );
        self.write("config.toml", &text)
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load-watchdog")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(arguments: &[&str], code: i32, in_stdout: &str, in_stderr: &str) {
    let output = run(arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
    assert!(stdout.contains(in_stdout), "{arguments:?}: no {in_stdout:?} in\n{stdout}");
    assert!(stderr.contains(in_stderr), "{arguments:?}: no {in_stderr:?} in\n{stderr}");
}

#[test]
fn help_goes_to_standard_output_and_mistakes_to_standard_error() {
    check(&["--help"], 0, "First steps", "");
    check(&["--version"], 0, env!("CARGO_PKG_VERSION"), "");
    for command in [
        "run",
        "check-config",
        "doctor",
        "status",
        "builds",
        "incidents",
        "approve",
        "reject",
        "acknowledge",
        "mode",
        "pause",
        "resume",
        "audit",
        "gate",
    ] {
        check(&[command, "--help"], 0, "Exit codes", "");
    }
    check(&["hook", "test", "--help"], 0, "LOAD_WATCHDOG_TEST=1", "");
    check(&["incidents", "show", "--help"], 0, "how it ended", "");
    check(&["frobnicate"], 64, "", "unrecognized subcommand");
    check(&[], 64, "", "Usage");
    check(&["run", "--min-coverage", "much"], 64, "", "--min-coverage");
}

#[test]
fn configurations_are_checked_with_exit_code_64() {
    let bed = Bed::new();
    let config = bed.config(Path::new("/bin/true"));
    check(&["check-config", config.to_str().unwrap()], 0, "ok, 1 services, 1 endpoints", "");
    let bad = bed.write("bad.toml", "[agent]\nlisten = 7\n[[service]]\nname = \"web\"\ncolour = \"red\"\n");
    let output = run(&["check-config", bad.to_str().unwrap()]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("bad.toml:2:") && stderr.contains("colour"), "{stderr}");
    check(&["check-config", "/nonexistent.toml"], 64, "", "cannot be read");
    check(&["run", "--config", "/nonexistent.toml"], 64, "", "cannot be read");
    check(&["run", "--config", config.to_str().unwrap(), "--min-coverage", "7"], 64, "", "--min-coverage");
}

#[test]
fn without_an_agent_the_commands_say_so_and_what_to_do() {
    let bed = Bed::new();
    let (control, state) = (bed.path("control.sock"), bed.path("state"));
    let at = ["--control", control.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    for command in
        [&["status"][..], &["builds"], &["incidents"], &["incidents", "show", "x"], &["approve", "x"]]
    {
        let arguments = [command, &at].concat();
        check(&arguments, 1, "", "no agent answers");
        check(&arguments, 1, "", "systemctl start load-watchdog");
    }
}

#[test]
fn builds_and_incidents_come_from_the_ledger_when_no_agent_runs() {
    use watchdog::config::Mode;
    use watchdog::incident::{BuildState, Moment, NewIncident};
    let bed = Bed::new();
    let state = bed.path("state");
    let id = {
        let store = watchdog::store::Store::open(&state).unwrap();
        let (service, now) = ("web".into(), Moment::now());
        store.build_appeared(&service, &"r1".into(), BuildState::Adopted, "was there", &now).unwrap();
        store.build_appeared(&service, &"r2".into(), BuildState::Probation, "appeared", &now).unwrap();
        let new = NewIncident {
            service,
            endpoint: "login".into(),
            bad_build: "r2".into(),
            good_build: Some("r1".into()),
            reason: "build r2 needs 320 ms CPU per login request, budget 80 ms".to_owned(),
            evidence: serde_json::json!({}),
            mode: Mode::Enforce,
        };
        store.open_incident(&new, &now).unwrap().id
    };
    let control = bed.path("control.sock");
    let at = ["--control", control.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    check(&[&["builds"][..], &at].concat(), 0, "probation", "ledger as it left it");
    check(&[&["incidents"][..], &at].concat(), 0, "320 ms", "ledger as it left it");
    check(&[&["incidents", "show", id.as_str()][..], &at].concat(), 0, "detected", "");
    check(&[&["incidents", "show", "20170127-nonesuch"][..], &at].concat(), 1, "", "lists them");
    let output = run(&[&["builds", "--json"][..], &at].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["builds"][0]["build"], "r2");
    assert_eq!(json["builds"][1]["state"], "adopted");
}

#[test]
fn the_hook_is_tried_and_its_result_told() {
    let bed = Bed::new();
    let good = bed.script("good", "#!/bin/sh\necho \"test=$LOAD_WATCHDOG_TEST good=$1\"\n");
    let config = bed.config(&good);
    check(
        &["hook", "test", "web", "--config", config.to_str().unwrap()],
        0,
        "test=1 good=test-good-build",
        "",
    );
    check(&["hook", "test", "db", "--config", config.to_str().unwrap()], 64, "", "it has: web");
    let bad = bed.script("bad", "#!/bin/sh\necho broken >&2\nexit 3\n");
    let config = bed.config(&bad);
    check(&["hook", "test", "web", "--config", config.to_str().unwrap()], 1, "broken", "");
}

#[test]
fn output_to_a_closed_pipe_is_no_error() {
    use std::process::Stdio;
    let bed = Bed::new();
    let config = bed.config(Path::new("/bin/true"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_load-watchdog"))
        .args(["check-config", config.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn what_a_hook_prints_is_shown_and_not_obeyed() {
    let bed = Bed::new();
    let hook = bed.script(
        "hook.sh",
        "#!/bin/sh\nprintf 'done\\033[2J\\r\\nnext\\n'\nprintf '\\033]0;owned\\007' >&2\n",
    );
    let config = bed.config(&hook);
    let output = run(&["hook", "test", "web", "--config", config.to_str().unwrap()]);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    assert!(stdout.contains("done\\u{1b}[2J\\r\nnext") && stdout.contains("\\u{1b}]0;owned"), "{stdout:?}");
    assert!(stdout.chars().all(|c| c == '\n' || !c.is_control()), "{stdout:?}");
    // And a mistake is quoted as it is written, not as it acts.
    check(
        &["approve", "\u{1b}[2J", "--control", bed.path("none").to_str().unwrap()],
        1,
        "",
        "no agent answers",
    );
}

#[test]
fn the_gate_never_fails_with_the_code_of_an_answer() {
    let bed = Bed::new();
    let (control, state) = (bed.path("control.sock"), bed.path("state"));
    let at = ["--control", control.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    check(&[&["gate", "web", "v1"][..], &at].concat(), 2, "", "no agent answers");
    let begun = std::time::Instant::now();
    check(&[&["gate", "web", "v1", "--wait", "1s"][..], &at].concat(), 2, "", "no agent answers");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "it did not wait");
    check(&[&["gate", "web", ""][..], &at].concat(), 64, "", "no build is named so");
    check(&["gate", "web"], 64, "", "BUILD");
    check(&["gate", "web", "v1", "--wait", "soon"], 64, "", "30m");
    // A ledger that is none.
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("state.db"), "not a ledger").unwrap();
    check(&[&["gate", "web", "v1"][..], &at].concat(), 2, "", "damaged");
    std::fs::remove_file(state.join("state.db")).unwrap();
    drop(watchdog::store::Store::open(&state).unwrap());
    check(
        &[&["gate", "web", "v1"][..], &at].concat(),
        2,
        "undecided: build v1 of web was not seen yet, and no agent",
        "",
    );
}

#[test]
fn decisions_are_typed_with_their_times() {
    let bed = Bed::new();
    let control = bed.path("control.sock");
    let at = ["--control", control.to_str().unwrap()];
    check(&[&["pause", "--for", "soon"][..], &at].concat(), 64, "", "it is not a time");
    check(&[&["mode", "web", "maybe"][..], &at].concat(), 64, "", "observe");
    for command in [
        &["pause"][..],
        &["resume"],
        &["mode", "web", "observe", "--for", "2h"],
        &["builds", "condemn", "web", "v2", "--for", "90s", "--endpoint", "login"],
        &["builds", "forget", "web", "v2"],
        &["reject", "20170127-00000000"],
        &["acknowledge", "20170127-00000000"],
    ] {
        check(&[command, &at].concat(), 1, "", "no agent answers");
    }
}
