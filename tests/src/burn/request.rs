//! Reading requests.

use std::io;
use std::time::Duration;

use super::Server;
use super::cgi::{read_fastcgi, read_uwsgi};
use super::connection::Connection;
use super::meter::Meter;
use super::options::{Options, Protocol};
use super::stats::Endpoint;

const MAX_HEAD: usize = 64 * 1024;

/// One request, its body read and dropped.
#[derive(Debug)]
pub struct Request {
    pub endpoint: Endpoint,
    pub keep_alive: bool,
    /// HTTP/1.1: chunked answers are allowed.
    pub chunked_allowed: bool,
    /// CPU from the query `cpu_us=N`, in place of the endpoint's own.
    pub cpu: Option<Duration>,
    pub meter: Meter,
    /// FastCGI: the request's id.
    pub record_id: u16,
}

struct Head {
    length: usize,
    body: usize,
    expects_continue: bool,
    request: Request,
}

/// Reads the next request; `None` when the client has closed between requests.
pub fn read_request(connection: &mut Connection, server: &Server) -> io::Result<Option<Request>> {
    let options = &server.options;
    match options.protocol {
        Protocol::Http1 => {}
        Protocol::Fastcgi => return read_fastcgi(connection, server),
        Protocol::Uwsgi => return read_uwsgi(connection, server),
    }
    if connection.unread.is_empty() && connection.receive(options)? == 0 {
        return Ok(None);
    }
    let meter = Meter::start();
    let mut head = loop {
        if let Some(head) = parse(&connection.unread)? {
            break head;
        }
        if connection.unread.len() > MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request head longer than 64 KiB"));
        }
        more(connection, options)?;
    };
    head.request.meter = meter;
    if head.expects_continue && connection.unread.len() < head.length + head.body {
        connection.send(options, b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    while connection.unread.len() < head.length + head.body {
        more(connection, options)?;
    }
    connection.unread.drain(..head.length + head.body);
    Ok(Some(head.request))
}

fn more(connection: &mut Connection, options: &Options) -> io::Result<()> {
    match connection.receive(options)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed inside a request")),
        _ => Ok(()),
    }
}

/// `None` while the head is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(format!("not an HTTP/1 request: {error}"))),
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    if header("transfer-encoding").is_some() {
        return Err(invalid("request bodies must have a Content-Length".to_owned()));
    }
    let body = match header("content-length") {
        Some(value) => {
            value.parse().map_err(|error| invalid(format!("Content-Length {value:?}: {error}")))?
        }
        None => 0,
    };
    let modern = parsed.version == Some(1);
    let keep_alive = match header("connection") {
        Some(value) if value.eq_ignore_ascii_case("close") => false,
        Some(value) if value.eq_ignore_ascii_case("keep-alive") => true,
        _ => modern,
    };
    let (endpoint, cpu) = route(parsed.method.unwrap_or(""), parsed.path.unwrap_or(""));
    Ok(Some(Head {
        length,
        body,
        expects_continue: header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")),
        request: Request {
            endpoint,
            keep_alive,
            chunked_allowed: modern,
            cpu,
            meter: Meter::start(),
            record_id: 0,
        },
    }))
}

pub fn route(method: &str, target: &str) -> (Endpoint, Option<Duration>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let cpu = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("cpu_us="))
        .and_then(|value| value.parse().ok())
        .map(Duration::from_micros);
    let endpoint = match (method, path) {
        ("POST", "/login") => Endpoint::Login,
        ("GET", "/browse") => Endpoint::Browse,
        ("GET", "/report") => Endpoint::Report,
        (_, "/unknown") => Endpoint::Unknown,
        ("GET", "/stats") => Endpoint::Stats,
        ("POST", path) if path.starts_with("/api/") && path.ends_with("/login") => Endpoint::ApiLogin,
        _ => Endpoint::Other,
    };
    (endpoint, cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().expect("a complete head")
    }

    #[test]
    fn routes_by_method_and_path_without_the_query() {
        assert_eq!(route("POST", "/login"), (Endpoint::Login, None));
        assert_eq!(route("GET", "/login"), (Endpoint::Other, None));
        assert_eq!(route("POST", "/api/7/login"), (Endpoint::ApiLogin, None));
        assert_eq!(route("GET", "/browse?a=1&cpu_us=250").1, Some(Duration::from_micros(250)));
    }

    #[test]
    fn keep_alive_follows_version_and_header() {
        assert!(complete("GET / HTTP/1.1\r\n\r\n").request.keep_alive);
        assert!(!complete("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").request.keep_alive);
        assert!(!complete("GET / HTTP/1.0\r\n\r\n").request.keep_alive);
        assert!(complete("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").request.keep_alive);
    }

    #[test]
    fn incomplete_heads_wait_and_bad_ones_are_refused() {
        assert!(parse(b"POST /login HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
        assert!(parse(b"\x16\x03\x01").is_err());
        assert!(parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let head = complete("POST /login HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello");
        assert_eq!((head.body, head.expects_continue), (5, true));
    }
}
