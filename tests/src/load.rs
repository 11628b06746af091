//! The load driver: real HTTP/1.1 over blocking sockets, or HTTP/2, bounded in count and in time, to loopback and nowhere
//! else.

mod cgi;
mod h2;
mod http;
mod report;
mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

pub use http::Get;
pub use report::{EndpointReport, Failure, LoadReport};

use http::Client;
use report::Tally;

/// Longest run, whatever is asked for.
pub const MAX_DURATION: Duration = Duration::from_mins(30);
/// Most requests of a run, whatever is asked for.
pub const MAX_REQUESTS: u64 = 10_000_000;

/// Where to send requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp(SocketAddr),
    /// As `Tcp`, with TLS; the server's certificate is not checked.
    Tls(SocketAddr),
    /// HTTP/2 from the first byte on, or after TLS. Requests of several threads share a connection.
    Http2 {
        address: SocketAddr,
        tls: bool,
    },
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    /// `IP:PORT` on loopback, or `unix:PATH`; `tls:`, `h2c:` (HTTP/2) and `h2:` (HTTP/2 over TLS) may precede `IP:PORT`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let (scheme, address) = ["tls:", "h2c:", "h2:"]
            .into_iter()
            .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?)))
            .unwrap_or(("", text));
        let address: SocketAddr = address.parse().with_context(|| {
            format!("target {text:?}: want IP:PORT, tls:IP:PORT, h2c:IP:PORT, h2:IP:PORT or unix:PATH")
        })?;
        if !address.ip().is_loopback() {
            bail!("target {address} is not on loopback: the driver loads this host only");
        }
        Ok(match scheme {
            "tls:" => Self::Tls(address),
            "h2c:" => Self::Http2 { address, tls: false },
            "h2:" => Self::Http2 { address, tls: true },
            _ => Self::Tcp(address),
        })
    }
}

/// One kind of request in the mix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Under which name it is counted.
    pub name: String,
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `None`: no body.
    pub body: Option<String>,
    pub expect: u16,
    /// Share of the requests, relative to the other steps.
    pub weight: u32,
}

impl Step {
    pub fn get(name: &str, path: &str) -> Self {
        Self {
            name: name.to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            body: None,
            expect: 200,
            weight: 1,
        }
    }

    pub fn post(name: &str, path: &str, body: &str) -> Self {
        Self { method: "POST".to_owned(), body: Some(body.to_owned()), ..Self::get(name, path) }
    }

    #[must_use]
    pub fn expecting(self, expect: u16) -> Self {
        Self { expect, ..self }
    }

    #[must_use]
    pub fn weighing(self, weight: u32) -> Self {
        Self { weight, ..self }
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    /// `NAME=METHOD PATH [xWEIGHT] [-> STATUS] [: BODY]`, for example `login=POST /login x3 -> 200 : user=a`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (line, body) = match text.split_once(" : ") {
            Some((line, body)) => (line, Some(body.to_owned())),
            None => (text, None),
        };
        let want = || format!("step {text:?}: want NAME=METHOD PATH [xWEIGHT] [-> STATUS] [ : BODY]");
        let (name, rest) = line.split_once('=').with_context(want)?;
        let mut words = rest.split_whitespace();
        let (method, path) = words.next().zip(words.next()).with_context(want)?;
        let mut step = Self { method: method.to_owned(), body, ..Self::get(name, path) };
        while let Some(word) = words.next() {
            if let Some(weight) = word.strip_prefix('x') {
                step.weight = weight.parse().with_context(want)?;
            } else if word == "->" {
                step.expect = words.next().with_context(want)?.parse().with_context(want)?;
            } else {
                bail!(want());
            }
        }
        Ok(step)
    }
}

/// What a run does. At least one of `requests` and `duration` is set.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    pub target: Target,
    pub steps: Vec<Step>,
    pub concurrency: usize,
    pub requests: Option<u64>,
    pub duration: Option<Duration>,
    /// Requests per second over all threads; `None`: each thread sends as soon as it has its answer.
    pub rate: Option<f64>,
    pub keep_alive: bool,
    /// Send the head in so many pieces with a pause between them; 1: whole.
    pub head_pieces: usize,
    pub piece_pause: Duration,
    /// Between a new connection and its first request, as over a network.
    pub head_pause: Duration,
    /// Send `Expect: 100-continue` and wait for it before a body.
    pub expect_continue: bool,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Write a line per answered request to this file, see [`LOG_HEADER`].
    pub log: Option<PathBuf>,
    pub protocol: Protocol,
    /// FastCGI: bytes of variables in one record at most.
    pub record_bytes: usize,
    /// FastCGI and uwsgi: length of a cookie that comes before the path; 0 for none.
    pub cookie_bytes: usize,
}

/// What the server is spoken to in. A target may ask for HTTP/2 in place of HTTP/1.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http,
    Fastcgi,
    /// One request per connection.
    Uwsgi,
}

/// First line of a request log: when the request was sent, wall clock in milliseconds; its step; the build that
/// answered; 1 if the answer was the expected one; how long it took.
pub const LOG_HEADER: &str = "sent_unix_ms,name,build,ok,latency_us";

impl LoadOptions {
    /// A closed loop of one thread with keep-alive; `requests` in all.
    pub fn new(target: Target, steps: Vec<Step>, requests: u64) -> Self {
        Self {
            target,
            steps,
            concurrency: 1,
            requests: Some(requests),
            duration: None,
            rate: None,
            keep_alive: true,
            head_pieces: 1,
            piece_pause: Duration::from_millis(2),
            head_pause: Duration::ZERO,
            expect_continue: false,
            timeout: Duration::from_secs(30),
            log: None,
            protocol: Protocol::Http,
            record_bytes: 65_528,
            cookie_bytes: 0,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.requests.is_some() || self.duration.is_some(), "set a number of requests or a duration");
        ensure!(
            (1..=1024).contains(&self.concurrency),
            "concurrency {} is not in 1..=1024",
            self.concurrency
        );
        ensure!(self.steps.iter().any(|step| step.weight > 0), "name at least one step with a weight over 0");
        ensure!(self.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "the rate must be over 0");
        if let Target::Tcp(address) | Target::Tls(address) | Target::Http2 { address, .. } = &self.target {
            ensure!(address.ip().is_loopback(), "target {address} is not on loopback");
        }
        Ok(())
    }
}

/// State that the threads of a run share.
struct Shared {
    options: LoadOptions,
    begun: Instant,
    ends: Instant,
    tickets: AtomicU64,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    /// For a target that speaks HTTP/2.
    http2: Option<h2::Connections>,
}

/// A run under way; dropping it stops and awaits it.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Runs to the end.
pub fn run(options: LoadOptions) -> anyhow::Result<LoadReport> {
    Ok(Load::start(options)?.wait())
}

impl Load {
    pub fn start(options: LoadOptions) -> anyhow::Result<Self> {
        options.check()?;
        let http2 = match options.target {
            Target::Http2 { address, tls } => {
                Some(h2::Connections::new(h2::Address { socket: address, tls }, options.concurrency)?)
            }
            _ => None,
        };
        let begun = Instant::now();
        let shared = Arc::new(Shared {
            ends: begun + options.duration.unwrap_or(MAX_DURATION).min(MAX_DURATION),
            tally: Mutex::new(Tally::new(&options)?),
            tickets: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            http2,
            begun,
            options,
        });
        let mut load = Self { shared, threads: Vec::new() };
        for number in 0..load.shared.options.concurrency {
            let shared = Arc::clone(&load.shared);
            load.threads.push(
                std::thread::Builder::new()
                    .name(format!("load-{number}"))
                    .spawn(move || shared.drive(number))
                    .context("starting a thread of the load driver")?,
            );
        }
        Ok(load)
    }

    /// What has been counted so far.
    pub fn snapshot(&self) -> LoadReport {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner).report(self.shared.begun.elapsed())
    }

    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the run after the requests under way.
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// For another thread to stop this run with.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    pub fn wait(mut self) -> LoadReport {
        self.join();
        self.snapshot()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic has been printed; the requests that its thread did not send are missing from the counts.
            let _ = thread.join();
        }
    }
}

/// Ends a run from anywhere.
pub struct Stopper(Arc<Shared>);

impl Stopper {
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl Shared {
    fn drive(&self, number: usize) {
        let mut client = Client::new(&self.options);
        while let Some(ticket) = self.next_ticket() {
            let Some(step) = self.step_of(ticket) else { return };
            let sent = Instant::now();
            let result = match &self.http2 {
                Some(connections) => connections.exchange(number, &self.options, &self.options.steps[step]),
                None => client.exchange(&self.options.steps[step]),
            };
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.add(step, result, sent, self.begun);
        }
    }

    /// Takes the number of the next request and waits until it is due; `None` at the end of the run.
    fn next_ticket(&self) -> Option<u64> {
        if self.over() {
            return None;
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if ticket >= self.options.requests.unwrap_or(MAX_REQUESTS).min(MAX_REQUESTS) {
            return None;
        }
        if let Some(rate) = self.options.rate {
            let due = self.begun + Duration::from_secs_f64(ticket as f64 / rate);
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                // In short naps, so that a stop is heard.
                std::thread::sleep(left.min(Duration::from_millis(50)));
                if self.over() {
                    return None;
                }
            }
        }
        Some(ticket)
    }

    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.ends
    }

    /// Which step a request is: drawn by weight, the same in every run.
    fn step_of(&self, ticket: u64) -> Option<usize> {
        let steps = &self.options.steps;
        let total: u64 = steps.iter().map(|step| u64::from(step.weight)).sum();
        let mut place = scatter(ticket) % total.max(1);
        steps.iter().position(|step| {
            let weight = u64::from(step.weight);
            let here = place < weight;
            place = place.saturating_sub(weight);
            here
        })
    }
}

/// The finalizer of splitmix64: consecutive numbers come out unrelated.
fn scatter(number: u64) -> u64 {
    let mut value = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_accepted() {
        assert!("127.0.0.1:80".parse::<Target>().is_ok());
        assert!("[::1]:80".parse::<Target>().is_ok());
        assert!(matches!("tls:127.0.0.1:443".parse::<Target>(), Ok(Target::Tls(_))));
        assert!("tls:192.0.2.1:443".parse::<Target>().is_err());
        assert!(matches!("h2c:127.0.0.1:80".parse::<Target>(), Ok(Target::Http2 { tls: false, .. })));
        assert!(matches!("h2:127.0.0.1:443".parse::<Target>(), Ok(Target::Http2 { tls: true, .. })));
        assert!("h2c:192.0.2.1:80".parse::<Target>().is_err());
        assert!("unix:/run/app.sock".parse::<Target>().is_ok());
        let error = "192.0.2.1:80".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("not on loopback"), "{error}");
        assert!("localhost:80".parse::<Target>().is_err());
    }

    #[test]
    fn steps_are_read_from_text() {
        let step: Step = "login=POST /login x3 -> 201 : user=a".parse().unwrap();
        assert_eq!(step, Step::post("login", "/login", "user=a").expecting(201).weighing(3));
        assert_eq!("b=GET /browse".parse::<Step>().unwrap(), Step::get("b", "/browse"));
        assert!("GET /browse".parse::<Step>().is_err());
    }

    #[test]
    fn an_unbounded_run_is_refused() {
        let target = Target::Tcp("127.0.0.1:9".parse().unwrap());
        let mut options = LoadOptions::new(target, vec![Step::get("a", "/")], 1);
        options.requests = None;
        assert!(Load::start(options).is_err());
    }

    /// Two requests on a connection that is closed when the second one comes.
    fn closed_at_the_second(step: Step) -> LoadReport {
        use std::io::{Read as _, Write as _};
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(server.local_addr().unwrap());
        let serve = std::thread::spawn(move || {
            for answers in [1, 1] {
                let Ok((mut stream, _)) = server.accept() else { return };
                for asked in 0..2 {
                    // All of a request comes at once; none comes when the driver has ended.
                    if stream.read(&mut [0; 4096]).unwrap_or(0) == 0 {
                        return;
                    }
                    if asked < answers {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                    }
                }
            }
        });
        let report =
            run(LoadOptions { concurrency: 1, keep_alive: true, ..LoadOptions::new(target, vec![step], 2) });
        drop(serve);
        report.unwrap()
    }

    #[test]
    fn only_what_may_be_asked_again_is_asked_again_when_a_kept_connection_is_closed() {
        let report = closed_at_the_second(Step::get("browse", "/browse"));
        assert_eq!((report.failures, report.connects, report.closed_idle), (0, 2, 1), "{report:?}");
        let report = closed_at_the_second(Step::post("login", "/login", "user=ann"));
        assert_eq!((report.failures, report.connects), (1, 1), "{report:?}");
    }
}
