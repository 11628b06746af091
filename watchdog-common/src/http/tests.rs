extern crate std;
use std::vec::Vec;

use super::*;
use proptest::prelude::*;

const KEY: u64 = 0x1234_5678_9abc_def1;
const NO_MASKS: [u32; MAX_WILDCARD_MASKS] = [0; MAX_WILDCARD_MASKS];

/// The beginning of `bytes` as the kernel keeps it.
fn judge(bytes: &[u8], masks: &[u32; MAX_WILDCARD_MASKS]) -> Head {
    let mut head = [0u8; 2 * HEAD_WINDOW];
    let len = bytes.len().min(head.len());
    head[..len].copy_from_slice(&bytes[..len]);
    request(&head, len, masks, KEY)
}

fn line(head: &[u8], masks: &[u32; MAX_WILDCARD_MASKS]) -> RequestLine {
    match judge(head, masks) {
        Head::Request(line) => line,
        other => panic!("{head:?}: {other:?}"),
    }
}

#[test]
fn a_request_line_gives_method_and_path() {
    let got = line(b"POST /login?next=%2F HTTP/1.1\r\n", &NO_MASKS);
    assert_eq!(got.method, method_code(b"POST"));
    assert_eq!(got.path.map(|h| h[0]), Some(path_hash(b"/login", 0, KEY)));
}

#[test]
fn paths_that_differ_do_not_match() {
    let login = path_hash(b"/login", 0, KEY);
    for other in [&b"/login/"[..], b"/logi", b"/loginx", b"//login", b"/", b"/LOGIN", b"/nigol"] {
        assert_ne!(path_hash(other, 0, KEY), login, "{other:?}");
    }
    assert_ne!(path_hash(b"/login", 0, KEY ^ 2), login);
}

#[test]
fn a_wildcard_stands_for_exactly_one_segment() {
    let mask = 0b10;
    let masks = [0, mask, 0, 0];
    let pattern = path_hash(b"/api/*/login", mask, KEY);
    let hash = |text: &[u8]| line(text, &masks).path.map(|h| h[1]);
    assert_eq!(hash(b"GET /api/42/login HTTP/1.1"), Some(pattern));
    assert_eq!(hash(b"GET /api/x-y/login?a/b HTTP/1.1"), Some(pattern));
    assert_ne!(hash(b"GET /api/4/2/login HTTP/1.1"), Some(pattern));
    assert_ne!(hash(b"GET /api/login HTTP/1.1"), Some(pattern));
    assert_ne!(hash(b"GET /v2/42/login HTTP/1.1"), Some(pattern));
}

#[test]
fn what_is_no_request_is_told_apart() {
    let of = |bytes: &[u8]| judge(bytes, &NO_MASKS);
    assert_eq!(of(b""), Head::Partial);
    assert_eq!(of(b"GE"), Head::Partial);
    assert_eq!(of(b"GET /lo"), Head::Partial);
    assert_eq!(of(b"\x16\x03\x01\x02"), Head::Tls);
    assert_eq!(of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Head::Http2);
    assert_eq!(of(b"*1\r\n$4\r\nPING\r\n"), Head::Other);
    assert_eq!(of(b"get / HTTP/1.1"), Head::Other);
    assert_eq!(of(b"HTTP/1.1 200 OK"), Head::Other);
    assert_eq!(of(b"GO / HTTP/1.1"), Head::Other);
    assert_eq!(of(b"ABCDEFGHIJKLMNOPQ / HTTP/1.1"), Head::Other);
    assert!(matches!(of(b"GET http://host/login HTTP/1.1"), Head::Request(RequestLine { path: None, .. })));
}

#[test]
fn a_path_past_the_window_is_no_path() {
    let mut head = Vec::from(&b"GET /"[..]);
    head.resize(4 + HEAD_WINDOW, b'a');
    assert!(matches!(judge(&head, &NO_MASKS), Head::Request(RequestLine { path: None, .. })));
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = text.len().min(N);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

#[test]
fn the_status_is_read_from_the_response_line() {
    assert_eq!(status(&padded("HTTP/1.1 200 OK\r\n")), Some(200));
    assert_eq!(status(&padded("HTTP/1.0 503 x")), Some(503));
    assert_eq!(status(&padded("HTTP/1.1 604 x")), None);
    assert_eq!(status(&padded("HTTP/2 200 OK\r\n")), None);
    assert_eq!(status(&padded("ICY 200 OK")), None);
}

#[test]
fn the_framing_is_found_in_the_head() {
    let of = |text: &str| framing(&padded(text), text.len());
    let head = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-Length:  1234\r\n\r\nbody";
    let value = head.find("content").expect("in the text") + 15;
    assert_eq!(of(head), Framing::LengthAt(value));
    assert_eq!(response_bytes(&padded(head), value), value as u64 + 1234);
    assert_eq!(of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Framing::Chunked);
    assert_eq!(of("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nContent-Length: 3\r\n\r\n"), Framing::Unknown);
    assert_eq!(of("HTTP/1.1 204 No Content\r\n\r\n"), Framing::Unknown);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), masks in any::<[u32; 4]>()) {
        let _ = judge(&bytes, &masks);
        let mut window = [0u8; 2 * RESPONSE_WINDOW];
        let len = bytes.len().min(RESPONSE_WINDOW);
        window[..len].copy_from_slice(&bytes[..len]);
        if let Framing::LengthAt(at) = framing(&window, len) {
            let _ = response_bytes(&window, at);
        }
    }

    #[test]
    fn the_framing_is_what_a_plain_reader_finds(
        lines in proptest::collection::vec(
            prop_oneof![
                "[A-Za-z-]{1,30}: [ -~]{0,40}",
                "(Content-Length|content-length|CONTENT-LENGTH): ?[0-9]{1,9}",
                "(Transfer-Encoding|transfer-encoding): chunked",
                "(Content-Lengths|Content-Lengt|Transfer-Encodin|XContent-Length): 1",
            ], 0..8),
    ) {
        let text = std::format!("HTTP/1.1 200 OK\r\n{}\r\n\r\nContent-Length: 9", lines.join("\r\n"));
        let bytes = text.as_bytes();
        let len = bytes.len().min(RESPONSE_WINDOW);
        let plain = || {
            for at in (1..len).filter(|at| bytes[at - 1] == b'\n') {
                if at + 18 >= len || bytes[at] == b'\r' {
                    return Framing::Unknown;
                }
                let name = bytes[at..at + 18].to_ascii_lowercase();
                if name.starts_with(b"content-length:") {
                    return Framing::LengthAt(at + 15);
                }
                if name == b"transfer-encoding:" {
                    return Framing::Chunked;
                }
            }
            Framing::Unknown
        };
        prop_assert_eq!(framing(&padded(&text), len), plain(), "{}", text);
    }

    #[test]
    fn every_split_of_a_head_ends_in_the_same_request(
        path in "/[a-z0-9/._~-]{0,120}", method in "(GET|POST|PUT|DELETE|OPTIONS)", cut in 0usize..400,
    ) {
        let text = std::format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let whole = judge(text.as_bytes(), &NO_MASKS);
        let part = judge(&text.as_bytes()[..cut.min(text.len())], &NO_MASKS);
        prop_assert!(part == Head::Partial || part == whole, "{part:?} {whole:?}");
        prop_assert_eq!(whole, Head::Request(RequestLine {
            method: method_code(method.as_bytes()),
            path: Some([path_hash(path.as_bytes(), 0, KEY); MAX_WILDCARD_MASKS]),
        }));
    }
}
