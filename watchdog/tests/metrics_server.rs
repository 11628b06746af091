//! The server of /metrics and /healthz against real clients: what it answers, and what it does not put up with.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use watchdog::metrics::server::{CONNECTION_LIMIT, Heartbeat, ScrapeRequest, bind, serve};

/// What the exposition is here: longer than a socket's buffers, so that it must be read to be sent.
const BODY_BYTES: usize = 16 << 20;

/// A server in a thread of its own, whose agent answers every scrape.
struct Served {
    address: SocketAddr,
    heartbeat: Heartbeat,
    /// How often the exposition was made.
    rendered: Arc<AtomicUsize>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(body_bytes: usize) -> Self {
        Self::with_limit(body_bytes, CONNECTION_LIMIT)
    }

    fn with_limit(body_bytes: usize, connection_limit: Duration) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let heartbeat = Heartbeat::default();
        let rendered = Arc::new(AtomicUsize::new(0));
        let (beaten, counted) = (heartbeat.clone(), Arc::clone(&rendered));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                let (scrapes, mut requests) = tokio::sync::mpsc::channel::<ScrapeRequest>(4);
                tokio::spawn(serve(listener, scrapes, beaten, connection_limit));
                tokio::spawn(async move {
                    while let Some(reply) = requests.recv().await {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let _ = reply.send(format!("# {}\n", "x".repeat(body_bytes)));
                    }
                });
                let _ = stopped.await;
            });
        });
        let address = is_ready.recv().unwrap();
        Self { address, heartbeat, rendered, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Whether the server has closed it, by now or within the limit.
fn is_closed(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    match stream.read(&mut [0; 1024]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn the_server_answers_get_only_and_tells_health() {
    let served = Served::new(8);
    let metrics = served.get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("# xxxxxxxx\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("connection: close") && metrics.contains("nosniff"), "{metrics}");
    let starting = served.get("/healthz");
    assert!(starting.starts_with("HTTP/1.1 503") && starting.contains("starting"), "{starting}");
    served.heartbeat.beat(watchdog::clock::mono_ns());
    assert!(served.get("/healthz").starts_with("HTTP/1.1 200"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(served.ask(&request).starts_with("HTTP/1.1 405"), "{method}");
    }
    for path in ["/", "/else", "/metrics/../healthz", "/%2e%2e/etc/passwd", "/control"] {
        assert!(served.get(path).starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[test]
fn a_head_that_comes_drop_by_drop_is_cut_off() {
    let served = Served::new(8);
    let begun = Instant::now();
    let mut slow = served.connect();
    let mut silent = served.connect();
    let mut alive = true;
    for byte in "GET /metrics HTTP/1.1\r\nHost: a-name-that-takes-its-time\r\n\r\n".bytes().cycle() {
        if slow.write_all(&[byte]).is_err() || begun.elapsed() > Duration::from_secs(8) {
            alive = false;
            break;
        }
        if is_closed(&mut slow, Duration::from_millis(100)) {
            alive = false;
            break;
        }
    }
    assert!(!alive && begun.elapsed() < Duration::from_secs(5), "after {:?}", begun.elapsed());
    assert!(is_closed(&mut silent, Duration::from_secs(3)), "a silent client keeps its place");
    assert_eq!(served.rendered.load(Ordering::SeqCst), 0);
}

#[test]
fn a_big_head_is_refused() {
    let served = Served::new(8);
    let big = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "y".repeat(100_000));
    let many = "X-More: y\r\n".repeat(1000);
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "z".repeat(60_000));
    for request in [big, many, long] {
        let mut stream = served.connect();
        // The server may close before it read everything.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert_eq!(served.rendered.load(Ordering::SeqCst), 0);
    assert!(served.get("/metrics").starts_with("HTTP/1.1 200"));
}

#[test]
fn hundreds_of_idle_connections_delay_nobody() {
    let served = Served::new(8);
    let idle: Vec<TcpStream> = (0..300).map(|_| served.connect()).collect();
    let mut halves: Vec<TcpStream> = (0..100).map(|_| served.connect()).collect();
    for half in &mut halves {
        let _ = half.write_all(b"GET /metrics HTTP/1.1\r\nHo");
    }
    let begun = Instant::now();
    assert!(served.get("/metrics").starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(1), "after {:?}", begun.elapsed());
    drop((idle, halves));
}

#[test]
fn an_answer_that_is_not_taken_is_cut_off() {
    assert_eq!(CONNECTION_LIMIT, Duration::from_secs(10), "the agent's");
    let served = Served::with_limit(BODY_BYTES, Duration::from_secs(1));
    let mut stuck = served.connect();
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    // What was on its way comes, and then the end: not the whole.
    let mut taken = Vec::new();
    let _ = stuck.read_to_end(&mut taken);
    assert!(taken.len() < BODY_BYTES, "{} bytes", taken.len());
}

#[test]
fn a_flood_of_scrapes_costs_the_agent_ten_a_second() {
    let served = Served::new(8);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert!(served.get("/metrics").starts_with("HTTP/1.1 200"));
                }
            });
        }
    });
    let most = 1 + usize::try_from(begun.elapsed().as_millis() / 100).unwrap();
    let rendered = served.rendered.load(Ordering::SeqCst);
    assert!((1..=most).contains(&rendered), "{rendered} times in {:?}", begun.elapsed());
}
