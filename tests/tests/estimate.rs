//! The agent's second opinion, and what it says where it cannot measure: of real servers, through `status`, `/metrics`
//! and `doctor`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use watchdog::control::{EndpointStatus, ServiceStatus};
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{Service, Site, site_or_skip};
use watchdog_tests::harness::executable;
use watchdog_tests::load::{LoadOptions, Step, Target, run};

const SEEN_WITHIN: Duration = Duration::from_secs(40);
/// The first 5 s of a process are left out, and the estimate needs 24 windows of a second.
const SECONDS_OF_LOAD: u64 = 33;
const LOGIN_US: u64 = 5_000;

fn endpoint(agent: &Agent, build: &str, name: &str) -> EndpointStatus {
    let build = agent.build("web", build).unwrap().expect("the build is known");
    build.endpoints.into_iter().find(|endpoint| endpoint.endpoint.as_str() == name).unwrap()
}

fn step(target: &Target, step: Step, requests: u64) {
    if requests > 0 {
        let steps = vec![step];
        let options = LoadOptions {
            keep_alive: false,
            concurrency: 4,
            ..LoadOptions::new(target.clone(), steps, requests)
        };
        assert_eq!(run(options).unwrap().failures, 0);
    }
}

fn login() -> Step {
    Step::post("login", "/login", "user=ann&password=secret")
}

#[test]
fn the_estimate_agrees_with_what_was_charged_to_requests() {
    agrees(&[]);
}

/// Requests are read by one thread and handled by two others, four at a time.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn the_estimate_agrees_where_a_pool_does_the_work() {
    agrees(&["--model", "pool", "--pool-read", "poller", "--workers", "2"]);
}

fn agrees(model: &[&str]) {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().unwrap()]).unwrap();
    let burn = site.start_with("good", LOGIN_US, model).unwrap();
    site.switch("good").unwrap();
    let agent = Agent::start(&site).unwrap();
    // Numbers that have nothing to do with each other from second to second, and idle seconds.
    let begun = Instant::now();
    for second in 0..SECONDS_OF_LOAD {
        step(&site.target(), login(), second * 7 % 23);
        step(&site.target(), Step::get("browse", "/browse"), second * 13 % 31);
        std::thread::sleep(
            (begun + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()),
        );
    }
    let found = agent
        .wait_for("an estimate of the login", SEEN_WITHIN, |agent| {
            let login = endpoint(agent, "good", "login");
            Ok(login.estimate.is_some().then_some(login))
        })
        .unwrap();
    let estimate = found.estimate.unwrap();
    let own_seconds = burn.stats().unwrap().cost("login").mean_ns() * 1e-9;
    println!("own {own_seconds}, {found:?}");
    assert_eq!(found.measure_of_record.as_deref(), Some("direct"), "{found:?}");
    assert_eq!(found.measure_why.as_deref(), Some("the estimate agrees"));
    // A request uses some tens of microseconds around what the server's own clock sees.
    let ratio = estimate.mean_cpu_seconds / own_seconds;
    assert!((0.93..1.12).contains(&ratio), "estimate {} for {own_seconds}", estimate.mean_cpu_seconds);
    assert!(
        estimate.lower_cpu_seconds < own_seconds * 1.05 && own_seconds < estimate.upper_cpu_seconds,
        "{found:?}"
    );
    let direct = estimate.direct_mean_cpu_seconds.unwrap();
    assert!((0.9..1.1).contains(&(direct / own_seconds)), "{direct} {own_seconds}");
    assert!(found.confidence.unwrap() > 0.9, "{found:?}");

    let metrics = agent.metrics().unwrap();
    let labels = [("endpoint", "login"), ("build", "good")];
    let with = |label| [labels[0], labels[1], label];
    assert_eq!(metrics.sum("load_watchdog_measure_of_record", &with(("measure", "direct"))), Some(1.0));
    let mean = metrics.sum("load_watchdog_request_cpu_estimate_seconds", &with(("bound", "mean"))).unwrap();
    assert!((mean / own_seconds - ratio).abs() < 0.05, "{mean}");
    assert!(metrics.sum("load_watchdog_attribution_confidence_ratio", &labels).unwrap() > 0.9);
}

/// `tests/apps/estimate/server.py`, ended when dropped.
struct Python {
    child: Child,
    port: u16,
}

impl Drop for Python {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/estimate").join(name)
}

fn python(site: &Site, flag: &str) -> Python {
    let port_file = site.file("port");
    let child = Command::new("python3")
        .arg(app("server.py"))
        .args([flag, "--port-file"])
        .arg(&port_file)
        .env("REVISION", "good")
        .stdin(Stdio::null())
        .spawn()
        .expect("python3 runs; `cargo xtask setup` installs it");
    let mut python = Python { child, port: 0 };
    let end = Instant::now() + SEEN_WITHIN;
    while python.port == 0 {
        assert!(
            Instant::now() < end && python.child.try_wait().unwrap().is_none(),
            "server.py does not serve"
        );
        python.port = fs::read_to_string(&port_file).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(20));
    }
    python
}

/// In mode enforce with a hook, so that a rollback would be seen.
fn service(site: &Site) -> Service {
    // The port's file tells this site's server from others'.
    let matcher = format!("{{ cmdline = 'server.py .*{}' }}", site.file("port").display());
    Service { matcher, ..site.web().unwrap() }
}

fn unmeasurable(service: &ServiceStatus, why: &str) -> bool {
    service.builds.iter().any(|build| {
        build.verdict.as_deref() == Some("not_measurable")
            && build.sentence.as_deref().is_some_and(|sentence| sentence.contains(why))
    })
}

#[test]
fn a_service_that_works_without_requests_is_not_measurable_and_says_so() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[service(&site)]).unwrap();
    let server = python(&site, "--busy");
    let agent = Agent::start(&site).unwrap();
    let target = Target::Tcp(([127, 0, 0, 1], server.port).into());
    let said = agent
        .wait_for("a verdict for want of coverage", SEEN_WITHIN, |agent| {
            step(&target, login(), 10);
            let service = agent.service("web")?;
            Ok(unmeasurable(&service, "of the service's CPU could be charged to requests").then_some(service))
        })
        .unwrap();
    assert!(said.coverage.unwrap() < 0.8, "{said:?}");
    assert!(
        said.problems.iter().any(|problem| problem.contains("80 % are needed: nothing is judged")),
        "{said:?}"
    );
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("could be charged to requests"), "it is not loud:\n{log}");
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (0, 0));
}

#[test]
fn tls_without_probes_is_named_in_status_metrics_and_doctor() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[service(&site)]).unwrap();
    let server = python(&site, "--tls");
    let agent = Agent::start(&site).unwrap();
    let said = agent
        .wait_for("that TLS hides the traffic", SEEN_WITHIN, |agent| {
            let visitor = Command::new("python3")
                .arg(app("visitor.py"))
                .args([server.port.to_string(), "20".to_owned()])
                .status()?;
            assert!(visitor.success());
            let service = agent.service("web")?;
            let blind = unmeasurable(&service, "of what web receives cannot be read");
            Ok((blind && service.hidden.contains_key("tls")).then_some(service))
        })
        .unwrap();
    assert!(said.hidden["tls"] > 0.9, "{said:?}");
    let named = "of what web receives is TLS that ends in the service itself";
    assert!(said.problems.iter().any(|problem| problem.contains(named)), "{said:?}");
    let hidden = agent.metrics().unwrap().sum("load_watchdog_hidden_traffic_ratio", &[("kind", "tls")]);
    assert!(hidden.unwrap() > 0.9, "{hidden:?}");

    let program = executable("load-watchdog").unwrap();
    let doctor = Command::new(&program).args(["doctor", "--config"]).arg(site.config()).output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.success() && text.contains(named), "{text}");
    let status = Command::new(&program).args(["status", "--control"]).arg(site.control()).output().unwrap();
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("NOT MEASURABLE"), "{text}");
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (0, 0));
}
