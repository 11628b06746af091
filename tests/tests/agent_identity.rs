//! Which service and which build the real agent takes processes for: every way to match, every source of the build, and
//! children that were forked before it came and after.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{Service, Site, site_or_skip};
use watchdog_tests::harness::{Burn, executable};
use watchdog_tests::load::{LoadOptions, Step, run};

const SEEN_WITHIN: Duration = Duration::from_secs(15);
const LOGINS: u64 = 40;

/// What is configured, what runs, and what it must be taken for.
struct Case {
    name: &'static str,
    build: &'static str,
    burn: Burn,
}

fn service(site: &Site, name: &str, matcher: String, build: &str) -> Service {
    let mode = "observe".to_owned();
    Service {
        name: name.to_owned(),
        matcher,
        build: build.to_owned(),
        mode,
        hook: None,
        ..site.web().unwrap()
    }
}

fn burn(program: &Path, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).args(["--login-us", "500"]).current_dir(folder).env_remove("REVISION");
    command
}

/// Connections of their own, so that every forked child gets some.
fn login(burn: &Burn) {
    let steps = vec![Step::post("login", "/login", "user=ann&password=secret")];
    let options = LoadOptions { keep_alive: false, ..LoadOptions::new(burn.target().clone(), steps, LOGINS) };
    assert_eq!(run(options).unwrap().failures, 0);
}

fn port(burn: &Burn) -> String {
    burn.address().rsplit(':').next().unwrap().to_owned()
}

#[test]
fn every_process_is_found_and_its_requests_count_for_its_build() {
    let Some(site) = site_or_skip() else { return };
    let program = executable("burn").unwrap();
    let file = |name: &str| site.file(name);
    let text = |name: &str| site.file(name).to_str().unwrap().to_owned();

    // Listening port, environment; its children were forked before the agent came.
    let by_port = Burn::start_command(
        burn(&program, site.folder(), &["--model", "prefork", "--workers", "3"]).env("REVISION", "of-env"),
    )
    .unwrap();
    // Unix socket, file in the working directory.
    fs::create_dir(file("filed")).unwrap();
    fs::write(file("filed/REVISION"), "of-file\n").unwrap();
    let by_path = Burn::start_command(&mut burn(
        &program,
        &file("filed"),
        &["--listen", &format!("unix:{}", text("app.sock"))],
    ))
    .unwrap();
    // A program of its own, symlink.
    fs::create_dir_all(file("linked/of-link")).unwrap();
    fs::copy(&program, file("linked/server")).unwrap();
    symlink("of-link", file("linked/now")).unwrap();
    let by_exe = Burn::start_command(&mut burn(&file("linked/server"), site.folder(), &[])).unwrap();
    // Arguments, and a release directory found by itself. Its children end and are forked anew all the time.
    fs::create_dir_all(file("releases/of-folder")).unwrap();
    let prefork = ["--model", "prefork", "--workers", "2", "--refork-after", "4", "--build", "by-arguments"];
    let by_arguments =
        Burn::start_command(&mut burn(&program, &file("releases/of-folder"), &prefork)).unwrap();
    // Not there yet.
    let late_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    let env = "{ env = \"REVISION\" }";
    site.configure(&[
        service(&site, "by-port", format!("{{ listen = {} }}", port(&by_port)), env),
        service(
            &site,
            "by-path",
            format!("{{ listen = \"{}\" }}", text("app.sock")),
            "{ file = \"REVISION\" }",
        ),
        service(
            &site,
            "by-exe",
            format!("{{ exe = \"{}\" }}", text("linked/server")),
            &format!("{{ symlink = \"{}\" }}", text("linked/now")),
        ),
        service(
            &site,
            "by-arguments",
            format!("{{ cmdline = 'by-arguments', listen = {} }}", port(&by_arguments)),
            "{ from = \"auto\" }",
        ),
        service(&site, "late", format!("{{ listen = {late_port} }}"), env),
    ])
    .unwrap();
    let agent = Agent::start(&site).unwrap();
    let late = Burn::start_command(
        burn(&program, site.folder(), &["--listen", &format!("127.0.0.1:{late_port}")])
            .env("REVISION", "of-later"),
    )
    .unwrap();
    let found = |name: &str, processes: u64| {
        agent
            .wait_for(&format!("{processes} processes of {name}"), SEEN_WITHIN, |agent| {
                Ok((agent.service(name)?.processes == processes).then_some(()))
            })
            .unwrap();
    };
    for (name, processes) in [("by-port", 4), ("by-path", 1), ("by-exe", 1), ("by-arguments", 3), ("late", 1)]
    {
        found(name, processes);
    }

    let cases = [
        Case { name: "by-port", build: "of-env", burn: by_port },
        Case { name: "by-path", build: "of-file", burn: by_path },
        Case { name: "by-exe", build: "of-link", burn: by_exe },
        Case { name: "by-arguments", build: "of-folder", burn: by_arguments },
        Case { name: "late", build: "of-later", burn: late },
    ];
    for case in &cases {
        login(&case.burn);
        let requests = || agent.requests(case.name, case.build, "login");
        agent
            .wait_for(&format!("{}: its logins", case.name), SEEN_WITHIN, |_| {
                Ok((requests()? >= LOGINS).then_some(()))
            })
            .unwrap();
        assert_eq!(requests().unwrap(), LOGINS, "{}", case.name);
        let builds = agent.service(case.name).unwrap().builds;
        let names: Vec<_> = builds.iter().map(|build| (build.build.as_str(), build.state.as_str())).collect();
        assert_eq!(names, [(case.build, "adopted")], "{}", case.name);
    }
}

#[test]
fn a_process_without_a_build_is_told_and_not_measured() {
    let Some(site) = site_or_skip() else { return };
    let nameless = Burn::start_command(&mut burn(&executable("burn").unwrap(), site.folder(), &[])).unwrap();
    let matcher = format!("{{ listen = {} }}", port(&nameless));
    site.configure(&[service(&site, "web", matcher, "{ env = \"REVISION\" }")]).unwrap();
    let agent = Agent::start(&site).unwrap();
    login(&nameless);
    let status = agent.service("web").unwrap();
    assert!(status.builds.is_empty(), "{status:#?}");
    assert!(status.problems.iter().any(|problem| problem.contains("REVISION")), "{status:#?}");
}
