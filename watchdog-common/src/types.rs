//! The values that cross the kernel boundary: `#[repr(C)]`, fixed-width integers, widest first, padding explicit.

use core::mem::{align_of, offset_of, size_of};

use crate::abi::MAX_WILDCARD_MASKS;
use crate::histogram::BUCKETS;

/// One finished request on a watched endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When it ended, `CLOCK_MONOTONIC`.
    pub end_mono_ns: u64,
    /// On-CPU time charged to it.
    pub oncpu_ns: u64,
    /// From its first byte to its end, saturated.
    pub wall_us: u32,
    pub tgid: u32,
    pub build_slot: u16,
    pub endpoint: u16,
    /// HTTP status code, 0 when none was seen.
    pub status: u16,
    /// [`RequestFlags`] bits.
    pub flags: u16,
}
const _: () = assert!(size_of::<Sample>() == 32 && align_of::<Sample>() == 8);
const _: () = assert!(offset_of!(Sample, build_slot) == 24 && offset_of!(Sample, flags) == 30);

/// Bits of [`OngoingRequest::flags`] and [`Sample::flags`].
#[derive(Clone, Copy, Debug)]
pub struct RequestFlags;
impl RequestFlags {
    /// The head is not complete: the endpoint is not known yet.
    pub const HEAD: u16 = 1;
    /// A final status line was sent.
    pub const ANSWERED: u16 = 1 << 1;
    /// As far as can be seen, the whole response was sent.
    pub const COMPLETE: u16 = 1 << 2;
    /// The connection was closed.
    pub const CLOSED: u16 = 1 << 3;
    /// More of a response that was already counted as finished: adds to the sum, not to the count.
    pub const CONTINUATION: u16 = 1 << 4;
    /// A thread that was in it gave work to another one.
    pub const HANDED: u16 = 1 << 5;
    /// It is queued for a pool thread that takes up work without being woken.
    pub const PARKED: u16 = 1 << 6;
    /// Of a thread, not of a request: its response is complete and the connection will carry no other one, but the
    /// server may wait for the other side to close before it goes on.
    pub const LINGERS: u16 = 1 << 7;
}

/// A request under way, in a place of the table of all such requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OngoingRequest {
    /// [`request_identity`] of whose place this is; [`VACANT`] or [`TAKEN`] if of nobody's. Whoever sets it to
    /// [`VACANT`] by compare and exchange has ended the request, and nobody else has.
    pub identity: u64,
    /// On-CPU time charged so far (what threads still hold is not in it).
    pub oncpu_ns: u64,
    /// Of that, what was used by threads that took up the work without an exact sign of whose it is.
    pub inferred_ns: u64,
    /// On-CPU time so far as the clock saw it last, with what the thread held then that it looked at: a lower bound of
    /// what the request has used, for requests that never let go of their CPU. 0 before the first look.
    pub seen_ns: u64,
    pub start_mono_ns: u64,
    /// Last receive or send.
    pub last_mono_ns: u64,
    /// Number of the request on its connection.
    pub sequence: u32,
    pub tgid: u32,
    pub build_slot: u16,
    pub endpoint: u16,
    pub status: u16,
    /// [`RequestFlags`] bits.
    pub flags: u16,
}
const _: () = assert!(size_of::<OngoingRequest>() == 64 && align_of::<OngoingRequest>() == 8);
const _: () = assert!(offset_of!(OngoingRequest, identity) == 0 && offset_of!(OngoingRequest, flags) == 62);

/// A place that holds no request.
pub const VACANT: u64 = 0;
/// A place that is being filled.
pub const TAKEN: u64 = u64::MAX;

/// A request as one number: its connection's cookie (the kernel counts them from 1) and, below it, 24 bits of its
/// number on that connection.
#[inline(always)]
pub const fn request_identity(cookie: u64, sequence: u32) -> u64 {
    cookie << 24 | (sequence & 0x00ff_ffff) as u64
}

/// Set in the cookie of a TLS session, which is numbered apart from the sockets.
pub const TLS_COOKIE: u64 = 1 << 39;

/// How often requests of an endpoint were seen to give work to other threads, under one build slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habit {
    pub begun: u32,
    /// Gave work away, for certain.
    pub handed: u32,
    /// Were answered after their loop had slept, and of these the ones before which it was told that work is done.
    pub waited: u32,
    pub told: u32,
    /// 1 once it was seen that they do: a saturated pool shows it no more.
    pub gives_away: u32,
}
const _: () = assert!(size_of::<Habit>() == 20 && align_of::<Habit>() == 4);

/// What a build slot stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildSlot {
    pub service: u32,
    /// 1 while the slot is in use.
    pub active: u32,
}
const _: () = assert!(size_of::<BuildSlot>() == 8 && align_of::<BuildSlot>() == 4);

/// Which sets of wildcard positions a service's patterns use: bit `i` set means segment `i` is `*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServicePatterns {
    pub masks: [u32; MAX_WILDCARD_MASKS],
    pub mask_count: u32,
    /// The [`Protocol`] of its inbound connections.
    pub protocol: u32,
}
const _: () = assert!(size_of::<ServicePatterns>() == 24 && align_of::<ServicePatterns>() == 4);

/// What inbound connections of a service may speak. One that speaks something else counts as unknown.
#[derive(Clone, Copy, Debug)]
pub struct Protocol;
impl Protocol {
    /// Whatever its first bytes say.
    pub const AUTO: u32 = 0;
    pub const HTTP1: u32 = 1;
    pub const FASTCGI: u32 = 2;
    pub const UWSGI: u32 = 3;
}

/// An endpoint pattern, see [`crate::http`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointKey {
    pub path_hash: u64,
    /// First eight bytes of the method, zero-padded, little-endian; 0 matches any method.
    pub method: u64,
    pub service: u32,
    pub mask: u32,
}
const _: () = assert!(size_of::<EndpointKey>() == 24 && align_of::<EndpointKey>() == 8);

/// Finished requests are counted under this key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    pub build_slot: u16,
    pub endpoint: u16,
    /// 0 (none seen) to 5 (5xx).
    pub status_class: u16,
    pub _pad: u16,
}
const _: () = assert!(size_of::<SeriesKey>() == 8 && align_of::<SeriesKey>() == 2);

/// Counts of one series since the slot was taken; they only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    pub count: u64,
    /// Exact, continuations included.
    pub oncpu_sum_ns: u64,
    /// Of the sum, what came from continuations.
    pub continued_ns: u64,
    /// Of the sum, what was attributed by inference ([`OngoingRequest::inferred_ns`]).
    pub inferred_ns: u64,
    pub buckets: [u64; BUCKETS],
}
const _: () = assert!(size_of::<Series>() == 32 + 8 * BUCKETS && align_of::<Series>() == 8);

impl Default for Series {
    fn default() -> Self {
        Self { count: 0, oncpu_sum_ns: 0, continued_ns: 0, inferred_ns: 0, buckets: [0; BUCKETS] }
    }
}

/// Whose CPU time it was, per build slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conservation {
    /// The scheduler's own figure for the watched threads, up to each one's last switch.
    pub process_ns: u64,
    /// Charged to requests.
    pub attributed_ns: u64,
    /// Used by threads that serve the runtime and no single request: JIT compilers, garbage collectors.
    pub shared_ns: u64,
    /// Belongs to no request: start-up, polling, housekeeping.
    pub unattributed_ns: u64,
    /// Used for connections, and kept for the request that comes next on them: it moves from here to the attributed.
    /// What one CPU's counter adds another one's subtracts, so it is only meant as their wrapping sum.
    pub kept_ns: u64,
    /// Requests begun.
    pub started: u64,
    /// Requests finished and counted.
    pub finished: u64,
}
const _: () = assert!(size_of::<Conservation>() == 56 && align_of::<Conservation>() == 8);

/// Bytes that a build's processes received on connections that lead to them, by what the programs can make of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blind {
    /// Of a protocol that is read.
    pub readable_bytes: u64,
    /// TLS that no probe reads in clear.
    pub tls_bytes: u64,
    /// HTTP/2 whose frames could not be followed.
    pub http2_bytes: u64,
    /// HTTP/2 whose frames are followed: its requests are counted by the agent.
    pub streams_bytes: u64,
    /// Of no known protocol. What came on connections that the process made itself is in none of these fields.
    pub unknown_bytes: u64,
    /// Received through `io_uring`.
    pub io_uring_bytes: u64,
}
const _: () = assert!(size_of::<Blind>() == 48 && align_of::<Blind>() == 8);

/// Bytes of a request's head that one [`StreamPiece`] carries.
pub const PIECE_BYTES: usize = 208;

/// What a [`StreamPiece`] tells.
#[derive(Clone, Copy, Debug)]
pub struct StreamEvent;
impl StreamEvent {
    /// Part of a request's head.
    pub const PIECE: u16 = 0;
    /// The answer on the stream is complete, or one side broke the stream off.
    pub const END: u16 = 1;
    /// What is sent cannot be followed for now: the ends of answers are not seen.
    pub const UNENDED: u16 = 2;
    /// The connection is closed.
    pub const CLOSED: u16 = 3;
}

/// Something that concerns a request of HTTP/2. The ring's items are its first [`STREAM_EVENT_BYTES`], and the whole for
/// pieces only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPiece {
    /// The connection's cookie, never used again while the host runs.
    pub connection: u64,
    pub mono_ns: u64,
    pub tgid: u32,
    pub stream: u32,
    /// Number of the piece on its connection, from 0; a number that is missing is a piece that was lost. A connection
    /// whose beginning was not seen begins with 1.
    pub sequence: u32,
    /// Bytes of the frame's whole payload, and of what is behind this piece of it.
    pub length: u32,
    pub left: u32,
    pub _pad: u32,
    pub build_slot: u16,
    /// [`StreamEvent`]
    pub event: u16,
    /// Bytes in use of `bytes`.
    pub len: u16,
    /// Type and flags of the frame.
    pub frame: u8,
    pub flags: u8,
    pub bytes: [u8; PIECE_BYTES],
}
pub const STREAM_EVENT_BYTES: usize = offset_of!(StreamPiece, bytes);
const _: () = assert!(size_of::<StreamPiece>() == 256 && STREAM_EVENT_BYTES == 48);

/// A process appeared, changed its program or ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEvent {
    pub mono_ns: u64,
    pub tgid: u32,
    /// Thread-group id of the parent for a fork, 0 otherwise.
    pub parent_tgid: u32,
    /// [`ProcessEventKind`] as a number.
    pub kind: u32,
    /// Slot in force at the event, 0 when not watched.
    pub build_slot: u32,
}
const _: () = assert!(size_of::<ProcessEvent>() == 24 && align_of::<ProcessEvent>() == 8);

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEventKind {
    /// A watched process forked; the child is watched already.
    Fork = 1,
    /// Any process of the host started another program.
    Exec = 2,
    /// The last thread of a watched process ended.
    Exit = 3,
}

impl TryFrom<u32> for ProcessEventKind {
    type Error = u32;
    fn try_from(value: u32) -> Result<Self, u32> {
        match value {
            1 => Ok(Self::Fork),
            2 => Ok(Self::Exec),
            3 => Ok(Self::Exit),
            other => Err(other),
        }
    }
}

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// Why something could not be measured. Each has a counter of its own.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Loss { $($(#[$doc])* $name = $number,)* }
        impl Loss {
            pub const ALL: &'static [Loss] = &[$(Loss::$name,)*];
            /// The value of the `reason` label.
            pub const fn label(self) -> &'static str { match self { $(Loss::$name => $label,)* } }
        }
    };
}
losses! {
    /// The sample ring was full; counts, sums and histogram have the request.
    SampleRingFull = 0, "sample_ring_full";
    /// The process ring was full; the periodic scan finds the process.
    ProcessRingFull = 1, "process_ring_full";
    /// More requests under way than the map holds; this one is not measured.
    OngoingFull = 2, "ongoing_full";
    /// No memory for a thread's state; its time is unattributed.
    TaskStorage = 3, "task_storage";
    /// No memory for a connection's state; its requests are not measured.
    ConnectionStorage = 4, "connection_storage";
    /// A finished request had no series to be counted in.
    SeriesMissing = 5, "series_missing";
    /// The response of a request that began before the agent came.
    Midstream = 6, "midstream";
    /// The request's bytes could not be read from user memory.
    UnreadableBuffer = 7, "unreadable_buffer";
    /// Socket I/O through `io_uring`, whose buffers the kernel programs cannot see.
    IoUring = 8, "io_uring";
    /// An inbound connection that speaks TLS.
    Tls = 9, "tls";
    /// A request on an HTTP/2 connection whose path could not be told, or an HTTP/2 connection that could not be
    /// followed for a while.
    Http2 = 10, "http2";
    /// A connection whose first received bytes are no request of a known protocol.
    UnknownProtocol = 11, "unknown_protocol";
    /// A slice whose start was not seen (the first one after attaching).
    SliceUnknown = 12, "slice_unknown";
    /// A request whose path did not end within the head window: counted as "other".
    LongPath = 13, "long_path";
    /// The clock stepped back between two CPUs.
    ClockStep = 14, "clock_step";
    /// A request that was still without an answer when its connection or process ended.
    Abandoned = 15, "abandoned";
    /// No room to remember whose a pool's job is; its time goes to whoever woke the pool's thread.
    JobStorage = 16, "job_storage";
    /// A FastCGI request that began while another one was under way on its connection.
    Multiplexed = 17, "multiplexed";
    /// A FastCGI or uwsgi connection whose records could not be followed any more.
    OutOfStep = 18, "out_of_step";
    /// The ring for the heads of HTTP/2 requests was full: those on that connection are counted, but what they are for
    /// may not be known from there on.
    StreamRingFull = 19, "stream_ring_full";
}
/// Number of [`Loss`] reasons.
pub const LOSS_REASONS: u32 = 20;
const _: () = assert!(Loss::ALL.len() == LOSS_REASONS as usize);

/// Losses of one build slot, by [`Loss`] as index; those of slot 0 could not be told to belong to any.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses(pub [u64; MAX_LOSS_REASONS]);
/// Room for more reasons.
pub const MAX_LOSS_REASONS: usize = 32;
const _: () =
    assert!(LOSS_REASONS as usize <= MAX_LOSS_REASONS && size_of::<Losses>() == 8 * MAX_LOSS_REASONS);
