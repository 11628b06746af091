//! Feeds arbitrary bytes to what reads HTTP/2: the frames that the kernel programs follow, and the heads that the agent
//! decodes.
//!
//! Beyond not panicking and staying within bounds: it makes no difference how a connection is cut into calls; where
//! another decoder reads a head from the beginning of a connection on, so do we, alike; and a gap makes nothing known
//! that was not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watchdog_common::http::method_code;
use watchdog_common::http2::{Frames, HEAD_BYTES, Says, Way, flag, frame};
use watchdog_common::types::{PIECE_BYTES, StreamEvent, StreamPiece};
use watchdog_http2::Follower;
use watchdog_http2::hpack::{Decoder, Path};

fuzz_target!(|data: &[u8]| {
    let Some((&what, data)) = data.split_first() else { return };
    match what % 3 {
        0 => heads(data),
        1 => frames(data),
        _ => events(data),
    }
});

/// Blocks of one connection, each behind its length.
fn heads(mut data: &[u8]) {
    let mut ours = Decoder::default();
    let mut theirs = Some(loona_hpack::Decoder::new());
    // It never saw the first block.
    let mut late = Decoder::default();
    let mut first = true;
    // Nor what that says of the table's size.
    let mut as_usual = true;
    while let Some((&length, rest)) = data.split_first() {
        let (block, behind) = rest.split_at(usize::from(length).min(rest.len()));
        data = behind;
        let read = ours.decode(block);
        assert!(ours.weight() < 64 * 1024);
        let mut method = None;
        let mut path = None;
        let mut paths = 0;
        let known = theirs.as_mut().map(|decoder| {
            decoder.decode_with_cb(block, |name, value| match &name[..] {
                b":method" if method.is_none() => method = Some(value.to_vec()),
                b":path" => {
                    paths += 1;
                    path.get_or_insert_with(|| value.to_vec());
                }
                _ => {}
            })
        });
        match known {
            Some(Ok(())) => {
                let Ok(read) = &read else { panic!("{block:?} is read by others") };
                let code = |text: Vec<u8>| if text.len() <= 32 { method_code(&text) } else { 0 };
                assert_eq!(read.method, method.map(code));
                match (&read.path, path) {
                    (Path::Known(ours), Some(theirs)) => assert_eq!(**ours, *theirs),
                    (Path::None, None) => {}
                    (Path::None, Some(theirs)) => assert!(theirs.len() > 256),
                    other => panic!("{other:?}"),
                }
                // No request has two paths, of which one may be unknown.
                if !first
                    && let Ok(late) = late.decode(block)
                    && as_usual
                    && paths == 1
                    && let Path::Known(known) = late.path
                {
                    assert_eq!(Path::Known(known), read.path);
                }
            }
            // What it makes of the rest is not defined.
            Some(Err(_)) => theirs = None,
            None => {}
        }
        if first {
            as_usual = ours.table_bytes() == Decoder::default().table_bytes();
        }
        first = false;
    }
}

/// A stream of frames, cut in two ways.
fn frames(data: &[u8]) {
    let Some((&[behind, cut, sent], bytes)) = data.split_first_chunk::<3>() else { return };
    let told = |cut: usize| {
        let mut frames = Frames::default();
        frames.begin(u32::from(behind));
        let mut told = Vec::new();
        for mut call in bytes.chunks(cut) {
            while !call.is_empty() {
                let (way, len) = frames.plan(call.len() as u32);
                assert!(len > 0 && len as usize <= call.len());
                let (piece, rest) = call.split_at(len as usize);
                call = rest;
                match way {
                    Way::Pass => frames.passed(len),
                    Way::Ship => {
                        assert!(piece.len() <= PIECE_BYTES);
                        told.extend(piece.iter().map(|byte| (frames.now.stream, u32::from(*byte))));
                        frames.passed(len);
                    }
                    Way::Head { at } => {
                        assert!(at + len <= HEAD_BYTES);
                        frames.head[at as usize..(at + len) as usize].copy_from_slice(piece);
                        match frames.took(len, sent & 1 == 1) {
                            Says::Nothing => {}
                            Says::Empty => told.push((frames.now.stream, 1 << 8)),
                            Says::Ends => told.push((frames.now.stream, 1 << 9)),
                            Says::Unsound => {
                                assert!(!frames.is_in_step());
                                return told;
                            }
                        }
                    }
                }
            }
        }
        told
    };
    assert_eq!(told(usize::MAX), told(usize::from(cut) + 1));
}

/// What the ring might bring.
fn events(mut data: &[u8]) {
    let mut follower = Follower::default();
    let mut now = 1;
    let mut began = 0;
    let mut over = 0;
    while let Some((&[a, b, c, d, e, len], rest)) = data.split_first_chunk::<6>() {
        let (bytes, behind) = rest.split_at(usize::from(len).min(rest.len()).min(PIECE_BYTES));
        data = behind;
        now += u64::from(a);
        let mut piece = StreamPiece {
            connection: u64::from(a % 3),
            mono_ns: now,
            tgid: u32::from(a % 3),
            stream: u32::from(b),
            sequence: u32::from(c),
            length: u32::from(d) + bytes.len() as u32,
            left: u32::from(d & 1) * u32::from(d),
            _pad: 0,
            build_slot: 1,
            event: u16::from(e >> 6),
            len: bytes.len() as u16,
            frame: if e & 1 == 0 { frame::HEADERS } else { frame::CONTINUATION },
            flags: e & (flag::PADDED | flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM),
            bytes: [0; PIECE_BYTES],
        };
        piece.bytes[..bytes.len()].copy_from_slice(bytes);
        began += u32::from(piece.event == StreamEvent::PIECE);
        follower.take(&piece, &|slot, _, path| {
            assert!(slot == 1 && path.len() <= 256);
            7
        });
        for request in follower.requests() {
            assert!(request.began_mono_ns <= request.ended_mono_ns && request.ended_mono_ns <= now);
            over += 1;
        }
        assert!(follower.held().0 <= 3 && follower.held().1 < 1 << 20);
    }
    follower.sweep(now, |_| false);
    over += follower.requests().len();
    assert_eq!(follower.held(), (0, 0));
    // A gap may stand for requests of its own, never for more than there are streams.
    assert!(over <= 256 * (began as usize + 1));
}
