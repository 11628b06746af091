//! FastCGI connections: records that are received, and the response up to the record that ends it.

use core::ffi::c_void;

use watchdog_common::cgi::WINDOW;
use watchdog_common::fastcgi::Sent;
use watchdog_common::http::STEP;
use watchdog_common::types::RequestFlags;

use crate::maps::{Packets, packets_of};
use crate::packets::{Stack, repeat_on, walk};
use crate::socket::Operation;

/// Walks what was received. Returns the events.
#[inline(always)]
pub(crate) fn walk_requests(op: &Operation, packets: &mut Packets) -> u32 {
    if !walk(op, packets, read_request) {
        packets.requests.lose();
    }
    packets.requests.take_events()
}

unsafe extern "C" fn read_request(_round: u64, stack: *mut Stack) -> u64 {
    // SAFETY: what `walk` passed.
    let packets = unsafe { &mut *stack }.packets();
    let Some(left) = packets.walk.available() else { return 1 };
    if left == 0 {
        return 0;
    }
    let plan = packets.requests.plan(&packets.variables, left);
    if !packets.walk.copy(&mut packets.memory, plan) {
        return 1;
    }
    let used = packets.requests.took(&mut packets.variables, &packets.memory, plan);
    packets.walk.advance(used);
    if packets.requests.is_lost() {
        // What is left belongs to nothing that is known.
        packets.walk.abandon();
        return 1;
    }
    0
}

/// What was sent on the connection: the flags that it gives the request, and the thread; `None` if it is not of the
/// request under way.
#[inline(never)]
pub(crate) fn sent(op: &mut Operation, sk: *const c_void) -> Option<u16> {
    let packets = packets_of(sk)?;
    if !walk(op, packets, read_response) {
        packets.responses.lose();
    }
    let sent = packets.responses.take();
    if sent & Sent::OURS == 0 {
        return None;
    }
    let mut flags = RequestFlags::ANSWERED;
    if sent & (Sent::ENDED | Sent::BROKEN) != 0 {
        flags |= RequestFlags::COMPLETE;
        if !packets.requests.keeps() {
            flags |= RequestFlags::LINGERS;
        }
        packets.requests.ended();
    }
    if packets.responses.head_grew() {
        packets.scan.begin();
        repeat_on((WINDOW / STEP) as u32, packets, read_status);
        op.connection.status = packets.scan.status();
    }
    Some(flags)
}

unsafe extern "C" fn read_status(round: u64, stack: *mut Stack) -> u64 {
    // SAFETY: what `repeat_on` passed.
    let packets = unsafe { &mut *stack }.packets();
    let at = STEP * (round as usize & (WINDOW / STEP - 1));
    let len = packets.responses.head_kept() as usize;
    u64::from(!packets.scan.step(&packets.memory, at, len))
}

unsafe extern "C" fn read_response(_round: u64, stack: *mut Stack) -> u64 {
    // SAFETY: what `walk` passed.
    let packets = unsafe { &mut *stack }.packets();
    let Some(left) = packets.walk.available() else { return 1 };
    if left == 0 {
        return 0;
    }
    let plan = packets.responses.plan(left);
    if !packets.walk.copy(&mut packets.memory, plan) {
        return 1;
    }
    packets.responses.took(&packets.memory, plan);
    packets.walk.advance(plan.len);
    0
}
