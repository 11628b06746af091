//! Requests that do not end: the kernel tells what they have used so far.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use watchdog::clock::mono_ns;
use watchdog::kernel::KernelOptions;
use watchdog::store::Store;
use watchdog_common::types::OngoingRequest;
use watchdog_tests::agent::site::{BASELINE, GOOD_US, site_or_skip};
use watchdog_tests::agent::{Agent, ENDED};
use watchdog_tests::burn::meter::process_cpu_ns;
use watchdog_tests::harness::Burn;
use watchdog_tests::load::Target;
use watchdog_tests::measure::patterns;
use watchdog_tests::servers::{self, Session};
use watchdog_tests::skip::kernel_or_skip;
use watchdog_tests::window::Watched;

const LOGIN: u16 = 1;
/// On-CPU time of a login that never ends while anybody waits for it.
const HANGING_US: u64 = 600_000_000;

#[test]
fn what_runs_on_is_known_before_it_ends() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let burn = Burn::start(&["--browse-us", "50"]).expect("a server");
    let watched = Watched::open(&mut kernel, 0, &patterns(), &[burn.pid()]).expect("a free slot");
    let Target::Tcp(address) = burn.target().clone() else { panic!("burn listens on TCP") };
    let used_before = process_cpu_ns(burn.pid()).expect("its CPU time");
    // A minute of CPU, of which two seconds are used.
    let mut connection = TcpStream::connect(address).expect("a connection");
    connection
        .write_all(b"POST /login?cpu_us=60000000 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .expect("the request is sent");
    let used = || Duration::from_nanos(process_cpu_ns(burn.pid()).expect("its CPU time") - used_before);
    let end = Instant::now() + Duration::from_mins(1);
    let mut told = Vec::new();
    for wanted in [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(2)] {
        while used() < wanted {
            assert!(Instant::now() < end, "the server does not run");
            std::thread::sleep(Duration::from_millis(20));
        }
        let under_way: Vec<OngoingRequest> =
            kernel.ongoing().into_iter().filter(|request| request.build_slot == watched.slot).collect();
        assert_eq!(under_way.len(), 1, "{under_way:?}");
        told.push((under_way[0].seen_ns.max(under_way[0].oncpu_ns), used()));
        assert_eq!(under_way[0].endpoint, LOGIN);
    }
    for (seen, used) in &told {
        let seen = Duration::from_nanos(*seen);
        assert!(seen <= *used, "more than was used: {told:?}");
        // A look every 50 ms of CPU, two of which may be missed.
        assert!(seen + Duration::from_millis(150) >= *used, "what is known is old: {told:?}");
    }
    // Of what runs on, all but the last part is given to the request already: coverage must not suffer.
    let tick = kernel.tick(mono_ns()).expect("a tick");
    let (_, figures) =
        tick.conservation.into_iter().find(|(slot, _)| *slot == watched.slot).expect("the slot's figures");
    assert_eq!(figures.finished, 0);
    assert!(figures.attributed_ns * 10 >= figures.process_ns * 8, "{figures:?}");
    drop(burn);
    watched.release(&mut kernel).expect("the slot is given back");
}

/// Where a reactor reads the head and another thread works, nothing tells whose work that is before the answer; a long one
/// is believed to be for the request with which its thread was woken.
#[test]
fn what_a_reactor_gave_away_is_known_before_it_ends() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let session =
        Session::open(&mut kernel, servers::named("puma-threads").expect("Puma")).expect("it starts");
    let Target::Tcp(address) = session.target().clone() else { panic!("Puma listens on TCP") };
    let mut connection = TcpStream::connect(address).expect("a connection");
    // Longer than Puma's threads look for a request themselves.
    std::thread::sleep(Duration::from_millis(5));
    let login = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Connection: close\r\nContent-Length: 24\r\n\r\nuser=eve&password=secret";
    connection.write_all(login.as_bytes()).expect("the request is sent");
    connection.set_nonblocking(true).expect("a socket");
    let mut told = 0;
    let answered = |connection: &mut TcpStream| connection.peek(&mut [0]).is_ok();
    let end = Instant::now() + Duration::from_mins(1);
    while !answered(&mut connection) {
        assert!(Instant::now() < end, "no answer comes");
        let under_way: Vec<OngoingRequest> =
            kernel.ongoing().into_iter().filter(|request| request.build_slot == session.slot()).collect();
        assert!(under_way.len() <= 1, "{under_way:?}");
        let Some(request) = under_way.first() else { continue };
        assert_eq!(request.endpoint, LOGIN);
        told = told.max(request.seen_ns.max(request.oncpu_ns));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(told >= 500_000_000, "only {told} ns of it were known before its answer");
    session.close(&mut kernel).expect("the slot is given back");
}

/// A login that never returns, one a second: none of them ever ends, and still the build goes.
#[test]
fn a_build_whose_logins_never_end_is_rolled_back() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().expect("a service")]).expect("a configuration");
    let _good = site.deploy("good", GOOD_US).expect("the good build");
    let agent = Agent::start(&site).expect("the agent");
    site.visit(BASELINE).expect("visitors");

    let hanging = site.deploy("hanging", HANGING_US).expect("the bad build");
    let Target::Unix(socket) = site.target() else { panic!("the site is behind a unix socket") };
    let mut sent = Vec::new();
    let incident = loop {
        assert!(sent.len() < 15, "{}", agent.log_tail());
        let mut connection = UnixStream::connect(&socket).expect("a connection");
        let login = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\nuser=ann&password=secret";
        connection.write_all(login.as_bytes()).expect("the request is sent");
        sent.push(connection);
        std::thread::sleep(Duration::from_secs(1));
        if let Some(incident) = agent.incidents().expect("the agent answers").first() {
            break incident.clone();
        }
    };
    assert_eq!(incident.bad_build.as_str(), "hanging");
    let ledger = Store::open_reader(&site.state_dir()).expect("the ledger");
    let evidence = ledger.incidents(1).expect("incidents")[0].evidence.clone();
    // Five have to be there, at one a second; one more may be needed where the CPU is shared with others.
    println!("{} logins were sent: {evidence}", sent.len());
    assert!(evidence["unfinished"]["requests"].as_u64().is_some_and(|n| (5..=7).contains(&n)), "{evidence}");
    agent
        .wait_for("the hook", Duration::from_secs(30), |_| Ok((site.hook_runs() > 0).then_some(())))
        .expect("the hook runs");
    drop(hanging);
    let visitors = site.visit_at(40.0).expect("visitors");
    let incident = agent.wait_for_incident(&ENDED, Duration::from_mins(1)).expect("an end");
    visitors.stop();
    assert_eq!((incident.state.as_str(), site.hook_runs()), ("recovered", 1), "{incident:?}");
}

/// Requests that wait, however many and however long, use nothing and prove nothing.
#[test]
fn a_build_whose_requests_wait_is_left_alone() {
    let Some(site) = site_or_skip() else { return };
    site.configure(&[site.web().expect("a service")]).expect("a configuration");
    let _good = site.deploy("good", GOOD_US).expect("the good build");
    let agent = Agent::start(&site).expect("the agent");
    site.visit(BASELINE).expect("visitors");
    let _second = site.deploy("second", GOOD_US).expect("the new build");
    let Target::Unix(socket) = site.target() else { panic!("the site is behind a unix socket") };
    // Their bodies do not come.
    let waiting: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut connection = UnixStream::connect(&socket).expect("a connection");
            let head = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\nuser=";
            connection.write_all(head).expect("the head is sent");
            connection
        })
        .collect();
    site.visit(200).expect("visitors");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(agent.incidents().expect("the agent answers"), []);
    drop(waiting);
}
