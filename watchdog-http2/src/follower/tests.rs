use watchdog_common::http2::{flag, frame};
use watchdog_common::types::{PIECE_BYTES, StreamEvent, StreamPiece};

use super::*;

fn told(connection: u64, event: u16, stream: u32, sequence: u32, mono_ns: u64) -> StreamPiece {
    let mut bytes = [0; PIECE_BYTES];
    bytes[..2].copy_from_slice(&[0x83, 0x84]);
    StreamPiece {
        connection,
        mono_ns,
        tgid: u32::try_from(connection).unwrap_or(0),
        stream,
        sequence,
        length: 2,
        left: 0,
        _pad: 0,
        build_slot: 1,
        event,
        len: 2,
        frame: frame::HEADERS,
        flags: flag::END_HEADERS,
        bytes,
    }
}

#[test]
fn connections_end_with_their_sockets_and_processes() {
    let mut follower = Follower::default();
    for connection in 1..=3 {
        follower.take(&told(connection, StreamEvent::PIECE, 1, 0, 10), &|_, _, _| 4);
    }
    follower.take(&told(1, StreamEvent::END, 1, 0, 20), &|_, _, _| 4);
    follower.take(&told(2, StreamEvent::CLOSED, 0, 0, 30), &|_, _, _| 4);
    follower.take(&told(9, StreamEvent::CLOSED, 0, 0, 30), &|_, _, _| 4);
    follower.sweep(40, |tgid| tgid != 3);
    let ends: Vec<_> = follower.requests().iter().map(|one| (one.endpoint, one.ended_mono_ns)).collect();
    assert_eq!(ends, [(Some(4), 20), (Some(4), 30), (Some(4), 40)]);
    assert_eq!(follower.held().0, 1);
    follower.sweep(50, |_| false);
    assert_eq!(follower.held(), (0, 0));
}

#[test]
fn memory_is_bounded_and_the_oldest_go_first() {
    let mut follower = Follower::default();
    let connections = MOST_CONNECTIONS as u64 * 2;
    for connection in 1..=connections {
        follower.take(&told(connection, StreamEvent::PIECE, 1, 0, connection), &|_, _, _| 0);
        assert!(follower.held().0 <= MOST_CONNECTIONS && follower.held().1 <= MOST_BYTES);
    }
    let last = follower.connections.values().map(|connection| connection.last_mono_ns).max();
    assert_eq!(last, Some(connections));
    assert!(follower.requests().len() as u64 >= connections - MOST_CONNECTIONS as u64);
}

#[test]
fn an_end_that_never_comes_is_not_waited_for() {
    let mut follower = Follower::default();
    follower.take(&told(1, StreamEvent::PIECE, 1, 0, 10), &|_, _, _| 0);
    follower.sweep(LONGEST_NS, |_| true);
    assert_eq!(follower.requests(), []);
    follower.sweep(LONGEST_NS + 20, |_| true);
    assert_eq!(follower.requests().len(), 1);
}
