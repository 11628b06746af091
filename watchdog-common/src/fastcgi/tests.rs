#![allow(clippy::cast_possible_truncation, reason = "test data is short")]

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::cgi::WINDOW;
use crate::http::method_code;

#[path = "captured.rs"]
mod captured;
use captured::{LOGIN_READS, LOGIN_WRITE, PAGE_WRITE, WARNING_WRITE};

fn path(talk: &Conversation) -> Vec<u8> {
    let (path, len) = talk.path();
    path[..len].to_vec()
}

fn record(kind: u32, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let mut bytes = std::vec![VERSION, kind as u8];
    bytes.extend(id.to_be_bytes());
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend([padding, 0]);
    bytes.extend(content);
    bytes.extend(std::vec![0xee; usize::from(padding)]);
    bytes
}

fn begin(id: u16, keep: bool) -> Vec<u8> {
    record(record::BEGIN, id, &[0, 1, u8::from(keep), 0, 0, 0, 0, 0], 0)
}

fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for len in [name.len(), value.len()] {
        if len < 128 {
            bytes.push(len as u8);
        } else {
            bytes.extend((len as u32 | 0x8000_0000).to_be_bytes());
        }
    }
    bytes.extend(name.as_bytes());
    bytes.extend(value);
    bytes
}

/// A whole request: the variables cut into records of `cut` bytes, and a body.
fn request(id: u16, keep: bool, variables: &[u8], cut: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = begin(id, keep);
    for piece in variables.chunks(cut) {
        bytes.extend(record(record::PARAMS, id, piece, (piece.len() % 8) as u8));
    }
    bytes.extend(record(record::PARAMS, id, &[], 0));
    if !body.is_empty() {
        bytes.extend(record(record::STDIN, id, body, 3));
    }
    bytes.extend(record(record::STDIN, id, &[], 0));
    bytes
}

fn response(id: u16, page: &[u8], cut: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in page.chunks(cut) {
        bytes.extend(record(record::STDOUT, id, piece, 0));
    }
    bytes.extend(record(record::END, id, &[0; 8], 0));
    bytes
}

#[test]
fn php_fpm_reads_a_login_in_pieces_and_answers_in_one() {
    let mut talk = Conversation::default();
    assert_eq!(opens(LOGIN_READS[0], LOGIN_READS[0].len()), Opens::Yes);
    let events: Vec<u32> = LOGIN_READS.iter().map(|bytes| talk.receive(bytes)).collect();
    assert_eq!(events[0], Event::BEGAN | Event::OURS);
    assert_eq!(events[3], Event::DECIDED | Event::OURS);
    assert!(events.iter().skip(4).all(|event| event & !Event::OURS == 0), "{events:?}");
    assert_eq!(talk.method(), method_code(b"POST"));
    assert_eq!(path(&talk), b"/login?x=1");
    assert!(!talk.keeps());
    assert_eq!(talk.send(LOGIN_WRITE), Sent::OURS | Sent::ENDED);
    assert_eq!(talk.status(), Some(401));
}

#[test]
fn a_page_without_a_status_is_a_200_and_a_warning_is_no_page() {
    for (write, status) in [(PAGE_WRITE, 200), (WARNING_WRITE, 404)] {
        let mut talk = Conversation::default();
        talk.receive(&request(1, false, &variable("REQUEST_URI", b"/"), 100, b""));
        assert_eq!(talk.send(write), Sent::OURS | Sent::ENDED);
        assert_eq!(talk.status(), Some(status));
    }
}

#[test]
fn only_a_begin_record_opens() {
    let whole = begin(1, false);
    for len in 0..8 {
        assert_eq!(opens(&whole, len), Opens::Maybe, "{len} bytes");
    }
    assert_eq!(opens(&whole, 16), Opens::Yes);
    for (at, byte) in [(0, 0), (0, 2), (1, 4), (4, 1), (5, 9), (7, 1)] {
        let mut other = whole.clone();
        other[at] = byte;
        assert_eq!(opens(&other, 8), Opens::No, "byte {at}");
        assert_eq!(opens(&other, at), Opens::Maybe, "before byte {at}");
    }
    assert_eq!(opens(&begin(0, false), 8), Opens::No);
    assert_eq!(opens(b"GET / HTTP/1.1\r\n", 16), Opens::No);
}

#[test]
fn another_role_is_no_request() {
    let mut talk = Conversation::default();
    let mut authorizer = begin(1, false);
    authorizer[9] = 2;
    assert_ne!(talk.receive(&authorizer) & Event::BROKEN, 0);
}

#[test]
fn the_path_is_the_uri_or_what_stands_for_it() {
    let of = |variables: &[(&str, &str)]| {
        let mut talk = Conversation::default();
        let all: Vec<u8> =
            variables.iter().flat_map(|(name, value)| variable(name, value.as_bytes())).collect();
        assert_ne!(talk.receive(&request(1, false, &all, 4096, b"")) & Event::DECIDED, 0);
        (talk.method(), std::string::String::from_utf8(path(&talk)).expect("text"))
    };
    let get = method_code(b"GET");
    let method = ("REQUEST_METHOD", "GET");
    let info = ("PATH_INFO", "/login");
    let script = ("SCRIPT_NAME", "/app.php");
    assert_eq!(of(&[method, ("REQUEST_URI", "/login"), script]), (get, "/login".into()));
    assert_eq!(of(&[script, info, ("REQUEST_URI", "/login"), method]), (get, "/login".into()));
    assert_eq!(of(&[info, method, script]), (get, "/app.php/login".into()));
    assert_eq!(of(&[script]), (0, "/app.php".into()));
    let long = method_code(b"VERSION-CONTROL");
    assert_eq!(of(&[("REQUEST_METHOD", "VERSION-CONTROL"), info]), (long, "/login".into()));
    assert_eq!(of(&[("REQUEST_METHOD", "BASELINE-CONTROL-AND-MORE"), info]).0, method_code(b"BASELINE"));
    assert_eq!(of(&[info]), (0, "/login".into()));
    assert_eq!(of(&[("REQUEST_URI", ""), info]), (0, "/login".into()));
    assert_eq!(of(&[("DOCUMENT_URI", "/a"), script]), (0, "/a".into()));
    assert_eq!(of(&[("REQUEST_URI", "/b"), ("DOCUMENT_URI", "/a")]), (0, "/b".into()));
    assert_eq!(of(&[("DOCUMENT_URI", "/a"), ("REQUEST_URI", "/b")]), (0, "/b".into()));
    assert_eq!(of(&[("REQUEST_URX", "/b"), ("REQUEST_SCHEMA", "x")]), (0, String::new()));
}

use std::string::String;

#[test]
fn long_variables_are_passed_over() {
    let mut all = variable("HTTP_COOKIE", &[b'c'; 9000]);
    all.extend(variable(&"X".repeat(300), b"1"));
    all.extend(variable("REQUEST_METHOD", b"GET"));
    all.extend(variable("REQUEST_URI", b"/login"));
    for cut in [1, 7, 1000, 65_535] {
        let mut talk = Conversation::default();
        talk.receive(&request(1, false, &all, cut, b""));
        assert_eq!((talk.method(), path(&talk)), (method_code(b"GET"), b"/login".to_vec()));
    }
}

#[test]
fn a_path_longer_than_the_window_is_kept_as_far_as_the_window_goes() {
    let long = [b'/'; 700];
    let mut all = variable("REQUEST_URI", &long);
    all.extend(variable("REQUEST_METHOD", b"PROPFIND"));
    let mut talk = Conversation::default();
    assert_ne!(talk.receive(&request(1, false, &all, 100, b"")) & Event::DECIDED, 0);
    assert_eq!((talk.method(), path(&talk)), (method_code(b"PROPFIND"), long[..WINDOW].to_vec()));
}

#[test]
fn a_kept_connection_carries_one_request_after_the_other() {
    let mut talk = Conversation::default();
    for (round, name) in ["/a", "/b", "/c"].into_iter().enumerate() {
        let bytes = request(1, true, &variable("REQUEST_URI", name.as_bytes()), 30, b"body");
        assert_eq!(talk.receive(&bytes), Event::BEGAN | Event::DECIDED | Event::OURS, "round {round}");
        assert_eq!(path(&talk), name.as_bytes());
        assert!(talk.keeps());
        let page = b"Content-Type: text/plain\r\n\r\nhello";
        assert_eq!(talk.send(&response(1, page, 10)), Sent::OURS | Sent::ENDED);
        assert_eq!(talk.status(), Some(200));
    }
}

#[test]
fn two_requests_at_a_time_are_told() {
    let mut talk = Conversation::default();
    talk.receive(&request(1, true, &variable("REQUEST_URI", b"/a"), 30, b""));
    let second = request(2, true, &variable("REQUEST_URI", b"/b"), 30, b"");
    assert_eq!(talk.receive(&second), Event::MULTIPLEXED);
    assert_eq!(path(&talk), b"/a");
    assert_eq!(talk.send(&response(2, b"Status: 500 x\r\n\r\n", 100)), 0);
    assert_eq!(talk.send(&response(1, b"Status: 404 x\r\n\r\n", 100)), Sent::OURS | Sent::ENDED);
    assert_eq!(talk.status(), Some(404));
    // The first one is over: the next begins.
    assert_ne!(talk.receive(&begin(3, true)) & Event::BEGAN, 0);
}

#[test]
fn lost_boundaries_are_told_once_and_a_begin_finds_them_again() {
    let mut talk = Conversation::default();
    talk.receive(&begin(1, true));
    assert_eq!(talk.receive(b"no record"), Event::BROKEN | Event::DECIDED);
    assert_eq!(talk.receive(b"still none"), 0);
    talk.send(&response(1, b"\r\n", 100));
    let next = request(1, true, &variable("REQUEST_URI", b"/b"), 30, b"");
    assert_ne!(talk.receive(&next) & Event::BEGAN, 0);
    assert_eq!(path(&talk), b"/b");
    assert_ne!(talk.send(b"HTTP/1.1 200 OK\r\n") & Sent::BROKEN, 0);
    assert_ne!(talk.receive(&next) & Event::BEGAN, 0);
    assert_eq!(talk.send(&response(1, b"\r\n", 100)), Sent::OURS | Sent::ENDED);
}

/// What is known in the end of a conversation whose streams came in these pieces.
fn told(received: &[u8], sent: &[u8], cuts: &[usize]) -> (u32, u64, Vec<u8>, u32, Option<u16>) {
    let mut talk = Conversation::default();
    let (mut events, mut bits) = (0, 0);
    for piece in pieces(received, cuts) {
        events |= talk.receive(piece);
    }
    let (method, path) = (talk.method(), path(&talk));
    for piece in pieces(sent, cuts) {
        bits |= talk.send(piece);
    }
    (events, method, path, bits, talk.status())
}

fn pieces<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((*cuts.next().expect("cycles")).clamp(1, bytes.len()));
        all.push(piece);
        bytes = rest;
    }
    all
}

proptest! {
    #[test]
    fn it_makes_no_difference_how_the_stream_is_cut(
        cuts in proptest::collection::vec(1usize..40, 1..40),
        record_bytes in 1usize..400,
        cookie in 0usize..400,
        uri in "/[a-z]{0,10}(/[a-z]{1,300})?(\\?[a-z]{0,20})?",
        status in proptest::option::of(200u16..600),
        first in any::<bool>(),
    ) {
        let mut all = variable("HTTP_COOKIE", &std::vec![b'c'; cookie]);
        all.extend(variable("SCRIPT_NAME", b"/index.php"));
        if first {
            all.extend(variable("REQUEST_URI", uri.as_bytes()));
        }
        all.extend(variable("REQUEST_METHOD", b"POST"));
        if !first {
            all.extend(variable("REQUEST_URI", uri.as_bytes()));
        }
        let received = request(7, true, &all, record_bytes, b"user=ann");
        let line = status.map_or(String::new(), |status| std::format!("Status: {status} x\r\n"));
        let page = std::format!(
            "X-Powered-By: PHP/8.2\r\n{line}Content-type: text/html\r\n\r\nStatus: 599\r\n"
        );
        let sent = response(7, page.as_bytes(), record_bytes);

        let whole = told(&received, &sent, &[usize::MAX]);
        prop_assert_eq!(&whole, &told(&received, &sent, &cuts));
        let kept = &uri.as_bytes()[..uri.len().min(WINDOW)];
        let expected = (
            Event::BEGAN | Event::DECIDED | Event::OURS,
            method_code(b"POST"),
            kept.to_vec(),
            Sent::OURS | Sent::ENDED,
            Some(status.unwrap_or(200)),
        );
        prop_assert_eq!(whole, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        received in proptest::collection::vec(any::<u8>(), 0..600),
        sent in proptest::collection::vec(any::<u8>(), 0..600),
        cuts in proptest::collection::vec(1usize..40, 1..40),
    ) {
        let _ = opens(&received, received.len());
        let mut bytes = begin(1, true);
        bytes.extend(&received);
        let _ = told(&received, &sent, &cuts);
        let _ = told(&bytes, &sent, &cuts);
    }
}
