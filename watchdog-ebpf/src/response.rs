//! What is sent: a send on an inbound connection says for certain whose work this was, and how the response ends.

use core::ffi::c_void;

use watchdog_common::fastcgi::begins_response;
use watchdog_common::http::{self, Framing, RESPONSE_WINDOW, STEP};
use watchdog_common::types::{Loss, RequestFlags};

use crate::bytes::{read_window, reloaded, repeat};
use crate::counters::lost;
use crate::eager;
use crate::elsewhere::{asked, lead};
use crate::fastcgi;
use crate::goroutine::keep;
use crate::handover::{LONGEST_SIGN, answers, settle, tells_done};
use crate::maps::{Binding, Role};
use crate::registers::read_user;
use crate::request::{Cause, begin, bind, flush, ongoing};
use crate::socket::{Operation, kind, phase};
use crate::streams;

/// How a response's end is told.
mod framing {
    pub(crate) const UNKNOWN: u16 = 0;
    pub(crate) const LENGTH: u16 = 1;
    pub(crate) const CHUNKED: u16 = 2;
    pub(crate) const NO_BODY: u16 = 3;
}

/// Errors after which nothing more can be sent on a connection.
const EPIPE: i32 = -32;
const ECONNRESET: i32 = -104;
const ENOTCONN: i32 = -107;
const ESHUTDOWN: i32 = -108;
const ETIMEDOUT: i32 = -110;

#[inline(always)]
pub(crate) fn on_send(sk: *const c_void, sent: i32) {
    let failed = matches!(sent, EPIPE | ECONNRESET | ENOTCONN | ESHUTDOWN | ETIMEDOUT);
    // EAGAIN, an interruption, nothing sent: there will be another call.
    if sent <= 0 && !failed {
        return;
    }
    let moved = if failed { 0 } else { u64::from(sent as u32) };
    if let Some(mut op) = Operation::of(sk, moved) {
        send(&mut op, Some(sk), failed);
    }
}

/// Something was sent, or the connection failed; `sk` is its socket, if it is one in clear.
#[inline(always)]
pub(crate) fn send(op: &mut Operation, sk: Option<*const c_void>, failed: bool) {
    if op.connection.kind == kind::UNKNOWN {
        send_first(op);
    }
    match op.connection.kind {
        kind::OTHER | kind::FOREIGN => send_elsewhere(op, sk),
        // What is done for another process of the same service is its request's.
        kind::JOINED => {
            bind(op.thread, op.connection.outer, Cause::Send, op.slot, op.now);
            flush(op.thread, op.slot);
        }
        kind::INBOUND | kind::FASTCGI | kind::UWSGI
            if !matches!(op.connection.phase, phase::IDLE | phase::OPENING) =>
        {
            send_response(op, sk, failed);
        }
        kind::CLEARED => keep(op.thread, op.slot),
        kind::HTTP2 if !failed => streams::follow_sent(op),
        _ => {}
    }
}

/// The thread's request waits for an answer on this connection. A few bytes are how a pool's thread tells its loop that
/// its work is done.
#[inline(always)]
fn send_elsewhere(op: &mut Operation, sk: Option<*const c_void>) {
    if op.call.passes_on() {
        op.thread.role |= Role::PASSES;
    }
    let tells = op.moved <= LONGEST_SIGN && op.thread.binding != Binding::OWN;
    if tells {
        settle(op.thread, op.tgid);
    }
    let made_for = op.connection.sent == 0 && ongoing(op.connection.outer).is_some();
    if op.thread.request.is_some()
        && asked(op.connection, op.thread.request)
        // Else the other end was told when the connection was made: a loop that connects sends later, when it may work
        // on something else.
        && !made_for
        && let Some(sk) = sk
    {
        lead(sk, op.thread.request);
    }
    if tells {
        flush(op.thread, op.slot);
        tells_done(op.thread);
    }
}

/// Nothing was received on this connection yet, so it leads elsewhere; unless this is the response of a request
/// that came before the agent did.
#[inline(always)]
fn send_first(op: &mut Operation) {
    op.connection.kind = kind::OTHER;
    let mut start = [0u8; 16];
    let readable = op.moved >= 16
        && op
            .call
            .first_bytes(op.moved)
            .is_some_and(|bytes| read_user(start.as_mut_ptr(), 16, bytes.address));
    if !readable {
        return;
    }
    if http::status(&start).is_some() {
        op.connection.kind = kind::INBOUND;
        lost(Loss::Midstream);
    } else if begins_response(&start) {
        op.connection.kind = kind::FASTCGI;
        op.connection.phase = phase::OPENING;
        lost(Loss::Midstream);
    }
}

/// Reads the beginning of what is sent into `head`; the status code when it is a response's beginning.
#[inline(always)]
fn response_start(op: &mut Operation) -> Option<(u16, usize)> {
    let bytes = op.call.first_bytes(op.moved)?;
    let len = if bytes.len > RESPONSE_WINDOW as u64 { RESPONSE_WINDOW } else { bytes.len as usize };
    if len < 16 {
        return None;
    }
    if !read_window(op.connection, bytes.address)
        && !read_user(op.connection.head.as_mut_ptr(), len as u32, bytes.address)
    {
        return None;
    }
    // SAFETY: the buffer is longer than 16 bytes and of the same alignment.
    let start = unsafe { &*op.connection.head.as_ptr().cast::<[u8; 16]>() };
    op.connection.head_len = len as u32;
    http::status(start).map(|status| (status, reloaded(&op.connection.head_len)))
}

/// A send on an inbound connection says for certain whose work this was.
#[inline(always)]
fn send_response(op: &mut Operation, sk: Option<*const c_void>, failed: bool) {
    let records = op.connection.kind == kind::FASTCGI;
    let mut flags = RequestFlags::ANSWERED;
    if records
        && !failed
        && let Some(sk) = sk
    {
        let Some(told) = fastcgi::sent(op, sk) else { return };
        flags = told;
    }
    if ongoing(op.connection.request).is_none() && !continue_response(op) {
        return;
    }
    let request = op.connection.request;
    let mut begins = false;
    if let Some(place) = ongoing(request)
        && place.flags & RequestFlags::ANSWERED == 0
    {
        begins = true;
        answers(op.thread, place);
    }
    let used_ns = op.thread.held_ns;
    bind(op.thread, request, Cause::Send, op.slot, op.now);
    if begins {
        eager::answers(op.thread, request, used_ns);
    }
    op.thread.role |= Role::ANSWERS;
    if records {
        op.connection.phase = phase::RESPONSE;
    } else if op.connection.phase != phase::RESPONSE && !begin_response(op, failed) {
        flush(op.thread, op.slot);
        return;
    }
    op.connection.sent += op.moved;
    let complete = failed
        || match op.connection.framing {
            _ if records => false,
            framing::LENGTH => op.connection.sent >= op.connection.expected,
            framing::CHUNKED => op.call.last_five(op.moved).is_some_and(|end| end == *b"0\r\n\r\n"),
            _ => true,
        };
    if complete {
        flags |= RequestFlags::COMPLETE;
    }
    op.thread.seen |= u32::from(flags);
    flush(op.thread, op.slot);
    if let Some(request) = ongoing(request) {
        request.status = op.connection.status;
        request.last_mono_ns = op.now;
        request.flags |= flags & !RequestFlags::LINGERS;
    }
}

/// More is sent of a response that was counted already (its end could not be told): the time goes to the sum.
#[inline(always)]
fn continue_response(op: &mut Operation) -> bool {
    if op.connection.phase != phase::RESPONSE {
        return false;
    }
    let flags = RequestFlags::CONTINUATION | RequestFlags::ANSWERED;
    begin(op.connection, op.thread, op.slot, op.tgid, op.now, flags)
}

/// The first send of a response: its status and framing. False for an interim response (100 Continue).
#[inline(always)]
fn begin_response(op: &mut Operation, failed: bool) -> bool {
    let mut status = 0;
    op.connection.framing = framing::UNKNOWN;
    if !failed && let Some((code, len)) = response_start(op) {
        status = code;
        if code < 200 && code != 101 {
            return false;
        }
        if code == 204 || code == 304 || op.connection.no_body != 0 {
            op.connection.framing = framing::NO_BODY;
        } else {
            let mut reading = FramingReading {
                head: &raw const op.connection.head,
                len: len as u64,
                framing: u64::from(framing::UNKNOWN),
                length_at: 0,
            };
            repeat(FRAMING_ROUNDS as u32, read_framing, &mut reading);
            op.connection.framing = reading.framing as u16;
            op.connection.target = reading.length_at as u32;
        }
    }
    if op.connection.framing == framing::LENGTH {
        let at = reloaded(&op.connection.target);
        op.connection.expected = http::response_bytes(&op.connection.head, at);
    }
    if status == 101 {
        // What follows is another protocol.
        op.connection.kind = kind::OPAQUE;
    }
    op.connection.status = status;
    op.connection.phase = phase::RESPONSE;
    true
}

#[repr(C)]
struct FramingReading {
    head: *const [u8; 2 * RESPONSE_WINDOW],
    len: u64,
    framing: u64,
    length_at: u64,
}

/// Words of a response's head that one round looks at: calling a round takes longer than looking at a word.
const ROUND_WORDS: usize = 4;
const FRAMING_ROUNDS: usize = RESPONSE_WINDOW / STEP / ROUND_WORDS;

unsafe extern "C" fn read_framing(round: u64, state: *mut FramingReading) -> u64 {
    // SAFETY: what `begin_response` passed; the mask keeps the words inside the buffer, which is aligned for them.
    let state = unsafe { &mut *state };
    let begin = STEP * ROUND_WORDS * (round as usize & (FRAMING_ROUNDS - 1));
    // SAFETY: as above.
    let head = unsafe { &*state.head };
    let mut w = 0;
    while w < ROUND_WORDS {
        let at = begin + STEP * w;
        #[expect(clippy::cast_ptr_alignment, reason = "the buffer is aligned to 8, and so is each step")]
        // SAFETY: as above.
        let word = unsafe { state.head.cast::<u8>().add(at).cast::<u64>().read() };
        match http::framing_step(head, at, word, state.len as usize) {
            None => {}
            Some(Framing::LengthAt(at)) => {
                state.framing = u64::from(framing::LENGTH);
                state.length_at = at as u64;
                return 1;
            }
            Some(Framing::Chunked) => {
                state.framing = u64::from(framing::CHUNKED);
                return 1;
            }
            Some(Framing::Unknown) => return 1,
        }
        w += 1;
    }
    0
}
