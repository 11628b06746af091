//! A slow host is no slow build: what the real agent says of good and bad builds while their surroundings turn bad.
//!
//! The shop under gunicorn, whose logins hash passwords: work that a crowded host makes dearer. Needs root, and gunicorn
//! (`cargo xtask setup python`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use watchdog::control::EnvironmentStatus;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{BASELINE, GOOD_US, Service, Site, site_or_skip};
use watchdog_tests::harness::{Burn, executable};
use watchdog_tests::load::{Load, LoadOptions, Step, run};
use watchdog_tests::servers::contend::BusyLoops;
use watchdog_tests::shop::{Shop, gunicorn};
use watchdog_tests::skip::skip;

/// Iterations of a password check: some milliseconds; the same again in another release; so many that a login, with what
/// Flask takes, costs twice as much.
const RELEASES: [(&str, u32); 3] = [("v1", 20_000), ("v2", 20_000), ("v3", 48_000)];
const PER_SECOND: f64 = 25.0;
/// So that the loop's own cost is known from the time of the good build.
const LEARNED: Duration = Duration::from_secs(22);
/// More requests than a bad build needs.
const GOOD_FOR: Duration = Duration::from_secs(12);
const DECIDED_WITHIN: Duration = Duration::from_secs(45);

/// A shop with a good build that is known well enough, and an agent that says what it would do.
struct Scene {
    agent: Agent,
    shop: Shop,
    load: Load,
    began: Instant,
}

fn logins(shop: &Shop) -> LoadOptions {
    let steps = vec![Step::post("login", "/login", "user=ann&password=correct+horse")];
    LoadOptions { concurrency: 2, keep_alive: false, ..LoadOptions::new(shop.target(), steps, 100_000) }
}

impl Scene {
    fn new(site: &Site) -> Option<Self> {
        let began = Instant::now();
        if let Err(error) = gunicorn() {
            skip::<()>(&format!("{error:#}"));
            return None;
        }
        let shop = Shop::start(&site.file("shop"), "sync", &RELEASES).unwrap();
        let service = Service {
            name: "shop".to_owned(),
            matcher: format!("{{ listen = {} }}", shop.port()),
            build: "{ file = \"REVISION\" }".to_owned(),
            mode: "observe".to_owned(),
            hook: None,
            budget: "{ vs_baseline = 1.5 }".to_owned(),
            // Passwords are hashed in C: nothing warms up.
            more: "warmup_factor = 1".to_owned(),
            ..site.web().unwrap()
        };
        site.configure(&[service]).unwrap();
        let agent = Agent::start(site).unwrap();
        let load = Load::start(LoadOptions { rate: Some(PER_SECOND), ..logins(&shop) }).unwrap();
        std::thread::sleep(LEARNED);
        assert!(agent.requests("shop", "v1", "login").unwrap() > 300);
        Some(Self { agent, shop, load, began })
    }

    /// The same code in another release: judged, and left alone.
    fn a_good_build_stays(&self) {
        self.shop.deploy("v2").unwrap();
        let seen = |agent: &Agent| agent.requests("shop", "v2", "login");
        self.agent
            .wait_for("requests of v2", DECIDED_WITHIN, |agent| Ok((seen(agent)? > 60).then_some(())))
            .unwrap();
        std::thread::sleep(GOOD_FOR);
        let build = self.agent.build("shop", "v2").unwrap().unwrap();
        println!(
            "v2 after {} logins: {:?} {:?}",
            seen(&self.agent).unwrap(),
            build.verdict,
            build.environment
        );
        println!(
            "   {:?}",
            build.endpoints.first().map(|it| (it.mean_cpu_seconds, it.baseline_mean_cpu_seconds))
        );
        assert_eq!(self.agent.incidents().unwrap(), []);
        assert_eq!(self.shop.serving().unwrap(), "v2");
        let environment = build.environment.unwrap();
        // The old build has ended; there is no other service; so it is the loop that tells.
        assert_eq!(environment.source.as_deref(), Some("loop"), "{environment:?}");
        assert!((0.8..=1.25).contains(&environment.factor), "{environment:?}");
    }

    /// Twice as dear, with the surroundings as bad as before.
    fn a_bad_build_is_found(self) {
        self.shop.deploy("v3").unwrap();
        let asked = Instant::now();
        let found = self
            .agent
            .wait_for("an incident of v3", DECIDED_WITHIN, |agent| Ok(agent.incidents()?.into_iter().next()))
            .unwrap();
        let logins = self.agent.requests("shop", "v3", "login").unwrap();
        println!(
            "v3 found {:.1} s after its deploy, {logins} logins: {}",
            asked.elapsed().as_secs_f64(),
            found.sentence
        );
        assert_eq!(found.bad_build.as_str(), "v3");
        let cost =
            self.agent.metrics().unwrap().sum("load_watchdog_calibration_cpu_seconds_total", &[]).unwrap();
        let share = cost / self.agent.status().unwrap().agent.uptime_seconds;
        println!("the calibration loop took {:.3} % of a core", 100.0 * share);
        // A tenth of a percent, and what the looks out of turn cost in a run as short as this one.
        assert!(share > 0.0 && share < 0.0015, "{share}");
        self.load.stop();
        self.load.wait();
        println!("took {:.0} s in all", self.began.elapsed().as_secs_f64());
    }

    /// gunicorn's processes.
    fn processes(&self) -> Vec<Pid> {
        let master = self.shop.master().unwrap();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        let children = children.split_ascii_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()));
        children.chain([Pid::from_raw(master)]).collect()
    }
}

#[test]
fn two_busy_neighbours_blame_no_good_build_and_hide_no_bad_one() {
    let Some(site) = site_or_skip() else { return };
    let Some(scene) = Scene::new(&site) else { return };
    let _busy = BusyLoops::start();
    scene.a_good_build_stays();
    scene.a_bad_build_is_found();
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_move_to_one_core_blames_no_good_build_and_hides_no_bad_one() {
    let Some(site) = site_or_skip() else { return };
    let Some(scene) = Scene::new(&site) else { return };
    let mut one = CpuSet::new();
    one.set(0).unwrap();
    // What they fork from now on stays there too.
    for pid in scene.processes() {
        sched_setaffinity(pid, &one).unwrap();
    }
    scene.a_good_build_stays();
    scene.a_bad_build_is_found();
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_tightened_quota_blames_no_good_build_and_hides_no_bad_one() {
    let Some(site) = site_or_skip() else { return };
    let Some(group) = Group::new() else { return };
    let Some(scene) = Scene::new(&site) else { return };
    group.take(&scene.processes());
    group.limit(0.15);
    scene.a_good_build_stays();
    assert!(group.throttled() > 10, "the quota had no effect");
    scene.a_bad_build_is_found();
}

/// A control group of this test, removed when dropped.
struct Group {
    folder: PathBuf,
    unified: bool,
}

impl Group {
    const PERIOD_US: f64 = 100_000.0;

    fn new() -> Option<Self> {
        let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")
            .is_ok_and(|controllers| controllers.split_ascii_whitespace().any(|it| it == "cpu"));
        let parent = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" };
        let folder = Path::new(parent).join(format!("load-watchdog-test-{}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => Some(Self { folder, unified }),
            Err(error) => skip(&format!("no control group for the CPU can be made: {error}")),
        }
    }

    fn take(&self, pids: &[Pid]) {
        for pid in pids {
            fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// In cores.
    fn limit(&self, cores: f64) {
        let quota_us = (cores * Self::PERIOD_US).round();
        if self.unified {
            fs::write(self.folder.join("cpu.max"), format!("{quota_us} {}", Self::PERIOD_US)).unwrap();
        } else {
            fs::write(self.folder.join("cpu.cfs_period_us"), Self::PERIOD_US.to_string()).unwrap();
            fs::write(self.folder.join("cpu.cfs_quota_us"), quota_us.to_string()).unwrap();
        }
    }

    /// Periods in which it had to wait.
    fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.folder.join("cpu.stat")).unwrap();
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Declared before the shop, so dropped after it: a group with processes cannot be removed.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.folder).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The service beside the judged one: the same build, dearer or not.
fn beside(site: &Site, login_us: u64) -> Burn {
    let socket = site.file("beside.sock");
    let _ = fs::remove_file(&socket);
    let mut command = std::process::Command::new(executable("burn").unwrap());
    command
        .args(["--listen", &format!("unix:{}", socket.display()), "--login-us", &login_us.to_string()])
        .env("REVISION", "same");
    Burn::start_command(&mut command).unwrap()
}

fn at(per_second: f64, burn: &Burn) -> Load {
    let steps = vec![Step::post("login", "/login", "user=ann&password=secret")];
    let options = LoadOptions::new(burn.target().clone(), steps, 100_000);
    Load::start(LoadOptions { rate: Some(per_second), concurrency: 2, keep_alive: false, ..options }).unwrap()
}

/// The neighbour, restarted with dearer requests, is what a slow host looks like: known good, unchanged, and slow.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn while_a_neighbour_is_slow_too_the_verdict_waits_and_then_goes_on() {
    let Some(site) = site_or_skip() else { return };
    let relative = |service: Service| Service { budget: "{ vs_baseline = 1.5 }".to_owned(), ..service };
    let web = relative(site.web().unwrap());
    let neighbour = Service {
        name: "beside".to_owned(),
        matcher: "{ cmdline = 'burn --listen unix:.*/beside.sock' }".to_owned(),
        mode: "observe".to_owned(),
        hook: None,
        ..relative(site.web().unwrap())
    };
    let web = Service {
        matcher: format!("{{ cmdline = 'burn --listen unix:{}/web-' }}", site.folder().display()),
        ..web
    };
    site.configure(&[neighbour, web]).unwrap();
    let _good = site.deploy("web-1", GOOD_US).unwrap();
    let usual = beside(&site, GOOD_US);
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let steps = vec![Step::post("login", "/login", "user=ann&password=secret")];
    assert_eq!(run(LoadOptions::new(usual.target().clone(), steps, 300)).unwrap().failures, 0);

    // A new build that costs the same, beside a neighbour that costs three times what it did.
    let first = site.deploy("web-2", GOOD_US).unwrap();
    agent.wait_for("web-2", DECIDED_WITHIN, |agent| agent.build("web", "web-2")).unwrap();
    drop(usual);
    let slow = beside(&site, 3 * GOOD_US);
    let loads = [at(60.0, &slow), site.visit_at(40.0).unwrap()];
    let held = agent
        .wait_for("a verdict that waits", DECIDED_WITHIN, |agent| {
            let build = agent.build("web", "web-2")?;
            Ok(build.filter(|build| build.verdict.as_deref() == Some("environment")))
        })
        .unwrap();
    println!("held: {:?}", held.sentence);
    let environment = held.environment.unwrap();
    assert_eq!(environment.source.as_deref(), Some("other_service"));
    assert!(environment.violated.is_some_and(|ratio| ratio > 1.5), "{environment:?}");
    assert!((environment.factor - 1.25).abs() < 1e-9, "{environment:?}");
    let metrics = agent.metrics().unwrap();
    let told = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
    assert_eq!(told("load_watchdog_environment_violated", &[("build", "web-2")]), Some(1.0));
    assert_eq!(told("load_watchdog_verdict", &[("build", "web-2"), ("verdict", "environment")]), Some(1.0));

    // The same build gets four times as dear: while the neighbour is slow, nobody can say why.
    drop(first);
    let _dear = site.deploy("web-2", 4 * GOOD_US).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(agent.build("web", "web-2").unwrap().unwrap().verdict.as_deref(), Some("environment"));
    assert_eq!(agent.incidents().unwrap(), []);

    // The neighbour is as it was, and the build is not.
    drop(slow);
    let [of_slow, of_web] = loads;
    of_slow.stop();
    of_slow.wait();
    let usual = beside(&site, GOOD_US);
    let of_usual = at(60.0, &usual);
    let found = agent
        .wait_for("an incident of web-2", 2 * DECIDED_WITHIN, |agent| {
            Ok(agent.incidents()?.into_iter().next())
        })
        .unwrap();
    assert_eq!(found.bad_build.as_str(), "web-2");
    let log = fs::read_to_string(site.log()).unwrap();
    assert!(log.contains("held: service beside") && log.contains("well again"), "{log}");
    for load in [of_usual, of_web] {
        load.stop();
        load.wait();
    }
}

/// Flask is Python: the first half minute of a worker may cost four times as much, and is not told by the configuration.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_runtime_that_starts_cold_is_known_and_what_it_may_cost_is_shown() {
    let Some(site) = site_or_skip() else { return };
    if let Err(error) = gunicorn() {
        skip::<()>(&format!("{error:#}"));
        return;
    }
    let shop = Shop::start(&site.file("shop"), "sync", &RELEASES).unwrap();
    let service = Service {
        name: "shop".to_owned(),
        matcher: format!("{{ listen = {} }}", shop.port()),
        build: "{ file = \"REVISION\" }".to_owned(),
        mode: "observe".to_owned(),
        hook: None,
        budget: "{ vs_baseline = 1.5 }".to_owned(),
        ..site.web().unwrap()
    };
    site.configure(&[service]).unwrap();
    let agent = Agent::start(&site).unwrap();
    assert_eq!(run(LoadOptions { requests: Some(260), ..logins(&shop) }).unwrap().failures, 0);
    let load = Load::start(LoadOptions { rate: Some(10.0), ..logins(&shop) }).unwrap();
    let deployed = Instant::now();
    shop.deploy("v3").unwrap();
    let warming = agent
        .wait_for("processes that warm up", DECIDED_WITHIN, |agent| {
            Ok(agent.build("shop", "v3")?.and_then(|build| build.warming))
        })
        .unwrap();
    assert!(warming.processes >= 2 && (warming.factor - 4.0).abs() < 1e-9, "{warming:?}");
    // Twice as dear is within what a cold process may cost; when it is warm, it is not.
    let found = agent
        .wait_for("an incident of v3", Duration::from_secs(50), |agent| {
            Ok(agent.incidents()?.into_iter().next())
        })
        .unwrap();
    println!("found {:.1} s after the deploy", deployed.elapsed().as_secs_f64());
    assert_eq!(found.bad_build.as_str(), "v3");
    assert!(deployed.elapsed() > Duration::from_secs(30), "judged as if it were warm");
    assert_eq!(agent.build("shop", "v3").unwrap().unwrap().warming, None);
    load.stop();
    load.wait();
}

/// What tells how slow the host is for a build, once it is this.
fn told_by(agent: &Agent, build: &str, source: &str) -> EnvironmentStatus {
    agent
        .wait_for(&format!("surroundings told by {source}"), DECIDED_WITHIN, |agent| {
            let environment = agent.build("web", build)?.and_then(|build| build.environment);
            Ok(environment.filter(|environment| environment.source.as_deref() == Some(source)))
        })
        .unwrap()
}

fn observed(site: &Site) -> Service {
    Service {
        mode: "observe".to_owned(),
        hook: None,
        budget: "{ vs_baseline = 1.5 }".to_owned(),
        ..site.web().unwrap()
    }
}

#[test]
fn a_good_build_that_goes_on_serving_tells_how_slow_the_host_is() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[observed(&site)]).unwrap();
    let good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let _new = site.deploy("new", GOOD_US).unwrap();
    let loads = [at(40.0, &good), site.visit_at(40.0).unwrap()];
    let environment = told_by(&agent, "new", "old_build");
    assert!(environment.control.as_deref().is_some_and(|control| control.contains("good build good")));
    assert!((0.8..=1.25).contains(&environment.factor), "{environment:?}");
    let new = agent.build("web", "new").unwrap().unwrap();
    let setting = new.evidence.as_ref().and_then(|evidence| evidence.setting.as_ref()).unwrap();
    assert_eq!(setting.baseline_processes, Some(1), "{setting:?}");
    assert_eq!(setting.host.as_ref().unwrap().control, environment.control);
    assert_eq!(agent.incidents().unwrap(), []);
    for load in loads {
        load.stop();
        load.wait();
    }
}

#[test]
fn endpoints_that_are_declared_as_controls_tell_how_slow_the_host_is() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[observed(&site)]).unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    let declared = text.replace("budget = { mean_cpu = \"50ms\" }", "control = true");
    assert_ne!(declared, text);
    fs::write(site.config(), declared).unwrap();
    let good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    // A quarter only browses, and a reference needs to be known well.
    site.visit(4 * BASELINE).unwrap();
    let _new = site.deploy("new", GOOD_US).unwrap();
    drop(good);
    let load = site.visit_at(80.0).unwrap();
    let environment = told_by(&agent, "new", "declared_endpoints");
    assert!((0.8..=1.25).contains(&environment.factor), "{environment:?}");
    let metrics = agent.metrics().unwrap();
    let labels = [("build", "new"), ("source", "declared_endpoints")];
    assert!(metrics.sum("load_watchdog_environment_factor", &labels).is_some(), "{}", metrics.text());
    assert_eq!(agent.incidents().unwrap(), []);
    load.stop();
    load.wait();
}
