//! What users write: the documented example, the package's default, and bad configurations with their messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use watchdog::config::{
    AgentConfig, AgentOverrides, Budget, BuildSource, Config, ControlOperator, ExecConfig, HookCall,
    HookConfig, Listen, Mode, OnViolation, Protocol, RollbackConfig, defaults, wildcard_mask,
};
use watchdog::model::Uprobes;

const MINIMAL: &str = r#"[[service]]
name = "web"
match = { unit = "web.service" }
[[service.endpoint]]
name = "login"
path = "/login"
budget = { mean_cpu = "80ms" }
"#;

const DOCUMENTED: &str = r#"
[agent]
listen = "127.0.0.1:9847"
state_dir = "/var/lib/load-watchdog"
control = "/run/load-watchdog/control.sock"
control_group = "adm"
min_coverage = 0.8
log = "info"

[[service]]
name = "web"
match = { unit = "gunicorn.service" }
build = { from = "auto" }
protocol = "auto"
uprobes = ["pool", "tls"]
warmup_factor = 2.5
mode = "enforce"
guard_for = "24h"
false_rollback_rate = 0.001

[[service.endpoint]]
name = "login"
method = "POST"
path = "/login"
budget = { mean_cpu = "80ms", p99_cpu = "400ms", vs_baseline = 1.3, peak_rate = 40.0, max_host_share = 0.25 }

[service.release_window]
allow = ["Mon-Thu 20:00-23:59", "Sun 00:00-23:59"]
timezone = "Australia/Melbourne"
on_violation = "alert"

[service.rollback]
exec = ["/usr/local/bin/rollback-web", "{good_build}"]
user = "deploy"
timeout = "120s"
retries = 2
cooldown = "30m"
max_per_day = 3
verify_within = "5m"
"#;

/// The messages for a text, without the file's name.
fn mistakes(text: &str) -> Vec<String> {
    match Config::parse(text, "c.toml") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors
            .iter()
            .map(|error| error.to_string().strip_prefix("c.toml:").expect("names the file").to_owned())
            .collect(),
    }
}

#[test]
fn operators_are_users_and_groups() {
    let text =
        DOCUMENTED.replace("control_group", "control_operators = [\"ann\", \"%deploy\"]\ncontrol_group");
    let config = Config::parse(&text, "c.toml").unwrap();
    let (user, group) =
        (ControlOperator::User("ann".to_owned()), ControlOperator::Group("deploy".to_owned()));
    assert_eq!(config.agent.control_operators, [user.clone(), group.clone()]);
    let mut agent = AgentConfig::default();
    let flags = AgentOverrides {
        control_operators: Some(vec!["ann".to_owned(), "%deploy".to_owned()]),
        ..AgentOverrides::default()
    };
    flags.apply(&mut agent).unwrap();
    assert_eq!(agent.control_operators, [user, group]);
}

#[test]
fn the_documented_example() {
    let config = Config::parse(DOCUMENTED, "c.toml").unwrap();
    assert_eq!(config.agent, AgentConfig::default(), "the example shows the defaults");
    let [service] = &config.services[..] else { panic!("one service") };
    assert_eq!(service.matcher.unit.as_deref(), Some("gunicorn.service"));
    assert_eq!((service.mode, service.protocol), (Mode::Enforce, Protocol::Auto));
    assert_eq!(service.build, BuildSource::Auto);
    assert_eq!((service.uprobes, service.warmup_factor), (Uprobes::ALL, Some(2.5)));
    assert_eq!(service.guard_for, defaults::GUARD_FOR);
    let endpoint = &service.endpoints[0];
    assert_eq!((endpoint.method.as_deref(), endpoint.path.as_str()), (Some("POST"), "/login"));
    assert_eq!(
        endpoint.budget,
        Budget {
            mean_cpu: Some(Duration::from_millis(80)),
            quantile_cpu: vec![(0.99, Duration::from_millis(400))],
            vs_baseline: Some(1.3),
            peak_rate: Some(40.0),
            learn_peak_rate: false,
            max_host_share: Some(0.25),
        }
    );
    let window = service.release_window.as_ref().unwrap();
    assert_eq!((window.allow.len(), window.on_violation), (2, OnViolation::Alert));
    assert_eq!(
        service.rollback,
        Some(RollbackConfig {
            hook: HookConfig {
                call: HookCall::Exec(ExecConfig {
                    user: Some("deploy".into()),
                    ..ExecConfig::new(["/usr/local/bin/rollback-web", "{good_build}"])
                }),
                timeout: defaults::ROLLBACK_TIMEOUT,
                retries: defaults::HOOK_RETRIES,
            },
            pre: None,
            post: None,
            escalate: None,
            cooldown: defaults::ROLLBACK_COOLDOWN,
            max_per_day: defaults::ROLLBACK_MAX_PER_DAY,
            verify_within: defaults::VERIFY_WITHIN,
            dry_run: false,
        })
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_release_window_is_read_with_its_freezes() {
    let alert = DOCUMENTED.replace("on_violation = \"alert\"", "");
    let window = Config::parse(&alert, "c.toml").unwrap().services.remove(0).release_window.unwrap();
    assert_eq!((window.on_violation, window.users_within), (OnViolation::Alert, defaults::USERS_WITHIN));
    assert_eq!(window.freezes, []);
    let more = "on_violation = \"rollback\"\nusers_within = \"90s\"\nfreezes = [\"2017-01-29\", \"2016-12-20..2017-01-05\"]";
    let rollback = DOCUMENTED.replace("on_violation = \"alert\"", more);
    let config = Config::parse(&rollback, "c.toml").unwrap();
    let window = config.services[0].release_window.as_ref().unwrap();
    assert_eq!(window.on_violation, OnViolation::Rollback);
    assert_eq!(window.users_within, Duration::from_secs(90));
    let freezes: Vec<String> = window.freezes.iter().map(ToString::to_string).collect();
    assert_eq!(freezes, ["2017-01-29", "2016-12-20..2017-01-05"]);
    assert_eq!(config.warnings, [""; 0]);
    // Friday 27 January 2017 in Melbourne, at 4 and 9; Sunday at noon, of this week and the one before.
    let open = |instant: &str| window.hours.is_open(instant.parse().unwrap());
    assert!(!open("2017-01-26T17:00:00Z") && !open("2017-01-26T22:00:00Z") && open("2017-01-22T01:00:00Z"));
    assert!(!open("2017-01-29T01:00:00Z"), "frozen");
    assert!(open("2017-01-26T12:59:59Z"), "the last minute is inside");
}

#[test]
fn the_packaged_default_watches_and_does_not_act() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config.toml");
    let config = Config::parse(&std::fs::read_to_string(&path).unwrap(), "config.toml").unwrap();
    assert_eq!(config.agent, AgentConfig::default());
    assert!(
        config.services.iter().all(|service| service.mode == Mode::Observe && service.rollback.is_none())
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    // What is commented out must be as right as what is not.
    let text = std::fs::read_to_string(&path).unwrap();
    let example: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#: ")).collect();
    let example = example.join("\n");
    let enabled = Config::parse(&example, "example").unwrap();
    assert_eq!(enabled.services[0].mode, Mode::Enforce);
    assert!(enabled.services[0].rollback.is_some() && enabled.services[0].release_window.is_some());
}

#[test]
fn every_default_but_the_essentials() {
    let config = Config::parse(MINIMAL, "c.toml").unwrap();
    assert_eq!(config.agent, AgentConfig::default());
    let service = &config.services[0];
    assert_eq!((service.mode, service.protocol), (defaults::MODE, defaults::PROTOCOL));
    assert_eq!((service.uprobes, service.warmup_factor), (Uprobes::NONE, None));
    assert_eq!((service.build.clone(), service.guard_for), (defaults::BUILD, defaults::GUARD_FOR));
    assert!((service.false_rollback_rate - defaults::FALSE_ROLLBACK_RATE).abs() < f64::EPSILON);
    assert!(service.rollback.is_none() && service.release_window.is_none());
    assert_eq!(service.endpoints[0].method, None);
    assert!(config.warnings.is_empty());
}

#[test]
fn each_way_to_match_and_to_name_a_build() {
    let text = |matcher: &str, build: &str| {
        MINIMAL.replace("match = { unit = \"web.service\" }", &format!("match = {matcher}\nbuild = {build}"))
    };
    let parse = |matcher: &str, build: &str| {
        Config::parse(&text(matcher, build), "c.toml")
            .unwrap_or_else(|error| panic!("{error}"))
            .services
            .remove(0)
    };
    let by_port = parse("{ listen = 8000, exe = \"/usr/bin/node\" }", "{ env = \"GIT_SHA\" }");
    assert_eq!(by_port.matcher.listen, Some(Listen::Port(8000)));
    assert_eq!(by_port.matcher.exe, Some(PathBuf::from("/usr/bin/node")));
    assert_eq!(by_port.build, BuildSource::Env("GIT_SHA".into()));
    let by_socket = parse("{ listen = \"/run/app.sock\" }", "{ file = \"REVISION\" }");
    assert_eq!(by_socket.matcher.listen, Some(Listen::Unix("/run/app.sock".into())));
    assert_eq!(by_socket.build, BuildSource::File { path: "REVISION".into(), in_place: None });
    let by_line = parse("{ cmdline = 'gunicorn .*shop' }", "{ symlink = \"/srv/web/current\" }");
    assert!(by_line.matcher.cmdline.unwrap().is_match("python gunicorn -w 2 shop:app"));
    assert_eq!(by_line.build, BuildSource::Symlink { path: "/srv/web/current".into(), in_place: None });
    for in_place in [true, false] {
        let source = format!("{{ symlink = \"/srv/web/current\", in_place = {in_place} }}");
        let expected = BuildSource::Symlink { path: "/srv/web/current".into(), in_place: Some(in_place) };
        assert_eq!(parse("{ listen = 80 }", &source).build, expected);
    }
    let by_file = parse("{ listen = 80 }", "{ file = \"/srv/web/REVISION\", in_place = true }");
    assert_eq!(by_file.build, BuildSource::File { path: "/srv/web/REVISION".into(), in_place: Some(true) });
    let by_cgroup = parse("{ cgroup = \"/system.slice/x/\" }", "{ from = \"build-id\" }");
    assert_eq!(by_cgroup.matcher.cgroup.as_deref(), Some("/system.slice/x"));
    assert_eq!(by_cgroup.build, BuildSource::BuildId);
    let by_unit = parse("{ unit = \"app@2.service\" }", "{ command = [\"/bin/cat\", \"/srv/VERSION\"] }");
    assert_eq!(by_unit.build, BuildSource::Command(vec!["/bin/cat".into(), "/srv/VERSION".into()]));
}

#[test]
fn an_endpoint_without_a_budget_may_be_a_control() {
    let text =
        format!("{MINIMAL}[[service.endpoint]]\nname = \"health\"\npath = \"/health\"\ncontrol = true\n");
    let config = Config::parse(&text, "c.toml").unwrap();
    let controls: Vec<bool> = config.services[0].endpoints.iter().map(|endpoint| endpoint.control).collect();
    assert_eq!(controls, [false, true]);
}

#[test]
fn durations_and_quantiles() {
    let text = MINIMAL.replace(
        "{ mean_cpu = \"80ms\" }",
        "{ p999_cpu = \"1s 500ms\", p50_cpu = \"20ms\", p95_cpu = \"0.4s\" }",
    );
    let budget = Config::parse(&text, "c.toml").unwrap().services[0].endpoints[0].budget.clone();
    let millis = Duration::from_millis;
    assert_eq!(budget.quantile_cpu, [(0.5, millis(20)), (0.95, millis(400)), (0.999, millis(1500))]);
}

#[test]
fn a_more_specific_path_may_share_requests_with_a_wider_one() {
    let text = format!(
        "{MINIMAL}[[service.endpoint]]\nname = \"any-user\"\npath = \"/users/*\"\n\
         [[service.endpoint]]\nname = \"me\"\npath = \"/users/me\"\n\
         [[service.endpoint]]\nname = \"save-me\"\nmethod = \"PUT\"\npath = \"/users/me\"\n"
    );
    assert_eq!(Config::parse(&text, "c.toml").unwrap().services[0].endpoints.len(), 4);
    assert_eq!(wildcard_mask("/users/*"), 0b10);
    assert_eq!(wildcard_mask("/*/a/*"), 0b101);
    assert_eq!(wildcard_mask("/"), 0);
}

#[test]
fn a_service_without_any_budget_is_measured_with_a_warning() {
    let text = MINIMAL.replace("budget = { mean_cpu = \"80ms\" }\n", "");
    let config = Config::parse(&text, "c.toml").unwrap();
    assert_eq!(
        config.warnings,
        [
            "c.toml:1:1: service[web]: no endpoint has a budget: the service is measured, but nothing can exceed"
        ]
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = MINIMAL
        .replace("\"80ms\"", "80")
        .replace("web.service", "web")
        .replace("[[service]]", "[agent]\nlog = \"inof\"\nlisten = \"0.0.0.0:1\"\n[[service]]\nmood = 1");
    let places: Vec<String> =
        mistakes(&text).iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "2:7: agent.log:",
            "3:10: agent.listen:",
            "5:1: service[web].mood:",
            "7:18: service[web].match.unit:",
            "11:23: service[web].endpoint[login].budget.mean_cpu:",
        ]
    );
}

#[test]
fn a_file_that_watches_nothing() {
    let message = "1:1: there is no [[service]]: nothing would be watched; \
                   add a [[service]] with a name, a match and an endpoint";
    assert_eq!(mistakes(""), [message]);
    assert_eq!(mistakes("[agent]\n"), [message]);
    assert_eq!(mistakes("service = []\n"), ["1:11: service: 0 services; there must be from 1 to 64"]);
}

#[test]
fn several_syntax_errors_are_reported_with_their_places() {
    let found = mistakes("[agent\nlog = \"info\nlisten == 1\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("1:7: not valid TOML: "), "{found:?}");
}

#[test]
fn columns_count_characters() {
    let found = mistakes(&MINIMAL.replace("unit = \"web.service\"", "cmdline = \"größe\", unit = \"web\""));
    assert!(found[0].starts_with("3:37: service[web].match.unit:"), "{found:?}");
}

#[test]
fn files_that_are_no_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let message = |path: &Path| {
        let text = Config::load(path).unwrap_err().to_string();
        text.replace(&directory.path().display().to_string(), "DIR")
    };
    let path = |name: &str| directory.path().join(name);
    assert_eq!(
        message(&path("none.toml")),
        "DIR/none.toml: cannot be read: No such file or directory (os error 2); \
         name the file with --config; the package's default is /etc/load-watchdog/config.toml"
    );
    assert_eq!(message(directory.path()), "DIR: is a directory; name the configuration file itself");
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(message(&path("fifo")), "DIR/fifo: is not a regular file; name the configuration file itself");
    std::fs::write(path("latin1.toml"), b"# a\n# caf\xe9\n").unwrap();
    assert_eq!(
        message(&path("latin1.toml")),
        "DIR/latin1.toml: is not UTF-8 text (line 2); save it as UTF-8"
    );
    std::fs::write(path("huge.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        message(&path("huge.toml")),
        "DIR/huge.toml: is over 1 MiB; name the configuration file itself"
    );
}

#[test]
fn hooks_of_both_kinds_with_all_their_keys() {
    let text = format!(
        r#"{MINIMAL}
[service.rollback]
exec = ["/usr/local/bin/rollback-web"]
user = "deploy"
groups = ["www-data", "docker"]
cwd = "/srv/web"
environment = ["KUBECONFIG=/etc/kube/config", "HTTPS_PROXY", "EMPTY="]
umask = "027"
[service.rollback.pre]
exec = ["/usr/local/bin/lock-deploys"]
timeout = "5s"
retries = 0
[service.rollback.post]
webhook = {{ url = "https://deploy.example:8443/done?x=1", secret_file = "/etc/lw/key", ca_file = "/etc/lw/ca.pem" }}
[service.rollback.escalate]
webhook = {{ url = "https://pager.example/", secret_file = "/etc/lw/key" }}
"#
    );
    let config = Config::parse(&text, "c.toml").unwrap();
    let rollback = config.services[0].rollback.as_ref().unwrap();
    let HookCall::Exec(exec) = &rollback.hook.call else { panic!("{rollback:?}") };
    assert_eq!(exec.groups.as_deref(), Some(&["www-data".to_owned(), "docker".to_owned()][..]));
    assert_eq!((exec.cwd.to_str(), exec.umask), (Some("/srv/web"), 0o27));
    let own = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    assert_eq!(
        exec.environment,
        [own("KUBECONFIG", Some("/etc/kube/config")), own("HTTPS_PROXY", None), own("EMPTY", Some("")),]
    );
    let pre = rollback.pre.as_ref().unwrap();
    assert_eq!((pre.timeout, pre.retries), (Duration::from_secs(5), 0));
    let post = rollback.post.as_ref().unwrap();
    assert_eq!((post.timeout, post.retries), (defaults::HOOK_TIMEOUT, defaults::HOOK_RETRIES));
    let HookCall::Webhook(webhook) = &post.call else { panic!("{post:?}") };
    assert_eq!(webhook.url.uri().path_and_query().unwrap(), "/done?x=1");
    assert_eq!(webhook.ca_file.as_deref(), Some(Path::new("/etc/lw/ca.pem")));
    let keys: Vec<_> = rollback.hooks().map(|(key, _)| key).collect();
    assert_eq!(keys, ["rollback", "rollback.pre", "rollback.post", "rollback.escalate"]);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its owner may");
}

#[test]
fn a_file_that_others_may_write_is_refused_and_so_is_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    set_mode(&path, 0o664);
    let said = Config::load(&path).unwrap_err().to_string();
    assert!(said.contains("chmod go-w") && said.contains("config.toml may be written by others"), "{said}");
    set_mode(&path, 0o644);
    assert!(Config::load(&path).unwrap().warnings.is_empty());
    set_mode(directory.path(), 0o777);
    let said = Config::load(&path).unwrap_err().to_string();
    assert!(said.contains("chmod go-w") && !said.contains("config.toml may be"), "{said}");
}

#[test]
fn a_hook_or_a_key_that_is_open_to_others_is_refused_and_a_missing_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    for name in ["hook", "key", "config.toml"] {
        std::fs::write(file(name), "0123456789abcdef").unwrap();
        set_mode(&file(name), 0o600);
    }
    let (hook, key) = (file("hook"), file("key"));
    let text = format!(
        "{MINIMAL}[service.rollback]\nexec = [\"{}\"]\n\
         post = {{ webhook = {{ url = \"https://x.example\", secret_file = \"{}\" }} }}\n",
        hook.display(),
        key.display()
    );
    std::fs::write(file("config.toml"), text).unwrap();
    let load = || Config::load(&file("config.toml"));
    let unseen = |warning: &&String| warning.contains("cannot run as it is");
    assert_eq!(load().unwrap().warnings.iter().find(unseen), None);

    set_mode(&hook, 0o722);
    set_mode(&key, 0o640);
    let said = load().unwrap_err();
    let keys: Vec<_> = said.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["service[web].rollback.exec", "service[web].rollback.post.webhook.secret_file"]);
    assert!(said.to_string().contains("hook may be written by others"), "{said}");
    assert!(said.to_string().contains("others than its owner may read it"), "{said}");

    std::fs::remove_file(&hook).unwrap();
    set_mode(&key, 0o400);
    let warnings = load().unwrap().warnings;
    let warned: Vec<_> = warnings.iter().filter(unseen).collect();
    assert!(warned.len() == 1 && warned[0].contains("No such file"), "{warnings:?}");
}

#[test]
fn flags_win_over_the_file_and_are_checked_alike() {
    let mut agent = AgentConfig::default();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9999);
    let flags = AgentOverrides {
        listen: Some(address),
        state_dir: Some("/tmp/state".into()),
        min_coverage: Some(0.5),
        ..AgentOverrides::default()
    };
    flags.apply(&mut agent).unwrap();
    assert_eq!((agent.listen, agent.state_dir.as_path()), (address, Path::new("/tmp/state")));
    assert_eq!(agent.control, PathBuf::from(defaults::CONTROL));

    let before = agent.clone();
    let wrong = AgentOverrides {
        listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9847)),
        log: Some("loud".into()),
        control_group: Some("wheel".into()),
        ..AgentOverrides::default()
    };
    assert_eq!(
        wrong.apply(&mut agent).unwrap_err().to_string(),
        "command line: --listen: 0.0.0.0:9847 can be reached from other hosts, but metrics are plain HTTP without a \
         login; listen on \"127.0.0.1:9847\" and let a reverse proxy or an agent on this host pass them on\n\
         command line: --log: \"loud\" is not a log level; it can be `error`, `warn`, `info`, `debug`, `trace` or `off`"
    );
    assert_eq!(agent, before, "nothing changes when a flag is refused");
}
