//! In-place deploys with the real agent: the same processes serve another build once a symlink flips.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use watchdog_tests::agent::site::{BASELINE, Service, Site, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::harness::{Burn, executable};
use watchdog_tests::load::{Load, LoadOptions, Step, run};
use watchdog_tests::servers::Running;
use watchdog_tests::servers::php::{self, Listen, Release};
use watchdog_tests::window::family;

/// Between a flip and the first request that is counted for the other build.
const FLIPPED_WITHIN: Duration = Duration::from_secs(1);
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
const DECIDED_WITHIN: Duration = Duration::from_secs(30);
const LOGINS: u64 = 40;

fn service(site: &Site, name: &str, build: &str) -> Service {
    Service {
        name: name.to_owned(),
        matcher: format!("{{ cmdline = 'burn --listen unix:.*/{name}.sock' }}"),
        build: build.to_owned(),
        mode: "observe".to_owned(),
        hook: None,
        ..site.web().unwrap()
    }
}

fn burn(site: &Site, name: &str, login_us: u64) -> Burn {
    let socket = format!("unix:{}", site.file(&format!("{name}.sock")).display());
    let mut command = Command::new(executable("burn").unwrap());
    command.args(["--listen", &socket, "--login-us", &login_us.to_string()]).current_dir(site.folder());
    Burn::start_command(&mut command).unwrap()
}

fn flip(folder: &Path, to: &str) {
    symlink(to, folder.join("next")).unwrap();
    fs::rename(folder.join("next"), folder.join("current")).unwrap();
}

fn logins(burn: &Burn, requests: u64) -> LoadOptions {
    LoadOptions::new(
        burn.target().clone(),
        vec![Step::post("login", "/login", "user=ann&password=secret")],
        requests,
    )
}

fn serving(agent: &Agent, service: &str, build: &str, processes: u64) {
    agent
        .wait_for(
            &format!("{processes} processes of {service} with build {build}"),
            FLIPPED_WITHIN,
            |agent| Ok(agent.build(service, build)?.filter(|it| it.processes == processes).map(|_| ())),
        )
        .unwrap();
}

fn counted(agent: &Agent, service: &str, build: &str, requests: u64) {
    agent
        .wait_for(&format!("{requests} logins of {service} with build {build}"), COUNTED_WITHIN, |agent| {
            Ok((agent.requests(service, build, "login")? >= requests).then_some(()))
        })
        .unwrap();
    assert_eq!(agent.requests(service, build, "login").unwrap(), requests, "{service} {build}");
}

#[test]
fn requests_count_for_the_new_build_from_the_flip_on_in_the_same_process() {
    let Some(site) = site_or_skip() else { return };
    for release in ["one", "two"] {
        fs::create_dir_all(site.file("releases").join(release)).unwrap();
    }
    symlink("releases/one", site.file("current")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let link = format!("symlink = \"{}\"", site.file("current").display());
    // Two services on one link, and one that would have to be restarted.
    let in_place = format!("{{ {link}, in_place = true }}");
    let services = [
        service(&site, "web", &in_place),
        service(&site, "api", &in_place),
        service(&site, "old", &format!("{{ {link} }}")),
    ];
    site.configure(&services).unwrap();
    let [web, api, old] = ["web", "api", "old"].map(|name| burn(&site, name, 500));
    let agent = Agent::start(&site).unwrap();
    for (name, burn) in [("web", &web), ("api", &api), ("old", &old)] {
        serving(&agent, name, "one", 1);
        assert_eq!(run(logins(burn, LOGINS)).unwrap().failures, 0);
        counted(&agent, name, "one", LOGINS);
    }
    let following = agent.service("web").unwrap().following;
    assert!(
        matches!(following.as_slice(), [it] if it.contains("1 process: the build changes in place, with")),
        "{following:?}"
    );

    flip(site.folder(), "releases/two");
    for (name, burn) in [("web", &web), ("api", &api)] {
        serving(&agent, name, "two", 1);
        assert_eq!(run(logins(burn, LOGINS)).unwrap().failures, 0);
        counted(&agent, name, "two", LOGINS);
        counted(&agent, name, "one", LOGINS);
        assert_eq!(agent.build(name, "two").unwrap().unwrap().state, "probation");
        assert_eq!(agent.build(name, "one").unwrap().unwrap().processes, 0);
    }
    assert_eq!(run(logins(&old, LOGINS)).unwrap().failures, 0);
    counted(&agent, "old", "one", 2 * LOGINS);
    assert!(agent.build("old", "two").unwrap().is_none());

    // A new configuration follows the same link on.
    site.configure(&services[..2]).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    agent
        .wait_for("the new configuration", COUNTED_WITHIN, |agent| {
            Ok((agent.status()?.services.len() == 2).then_some(()))
        })
        .unwrap();
    // Back, by removing the link and making it anew a moment later.
    fs::remove_file(site.file("current")).unwrap();
    agent
        .wait_for("the missing link is told", FLIPPED_WITHIN, |agent| {
            let problems = agent.service("web")?.problems;
            Ok(problems.iter().any(|it| it.contains("cannot be told: ")).then_some(()))
        })
        .unwrap();
    assert_eq!(run(logins(&web, 1)).unwrap().failures, 0);
    counted(&agent, "web", "two", LOGINS + 1);
    symlink("releases/one", site.file("current")).unwrap();
    serving(&agent, "web", "one", 1);
    assert_eq!(run(logins(&web, LOGINS)).unwrap().failures, 0);
    counted(&agent, "web", "one", 2 * LOGINS);
    counted(&agent, "web", "two", LOGINS + 1);
    assert_eq!(agent.service("web").unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_request_under_way_at_the_flip_stays_with_its_build() {
    /// Longer than the slot of a build without processes is otherwise kept.
    const LONG_US: u64 = 3_000_000;
    let Some(site) = site_or_skip() else { return };
    fs::write(site.file("REVISION"), "one\n").unwrap();
    let source = format!("{{ file = \"{}\", in_place = true }}", site.file("REVISION").display());
    site.configure(&[service(&site, "web", &source)]).unwrap();
    let web = burn(&site, "web", LONG_US);
    let agent = Agent::start(&site).unwrap();
    serving(&agent, "web", "one", 1);
    let load = Load::start(logins(&web, 1)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    fs::write(site.file("REVISION"), "two\n").unwrap();
    serving(&agent, "web", "two", 1);
    assert_eq!(load.wait().failures, 0);
    counted(&agent, "web", "one", 1);
    assert_eq!(agent.requests("web", "two", "login").unwrap(), 0);
    let cost = agent.build("web", "one").unwrap().unwrap().endpoints[0].mean_cpu_seconds.unwrap();
    assert!((0.95..1.1).contains(&(cost / (LONG_US as f64 * 1e-6))), "{cost} s");
}

/// A release four times as heavy is flipped into service under load, found, and flipped out again by the hook.
fn a_heavy_release_is_flipped_out_again(running: &Running, program: &str) {
    const COST: u32 = 6;
    /// Of the requests in the moment between the flip and its notice, the other build serves already.
    const AT_THE_FLIP: u64 = 4;
    let Some(site) = site_or_skip() else { return };
    let folder = running.folder();
    let release = |name| Release { folder, name };
    for (name, cost) in [("good", COST), ("bad", COST + 2)] {
        release(name).lay_out(cost).unwrap();
    }
    release("good").serve().unwrap();
    // Before the hook: it has one of its own in the same file.
    let web = site.web().unwrap();
    let hook = site.hook(&format!(
        "cd '{}' && ln -s \"releases/$LOAD_WATCHDOG_GOOD_BUILD\" next && mv -T next current",
        folder.display()
    ));
    let web = Service {
        matcher: format!("{{ cmdline = '{program}' }}"),
        // That it changes in place need not be said.
        build: format!("{{ symlink = \"{}\" }}", folder.join("current").display()),
        hook: Some(hook.unwrap()),
        // PHP's first requests after a flip may cost four times as much, else: as much as this release does.
        more: "warmup_factor = 1".to_owned(),
        ..web
    };
    site.configure(&[web]).unwrap();
    let processes = || running.roots.iter().flat_map(|pid| family(*pid).unwrap()).collect::<Vec<_>>();
    let before = processes();
    let agent = Agent::start(&site).unwrap();
    let visitors = |requests| LoadOptions { target: running.target.clone(), ..site.visitors(requests) };
    let visited = run(LoadOptions { concurrency: 2, ..visitors(BASELINE) }).unwrap();
    assert_eq!(visited.failures, 0, "{:?}", visited.failed);
    assert_eq!(agent.incidents().unwrap(), []);

    let options = LoadOptions { concurrency: 4, rate: Some(60.0), ..visitors(100_000) };
    let load = Load::start(options).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    release("bad").serve().unwrap();
    let incident = agent.wait_for_incident(&ENDED, DECIDED_WITHIN).unwrap();
    let detail = agent.incident(&incident.id).unwrap();
    assert_eq!(incident.state, "recovered", "{detail:#?}\n{}", agent.log_tail());
    assert_eq!(incident.bad_build.as_str(), "bad");
    std::thread::sleep(Duration::from_millis(500));
    load.stop();
    let report = load.wait();
    assert_eq!(report.failures, 0, "{:?}", report.failed);
    assert_eq!(fs::read_link(folder.join("current")).unwrap().to_str(), Some("releases/good"));
    assert_eq!((agent.incidents().unwrap().len(), site.hook_runs()), (1, 1));
    assert_eq!(processes(), before, "nothing was restarted");

    // What each release answered, by its own word, is what was counted for it.
    for (build, beside) in [("bad", 0), ("good", visited.count("login"))] {
        let served = report.of("login", build).unwrap().count + beside;
        let seen = agent.requests("web", build, "login").unwrap();
        assert!(seen.abs_diff(served) <= AT_THE_FLIP, "{build}: {served} served, {seen} counted");
        println!("{build}: {served} logins served, {seen} counted");
    }
    // It comes back: known to be bad, an incident at once, though no process is younger than the verdict.
    release("bad").serve().unwrap();
    agent
        .wait_for("an incident from the ledger", FLIPPED_WITHIN, |agent| {
            Ok((agent.incidents()?.len() == 2).then_some(()))
        })
        .unwrap();
}

#[test]
fn apache_with_php_inside_is_rolled_back_by_a_flip() {
    let running = php::apache(4).unwrap();
    a_heavy_release_is_flipped_out_again(&running, &format!("apache2 .*{}/", running.folder().display()));
}

#[test]
fn php_fpm_is_rolled_back_by_a_flip() {
    let running = php::php_fpm(Listen::Unix, 4).unwrap();
    a_heavy_release_is_flipped_out_again(&running, &format!("php-fpm.*{}/", running.folder().display()));
}
