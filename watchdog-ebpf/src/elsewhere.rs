//! Connections to elsewhere, such as databases: whose answer comes.
//!
//! A connection that carries one question at a time belongs to who asked last. One that carries several answers them
//! in the order in which they were asked.

use crate::maps::{Connection, OWNERS, Request};
use crate::request::ongoing;

/// A request sent something. `Connection::sent` counts those that asked, `expected` those that were answered; the
/// last one stays until another asks, as answers come in pieces.
#[inline(always)]
pub(crate) fn asked(connection: &mut Connection, request: Request) {
    let (asked, answered) = (connection.sent, connection.expected);
    if asked != 0 {
        let last = connection.owners().ring[(asked as usize - 1) & (OWNERS - 1)];
        if last.identity() == request.identity() {
            // Asks again, or in pieces: its answer is still to come.
            if answered == asked {
                connection.expected = asked - 1;
            }
            return;
        }
    }
    connection.owners().ring[asked as usize & (OWNERS - 1)] = request;
    connection.sent = asked + 1;
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
