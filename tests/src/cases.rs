//! The loads under which the kernel's figures must hold.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::ensure;
use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::types::Loss;

use crate::load::Step;
use crate::measure::{Case, Measured};

/// Thread per connection, at several concurrencies, keep-alive and not.
pub fn concurrencies(requests: u64) -> Vec<Case> {
    [1, 4, 16]
        .into_iter()
        .flat_map(|concurrency| {
            [
                Case::new(&format!("keep-alive, concurrency {concurrency}"), &[], concurrency, requests),
                Case::new(&format!("closing, concurrency {concurrency}"), &[], concurrency, requests)
                    .closing(),
            ]
        })
        .collect()
}

/// Ways to share the work among threads and processes.
pub fn models(requests: u64) -> Vec<Case> {
    vec![
        Case::new("pool of 4", &["--model", "pool"], 8, requests),
        Case::new("pool of 4, closing", &["--model", "pool"], 8, requests).closing(),
        Case::new("lock handed over", &["--gil"], 8, requests),
        Case::new("lock handed over in a pool", &["--gil", "--model", "pool"], 8, requests),
        Case::new("prefork", &["--model", "prefork"], 8, requests).closing(),
        Case::new("children forked later", &["--model", "prefork", "--refork-after", "10"], 4, requests)
            .closing(),
    ]
}

/// Ways to read a request.
pub fn reads(requests: u64) -> Vec<Case> {
    let case = |name: &str, args: &[&str]| Case::new(name, args, 4, requests);
    vec![
        case("unix socket", &["--listen", &unix_path()]),
        case("read", &["--read-call", "read"]),
        case("readv", &["--read-call", "readv"]),
        case("recvmsg", &["--read-call", "recvmsg"]),
        case("first read of 24 bytes", &["--first-read", "24"]),
        case("reads of 7 bytes", &["--read-size", "7"]),
        case("peek first", &["--peek"]),
        case("non-blocking", &["--nonblocking"]),
        case("read before the answer", &["--probe-read", "--nonblocking"]),
        Case { head_pieces: 5, ..case("head in 5 pieces", &[]) },
        Case { expect_continue: true, ..case("100-continue", &[]) },
        Case {
            steps: vec![
                Step::post("api_login", "/api/7/login?from=x", "user=ann&password=secret"),
                Step::post("login", "/login?next=/browse", "user=ann&password=secret"),
                Step::get("browse", "/browse"),
            ],
            ..case("wildcard and query", &[])
        },
    ]
}

/// Ways to send a response, and what happens before it.
pub fn answers(requests: u64) -> Vec<Case> {
    let case = |name: &str, args: &[&str]| Case::new(name, args, 4, requests);
    vec![
        case("write", &["--write-call", "write"]),
        case("sendmsg", &["--write-call", "sendmsg"]),
        case("head, then body", &["--answer", "two"]),
        case("writev", &["--answer", "writev"]),
        case("chunked", &["--answer", "chunked"]),
        case("1 MB body", &["--answer", "large"]),
        case("sendfile", &["--answer", "sendfile"]),
        case("streamed with sleeps", &["--answer", "stream"]),
    ]
}

/// Requests as records, as php-fpm and others read and answer them.
pub fn fastcgi(requests: u64) -> Vec<Case> {
    let case = |name: &str, args: &[&str]| {
        let args = [&["--protocol", "fastcgi"], args].concat();
        Case::new(&format!("FastCGI, {name}"), &args, 4, requests)
    };
    let php = ["--read-pieces", "php", "--read-call", "read", "--write-call", "write", "--model", "prefork"];
    vec![
        case("as php-fpm", &[&php[..], &["--listen", &unix_path()]].concat()).closing(),
        case("as php-fpm over TCP", &php).closing(),
        case("as php-fpm, kept", &php[..6]),
        case("whole buffers", &[]),
        case("whole buffers in a pool, closing", &["--model", "pool"]).closing(),
        case("reads of 7 bytes", &["--read-size", "7"]),
        case("readv", &["--read-call", "readv"]),
        case("recvmsg", &["--read-call", "recvmsg"]),
        Case { cookie_bytes: 5_000, ..case("a cookie of 5 KB", &["--read-size", "1024"]) },
        Case { record_bytes: 11, cookie_bytes: 200, ..case("records of 11 bytes", &[]) },
        Case { head_pieces: 9, cookie_bytes: 500, ..case("in 9 pieces", &php[..4]) },
        case("the end in a write of its own", &["--answer", "two"]),
        case("writev", &["--answer", "writev"]),
        case("1 MB page", &["--answer", "large"]),
        case("streamed with sleeps", &["--answer", "stream"]),
    ]
}

/// Requests as packets of variables.
pub fn uwsgi(requests: u64) -> Vec<Case> {
    let case = |name: &str, args: &[&str]| {
        let args = [&["--protocol", "uwsgi"], args].concat();
        Case::new(&format!("uwsgi, {name}"), &args, 4, requests).closing()
    };
    vec![
        case("whole buffers", &["--read-size", "32768", "--answer", "writev"]),
        case("unix socket, prefork", &["--listen", &unix_path(), "--model", "prefork"]),
        case("the header first", &["--read-pieces", "php"]),
        case("reads of 7 bytes", &["--read-size", "7"]),
        Case { cookie_bytes: 3_000, head_pieces: 6, ..case("a cookie of 3 KB in 6 pieces", &[]) },
        case("1 MB body", &["--answer", "large"]),
    ]
}

pub fn all(requests: u64) -> Vec<Case> {
    [
        concurrencies(requests),
        models(requests),
        reads(requests),
        answers(requests),
        fastcgi(requests),
        uwsgi(requests),
    ]
    .concat()
}

/// For an emulated machine: few requests, long logins.
pub fn emulated() -> Vec<Case> {
    const REQUESTS: u64 = 30;
    [
        Case::new("keep-alive, concurrency 1", &[], 1, REQUESTS),
        Case::new("keep-alive, concurrency 4", &[], 4, REQUESTS),
        Case::new("closing, concurrency 4", &[], 4, REQUESTS).closing(),
        Case::new("keep-alive, concurrency 16", &[], 16, REQUESTS),
        Case::new("pool of 4", &["--model", "pool"], 8, REQUESTS),
        Case::new("prefork", &["--model", "prefork"], 4, REQUESTS).closing(),
        Case {
            head_pieces: 3,
            ..Case::new("unix socket, head in 3 pieces", &["--listen", &unix_path()], 4, REQUESTS)
        },
    ]
    .into_iter()
    .map(|mut case| {
        case.server.extend(["--login-us".to_owned(), "100000".to_owned()]);
        case
    })
    .collect()
}

/// A socket path for one server after the other.
fn unix_path() -> String {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("load-watchdog-burn-{}-{number}.sock", std::process::id()));
    // Left over when the server was killed; it does not listen on a path that exists.
    let _ = std::fs::remove_file(&path);
    format!("unix:{}", path.display())
}

/// Place of the endpoint that is answered with 401, see [`crate::measure::ENDPOINTS`].
const UNKNOWN: usize = 4;

/// How far figures may be apart.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of the logins' mean from the server's own, as a share.
    pub deviation: f64,
    /// Smallest share of the processes' CPU time that belongs to requests.
    pub coverage: f64,
}

/// What the product promises.
pub const PROMISED: Bounds = Bounds { deviation: 0.05, coverage: 0.95 };
/// Under emulation a thread's start and a read's way through the kernel take milliseconds, which the server's own
/// clock does not see and no request owns.
pub const EMULATED: Bounds = Bounds { deviation: 0.10, coverage: 0.75 };

/// Every request counted once, every login charged as its own clock says, and nothing lost on the way.
pub fn judge(measured: &Measured, bounds: Bounds) -> anyhow::Result<()> {
    ensure!(measured.report.failures == 0, "{} requests failed", measured.report.failures);
    for line in &measured.deviations {
        ensure!(line.miscounted() == 0, "{}: miscounted by {}", line.endpoint, line.miscounted());
    }
    let login = measured.deviation("login")?;
    ensure!(
        (login.ratio() - 1.0).abs() <= bounds.deviation,
        "login mean is {:.4} of its own figure",
        login.ratio()
    );
    for sample in &measured.samples {
        let expected = if usize::from(sample.endpoint) == UNKNOWN { 401 } else { 200 };
        ensure!(
            sample.endpoint == ENDPOINT_OTHER || sample.status == expected,
            "endpoint {} was answered with {expected}, not {}",
            sample.endpoint,
            sample.status
        );
    }
    ensure!(measured.coverage() >= bounds.coverage, "coverage is {:.3}", measured.coverage());
    ensure!(measured.left_ongoing == 0, "{} requests are still held", measured.left_ongoing);
    for loss in [Loss::SeriesMissing, Loss::SampleRingFull, Loss::UnreadableBuffer, Loss::OngoingFull] {
        ensure!(measured.lost(loss) == 0, "{} lost by {}", measured.lost(loss), loss.label());
    }
    Ok(())
}
