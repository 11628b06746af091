//! Requests as FastCGI records and as packets of the uwsgi protocol.

use std::collections::HashMap;
use std::io;

use super::Server;
use super::connection::Connection;
use super::meter::Meter;
use super::options::{Options, ReadPieces};
use super::request::{Request, route};

const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
/// As much as php-fpm puts into a record.
const RECORD_BYTES: usize = 8192 - 8;

type Variables = HashMap<String, Vec<u8>>;

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes so many bytes off what was read, and reads what is missing: no more than that if told so.
fn take(connection: &mut Connection, options: &Options, bytes: usize) -> io::Result<Vec<u8>> {
    while connection.unread.len() < bytes {
        let missing = bytes - connection.unread.len();
        let limit = match options.read_pieces {
            ReadPieces::Whole => options.read_size,
            ReadPieces::Php => missing,
        };
        if connection.receive_up_to(limit, options)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed inside a request"));
        }
    }
    Ok(connection.unread.drain(..bytes).collect())
}

/// True when the client has closed between requests. Reads the first bytes otherwise.
fn closed(connection: &mut Connection, options: &Options, bytes: usize) -> io::Result<bool> {
    let limit = match options.read_pieces {
        ReadPieces::Whole => options.read_size,
        ReadPieces::Php => bytes,
    };
    Ok(connection.unread.is_empty() && connection.receive_up_to(limit, options)? == 0)
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub fn read_fastcgi(connection: &mut Connection, server: &Server) -> io::Result<Option<Request>> {
    let options = &server.options;
    if closed(connection, options, 8)? {
        return Ok(None);
    }
    let meter = Meter::start();
    let (mut id, mut keep_alive, mut params) = (0, false, Vec::new());
    loop {
        let header = take(connection, options, 8)?;
        if header[0] != 1 {
            return Err(invalid("not a FastCGI record"));
        }
        let content = take(connection, options, pair(&header[4..]))?;
        take(connection, options, usize::from(header[6]))?;
        match header[1] {
            BEGIN => (id, keep_alive) = (pair(&header[2..]), content[2] & 1 != 0),
            PARAMS => params.extend(content),
            STDIN if content.is_empty() => break,
            STDIN => {}
            _ => return Err(invalid("an unexpected FastCGI record")),
        }
    }
    let variables = fastcgi_variables(&params).ok_or_else(|| invalid("variables that end too early"))?;
    let record_id = u16::try_from(id).map_err(|_| invalid("a request id over 65535"))?;
    Ok(Some(request(&variables, keep_alive, record_id, meter)))
}

fn fastcgi_variables(mut bytes: &[u8]) -> Option<Variables> {
    let mut variables = Variables::new();
    while !bytes.is_empty() {
        let (mut lengths, mut at) = ([0; 2], 0);
        for length in &mut lengths {
            let first = *bytes.get(at)?;
            let wide = first & 0x80 != 0;
            *length = if wide {
                u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize & 0x7fff_ffff
            } else {
                usize::from(first)
            };
            at += if wide { 4 } else { 1 };
        }
        let (name, value) = (bytes.get(at..at + lengths[0])?, at + lengths[0]);
        let name = String::from_utf8_lossy(name).into_owned();
        variables.insert(name, bytes.get(value..value + lengths[1])?.to_vec());
        bytes = &bytes[value + lengths[1]..];
    }
    Some(variables)
}

pub fn read_uwsgi(connection: &mut Connection, server: &Server) -> io::Result<Option<Request>> {
    let options = &server.options;
    if closed(connection, options, 4)? {
        return Ok(None);
    }
    let meter = Meter::start();
    let header = take(connection, options, 4)?;
    let size = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let bytes = take(connection, options, size)?;
    let variables = uwsgi_variables(&bytes).ok_or_else(|| invalid("variables that end too early"))?;
    let body = match variables.get("CONTENT_LENGTH") {
        Some(value) if !value.is_empty() => String::from_utf8_lossy(value)
            .parse()
            .map_err(|_| invalid("a CONTENT_LENGTH that is no number"))?,
        _ => 0,
    };
    take(connection, options, body)?;
    Ok(Some(request(&variables, false, 0, meter)))
}

fn uwsgi_variables(mut bytes: &[u8]) -> Option<Variables> {
    let mut variables = Variables::new();
    let next = |bytes: &mut &[u8]| -> Option<Vec<u8>> {
        let length = usize::from(u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?));
        let value = bytes.get(2..2 + length)?.to_vec();
        *bytes = &bytes[2 + length..];
        Some(value)
    };
    while !bytes.is_empty() {
        let name = next(&mut bytes)?;
        variables.insert(String::from_utf8_lossy(&name).into_owned(), next(&mut bytes)?);
    }
    Some(variables)
}

fn request(variables: &Variables, keep_alive: bool, record_id: u16, meter: Meter) -> Request {
    let text = |name: &str| String::from_utf8_lossy(variables.get(name).map_or(b"", Vec::as_slice));
    let target = match text("REQUEST_URI") {
        uri if uri.is_empty() => text("SCRIPT_NAME") + text("PATH_INFO"),
        uri => uri,
    };
    let (endpoint, cpu) = route(&text("REQUEST_METHOD"), &target);
    Request { endpoint, keep_alive, chunked_allowed: false, cpu, meter, record_id }
}

/// The head of a CGI response; php-fpm names no status when it is 200.
pub fn head(status: u16, build: &str) -> Vec<u8> {
    let status = if status == 200 { String::new() } else { format!("Status: {status} x\r\n") };
    format!("X-Powered-By: burn\r\n{status}X-Build: {build}\r\nContent-type: text/plain\r\n\r\n").into_bytes()
}

fn record(kind: u8, id: u16, content: &[u8], bytes: &mut Vec<u8>) {
    let padding = content.len().wrapping_neg() % 8;
    let length = u16::try_from(content.len()).expect("cut to less than 64 KiB");
    bytes.extend([1, kind]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([u8::try_from(padding).expect("less than 8"), 0]);
    bytes.extend(content);
    bytes.resize(bytes.len() + padding, 0);
}

/// Part of the page as records.
pub fn page(id: u16, part: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for content in part.chunks(RECORD_BYTES) {
        record(STDOUT, id, content, &mut bytes);
    }
    bytes
}

/// The record that ends a request.
pub fn end(id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    record(END, id, &[0; 8], &mut bytes);
    bytes
}
