//! Connections of the uwsgi protocol: a packet of variables is received, and from there on it is like HTTP/1: a body
//! may follow, and the response is one of HTTP/1.

use watchdog_common::fastcgi::Event;

use crate::maps::Packets;
use crate::packets::{Stack, walk};
use crate::socket::Operation;

/// Walks what was received. Returns the events.
#[inline(always)]
pub(crate) fn walk_packet(op: &Operation, packets: &mut Packets) -> u32 {
    if !walk(op, packets, read_packet) {
        packets.packet.lose();
    }
    // There is one request at a time, so all of it is of that one.
    packets.packet.take_events() | Event::OURS
}

unsafe extern "C" fn read_packet(_round: u64, stack: *mut Stack) -> u64 {
    // SAFETY: what `walk` passed.
    let packets = unsafe { &mut *stack }.packets();
    let Some(left) = packets.walk.available() else { return 1 };
    if left == 0 {
        return 0;
    }
    let Some(plan) = packets.packet.plan(&packets.variables, left) else {
        // The rest of the packet, and the body.
        packets.walk.abandon();
        return 1;
    };
    if !packets.walk.copy(&mut packets.memory, plan) {
        return 1;
    }
    let used = packets.packet.took(&mut packets.variables, &packets.memory, plan);
    packets.walk.advance(used);
    0
}
