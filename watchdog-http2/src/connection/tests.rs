#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

use watchdog_common::types::{PIECE_BYTES, StreamEvent, StreamPiece};

use super::*;

const LOGIN: u16 = 1;
const OTHER: u16 = 0;

fn resolve(_: u16, _: u64, path: &[u8]) -> u16 {
    if path == b"/login" { LOGIN } else { OTHER }
}

/// Pieces of one frame.
fn pieces(sequence: &mut u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<StreamPiece> {
    let chunks: Vec<&[u8]> =
        if payload.is_empty() { vec![payload] } else { payload.chunks(PIECE_BYTES).collect() };
    let mut left = payload.len() as u32;
    let piece = |chunk: &[u8]| {
        left -= chunk.len() as u32;
        let mut bytes = [0; PIECE_BYTES];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *sequence += 1;
        StreamPiece {
            connection: 7,
            mono_ns: 100 * u64::from(stream),
            tgid: 1,
            stream,
            sequence: *sequence - 1,
            length: payload.len() as u32,
            left,
            _pad: 0,
            build_slot: 3,
            event: StreamEvent::PIECE,
            len: chunk.len() as u16,
            frame: kind,
            flags,
            bytes,
        }
    };
    chunks.into_iter().map(piece).collect()
}

fn seen(connection: &mut Connection, told: &[StreamPiece]) -> Vec<Request> {
    let mut ended = Vec::new();
    for piece in told {
        connection.piece(piece, &resolve, &mut ended);
    }
    ended
}

const LITERAL: &[u8] = b"\x83\x44\x06/login";
const REFERENCE: &[u8] = &[0x83, 0xbe];
const WHOLE: u8 = flag::END_HEADERS;

#[test]
fn a_request_is_told_when_its_answer_is_complete() {
    let (mut connection, mut n) = (Connection::default(), 0);
    assert_eq!(seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE, 1, LITERAL)), []);
    assert_eq!(seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE, 3, REFERENCE)), []);
    // Trailers are no request.
    assert_eq!(seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE | 1, 1, b"\x40\x01a\x01b")), []);
    let mut ended = Vec::new();
    connection.end(3, 900, &mut ended);
    connection.end(3, 900, &mut ended);
    connection.end(1, 950, &mut ended);
    let request = |began, over| Request {
        build_slot: 3,
        endpoint: Some(LOGIN),
        began_mono_ns: began,
        ended_mono_ns: over,
    };
    assert_eq!(ended, [request(300, 900), request(100, 950)]);
}

#[test]
fn padding_priority_and_continuations_are_taken_out() {
    let (mut connection, mut n) = (Connection::default(), 0);
    let mut padded = vec![3, 0, 0, 0, 0, 15, 0x83, 0x44];
    padded.extend([0xaa; 3]);
    let mut told = pieces(&mut n, frame::HEADERS, flag::PADDED | flag::PRIORITY, 1, &padded);
    told.extend(pieces(&mut n, frame::CONTINUATION, 0, 1, b"\x06/lo"));
    told.extend(pieces(&mut n, frame::CONTINUATION, 0, 1, b"gin\x40\x01a\x7f\xd9\x03"));
    told.extend(pieces(&mut n, frame::CONTINUATION, 0, 1, &[b'x'; 0x7f + 0x1d9]));
    told.extend(pieces(&mut n, frame::CONTINUATION, WHOLE, 1, b""));
    seen(&mut connection, &told);
    let mut ended = Vec::new();
    connection.end(1, 1, &mut ended);
    assert_eq!(ended.iter().map(|request| request.endpoint).collect::<Vec<_>>(), [Some(LOGIN)]);
}

#[test]
fn behind_a_gap_requests_are_counted_and_what_is_sent_anew_is_known_again() {
    let (mut connection, mut n) = (Connection::default(), 0);
    let mut told = pieces(&mut n, frame::HEADERS, WHOLE, 1, LITERAL);
    // Lost: stream 3, and 5 of which two pieces were needed.
    n += 3;
    told.extend(pieces(&mut n, frame::HEADERS, WHOLE, 7, REFERENCE));
    told.extend(pieces(&mut n, frame::HEADERS, WHOLE, 9, LITERAL));
    told.extend(pieces(&mut n, frame::HEADERS, WHOLE, 11, REFERENCE));
    let mut ended = seen(&mut connection, &told);
    assert_eq!(ended, []);
    connection.end_all(5000, &mut ended);
    let endpoints: Vec<_> = ended.iter().map(|request| request.endpoint).collect();
    assert_eq!(endpoints, [Some(LOGIN), None, None, None, Some(LOGIN), Some(LOGIN)]);
}

#[test]
fn a_head_whose_beginning_is_missing_is_counted() {
    let (mut connection, mut n) = (Connection::default(), 0);
    let mut long = LITERAL.to_vec();
    long.extend([0x82; 300]);
    let told = pieces(&mut n, frame::HEADERS, WHOLE, 5, &long);
    assert_eq!(told.len(), 2);
    seen(&mut connection, &told[1..]);
    let mut ended = Vec::new();
    connection.end_before(501, &mut ended);
    assert_eq!(ended, [Request { build_slot: 3, endpoint: None, began_mono_ns: 500, ended_mono_ns: 500 }]);
}

#[test]
fn without_the_ends_of_answers_requests_end_as_they_begin() {
    let (mut connection, mut n) = (Connection::default(), 0);
    let mut ended = seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE, 1, LITERAL));
    connection.unended(200, &mut ended);
    ended.extend(seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE, 3, REFERENCE)));
    let times: Vec<_> =
        ended.iter().map(|one| (one.endpoint, one.began_mono_ns, one.ended_mono_ns)).collect();
    assert_eq!(times, [(Some(LOGIN), 100, 200), (Some(LOGIN), 300, 300)]);
    connection.end(99, 0, &mut ended);
    assert_eq!(seen(&mut connection, &pieces(&mut n, frame::HEADERS, WHOLE, 5, REFERENCE)), []);
}
