//! Requests that do not end: the kernel tells what they have used so far.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use watchdog::clock::mono_ns;
use watchdog::kernel::KernelOptions;
use watchdog_common::types::OngoingRequest;
use watchdog_tests::burn::meter::process_cpu_ns;
use watchdog_tests::harness::Burn;
use watchdog_tests::load::Target;
use watchdog_tests::measure::patterns;
use watchdog_tests::skip::kernel_or_skip;
use watchdog_tests::window::Watched;

const LOGIN: u16 = 1;

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
    let end = Instant::now() + Duration::from_secs(60);
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
