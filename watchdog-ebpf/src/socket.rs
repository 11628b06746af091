//! The hooks on sockets, and what is received: whose request it begins, continues, or wakes up again.
//!
//! What is sent is in [`crate::response`], which endpoint a request names in [`crate::endpoint`].

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use watchdog_common::abi::{ENDPOINT_OTHER, HEAD_WINDOW, SLOT_MASK};
use watchdog_common::http::{self, Opening};
use watchdog_common::http2::begins_request;
use watchdog_common::types::{Blind, Loss, Protocol, RequestFlags};

use crate::bytes::{read_window, reloaded};
use crate::counters::{lost, received};
use crate::elsewhere::{answered, join, remember};
use crate::endpoint::{endpoint_of, speaks};
use crate::goroutine::{is_go, keep, look};
use crate::handover::{LONGEST_SIGN, count_begun};
use crate::maps::{
    Connection, Request, Role, TLS_SERVED, Thread, connection_of, connection_of_or_new, process_of, slot_of,
    thread_of, thread_of_or_new,
};
use crate::offsets::{self, Task};
use crate::packets;
use crate::registers::{Source, SystemCall, Via, read_u64, read_user};
use crate::request::{Cause, begin, bind, charge, ongoing};
use crate::response::on_send;
use crate::streams;

/// What a connection is.
pub(crate) mod kind {
    pub(crate) const UNKNOWN: u32 = 0;
    /// Requests come in on it.
    pub(crate) const INBOUND: u32 = 1;
    /// To a database, a cache, a pipe between threads, or of an unknown protocol.
    pub(crate) const OTHER: u32 = 2;
    /// Cannot be read: what follows a 101, unless that is HTTP/2.
    pub(crate) const OPAQUE: u32 = 3;
    pub(crate) const TLS: u32 = 4;
    /// Followed by [`crate::streams`] for what the agent makes of it.
    pub(crate) const HTTP2: u32 = 5;
    /// As `OTHER`, but the other side spoke first.
    pub(crate) const FOREIGN: u32 = 6;
    /// Requests come in on it as FastCGI records. From here on, [`crate::packets`] looks at what is received.
    pub(crate) const FASTCGI: u32 = 7;
    /// A packet of the uwsgi protocol is being received.
    pub(crate) const UWSGI: u32 = 8;
    /// TLS, which probes on the process's library read in clear: here its connection is only tended.
    pub(crate) const CLEARED: u32 = 9;
    /// From a process of the same build, in a request that came in there.
    pub(crate) const JOINED: u32 = 10;
    /// As `JOINED`, but that request is over.
    pub(crate) const LEFT: u32 = 11;
}

/// Where an inbound connection stands.
pub(crate) mod phase {
    /// A request's head is expected.
    pub(crate) const IDLE: u32 = 0;
    /// Part of a head was received.
    pub(crate) const HEAD: u32 = 1;
    /// A request is under way; what is received is its body.
    pub(crate) const REQUEST: u32 = 2;
    /// A response is being sent; what is received begins the next request.
    pub(crate) const RESPONSE: u32 = 3;
    /// The first record or packet is expected, or part of it was received.
    pub(crate) const OPENING: u32 = 4;
}

const MSG_PEEK: u32 = 2;
const TCP_ESTABLISHED: i32 = 1;
const EAGAIN: i32 = -11;
const TCP_SYN_SENT: i32 = 2;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;

/// Core tier: `sock_recv_length(struct sock *sk, int ret, int flags)`.
#[btf_tracepoint]
#[inline(always)]
pub(crate) fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    on_receive(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// Core tier: `sock_send_length(struct sock *sk, int ret, int flags)`.
#[btf_tracepoint]
#[inline(always)]
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
        #[inline(always)]
        pub(crate) fn $receive(ctx: FExitContext) -> i32 {
            on_receive(sk_of(ctx.arg(0)), ctx.arg(4), ctx.arg(3));
            0
        }

        /// Tier A: `(struct socket *sock, struct msghdr *msg, size_t size)`, at its return.
        #[fexit]
        #[inline(always)]
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
    let state = ctx.arg::<i32>(2);
    if state == TCP_SYN_SENT && slot_of(Task::current().tgid()) != 0 {
        // The process connects to elsewhere.
        if let Some(connection) = connection_of_or_new(ctx.arg(0)) {
            connection.kind = kind::OTHER;
            if let Some(thread) = thread_of(Task::current())
                && thread.seen & u32::from(RequestFlags::ANSWERED) == 0
            {
                connection.outer = thread.request;
            }
        }
    }
    if state == TCP_ESTABLISHED
        && let Some(connection) = connection_of(ctx.arg(0))
        && connection.kind == kind::OTHER
        && connection.outer.is_some()
    {
        // Before anything can be received at the other end.
        remember(ctx.arg(0), connection.outer);
    }
    if !matches!(state, TCP_FIN_WAIT1 | TCP_LAST_ACK | TCP_CLOSE) {
        return 0;
    }
    let Some(connection) = connection_of(ctx.arg(0)) else { return 0 };
    // Packets close connections too, in whosever context they come.
    if connection.kind != kind::OTHER && SystemCall::of(Task::current()).closes() {
        tend();
    }
    if state == TCP_CLOSE && connection.kind == kind::HTTP2 {
        streams::close(connection);
    }
    if state == TCP_CLOSE
        && !matches!(connection.kind, kind::OTHER | kind::OPAQUE | kind::CLEARED | kind::HTTP2)
        && let Some(request) = ongoing(connection.request)
    {
        request.flags |= RequestFlags::CLOSED;
    }
    0
}

/// One socket operation of a watched thread, and whose it is.
pub(crate) struct Operation {
    pub(crate) thread: &'static mut Thread,
    pub(crate) connection: &'static mut Connection,
    pub(crate) call: Source,
    pub(crate) slot: u16,
    pub(crate) tgid: u32,
    pub(crate) now: u64,
    /// Bytes that were received or sent.
    pub(crate) moved: u64,
}

impl Operation {
    #[inline(always)]
    pub(crate) fn of(sk: *const c_void, moved: u64) -> Option<Self> {
        let task = Task::current();
        let tgid = task.tgid();
        let process = process_of(tgid);
        if process == 0 {
            return None;
        }
        let slot = process & SLOT_MASK;
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
        if is_go(process) {
            let since = thread.segment_mono_ns;
            look(thread, task, tgid, slot, false, since);
        }
        let now = charge(thread);
        Some(Self { thread, connection, call: Source::Call(SystemCall::of(task)), slot, tgid, now, moved })
    }
}

#[inline(always)]
fn on_receive(sk: *const c_void, received: i32, flags: u32) {
    // EAGAIN and a mere look at the data change nothing.
    if received <= 0 || flags & MSG_PEEK != 0 {
        match received {
            0 => tend(),
            EAGAIN => await_data(sk),
            _ => {}
        }
        return;
    }
    if let Some(mut op) = Operation::of(sk, u64::from(received as u32)) {
        receive(&mut op, Some(sk));
    }
}

/// A goroutine will wait for a connection's first request: what it did for the connection so far waits with it.
#[inline(always)]
fn await_data(sk: *const c_void) {
    let task = Task::current();
    let tgid = task.tgid();
    let process = process_of(tgid);
    if !is_go(process)
        || connection_of(sk).is_some_and(|known| !matches!(known.kind, kind::UNKNOWN | kind::CLEARED))
    {
        return;
    }
    let Some(thread) = thread_of(task) else { return };
    let since = thread.segment_mono_ns;
    look(thread, task, tgid, process & SLOT_MASK, false, since);
    charge(thread);
    keep(thread, process & SLOT_MASK);
}

/// The current thread takes a connection down, or sets one up.
#[inline(always)]
fn tend() {
    let task = Task::current();
    if slot_of(task.tgid()) != 0
        && let Some(thread) = thread_of(task)
    {
        thread.role |= Role::TENDS;
    }
}

/// Something was received; `sk` is the connection's socket, if it is one in clear.
#[inline(always)]
pub(crate) fn receive(op: &mut Operation, sk: Option<*const c_void>) {
    if op.connection.kind == kind::TLS && is_read_in_clear(op.tgid) {
        op.connection.kind = kind::CLEARED;
    }
    if matches!(op.connection.kind, kind::UNKNOWN | kind::JOINED | kind::LEFT)
        && let Some(sk) = sk
    {
        join(op.connection, sk, op.slot, op.tgid);
    }
    if op.connection.kind == kind::OPAQUE && op.connection.phase == phase::RESPONSE {
        look_behind_upgrade(op);
    }
    let connection = &mut *op.connection;
    let mut request = match connection.kind {
        kind::JOINED => return bind(op.thread, connection.outer, Cause::Receive, op.slot, op.now),
        kind::LEFT => return,
        kind::CLEARED => {
            op.thread.role |= Role::TENDS;
            keep(op.thread, op.slot);
            return;
        }
        // An answer of a database or the like makes the request current again that asked. Where nobody in a request
        // ever sent, it may be an inbound connection whose beginning was not seen.
        kind::OTHER | kind::FOREIGN => answered(connection),
        // More of the request's body.
        kind::INBOUND if connection.phase == phase::REQUEST => connection.request,
        _ => Request::NONE,
    };
    if request.is_some() {
        let cause = if op.connection.kind == kind::INBOUND { Cause::Receive } else { Cause::Answer };
        if ongoing(request).is_some() {
            bind(op.thread, request, cause, op.slot, op.now);
        }
    } else if !matches!(op.connection.kind, kind::OPAQUE | kind::TLS | kind::HTTP2) && receive_request(op, sk)
    {
        request = op.connection.request;
        bind(op.thread, request, Cause::Receive, op.slot, op.now);
    }
    if matches!(op.connection.kind, kind::OTHER | kind::FOREIGN) && op.moved <= LONGEST_SIGN {
        op.thread.role |= Role::TOLD;
    }
    let followed = op.connection.kind == kind::HTTP2 && streams::follow_received(op);
    count(op, followed);
}

/// The first bytes behind a 101 say whether the connection was upgraded to HTTP/2.
///
/// A function of its own, as its caller's stack is small.
#[inline(never)]
fn look_behind_upgrade(op: &mut Operation) {
    op.connection.phase = phase::IDLE;
    if let Some(bytes) = op.call.first_bytes(op.moved)
        && bytes.len >= 8
        && read_u64(bytes.address) == Some(http::method_code(b"PRI * HT"))
    {
        become_kind(op, kind::HTTP2);
        streams::open(op.connection, Some(0));
    }
}

/// Whether probes on the process's TLS library tell in clear what its sockets carry.
#[inline(always)]
fn is_read_in_clear(tgid: u32) -> bool {
    TLS_SERVED.get_ptr(tgid).is_some()
}

/// Counts what was received by what can be made of it.
#[inline(always)]
fn count(op: &Operation, followed: bool) {
    let kind = op.connection.kind;
    let io_uring = op.call.via() == Via::IoUring;
    // What comes from elsewhere hides no request.
    if matches!(kind, kind::OTHER | kind::OPAQUE | kind::CLEARED) {
        return;
    }
    // SAFETY: fields of a live map value.
    let field = |blind: *mut Blind| unsafe {
        match kind {
            _ if io_uring => &raw mut (*blind).io_uring_bytes,
            kind::INBOUND | kind::FASTCGI | kind::UWSGI => &raw mut (*blind).readable_bytes,
            kind::TLS => &raw mut (*blind).tls_bytes,
            kind::HTTP2 if followed => &raw mut (*blind).streams_bytes,
            kind::HTTP2 => &raw mut (*blind).http2_bytes,
            _ => &raw mut (*blind).unknown_bytes,
        }
    };
    received(op.slot, field, op.moved);
}

/// What was received, as far as requests go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing that concerns one.
    Nothing,
    /// More of the request under way.
    More,
    /// A head that is not complete.
    Head { begins: bool },
    /// Method and path: the latter lies in the connection's `head`, from `target` on and up to `len`.
    Line { method: u64, len: usize, begins: bool },
}

/// Begins the request whose beginning was received, or learns more of it; false when what was received belongs to none.
#[inline(always)]
fn receive_request(op: &mut Operation, sk: Option<*const c_void>) -> bool {
    let mut received = Received::Nothing;
    if op.connection.kind < kind::FASTCGI {
        received = receive_head(op, sk.is_some());
    }
    if matches!(op.connection.kind, kind::FASTCGI | kind::UWSGI)
        && let Some(sk) = sk
    {
        received = packets::receive(op, sk);
    }
    let (begins, endpoint) = match received {
        Received::Nothing => return false,
        Received::More => return true,
        Received::Head { begins } => (begins, None),
        Received::Line { method, len, begins } => {
            op.connection.no_body = u16::from(method == http::method_code(b"HEAD"));
            let target = reloaded(&op.connection.target);
            (begins, endpoint_of(op.slot, &op.connection.head, target, method, len))
        }
    };
    if endpoint.is_none() && matches!(op.connection.kind, kind::OTHER | kind::FOREIGN) {
        return false;
    }
    // What follows the head of a uwsgi request is as in HTTP/1: the body, and the response.
    if op.connection.kind < kind::FASTCGI || (op.connection.kind == kind::UWSGI && endpoint.is_some()) {
        op.connection.kind = kind::INBOUND;
    }
    op.connection.phase = if endpoint.is_some() { phase::REQUEST } else { phase::HEAD };
    op.connection.endpoint = endpoint.unwrap_or(ENDPOINT_OTHER);
    if let Some(endpoint) = endpoint {
        count_begun(op.slot, endpoint);
    }
    if begins {
        op.connection.status = 0;
        let flags = if endpoint.is_some() { 0 } else { RequestFlags::HEAD };
        return begin(op.connection, op.thread, op.slot, op.tgid, op.now, flags);
    }
    if let Some(endpoint) = endpoint
        && let Some(request) = ongoing(op.connection.request)
    {
        request.endpoint = endpoint;
        request.flags &= !RequestFlags::HEAD;
    }
    true
}

/// Reads what was received behind what is kept of the head already, and judges it. The request begins with its first
/// byte, even if its head ends later. `packets`: it may begin as a packet, too.
#[inline(always)]
fn receive_head(op: &mut Operation, packets: bool) -> Received {
    let continued = op.connection.phase == phase::HEAD;
    if !continued {
        op.connection.head_len = 0;
    }
    if op.call.via() == Via::IoUring {
        lost(Loss::IoUring);
        return Received::Nothing;
    }
    let Some(bytes) = op.call.first_bytes(op.moved) else {
        lost(Loss::UnreadableBuffer);
        return Received::Nothing;
    };
    let kept = (op.connection.head_len as usize) & (HEAD_WINDOW - 1);
    let len = if bytes.len > HEAD_WINDOW as u64 { HEAD_WINDOW } else { bytes.len as usize };
    let whole = !continued && read_window(op.connection, bytes.address);
    // SAFETY: `kept` is below, and `len` at most, half of the buffer.
    let to = unsafe { op.connection.head.as_mut_ptr().add(kept) };
    if !whole && !read_user(to, len as u32, bytes.address) {
        lost(Loss::UnreadableBuffer);
        return Received::Nothing;
    }
    op.connection.head_len = (kept + len) as u32;
    let len = reloaded(&op.connection.head_len);
    match http::opening(&op.connection.head, len) {
        Opening::Method { .. } | Opening::Partial
            if op.connection.kind != kind::INBOUND && !speaks(op.slot, Protocol::HTTP1) =>
        {
            not_a_request(op, kind::FOREIGN, Loss::UnknownProtocol, continued);
        }
        Opening::Method { method, target } => {
            op.connection.target = target as u32;
            return Received::Line { method, len, begins: !continued };
        }
        Opening::Partial => return Received::Head { begins: !continued },
        Opening::Tls if is_read_in_clear(op.tgid) => {
            op.connection.kind = kind::CLEARED;
            op.connection.phase = phase::IDLE;
            op.thread.role |= Role::TENDS;
            keep(op.thread, op.slot);
        }
        Opening::Tls => not_a_request(op, kind::TLS, Loss::Tls, continued),
        Opening::Http2 => speaks_streams(op, Some(kept as u32), continued),
        Opening::Other if begins_request(&op.connection.head, len) => {
            lost(Loss::Midstream);
            speaks_streams(op, None, false);
        }
        Opening::Other => match if packets { packets::recognise(op, len) } else { None } {
            Some(kind) if !continued => {
                op.connection.kind = kind;
                op.connection.phase = phase::OPENING;
            }
            _ => not_a_request(op, kind::FOREIGN, Loss::UnknownProtocol, continued),
        },
    }
    Received::Nothing
}

/// The bytes are no request: the connection is of another kind, or, on one that carried requests before, they are
/// the rest of a body.
#[inline(always)]
fn not_a_request(op: &mut Operation, what: u32, reason: Loss, continued: bool) {
    if op.connection.kind == kind::UNKNOWN || continued {
        become_kind(op, what);
        lost(reason);
    }
}

/// The connection is of HTTP/2, as [`streams::open`] is told. A server may send its settings before it reads, so that
/// the connection seemed to lead elsewhere; what only a client sends says that it does not.
#[inline(always)]
fn speaks_streams(op: &mut Operation, kept: Option<u32>, continued: bool) {
    if matches!(op.connection.kind, kind::UNKNOWN | kind::OTHER | kind::FOREIGN) || continued {
        become_kind(op, kind::HTTP2);
        streams::open(op.connection, kept);
    }
}

#[inline(always)]
fn become_kind(op: &mut Operation, what: u32) {
    op.connection.kind = what;
    op.connection.phase = phase::IDLE;
    op.connection.sent = 0;
    op.connection.expected = 0;
}
