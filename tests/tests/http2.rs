//! HTTP/2: its requests are counted by endpoint, to the last one where the agent was there before the connections, and
//! never charged: what they cost, the estimate tells.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use watchdog::clock::mono_ns;
use watchdog::control::EndpointStatus;
use watchdog::kernel::tick::StreamRequest;
use watchdog::kernel::{EndpointPattern, Kernel, KernelOptions, Uprobes};
use watchdog_common::types::Loss;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::site::{Service, site_or_skip};
use watchdog_tests::burn::stats::Cost;
use watchdog_tests::harness::executable;
use watchdog_tests::load::{LoadOptions, LoadReport, Step, Target, run};
use watchdog_tests::servers::{self, Session, Trial};
use watchdog_tests::skip::kernel_or_skip;
use watchdog_tests::window::{Watched, Window, losses_told};

/// Of the process's CPU, what may be given to requests.
const MISGIVEN: f64 = 0.01;
/// The endpoints of [`Session`], by their numbers.
const LOGIN: u16 = 1;
const BROWSE: u16 = 2;
const REPORT: u16 = 3;
/// Most of the 50 ms that the application sleeps on a report.
const SLEEP_NS: u64 = 45_000_000;

fn kernel() -> Option<Kernel> {
    kernel_or_skip(&KernelOptions { uprobes: Uprobes::ALL, ..KernelOptions::default() })
}

/// How many requests of each endpoint were seen.
fn counts(requests: &[StreamRequest]) -> BTreeMap<Option<u16>, u64> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request.endpoint).or_default() += 1;
    }
    counts
}

fn is_counted(name: &str) {
    let Some(mut kernel) = kernel() else { return };
    let server = servers::named(name).unwrap_or_else(|error| panic!("{error:#}"));
    let session = Session::open(&mut kernel, server).unwrap_or_else(|error| panic!("{error:#}"));
    for keep_alive in [true, false] {
        let trial = Trial { concurrency: 16, keep_alive, requests: 320, contended: false, distant: false };
        let outcome =
            session.run(&mut kernel, trial).unwrap_or_else(|error| panic!("{name}, {trial}: {error:#}"));
        let told = outcome.told(server);
        let report = &outcome.report;
        println!("{name}, {trial}: {:?}, {}", counts(&outcome.streams), losses_told(&outcome.losses));
        assert_eq!((report.requests, report.failures), (320, 0), "{name}, {trial}: {:?}", report.failed);
        if keep_alive {
            assert!(report.connects <= 2, "{} connections for 16 requests at a time", report.connects);
        }
        let logins = report.count("login") + report.count("unknown");
        let expected = [(LOGIN, logins), (BROWSE, report.count("browse")), (REPORT, report.count("report"))];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(endpoint, n)| (Some(endpoint), n)).collect();
        assert_eq!(counts(&outcome.streams), expected, "{name}, {trial}\n{told}");
        for loss in [Loss::Http2, Loss::StreamRingFull, Loss::UnreadableBuffer] {
            assert_eq!(outcome.losses[loss as usize], 0, "{name}, {trial}: {}", loss.label());
        }
        // They end when their answers do, not when they begin.
        let slept = |one: &&StreamRequest| one.ended_mono_ns - one.began_mono_ns >= SLEEP_NS;
        let reports = outcome.streams.iter().filter(|one| one.endpoint == Some(REPORT));
        if !name.starts_with("nginx") {
            assert_eq!(reports.filter(slept).count() as u64, report.count("report"), "{name}, {trial}");
        }
        let conservation = &outcome.account.conservation;
        let given = conservation.attributed_ns as f64 / conservation.process_ns as f64;
        assert!(given <= MISGIVEN, "{name}, {trial}: {:.1} % of the CPU given away\n{told}", 100.0 * given);
    }
    session.close(&mut kernel).unwrap();
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn node_in_clear_is_counted() {
    is_counted("node-h2c");
}

#[test]
fn node_over_tls_is_counted() {
    is_counted("node-h2");
}

#[test]
fn go_in_clear_is_counted() {
    is_counted("go-h2c");
}

#[test]
fn go_over_tls_is_counted() {
    is_counted("go-h2");
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn debians_go_over_tls_is_counted() {
    is_counted("go-debian-h2");
}

#[test]
fn nginx_is_counted() {
    is_counted("nginx-h2c");
}

fn load(target: &Target, steps: Vec<Step>, requests: u64) -> LoadReport {
    let options =
        LoadOptions { concurrency: 8, keep_alive: true, ..LoadOptions::new(target.clone(), steps, requests) };
    let report = run(options).unwrap();
    assert_eq!(report.failures, 0, "{:?}", report.failed);
    report
}

/// A client that names its path once and refers to it from then on, as browsers do; others send it each time.
struct Indexing {
    stream: TcpStream,
    next: u32,
}

impl Indexing {
    fn connect(target: &Target) -> Self {
        let Target::Http2 { address, tls: false } = *target else { panic!("{target:?}") };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        // SETTINGS, and room for all answers.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        stream.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x3f, 0, 0, 0]).unwrap();
        Self { stream, next: 1 }
    }

    /// GET, http, and the header's other fields; returns once the answer is complete.
    fn get(&mut self, fields: &[u8]) {
        let length = u8::try_from(fields.len() + 2).unwrap();
        let mut frame = vec![0, 0, length, 1, 5];
        frame.extend(self.next.to_be_bytes());
        frame.extend([0x82, 0x86]);
        frame.extend(fields);
        self.stream.write_all(&frame).unwrap();
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).unwrap();
            let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
            let read = std::io::copy(&mut (&self.stream).take(length), &mut std::io::sink()).unwrap();
            assert_eq!(read, length);
            assert!(!matches!(head[3], 3 | 7), "the server breaks off: {head:?}");
            if head[3] < 2 && head[4] & 1 == 1 && head[5..] == self.next.to_be_bytes() {
                break;
            }
        }
        self.next += 2;
    }
}

/// `:authority` and `:path`, to be remembered; and the references to them.
const NAMED: &[u8] = b"\x41\x09localhost\x44\x07/browse";
const REFERRED: &[u8] = &[0xbf, 0xbe];

#[test]
fn a_connection_that_is_older_than_the_agent_is_counted_and_said_to_be_unreadable_in_part() {
    const REQUESTS: u64 = 200;
    let Some(mut kernel) = kernel() else { return };
    let running = (servers::named("node-h2c").unwrap().start)().unwrap();
    let patterns = [EndpointPattern { index: 1, method: None, path: "/browse".to_owned() }];
    let mut client = Indexing::connect(&running.target);
    client.get(NAMED);
    let watched = Watched::open(&mut kernel, 0, &patterns, &running.roots).unwrap();
    let window = Window::open(&mut kernel, &[watched.slot]).unwrap();
    (0..REQUESTS).for_each(|_| client.get(REFERRED));
    let seen = window.close(&mut kernel).unwrap();
    let blind_of = |kernel: &mut Kernel| {
        let blind = kernel.tick(mono_ns()).unwrap().blind;
        blind.into_iter().find(|(slot, _)| *slot == watched.slot).unwrap().1
    };
    let blind = blind_of(&mut kernel);
    println!("{:?}, {blind:?}, {}", counts(&seen.streams), losses_told(&seen.losses));
    // What the path is that it refers to was told before.
    assert_eq!(counts(&seen.streams), [(None, REQUESTS)].into());
    assert_eq!(seen.losses[Loss::Http2 as usize], REQUESTS);
    assert!(blind.http2_bytes > 0 && blind.readable_bytes == 0, "{blind:?}");

    // What is named anew on the same connection is known, and so is all of one that is made now.
    let window = Window::open(&mut kernel, &[watched.slot]).unwrap();
    client.get(NAMED);
    (0..REQUESTS).for_each(|_| client.get(REFERRED));
    let mut new = Indexing::connect(&running.target);
    new.get(NAMED);
    (0..REQUESTS).for_each(|_| new.get(REFERRED));
    let seen = window.close(&mut kernel).unwrap();
    assert_eq!(counts(&seen.streams), [(Some(1), 2 * (REQUESTS + 1))].into());
    // A thread of node that was asleep when it was first watched may begin a slice unseen; no request has to do with it.
    let lost: u64 = Loss::ALL
        .iter()
        .filter(|loss| **loss != Loss::SliceUnknown)
        .map(|loss| seen.losses[*loss as usize])
        .sum();
    assert_eq!(lost, 0, "{}", losses_told(&seen.losses));
    assert_eq!(blind_of(&mut kernel).http2_bytes, blind.http2_bytes);
    watched.release(&mut kernel).unwrap();
}

#[test]
fn connections_are_forgotten_when_they_are_closed() {
    let Some(mut kernel) = kernel() else { return };
    let session = Session::open(&mut kernel, servers::named("node-h2c").unwrap()).unwrap();
    let trial = Trial { concurrency: 8, keep_alive: false, requests: 100, contended: false, distant: false };
    let outcome = session.run(&mut kernel, trial).unwrap();
    assert_eq!(outcome.streams.len(), 100);
    std::thread::sleep(Duration::from_millis(300));
    kernel.tick(mono_ns()).unwrap();
    let (connections, bytes) = kernel.streams_held();
    assert!(connections <= 2, "{connections} connections are remembered in {bytes} bytes");
    session.close(&mut kernel).unwrap();
}

/// The first 5 s of a process are left out, and the estimate needs 24 windows of a second.
const SECONDS_OF_LOAD: u64 = 40;
const SEEN_WITHIN: Duration = Duration::from_secs(40);

fn endpoint(agent: &Agent, name: &str) -> EndpointStatus {
    let build = agent.build("web", "good").unwrap().expect("the build is known");
    build.endpoints.into_iter().find(|endpoint| endpoint.endpoint.as_str() == name).unwrap()
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn the_estimate_is_the_measure_of_record_and_says_why() {
    let Some(site) = site_or_skip() else { return };
    let running = (servers::named("node-h2c").unwrap().start)().unwrap();
    let Target::Http2 { address, .. } = running.target else { panic!("{:?}", running.target) };
    let service = Service {
        matcher: format!("{{ listen = {} }}", address.port()),
        build: "{ command = [\"/usr/bin/printf\", \"good\"] }".to_owned(),
        budget: "{ mean_cpu = \"200ms\" }".to_owned(),
        ..site.web().unwrap()
    };
    site.configure(&[service]).unwrap();
    let agent = Agent::start(&site).unwrap();
    // Numbers that have nothing to do with each other from second to second, and idle seconds.
    let begun = Instant::now();
    let mut logins = Cost::default();
    let mut browses = 0;
    for second in 0..SECONDS_OF_LOAD {
        if second * 7 % 23 > 0 {
            let login = Step::post("login", "/login", "user=ann&password=secret");
            let own = load(&running.target, vec![login], second * 7 % 23).own("login");
            logins.count += own.count;
            logins.sum_ns += own.sum_ns;
        }
        if second * 13 % 31 > 0 {
            browses += load(&running.target, vec![Step::get("browse", "/browse")], second * 13 % 31).requests;
        }
        std::thread::sleep(
            (begun + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()),
        );
    }
    let found = agent
        .wait_for("an estimate of the login", SEEN_WITHIN, |agent| {
            let login = endpoint(agent, "login");
            Ok(login.estimate.is_some().then_some(login))
        })
        .unwrap();
    let own_seconds = logins.mean_ns() * 1e-9;
    let estimate = found.estimate.unwrap();
    println!("own {own_seconds}, {found:?}");
    assert_eq!((found.requests, found.uncharged_requests), (logins.count, logins.count));
    assert_eq!(endpoint(&agent, "browse").uncharged_requests, browses);
    assert_eq!((found.measure_of_record.as_deref(), found.mean_cpu_seconds), (Some("estimate"), None));
    assert!(found.measure_why.as_deref().unwrap().contains("came by HTTP/2"), "{found:?}");
    // Beside what the application's own clock sees there is the server's work on a request: frames, headers, the loop.
    let ratio = estimate.mean_cpu_seconds / own_seconds;
    assert!((0.9..1.15).contains(&ratio), "estimate {} for {own_seconds}", estimate.mean_cpu_seconds);
    assert!(
        estimate.lower_cpu_seconds < own_seconds * 1.1 && own_seconds * 0.95 < estimate.upper_cpu_seconds,
        "{found:?}"
    );
    let service = agent.service("web").unwrap();
    assert!(service.hidden.is_empty() && service.problems.is_empty(), "{service:?}");
    assert!(service.notes.iter().any(|note| note.contains("come by HTTP/2")), "{service:?}");
    let metrics = agent.metrics().unwrap();
    let labels = [("endpoint", "login"), ("build", "good"), ("measure", "estimate")];
    assert_eq!(metrics.sum("load_watchdog_measure_of_record", &labels), Some(1.0));
    let doctor = Command::new(executable("load-watchdog").unwrap())
        .args(["doctor", "--config"])
        .arg(site.config())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("come by HTTP/2"), "{text}");
}
