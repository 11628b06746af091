//! Connections inside TLS: what the library hands to the application, and gets from it, goes the way that plain
//! sockets' bytes go. The names are OpenSSL's (and those of its descendants); Go's are in
//! [`crate::go_tls`].

use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use watchdog_common::types::{Loss, RequestFlags, TLS_COOKIE};

use crate::counters::{exchange, lost};
use crate::goroutine::look;
use crate::maps::{BLANK_CONN, Connection, ONGOING_TLS, TLS_SESSIONS, TlsRead};
use crate::probe::Hit;
use crate::registers::{Source, read_u64};
use crate::request::{charge, ongoing};
use crate::response::send;
use crate::socket::{Operation, kind, receive};
use crate::streams;

/// Each fails only when another CPU has just begun a session.
const NUMBER_TRIES: u32 = 16;

/// `SSL_read(SSL *ssl, void *buf, int num)`, which returns the count.
#[uprobe]
#[inline(always)]
pub(crate) fn tls_read(ctx: ProbeContext) -> u32 {
    enter_read(&ctx, false);
    0
}

/// `SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes)`
#[uprobe]
#[inline(always)]
pub(crate) fn tls_read_ex(ctx: ProbeContext) -> u32 {
    enter_read(&ctx, true);
    0
}

#[inline(always)]
fn enter_read(ctx: &ProbeContext, counts_elsewhere: bool) {
    let Some(hit) = Hit::of(ctx) else { return };
    let Some(thread) = hit.thread() else {
        lost(Loss::TaskStorage);
        return;
    };
    let argument = |n| ctx.arg::<u64>(n).unwrap_or(0);
    thread.tls_read = TlsRead {
        session: argument(0),
        buffer: argument(1),
        count_at: if counts_elsewhere { argument(3) } else { 0 },
    };
}

/// The return of both.
#[uretprobe]
#[inline(always)]
pub(crate) fn tls_read_end(ctx: RetProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let Some(thread) = hit.known_thread() else { return 0 };
    let read = thread.tls_read;
    thread.tls_read.session = 0;
    let returned = (ctx.ret::<u64>() as u32).cast_signed();
    // Errors, and "not a whole record yet".
    if read.session == 0 || returned <= 0 {
        return 0;
    }
    let received =
        if read.count_at == 0 { u64::from(returned as u32) } else { read_u64(read.count_at).unwrap_or(0) };
    if received != 0
        && let Some(mut op) = operation(&hit, read.session, read.buffer, received)
    {
        receive(&mut op, None);
    }
    0
}

/// `SSL_write(SSL *ssl, const void *buf, int num)` and `SSL_write_ex(..., size_t num, size_t *written)`. At its entry,
/// which costs half of what entry and return cost: a write that would block is made again with the same bytes, which
/// then count twice, and at worst what is left of that answer is added to its request as a continuation.
#[uprobe]
#[inline(always)]
pub(crate) fn tls_write(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let argument = |n| ctx.arg::<u64>(n).unwrap_or(0);
    let len = u64::from(argument(2) as u32);
    if len != 0
        && let Some(mut op) = operation(&hit, argument(0), argument(1), len)
    {
        send(&mut op, None, false);
    }
    0
}

/// `SSL_free(SSL *ssl)`: the connection is closed.
#[uprobe]
#[inline(always)]
pub(crate) fn tls_free(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let Some(session) = ctx.arg::<u64>(0) else { return 0 };
    close(&hit, session);
    0
}

/// Whoever is in the session's request ends it; the state goes.
#[inline(always)]
pub(crate) fn close(hit: &Hit, session: u64) {
    let key = hit.key(session);
    let Some(connection) = ONGOING_TLS.get_ptr_mut(key) else { return };
    // SAFETY: a live map value; a session is used by one thread at a time.
    let connection = unsafe { &mut *connection };
    if connection.kind == kind::HTTP2 {
        streams::close(connection);
    }
    if connection.kind == kind::INBOUND
        && let Some(request) = ongoing(connection.request)
    {
        request.flags |= RequestFlags::CLOSED;
    }
    let _ = ONGOING_TLS.remove(key);
}

#[inline(always)]
pub(crate) fn operation(hit: &Hit, session: u64, buffer: u64, moved: u64) -> Option<Operation> {
    let Some(thread) = hit.thread() else {
        lost(Loss::TaskStorage);
        return None;
    };
    if hit.is_go() {
        let since = thread.segment_mono_ns;
        look(thread, hit.task, hit.tgid, hit.slot, false, since);
    }
    let now = charge(thread);
    let connection = connection(hit, session)?;
    Some(Operation {
        thread,
        connection,
        call: Source::Buffer(buffer),
        slot: hit.slot,
        tgid: hit.tgid,
        now,
        moved,
    })
}

/// The session's state, made if need be.
#[inline(always)]
fn connection(hit: &Hit, session: u64) -> Option<&'static mut Connection> {
    let key = hit.key(session);
    let mut found = ONGOING_TLS.get_ptr_mut(key);
    if found.is_none() {
        // SAFETY: a map value that nobody writes.
        let blank = unsafe { &*BLANK_CONN.get_ptr(0)? };
        found = ONGOING_TLS.insert(key, blank, 0).ok().and_then(|()| ONGOING_TLS.get_ptr_mut(key));
    }
    let Some(found) = found else {
        lost(Loss::ConnectionStorage);
        return None;
    };
    // SAFETY: a live map value; a session is used by one thread at a time.
    let connection = unsafe { &mut *found };
    if connection.request.connection == 0 {
        connection.request.connection = TLS_COOKIE | next_number()?;
    }
    Some(connection)
}

/// The number of a new session. There is no instruction on all kernels that adds and tells the sum.
#[inline(always)]
fn next_number() -> Option<u64> {
    let counter = TLS_SESSIONS.get_ptr_mut(0)?;
    let mut tries = 0;
    while tries < NUMBER_TRIES {
        // SAFETY: an aligned u64 in a map value.
        let number = unsafe { counter.read_volatile() };
        if exchange(counter, number, number + 1) {
            return Some(number);
        }
        tries += 1;
    }
    lost(Loss::ConnectionStorage);
    None
}
