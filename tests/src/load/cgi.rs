//! Requests as a front end passes them on: FastCGI records, or a packet of the uwsgi protocol.

use std::io::Write as _;

use anyhow::{Context as _, ensure};

use super::http::{Response, more};
use super::stream::Stream;
use super::{LoadOptions, Protocol, Step};

const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const ID: [u8; 2] = [0, 1];

/// The variables as nginx orders them; a long cookie comes before the path, as its order among headers is open.
fn variables(options: &LoadOptions, step: &Step) -> Vec<(&'static str, String)> {
    let (path, query) = step.path.split_once('?').unwrap_or((&step.path, ""));
    let length = step.body.as_ref().map_or(String::new(), |body| body.len().to_string());
    let mut all = vec![
        ("QUERY_STRING", query.to_owned()),
        ("CONTENT_TYPE", "application/x-www-form-urlencoded".to_owned()),
        ("CONTENT_LENGTH", length),
        ("REQUEST_METHOD", step.method.clone()),
        ("SCRIPT_NAME", "/index.php".to_owned()),
        ("REQUEST_URI", step.path.clone()),
        ("DOCUMENT_URI", path.to_owned()),
        ("SERVER_PROTOCOL", "HTTP/1.1".to_owned()),
        ("REMOTE_ADDR", "127.0.0.1".to_owned()),
        ("SCRIPT_FILENAME", "/srv/www/index.php".to_owned()),
        ("HTTP_HOST", "load".to_owned()),
    ];
    if options.cookie_bytes > 0 {
        all.insert(1, ("HTTP_COOKIE", "c".repeat(options.cookie_bytes)));
    }
    all
}

fn record(kind: u8, content: &[u8], bytes: &mut Vec<u8>) {
    let padding = content.len().wrapping_neg() % 8;
    let length = u16::try_from(content.len()).expect("cut to less than 64 KiB");
    bytes.extend([1, kind]);
    bytes.extend(ID);
    bytes.extend(length.to_be_bytes());
    bytes.extend([u8::try_from(padding).expect("less than 8"), 0]);
    bytes.extend(content);
    bytes.resize(bytes.len() + padding, 0);
}

fn fastcgi_request(options: &LoadOptions, step: &Step) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in variables(options, step) {
        for length in [name.len(), value.len()] {
            match u8::try_from(length) {
                Ok(short) if short < 128 => params.push(short),
                _ => params.extend((u32::try_from(length).expect("short") | 1 << 31).to_be_bytes()),
            }
        }
        params.extend(name.bytes());
        params.extend(value.bytes());
    }
    let mut bytes = Vec::new();
    record(BEGIN, &[0, 1, u8::from(options.keep_alive), 0, 0, 0, 0, 0], &mut bytes);
    for piece in params.chunks(options.record_bytes.clamp(1, 65_528)) {
        record(PARAMS, piece, &mut bytes);
    }
    record(PARAMS, &[], &mut bytes);
    if let Some(body) = &step.body {
        record(STDIN, body.as_bytes(), &mut bytes);
    }
    record(STDIN, &[], &mut bytes);
    bytes
}

fn uwsgi_request(options: &LoadOptions, step: &Step) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("less than 64 KiB").to_le_bytes();
    let mut content = Vec::new();
    for (name, value) in variables(options, step) {
        // What FastCGI calls the script is a mount point here.
        if name == "SCRIPT_NAME" {
            continue;
        }
        for text in [name, &value] {
            content.extend(length(text.len()));
            content.extend(text.bytes());
        }
    }
    let size = length(content.len());
    let mut bytes = vec![0, size[0], size[1], 0];
    bytes.extend(content);
    bytes.extend(step.body.iter().flat_map(|body| body.bytes()));
    bytes
}

/// Sends a request in its protocol; in as many pieces as the head of an HTTP request would be.
pub(super) fn send(stream: &mut Stream, options: &LoadOptions, step: &Step) -> anyhow::Result<()> {
    let bytes = match options.protocol {
        Protocol::Uwsgi => uwsgi_request(options, step),
        _ => fastcgi_request(options, step),
    };
    let pieces = bytes.chunks(bytes.len().div_ceil(options.head_pieces.max(1)));
    for (number, piece) in pieces.enumerate() {
        if number > 0 {
            std::thread::sleep(options.piece_pause);
        }
        stream.write_all(piece).context("sending the request")?;
    }
    Ok(())
}

/// Reads the records of a response up to the one that ends it.
pub(super) fn receive_fastcgi(stream: &mut Stream) -> anyhow::Result<Response> {
    let (mut unread, mut page) = (Vec::new(), Vec::new());
    loop {
        while unread.len() < 8 {
            more(stream, &mut unread, "in a record's header")?;
        }
        let content = usize::from(u16::from_be_bytes([unread[4], unread[5]]));
        let whole = 8 + content + usize::from(unread[6]);
        while unread.len() < whole {
            more(stream, &mut unread, "in a record")?;
        }
        ensure!(unread[0] == 1 && unread[2..4] == ID, "a record of another request: {:?}", &unread[..8]);
        match unread[1] {
            STDOUT => page.extend_from_slice(&unread[8..8 + content]),
            END => break,
            _ => {}
        }
        unread.drain(..whole);
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let (at, headers) = match httparse::parse_headers(&page, &mut headers).context("the head of the page")? {
        httparse::Status::Complete(parsed) => parsed,
        httparse::Status::Partial => anyhow::bail!("the head of the page does not end"),
    };
    let header = |name: &str| {
        let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let status = match header("status") {
        Some(status) => {
            status.get(..3).and_then(|code| code.parse().ok()).context("a status of no number")?
        }
        None => 200,
    };
    Ok(Response {
        status,
        build: header("x-build"),
        own_cpu_ns: header("x-cpu-ns").and_then(|value| value.parse().ok()),
        reusable: true,
        body: page.split_off(at),
    })
}
