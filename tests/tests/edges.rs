//! Requests that end in unusual ways are counted once, or not at all, and never held for ever.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use watchdog::clock::mono_ns;
use watchdog::kernel::{Kernel, KernelOptions};
use watchdog_common::types::Sample;
use watchdog_tests::harness::Burn;
use watchdog_tests::measure::{endpoint_count, patterns};
use watchdog_tests::skip::kernel_or_skip;

struct Watched {
    kernel: Kernel,
    burn: Burn,
    samples: Vec<Sample>,
}

impl Watched {
    fn start(args: &[&str]) -> Option<Self> {
        let mut kernel = kernel_or_skip(&KernelOptions::default())?;
        let burn = Burn::start(args).expect("a server");
        kernel.register_service(0, &patterns()).expect("patterns");
        let slot = kernel.open_slot(0, endpoint_count()).expect("a slot");
        kernel.watch(burn.pid(), slot);
        Some(Self { kernel, burn, samples: Vec::new() })
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.burn.address()).expect("connects")
    }

    /// The samples once there are `count`, or those there are after three seconds.
    fn samples(&mut self, count: usize) -> &[Sample] {
        let until = Instant::now() + Duration::from_secs(3);
        while self.samples.len() < count && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            self.samples.extend(self.kernel.tick(mono_ns()).expect("a tick").samples);
        }
        &self.samples
    }
}

fn answer(connection: &mut TcpStream) -> String {
    let mut bytes = [0u8; 4096];
    let len = connection.read(&mut bytes).expect("an answer");
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// A HEAD request's response tells a length that never comes: it must not wait for it.
#[test]
fn a_head_request_ends_with_its_response() {
    let Some(mut watched) = Watched::start(&["--report-sleep-ms", "1"]) else { return };
    let mut connection = watched.connect();
    connection.write_all(b"HEAD /report HTTP/1.1\r\nHost: test\r\n\r\n").expect("sends");
    assert!(answer(&mut connection).starts_with("HTTP/1."));
    let samples = watched.samples(1);
    assert_eq!(samples.len(), 1, "{samples:?}");
    assert!(watched.kernel.ongoing().is_empty(), "{:?}", watched.kernel.ongoing());
}

/// The client is gone before the answer: the work was done all the same, and counts.
#[test]
fn a_request_whose_client_went_away_counts_with_its_cost() {
    let Some(mut watched) = Watched::start(&["--login-us", "60000"]) else { return };
    for _ in 0..5 {
        let mut connection = watched.connect();
        connection
            .write_all(b"POST /login HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nuser=a")
            .expect("sends");
        std::thread::sleep(Duration::from_millis(10));
        drop(connection);
    }
    let samples = watched.samples(5).to_vec();
    assert_eq!(samples.len(), 5, "{samples:?}");
    for sample in &samples {
        assert!(sample.oncpu_ns > 57_000_000, "{sample:?}");
    }
}

/// Two requests on one connection whose first answer was given before the second came are two.
#[test]
fn requests_on_one_connection_do_not_run_together() {
    let Some(mut watched) = Watched::start(&["--browse-us", "100"]) else { return };
    let mut connection = watched.connect();
    for _ in 0..50 {
        connection.write_all(b"GET /browse HTTP/1.1\r\nHost: test\r\n\r\n").expect("sends");
        assert!(answer(&mut connection).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(watched.samples(50).len(), 50);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(watched.samples(51).len(), 50, "a request was counted twice");
}

/// Half a head and a goodbye is no request.
#[test]
fn half_a_head_is_no_request() {
    let Some(mut watched) = Watched::start(&[]) else { return };
    let mut connection = watched.connect();
    connection.write_all(b"POST /log").expect("sends");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(watched.kernel.ongoing().len(), 1, "a request begins with its first byte");
    drop(connection);
    std::thread::sleep(Duration::from_millis(200));
    assert!(watched.samples(1).is_empty());
    assert!(watched.kernel.ongoing().is_empty(), "{:?}", watched.kernel.ongoing());
}

/// What a service sends to others is no request of its own.
#[test]
fn paths_and_methods_are_told_apart() {
    let Some(mut watched) = Watched::start(&["--login-us", "100", "--browse-us", "100"]) else { return };
    let mut connection = watched.connect();
    for line in [
        "POST /login HTTP/1.1",
        "GET /login HTTP/1.1",
        "GET /browse?x=/login HTTP/1.1",
        "GET /browse/ HTTP/1.1",
        "POST /api/12/login HTTP/1.1",
        "POST /api/1/2/login HTTP/1.1",
    ] {
        connection
            .write_all(format!("{line}\r\nHost: test\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .expect("sends");
        assert!(answer(&mut connection).starts_with("HTTP/1.1"), "{line}");
    }
    let endpoints: Vec<u16> = watched.samples(3).iter().map(|sample| sample.endpoint).collect();
    assert_eq!(endpoints, [1, 2, 5], "login, browse and /api/*/login, and no other line");
}
