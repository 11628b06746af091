//! HTTP/2: requests of several threads share a connection, as a browser's or a proxy's do.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use http::{Request, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::http::{Answered, Response};
use super::stream::UNCHECKED;
use super::{LoadOptions, Step};

/// Threads that share a connection; each has at most one request on it.
const STREAMS_PER_CONNECTION: usize = 8;

/// Where an HTTP/2 server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    pub(super) tls: bool,
}

/// The connections of a run, and what drives them.
pub(super) struct Connections {
    runtime: Runtime,
    address: Address,
    kept: Vec<Mutex<Option<Connection>>>,
}

/// Dropping it lets its driver end once no request is on it.
struct Connection {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Connections {
    pub(super) fn new(address: Address, concurrency: usize) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("load-h2")
            .enable_all()
            .build()
            .context("starting what drives the HTTP/2 connections")?;
        let kept = (0..concurrency.div_ceil(STREAMS_PER_CONNECTION)).map(|_| Mutex::new(None)).collect();
        Ok(Self { runtime, address, kept })
    }

    /// Sends one request of a thread and awaits its answer.
    pub(super) fn exchange(&self, thread: usize, options: &LoadOptions, step: &Step) -> Answered {
        let mut answered = Answered::not_yet();
        let response = self.runtime.block_on(async {
            let exchange = async {
                if options.keep_alive {
                    let kept = &self.kept[thread / STREAMS_PER_CONNECTION];
                    let requests = self.kept(kept, &mut answered).await?;
                    return converse(requests, self.address, step).await;
                }
                let Connection { requests, driver } = connect(self.address).await.context("connecting")?;
                answered.connects = 1;
                let response = converse(requests, self.address, step).await?;
                // The last handle is gone with the answer: the driver says goodbye and closes.
                let _ = driver.await;
                Ok(response)
            };
            tokio::time::timeout(options.timeout, exchange).await.context("no answer in time")?
        });
        match response {
            Ok(response) => answered.by(response, step),
            Err(error) => answered.result = Err(error),
        }
        answered
    }

    /// The connection of a thread, made anew when there is none that takes requests.
    async fn kept(
        &self,
        kept: &Mutex<Option<Connection>>,
        answered: &mut Answered,
    ) -> anyhow::Result<SendRequest<Bytes>> {
        let mut kept = kept.lock().await;
        if let Some(connection) = kept.as_ref() {
            if !connection.driver.is_finished() && connection.requests.clone().ready().await.is_ok() {
                return Ok(connection.requests.clone());
            }
            answered.closed_idle = 1;
        }
        let connection = connect(self.address).await.context("connecting")?;
        answered.connects = 1;
        Ok(kept.insert(connection).requests.clone())
    }
}

/// One request on a connection of its own.
pub(super) fn fetch(address: Address, step: &Step, timeout: Duration) -> anyhow::Result<Response> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let exchange = async {
            let connection = connect(address).await.with_context(|| format!("connecting to {address:?}"))?;
            converse(connection.requests, address, step).await
        };
        tokio::time::timeout(timeout, exchange).await.context("no answer in time")?
    })
}

async fn connect(address: Address) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address.socket).await?;
    stream.set_nodelay(true)?;
    if !address.tls {
        return begin(stream).await;
    }
    let name = ServerName::IpAddress(address.socket.ip().into());
    let stream = TlsConnector::from(Arc::clone(&UNCHECKED_H2)).connect(name, stream).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the server does not speak HTTP/2");
    begin(stream).await
}

async fn begin<S>(stream: S) -> anyhow::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = handshake(stream).await?;
    Ok(Connection { requests, driver: tokio::spawn(connection) })
}

async fn converse(requests: SendRequest<Bytes>, address: Address, step: &Step) -> anyhow::Result<Response> {
    let mut requests = requests.ready().await.context("the connection takes no request")?;
    let uri = Uri::builder()
        .scheme(if address.tls { "https" } else { "http" })
        .authority(address.socket.to_string())
        .path_and_query(step.path.as_str())
        .build()?;
    let mut request = Request::builder().method(step.method.as_str()).uri(uri);
    if let Some(body) = &step.body {
        request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("content-length", body.len());
    }
    let (answer, mut sending) =
        requests.send_request(request.body(())?, step.body.is_none()).context("sending the request")?;
    drop(requests);
    if let Some(body) = &step.body {
        // RFC 9113, 8.1: a server that needs no body may answer and take no more, and nginx does. What became of the request
        // its answer says.
        let _ = sending.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
    }
    let (head, mut body) = answer.await.context("awaiting the answer")?.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let mut response = Response {
        status: head.status.as_u16(),
        build: header("x-build").map(str::to_owned),
        own_cpu_ns: header("x-cpu-ns").and_then(|value| value.parse().ok()),
        reusable: true,
        body: Vec::new(),
    };
    let length = header("content-length").and_then(|value| value.parse().ok());
    while let Some(piece) = body.data().await {
        let piece = match piece {
            Ok(piece) => piece,
            // RFC 9113, 8.1: a server may say so once it has sent a whole answer, and Node does.
            Err(error)
                if error.reason() == Some(h2::Reason::NO_ERROR) && length == Some(response.body.len()) =>
            {
                break;
            }
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("reading the answer after {} bytes", response.body.len())));
            }
        };
        body.flow_control().release_capacity(piece.len())?;
        response.body.extend_from_slice(&piece);
    }
    Ok(response)
}

/// As for HTTP/1, but for the protocol that is asked for.
static UNCHECKED_H2: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut config = (**UNCHECKED).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
});
