//! One client: a connection, the request it sends and the response it must get.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::stream::Stream;
use super::{LoadOptions, Protocol, Step, Target, cgi, h2};

/// How a request ended.
pub(super) struct Answered {
    pub(super) result: anyhow::Result<()>,
    pub(super) build: Option<String>,
    /// From the `X-Cpu-Ns` header.
    pub(super) own_cpu_ns: Option<u64>,
    pub(super) connects: u32,
    pub(super) closed_idle: u32,
}

impl Answered {
    pub(super) fn not_yet() -> Self {
        Self { result: Ok(()), build: None, own_cpu_ns: None, connects: 0, closed_idle: 0 }
    }

    /// Takes from the response what is counted, and whether it is the one that was expected.
    pub(super) fn by(&mut self, response: Response, step: &Step) {
        if response.status != step.expect {
            self.result =
                Err(anyhow::anyhow!("status {} where {} was expected", response.status, step.expect));
        }
        self.build = response.build;
        self.own_cpu_ns = response.own_cpu_ns;
    }
}

/// A thread's connection.
pub(super) struct Client<'a> {
    options: &'a LoadOptions,
    stream: Option<Stream>,
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) build: Option<String>,
    pub(super) own_cpu_ns: Option<u64>,
    /// Whether the connection takes another request.
    pub(super) reusable: bool,
    pub(super) body: Vec<u8>,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a LoadOptions) -> Self {
        Self { options, stream: None }
    }

    /// Sends one request and reads its answer; a connection that failed is not used again.
    pub(super) fn exchange(&mut self, step: &Step) -> Answered {
        let mut answered = Answered::not_yet();
        if self.stream.as_ref().is_some_and(Stream::is_stale) {
            answered.closed_idle = 1;
            self.stream = None;
        }
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            match Stream::connect(&self.options.target, self.options.timeout) {
                Ok(stream) => {
                    answered.connects = 1;
                    if !self.options.head_pause.is_zero() {
                        std::thread::sleep(self.options.head_pause);
                    }
                    stream
                }
                Err(error) => {
                    answered.result = Err(anyhow::Error::new(error).context("connecting"));
                    return answered;
                }
            }
        };
        match converse(&mut stream, self.options, step) {
            Ok(response) => {
                if response.reusable && self.options.keep_alive {
                    self.stream = Some(stream);
                } else {
                    stream.shutdown();
                }
                answered.by(response, step);
            }
            // RFC 9112, 9.3.1: the server closed it while the request was on its way, and asking again changes nothing.
            Err(error) if answered.connects == 0 && step.method == "GET" && error.is::<Unanswered>() => {
                let again = self.exchange(step);
                return Answered { closed_idle: 1, ..again };
            }
            Err(error) => {
                let fresh = if answered.connects == 1 { "new" } else { "kept" };
                answered.result = Err(error.context(format!("on a {fresh} connection")));
            }
        }
        answered
    }
}

fn converse(stream: &mut Stream, options: &LoadOptions, step: &Step) -> anyhow::Result<Response> {
    match options.protocol {
        Protocol::Http => {}
        Protocol::Fastcgi => {
            cgi::send(stream, options, step)?;
            return cgi::receive_fastcgi(stream);
        }
        Protocol::Uwsgi => {
            cgi::send(stream, options, step)?;
            let response = read_response(stream, &mut Vec::new(), &step.method, false)?;
            return Ok(Response { reusable: false, ..response });
        }
    }
    let waits = options.expect_continue && step.body.is_some();
    let mut head = format!("{} {} HTTP/1.1\r\nHost: load\r\n", step.method, step.path);
    if let Some(body) = &step.body {
        let kind = "application/x-www-form-urlencoded";
        let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    }
    if waits {
        head.push_str("Expect: 100-continue\r\n");
    }
    head.push_str(if options.keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    send_head(stream, options, head.as_bytes(), step.body.as_deref().filter(|_| !waits).unwrap_or(""))?;

    let mut unread = Vec::new();
    if waits {
        let interim = read_response(stream, &mut unread, &step.method, true)?;
        ensure!(interim.status == 100, "status {} instead of 100 Continue", interim.status);
        stream.write_all(step.body.as_deref().unwrap_or("").as_bytes()).context("sending the body")?;
    }
    let response = match read_response(stream, &mut unread, &step.method, false) {
        Err(error) if unread.is_empty() && is_closed(&error) => return Err(error.context(Unanswered)),
        read => read?,
    };
    ensure!(unread.is_empty(), "{} bytes after the response", unread.len());
    Ok(response)
}

/// The server closed the connection before any of its answer.
#[derive(Debug)]
struct Unanswered;

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed without an answer")
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionReset | UnexpectedEof))
}

fn send_head(stream: &mut Stream, options: &LoadOptions, head: &[u8], body: &str) -> anyhow::Result<()> {
    if options.head_pieces <= 1 {
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(body.as_bytes());
        return stream.write_all(&bytes).context("sending the request");
    }
    for piece in head.chunks(head.len().div_ceil(options.head_pieces)) {
        stream.write_all(piece).context("sending a piece of the head")?;
        std::thread::sleep(options.piece_pause);
    }
    stream.write_all(body.as_bytes()).context("sending the body")
}

/// Reads one response; interim ones (1xx) are skipped unless one is `wanted`.
fn read_response(
    stream: &mut Stream,
    unread: &mut Vec<u8>,
    method: &str,
    interim_wanted: bool,
) -> anyhow::Result<Response> {
    loop {
        let (length, framing, mut response) = loop {
            if let Some(head) = parse_head(unread)? {
                break head;
            }
            more(stream, unread, "in the response head")?;
        };
        unread.drain(..length);
        if response.status < 200 {
            if interim_wanted {
                return Ok(response);
            }
            continue;
        }
        if method == "HEAD" || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        match framing {
            Framing::Length(length) => response.body = take(stream, unread, length)?,
            Framing::Chunked => loop {
                let (start, size) = loop {
                    match httparse::parse_chunk_size(unread) {
                        Ok(httparse::Status::Complete((start, size))) => {
                            break (start, usize::try_from(size)?);
                        }
                        Ok(httparse::Status::Partial) => more(stream, unread, "in a chunk's size")?,
                        Err(_) => bail!("a chunk without a size"),
                    }
                };
                unread.drain(..start);
                let mut chunk = take(stream, unread, size + 2)?;
                ensure!(chunk.ends_with(b"\r\n"), "a chunk longer than its size");
                chunk.truncate(size);
                response.body.append(&mut chunk);
                if size == 0 {
                    break;
                }
            },
            Framing::UntilClose => {
                response.reusable = false;
                response.body.append(unread);
                stream.read_to_end(&mut response.body).context("reading up to the close")?;
            }
        }
        return Ok(response);
    }
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<(usize, Framing, Response)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).context("not an HTTP/1 response")? else {
        return Ok(None);
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let framing = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        Framing::Chunked
    } else if let Some(value) = header("content-length") {
        Framing::Length(value.parse().with_context(|| format!("Content-Length {value:?}"))?)
    } else {
        Framing::UntilClose
    };
    let modern = parsed.version == Some(1);
    let reusable = match header("connection") {
        Some(value) if value.eq_ignore_ascii_case("close") => false,
        Some(value) if value.eq_ignore_ascii_case("keep-alive") => true,
        _ => modern,
    };
    let own_cpu_ns = header("x-cpu-ns")
        .map(|value| value.parse().with_context(|| format!("X-Cpu-Ns {value:?}: want nanoseconds")))
        .transpose()?;
    let response = Response {
        status: parsed.code.unwrap_or(0),
        build: header("x-build"),
        own_cpu_ns,
        reusable,
        body: Vec::new(),
    };
    Ok(Some((length, framing, response)))
}

pub(super) fn more(stream: &mut Stream, unread: &mut Vec<u8>, place: &str) -> anyhow::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let count = loop {
        match stream.read(&mut buffer) {
            // A thread that starts processes is sent signals meanwhile; with a time limit the kernel leaves it to us.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read.with_context(|| format!("reading {place}"))?,
        }
    };
    if count == 0 {
        let so_far = if unread.is_empty() { "before any answer".to_owned() } else { place.to_owned() };
        let why = format!("short answer: closed {so_far}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why).into());
    }
    unread.extend_from_slice(&buffer[..count]);
    Ok(())
}

fn take(stream: &mut Stream, unread: &mut Vec<u8>, length: usize) -> anyhow::Result<Vec<u8>> {
    while unread.len() < length {
        more(stream, unread, "in the response body")?;
    }
    Ok(unread.drain(..length).collect())
}

/// A single GET over a connection of its own.
#[derive(Debug)]
pub struct Get {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Get {
    pub fn fetch(target: &Target, path: &str, timeout: Duration) -> anyhow::Result<Self> {
        Self::fetch_by(Protocol::Http, target, path, timeout)
    }

    /// The same from a server that speaks another protocol.
    pub fn fetch_by(
        protocol: Protocol,
        target: &Target,
        path: &str,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let mut options = LoadOptions::new(target.clone(), vec![Step::get("get", path)], 1);
        options.protocol = protocol;
        options.keep_alive = false;
        options.timeout = timeout;
        let step = &options.steps[0];
        let response = if let Target::Http2 { address, tls } = *target {
            h2::fetch(h2::Address { socket: address, tls }, step, timeout)?
        } else {
            let mut stream =
                Stream::connect(target, timeout).with_context(|| format!("connecting to {target:?}"))?;
            converse(&mut stream, &options, step)?
        };
        Ok(Self { status: response.status, body: response.body })
    }
}
