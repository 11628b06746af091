//! The uwsgi protocol, as far as the kernel needs it: the method and path of a request packet. Responses are HTTP/1.
//!
//! A packet has a header of four bytes (modifier, size in little-endian, second modifier) and variables: length and
//! name, length and value, the lengths as little-endian u16. Any binary protocol may begin like that, so a connection
//! is believed to speak it only when the first variable is one that front ends send.

use crate::cgi::{HEADER, Memory, Plan, VARIABLE, VARIABLE_BYTES, Variables, is_looked_for, word};
use crate::fastcgi::{Event, Opens};
use crate::http::method_code;

pub const HEADER_BYTES: u32 = 4;
/// Languages have modifiers below this: 0 Python, 5 Perl, 7 Ruby, 14 PHP, ... Above are commands to uWSGI itself.
const MODIFIERS: u8 = 32;
/// A TLS record, and a FastCGI record, begin with these.
const NOT_MODIFIERS: [u8; 2] = [0x16, 0x01];
/// Longest name that a packet's first variable has.
const FIRST_NAME: u32 = 64;
/// Bytes of the first name that are compared.
const COMPARED: u32 = 8;

/// Beginnings of the names of which one comes first, from every front end we know.
const FIRST: [u64; 12] = [
    method_code(b"REQUEST_"),
    method_code(b"QUERY_STRING"),
    method_code(b"CONTENT_"),
    method_code(b"PATH_INFO"),
    method_code(b"SCRIPT_NAME"),
    method_code(b"DOCUMENT_"),
    method_code(b"SERVER_NAME"),
    method_code(b"SERVER_PORT"),
    method_code(b"REMOTE_ADDR"),
    method_code(b"REMOTE_USER"),
    method_code(b"HTTP_HOST"),
    method_code(b"UWSGI_SCRIPT"),
];

/// Whether a connection that begins with `head[..len]` speaks the uwsgi protocol.
#[inline(always)]
pub fn opens(head: &[u8], len: usize) -> Opens {
    let byte = |at: usize| if at < len { head.get(at).copied() } else { None };
    let Some(modifier) = byte(0) else { return Opens::Maybe };
    if modifier >= MODIFIERS || NOT_MODIFIERS.contains(&modifier) {
        return Opens::No;
    }
    let pair = |at: usize| Some(u32::from(byte(at)?) | u32::from(byte(at + 1)?) << 8);
    let Some(size) = pair(1) else { return Opens::Maybe };
    if size < COMPARED + 4 {
        return Opens::No;
    }
    let Some(name) = pair(4) else { return Opens::Maybe };
    if !(COMPARED..=FIRST_NAME).contains(&name) || name + 4 > size {
        return Opens::No;
    }
    let mut word = 0u64;
    let mut k = 0;
    while k < COMPARED as usize {
        let Some(byte) = byte(6 + k) else { return Opens::Maybe };
        if !(byte.is_ascii_uppercase() || byte == b'_') {
            return Opens::No;
        }
        word |= u64::from(byte) << (8 * k);
        k += 1;
    }
    if comes_first(word) { Opens::Yes } else { Opens::No }
}

#[inline(always)]
fn comes_first(name: u64) -> bool {
    let mut found = false;
    let mut k = 0;
    while k < FIRST.len() {
        found |= name == FIRST[k];
        k += 1;
    }
    found
}

/// What is read next.
mod stage {
    pub(super) const HEADER: u32 = 0;
    pub(super) const VARIABLE: u32 = 1;
    /// The length of a value whose name was passed over.
    pub(super) const VALUE_LENGTH: u32 = 2;
    /// Nothing: the packet is read, or is none.
    pub(super) const OVER: u32 = 3;
}

/// One packet. The events are those of FastCGI: [`Event::BEGAN`] when its first variable was recognised,
/// [`Event::DECIDED`] when method and path are known or will not be, [`Event::BROKEN`] when it is no packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    stage: u32,
    /// Bytes of the variables still to come.
    content: u32,
    header_kept: u32,
    variable_kept: u32,
    /// 1 once the first variable was recognised.
    known: u32,
    events: u32,
}

impl Packet {
    /// A connection, or its next packet, begins. Field by field: in the kernel it is one function call less.
    #[inline(always)]
    pub fn open(&mut self) {
        self.stage = stage::HEADER;
        self.content = 0;
        self.header_kept = 0;
        self.variable_kept = 0;
        self.known = 0;
        self.events = 0;
    }

    /// What to do with the next bytes, of which there are `left` (at least one); `None` when no more are needed.
    #[inline(always)]
    pub fn plan(&self, variables: &Variables, left: u32) -> Option<Plan> {
        let wanted = match self.stage {
            stage::HEADER => return Some(Plan::fill(HEADER, self.header_kept, HEADER_BYTES, left)),
            stage::VARIABLE => VARIABLE_BYTES,
            stage::VALUE_LENGTH => 2,
            _ => return None,
        };
        let left = self.content.min(left);
        Some(variables.plan(left).unwrap_or(Plan::fill(VARIABLE, self.variable_kept, wanted, left)))
    }

    /// The planned bytes were copied, or passed over. Returns how many of them are done with.
    #[inline(always)]
    pub fn took(&mut self, variables: &mut Variables, memory: &Memory, plan: Plan) -> u32 {
        if self.stage == stage::HEADER {
            self.header_kept += plan.len;
            if self.header_kept >= HEADER_BYTES {
                self.header(memory);
            }
            return plan.len;
        }
        let mut used = plan.len;
        if variables.plan(plan.len).is_some() {
            variables.took(plan);
        } else {
            used = self.variable(variables, memory, plan.len);
        }
        self.content -= self.content.min(used);
        if self.stage != stage::OVER && (self.content == 0 || variables.decided()) {
            self.over(if self.known != 0 { Event::DECIDED } else { Event::BROKEN });
        }
        used
    }

    /// Bytes of the stream could not be read, or it is no packet.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.over(if self.known != 0 { Event::DECIDED | Event::BROKEN } else { Event::BROKEN });
    }

    #[inline(always)]
    pub fn take_events(&mut self) -> u32 {
        let events = self.events;
        self.events = 0;
        events
    }

    #[inline(always)]
    fn over(&mut self, events: u32) {
        self.stage = stage::OVER;
        self.events |= events;
    }

    #[inline(always)]
    fn header(&mut self, memory: &Memory) {
        let header = word(memory, HEADER, HEADER_BYTES) as u32;
        let modifier = header.to_le_bytes()[0];
        self.content = header >> 8 & 0xffff;
        self.stage = stage::VARIABLE;
        if modifier >= MODIFIERS || NOT_MODIFIERS.contains(&modifier) || self.content < COMPARED + 4 {
            self.lose();
        }
    }

    /// The beginning of a variable: its name and the length of its value, if they are short enough to be looked at
    /// together; else the length of the name, and of the value behind it.
    #[inline(always)]
    fn variable(&mut self, variables: &mut Variables, memory: &Memory, fresh: u32) -> u32 {
        let before = self.variable_kept;
        let kept = before + fresh;
        let first = word(memory, VARIABLE, 2) as u32;
        if self.stage == stage::VALUE_LENGTH {
            if kept < 2 {
                self.variable_kept = kept;
                return fresh;
            }
            self.variable_kept = 0;
            self.stage = stage::VARIABLE;
            variables.pass_over(u64::from(first));
            return 2u32.saturating_sub(before);
        }
        let mut wanted = if kept >= 2 && is_looked_for(first) { first + 4 } else { 2 };
        if self.known == 0 && wanted < 2 + COMPARED {
            wanted = 2 + COMPARED;
        }
        if kept < wanted {
            self.variable_kept = kept;
            return fresh;
        }
        self.variable_kept = 0;
        if self.known == 0 {
            if !(COMPARED..=FIRST_NAME).contains(&first) || !comes_first(word(memory, VARIABLE + 2, COMPARED))
            {
                self.lose();
                return fresh;
            }
            self.known = 1;
            self.events |= Event::BEGAN;
        }
        if is_looked_for(first) {
            let value = word(memory, VARIABLE + 2 + first as usize, 2);
            variables.name(memory, VARIABLE + 2, first, value);
        } else {
            // All that is done with is the length of the name, or what was compared of the first one.
            self.stage = stage::VALUE_LENGTH;
            variables.pass_over(u64::from((first + 2).saturating_sub(wanted)));
        }
        wanted.saturating_sub(before)
    }
}
