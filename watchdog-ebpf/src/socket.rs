//! What is received and sent on sockets, and which request it belongs to.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_loop};
use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use watchdog_common::abi::{ENDPOINT_OTHER, HEAD_WINDOW, MAX_WILDCARD_MASKS};
use watchdog_common::http::{self, Framing, Opening, PathEnd, PathScan, RESPONSE_WINDOW, STEP};
use watchdog_common::types::{EndpointKey, Loss, RequestFlags};

use crate::counters::lost;
use crate::maps::{
    BUILD_SLOTS, Connection, ENDPOINTS, Request, SERVICES, Thread, connection_of, connection_of_or_new,
    slot_of, thread_of_or_new,
};
use crate::offsets::{self, Task};
use crate::registers::{SystemCall, Via, read_user};
use crate::request::{Cause, begin, bind, charge, flush, ongoing};

/// What a connection is.
mod kind {
    pub(crate) const UNKNOWN: u32 = 0;
    /// Requests come in on it.
    pub(crate) const INBOUND: u32 = 1;
    /// To a database, a cache, a pipe between threads, or of an unknown protocol.
    pub(crate) const OTHER: u32 = 2;
    /// Cannot be read: TLS, HTTP/2.
    pub(crate) const OPAQUE: u32 = 3;
}

/// Where an inbound connection stands.
mod phase {
    /// A request's head is expected.
    pub(crate) const IDLE: u32 = 0;
    /// Part of a head was received.
    pub(crate) const HEAD: u32 = 1;
    /// A request is under way; what is received is its body.
    pub(crate) const REQUEST: u32 = 2;
    /// A response is being sent; what is received begins the next request.
    pub(crate) const RESPONSE: u32 = 3;
}

/// How a response's end is told.
mod framing {
    pub(crate) const UNKNOWN: u16 = 0;
    pub(crate) const LENGTH: u16 = 1;
    pub(crate) const CHUNKED: u16 = 2;
    pub(crate) const NO_BODY: u16 = 3;
}

const MSG_PEEK: u32 = 2;
/// Errors after which nothing more can be sent on a connection.
const EPIPE: i32 = -32;
const ECONNRESET: i32 = -104;
const ENOTCONN: i32 = -107;
const ESHUTDOWN: i32 = -108;
const ETIMEDOUT: i32 = -110;
const TCP_CLOSE: i32 = 7;

/// Core tier: `sock_recv_length(struct sock *sk, int ret, int flags)`.
#[btf_tracepoint]
pub(crate) fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    on_receive(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// Core tier: `sock_send_length(struct sock *sk, int ret, int flags)`.
#[btf_tracepoint]
pub(crate) fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    on_send(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn sk_of(socket: *const u8) -> *const c_void {
    // SAFETY: the BTF pointer `struct socket *` plus the offset of its pointer member `sk`.
    unsafe { core::ptr::read_volatile(socket.add(offsets::socket_sk() as usize).cast()) }
}

macro_rules! tier_a {
    ($($receive:ident, $send:ident;)*) => {$(
        /// Tier A: `(struct socket *sock, struct msghdr *msg, size_t size, int flags)`, at its return.
        #[fexit]
        pub(crate) fn $receive(ctx: FExitContext) -> i32 {
            on_receive(sk_of(ctx.arg(0)), ctx.arg(4), ctx.arg(3));
            0
        }

        /// Tier A: `(struct socket *sock, struct msghdr *msg, size_t size)`, at its return.
        #[fexit]
        pub(crate) fn $send(ctx: FExitContext) -> i32 {
            on_send(sk_of(ctx.arg(0)), ctx.arg(3));
            0
        }
    )*};
}

tier_a! {
    inet_recvmsg, inet_sendmsg;
    inet6_recvmsg, inet6_sendmsg;
    unix_stream_recvmsg, unix_stream_sendmsg;
}

/// `inet_sock_set_state(const struct sock *sk, int oldstate, int newstate)`: the request of a closed connection is
/// marked, so that a thread that turns to another one ends it.
#[btf_tracepoint]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) != TCP_CLOSE {
        return 0;
    }
    let Some(connection) = connection_of(ctx.arg(0)) else { return 0 };
    if connection.kind == kind::INBOUND
        && let Some(request) = ongoing(connection.request)
    {
        request.flags |= RequestFlags::CLOSED;
    }
    0
}

/// One socket operation of a watched thread, and whose it is.
struct Operation {
    thread: &'static mut Thread,
    connection: &'static mut Connection,
    call: SystemCall,
    slot: u16,
    tgid: u32,
    now: u64,
    /// Bytes that were received or sent.
    moved: u64,
}

impl Operation {
    #[inline(always)]
    fn of(sk: *const c_void, moved: u64) -> Option<Self> {
        let task = Task::current();
        let tgid = task.tgid();
        let slot = slot_of(tgid);
        if slot == 0 {
            return None;
        }
        let Some(thread) = thread_of_or_new(task) else {
            lost(Loss::TaskStorage);
            return None;
        };
        let Some(connection) = connection_of_or_new(sk) else {
            lost(Loss::ConnectionStorage);
            return None;
        };
        if connection.request.connection == 0 {
            // SAFETY: the helper takes any trusted socket pointer in tracing programs.
            connection.request.connection = unsafe { bpf_get_socket_cookie(sk.cast_mut()) };
        }
        let now = charge(thread);
        Some(Self { thread, connection, call: SystemCall::of(task), slot, tgid, now, moved })
    }
}

#[inline(always)]
fn on_receive(sk: *const c_void, received: i32, flags: u32) {
    // The end of the stream, EAGAIN and a mere look at the data change nothing.
    if received <= 0 || flags & MSG_PEEK != 0 {
        return;
    }
    let Some(mut op) = Operation::of(sk, u64::from(received as u32)) else { return };
    let connection = &op.connection;
    let request = match connection.kind {
        kind::OPAQUE => return,
        // An answer of a database or the like makes the request current again that asked. Where nobody in a request
        // ever sent, it may be an inbound connection whose beginning was not seen.
        kind::OTHER => connection.owner,
        // More of the request's body.
        kind::INBOUND if connection.phase == phase::REQUEST => connection.request,
        _ => Request::NONE,
    };
    if !request.is_some() {
        receive_head(&mut op);
    } else if ongoing(request).is_some() {
        bind(op.thread, request, Cause::Receive, op.slot, op.now);
    }
}

/// A value that was just stored, read back: it is unknown to the verifier, which would otherwise walk all that
/// follows once for each value that it could be.
#[inline(always)]
fn reloaded(field: &u32) -> usize {
    // SAFETY: a reference; volatile, so that the compiler does not remember what was stored.
    unsafe { core::ptr::read_volatile(field) as usize }
}

const _: () = assert!(HEAD_WINDOW == RESPONSE_WINDOW);

/// Fills the first half of the buffer from user memory, whatever part of it the call moved; false when that much
/// cannot be read there. It goes by way of the stack: before it copies, the kernel checks the destination
/// (`CONFIG_HARDENED_USERCOPY`), which takes 75 ns for an object on the heap and next to nothing for the stack.
#[inline(always)]
fn read_window(connection: &mut Connection, address: u64) -> bool {
    const WORDS: usize = HEAD_WINDOW / 8;
    let mut window = MaybeUninit::<[u64; WORDS]>::uninit();
    if !read_user(window.as_mut_ptr().cast(), HEAD_WINDOW as u32, address) {
        return false;
    }
    let (from, to) = (window.as_ptr().cast::<u64>(), connection.head.as_mut_ptr().cast::<u64>());
    let mut w = 0;
    while w < WORDS {
        // SAFETY: inside both, which are aligned; volatile, lest the compiler calls its bytewise memcpy.
        unsafe { to.add(w).write_volatile(from.add(w).read_volatile()) };
        w += 1;
    }
    true
}

/// Reads what was received behind what is kept of the head already, and judges it.
#[inline(always)]
fn receive_head(op: &mut Operation) {
    let continued = op.connection.phase == phase::HEAD;
    if !continued {
        op.connection.head_len = 0;
    }
    if op.call.via() == Via::IoUring {
        lost(Loss::IoUring);
        return;
    }
    let Some(bytes) = op.call.first_bytes(op.moved) else {
        lost(Loss::UnreadableBuffer);
        return;
    };
    let kept = (op.connection.head_len as usize) & (HEAD_WINDOW - 1);
    let len = if bytes.len > HEAD_WINDOW as u64 { HEAD_WINDOW } else { bytes.len as usize };
    let whole = !continued && read_window(op.connection, bytes.address);
    // SAFETY: `kept` is below, and `len` at most, half of the buffer.
    let to = unsafe { op.connection.head.as_mut_ptr().add(kept) };
    if !whole && !read_user(to, len as u32, bytes.address) {
        lost(Loss::UnreadableBuffer);
        return;
    }
    op.connection.head_len = (kept + len) as u32;
    let len = reloaded(&op.connection.head_len);
    match http::opening(&op.connection.head, len) {
        Opening::Method { method, target } => {
            op.connection.target = target as u32;
            receive_request(op, method, len, continued);
        }
        Opening::Partial => wait_for_head(op, continued),
        Opening::Tls => not_a_request(op, kind::OPAQUE, Loss::Tls, continued),
        Opening::Http2 => not_a_request(op, kind::OPAQUE, Loss::Http2, continued),
        Opening::Other => not_a_request(op, kind::OTHER, Loss::UnknownProtocol, continued),
    }
}

/// The bytes are no request: the connection is of another kind, or, on one that carried requests before, they are
/// the rest of a body.
#[inline(always)]
fn not_a_request(op: &mut Operation, what: u32, reason: Loss, continued: bool) {
    if op.connection.kind == kind::UNKNOWN || continued {
        op.connection.kind = what;
        op.connection.phase = phase::IDLE;
        lost(reason);
    }
}

/// The request begins with its first byte, even if its head ends later.
#[inline(always)]
fn wait_for_head(op: &mut Operation, continued: bool) {
    if op.connection.kind == kind::OTHER {
        return;
    }
    op.connection.kind = kind::INBOUND;
    op.connection.phase = phase::HEAD;
    if !continued {
        op.connection.endpoint = ENDPOINT_OTHER;
        op.connection.status = 0;
        if !begin(op.connection, op.thread, op.slot, op.tgid, op.now, RequestFlags::HEAD) {
            return;
        }
    }
    bind(op.thread, op.connection.request, Cause::Receive, op.slot, op.now);
}

#[inline(always)]
fn receive_request(op: &mut Operation, method: u64, len: usize, continued: bool) {
    let Some(endpoint) = endpoint_of(op, method, len) else {
        wait_for_head(op, continued);
        return;
    };
    op.connection.kind = kind::INBOUND;
    op.connection.phase = phase::REQUEST;
    op.connection.endpoint = endpoint;
    op.connection.status = 0;
    op.connection.no_body = u16::from(method == http::method_code(b"HEAD"));
    if continued {
        if let Some(request) = ongoing(op.connection.request) {
            request.endpoint = endpoint;
            request.flags &= !RequestFlags::HEAD;
        }
    } else if !begin(op.connection, op.thread, op.slot, op.tgid, op.now, 0) {
        return;
    }
    bind(op.thread, op.connection.request, Cause::Receive, op.slot, op.now);
}

/// The endpoint that the request line names, or `None` when more bytes are needed.
#[inline(always)]
fn endpoint_of(op: &Operation, method: u64, len: usize) -> Option<u16> {
    let Some(slot) = BUILD_SLOTS.get(u32::from(op.slot)) else { return Some(ENDPOINT_OTHER) };
    let service = slot.service;
    let Some(patterns) = SERVICES.get(service) else { return Some(ENDPOINT_OTHER) };
    let target = reloaded(&op.connection.target) & 31;
    if op.connection.head[target] != b'/' {
        return Some(ENDPOINT_OTHER);
    }
    let mut path = PathReading {
        scan: PathScan::new(offsets::hash_key(), patterns.masks),
        head: &raw const op.connection.head,
        begin: target as u64 + 1,
        len: len as u64,
    };
    repeat((HEAD_WINDOW / STEP) as u32, read_path, &mut path);
    match path.scan.end(len) {
        PathEnd::Received => None,
        PathEnd::Window => {
            lost(Loss::LongPath);
            Some(ENDPOINT_OTHER)
        }
        PathEnd::Path => {
            let hashes = path.scan.hash.finish(&patterns.masks);
            Some(look_up(&hashes, &patterns.masks, patterns.mask_count, method, service))
        }
    }
}

/// Calls `step` with 0, 1, 2, ... until it returns 1. The verifier walks the step once, and not once for each round.
#[inline(always)]
fn repeat<T>(rounds: u32, step: unsafe extern "C" fn(u64, *mut T) -> u64, state: &mut T) {
    let state: *mut T = state;
    // SAFETY: the helper calls `step` with the round's number and `state`, which outlives the call.
    unsafe { bpf_loop(rounds, step as *mut c_void, state.cast(), 0) };
}

#[repr(C)]
struct PathReading {
    head: *const [u8; 2 * HEAD_WINDOW],
    begin: u64,
    len: u64,
    scan: PathScan,
}

unsafe extern "C" fn read_path(round: u64, state: *mut PathReading) -> u64 {
    // SAFETY: what `endpoint_of` passed; the masks keep the eight bytes inside the buffer.
    let state = unsafe { &mut *state };
    let at = (state.begin as usize & 31) + STEP * (round as usize & (HEAD_WINDOW / STEP - 1));
    // SAFETY: as above.
    let head = unsafe { &*state.head };
    u64::from(!state.scan.step(head, at, state.len as usize))
}

#[repr(C)]
struct FramingReading {
    head: *const [u8; 2 * HEAD_WINDOW],
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

#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, the key would lie on the small stack twice"
)]
fn look_up(
    hashes: &[u64; MAX_WILDCARD_MASKS],
    masks: &[u32; MAX_WILDCARD_MASKS],
    mask_count: u32,
    method: u64,
    service: u32,
) -> u16 {
    let mut m = 0;
    while m < MAX_WILDCARD_MASKS {
        if m as u32 >= mask_count {
            break;
        }
        let mut key = EndpointKey { path_hash: hashes[m], method, service, mask: masks[m] };
        let mut found = ENDPOINTS.get_ptr(&key);
        if found.is_none() {
            key.method = 0;
            found = ENDPOINTS.get_ptr(&key);
        }
        if let Some(endpoint) = found {
            // SAFETY: a live map value; the agent never changes one.
            return unsafe { *endpoint } as u16;
        }
        m += 1;
    }
    ENDPOINT_OTHER
}

#[inline(always)]
fn on_send(sk: *const c_void, sent: i32) {
    let failed = matches!(sent, EPIPE | ECONNRESET | ENOTCONN | ESHUTDOWN | ETIMEDOUT);
    // EAGAIN, an interruption, nothing sent: there will be another call.
    if sent <= 0 && !failed {
        return;
    }
    let moved = if failed { 0 } else { u64::from(sent as u32) };
    let Some(mut op) = Operation::of(sk, moved) else { return };
    if op.connection.kind == kind::UNKNOWN {
        send_first(&mut op);
    }
    match op.connection.kind {
        kind::OTHER if op.thread.request.is_some() => op.connection.owner = op.thread.request,
        kind::INBOUND if op.connection.phase != phase::IDLE => send_response(&mut op, failed),
        _ => {}
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
    if readable && http::status(&start).is_some() {
        op.connection.kind = kind::INBOUND;
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
fn send_response(op: &mut Operation, failed: bool) {
    if ongoing(op.connection.request).is_none() && !continue_response(op) {
        return;
    }
    let request = op.connection.request;
    bind(op.thread, request, Cause::Send, op.slot, op.now);
    if op.connection.phase != phase::RESPONSE && !begin_response(op, failed) {
        flush(op.thread, op.slot);
        return;
    }
    op.connection.sent += op.moved;
    let complete = failed
        || match op.connection.framing {
            framing::LENGTH => op.connection.sent >= op.connection.expected,
            framing::CHUNKED => op.call.last_five(op.moved).is_some_and(|end| end == *b"0\r\n\r\n"),
            _ => true,
        };
    let flags = RequestFlags::ANSWERED | if complete { RequestFlags::COMPLETE } else { 0 };
    op.thread.seen |= u32::from(flags);
    flush(op.thread, op.slot);
    if let Some(request) = ongoing(request) {
        request.status = op.connection.status;
        request.last_mono_ns = op.now;
        request.flags |= flags;
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
