//! What the real agent says of builds that are not bad, of builds that it cannot measure, and how soon it says "bad".

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::time::Duration;

use watchdog::store::Store;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, Site, site_or_skip};
use watchdog_tests::harness::Burn;
use watchdog_tests::load::{LOG_HEADER, LoadOptions, Step, run};

const DECIDED_WITHIN: Duration = Duration::from_secs(30);
/// "At most 300 ms after the deciding request."
const LATENCY_LIMIT_MS: i64 = 300;

#[test]
fn a_build_that_costs_the_same_stays_and_a_restart_is_no_deploy() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let first = site.deploy("one", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    // What was there when the agent came is taken as good.
    assert_eq!(agent.build("web", "one").unwrap().unwrap().state, "adopted");
    site.visit(BASELINE).unwrap();

    // The same build anew, in another process.
    drop(first);
    let _restarted = site.deploy("one", GOOD_US).unwrap();
    site.visit(100).unwrap();
    let measured = |agent: &Agent, build: &str, more_than: u64| {
        agent
            .wait_for(&format!("requests of {build}"), DECIDED_WITHIN, |agent| {
                Ok((agent.requests("web", build, "login")? > more_than).then_some(()))
            })
            .unwrap();
    };
    // A quarter of the visitors only browse.
    measured(&agent, "one", (BASELINE + 50) * 2 / 3);
    let status = agent.service("web").unwrap();
    let builds: Vec<_> = status.builds.iter().map(|b| (b.build.as_str(), b.state.as_str())).collect();
    assert_eq!(builds, [("one", "adopted")]);

    let _second = site.deploy("two", GOOD_US).unwrap();
    site.visit(600).unwrap();
    measured(&agent, "two", 400);
    let two = agent.build("web", "two").unwrap().unwrap();
    assert_eq!(two.state, "probation");
    assert!(matches!(two.verdict.as_deref(), Some("undecided" | "within")), "{two:#?}");
    // How far it is, and what it is held against, is said in figures and in words.
    let progress = two.progress.as_ref().unwrap();
    assert!(progress.requests > 400 && progress.judged == progress.requests, "{two:#?}");
    assert!((progress.log_bar - 1000f64.ln()).abs() < 1e-9 && progress.log_missing > 0.0, "{progress:?}");
    let evidence = two.evidence.as_ref().unwrap();
    let (lower, upper) = evidence.interval_cpu_seconds.unwrap();
    assert!(lower < evidence.mean_cpu_seconds && evidence.mean_cpu_seconds < upper, "{evidence:?}");
    let sentence = two.sentence.as_deref().unwrap();
    assert!(sentence.contains("build two needs") && sentence.contains("ms CPU per "), "{sentence}");
    println!("{sentence}");
    let metrics = agent.metrics().unwrap();
    let of_two = |name: &str| metrics.sum(&format!("load_watchdog_{name}"), &[("build", "two")]);
    assert!(of_two("log_evidence_bar").unwrap() > of_two("log_evidence").unwrap(), "{}", metrics.text());
    assert!(of_two("judged_requests").is_some_and(|requests| requests > 400.0), "{}", metrics.text());
    let known = metrics.sum("load_watchdog_baseline_requests", &[("build", "one"), ("endpoint", "login")]);
    assert!(known.is_some_and(|requests| requests >= 200.0), "{}", metrics.text());
    // The comparison did take place.
    let login = two.endpoints.iter().find(|endpoint| endpoint.endpoint.as_str() == "login").unwrap();
    assert_eq!(login.baseline_build.as_ref().map(ToString::to_string).as_deref(), Some("one"));
    assert_eq!(agent.incidents().unwrap(), []);
    assert_eq!(site.hook_runs(), 0);
}

#[test]
fn a_service_that_works_outside_its_requests_is_not_judged_but_told_loudly() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let busy = ["--background-percent", "60"];
    let _good = site.start_with("good", GOOD_US, &busy).unwrap();
    site.switch("good").unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    // The first seconds of a process do not count.
    agent
        .wait_for("a coverage too low", DECIDED_WITHIN, |agent| {
            site.visit(10)?;
            Ok(agent.service("web")?.coverage.filter(|coverage| *coverage < 0.5))
        })
        .unwrap();

    let _bad = site.start_with("bad", BAD_US, &busy).unwrap();
    site.switch("bad").unwrap();
    site.visit(200).unwrap();
    let bad = agent
        .wait_for("a verdict that nothing can be said", DECIDED_WITHIN, |agent| {
            let bad = agent.build("web", "bad")?;
            Ok(bad.filter(|bad| bad.verdict.as_deref() == Some("not_measurable")))
        })
        .unwrap();
    assert!(bad.sentence.as_deref().is_some_and(|why| why.contains("min_coverage")), "{bad:#?}");
    let status = agent.service("web").unwrap();
    assert!(status.problems.iter().any(|problem| problem.contains("nothing is judged")), "{status:#?}");
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("WARN") && log.contains("not measurable"), "{log}");
    let metrics = agent.metrics().unwrap();
    let told = metrics.sum("load_watchdog_verdict", &[("build", "bad"), ("verdict", "not_measurable")]);
    assert_eq!(told, Some(1.0), "{}", metrics.text());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.incidents().unwrap(), []);
    assert_eq!(site.hook_runs(), 0);
}

#[test]
fn without_traffic_nothing_is_decided() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    // Not even when its time is over.
    web.guard_for = "1s".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    agent
        .wait_for("the new build", DECIDED_WITHIN, |agent| {
            Ok(agent.build("web", "bad")?.filter(|bad| bad.verdict.is_some()))
        })
        .unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    let bad = agent.build("web", "bad").unwrap().unwrap();
    assert_eq!((bad.state.as_str(), bad.verdict.as_deref()), ("probation", Some("undecided")), "{bad:#?}");
    let progress = bad.progress.as_ref().unwrap();
    assert_eq!((progress.requests, &progress.to_exceed), (0, &None), "{bad:#?}");
    assert!(bad.sentence.as_deref().is_some_and(|why| why.contains("no login yet")), "{bad:#?}");
    assert_eq!(agent.incidents().unwrap(), []);
}

/// A site whose logins were half by unknown users, who cost next to nothing, until a new build came; its budget is for that.
struct OtherUsers {
    site: Site,
    agent: Agent,
    _builds: [Burn; 2],
}

impl OtherUsers {
    fn or_skip(candidate_us: u64) -> Option<Self> {
        let site = site_or_skip()?;
        let mut web = site.web().unwrap();
        "{ mean_cpu = \"1250us\" }".clone_into(&mut web.budget);
        site.configure(&[web]).unwrap();
        let config = fs::read_to_string(site.config()).unwrap();
        let both = config.replace("method = \"POST\"\npath = \"/login\"", "path = \"/*\"");
        assert_ne!(config, both);
        fs::write(site.config(), both).unwrap();
        let good = site.deploy("good", GOOD_US).unwrap();
        let agent = Agent::start(&site).unwrap();
        let unknown = Step::get("unknown", "/unknown").expecting(401);
        visit(&site, vec![known(), unknown], 2 * BASELINE);
        let candidate = site.deploy("candidate", candidate_us).unwrap();
        let appeared = |agent: &Agent| agent.build("web", "candidate");
        agent.wait_for("the candidate", DECIDED_WITHIN, appeared).unwrap();
        Some(Self { site, agent, _builds: [good, candidate] })
    }

    /// The candidate's verdict when it has so many logins of known users; `None` when there is an incident before.
    fn verdict_after(&self, logins: u64) -> Option<String> {
        let answer = |agent: &Agent| {
            if !agent.incidents()?.is_empty() {
                return Ok(Some(None));
            }
            let counted = agent.requests("web", "candidate", "login")? >= logins;
            Ok(counted.then_some(agent.build("web", "candidate")?.and_then(|build| build.verdict)))
        };
        self.agent.wait_for(&format!("{logins} logins of the candidate"), DECIDED_WITHIN, answer).unwrap()
    }

    fn warnings(&self) -> usize {
        let log = fs::read_to_string(self.site.log()).unwrap();
        log.matches("over budget, but not shown to be the build's doing: nothing is rolled back").count()
    }
}

fn known() -> Step {
    Step::post("login", "/login", "user=ann&password=secret")
}

fn visit(site: &Site, steps: Vec<Step>, requests: u64) {
    let options = LoadOptions { keep_alive: false, ..LoadOptions::new(site.target(), steps, requests) };
    assert_eq!(run(options).unwrap().failures, 0);
}

#[test]
fn users_of_another_kind_are_told_once_and_not_blamed_on_the_build() {
    const LOGINS: u64 = 120;
    let Some(others) = OtherUsers::or_skip(GOOD_US) else { return };
    visit(&others.site, vec![known()], LOGINS);
    assert_eq!(others.verdict_after(LOGINS).as_deref(), Some("over_budget_unattributed"));
    others
        .agent
        .wait_for("the warning", DECIDED_WITHIN, |_| Ok((others.warnings() > 0).then_some(())))
        .unwrap();
    visit(&others.site, vec![known()], LOGINS);
    assert_eq!(others.verdict_after(2 * LOGINS).as_deref(), Some("over_budget_unattributed"));
    assert_eq!((others.warnings(), others.site.hook_runs()), (1, 0));
}

/// The mean over all outcomes is over the bar long before any outcome is: what is said in between is not the end.
#[test]
fn a_build_over_budget_before_its_outcomes_show_it_is_rolled_back_when_they_do() {
    const MOST_LOGINS: u64 = 200;
    let Some(others) = OtherUsers::or_skip(2 * GOOD_US) else { return };
    let mut verdicts = Vec::new();
    for number in 1..=MOST_LOGINS {
        visit(&others.site, vec![known()], 1);
        let Some(verdict) = others.verdict_after(number) else { break };
        if verdicts.last() != Some(&verdict) {
            println!("login {number}: {verdict}");
            verdicts.push(verdict);
        }
    }
    assert!(verdicts.iter().any(|it| it == "over_budget_unattributed"), "{verdicts:?}");
    let incident = others.agent.wait_for_incident(&["verifying", "recovered"], DECIDED_WITHIN).unwrap();
    let told = others.agent.log_tail();
    assert_eq!((incident.bad_build.as_str(), others.site.hook_runs()), ("candidate", 1), "{told}");
}

/// By the visitor's own clock: from the moment that it had the answer of the deciding request to the moment that the
/// incident was opened. And by the agent's histogram.
#[test]
fn the_verdict_comes_at_once_after_the_deciding_request() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.mode = "observe".to_owned();
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();

    let mut latencies_ms = Vec::new();
    for number in 0..5 {
        let build = format!("bad-{number}");
        let _bad = site.deploy(&build, BAD_US).unwrap();
        let log = site.file("requests.csv");
        let logins = vec![Step::post("login", "/login", "user=ann&password=secret")];
        let options = LoadOptions {
            keep_alive: false,
            rate: Some(40.0),
            log: Some(log.clone()),
            ..LoadOptions::new(site.target(), logins, 60)
        };
        let report = run(options).unwrap();
        assert_eq!(report.failures, 0, "{:?}", report.failed);
        agent
            .wait_for("an incident", DECIDED_WITHIN, |agent| {
                Ok(agent.incidents()?.into_iter().find(|it| it.bad_build.as_str() == build))
            })
            .unwrap();
        let ledger = Store::open_reader(&site.state_dir()).unwrap();
        let incident =
            ledger.incidents(10).unwrap().into_iter().find(|it| it.bad_build.as_str() == build).unwrap();
        let deciding = usize::try_from(incident.evidence["requests"].as_u64().unwrap()).unwrap();
        let answered_unix_ms = answers_unix_ms(&fs::read_to_string(&log).unwrap());
        latencies_ms.push(incident.detected.unix_ms - answered_unix_ms[deciding - 1]);
    }
    latencies_ms.sort_unstable();
    println!("from the deciding answer to the incident: {latencies_ms:?} ms");
    assert!(latencies_ms[2] < LATENCY_LIMIT_MS, "{latencies_ms:?} ms");

    let metrics = agent.metrics().unwrap();
    let of = |name: &str, labels: &[(&str, &str)]| {
        metrics.sum(&format!("load_watchdog_detection_seconds_{name}"), labels).unwrap_or(0.0)
    };
    assert!((of("count", &[]) - 5.0).abs() < 0.5, "{}", metrics.text());
    assert!(of("bucket", &[("le", "0.3")]) >= 3.0, "{}", metrics.text());
}

/// When each request was answered.
fn answers_unix_ms(log: &str) -> Vec<i64> {
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some(LOG_HEADER));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            fields[0].parse::<i64>().unwrap() + fields[4].parse::<i64>().unwrap() / 1000
        })
        .collect()
}
