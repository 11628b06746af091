//! What lies in the maps that only the programs read.

use core::mem::{offset_of, size_of};

use watchdog_common::types::request_identity;
use watchdog_common::{abi, cgi, fastcgi, http2, uwsgi};

use crate::packets::Walk;

/// An address in a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PointerKey {
    pub(crate) address: u64,
    pub(crate) tgid: u32,
    pub(crate) _pad: u32,
}

/// The on-CPU slice of a watched thread.
#[repr(C)]
pub(crate) struct Slice {
    pub(crate) start_mono_ns: u64,
    /// The thread's `sum_exec_runtime` when the slice began.
    pub(crate) start_exec_ns: u64,
    /// 0: no watched thread, or one whose start was not seen.
    pub(crate) pid: u32,
    pub(crate) _pad: u32,
}

/// What a thread works on. Lives in task storage, so it dies with its thread.
#[repr(C)]
pub(crate) struct Thread {
    /// Where uncharged on-CPU time begins, `CLOCK_MONOTONIC`; 0 while off the CPU.
    pub(crate) segment_mono_ns: u64,
    /// Charged since the slice began, by our clock.
    pub(crate) slice_charged_ns: u64,
    /// Charged, but not yet handed to the request (or, with none, to nobody).
    pub(crate) held_ns: u64,
    /// Identity of the request that was handed time last, and how much of it since the slice began.
    pub(crate) given_to: u64,
    pub(crate) slice_given_ns: u64,
    /// Used for connections while in no request: goes to the next request that it receives.
    pub(crate) carried_ns: u64,
    /// Put aside over sleeps, while in no request: it is for what the thread answers next.
    pub(crate) aside_ns: u64,
    /// When something was put aside last, `CLOCK_MONOTONIC`.
    pub(crate) aside_mono_ns: u64,
    /// Charged beyond what the scheduler gave the slice; the next slices pay it back.
    pub(crate) debt_ns: u64,
    /// The scheduler's total at the thread's last switch; 0 before the first one that was seen.
    pub(crate) exec_ns: u64,
    /// The current request.
    pub(crate) request: Request,
    /// [`Binding`]
    pub(crate) binding: u32,
    /// `RequestFlags` that this thread itself saw for its request.
    pub(crate) seen: u32,
    /// In a Go program: tag of the goroutine that ran at the last look.
    pub(crate) goroutine: u64,
    /// The futex from which it was woken when it was given work, 0 for none: where it waits for work.
    pub(crate) given_on: u64,
    /// The request it received last.
    pub(crate) last_read: Request,
    /// The request that was received by the thread that woke it, while it was in none.
    pub(crate) fed: Request,
    /// When it last went to sleep, `CLOCK_MONOTONIC`.
    pub(crate) slept_mono_ns: u64,
    /// [`Role`] bits.
    pub(crate) role: u32,
    /// Requests it has received since it last slept and neither answered nor given away.
    pub(crate) reads: u32,
    /// What it did last with a request since it slept, as [`Step`].
    pub(crate) step: u32,
    /// Pairs of requests that have shown, lately, that it works on what it reads at once: see [`crate::eager`].
    pub(crate) eager: u32,
    /// What it used between its last two receives, if nothing else came between them; 0 if something did.
    pub(crate) reading_ns: u64,
    /// Identities of the request that it received before the last one, and of the one that it answered last.
    pub(crate) read_before: u64,
    pub(crate) answered: u64,
    /// The read of a TLS library that the thread is in.
    pub(crate) tls_read: TlsRead,
}

/// What a TLS library was asked to read, kept from its entry to its return.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TlsRead {
    /// 0: the thread is in no such call.
    pub(crate) session: u64,
    pub(crate) buffer: u64,
    /// Where the library writes how many bytes it read; 0 where it returns them.
    pub(crate) count_at: u64,
}

/// What a thread was seen to do.
pub(crate) struct Role;
impl Role {
    /// It receives requests: it never takes up queued work.
    pub(crate) const RECEIVES: u32 = 1;
    /// It told another thread that the work it was given is done.
    pub(crate) const DONE: u32 = 1 << 1;
    /// Another thread gave it work once.
    pub(crate) const POOLED: u32 = 1 << 2;
    /// It has not begun what it was given.
    pub(crate) const FRESH: u32 = 1 << 3;
    /// Since it last slept, it was told that work it gave away is done.
    pub(crate) const TOLD: u32 = 1 << 4;
    /// Since it last slept, it set a connection up for requests or took one down.
    pub(crate) const TENDS: u32 = 1 << 5;
    /// It passes connections on to other processes: what it does serves all of them.
    pub(crate) const PASSES: u32 = 1 << 6;
    /// There is hardly another request that the work it was given may be for.
    pub(crate) const CERTAIN: u32 = 1 << 7;
    /// It answers requests itself.
    pub(crate) const ANSWERS: u32 = 1 << 8;
}

/// See [`Thread::step`].
pub(crate) struct Step;
impl Step {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const READ: u32 = 1;
    pub(crate) const ANSWERED: u32 = 2;
}

/// Requests that wait for a pool's thread, in the order in which their own thread left them.
#[repr(C)]
pub(crate) struct Parked {
    pub(crate) tgid: u64,
    pub(crate) head: u64,
    pub(crate) tail: u64,
    pub(crate) ring: [Request; abi::PARKED_REQUESTS as usize],
}

/// See [`super::LED_CONN`].
#[repr(C)]
pub(crate) struct Led {
    /// Both ends of the connection, as the one that made it sees them.
    pub(crate) ends: u64,
    pub(crate) request: Request,
}

/// Names a request and tells where it lies.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// Cookie of its connection; 0 for no request.
    pub(crate) connection: u64,
    /// Its number on the connection.
    pub(crate) sequence: u32,
    /// Index into [`super::ONGOING_REQ`]; whether it still lies there, the identity in the place tells.
    pub(crate) place: u32,
}

impl Request {
    pub(crate) const NONE: Self = Self { connection: 0, sequence: 0, place: 0 };

    #[inline(always)]
    pub(crate) fn is_some(self) -> bool {
        self.connection != 0
    }

    #[inline(always)]
    pub(crate) fn identity(self) -> u64 {
        request_identity(self.connection, self.sequence)
    }
}

/// How a thread came to its request.
pub(crate) struct Binding;
impl Binding {
    /// It received it, or it sent on its connection.
    pub(crate) const OWN: u32 = 1;
    /// A thread in that request woke it.
    pub(crate) const INHERITED: u32 = 2;
    /// It went on working when its work was done; the request is the one that has waited longest for such a thread.
    pub(crate) const INFERRED: u32 = 3;
    /// It works off a job of a pool, which that request gave to the pool: no wake-up changes that.
    pub(crate) const JOB: u32 = 4;
}

/// What a connection carries. Lives in socket storage, so it dies with its socket.
#[repr(C)]
pub(crate) struct Connection {
    /// The connection's cookie with the current or last request's number and place.
    pub(crate) request: Request,
    /// The request of the same build that came in elsewhere, in which this connection was made.
    pub(crate) outer: Request,
    /// Bytes of the response sent, and how many there are at least.
    pub(crate) sent: u64,
    pub(crate) expected: u64,
    pub(crate) kind: u32,
    pub(crate) phase: u32,
    pub(crate) head_len: u32,
    /// Where in `head` the request's target begins, or the response's length is told. Kept here because a value
    /// read back from a map is unknown to the verifier, which would otherwise follow every possible one.
    pub(crate) target: u32,
    pub(crate) endpoint: u16,
    pub(crate) status: u16,
    pub(crate) framing: u16,
    /// 1 for a HEAD request: its response tells a length, but has no body.
    pub(crate) no_body: u16,
    /// On a connection to elsewhere the second half holds [`Owners`], on one of HTTP/2 all of it [`Streams`].
    pub(crate) head: [u8; 2 * abi::HEAD_WINDOW],
}

const _: () =
    assert!(size_of::<Connection>() == abi::CONNECTION_BYTES && size_of::<Request>() == abi::JOB_BYTES);

/// What a connection carries beyond that, if its requests come as records or packets (FastCGI, uwsgi).
#[repr(C)]
pub(crate) struct Packets {
    pub(crate) memory: cgi::Memory,
    pub(crate) variables: cgi::Variables,
    pub(crate) requests: fastcgi::Requests,
    pub(crate) responses: fastcgi::Responses,
    pub(crate) packet: uwsgi::Packet,
    pub(crate) scan: cgi::StatusScan,
    /// Of the call that is looked at just now.
    pub(crate) walk: Walk,
}

/// The requests that sent on a connection to elsewhere and wait for its answers, in their order.
#[repr(C)]
pub(crate) struct Owners {
    pub(crate) ring: [Request; OWNERS],
}
pub(crate) const OWNERS: usize = 16;
const _: () = assert!(size_of::<Owners>() == abi::HEAD_WINDOW);

/// Both directions of a connection of HTTP/2.
#[repr(C)]
pub(crate) struct Streams {
    pub(crate) received: Direction,
    pub(crate) sent: Direction,
}
const _: () = assert!(size_of::<Streams>() <= 2 * abi::HEAD_WINDOW);

#[repr(C)]
pub(crate) struct Direction {
    /// Of the call that is looked at just now, with what is told of it.
    pub(crate) walk: Walk,
    pub(crate) connection: u64,
    pub(crate) mono_ns: u64,
    pub(crate) frames: http2::Frames,
    pub(crate) tgid: u32,
    pub(crate) slot: u32,
    /// Number of the next piece of what is received; 1 where what is sent is not followed, and the agent knows it.
    pub(crate) sequence: u32,
    /// 1 for what is sent.
    pub(crate) sent: u32,
    /// Bytes to copy just now.
    pub(crate) copied: u32,
    pub(crate) _pad: u32,
}

impl Connection {
    #[inline(always)]
    pub(crate) fn streams(&mut self) -> &mut Streams {
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "the buffer begins at a multiple of 8 (asserted below)"
        )]
        // SAFETY: not longer than the buffer; any bits are valid.
        unsafe {
            &mut *(&raw mut self.head).cast::<Streams>()
        }
    }

    #[inline(always)]
    pub(crate) fn owners(&mut self) -> &mut Owners {
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "the buffer begins at a multiple of 8 (asserted below)"
        )]
        // SAFETY: the second half of the buffer, which has exactly this size; any bits are valid.
        unsafe {
            &mut *(&raw mut self.head).cast::<u8>().add(abi::HEAD_WINDOW).cast::<Owners>()
        }
    }
}

// Read by words.
const _: () = assert!(offset_of!(Connection, head).is_multiple_of(8));
