//! Hooks and endpoints that misbehave, under one real agent: a service for each, whose new build a person condemns.
//!
//! What each of them is told apart by is tested with the hooks alone in watchdog/tests/hook.rs and webhook.rs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use watchdog::control::Command as Ask;
use watchdog_tests::agent::scene::{A_WHILE, WITHIN, done, says};
use watchdog_tests::agent::site::{Service, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::endpoint::{Endpoint, Reply};
use watchdog_tests::harness::{Burn, executable};

/// One way to misbehave.
struct Fault {
    name: &'static str,
    /// Of the hook's script; without one, it is a webhook.
    body: Option<&'static str>,
    /// How often the hook (or the endpoint) is reached.
    runs: usize,
    /// What the timeline says.
    says: &'static str,
}

const fn script(name: &'static str, body: &'static str, runs: usize, says: &'static str) -> Fault {
    Fault { name, body: Some(body), runs, says }
}

const fn webhook(name: &'static str, says: &'static str) -> Fault {
    Fault { name, body: None, runs: 1, says }
}

/// None of them brings the good build to serve, so each ends with a person, who is told this.
const FAULTS: &[Fault] = &[
    script("hangs", "sleep 60", 1, "timed out"),
    script("ignores", "trap '' TERM; while :; do sleep 0.1; done", 1, "timed out"),
    script("daemon", "setsid sleep 30 >/dev/null 2>&1 & exit 0", 1, "the rollback did not help"),
    script("clings", "setsid sleep 30 & exit 0", 1, "the rollback did not help"),
    script("floods", "head -c 50000000 /dev/zero; exit 3", 1, "exit 3"),
    script("signal", "kill -SEGV $$", 1, "signal"),
    script("missing", "missing", 0, "does not exist"),
    script("plain", "plain", 0, "cannot be executed"),
    webhook("slow", "did not answer within"),
    webhook("error", "500"),
    webhook("cut", "in the middle of its answer"),
];

fn reply(path: &str) -> Reply {
    match path {
        "/slow" => Reply::Late(Duration::from_secs(5)),
        "/error" => Reply::Answer(500, "no".to_owned()),
        _ => Reply::CutOff,
    }
}

/// The service of a fault, and how its hook is called.
fn service(site: &Site, fault: &Fault, endpoint: &Endpoint) -> Service {
    let name = fault.name;
    let mut service = site.web().unwrap();
    name.clone_into(&mut service.name);
    service.matcher = format!("{{ cmdline = '{}/{name}-' }}", site.folder().display());
    service.hook = None;
    let call = match fault.body {
        Some(body) => {
            let path = site.file(&format!("{name}.sh"));
            let text =
                format!("#!/bin/sh\necho run >>'{}'\n{body}\n", site.file(&format!("{name}.runs")).display());
            if body != "missing" {
                fs::write(&path, text).unwrap();
                let mode = if body == "plain" { 0o644 } else { 0o755 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            format!("exec = [\"{}\"]", path.display())
        }
        None => format!(
            "webhook = {{ url = \"{}\", ca_file = \"{}\", secret_file = \"{}\" }}",
            endpoint.url(&format!("/{name}")),
            endpoint.ca_file().display(),
            site.file("key").display()
        ),
    };
    let _ = write!(
        service.more,
        "[service.rollback]\n{call}\nretries = 0\ntimeout = \"1s\"\nverify_within = \"1s\""
    );
    service
}

/// Starts a build of a service; nobody visits it.
fn start(site: &Site, service: &str, build: &str) -> Burn {
    let mut command = Command::new(executable("burn").unwrap());
    let socket = site.file(&format!("{service}-{build}.sock"));
    command
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .args(["--build", build])
        .env("REVISION", build);
    Burn::start_command(&mut command).unwrap()
}

fn runs(site: &Site, endpoint: &Endpoint, fault: &Fault) -> usize {
    match fault.body {
        Some(_) => fs::read_to_string(site.file(&format!("{}.runs", fault.name)))
            .map_or(0, |text| text.lines().count()),
        None => endpoint.seen().iter().filter(|seen| seen.path == format!("/{}", fault.name)).count(),
    }
}

#[test]
fn whatever_a_hook_does_it_is_run_once_and_a_person_is_told_what_it_did() {
    let Some(site) = site_or_skip() else { return };
    fs::write(site.file("key"), "0f1e2d3c4b5a69788796a5b4c3d2e1f0\n").unwrap();
    fs::set_permissions(site.file("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let endpoint = Endpoint::start(|seen| reply(&seen.path)).unwrap();
    let services: Vec<_> = FAULTS.iter().map(|fault| service(&site, fault, &endpoint)).collect();
    site.configure(&services).unwrap();
    let _good: Vec<_> = FAULTS.iter().map(|fault| start(&site, fault.name, "good")).collect();
    let agent = Agent::start(&site).unwrap();
    let _bad: Vec<_> = FAULTS.iter().map(|fault| start(&site, fault.name, "bad")).collect();
    for fault in FAULTS {
        let seen = |agent: &Agent| Ok(agent.build(fault.name, "bad")?.map(drop));
        agent.wait_for("the new build", WITHIN, seen).unwrap();
        let condemn = Ask::Condemn {
            service: fault.name.into(),
            build: "bad".into(),
            endpoint: None,
            for_seconds: None,
        };
        done(&agent, condemn).unwrap();
    }
    let all_ended = |agent: &Agent| {
        let incidents = agent.incidents()?;
        let ended = incidents.iter().filter(|incident| ENDED.contains(&incident.state.as_str()));
        Ok((ended.count() == FAULTS.len()).then_some(incidents))
    };
    agent.wait_for("the end of every incident", WITHIN, all_ended).unwrap();
    std::thread::sleep(A_WHILE);
    let incidents = agent.incidents().unwrap();
    assert_eq!(incidents.len(), FAULTS.len(), "{incidents:#?}");
    for fault in FAULTS {
        let incident = incidents.iter().find(|it| it.service.as_str() == fault.name).unwrap();
        let detail = agent.incident(&incident.id).unwrap();
        println!("{}: {}", fault.name, detail.timeline.last().unwrap().text);
        assert_eq!(
            (incident.state.as_str(), runs(&site, &endpoint, fault)),
            ("escalated", fault.runs),
            "{detail:#?}"
        );
        assert!(says(&detail, fault.says), "{detail:#?}");
    }
}
