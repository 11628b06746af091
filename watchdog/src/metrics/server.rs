//! `/metrics` and `/healthz` on loopback: GET only, few connections at a time, each short.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Sleep, sleep};

use crate::clock;

/// Connections served at the same time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 16;
/// A connection is cut after this long, whatever it does: no client can hold one of the few places.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// The agent answers a scrape within a tick; after this long it is stuck.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
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
    scrapes: mpsc::Sender<ScrapeRequest>,
    heartbeat: Heartbeat,
}

/// Binds the address, which is loopback unless the configuration says otherwise.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the task is dropped.
pub async fn serve(
    listener: TcpListener,
    scrapes: mpsc::Sender<ScrapeRequest>,
    heartbeat: Heartbeat,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n") })
        .layer(map_response(close))
        .with_state(Shared { scrapes, heartbeat });
    let bounded = Bounded { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    axum::serve(bounded, router).await
}

/// One request per connection: an idle keep-alive connection would hold a place.
async fn close(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        shared.scrapes.send(reply).await.ok()?;
        answer.await.ok()
    };
    let head = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    match tokio::time::timeout(SCRAPE_LIMIT, exchange).await {
        Ok(Some(text)) => (head, text).into_response(),
        Ok(None) => (StatusCode::SERVICE_UNAVAILABLE, head, "the agent is stopping\n").into_response(),
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, head, "the agent did not answer within 5 s\n").into_response()
        }
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match shared.heartbeat.complaint(clock::mono_ns()) {
        None => (head, "ok\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, head, format!("{why}\n")).into_response(),
    }
}

/// Accepts only while a place is free.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = ShortConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (ShortConnection { stream, deadline: Box::pin(sleep(CONNECTION_LIMIT)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Listener::local_addr(&self.listener)
    }
}

/// A connection that fails after [`CONNECTION_LIMIT`] and gives its place back when dropped.
struct ShortConnection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl ShortConnection {
    fn expired(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for ShortConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.expired(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ShortConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.expired(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
