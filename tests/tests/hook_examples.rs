//! The ready-made hooks of `examples/hooks`: each run as the agent runs it, against the real thing or a stand-in that
//! takes what the tool's documentation has. Which of the two stands in `examples/hooks/README.md`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use watchdog::action::{HookKind, HookOutcome, HookRequest, HookRun, Told, run_once};
use watchdog::config::{ExecConfig, HookCall, HookConfig};
use watchdog_tests::endpoint::{Endpoint, Reply};
use watchdog_tests::servers::{free_port, nginx};
use watchdog_tests::stand_in::{Options, StandIn, Subcommand};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hooks");

/// A folder with a copy of the examples as it is installed, and `bin`, which is first in their `PATH`.
struct Bed {
    folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Self { folder: TempDir::new().unwrap() };
        fs::set_permissions(bed.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(bed.path("bin")).unwrap();
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn secret(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.text(name)
    }

    fn tool(&self, name: &'static str, options: Options, subcommands: &[Subcommand]) -> StandIn {
        StandIn::new(&self.path("bin"), name, options, subcommands).unwrap()
    }

    fn run(&self, example: &str, environment: &[(&str, &str)], request: &HookRequest) -> HookRun {
        let script = self.path(example);
        fs::copy(Path::new(EXAMPLES).join(example), &script).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut exec = ExecConfig::new([self.text(example)]);
        let path = format!("{}:{}", self.text("bin"), std::env::var("PATH").unwrap());
        let environment = environment.iter().copied().chain([("PATH", path.as_str())]);
        exec.environment =
            environment.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).collect();
        let hook = HookConfig { call: HookCall::Exec(exec), timeout: Duration::from_secs(30), retries: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_once(&hook, request))
    }
}

fn request(test: bool) -> HookRequest {
    HookRequest {
        hook: HookKind::Rollback,
        incident: "20170127-7k3f9x2q".into(),
        service: "web".into(),
        endpoint: "login".into(),
        bad_build: "4f2c91e".into(),
        good_build: Some("a91be03".into()),
        reason: "mean CPU 320 ms per request, budget 80 ms".to_owned(),
        attempt: 1,
        test,
        detected_unix_ms: 1_485_500_400_000,
        told: None,
        evidence: json!({ "requests": 14 }),
    }
}

fn told(outcome: &str) -> HookRequest {
    let told = Told { outcome: outcome.to_owned(), note: "after 12 s".to_owned(), repeat: 0 };
    HookRequest { hook: HookKind::Post, told: Some(told), ..request(false) }
}

fn done(run: &HookRun, words: &str) {
    assert_eq!(run.outcome, HookOutcome::Done, "{run:#?}");
    assert!(run.stdout.contains(words), "no {words:?} in {run:#?}");
}

fn failed(run: &HookRun, words: &str) {
    assert!(matches!(run.outcome, HookOutcome::Failed { code: 1 | 2 }), "{run:#?}");
    assert!(run.stderr.contains(words), "no {words:?} in {run:#?}");
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /build HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

#[test]
fn capistrano_flips_the_link_that_a_real_nginx_serves_and_reloads_it() {
    let bed = Bed::new();
    for build in ["4f2c91e", "a91be03", "c0ffee0"] {
        fs::create_dir_all(bed.path(&format!("releases/{build}"))).unwrap();
        fs::write(bed.path(&format!("releases/{build}/build")), build).unwrap();
    }
    symlink("releases/4f2c91e", bed.path("current")).unwrap();
    let port = free_port().unwrap();
    let settings = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr warn; user {};
         events {{}}
         http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
                 uwsgi_temp_path t4; scgi_temp_path t5;
                 server {{ listen 127.0.0.1:{port}; root {}; }} }}",
        nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name,
        bed.text("current"),
    );
    fs::write(bed.path("nginx.conf"), settings).unwrap();
    let mut command = Command::new(nginx().unwrap());
    command.arg("-p").arg(bed.path("")).arg("-c").arg(bed.path("nginx.conf")).args(["-e", "stderr"]);
    let server = Nginx(command.stdin(Stdio::null()).spawn().unwrap());
    wait_until("nginx serves the bad build", || get(port).as_deref() == Some("4f2c91e"));
    let workers = || {
        let of = format!("/proc/{0}/task/{0}/children", server.0.id());
        fs::read_to_string(of).unwrap_or_default()
    };
    let before = workers();

    let (folder, pid_file) = (bed.text(""), bed.text("nginx.pid"));
    let environment = [("DEPLOY_TO", folder.as_str()), ("PID_FILE", pid_file.as_str())];
    done(&bed.run("capistrano.sh", &environment, &request(true)), "would flip");
    assert_eq!((get(port).as_deref(), workers()), (Some("4f2c91e"), before.clone()));

    done(&bed.run("capistrano.sh", &environment, &request(false)), "flipped current from 4f2c91e to a91be03");
    wait_until("nginx serves the good build", || get(port).as_deref() == Some("a91be03"));
    wait_until("nginx has reloaded", || !workers().is_empty() && workers() != before);
    let left = fs::read_dir(bed.path("")).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("current."));
    assert_eq!(left.count(), 0, "the link beside it is left");

    done(&bed.run("capistrano.sh", &environment, &request(false)), "serves already");
    symlink("releases/c0ffee0", bed.path("c")).unwrap();
    fs::rename(bed.path("c"), bed.path("current")).unwrap();
    failed(&bed.run("capistrano.sh", &environment, &request(false)), "somebody has deployed meanwhile");
    assert_eq!(get(port).as_deref(), Some("c0ffee0"));
    let gone = HookRequest { good_build: Some("0000000".into()), ..request(false) };
    failed(&bed.run("capistrano.sh", &environment, &gone), "is gone");
    let outside = HookRequest { good_build: Some("../../etc".into()), ..request(false) };
    failed(&bed.run("capistrano.sh", &environment, &outside), "cannot be a folder");
    failed(&bed.run("capistrano.sh", &[], &request(false)), "set DEPLOY_TO");
}

/// systemctl(1): `systemctl [OPTIONS...] COMMAND [UNIT...]`.
#[test]
fn systemd_instances_are_exchanged() {
    let bed = Bed::new();
    let verb = |words, arguments, flags| Subcommand {
        words,
        arguments,
        valued: &[],
        flags,
        answer: String::new(),
        status: 0,
    };
    let systemctl = bed.tool(
        "systemctl",
        Options::Anywhere,
        &[
            verb(&["cat"], (1, 9), &["--no-pager"]),
            verb(&["start"], (1, 9), &["--no-block", "--wait"]),
            verb(&["is-active"], (1, 9), &["--quiet"]),
            verb(&["stop"], (1, 9), &["--no-block"]),
        ],
    );
    symlink("4f2c91e-x.sock", bed.path("current.sock")).unwrap();
    let sockets = bed.text("");
    let environment = [("TEMPLATE", "web@.service"), ("SOCKETS", sockets.as_str())];
    let request = |test| HookRequest { bad_build: "4f2c91e-x".into(), ..request(test) };
    done(&bed.run("systemd-template.sh", &environment, &request(true)), "would start web@a91be03.service");
    failed(&bed.run("systemd-template.sh", &environment, &request(false)), "does not listen");
    assert_eq!(fs::read_link(bed.path("current.sock")).unwrap().to_str(), Some("4f2c91e-x.sock"));
    let _listener = UnixListener::bind(bed.path("a91be03.sock")).unwrap();
    done(&bed.run("systemd-template.sh", &environment, &request(false)), "web@a91be03.service serves");
    assert_eq!(fs::read_link(bed.path("current.sock")).unwrap().to_str(), Some("a91be03.sock"));
    // The real systemd-escape made the names.
    assert_eq!(
        systemctl.calls(),
        [
            "cat -- web@.service",
            "start -- web@a91be03.service",
            "is-active --quiet -- web@a91be03.service",
            "start -- web@a91be03.service",
            "is-active --quiet -- web@a91be03.service",
            r"stop -- web@4f2c91e\x2dx.service",
        ]
    );
}

/// Real systemd reads the unit; the programs that it starts are not installed here.
#[test]
fn the_template_unit_is_valid() {
    let bed = Bed::new();
    let text = fs::read_to_string(Path::new(EXAMPLES).join("web@.service")).unwrap();
    let text = text.replace("/usr/bin/gunicorn", "/bin/true").replace("User=web", "User=daemon");
    fs::write(bed.path("web@.service"), text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(bed.path("web@.service"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !told.contains("web@"), "{told}");
}

/// `kubectl argo rollouts abort ROLLOUT_NAME [flags]`, `kubectl get TYPE NAME [flags]`.
fn kubectl(bed: &Bed, rollout: &serde_json::Value) -> StandIn {
    const GENERAL: &[&str] = &["--namespace", "-n", "--context", "--kubeconfig"];
    let abort = Subcommand {
        words: &["argo", "rollouts", "abort"],
        arguments: (1, 1),
        valued: GENERAL,
        flags: &[],
        answer: "rollout 'web' aborted".to_owned(),
        status: 0,
    };
    let get = Subcommand {
        words: &["get"],
        arguments: (2, 2),
        valued: &["--namespace", "-n", "--context", "--kubeconfig", "--output", "-o"],
        answer: rollout.to_string(),
        ..abort.clone()
    };
    let version = Subcommand { words: &["argo", "rollouts", "version"], arguments: (0, 0), ..abort.clone() };
    bed.tool("kubectl", Options::Anywhere, &[abort, get, version])
}

#[test]
fn argo_rollouts_are_aborted_while_that_can_be() {
    let environment = [("ROLLOUT", "web"), ("NAMESPACE", "shop")];
    let status = |stable: &str, abort: bool| {
        json!({ "kind": "Rollout", "status":
            { "stableRS": stable, "currentPodHash": "7b54fb9677", "abort": abort, "phase": "Progressing" } })
    };
    let asked = "get rollout web --namespace shop --output json";
    let bed = Bed::new();
    let tool = kubectl(&bed, &status("6c7f8d9b5", false));
    done(&bed.run("argo-rollouts.sh", &environment, &request(true)), "would abort");
    done(&bed.run("argo-rollouts.sh", &environment, &request(false)), "aborted");
    let calls = [asked, "argo rollouts version", asked, "argo rollouts abort web --namespace shop"];
    assert_eq!(tool.calls(), calls);

    let bed = Bed::new();
    let tool = kubectl(&bed, &status("6c7f8d9b5", true));
    done(&bed.run("argo-rollouts.sh", &environment, &request(false)), "aborted already");
    assert_eq!(tool.calls(), [asked]);

    let bed = Bed::new();
    let tool = kubectl(&bed, &status("7b54fb9677", false));
    failed(&bed.run("argo-rollouts.sh", &environment, &request(false)), "fully promoted");
    assert_eq!(tool.calls(), [asked]);
    failed(&bed.run("argo-rollouts.sh", &[], &request(false)), "set ROLLOUT");

    // The cluster does not answer.
    let bed = Bed::new();
    bed.tool("kubectl", Options::Anywhere, &[]);
    let run = bed.run("argo-rollouts.sh", &environment, &request(false));
    assert_eq!(run.outcome, HookOutcome::TryAgain, "{run:?}");
}

/// `nomad job history [options] <job>`, `nomad job revert [options] <job> <version|tag>`.
fn nomad(bed: &Bed, builds: &[(u32, &str)]) -> StandIn {
    const GENERAL: &[&str] = &["-address", "-region", "-namespace", "-token"];
    let job = |(version, build): &(u32, &str)| json!({ "ID": "web", "Version": version, "Stable": true, "Meta": { "build": build } });
    let history: Vec<_> = builds.iter().map(job).collect();
    let revert = Subcommand {
        words: &["job", "revert"],
        arguments: (2, 2),
        valued: GENERAL,
        flags: &["-detach", "-verbose"],
        answer: "==> Monitoring evaluation".to_owned(),
        status: 0,
    };
    let history = Subcommand {
        words: &["job", "history"],
        arguments: (1, 1),
        valued: &["-address", "-region", "-namespace", "-token", "-version", "-t"],
        flags: &["-p", "-full", "-json"],
        answer: json!(history).to_string(),
        status: 0,
    };
    bed.tool("nomad", Options::First, &[revert, history])
}

#[test]
fn nomad_jobs_are_reverted_to_the_good_builds_newest_version() {
    let bed = Bed::new();
    let token = bed.secret("token", "s3cr3t\n");
    let environment = [("JOB", "web"), ("TOKEN_FILE", token.as_str())];
    let tool = nomad(&bed, &[(9, "4f2c91e"), (8, "a91be03"), (7, "older"), (3, "a91be03")]);
    done(&bed.run("nomad.sh", &environment, &request(true)), "would revert job web, which runs 4f2c91e");
    let run = bed.run("nomad.sh", &environment, &request(false));
    done(&run, "Monitoring");
    assert_eq!(tool.calls(), ["job history -json web", "job history -json web", "job revert web 8"]);

    for (builds, words) in [
        (&[(10, "third"), (9, "4f2c91e"), (8, "a91be03")][..], "neither 4f2c91e nor a91be03"),
        (&[(9, "4f2c91e"), (7, "older")], "no version of job web has build = a91be03"),
    ] {
        let bed = Bed::new();
        let tool = nomad(&bed, builds);
        failed(&bed.run("nomad.sh", &environment[..1], &request(false)), words);
        assert_eq!(tool.calls().len(), 1);
    }
    let bed = Bed::new();
    nomad(&bed, &[(10, "a91be03"), (9, "4f2c91e")]);
    done(&bed.run("nomad.sh", &environment[..1], &request(false)), "already");
}

/// `helm history RELEASE_NAME [flags]`, `helm rollback <RELEASE> [REVISION] [flags]`.
fn helm(bed: &Bed, revisions: &[(u32, &str, &str)]) -> StandIn {
    let revision = |(revision, build, status): &(u32, &str, &str)| {
        json!({ "revision": revision, "updated": "2026-11-20T10:15:13Z", "status": status,
                "chart": "web-0.1.0", "app_version": build, "description": "Upgrade complete" })
    };
    let history: Vec<_> = revisions.iter().map(revision).collect();
    let rollback = Subcommand {
        words: &["rollback"],
        arguments: (1, 2),
        valued: &["--namespace", "-n", "--kubeconfig", "--kube-context", "--timeout", "--history-max"],
        flags: &["--wait", "--wait-for-jobs", "--cleanup-on-fail", "--dry-run", "--force", "--no-hooks"],
        answer: "Rollback was a success! Happy Helming!".to_owned(),
        status: 0,
    };
    let history = Subcommand {
        words: &["history"],
        arguments: (1, 1),
        valued: &["--namespace", "-n", "--kubeconfig", "--kube-context", "--max", "--output", "-o"],
        flags: &[],
        answer: json!(history).to_string(),
        status: 0,
    };
    bed.tool("helm", Options::Anywhere, &[rollback, history])
}

#[test]
fn helm_releases_are_rolled_back_to_a_revision_that_worked() {
    let environment = [("RELEASE", "web"), ("NAMESPACE", "shop")];
    let asked = "history web --namespace shop --output json";
    let bed = Bed::new();
    let tool =
        helm(&bed, &[(3, "a91be03", "superseded"), (4, "a91be03", "failed"), (5, "4f2c91e", "deployed")]);
    done(&bed.run("helm.sh", &environment, &request(true)), "which is at 4f2c91e deployed");
    done(&bed.run("helm.sh", &environment, &request(false)), "success");
    let rolled = "rollback web 3 --namespace shop --wait --timeout 120s";
    assert_eq!(tool.calls(), [asked, asked, rolled]);

    for (revisions, words) in [
        (&[(5, "4f2c91e", "superseded"), (6, "third", "deployed")][..], "neither 4f2c91e nor a91be03"),
        (&[(4, "a91be03", "failed"), (5, "4f2c91e", "deployed")], "no revision of release web"),
    ] {
        let bed = Bed::new();
        let tool = helm(&bed, revisions);
        failed(&bed.run("helm.sh", &environment, &request(false)), words);
        assert_eq!(tool.calls(), [asked]);
    }
    let bed = Bed::new();
    helm(&bed, &[(5, "4f2c91e", "superseded"), (6, "a91be03", "deployed")]);
    done(&bed.run("helm.sh", &environment, &request(false)), "already");
}

#[test]
fn a_github_deployment_gets_its_status_and_the_token_stays_out_of_sight() {
    let bed = Bed::new();
    let token = bed.secret("token", "ghp_s3cr3t\n");
    // As docs.github.com has it: GET and POST below /repos/OWNER/REPO/deployments.
    let endpoint = Endpoint::start(|seen| {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if seen.header("authorization") != Some("Bearer ghp_s3cr3t") {
            return Reply::Answer(401, json!({ "message": "Bad credentials" }).to_string());
        }
        match (seen.method.as_str(), path) {
            ("GET", "/repos/shop/web/deployments") if query.contains("sha=0ld") => {
                Reply::Answer(200, "[]".to_owned())
            }
            ("GET", "/repos/shop/web/deployments") => {
                Reply::Answer(200, json!([{ "id": 42, "sha": "4f2c91e" }, { "id": 41 }]).to_string())
            }
            ("POST", "/repos/shop/web/deployments/42/statuses") => {
                Reply::Answer(201, json!({ "id": 1, "state": seen.json()["state"] }).to_string())
            }
            _ => Reply::Answer(404, json!({ "message": "Not Found" }).to_string()),
        }
    })
    .unwrap();
    let (api, ca_file) = (endpoint.url(""), endpoint.ca_file().to_str().unwrap().to_owned());
    let mut environment = vec![
        ("REPOSITORY", "shop/web"),
        ("ENVIRONMENT", "production"),
        ("TOKEN_FILE", token.as_str()),
        ("GITHUB_API", api.as_str()),
        ("CURL_CA_BUNDLE", ca_file.as_str()),
    ];
    done(&bed.run("github-deployment.sh", &environment, &request(true)), "can be read");
    done(&bed.run("github-deployment.sh", &environment, &told("recovered")), "deployment 42 is failure");
    done(&bed.run("github-deployment.sh", &environment, &told("escalated")), "deployment 42 is error");
    let unknown = HookRequest { bad_build: "0ld".into(), ..told("recovered") };
    done(&bed.run("github-deployment.sh", &environment, &unknown), "knows no deployment");
    let seen = endpoint.seen();
    assert_eq!(seen.len(), 1 + 2 + 2 + 1);
    assert_eq!(seen[1].path, "/repos/shop/web/deployments?sha=4f2c91e&environment=production");
    let status = seen[2].json();
    let said = "load-watchdog: recovered: mean CPU 320 ms per request, budget 80 ms";
    assert_eq!((&status["state"], &status["description"]), (&"failure".into(), &said.into()));
    assert_eq!(seen[2].header("x-github-api-version"), Some("2022-11-28"));

    let wrong = bed.secret("wrong", "ghp_other");
    environment[2].1 = &wrong;
    let run = bed.run("github-deployment.sh", &environment, &told("recovered"));
    failed(&run, "GitHub answered 401: Bad credentials");
    assert!(!format!("{run:?}").contains("ghp_"));
}

#[test]
fn a_message_reaches_slack_escaped_and_the_address_stays_out_of_sight() {
    let bed = Bed::new();
    // Slack answers "ok", and 400 with a word for what it does not take.
    let endpoint = Endpoint::start(|seen| match seen.path.as_str() {
        "/services/T0/B0/s3cr3t" if seen.json()["text"].is_string() => Reply::Answer(200, "ok".to_owned()),
        "/services/T0/B0/s3cr3t" => Reply::Answer(400, "no_text".to_owned()),
        "/busy" => Reply::Answer(429, "rate_limited".to_owned()),
        _ => Reply::Answer(404, "no_service".to_owned()),
    })
    .unwrap();
    let ca_file = endpoint.ca_file().to_str().unwrap().to_owned();
    let run = |path: &str, request: &HookRequest| {
        let url = bed.secret("url", &(endpoint.url(path) + "\n"));
        bed.run("slack.sh", &[("URL_FILE", &url), ("CURL_CA_BUNDLE", &ca_file)], request)
    };
    let ours = HookRequest { bad_build: "<!channel> & \"co\"".into(), ..told("recovered") };
    done(&run("/services/T0/B0/s3cr3t", &ours), "posted");
    let text = endpoint.seen()[0].json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with(":white_check_mark: rolled back: web / login\n"), "{text}");
    assert!(text.contains("bad build &lt;!channel&gt; &amp; \"co\", good build a91be03\n"), "{text}");
    assert!(text.contains("after 12 s") && text.ends_with("incident 20170127-7k3f9x2q"), "{text}");
    done(&run("/services/T0/B0/s3cr3t", &request(true)), "posted");
    assert!(endpoint.seen()[1].json()["text"].as_str().unwrap().starts_with("[test] "));
    let alone = HookRequest { good_build: None, ..told("escalated") };
    done(&run("/services/T0/B0/s3cr3t", &alone), "posted");
    let text = endpoint.seen()[2].json()["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with(":rotating_light: escalated") && text.contains("good build none"), "{text}");

    assert_eq!(run("/busy", &told("recovered")).outcome, HookOutcome::TryAgain);
    let run = run("/services/gone/s3cr3t", &told("recovered"));
    failed(&run, "the webhook answered 404: no_service");
    assert!(!format!("{run:?}").contains("s3cr3t"));
}
