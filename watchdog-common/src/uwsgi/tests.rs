#![allow(clippy::cast_possible_truncation, reason = "test data is short")]

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[path = "captured.rs"]
mod captured;
use captured::PACKET;

fn packet(modifier: u8, variables: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (name, value) in variables {
        content.extend((name.len() as u16).to_le_bytes());
        content.extend(name.as_bytes());
        content.extend((value.len() as u16).to_le_bytes());
        content.extend(*value);
    }
    let mut bytes = std::vec![modifier];
    bytes.extend((content.len() as u16).to_le_bytes());
    bytes.push(0);
    bytes.extend(content);
    bytes
}

fn told(bytes: &[u8], cuts: &[usize]) -> (u32, u64, Vec<u8>) {
    let mut reading = Reading::default();
    let mut events = 0;
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*cut).clamp(1, rest.len()));
        events |= reading.receive(piece);
        rest = behind;
    }
    let (path, len) = reading.path();
    (events, reading.method(), path[..len].to_vec())
}

const DONE: u32 = Event::BEGAN | Event::DECIDED;

#[test]
fn nginx_asks_uwsgi_for_a_login() {
    assert_eq!(opens(PACKET, PACKET.len()), Opens::Yes);
    let expected = (DONE, method_code(b"POST"), b"/login?x=1".to_vec());
    assert_eq!(told(PACKET, &[usize::MAX]), expected);
    // As older servers read it: the header, then the rest.
    assert_eq!(told(PACKET, &[4, usize::MAX]), expected);
}

#[test]
fn the_path_falls_back_to_script_and_info() {
    let all = [("QUERY_STRING", &b""[..]), ("PATH_INFO", b"/login"), ("SCRIPT_NAME", b"/shop")];
    assert_eq!(told(&packet(0, &all), &[9]), (DONE, 0, b"/shop/login".to_vec()));
}

#[test]
fn what_only_begins_like_a_packet_is_none() {
    // A wake-up byte of an event loop, many of them, a PostgreSQL start-up, an HTTP/2 frame, a TLS record, FastCGI.
    assert_eq!(opens(b"\0", 1), Opens::Maybe);
    for bytes in [
        &b"\0\0\0\0\0\0\0\0"[..],
        b"\0\0\0\x54\0\x03\0\0user\0postgres\0database\0shop\0\0",
        b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0",
        b"\0\xd5\x01\0\x0c\0query_string\x03\0x=1",
        b"\0\xd5\x01\0\x0c\0ABCDEFGHIJKL\x03\0x=1",
        b"\0\x10\0\0\x0e\0REQUEST_METHOD",
        b"GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(opens(bytes, bytes.len()), Opens::No, "{bytes:?}");
    }
    for len in 0..14 {
        assert_eq!(opens(PACKET, len), Opens::Maybe, "{len} bytes");
    }
    assert_eq!(told(b"\0\xd5\x01\0\x0c\0query_string\x03\0x=1", &[1]).0, Event::BROKEN);
    assert_eq!(told(b"\0\0\0\0\0\0", &[1]).0, Event::BROKEN);
}

proptest! {
    #[test]
    fn it_makes_no_difference_how_the_packet_is_cut(
        cuts in proptest::collection::vec(1usize..40, 1..40),
        cookie in 0usize..600,
        name in "[A-Z_]{1,60}",
        uri in "/[a-z]{0,10}(/[a-z]{1,300})?",
        modifier in prop_oneof![Just(0u8), Just(5), Just(7), Just(14)],
    ) {
        let cookie = std::vec![b'c'; cookie];
        let all = [
            ("QUERY_STRING", &b""[..]),
            (&std::format!("X_{name}"), b"1"),
            ("HTTP_COOKIE", &cookie),
            ("REQUEST_METHOD", b"POST"),
            ("REQUEST_URI", uri.as_bytes()),
            ("PATH_INFO", b"/other"),
        ];
        let bytes = packet(modifier, &all);
        let kept = uri.as_bytes()[..uri.len().min(WINDOW)].to_vec();
        let expected = (DONE, method_code(b"POST"), kept);
        prop_assert_eq!(&told(&bytes, &[usize::MAX]), &expected);
        prop_assert_eq!(&told(&bytes, &cuts), &expected);
        prop_assert_eq!(opens(&bytes, bytes.len()), Opens::Yes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        cuts in proptest::collection::vec(1usize..40, 1..40),
    ) {
        let _ = opens(&bytes, bytes.len());
        let _ = told(&bytes, &cuts);
        let mut begun = PACKET[..20].to_vec();
        begun.extend(&bytes);
        let _ = told(&begun, &cuts);
    }
}
