//! HTTP/2, as far as the kernel needs it: which bytes of a connection are the heads of requests, and which frames end
//! a stream. What the heads say is compressed with a state that lasts as long as the connection; that is decoded by
//! the agent.
//!
//! Each direction is a stream of frames: a head of nine bytes (length, type, flags, stream) and a payload. [`Frames`]
//! plans how many of the next bytes go where, like the readers of [`crate::cgi`], so that it makes no difference how
//! the stream is cut into calls, and a payload that concerns nobody is passed over without being looked at.

#![allow(
    clippy::cast_possible_truncation,
    reason = "counts are bounded by what they are compared with, and the kernel's registers hold 64 bits"
)]

use crate::types::PIECE_BYTES;

/// What a client sends first.
pub const PREFACE_BYTES: u32 = 24;
/// Bytes of a frame before its payload.
pub const HEAD_BYTES: u32 = 9;

/// Types of frames.
pub mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of `HEADERS` (and, the first, of `DATA`).
pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame's head.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload.
    pub length: u32,
    pub stream: u32,
    pub frame: u8,
    pub flags: u8,
    pub _pad: u16,
}

impl Head {
    /// Of the first nine bytes.
    #[inline(always)]
    pub fn parse(bytes: &[u8; ROOM]) -> Self {
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            length: number(0) >> 8,
            stream: number(5) & 0x7fff_ffff,
            frame: bytes[3],
            flags: bytes[4],
            _pad: 0,
        }
    }

    /// Whether there are such frames. What is read out of step hardly ever looks like one.
    #[inline(always)]
    pub fn is_sound(&self, sent: bool) -> bool {
        let on_stream = self.stream != 0;
        if self.frame != frame::DATA && self.length > MOST_LIMIT {
            return false;
        }
        match self.frame {
            frame::DATA | frame::CONTINUATION => on_stream,
            // Clients take odd numbers; a server may push on even ones.
            frame::HEADERS => on_stream && (sent || self.stream & 1 == 1),
            frame::PRIORITY => on_stream && self.length == 5,
            frame::RST_STREAM => on_stream && self.length == 4,
            frame::PUSH_PROMISE => on_stream && sent,
            frame::SETTINGS => !on_stream && self.length.is_multiple_of(6),
            frame::PING => !on_stream && self.length == 8,
            frame::GOAWAY => !on_stream && self.length >= 8,
            frame::WINDOW_UPDATE => self.length == 4,
            // Extensions, and what some clients send to keep servers used to them.
            _ => self.length <= LEAST_LIMIT,
        }
    }
}

/// What a frame may hold unless more was agreed on.
const LEAST_LIMIT: u32 = 1 << 14;
/// More than that servers do not agree on, but for `DATA`.
const MOST_LIMIT: u32 = 1 << 20;

/// Whether a connection whose beginning was not seen brings the head of a request: `head[..len]`, as it is received,
/// begins with a `HEADERS` frame whose first field only requests have.
#[inline(always)]
pub fn begins_request(head: &[u8], len: usize) -> bool {
    /// The first field may come behind these.
    const PRIORITY_BYTES: usize = 5;
    let Some(first) = head.first_chunk::<16>() else { return false };
    let length = u32::from_be_bytes([0, first[0], first[1], first[2]]);
    let stream = u32::from_be_bytes([first[5], first[6], first[7], first[8]]);
    let known = flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY;
    if !(2..=LEAST_LIMIT).contains(&length)
        || first[3] != frame::HEADERS
        || first[4] & !known != 0
        || stream & 1 == 0
    {
        return false;
    }
    let behind = usize::from(first[4] & flag::PADDED != 0)
        + if first[4] & flag::PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
    let at = HEAD_BYTES as usize + behind;
    if at >= len {
        return false;
    }
    let field = first[at];
    // `:authority`, `:method`, `:path` and `:scheme` are the first seven of the static table.
    matches!(field, 0x81..=0x87 | 0x41..=0x47 | 0x01..=0x07 | 0x11..=0x17)
}

/// Bytes that are kept of a frame's head; no more than nine are used, but the kernel's verifier wants to see it.
pub const ROOM: usize = 32;

/// What to do with the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are of no interest.
    Pass,
    /// They go to `head[at..]`.
    Head { at: u32 },
    /// They are part of a request's head.
    Ship,
}

/// What a frame's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing, or not all of it is there.
    Nothing,
    /// A request's head, or more of it, but without any byte.
    Empty,
    /// It is the last one of its stream in this direction, or breaks the stream off.
    Ends,
    /// It is none: the reader is out of step.
    Unsound,
}

/// One direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    pub head: [u8; ROOM],
    pub now: Head,
    /// Bytes that are kept of the next frame's head.
    have: u32,
    /// Bytes of the payload (at first, of the preface) that are still to come.
    pub left: u32,
    /// 1 where they are shipped.
    ships: u32,
    /// 1 where the reader knows where it is.
    in_step: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self { head: [0; ROOM], now: Head::default(), have: 0, left: 0, ships: 0, in_step: 0 }
    }
}

impl Frames {
    /// A frame's head comes behind so many bytes of no interest.
    #[inline(always)]
    pub fn begin(&mut self, behind: u32) {
        self.have = 0;
        self.left = behind;
        self.ships = 0;
        self.in_step = 1;
    }

    /// Bytes were missed.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.have = 0;
        self.left = 0;
        self.ships = 0;
        self.in_step = 0;
    }

    #[inline(always)]
    pub fn is_in_step(&self) -> bool {
        self.in_step != 0
    }

    /// Passes over bytes that cannot be read; false where they are not all of no interest.
    #[inline(always)]
    pub fn pass(&mut self, moved: u64) -> bool {
        if self.ships != 0 || u64::from(self.left) < moved {
            return false;
        }
        self.left -= moved as u32;
        true
    }

    /// How many of the next bytes (there are some, at least one) go where.
    #[inline(always)]
    pub fn plan(&self, available: u32) -> (Way, u32) {
        if self.left == 0 {
            let missing = HEAD_BYTES.saturating_sub(self.have);
            return (Way::Head { at: self.have }, missing.min(available));
        }
        let len = self.left.min(available);
        if self.ships == 0 { (Way::Pass, len) } else { (Way::Ship, len.min(PIECE_BYTES as u32)) }
    }

    /// So many bytes of the payload are done with.
    #[inline(always)]
    pub fn passed(&mut self, len: u32) {
        self.left = self.left.saturating_sub(len);
    }

    /// So many bytes were copied to where the plan said. `sent`: the server sends this direction.
    #[inline(always)]
    pub fn took(&mut self, len: u32, sent: bool) -> Says {
        self.have += len;
        if self.have < HEAD_BYTES {
            return Says::Nothing;
        }
        self.have = 0;
        let now = Head::parse(&self.head);
        self.now = now;
        if !now.is_sound(sent) {
            self.lose();
            return Says::Unsound;
        }
        self.left = now.length;
        let heads = matches!(now.frame, frame::HEADERS | frame::CONTINUATION);
        self.ships = u32::from(heads && !sent);
        let ends = now.frame == frame::RST_STREAM
            || sent && matches!(now.frame, frame::DATA | frame::HEADERS) && now.flags & flag::END_STREAM != 0;
        match (ends, self.ships != 0 && self.left == 0) {
            (true, _) => Says::Ends,
            (_, true) => Says::Empty,
            _ => Says::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
