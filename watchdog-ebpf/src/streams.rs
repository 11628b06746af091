//! HTTP/2: the heads of requests are handed to the agent as they came, with the ends of their streams. What they say is
//! compressed with a state that the connection keeps, and requests interleave: whose CPU time it is, nothing here says.
//!
//! A payload that concerns nobody is passed over by its length. The state of both directions lies where the head of an
//! HTTP/1 request would.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use watchdog_common::http2::{PREFACE_BYTES, ROOM, Says, Way};
use watchdog_common::types::{Loss, PIECE_BYTES, STREAM_EVENT_BYTES, StreamEvent, StreamPiece};

use crate::bytes::{reloaded, repeat};
use crate::counters::lost;
use crate::maps::{Connection, Direction, STREAMS};
use crate::packets::MAX_PIECES;
use crate::registers::read_user;
use crate::request::now_ns;
use crate::socket::Operation;

/// The connection turns out to be of HTTP/2. `kept`: so many bytes of the preface came with earlier calls; `None`: its
/// beginning was not seen, and a frame begins here.
#[inline(always)]
pub(crate) fn open(connection: &mut Connection, kept: Option<u32>) {
    let streams = connection.streams();
    streams.received.sequence = u32::from(kept.is_none());
    streams.received.frames.begin(kept.map_or(0, |kept| PREFACE_BYTES.saturating_sub(kept)));
    streams.sent.sequence = 0;
    // What a server says first may be out already.
    streams.sent.frames.lose();
}

/// Follows what was received; false where it cannot be.
///
/// A function of its own, with little on its stack: its callers and what it calls have theirs besides.
#[inline(never)]
pub(crate) fn follow_received(op: &mut Operation) -> bool {
    let received = &raw mut op.connection.streams().received;
    // SAFETY: a part of the live map value that the operation borrows nowhere else.
    let received = unsafe { &mut *received };
    if follow(op, received, false) {
        return true;
    }
    // The piece that is missing tells the agent that it has to begin anew.
    received.sequence += 1;
    lost(Loss::Http2);
    false
}

/// Follows what was sent, for the ends of answers.
#[inline(never)]
pub(crate) fn follow_sent(op: &mut Operation) {
    let sent = &raw mut op.connection.streams().sent;
    // SAFETY: as above.
    let sent = unsafe { &mut *sent };
    let followed = follow(op, sent, true);
    // Told once each time.
    if !followed && sent.sequence == 0 {
        tell(sent, StreamEvent::UNENDED);
    }
    sent.sequence = u32::from(!followed);
}

#[inline(always)]
fn follow(op: &Operation, direction: &mut Direction, sent: bool) -> bool {
    if direction.frames.is_in_step() {
        if direction.frames.pass(op.moved) {
            return true;
        }
    } else {
        // Servers and clients hand whole frames to their calls, more often than not.
        direction.frames.begin(0);
    }
    direction.connection = op.connection.request.connection;
    direction.mono_ns = op.now;
    direction.tgid = op.tgid;
    direction.slot = u32::from(op.slot);
    direction.sent = u32::from(sent);
    if !direction.walk.begin(op) {
        direction.frames.lose();
        return false;
    }
    let mut stack = Stack { direction };
    repeat(MAX_PIECES, step, &mut stack);
    // SAFETY: what was just put there.
    let direction = unsafe { &mut *stack.direction };
    if !direction.walk.is_over() {
        direction.frames.lose();
    }
    direction.frames.is_in_step()
}

/// What the helper hands to each step: it must lie on the stack.
#[repr(C)]
struct Stack {
    direction: *mut Direction,
}

unsafe extern "C" fn step(_round: u64, stack: *mut Stack) -> u64 {
    // SAFETY: what `follow` passed: the live map value, which it does not touch meanwhile.
    let direction = unsafe { &mut *(*stack).direction };
    let Some(available) = direction.walk.available() else { return 1 };
    if available == 0 {
        return 0;
    }
    let (way, len) = direction.frames.plan(available);
    match way {
        Way::Pass => direction.frames.passed(len),
        Way::Ship => {
            ship(direction, len);
            direction.frames.passed(len);
        }
        Way::Head { at } => {
            if !take_head(direction, at, len) {
                return 1;
            }
        }
    }
    direction.walk.advance(len);
    0
}

/// Copies bytes of a frame's head, and acts on what it says once it is whole; false where the direction is lost.
#[inline(always)]
fn take_head(direction: &mut Direction, at: u32, len: u32) -> bool {
    direction.copied = len;
    let len = reloaded(&direction.copied) as u32 & (ROOM as u32 / 2 - 1);
    let at = at as usize & (ROOM / 2 - 1);
    // SAFETY: each is at most the half of the room.
    let to = unsafe { direction.frames.head.as_mut_ptr().add(at) };
    if !read_user(to, len, direction.walk.address()) {
        lost(Loss::UnreadableBuffer);
        direction.frames.lose();
        return false;
    }
    match direction.frames.took(len, direction.sent != 0) {
        Says::Nothing => {}
        Says::Empty => ship(direction, 0),
        Says::Ends => tell(direction, StreamEvent::END),
        Says::Unsound => return false,
    }
    true
}

/// Hands the next bytes to the agent.
#[inline(always)]
fn ship(direction: &mut Direction, len: u32) {
    let sequence = direction.sequence;
    // Counted before it can fail: what is missing shows.
    direction.sequence = sequence + 1;
    direction.copied = len;
    let len = reloaded(&direction.copied) as u32 & 0xff;
    if len > PIECE_BYTES as u32 {
        return;
    }
    let Some(mut entry) = STREAMS.reserve(0) else {
        lost(Loss::StreamRingFull);
        return;
    };
    let piece = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size; each field is written before it is submitted, but for bytes behind `len`.
    unsafe {
        fill(&raw mut (*piece).connection, direction, StreamEvent::PIECE, len);
        (*piece).sequence = sequence;
        let to = (&raw mut (*piece).bytes).cast::<u8>();
        if read_user(to, len, direction.walk.address()) {
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        } else {
            entry.discard(u64::from(BPF_RB_NO_WAKEUP));
            lost(Loss::UnreadableBuffer);
        }
    }
}

/// Writes the part that events have too; `to` is where it begins.
#[inline(always)]
unsafe fn fill(to: *mut u64, direction: &Direction, event: u16, len: u32) {
    let piece = to.cast::<StreamPiece>();
    // SAFETY: the caller has room for that part.
    unsafe {
        (&raw mut (*piece).connection).write(direction.connection);
        (&raw mut (*piece).mono_ns).write(direction.mono_ns);
        (&raw mut (*piece).tgid).write(direction.tgid);
        (&raw mut (*piece).stream).write(direction.frames.now.stream);
        (&raw mut (*piece).sequence).write(0);
        (&raw mut (*piece).length).write(direction.frames.now.length);
        (&raw mut (*piece)._pad).write(0);
        (&raw mut (*piece).left).write(direction.frames.left.saturating_sub(len));
        (&raw mut (*piece).build_slot).write(direction.slot as u16);
        (&raw mut (*piece).event).write(event);
        (&raw mut (*piece).len).write(len as u16);
        (&raw mut (*piece).frame).write(direction.frames.now.frame);
        (&raw mut (*piece).flags).write(direction.frames.now.flags);
    }
}

/// Tells the agent of something else; what finds no room is made up for by what comes later on the connection.
#[inline(always)]
fn tell(direction: &Direction, event: u16) {
    let Some(mut entry) = STREAMS.reserve_untyped::<[u64; STREAM_EVENT_BYTES / 8]>(0) else {
        lost(Loss::StreamRingFull);
        return;
    };
    // SAFETY: reserved memory of just this size.
    unsafe { fill(entry.as_mut_ptr().cast(), direction, event, 0) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// The connection is closed. In whosever context: what it was for is not known here, and the agent knows it.
#[inline(always)]
pub(crate) fn close(connection: &mut Connection) {
    let cookie = connection.request.connection;
    let received = &mut connection.streams().received;
    received.connection = cookie;
    received.mono_ns = now_ns();
    tell(received, StreamEvent::CLOSED);
}
