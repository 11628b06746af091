//! Connections to elsewhere, such as databases: whose answer comes.
//!
//! A connection that carries one question at a time belongs to who asked last. One that carries several answers them
//! in the order in which they were asked.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_skc_to_unix_sock;

use watchdog_common::abi::LED_PLACES;
use watchdog_common::types::OngoingRequest;

use crate::handover::place_of;
use crate::maps::{Connection, LED_CONN, OWNERS, Request, connection_of_or_new};
use crate::offsets;
use crate::request::ongoing;
use crate::socket::kind;

/// Places at which a connection may be remembered.
const WAYS: u32 = 4;

/// A request sent something. `Connection::sent` counts those that asked, `expected` those that were answered; the
/// last one stays until another asks, as answers come in pieces. True when another request asked before.
#[inline(always)]
pub(crate) fn asked(connection: &mut Connection, request: Request) -> bool {
    let (asked, answered) = (connection.sent, connection.expected);
    if asked != 0 {
        let last = connection.owners().ring[(asked as usize - 1) & (OWNERS - 1)];
        if last.identity() == request.identity() {
            // Asks again, or in pieces: its answer is still to come.
            if answered == asked {
                connection.expected = asked - 1;
            }
            return false;
        }
    }
    connection.owners().ring[asked as usize & (OWNERS - 1)] = request;
    connection.sent = asked + 1;
    true
}

/// Tells the other end of a connection within the host in which request it is spoken to. If that is a process of the
/// same build, such as a worker behind its server's own router, what it does is part of that request and none of its
/// own.
#[inline(always)]
pub(crate) fn lead(sk: *const c_void, request: Request) {
    // SAFETY: the helper takes any trusted socket and returns NULL for those of another family; the peer is a pointer
    // member of what it returns, and faults read as zero.
    let peer = unsafe {
        let unix = bpf_skc_to_unix_sock(sk.cast_mut()).cast::<u8>();
        if unix.is_null() {
            remember(sk, request);
            return;
        }
        core::ptr::read_volatile::<*const c_void>(unix.add(offsets::unix_peer() as usize).cast())
    };
    if peer.is_null() {
        return;
    }
    if let Some(connection) = connection_of_or_new(peer)
        && matches!(connection.kind, kind::UNKNOWN | kind::JOINED | kind::LEFT)
    {
        connection.outer = request;
    }
}

/// Both ends of a TCP connection as one number, one end first; 0 for other sockets.
#[inline(always)]
fn ends(sk: *const c_void, peer_first: bool) -> u64 {
    let sk = sk.cast::<u8>();
    // SAFETY: scalar members of the socket, which the verifier trusts.
    let (address, peer_address, port, peer_port) = unsafe {
        (
            core::ptr::read_volatile::<u32>(sk.add(offsets::sock_address() as usize).cast()),
            core::ptr::read_volatile::<u32>(sk.add(offsets::sock_peer_address() as usize).cast()),
            core::ptr::read_volatile::<u16>(sk.add(offsets::sock_port() as usize).cast()),
            core::ptr::read_volatile::<u16>(sk.add(offsets::sock_peer_port() as usize).cast()),
        )
    };
    if peer_port == 0 {
        return 0;
    }
    let own = u64::from(address) << 16 | u64::from(port);
    let peer = u64::from(peer_address) << 16 | u64::from(u16::from_be(peer_port));
    let (first, second) = if peer_first { (peer, own) } else { (own, peer) };
    (first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// As [`lead`], for TCP.
#[inline(always)]
pub(crate) fn remember(sk: *const c_void, request: Request) {
    let ends = ends(sk, false);
    if ends == 0 {
        return;
    }
    let mut way = 0;
    while way < WAYS {
        let Some(led) = LED_CONN.get_ptr_mut(place_of(ends, LED_PLACES) ^ way) else { return };
        // SAFETY: a live map value; a torn request has an identity that nothing has.
        let led = unsafe { &mut *led };
        way += 1;
        if way == WAYS || led.ends == ends || ongoing(led.request).is_none() {
            led.ends = ends;
            led.request = request;
            return;
        }
    }
}

/// Looks up, at a receive, in which request the other end speaks. When that goes on, and belongs to the same build, the
/// connection is part of it.
///
/// A function of its own, as older kernels allow 512 bytes of stack to a program and all that it calls.
#[inline(never)]
pub(crate) fn join(connection: &mut Connection, sk: *const c_void, slot: u16, tgid: u32) {
    let ends = ends(sk, true);
    let mut way = if ends == 0 { WAYS } else { 0 };
    while way < WAYS {
        let Some(led) = LED_CONN.get_ptr(place_of(ends, LED_PLACES) ^ way) else { return };
        // SAFETY: as in `remember`.
        let led = unsafe { &*led };
        way += 1;
        if led.ends == ends {
            connection.outer = led.request;
            break;
        }
    }
    // Between threads of one process, a pair of unix sockets carries wake-ups.
    let leads = |place: &mut OngoingRequest| place.build_slot == slot && (ends != 0 || place.tgid != tgid);
    if ongoing(connection.outer).is_some_and(leads) {
        connection.kind = kind::JOINED;
    } else if connection.kind == kind::JOINED {
        connection.kind = kind::LEFT;
    }
}

/// Whose answer comes.
#[inline(always)]
pub(crate) fn answered(connection: &mut Connection) -> Request {
    let asked = connection.sent;
    if asked == 0 {
        return Request::NONE;
    }
    let mut next = connection.expected;
    // More waited than are remembered: the oldest are forgotten.
    if asked - next > OWNERS as u64 {
        next = asked - OWNERS as u64;
    }
    // More of the last answer.
    if next >= asked {
        return connection.owners().ring[(asked as usize - 1) & (OWNERS - 1)];
    }
    let mut look = 0;
    let mut request = Request::NONE;
    while look < OWNERS && next < asked {
        request = connection.owners().ring[next as usize & (OWNERS - 1)];
        next += 1;
        look += 1;
        if ongoing(request).is_some() {
            break;
        }
    }
    connection.expected = next;
    request
}
