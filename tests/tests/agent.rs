//! The real agent as its operators meet it: started twice, stopped, reloaded, asked and scraped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use watchdog_tests::agent::metrics::Metrics;
use watchdog_tests::agent::site::{BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::agent::{Agent, bpf};

const HEAVY_US: u64 = 10_000;
const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// What `load-watchdog run --help` promises.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn it_ends_within_a_second_and_leaves_nothing_in_the_kernel() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _web = site.deploy("good", GOOD_US).unwrap();
    let mut took = Vec::new();
    // A loaded machine may take longer once or twice.
    for _ in 0..3 {
        let mut agent = Agent::start(&site).unwrap();
        let load = site.visit_at(60.0).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let programs = bpf::programs_of(agent.pid()).unwrap();
        assert!(programs.len() >= 8, "the agent holds only {} programs", programs.len());
        assert!(programs.iter().all(|id| bpf::is_loaded(*id)), "{programs:?}");

        let begun = Instant::now();
        agent.signal(Signal::SIGTERM).unwrap();
        let status = agent.wait_for_end(Duration::from_secs(10)).unwrap();
        took.push(begun.elapsed());
        assert!(status.success(), "{status}");
        // The kernel frees them a moment after their last user is gone.
        let freed_by = Instant::now() + Duration::from_secs(5);
        while programs.iter().any(|id| bpf::is_loaded(*id)) {
            assert!(Instant::now() < freed_by, "kernel programs outlive the agent");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!site.control().exists(), "the control socket is left behind");
        load.stop();
        assert_eq!(load.wait().failures, 0);
        if took.last().is_some_and(|last| *last < STOPS_WITHIN) {
            return;
        }
    }
    panic!("it took {took:?} to end");
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let agent = Agent::start(&site).unwrap();
    let second = Agent::command(&site).unwrap().stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    let folder = site.state_dir();
    assert!(said.contains("another agent runs on the state directory"), "{said}");
    assert!(said.contains(folder.to_str().unwrap()) && said.contains("--state-dir"), "{said}");
    // The first one is none the worse for it.
    assert_eq!(agent.status().unwrap().agent.pid, agent.pid());
}

#[test]
fn a_faulty_configuration_is_refused_on_reload_and_a_right_one_taken() {
    let Some(site) = site_or_skip() else { return };
    let web = site.web().unwrap();
    site.configure(std::slice::from_ref(&web)).unwrap();
    let _web = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(60).unwrap();
    let reloaded = |agent: &Agent, ok: f64| {
        agent.signal(Signal::SIGHUP).unwrap();
        agent
            .wait_for("a reload", SEEN_WITHIN, |agent| {
                let now = agent.metrics()?.sum("load_watchdog_config_reload_success", &[]);
                Ok((now == Some(ok)).then_some(()))
            })
            .unwrap();
    };
    let counted = |agent: &Agent| {
        agent.metrics().unwrap().sum("load_watchdog_requests_total", &[("service", "web")]).unwrap_or(0.0)
    };
    // The last ones are counted just after their answers.
    let measures = |agent: &Agent| {
        let before = counted(agent);
        site.visit(60).unwrap();
        let all = |agent: &Agent| Ok((counted(agent) >= before + 60.0).then_some(()));
        agent.wait_for("all of 60 requests", SEEN_WITHIN, all).unwrap();
    };

    let right = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), right.replace("mode = \"enforce\"", "mode = \"enforced\"")).unwrap();
    reloaded(&agent, 0.0);
    assert!(!agent.status().unwrap().agent.config_ok);
    assert_eq!(agent.service("web").unwrap().mode, watchdog::config::Mode::Enforce);
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("enforced") && log.contains("config.toml:"), "the fault is not told:\n{log}");
    // The old one is in force, and measures.
    measures(&agent);

    let mut renamed = web;
    renamed.mode = "observe".to_owned();
    site.configure(&[renamed]).unwrap();
    reloaded(&agent, 1.0);
    agent
        .wait_for("the new mode", SEEN_WITHIN, |agent| {
            Ok((agent.service("web")?.mode == watchdog::config::Mode::Observe).then_some(()))
        })
        .unwrap();
    measures(&agent);
    let status = agent.service("web").unwrap();
    let builds: Vec<_> = status.builds.iter().map(|b| (b.build.as_str(), b.state.as_str())).collect();
    assert_eq!(builds, [("good", "adopted")]);
}

#[test]
fn the_exported_figures_are_the_servers_own_and_never_go_back() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    // Heavy enough that the tens of microseconds about a request that the server's own clock leaves out are few.
    let burn = site.deploy("good", HEAVY_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    let mut seen = Ratchet::default();
    site.visit(200).unwrap();
    let login = [("service", "web"), ("endpoint", "login"), ("build", "good"), ("status_class", "2xx")];
    // The last requests are counted just after their answers, on either side.
    let (own, metrics) = agent
        .wait_for("all requests on both sides", SEEN_WITHIN, |agent| {
            let (own, metrics) = (burn.stats()?, agent.metrics()?);
            seen.take(&metrics);
            let watched = |name: &str| {
                metrics.sum("load_watchdog_requests_total", &[("endpoint", name)]).unwrap_or(0.0)
            };
            let all = own.cost("login").count + own.cost("browse").count == 200
                && watched("login") + watched("browse") >= 200.0;
            // Of the time that was given to requests the agent hears with its next tick. What asking for the server's own
            // figures costs is a request as well, and always ahead of that tick.
            let cost = |name: &str| {
                metrics.sum("load_watchdog_request_cpu_seconds_sum", &[("endpoint", name)]).unwrap_or(0.0)
            };
            let given = metrics.sum("load_watchdog_attributed_cpu_seconds_total", &[]).unwrap_or(0.0);
            Ok((all && given >= cost("login") + cost("browse")).then_some((own, metrics)))
        })
        .unwrap();
    for (name, own) in [("login", own.cost("login")), ("browse", own.cost("browse"))] {
        let labels = [("service", "web"), ("endpoint", name), ("build", "good")];
        let count = metrics.sum("load_watchdog_request_cpu_seconds_count", &labels);
        assert_eq!(count, Some(own.count as f64), "{name}\n{}", metrics.text());
        assert_eq!(metrics.sum("load_watchdog_requests_total", &labels), count, "{name}");
    }
    let seconds = metrics.sum("load_watchdog_request_cpu_seconds_sum", &login).unwrap();
    let ratio = seconds / (own.cost("login").sum_ns as f64 * 1e-9);
    assert!((ratio - 1.0).abs() < 0.05, "logins cost {ratio:.4} of the server's own figure");

    let of_web = |name: &str| metrics.sum(&format!("load_watchdog_{name}"), &[("service", "web")]).unwrap();
    let given =
        ["attributed", "shared", "unattributed"].map(|whose| of_web(&format!("{whose}_cpu_seconds_total")));
    let given: f64 = given.iter().sum();
    let total = of_web("service_cpu_seconds_total");
    assert!((given / total - 1.0).abs() < 0.02, "{given} s of {total} s are given to somebody");

    // The slot of the build is closed two seconds after its last process, and another one is opened for it.
    drop(burn);
    let closed_by = Instant::now() + Duration::from_secs(4);
    while Instant::now() < closed_by {
        seen.take(&agent.metrics().unwrap());
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = seen.of(&login);
    let burn = site.deploy("good", GOOD_US).unwrap();
    site.visit(100).unwrap();
    let mut more = 0.0;
    agent
        .wait_for("the restarted server's requests", SEEN_WITHIN, |agent| {
            seen.take(&agent.metrics()?);
            more = burn.stats()?.cost("login").count as f64;
            Ok((seen.of(&login) >= before + more).then_some(()))
        })
        .unwrap();
    assert!((seen.of(&login) - before - more).abs() < 0.5, "{} after {before} and {more}", seen.of(&login));
}

/// The counters of several scrapes.
#[derive(Debug, Default)]
struct Ratchet(BTreeMap<String, f64>);

impl Ratchet {
    fn take(&mut self, metrics: &Metrics) {
        let now: BTreeMap<String, f64> =
            metrics.counters().map(|(series, value)| (series.to_owned(), value)).collect();
        for (series, before) in &self.0 {
            match now.get(series) {
                Some(value) => assert!(value >= before, "{series} went from {before} to {value}"),
                None => panic!("{series} is gone"),
            }
        }
        self.0 = now;
    }

    /// Requests with these labels.
    fn of(&self, labels: &[(&str, &str)]) -> f64 {
        let fits = |series: &str| {
            series.starts_with("load_watchdog_requests_total{")
                && labels.iter().all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")))
        };
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }
}

#[test]
fn the_commands_say_what_the_agent_knows() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let _web = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let commands: BTreeSet<&str> = ["status", "builds", "incidents"].into();
    for command in &commands {
        for flags in [&["--json"][..], &[]] {
            let output = client(&site, command, flags);
            assert!(output.status.success(), "{command} {flags:?}: {output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            if flags.is_empty() {
                assert!(*command == "incidents" || text.contains("good"), "{text}");
            } else {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
    }
    // Without an agent the ledger answers, and what only an agent knows is refused with what to do.
    agent.kill().unwrap();
    assert!(client(&site, "builds", &["--json"]).status.success());
    let refused = client(&site, "status", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no agent answers"), "{refused:?}");
}

fn client(site: &Site, command: &str, flags: &[&str]) -> std::process::Output {
    std::process::Command::new(watchdog_tests::harness::executable("load-watchdog").unwrap())
        .arg(command)
        .args(flags)
        .arg("--control")
        .arg(site.control())
        .arg("--state-dir")
        .arg(site.state_dir())
        .output()
        .unwrap()
}
