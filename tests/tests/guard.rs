//! The real agent and the people about it: what they decide, what they are shown, and what is kept from whom.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use watchdog::config::Mode;
use watchdog::text::is_plain;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::harness::{Burn, executable};
use watchdog_tests::load::{LoadOptions, Step};

const SEEN_WITHIN: Duration = Duration::from_secs(30);

fn client(site: &Site, arguments: &[&str]) -> Output {
    Command::new(executable("load-watchdog").unwrap())
        .args(arguments)
        .arg("--control")
        .arg(site.control())
        .arg("--state-dir")
        .arg(site.state_dir())
        .output()
        .unwrap()
}

/// The answer of a command that is carried out.
fn done(site: &Site, arguments: &[&str]) -> String {
    let output = client(site, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(site: &Site, arguments: &[&str], why: &str) {
    let output = client(site, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains(why), "{arguments:?}: {output:?}");
}

fn json(site: &Site, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(site, &[arguments, &["--json"]].concat())).unwrap()
}

fn gate(site: &Site, build: &str) -> i32 {
    client(site, &["gate", "web", build]).status.code().unwrap()
}

/// Commands of the audit trail, newest first.
fn trail(site: &Site) -> Vec<(String, bool)> {
    let lines = json(site, &["audit"]);
    let line = |line: &Value| {
        let uid = &line["by"]["uid"];
        assert!(*uid == 0 || uid.is_null(), "{line}");
        (line["command"].as_str().unwrap().to_owned(), line["done"].as_bool().unwrap())
    };
    lines.as_array().unwrap().iter().map(line).collect()
}

fn wait_for_mode(agent: &Agent, mode: Mode) {
    let now = |agent: &Agent| Ok((agent.service("web")?.mode == mode).then_some(()));
    agent.wait_for(&format!("mode {mode}"), SEEN_WITHIN, now).unwrap();
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_mode_holds_through_restart_and_reload_ends_by_itself_and_says_what_it_kept_from_happening() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    site.configure(std::slice::from_ref(&web)).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    assert!(done(&site, &["mode", "web", "observe"]).contains("the configuration says enforce"));
    assert_eq!(agent.service("web").unwrap().configured_mode, Some(Mode::Enforce));

    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    assert_eq!(agent.service("web").unwrap().mode, Mode::Observe);
    web.guard_for = "23h".to_owned();
    site.configure(&[web]).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    let reloaded =
        |_: &Agent| Ok(fs::read_to_string(site.log())?.contains("configuration loaded").then_some(()));
    agent.wait_for("the reload", SEEN_WITHIN, reloaded).unwrap();
    assert_eq!(agent.service("web").unwrap().mode, Mode::Observe);

    let _bad = site.deploy("bad", BAD_US).unwrap();
    site.visit(200).unwrap();
    let incident = agent.wait_for_incident(&["observed"], SEEN_WITHIN).unwrap();
    assert_eq!(site.hook_runs(), 0);
    let observed = agent.service("web").unwrap().observed;
    assert_eq!((observed.would_have_rolled_back, observed.would_have_refused), (1, 0));
    assert!(done(&site, &["status"]).contains("mode enforce would have rolled back once"));
    let labels = [("service", "web"), ("would", "roll_back")];
    let counted = agent.metrics().unwrap().sum("load_watchdog_observed_incidents_total", &labels);
    assert_eq!(counted, Some(1.0));
    assert_eq!(gate(&site, "bad"), 1);
    done(&site, &["acknowledge", &incident.id]);
    assert_eq!(agent.incidents().unwrap()[0].state, "closed");
    refused(&site, &["acknowledge", &incident.id], "cannot be acknowledged");
    refused(&site, &["approve", "20170127-nonesuch"], "there is no incident");

    done(&site, &["mode", "web", "approve", "--for", "2s"]);
    wait_for_mode(&agent, Mode::Approve);
    wait_for_mode(&agent, Mode::Enforce);
    refused(&site, &["mode", "web", "configured"], "already");
    let output = client(&site, &["mode", "nosuch", "observe"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let commands = [
        ("mode nosuch observe", false),
        ("mode web configured", false),
        ("end of: mode web approve", true),
        ("mode web approve --for 2s", true),
    ];
    let trail = trail(&site);
    let newest: Vec<_> = trail.iter().take(4).map(|(command, done)| (command.as_str(), *done)).collect();
    assert_eq!(newest, commands, "{trail:?}");
    assert_eq!(trail.last().unwrap().0, "mode web observe");
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_pause_keeps_every_hook_from_running_until_it_is_resumed() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    done(&site, &["pause", "--for", "1h"]);
    // Not even an agent that comes anew forgets it, nor what the good build costs, which is on disk after a second.
    std::thread::sleep(Duration::from_millis(1200));
    agent.kill().unwrap();
    let agent = Agent::start(&site).unwrap();
    assert!(done(&site, &["status"]).contains("PAUSED by root"));
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let incident = agent.wait_for_incident(&["awaiting_approval"], SEEN_WITHIN).unwrap();
    assert_eq!(site.hook_runs(), 0);
    done(&site, &["resume"]);
    refused(&site, &["resume"], "not paused");
    assert_eq!(json(&site, &["status"])["agent"]["decisions"], serde_json::json!([]));
    done(&site, &["approve", &incident.id]);
    let ended = agent.wait_for_incident(&ENDED, SEEN_WITHIN).unwrap();
    assert_eq!((ended.state.as_str(), site.hook_runs()), ("recovered", 1));
    load.stop();
    assert_eq!(load.wait().failures, 0);
}

#[test]
fn what_people_say_of_a_build_wins_and_can_be_taken_back() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    assert_eq!((gate(&site, "good"), gate(&site, "early")), (0, 2));
    assert_eq!(client(&site, &["gate", "nosuch", "good"]).status.code(), Some(64));
    done(&site, &["mode", "web", "observe"]);
    assert_eq!(agent.service("web").unwrap().mode, Mode::Observe);
    done(&site, &["pause", "--for", "1h"]);
    assert!(done(&site, &["status"]).contains("PAUSED by root"));
    done(&site, &["resume"]);
    done(&site, &["mode", "web", "configured"]);
    assert_eq!(agent.service("web").unwrap().mode, Mode::Enforce);

    // Condemned before anybody saw it: an incident when it comes, however cheap it is.
    done(&site, &["builds", "condemn", "web", "early"]);
    assert_eq!(gate(&site, "early"), 1);
    let _early = site.start("early", GOOD_US).unwrap();
    let incident = agent.wait_for_incident(&["awaiting_approval"], SEEN_WITHIN).unwrap();
    assert_eq!(incident.bad_build.as_str(), "early");
    assert_eq!(agent.build("web", "early").unwrap().unwrap().state, "condemned");
    done(&site, &["builds", "forget", "web", "early"]);
    assert_eq!(agent.build("web", "early").unwrap().unwrap().state, "probation");
    assert_eq!(agent.incidents().unwrap()[0].state, "closed");
    assert_eq!(gate(&site, "early"), 2);

    // Accepted for a while: good, and on probation again after it.
    done(&site, &["builds", "accept", "web", "early", "--for", "2s"]);
    assert_eq!(
        (agent.build("web", "early").unwrap().unwrap().state.as_str(), gate(&site, "early")),
        ("good", 0)
    );
    let back = |agent: &Agent| {
        let build = agent.build("web", "early")?;
        Ok(build.is_some_and(|build| build.state == "probation").then_some(()))
    };
    agent.wait_for("the end of the acceptance", SEEN_WITHIN, back).unwrap();

    // Condemned while it serves on probation: the mode decides, and rolls it back.
    site.switch("early").unwrap();
    site.visit(20).unwrap();
    let load = site.visit_at(60.0).unwrap();
    done(&site, &["builds", "condemn", "web", "early"]);
    let ended = agent
        .wait_for("the rollback", SEEN_WITHIN, |agent| {
            let incident = agent.incidents()?.into_iter().next();
            Ok(incident
                .filter(|incident| ENDED.contains(&incident.state.as_str()) && incident.state != "closed"))
        })
        .unwrap();
    assert_eq!(ended.state, "recovered", "{:#?}", agent.incident(&ended.id).unwrap());
    assert_eq!(site.hook_runs(), 1);
    assert_eq!(fs::read_link(site.file("current.sock")).unwrap().to_str(), Some("good.sock"));
    load.stop();
    assert_eq!(load.wait().failures, 0);
    let builds = json(&site, &["builds"]);
    let early = builds["builds"].as_array().unwrap().iter().find(|it| it["build"] == "early").unwrap();
    assert_eq!(
        (&early["state"], &early["decisions"][0]["by"]),
        (&"condemned".into(), &"root (uid 0)".into())
    );
    let trail: Vec<_> = trail(&site).into_iter().map(|(command, _)| command).collect();
    let expected = [
        "builds condemn web early",
        "end of: builds accept web early",
        "builds accept web early --for 2s",
        "builds forget web early",
        "builds condemn web early",
        "mode web configured",
        "resume",
        "pause --for 1h",
        "mode web observe",
    ];
    assert_eq!(trail, expected);
    // And without an agent it is all still there.
    agent.kill().unwrap();
    assert_eq!(gate(&site, "early"), 1);
    assert!(done(&site, &["audit"]).contains("builds condemn web early"));
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn one_endpoint_can_be_condemned_and_accepted_by_itself() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "observe".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    refused(&site, &["builds", "condemn", "web", "later", "--endpoint", "nosuch"], "has no endpoint nosuch");
    // What it costs there is accepted: four times the budget, and no incident.
    let _later = site.deploy("later", BAD_US).unwrap();
    site.visit(2).unwrap();
    let seen = |agent: &Agent| Ok(agent.build("web", "later")?.map(drop));
    agent.wait_for("the new build", SEEN_WITHIN, seen).unwrap();
    done(&site, &["builds", "accept", "web", "later", "--endpoint", "login"]);
    site.visit(200).unwrap();
    let counted = |agent: &Agent| Ok((agent.requests("web", "later", "login")? >= 100).then_some(()));
    agent.wait_for("its logins", SEEN_WITHIN, counted).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.incidents().unwrap(), []);
    // The next request on the other endpoint is an incident.
    done(&site, &["builds", "condemn", "web", "later", "--endpoint", "browse"]);
    assert_eq!(gate(&site, "later"), 1);
    site.visit(40).unwrap();
    let incident = agent.wait_for_incident(&["observed"], SEEN_WITHIN).unwrap();
    assert_eq!(incident.endpoint.unwrap().as_str(), "browse");
}

/// What an attacker might call a build: it clears the screen, forges a line of the log, turns the text around, and would be
/// a command in a shell.
const EVIL: &str = "v2\u{1b}[2J\u{202e}\u{9b}31m\"'`$(touch pwned)`<b>&amp;\\";

#[test]
fn a_build_s_name_is_shown_everywhere_and_obeyed_nowhere() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _evil = evil(&site);
    site.switch("evil").unwrap();
    let load = site.visit_at(60.0).unwrap();
    let ended = agent.wait_for_incident(&ENDED, SEEN_WITHIN).unwrap();
    assert_eq!(ended.state, "recovered", "{:#?}", agent.incident(&ended.id).unwrap());
    load.stop();
    assert_eq!(load.wait().failures, 0);
    let name = ended.bad_build.to_string();
    assert!(name.chars().all(is_plain) && name.contains("$(touch pwned)"), "{name:?}");

    let shown = |text: &str| text.chars().all(|c| is_plain(c) || c == '\n');
    for arguments in [
        &["status"][..],
        &["builds"],
        &["incidents"],
        &["incidents", "show", &ended.id],
        &["status", "--json"],
        &["incidents", "show", &ended.id, "--json"],
        &["gate", "web", &name],
    ] {
        let output = client(&site, arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty() && shown(&text), "{arguments:?}: {text:?}");
    }
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(shown(&log), "{:?}", log.lines().find(|line| !shown(line)));
    let metrics = agent.metrics().unwrap();
    assert!(shown(metrics.text()) && metrics.text().contains(r#"build="v2[2J31m\"'`$(touch pwned)"#));
    let environment = fs::read_to_string(site.file("hook.env")).unwrap();
    assert!(environment.contains(&format!("LOAD_WATCHDOG_BAD_BUILD={name}\n")) && shown(&environment));
    assert!(!site.file("pwned").exists() && !Path::new("pwned").exists());
}

fn evil(site: &Site) -> Burn {
    let mut command = Command::new(executable("burn").unwrap());
    command
        .arg("--listen")
        .arg(format!("unix:{}", site.file("evil.sock").display()))
        .args(["--build", "evil", "--login-us", &BAD_US.to_string(), "--browse-us", "300"])
        .env("REVISION", EVIL);
    Burn::start_command(&mut command).unwrap()
}

const PASSWORD: &str = "correct-horse-battery-7f3a";
const KEY: &str = "s3cr3t-signing-key-91c2";

#[test]
fn no_secret_of_a_request_or_of_a_process_is_kept_or_told() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let start = |build: &str, login_us: u64| {
        let mut command = Command::new(executable("burn").unwrap());
        command
            .arg("--listen")
            .arg(format!("unix:{}", site.file(&format!("{build}.sock")).display()))
            .args(["--build", build, "--login-us", &login_us.to_string(), "--browse-us", "300"])
            .env("REVISION", build)
            .env("SECRET_KEY", KEY);
        let burn = Burn::start_command(&mut command).unwrap();
        site.switch(build).unwrap();
        burn
    };
    let visit = |requests: u64| {
        let steps = vec![
            Step::post("login", "/login", &format!("user=ann&password={PASSWORD}")).weighing(3),
            Step::get("browse", &format!("/browse?token={PASSWORD}")),
        ];
        let options = LoadOptions {
            keep_alive: false,
            concurrency: 2,
            ..LoadOptions::new(site.target(), steps, requests)
        };
        watchdog_tests::load::run(options).unwrap()
    };
    let _good = start("good", GOOD_US);
    let agent = Agent::start(&site).unwrap();
    visit(BASELINE);
    let _bad = start("bad", BAD_US);
    visit(200);
    let incident = agent.wait_for_incident(&["verifying", "recovered", "escalated"], SEEN_WITHIN).unwrap();
    assert_eq!(site.hook_runs(), 1);
    let mut told: Vec<(String, Vec<u8>)> = vec![
        ("status".to_owned(), done(&site, &["status", "--json"]).into_bytes()),
        ("incident".to_owned(), done(&site, &["incidents", "show", &incident.id, "--json"]).into_bytes()),
        ("metrics".to_owned(), agent.metrics().unwrap().text().as_bytes().to_vec()),
    ];
    // After a second the evidence is on disk.
    std::thread::sleep(Duration::from_millis(1500));
    drop(agent);
    for folder in [site.folder(), &site.state_dir()] {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                told.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    assert!(told.iter().any(|(name, _)| name.ends_with("state.db")), "the ledger was looked at");
    assert!(told.iter().any(|(name, _)| name.ends_with("hook.json")), "the hook's payload was looked at");
    for (name, bytes) in &told {
        for secret in [PASSWORD, KEY] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{name} has a secret in it");
        }
    }
}

#[test]
fn a_second_agent_is_told_what_it_would_share() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _agent = Agent::start(&site).unwrap();
    let start = |flags: &[&str]| {
        let output = Agent::command(&site).unwrap().args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let state = site.file("other").display().to_string();
    assert!(start(&[]).contains("another agent runs on the state directory"));
    assert!(start(&["--state-dir", &state]).contains("another agent? change agent.listen"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = start(&["--state-dir", &state, "--listen", &free]);
    assert!(said.contains("another agent answers on"), "{said}");
}
