//! Hooks that are HTTPS requests, against a real TLS server that behaves and misbehaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use watchdog::action::{HookKind, HookOutcome, HookRequest, HookRun, run_hook, run_once};
use watchdog::config::{HookCall, HookConfig, HookUrl, WebhookConfig};
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{BAD_US, BASELINE, GOOD_US, site_or_skip};
use watchdog_tests::endpoint::{Endpoint, Named, Reply, Seen};
use watchdog_tests::harness::executable;

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// In the address, where webhooks often have their secret.
const TOKEN: &str = "T0KEN-in-the-path";

/// A folder with the key of the signature.
struct Bed {
    folder: TempDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Self { folder: TempDir::new().unwrap() };
        bed.write_key(KEY, 0o600);
        bed
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn write_key(&self, key: &str, mode: u32) {
        fs::write(self.key(), format!("{key}\n")).unwrap();
        fs::set_permissions(self.key(), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn hook(&self, url: &str, ca_file: &Path) -> HookConfig {
        HookConfig {
            call: HookCall::Webhook(WebhookConfig {
                url: HookUrl::parse(url).unwrap(),
                secret_file: self.key(),
                ca_file: Some(ca_file.to_owned()),
            }),
            timeout: Duration::from_secs(10),
            retries: 2,
        }
    }

    fn of(&self, endpoint: &Endpoint) -> HookConfig {
        self.hook(&endpoint.url(&format!("/hooks/{TOKEN}?a=1")), &endpoint.ca_file())
    }
}

fn request() -> HookRequest {
    HookRequest {
        hook: HookKind::Rollback,
        incident: "20170127-7k3f9x2q".into(),
        service: "web".into(),
        endpoint: "login".into(),
        bad_build: "v2 \"quoted\" \u{e9}".into(),
        good_build: Some("v1".into()),
        reason: "mean CPU 320 ms per request, budget 80 ms".to_owned(),
        attempt: 1,
        test: false,
        detected_unix_ms: 1_485_500_400_000,
        told: None,
        evidence: json!({ "requests": 14 }),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn once(hook: &HookConfig) -> HookRun {
    block_on(run_once(hook, &request()))
}

/// Why an endpoint is said not to have confirmed, and whether another attempt may follow.
fn refusal(run: &HookRun) -> (&str, bool) {
    match &run.outcome {
        HookOutcome::NotConfirmed { why, again } => (why, *again),
        other => panic!("{other:?}"),
    }
}

/// Nothing that is told anywhere holds a secret.
fn keeps_secrets(hook: &HookConfig, run: &HookRun) {
    let told = format!("{hook:?} {run:?} {} {}", run.outcome, serde_json::to_string(run).unwrap());
    for secret in [KEY, TOKEN] {
        assert!(!told.contains(secret), "{told}");
    }
}

/// HMAC-SHA256 by another implementation, base64.
fn hmac_by_python(key: &str, text: &[u8]) -> String {
    let program = "import base64, hmac, sys; key = sys.argv[1].encode(); text = sys.stdin.buffer.read(); \
                   print(base64.b64encode(hmac.new(key, text, 'sha256').digest()).decode())";
    let mut python = Command::new("python3")
        .args(["-c", program, key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text).unwrap();
    let output = python.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_request_is_the_payload_signed_and_named() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|_| Reply::Answer(202, "accepted".to_owned())).unwrap();
    let hook = bed.of(&endpoint);
    let run = once(&hook);
    assert_eq!((&run.outcome, run.stdout.as_str()), (&HookOutcome::Done, "accepted"), "{run:?}");
    keeps_secrets(&hook, &run);

    let [seen] = &endpoint.seen()[..] else { panic!("one request: {:?}", endpoint.seen()) };
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/hooks/T0KEN-in-the-path?a=1"));
    let header = |name| seen.header(name).unwrap_or_else(|| panic!("no single {name}: {seen:?}"));
    assert_eq!(header("host"), format!("127.0.0.1:{}", endpoint.port()));
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("idempotency-key"), "20170127-7k3f9x2q-rollback");
    assert_eq!(header("webhook-id"), header("idempotency-key"));
    let timestamp: u64 = header("webhook-timestamp").parse().unwrap();
    let now = fs::metadata(bed.key()).unwrap().modified().unwrap();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(timestamp.abs_diff(now) < 60, "{timestamp} is not the time");
    let signed = [format!("{}.{timestamp}.", header("webhook-id")).as_bytes(), &seen.body].concat();
    assert_eq!(header("webhook-signature"), format!("v1,{}", hmac_by_python(KEY, &signed)));

    let payload = seen.json();
    assert_eq!((&payload["version"], &payload["hook"]), (&1.into(), &"rollback".into()));
    assert_eq!((&payload["bad_build"], &payload["attempt"]), (&"v2 \"quoted\" \u{e9}".into(), &1.into()));
    assert_eq!(payload["evidence"]["requests"], 14);
}

#[test]
fn answers_are_told_apart_by_their_status() {
    let bed = Bed::new();
    let status = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&status);
    let endpoint = Endpoint::start(move |_| {
        Reply::Answer(u16::try_from(told.load(Ordering::Relaxed)).unwrap(), "why".to_owned())
    })
    .unwrap();
    let hook = bed.of(&endpoint);
    let cases = [
        (200, None),
        (204, None),
        (300, Some(false)),
        (301, Some(false)),
        (302, Some(false)),
        (303, Some(false)),
        (400, Some(false)),
        (401, Some(false)),
        (404, Some(false)),
        (408, Some(true)),
        (409, Some(false)),
        (429, Some(true)),
        (500, Some(true)),
        (501, Some(true)),
        (503, Some(true)),
    ];
    for (code, again) in cases {
        status.store(code, Ordering::Relaxed);
        let run = once(&hook);
        let found = match &run.outcome {
            HookOutcome::Done => None,
            _ => Some(refusal(&run).1),
        };
        assert_eq!(found, again, "{code}: {run:?}");
        assert_eq!(run.outcome.asks_again(), again == Some(true));
        if again.is_some() {
            assert!(refusal(&run).0.contains(&code.to_string()), "{run:?}");
            assert_eq!(run.stdout, "why");
        }
        keeps_secrets(&hook, &run);
    }
}

#[test]
fn passing_trouble_is_tried_again_under_the_same_key_and_signed_anew() {
    let bed = Bed::new();
    let count = AtomicU32::new(0);
    let endpoint = Endpoint::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::Answer(500, String::new()),
        1 => Reply::Hangup,
        _ => Reply::Answer(200, "at last".to_owned()),
    })
    .unwrap();
    let run = block_on(run_hook(&bed.of(&endpoint), &request()));
    assert_eq!((&run.outcome, run.stdout.as_str()), (&HookOutcome::Done, "at last"));
    let seen = endpoint.seen();
    let attempts: Vec<_> = seen.iter().map(|seen| seen.json()["attempt"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let one = |name: &str| {
        let mut values: Vec<_> = seen.iter().map(|seen| seen.header(name).unwrap()).collect();
        values.dedup();
        values.len()
    };
    assert_eq!((one("idempotency-key"), one("webhook-id")), (1, 1));
    assert_eq!((one("webhook-timestamp"), one("webhook-signature")), (3, 3));
}

#[test]
fn a_refusal_for_good_is_not_tried_again() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|_| Reply::Answer(403, "who are you".to_owned())).unwrap();
    let begin = Instant::now();
    let run = block_on(run_hook(&bed.of(&endpoint), &request()));
    assert!(!refusal(&run).1 && endpoint.seen().len() == 1, "{run:?}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn an_endpoint_that_is_slow_is_given_its_time_and_no_more() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|_| Reply::Late(Duration::from_millis(700))).unwrap();
    let mut hook = bed.of(&endpoint);
    assert_eq!(once(&hook).stdout, "late");
    hook.timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let run = once(&hook);
    assert!(begin.elapsed() < Duration::from_millis(650), "{:?}", begin.elapsed());
    let (why, again) = refusal(&run);
    assert!(again && why.contains("did not answer within 300 ms"), "{run:?}");
    keeps_secrets(&hook, &run);
}

#[test]
fn an_endpoint_that_breaks_off_has_not_confirmed() {
    let bed = Bed::new();
    for (reply, words) in
        [(Reply::CutOff, "in the middle of its answer"), (Reply::Hangup, "broke the exchange off")]
    {
        let endpoint = Endpoint::start(move |_| reply.clone()).unwrap();
        let hook = bed.of(&endpoint);
        let run = once(&hook);
        let (why, again) = refusal(&run);
        assert!(again && why.contains(words), "{run:?}");
        keeps_secrets(&hook, &run);
    }
    // Nobody listens there any more.
    let endpoint = Endpoint::start(|_| Reply::Hangup).unwrap();
    let hook = bed.of(&endpoint);
    let ca_file = bed.folder.path().join("ca.pem");
    fs::copy(endpoint.ca_file(), &ca_file).unwrap();
    let url = endpoint.url("/");
    drop(endpoint);
    let run = once(&bed.hook(&url, &ca_file));
    assert!(refusal(&run).1 && refusal(&run).0.contains("cannot be reached"), "{run:?}");
    // Its certificates went with it.
    assert!(matches!(once(&hook).outcome, HookOutcome::NotStarted { .. }));
}

#[test]
fn a_flood_is_cut() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|_| Reply::Flood(50_000_000)).unwrap();
    let run = once(&bed.of(&endpoint));
    assert_eq!((&run.outcome, run.stdout.len()), (&HookOutcome::Done, 64 * 1024));
    assert!(run.notes[0].contains("longer than 64 KiB"), "{:?}", run.notes);
}

#[test]
fn redirects_are_followed_on_the_same_host_only() {
    let bed = Bed::new();
    let elsewhere = Endpoint::start(|_| Reply::Answer(200, "stolen".to_owned())).unwrap();
    let (other_port, by_name) = (elsewhere.url("/x"), format!("https://localhost:{}/x", elsewhere.port()));
    for location in [other_port, by_name, "//other.example/x".to_owned(), "http://127.0.0.1/x".to_owned()] {
        let target = location.clone();
        let endpoint = Endpoint::start(move |_| Reply::Redirect(307, target.clone())).unwrap();
        let hook = bed.of(&endpoint);
        let run = once(&hook);
        let (why, again) = refusal(&run);
        assert!(!again && why.contains("redirects to"), "{location}: {run:?}");
        assert_eq!(endpoint.seen().len(), 1, "{location}");
        keeps_secrets(&hook, &run);
    }
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());

    // From one path to another of the same host, with all of the request.
    let endpoint = Endpoint::start(|seen| match seen.path.as_str() {
        "/new" => Reply::Answer(200, "here".to_owned()),
        "/turning" => Reply::Redirect(308, "/turning".to_owned()),
        _ => Reply::Redirect(308, "/new".to_owned()),
    })
    .unwrap();
    let run = once(&bed.of(&endpoint));
    assert_eq!((&run.outcome, run.stdout.as_str()), (&HookOutcome::Done, "here"), "{run:?}");
    let seen = endpoint.seen();
    assert_eq!((seen.len(), &seen[0].body), (2, &seen[1].body));
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));

    let run = once(&bed.hook(&endpoint.url("/turning"), &endpoint.ca_file()));
    assert!(!refusal(&run).1 && refusal(&run).0.contains("again and again"), "{run:?}");
    assert_eq!(endpoint.seen().len(), 2 + 4);
}

#[test]
fn an_endpoint_that_cannot_prove_who_it_is_gets_nothing() {
    let bed = Bed::new();
    let confirm = |_: &_| Reply::Answer(200, String::new());
    let trusted = Endpoint::start(confirm).unwrap();
    for named in [Named::Otherwise, Named::Formerly] {
        let endpoint = Endpoint::start_as(named, confirm).unwrap();
        let run = once(&bed.of(&endpoint));
        let (why, again) = refusal(&run);
        assert!(!again && why.contains("is not trusted"), "{named:?}: {run:?}");
        assert!(endpoint.seen().is_empty(), "{named:?}");
    }
    // Right in itself, but signed by nobody who is trusted: by another file, and by the system.
    let other = Endpoint::start(confirm).unwrap();
    let run = once(&bed.hook(&trusted.url("/"), &other.ca_file()));
    assert!(!refusal(&run).1 && refusal(&run).0.contains("is not trusted"), "{run:?}");
    let mut hook = bed.of(&trusted);
    let HookCall::Webhook(webhook) = &mut hook.call else { panic!("a webhook") };
    webhook.ca_file = None;
    let run = once(&hook);
    let refused = match &run.outcome {
        HookOutcome::NotConfirmed { why, again: false } => why.contains("is not trusted"),
        // A host without certificates of its own.
        HookOutcome::NotStarted { why } => why.contains("no trusted certificates"),
        _ => false,
    };
    assert!(refused, "{run:?}");
    assert!(trusted.seen().is_empty());
}

#[test]
fn a_key_that_others_may_read_signs_nothing() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|_| Reply::Answer(200, String::new())).unwrap();
    let hook = bed.of(&endpoint);
    let why_not = || match once(&hook).outcome {
        HookOutcome::NotStarted { why } => why,
        other => panic!("{other:?}"),
    };
    bed.write_key(KEY, 0o644);
    assert!(why_not().contains("others than its owner may read it"), "{}", why_not());
    bed.write_key("short", 0o600);
    assert!(why_not().contains("fewer than 16 bytes"), "{}", why_not());
    fs::remove_file(bed.key()).unwrap();
    assert!(why_not().contains("No such file"), "{}", why_not());
    fs::write(bed.key(), KEY).unwrap();
    fs::set_permissions(bed.key(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(bed.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(why_not().contains("may be written by others"), "{}", why_not());
    assert!(endpoint.seen().is_empty());
}

#[test]
fn the_command_line_tries_a_webhook_out() {
    let bed = Bed::new();
    let endpoint = Endpoint::start(|seen| match seen.json()["hook"].as_str() {
        Some("rollback") => Reply::Answer(200, "I would".to_owned()),
        _ => Reply::Answer(418, "I am a teapot".to_owned()),
    })
    .unwrap();
    let webhook = format!(
        "webhook = {{ url = \"{}\", secret_file = \"{}\", ca_file = \"{}\" }}",
        endpoint.url(&format!("/{TOKEN}")),
        bed.key().display(),
        endpoint.ca_file().display()
    );
    let config = bed.folder.path().join("config.toml");
    let text = format!(
        "[[service]]\nname = \"web\"\nmatch = {{ listen = 1 }}\n[[service.endpoint]]\nname = \"login\"\n\
         path = \"/login\"\nbudget = {{ mean_cpu = \"5ms\" }}\n\
         [service.rollback]\n{webhook}\n[service.rollback.escalate]\n{webhook}\n"
    );
    fs::write(&config, text).unwrap();
    let tried = |hook: &[&str]| {
        let mut command = Command::new(executable("load-watchdog").unwrap());
        command.args(["hook", "test", "web", "--config"]).arg(&config).args(hook);
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).unwrap())
    };
    let (code, told) = tried(&[]);
    assert!(code == Some(0) && told.contains("I would"), "{code:?} {told}");
    let (code, told) = tried(&["--hook", "escalate"]);
    assert!(code == Some(1) && told.contains("418") && told.contains("teapot"), "{code:?} {told}");
    let (code, told) = tried(&["--hook", "pre"]);
    assert!(code == Some(64) && told.contains("[service.rollback.pre]"), "{code:?} {told}");
    let seen = endpoint.seen();
    assert_eq!((seen.len(), &seen[0].json()["test"]), (2, &true.into()));
    assert_eq!(seen[1].json()["outcome"], "escalated");
    assert!(!told.contains(TOKEN), "{told}");
}

/// The whole way: the agent finds the bad build, sends the request, and sees that what received it has rolled back.
#[test]
fn a_webhook_brings_the_good_build_back() {
    let Some(site) = site_or_skip() else { return };
    let bed = Bed::new();
    let (receiver, count) = (site.clone(), AtomicU32::new(0));
    let endpoint = Endpoint::start(move |seen| {
        if seen.json()["hook"] == "rollback" && count.fetch_add(1, Ordering::Relaxed) == 0 {
            return Reply::Answer(503, "not yet".to_owned());
        }
        let switched = receiver.switch(seen.json()["good_build"].as_str().unwrap_or_default());
        Reply::Answer(if switched.is_ok() { 200 } else { 500 }, "switched".to_owned())
    })
    .unwrap();
    let mut web = site.web().unwrap();
    web.hook = None;
    web.more = format!(
        "[service.rollback]\nverify_within = \"20s\"\nwebhook = {{ url = \"{}\", secret_file = \"{}\", ca_file = \"{}\" }}",
        endpoint.url(&format!("/{TOKEN}")),
        bed.key().display(),
        endpoint.ca_file().display()
    );
    site.configure(&[web]).unwrap();
    let _good = site.deploy("good", GOOD_US).unwrap();
    let agent = Agent::start(&site).unwrap();
    site.visit(BASELINE).unwrap();
    let load = site.visit_at(60.0).unwrap();
    let _bad = site.deploy("bad", BAD_US).unwrap();
    let ended = &watchdog_tests::agent::ENDED;
    let incident = agent.wait_for_incident(ended, Duration::from_secs(30)).unwrap();
    assert_eq!(incident.state, "recovered", "{:#?}", agent.incident(&incident.id).unwrap());
    load.stop();
    assert_eq!(load.wait().failures, 0);
    let key = format!("{}-rollback", incident.id);
    let key_of = |seen: &Seen| seen.header("idempotency-key").unwrap().to_owned();
    let keys: Vec<_> = endpoint.seen().iter().map(key_of).collect();
    assert_eq!(keys, [key.clone(), key]);
    let told = fs::read_to_string(site.log()).unwrap()
        + &serde_json::to_string(&agent.incident(&incident.id).unwrap()).unwrap();
    assert!(!told.contains(KEY) && !told.contains(TOKEN), "{told}");
}
