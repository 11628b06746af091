//! `/metrics` and `/healthz` on loopback, and nothing else: GET only, one short request per connection.
//!
//! Every user of the host can connect. So a head is small and comes at once or not at all; when all places are taken, whoever
//! has waited longest without asking for anything is cut off for the next one; and the exposition is made ten times a second at
//! most, however many ask for it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// For a request's head to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// Largest head, and most lines of it: Prometheus sends half a kilobyte.
const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// A connection is cut after this long, whatever it does.
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// The agent answers a scrape within a tick; after this long it is stuck.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
/// The same exposition serves all who ask within a tick.
const RENDER_EVERY: Duration = Duration::from_millis(100);
/// The tick loop counts as stuck when the last tick is older than this.
const TICK_LIMIT: Duration = Duration::from_secs(5);

/// When the agent last finished a tick, `CLOCK_MONOTONIC`; 0 before the first one.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    pub fn beat(&self, mono_ns: u64) {
        self.0.store(mono_ns, Ordering::Relaxed);
    }

    /// Why the agent is not healthy, if so.
    fn complaint(&self, now_mono_ns: u64) -> Option<String> {
        let last = self.0.load(Ordering::Relaxed);
        if last == 0 {
            return Some("starting: no tick was finished yet".to_owned());
        }
        let age = Duration::from_nanos(now_mono_ns.saturating_sub(last));
        (age > TICK_LIMIT).then(|| format!("stuck: the last tick was {:.1} s ago", age.as_secs_f64()))
    }
}

/// A scrape: the agent sends the exposition back.
pub type ScrapeRequest = oneshot::Sender<String>;

#[derive(Clone)]
struct Shared {
    exposition: Arc<Exposition>,
    heartbeat: Heartbeat,
}

/// The last exposition, and where the next one comes from.
struct Exposition {
    scrapes: mpsc::Sender<ScrapeRequest>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Exposition {
    /// `Err`: why there is none.
    async fn get(&self) -> Result<Bytes, &'static str> {
        // Held while the agent answers: all others wait for the same answer.
        let mut last = self.last.lock().await;
        if let Some((made, text)) = &*last
            && made.elapsed() < RENDER_EVERY
        {
            return Ok(text.clone());
        }
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.scrapes.send(reply).await.ok()?;
            answer.await.ok()
        };
        match timeout(SCRAPE_LIMIT, exchange).await {
            Ok(Some(text)) => {
                let text = Bytes::from(text);
                *last = Some((Instant::now(), text.clone()));
                Ok(text)
            }
            Ok(None) => Err("the agent is stopping\n"),
            Err(_) => Err("the agent did not answer within 5 s\n"),
        }
    }
}

/// Binds the address, which is loopback: the configuration refuses any other.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the task is dropped. The agent's `connection_limit` is [`CONNECTION_LIMIT`].
pub async fn serve(
    listener: TcpListener,
    scrapes: mpsc::Sender<ScrapeRequest>,
    heartbeat: Heartbeat,
    connection_limit: Duration,
) {
    let exposition = Arc::new(Exposition { scrapes, last: Mutex::new(None) });
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n") })
        .with_state(Shared { exposition, heartbeat });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        // An idle connection would hold a place.
        .keep_alive(false);
    let limit = connection_limit;
    let mut connections = Connections { router, http, limit, tasks: JoinSet::new(), open: VecDeque::new() };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream).await,
            // Out of descriptors, most likely: they come back.
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The connections that are served.
struct Connections {
    router: Router,
    http: http1::Builder,
    limit: Duration,
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// Its request has arrived.
    asked: Arc<AtomicBool>,
}

impl Connections {
    /// Serves one more, in the place of another one if need be.
    async fn add(&mut self, stream: TcpStream) {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= MAX_CONNECTIONS {
            let idle = self.open.iter().position(|open| !open.asked.load(Ordering::Relaxed));
            if let Some(idle) = idle.and_then(|index| self.open.remove(index)) {
                idle.task.abort();
            }
            // The one just cut, or one that was answered: every request is, in seconds.
            self.tasks.join_next().await;
        }
        self.open.retain(|open| !open.task.is_finished());
        let asked = Arc::new(AtomicBool::new(false));
        let (router, asked_now) = (TowerToHyperService::new(self.router.clone()), Arc::clone(&asked));
        let service = service_fn(move |request: Request<Incoming>| {
            asked_now.store(true, Ordering::Relaxed);
            router.call(request)
        });
        let served = self.http.serve_connection(TokioIo::new(stream), service);
        let limit = self.limit;
        let task = self.tasks.spawn(async move {
            // A client that goes away, or is cut off, concerns nobody.
            let _ = timeout(limit, served).await;
        });
        self.open.push_back(Connection { task, asked });
    }
}

/// A browser shall take it for nothing else.
fn plain() -> [(header::HeaderName, &'static str); 2] {
    [(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::CACHE_CONTROL, "no-store")]
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let head = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    match shared.exposition.get().await {
        Ok(text) => (head, plain(), text).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, head, plain(), why).into_response(),
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match shared.heartbeat.complaint(clock::mono_ns()) {
        None => (head, plain(), "ok\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, head, plain(), format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_needs_a_recent_tick() {
        let heartbeat = Heartbeat::default();
        assert!(heartbeat.complaint(1).unwrap().contains("starting"));
        heartbeat.beat(1_000_000_000);
        assert_eq!(heartbeat.complaint(2_000_000_000), None);
        assert!(heartbeat.complaint(10_000_000_000).unwrap().contains("9.0 s ago"));
    }
}
