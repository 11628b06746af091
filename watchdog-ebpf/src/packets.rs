//! Requests that come as records or packets and not as text: FastCGI ([`crate::fastcgi`]) and the uwsgi protocol
//! ([`crate::uwsgi`]). Here is what both share: recognising them, and walking what a call moved.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use watchdog_common::abi::HEAD_WINDOW;
use watchdog_common::cgi::{INFO, Memory, NOWHERE, PLACES, Path, Plan, SCRIPT, URI, WINDOW};
use watchdog_common::fastcgi::{Event, Opens};
use watchdog_common::types::{Loss, Protocol};
use watchdog_common::{fastcgi, uwsgi};

use crate::bytes::{reloaded, repeat};
use crate::counters::lost;
use crate::endpoint::speaks;
use crate::maps::{Connection, Packets, packets_of_or_new};
use crate::registers::{Via, read_pair, read_user};
use crate::socket::{Operation, Received, kind, phase};

/// Pieces (records, parameters, headers) of one call that are looked at; a call that holds more than that is lost.
pub(crate) const MAX_PIECES: u32 = 1 << 14;

/// Whether the connection, which begins with `head[..len]`, is of one of the two protocols: its kind.
#[inline(always)]
pub(crate) fn recognise(op: &Operation, len: usize) -> Option<u32> {
    let head = &op.connection.head[..];
    let (opens, kind, protocol) = match head.first() {
        Some(1) => (fastcgi::opens(head, len), kind::FASTCGI, Protocol::FASTCGI),
        _ => (uwsgi::opens(head, len), kind::UWSGI, Protocol::UWSGI),
    };
    match opens {
        Opens::No => None,
        // What was taken for another protocol already needs better evidence.
        Opens::Maybe if op.connection.kind != kind::UNKNOWN => None,
        // Between requests of HTTP/1 only the next packet of a front end that speaks uwsgi comes.
        Opens::Yes if op.connection.kind == kind::INBOUND && kind != kind::UWSGI => None,
        Opens::Maybe | Opens::Yes => speaks(op.slot, protocol).then_some(kind),
    }
}

/// The bytes of one call, walked piece by piece. It lies in map memory: numbers that come from there are unknown to the
/// verifier, which so walks one round and not one for each number that it could follow from the stack.
#[repr(C)]
pub(crate) struct Walk {
    /// Where the next byte lies, and how many there are in this stretch of user memory.
    address: u64,
    left: u64,
    /// Bytes of the call that are not walked yet, those of this stretch included.
    moved: u64,
    /// The next stretch's `struct iovec`, and how many there are.
    vector: u64,
    vectors: u64,
    /// Bytes to copy just now.
    copied: u32,
    _pad: u32,
}

impl Walk {
    /// False when the bytes cannot be read.
    #[inline(always)]
    pub(crate) fn begin(&mut self, op: &Operation) -> bool {
        // One after the other: what is not there of the first must not be carried along.
        let Some(first) = op.call.first_bytes(op.moved) else { return false };
        let Some((vector, vectors)) = op.call.further_bytes() else { return false };
        self.address = first.address;
        self.left = first.len;
        self.moved = op.moved;
        self.vector = vector;
        self.vectors = vectors;
        true
    }

    /// Bytes that can be looked at now, which may be 0 in one round; `None` when no more can be found.
    #[inline(always)]
    pub(crate) fn available(&mut self) -> Option<u32> {
        if self.left == 0 {
            if self.moved == 0 || self.vectors == 0 {
                return None;
            }
            let [address, len] = read_pair(self.vector)?;
            self.vector += 16;
            self.vectors -= 1;
            self.address = address;
            self.left = len.min(self.moved);
        }
        Some(self.left.min(1 << 30) as u32)
    }

    /// Does what the plan says; false when the bytes cannot be read.
    #[inline(always)]
    pub(crate) fn copy(&mut self, memory: &mut Memory, plan: Plan) -> bool {
        if plan.to == NOWHERE {
            return true;
        }
        let to = plan.to as usize & (PLACES - 1);
        // Read back, so that the compiler does not leave the check out, whose reason older kernels' verifiers do not see.
        self.copied = plan.len;
        let len = reloaded(&self.copied) as u32 & (2 * WINDOW as u32 - 1);
        if len > WINDOW as u32 {
            return false;
        }
        // SAFETY: places are below the memory's last window, and no more than that is copied.
        let to = unsafe { memory.as_mut_ptr().add(to) };
        let readable = read_user(to, len, self.address);
        if !readable {
            lost(Loss::UnreadableBuffer);
        }
        readable
    }

    #[inline(always)]
    pub(crate) fn advance(&mut self, used: u32) {
        self.address += u64::from(used);
        self.left = self.left.saturating_sub(u64::from(used));
        self.moved = self.moved.saturating_sub(u64::from(used));
    }

    /// Where the next byte lies in user memory.
    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Whether all bytes of the call were walked.
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        self.moved == 0
    }

    /// What is left does not matter.
    #[inline(always)]
    pub(crate) fn abandon(&mut self) {
        self.moved = 0;
    }
}

/// Walks the bytes of the call by calling `step` for each piece; false when not all of them could be walked.
#[inline(always)]
pub(crate) fn walk(
    op: &Operation,
    packets: &mut Packets,
    step: unsafe extern "C" fn(u64, *mut Stack) -> u64,
) -> bool {
    if !packets.walk.begin(op) {
        lost(if op.call.via() == Via::IoUring { Loss::IoUring } else { Loss::UnreadableBuffer });
        return false;
    }
    repeat_on(MAX_PIECES, packets, step);
    packets.walk.moved == 0
}

/// Calls `step` up to so many times.
#[inline(always)]
pub(crate) fn repeat_on(
    rounds: u32,
    packets: &mut Packets,
    step: unsafe extern "C" fn(u64, *mut Stack) -> u64,
) {
    let mut stack = Stack { packets };
    repeat(rounds, step, &mut stack);
}

/// What the helper hands to each step: it must lie on the stack.
#[repr(C)]
pub(crate) struct Stack {
    packets: *mut Packets,
}

impl Stack {
    #[inline(always)]
    pub(crate) fn packets(&mut self) -> &mut Packets {
        // SAFETY: the live map value that `repeat_on` was given, and does not touch meanwhile.
        unsafe { &mut *self.packets }
    }
}

/// What was received on a connection of one of the two protocols, or of one that may be. The path and the method are
/// left where those of an HTTP request lie.
///
/// A function of its own, with little on its stack: its callers and those that it calls have theirs besides.
#[inline(never)]
pub(crate) fn receive(op: &mut Operation, sk: *const c_void) -> Received {
    let Some(packets) = packets_of_or_new(sk) else {
        lost(Loss::ConnectionStorage);
        return Received::Nothing;
    };
    if op.connection.phase == phase::OPENING {
        op.connection.phase = phase::IDLE;
        packets.requests.open();
        packets.responses.open();
        packets.packet.open();
        packets.variables.begin();
    }
    let events = if op.connection.kind == kind::FASTCGI {
        crate::fastcgi::walk_requests(op, packets)
    } else {
        crate::uwsgi::walk_packet(op, packets)
    };
    if events & Event::MULTIPLEXED != 0 {
        lost(Loss::Multiplexed);
    }
    let begins = events & Event::BEGAN != 0;
    let is_none = op.connection.phase == phase::IDLE && !begins;
    if events & Event::BROKEN != 0 {
        if is_none {
            op.connection.kind = kind::FOREIGN;
            lost(Loss::UnknownProtocol);
            return Received::Nothing;
        }
        lost(Loss::OutOfStep);
    }
    if is_none || events & Event::OURS == 0 {
        return Received::Nothing;
    }
    if begins {
        packets.responses.expect(&packets.requests);
    }
    if events & Event::DECIDED != 0 {
        let method = packets.variables.method(&packets.memory);
        return Received::Line { method, len: take_path(op.connection, packets), begins };
    }
    if begins { Received::Head { begins } } else { Received::More }
}

/// Puts the path into `head`, with a space behind it, where a longer one was not cut off. Returns the length.
#[inline(always)]
fn take_path(connection: &mut Connection, packets: &Packets) -> usize {
    let len = match packets.variables.path() {
        Path::Uri { len } => {
            copy(connection, 0, packets, URI, len);
            len
        }
        Path::ScriptAndInfo { script, info } => {
            copy(connection, 0, packets, SCRIPT, script);
            copy(connection, script, packets, INFO, info);
            script + info
        }
        Path::None => 0,
    };
    let whole = len < HEAD_WINDOW as u32;
    connection.target = 0;
    connection.head_len = if whole { len } else { HEAD_WINDOW as u32 };
    let len = reloaded(&connection.head_len);
    if whole && let Some(end) = connection.head.get_mut(len) {
        *end = b' ';
    }
    len + usize::from(whole)
}

/// Copies a value, of at most a window, to the first or the second window of `head`.
#[inline(always)]
fn copy(connection: &mut Connection, to: u32, packets: &Packets, from: usize, len: u32) {
    let (to, len) = (to as usize & (2 * WINDOW - 1), len & (2 * WINDOW as u32 - 1));
    if to > WINDOW || len > WINDOW as u32 {
        return;
    }
    let memory = (&raw const packets.memory).cast::<u8>();
    // SAFETY: inside both.
    unsafe {
        bpf_probe_read_kernel(connection.head.as_mut_ptr().add(to).cast(), len, memory.add(from).cast());
    }
}
