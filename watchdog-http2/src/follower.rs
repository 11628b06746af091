//! All connections, within bounds.

use std::collections::HashMap;

use watchdog_common::types::{StreamEvent, StreamPiece};

use crate::connection::{Connection, Resolve};

/// Connections that are remembered; those that were used longest ago go first, and are read from the middle if they are
/// used again.
const MOST_CONNECTIONS: usize = 16_384;
/// What all of them may keep, in bytes.
const MOST_BYTES: usize = 32 << 20;
/// A request whose end was not seen for so long is told.
const LONGEST_NS: u64 = 60_000_000_000;

/// A request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub build_slot: u16,
    /// `None`: its path is not known, as part of what its connection brought before was not seen.
    pub endpoint: Option<u16>,
    pub began_mono_ns: u64,
    pub ended_mono_ns: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Follower {
    connections: HashMap<u64, Connection>,
    bytes: usize,
    ended: Vec<Request>,
}

impl Follower {
    /// Takes what the kernel tells next.
    pub fn take(&mut self, told: &StreamPiece, resolve: Resolve<'_>) {
        match told.event {
            StreamEvent::PIECE => {
                let connection = self.connections.entry(told.connection).or_default();
                let before = connection.weight() * usize::from(connection.last_mono_ns != 0);
                connection.last_mono_ns = told.mono_ns.max(1);
                connection.tgid = told.tgid;
                connection.piece(told, resolve, &mut self.ended);
                self.bytes = (self.bytes + connection.weight()).saturating_sub(before);
                if self.bytes > MOST_BYTES || self.connections.len() > MOST_CONNECTIONS {
                    self.shrink(told.mono_ns);
                }
            }
            StreamEvent::CLOSED => {
                if let Some(mut connection) = self.connections.remove(&told.connection) {
                    self.bytes = self.bytes.saturating_sub(connection.weight());
                    connection.end_all(told.mono_ns, &mut self.ended);
                }
            }
            event => {
                let Some(connection) = self.connections.get_mut(&told.connection) else { return };
                let before = connection.weight();
                if event == StreamEvent::END {
                    connection.end(told.stream, told.mono_ns, &mut self.ended);
                } else {
                    connection.unended(told.mono_ns, &mut self.ended);
                }
                self.bytes = (self.bytes + connection.weight()).saturating_sub(before);
            }
        }
    }

    /// Requests that are over since the last call.
    pub fn requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.ended)
    }

    /// Drops connections of processes that are gone, and tells of requests whose end was never seen.
    pub fn sweep(&mut self, now_mono_ns: u64, is_there: impl Fn(u32) -> bool) {
        let ended = &mut self.ended;
        self.connections.retain(|_, connection| {
            let kept = is_there(connection.tgid);
            if kept {
                connection.end_before(now_mono_ns.saturating_sub(LONGEST_NS), ended);
            } else {
                connection.end_all(now_mono_ns, ended);
            }
            kept
        });
        self.weigh();
    }

    /// Connections that are remembered, and bytes that they keep, roughly.
    pub fn held(&self) -> (usize, usize) {
        (self.connections.len(), self.bytes)
    }

    fn weigh(&mut self) {
        self.bytes = self.connections.values().map(Connection::weight).sum();
    }

    /// Forgets the half of the connections that was used longest ago.
    fn shrink(&mut self, now_mono_ns: u64) {
        let mut used: Vec<u64> =
            self.connections.values().map(|connection| connection.last_mono_ns).collect();
        let half = used.len() / 2;
        let (_, &mut middle, _) = used.select_nth_unstable(half);
        let ended = &mut self.ended;
        let mut spare = used.len() - half;
        self.connections.retain(|_, connection| {
            if connection.last_mono_ns > middle || spare == 0 {
                return true;
            }
            spare -= 1;
            connection.end_all(now_mono_ns, ended);
            false
        });
        self.weigh();
    }
}

#[cfg(test)]
mod tests;
