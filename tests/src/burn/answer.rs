//! Sending responses.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile64;

use super::connection::Connection;
use super::meter::spin;
use super::options::{Answer, Options, Protocol};
use super::{Server, cgi};

const SMALL_BODY: &[u8] = b"{\"ok\":true,\"padding\":\"................................................\"}\n";
const LARGE_BYTES: usize = 1 << 20;
const SENDFILE_BYTES: usize = 256 << 10;
const STREAM_CHUNKS: u32 = 5;

/// Bodies made once at the start.
#[derive(Debug)]
pub struct Bodies {
    large: Vec<u8>,
    file: Option<File>,
}

impl Bodies {
    pub fn new(options: &Options) -> io::Result<Self> {
        let file = if options.answer == Answer::Sendfile {
            let mut file = File::from(memfd_create("burn-body", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&vec![b'f'; SENDFILE_BYTES])?;
            Some(file)
        } else {
            None
        };
        let large = if options.answer == Answer::Large { vec![b'l'; LARGE_BYTES] } else { Vec::new() };
        Ok(Self { large, file })
    }
}

/// What to send.
#[derive(Debug)]
pub struct Response<'a> {
    pub status: u16,
    pub keep_alive: bool,
    /// The client knows chunked bodies; to others a response goes in one piece.
    pub chunked_allowed: bool,
    /// In place of the body that the answer's form would have.
    pub body: Option<&'a [u8]>,
    /// CPU to spend between the chunks of a streamed response.
    pub while_streaming: Duration,
    /// FastCGI: the request's id.
    pub record_id: u16,
}

pub fn send_response(connection: &Connection, server: &Server, response: &Response<'_>) -> io::Result<()> {
    let options = &server.options;
    let form = match options.answer {
        _ if response.body.is_some() => Answer::One,
        Answer::Chunked | Answer::Stream if !response.chunked_allowed => Answer::One,
        form => form,
    };
    let body = response.body.unwrap_or(match form {
        Answer::Large => &server.bodies.large,
        _ => SMALL_BODY,
    });
    if options.protocol == Protocol::Fastcgi {
        let form = if response.body.is_some() { Answer::One } else { options.answer };
        return by_records(connection, server, response, form, body);
    }
    match form {
        Answer::One | Answer::Large => {
            let mut bytes = head(options, response, Some(body.len()));
            bytes.extend_from_slice(body);
            connection.send(options, &bytes)
        }
        Answer::Two => {
            connection.send(options, &head(options, response, Some(body.len())))?;
            connection.send(options, body)
        }
        Answer::Writev => connection.send_vectored(&head(options, response, Some(body.len())), body),
        Answer::Chunked => {
            connection.send(options, &head(options, response, None))?;
            for part in body.chunks(body.len().div_ceil(3)) {
                connection.send(options, &chunk(part))?;
            }
            connection.send(options, b"0\r\n\r\n")
        }
        Answer::Stream => {
            connection.send(options, &head(options, response, None))?;
            for _ in 0..STREAM_CHUNKS {
                std::thread::sleep(options.stream_sleep());
                spin(response.while_streaming / STREAM_CHUNKS, server.gil.as_ref());
                connection.send(options, &chunk(body))?;
            }
            connection.send(options, b"0\r\n\r\n")
        }
        Answer::Sendfile => by_sendfile(connection, server, response),
    }
}

fn by_records(
    connection: &Connection,
    server: &Server,
    response: &Response<'_>,
    form: Answer,
    body: &[u8],
) -> io::Result<()> {
    let options = &server.options;
    let id = response.record_id;
    let mut first = cgi::head(response.status, &options.build);
    match form {
        Answer::Stream => {
            connection.send(options, &cgi::page(id, &first))?;
            for _ in 0..STREAM_CHUNKS {
                std::thread::sleep(options.stream_sleep());
                spin(response.while_streaming / STREAM_CHUNKS, server.gil.as_ref());
                connection.send(options, &cgi::page(id, body))?;
            }
            connection.send(options, &cgi::end(id))
        }
        Answer::Two => {
            connection.send(options, &cgi::page(id, &first))?;
            connection.send(options, &cgi::page(id, body))?;
            connection.send(options, &cgi::end(id))
        }
        Answer::Writev => {
            first.extend_from_slice(body);
            connection.send_vectored(&cgi::page(id, &first), &cgi::end(id))
        }
        _ => {
            first.extend_from_slice(body);
            let mut bytes = cgi::page(id, &first);
            bytes.extend(cgi::end(id));
            connection.send(options, &bytes)
        }
    }
}

fn by_sendfile(connection: &Connection, server: &Server, response: &Response<'_>) -> io::Result<()> {
    let file = server.bodies.file.as_ref().expect("made for this form of answer");
    let head = head(&server.options, response, Some(SENDFILE_BYTES));
    connection.send(&server.options, &head)?;
    let mut offset = 0_i64;
    while let Some(left) = usize::try_from(offset).ok().and_then(|at| SENDFILE_BYTES.checked_sub(at)) {
        if left == 0 {
            break;
        }
        connection.sent(sendfile64(connection, file, Some(&mut offset), left))?;
    }
    Ok(())
}

fn chunk(part: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", part.len()).into_bytes();
    bytes.extend_from_slice(part);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// `length`: of the body, `None` for a chunked one.
fn head(options: &Options, response: &Response<'_>, length: Option<usize>) -> Vec<u8> {
    let reason = match response.status {
        200 => "OK",
        401 => "Unauthorized",
        _ => "Not Found",
    };
    let mut text = format!("HTTP/1.1 {} {reason}\r\nX-Build: {}\r\n", response.status, options.build);
    let result = match length {
        Some(length) => write!(text, "Content-Length: {length}\r\n"),
        None => write!(text, "Transfer-Encoding: chunked\r\n"),
    };
    result.expect("writing to a string");
    text.push_str(if response.keep_alive {
        "Connection: keep-alive\r\n\r\n"
    } else {
        "Connection: close\r\n\r\n"
    });
    text.into_bytes()
}
