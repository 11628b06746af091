extern crate std;

use std::vec;
use std::vec::Vec;

use super::{Frames, HEAD_BYTES, PREFACE_BYTES, ROOM, Says, Way, begins_request, flag, frame};

fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Pieces of heads by stream, streams that ended, whether it goes on.
type Told = (Vec<(u32, Vec<u8>)>, Vec<u32>, bool);

/// What is shipped of each frame, and the streams that end.
fn read(bytes: &[u8], cut: usize, behind: u32, sent: bool) -> Told {
    let mut frames = Frames::default();
    frames.begin(behind);
    let (mut shipped, mut ended) = (Vec::new(), Vec::new());
    for mut call in bytes.chunks(cut) {
        while !call.is_empty() {
            let (way, len) = frames.plan(u32::try_from(call.len()).unwrap());
            assert!(len > 0);
            let (piece, rest) = call.split_at(len as usize);
            call = rest;
            match way {
                Way::Pass => frames.passed(len),
                Way::Ship => {
                    shipped.push((frames.now.stream, piece.to_vec()));
                    frames.passed(len);
                }
                Way::Head { at } => {
                    assert!(at < HEAD_BYTES && at + len <= HEAD_BYTES);
                    frames.head[at as usize..(at + len) as usize].copy_from_slice(piece);
                    match frames.took(len, sent) {
                        Says::Nothing => {}
                        Says::Empty => shipped.push((frames.now.stream, Vec::new())),
                        Says::Ends => ended.push(frames.now.stream),
                        Says::Unsound => return (shipped, ended, false),
                    }
                }
            }
        }
    }
    (shipped, ended, true)
}

fn joined(pieces: Vec<(u32, Vec<u8>)>) -> Vec<(u32, Vec<u8>)> {
    let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
    for (stream, piece) in pieces {
        match all.last_mut() {
            Some((last, bytes)) if *last == stream => bytes.extend(piece),
            _ => all.push((stream, piece)),
        }
    }
    all
}

#[test]
fn only_heads_are_shipped_however_the_stream_is_cut() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame_of(frame::SETTINGS, 0, 0, &[0; 12]));
    bytes.extend(frame_of(frame::HEADERS, flag::END_HEADERS, 1, &[7; 600]));
    bytes.extend(frame_of(frame::DATA, flag::END_STREAM, 1, &[1; 3000]));
    bytes.extend(frame_of(frame::HEADERS, 0, 3, b"a"));
    bytes.extend(frame_of(frame::CONTINUATION, flag::END_HEADERS, 3, b""));
    bytes.extend(frame_of(frame::RST_STREAM, 0, 3, &[0; 4]));
    for cut in [1, 2, 7, 9, 24, 100, 1 << 20] {
        let (shipped, ended, sound) = read(&bytes, cut, PREFACE_BYTES, false);
        assert!(sound);
        assert_eq!(joined(shipped), [(1, vec![7; 600]), (3, b"a".to_vec())], "cut by {cut}");
        assert_eq!(ended, [3]);
    }
}

#[test]
fn the_end_of_an_answer_is_its_last_frame() {
    let mut bytes = frame_of(frame::SETTINGS, 0, 0, &[]);
    bytes.extend(frame_of(frame::HEADERS, flag::END_HEADERS, 1, &[9; 20]));
    bytes.extend(frame_of(frame::DATA, 0, 1, &[1; 100]));
    bytes.extend(frame_of(frame::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, &[1; 9]));
    bytes.extend(frame_of(frame::DATA, flag::END_STREAM, 1, &[]));
    assert_eq!(read(&bytes, 11, 0, true), (vec![], vec![3, 1], true));
}

#[test]
fn what_is_no_frame_is_told() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 40],
        &[0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 0, 255, 1, 1, 1, 1, 1, 1, 1, 1],
    ] {
        assert!(!read(bytes, 64, 0, false).2, "{bytes:?}");
    }
}

#[test]
fn a_payload_that_is_not_in_memory_is_passed_over() {
    let mut frames = Frames::default();
    frames.begin(0);
    frames.head[..9].copy_from_slice(&frame_of(frame::DATA, 0, 1, &[0; 100])[..9]);
    assert_eq!(frames.took(9, true), Says::Nothing);
    assert!(frames.pass(60) && !frames.pass(41) && frames.pass(40));
    assert_eq!(frames.plan(20), (Way::Head { at: 0 }, 9));
}

#[test]
fn a_request_in_mid_connection_is_told_from_other_protocols() {
    let is = |bytes: &[u8]| {
        let mut room = bytes.to_vec();
        room.resize(512, 0);
        begins_request(&room, bytes.len())
    };
    let head = |first: &[u8]| {
        let mut payload = first.to_vec();
        payload.extend([0x86; 12]);
        payload
    };
    assert!(is(&frame_of(frame::HEADERS, 5, 7, &head(&[0x83]))));
    assert!(is(&frame_of(frame::HEADERS, 0x25, 7, &head(&[0, 0, 0, 0, 15, 0x82]))));
    // All of it refers to what was sent before.
    assert!(is(&frame_of(frame::HEADERS, 5, 7, &[0x82, 0x86, 0xbf, 0xbe])));
    // The rest comes with the next call.
    assert!(!is(&frame_of(frame::HEADERS, 5, 7, &head(&[0x83]))[..9]));
    // An answer begins with its status, a packet of uwsgi with the size of its variables.
    assert!(!is(&frame_of(frame::HEADERS, 4, 7, &head(&[0x88]))));
    assert!(!is(b"\0\x60\x01\0\x0c\0QUERY_STRING\0\0\x0e\0REQUEST_METHOD"));
    assert!(!is(&frame_of(frame::HEADERS, 4, 8, &head(&[0x82]))));
    assert!(!is(&[0; ROOM]));
}
