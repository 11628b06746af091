//! A small HTTPS server that receives webhooks, remembers each request, and answers as a test tells it to.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest request head.
const MAX_HEAD: usize = 64 * 1024;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The value of a header, when it came exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What the server does about a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Answer(u16, String),
    /// A status and where to go.
    Redirect(u16, String),
    /// 200, but so much later.
    Late(Duration),
    /// 200 with half of the body that its head announces.
    CutOff,
    /// Nothing: the connection is closed.
    Hangup,
    /// 200 and so many bytes.
    Flood(usize),
}

/// Whom the server's certificate speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Loopback, from yesterday to some day.
    Rightly,
    /// Somebody else.
    Otherwise,
    /// Loopback, until some day in the past.
    Formerly,
}

#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    folder: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Endpoint {
    /// Answers each request with what `reply` says about it.
    pub fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start_as(Named::Rightly, reply)
    }

    pub fn start_as(
        named: Named,
        reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("making a folder")?;
        let config = Arc::new(server_config(named, folder.path())?);
        let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (to_see, to_stop, reply) = (Arc::clone(&seen), Arc::clone(&stop), Arc::new(reply));
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming() {
                if to_stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (config, seen, reply) = (Arc::clone(&config), Arc::clone(&to_see), Arc::clone(&reply));
                // A client that breaks off is the client's affair: what counts is what was seen.
                thread::spawn(move || serve(stream, config, &seen, reply.as_ref()));
            }
        });
        Ok(Self { address, folder, seen, stop, acceptor: Some(acceptor) })
    }

    /// The certificate, to be trusted.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn server_config(named: Named, folder: &Path) -> anyhow::Result<ServerConfig> {
    let hosts = match named {
        Named::Otherwise => vec!["other.example".to_owned()],
        Named::Rightly | Named::Formerly => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    let mut params = CertificateParams::new(hosts)?;
    if named == Named::Formerly {
        params.not_before = rcgen::date_time_ymd(2015, 1, 1);
        params.not_after = rcgen::date_time_ymd(2016, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    std::fs::write(folder.join("cert.pem"), certificate.pem()).context("writing the certificate")?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?)
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    seen: &Mutex<Vec<Seen>>,
    reply: &(impl Fn(&Seen) -> Reply + Send + Sync),
) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, stream);
    let request = read_request(&mut tls)?;
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let head = |status: u16, length: usize, more: &str| {
        format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n")
    };
    match reply(&request) {
        Reply::Answer(status, body) => {
            tls.write_all((head(status, body.len(), "") + &body).as_bytes())?;
        }
        Reply::Redirect(status, location) => {
            tls.write_all(head(status, 0, &format!("location: {location}\r\n")).as_bytes())?;
        }
        Reply::Late(after) => {
            thread::sleep(after);
            tls.write_all((head(200, 4, "") + "late").as_bytes())?;
        }
        Reply::CutOff => {
            tls.write_all((head(200, 100, "") + "half of it").as_bytes())?;
            tls.flush()?;
            return Ok(());
        }
        Reply::Hangup => return Ok(()),
        Reply::Flood(length) => {
            tls.write_all(head(200, length, "").as_bytes())?;
            let chunk = [b'f'; 16 * 1024];
            let mut left = length;
            while left > 0 {
                let part = left.min(chunk.len());
                tls.write_all(&chunk[..part])?;
                left -= part;
            }
        }
    }
    tls.conn.send_close_notify();
    tls.flush()?;
    Ok(())
}

fn read_request(stream: &mut impl std::io::Read) -> anyhow::Result<Seen> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 || bytes.len() > MAX_HEAD {
            bail!("no whole request came");
        }
        bytes.extend_from_slice(&chunk[..count]);
    };
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    head.parse(&bytes[..head_end])?;
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut seen = Seen {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        headers,
        body: bytes[head_end..].to_vec(),
    };
    let length: usize = seen.header("content-length").map_or(Ok(0), str::parse)?;
    let missing = length.saturating_sub(seen.body.len());
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest)?;
    seen.body.extend_from_slice(&rest);
    Ok(seen)
}
