//! FastCGI 1.0, as far as the kernel needs it: which request a record belongs to, its method and path, where the
//! response's head is and where the request ends.
//!
//! Both directions are streams of records: a header of eight bytes (version, type, request id, content length,
//! padding length), content, padding. php-fpm reads header and content by calls of their own, other servers read
//! what fits into their buffer; [`Requests`] and [`Responses`] do not care, see [`crate::cgi`].

use crate::cgi::{
    HEADER, Memory, Plan, RESPONSE, SENT_HEADER, VARIABLE, VARIABLE_BYTES, Variables, WINDOW, is_looked_for,
    word,
};

pub const HEADER_BYTES: u32 = 8;
/// Content of a `BEGIN_REQUEST` record: role and flags.
const BEGIN_BYTES: u32 = 8;
const VERSION: u8 = 1;
const RESPONDER: u64 = 1;

/// Types of records.
mod record {
    /// Of no request, or of another one than that under way.
    pub(super) const NONE: u32 = 0;
    pub(super) const BEGIN: u32 = 1;
    pub(super) const END: u32 = 3;
    pub(super) const PARAMS: u32 = 4;
    pub(super) const STDIN: u32 = 5;
    pub(super) const STDOUT: u32 = 6;
}

/// What the first bytes of a connection say of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    No,
    /// More bytes are needed.
    Maybe,
    Yes,
}

/// Whether a connection that begins with `head[..len]` speaks FastCGI: a `BEGIN_REQUEST` record's header.
#[inline(always)]
pub fn opens(head: &[u8], len: usize) -> Opens {
    let byte = |at: usize| if at < len { head.get(at).copied() } else { None };
    let differs = |at: usize, expected: u8| byte(at).is_some_and(|byte| byte != expected);
    if differs(0, VERSION)
        || differs(1, record::BEGIN as u8)
        || differs(4, 0)
        || differs(5, BEGIN_BYTES as u8)
        || differs(7, 0)
    {
        return Opens::No;
    }
    if byte(2) == Some(0) && byte(3) == Some(0) {
        return Opens::No;
    }
    if len < HEADER_BYTES as usize { Opens::Maybe } else { Opens::Yes }
}

/// Whether a connection on which something is sent first carries the response of a request that was not seen: the
/// header of a `STDOUT`, `STDERR` or `END_REQUEST` record.
#[inline(always)]
pub fn begins_response(start: &[u8; 16]) -> bool {
    start[0] == VERSION && matches!(start[1], 3 | 6 | 7) && start[2] | start[3] != 0 && start[7] == 0
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    version: u8,
    kind: u32,
    id: u32,
    content: u32,
    padding: u32,
}

impl Header {
    #[inline(always)]
    fn read(memory: &Memory, at: usize) -> Self {
        let bytes = word(memory, at, HEADER_BYTES).to_le_bytes();
        Self {
            version: bytes[0],
            kind: u32::from(bytes[1]),
            id: u32::from(bytes[2]) << 8 | u32::from(bytes[3]),
            content: u32::from(bytes[4]) << 8 | u32::from(bytes[5]),
            padding: u32::from(bytes[6]),
        }
    }
}

/// What came about since [`Requests::take_events`] was asked last, as bits.
#[derive(Clone, Copy, Debug)]
pub struct Event;
impl Event {
    /// A request began.
    pub const BEGAN: u32 = 1;
    /// Its method and path are known, or will not be.
    pub const DECIDED: u32 = 1 << 1;
    /// Bytes of the request under way were received, and not only of others.
    pub const OURS: u32 = 1 << 2;
    /// A request began while another one was under way: it cannot be told apart and is not measured.
    pub const MULTIPLEXED: u32 = 1 << 3;
    /// What came is no FastCGI, or the record boundaries were lost. What is received next must begin with a
    /// `BEGIN_REQUEST` record to be believed again.
    pub const BROKEN: u32 = 1 << 4;
}

/// The received direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// Bytes still to come of the record's content, and of the padding behind it.
    content: u32,
    padding: u32,
    /// Bytes of a header, or of a `BEGIN_REQUEST` record's content, that are in the memory.
    header_kept: u32,
    variable_kept: u32,
    /// What is done with the record: one of [`record`], of which all but two are passed over.
    record: u32,
    /// The request under way, 0 for none.
    id: u32,
    /// 1 while its variables are being read.
    reading: u32,
    /// 1 while the record boundaries are not known.
    lost: u32,
    /// 1 when the connection is to be kept for further requests.
    keep: u32,
    events: u32,
}

impl Requests {
    /// A connection begins. Field by field: in the kernel it is one function call less.
    #[inline(always)]
    pub fn open(&mut self) {
        self.content = 0;
        self.padding = 0;
        self.header_kept = 0;
        self.record = record::NONE;
        self.id = 0;
        self.reading = 0;
        self.lost = 0;
        self.keep = 0;
        self.events = 0;
    }

    /// What to do with the next bytes, of which there are `left` (at least one).
    #[inline(always)]
    pub fn plan(&self, variables: &Variables, left: u32) -> Plan {
        if self.content == 0 {
            return if self.padding > 0 {
                Plan::pass_over(self.padding.min(left))
            } else {
                Plan::fill(HEADER, self.header_kept, HEADER_BYTES, left)
            };
        }
        let left = self.content.min(left);
        match self.record {
            record::BEGIN => Plan::fill(HEADER, self.header_kept, BEGIN_BYTES, left),
            record::PARAMS => {
                variables.plan(left).unwrap_or(Plan::fill(VARIABLE, self.variable_kept, VARIABLE_BYTES, left))
            }
            _ => Plan::pass_over(left),
        }
    }

    /// The planned bytes were copied, or passed over. Returns how many of them are done with; the others are to be
    /// planned anew.
    #[inline(always)]
    pub fn took(&mut self, variables: &mut Variables, memory: &Memory, plan: Plan) -> u32 {
        if self.content == 0 {
            if self.padding > 0 {
                self.padding -= self.padding.min(plan.len);
                return plan.len;
            }
            self.header_kept += plan.len;
            if self.header_kept >= HEADER_BYTES {
                self.header_kept = 0;
                self.header(variables, memory);
            }
            return plan.len;
        }
        let mut used = plan.len;
        match self.record {
            record::BEGIN => {
                self.header_kept += plan.len;
                if self.header_kept >= BEGIN_BYTES {
                    self.header_kept = 0;
                    self.role(memory);
                }
            }
            record::PARAMS if variables.plan(plan.len).is_some() => {
                variables.took(plan);
                if variables.decided() {
                    self.decide();
                }
            }
            record::PARAMS => used = self.variable(variables, memory, plan.len),
            _ => {}
        }
        self.content -= self.content.min(used);
        if self.record != record::NONE {
            self.events |= Event::OURS;
        }
        used
    }

    /// The request under way has ended: the next one may begin.
    #[inline(always)]
    pub fn ended(&mut self) {
        self.id = 0;
        self.reading = 0;
    }

    /// Another request may come on the connection.
    #[inline(always)]
    pub fn keeps(&self) -> bool {
        self.keep != 0
    }

    /// Bytes of the stream could not be read.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.header_kept = 0;
        self.content = 0;
        self.padding = 0;
        self.decide();
        if self.lost == 0 {
            self.lost = 1;
            self.events |= Event::BROKEN;
        }
    }

    /// What is received next does not follow what was received before.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.lost != 0
    }

    #[inline(always)]
    pub fn take_events(&mut self) -> u32 {
        let events = self.events;
        self.events = 0;
        events
    }

    #[inline(always)]
    fn decide(&mut self) {
        if self.reading != 0 {
            self.reading = 0;
            self.events |= Event::DECIDED;
        }
        if self.record == record::PARAMS {
            self.record = record::STDIN;
        }
    }

    #[inline(always)]
    fn header(&mut self, variables: &mut Variables, memory: &Memory) {
        let header = Header::read(memory, HEADER);
        if header.version != VERSION || (self.lost != 0 && header.kind != record::BEGIN) {
            self.lose();
            return;
        }
        self.content = header.content;
        self.padding = header.padding;
        self.record = record::NONE;
        if header.kind == record::BEGIN {
            self.begin(variables, header);
            return;
        }
        // Management records have the id 0.
        if self.id == 0 || header.id != self.id {
            return;
        }
        self.events |= Event::OURS;
        self.record = record::STDIN;
        if self.reading == 0 {
            return;
        }
        if header.kind == record::PARAMS && header.content > 0 {
            self.record = record::PARAMS;
        } else if matches!(header.kind, record::PARAMS | record::STDIN) {
            self.decide();
        }
    }

    #[inline(always)]
    fn begin(&mut self, variables: &mut Variables, header: Header) {
        if header.id == 0 || header.content != BEGIN_BYTES {
            self.lose();
            return;
        }
        self.lost = 0;
        if self.id != 0 {
            self.events |= Event::MULTIPLEXED;
            return;
        }
        self.id = header.id;
        self.record = record::BEGIN;
        self.reading = 1;
        self.variable_kept = 0;
        self.events |= Event::BEGAN | Event::OURS;
        variables.begin();
    }

    /// Only a responder is asked for a page.
    #[inline(always)]
    fn role(&mut self, memory: &Memory) {
        self.record = record::STDIN;
        let body = word(memory, HEADER, 3).swap_bytes();
        self.keep = (body >> 40) as u32 & 1;
        if body >> 48 != RESPONDER {
            self.lose();
        }
    }

    /// The beginning of a variable: the lengths of name and value, each in one byte or four, and the name if it may be
    /// one that is looked for.
    #[inline(always)]
    fn variable(&mut self, variables: &mut Variables, memory: &Memory, fresh: u32) -> u32 {
        let before = self.variable_kept;
        let kept = before + fresh;
        let (name, name_bytes) = length(memory, VARIABLE);
        let (value, value_bytes) = length(memory, VARIABLE + name_bytes as usize);
        let lengths = name_bytes + value_bytes;
        let wanted =
            if kept >= lengths && name_bytes == 1 && is_looked_for(name) { lengths + name } else { lengths };
        if kept < wanted {
            self.variable_kept = kept;
            return fresh;
        }
        self.variable_kept = 0;
        if wanted > lengths {
            variables.name(memory, VARIABLE + lengths as usize, name, u64::from(value));
        } else {
            variables.pass_over(u64::from(name) + u64::from(value));
        }
        wanted.saturating_sub(before)
    }
}

/// A length at `at`, and how many bytes tell it.
#[inline(always)]
fn length(memory: &Memory, at: usize) -> (u32, u32) {
    let bytes = (word(memory, at, 4) as u32).to_le_bytes();
    if bytes[0] & 0x80 == 0 { (u32::from(bytes[0]), 1) } else { (u32::from_be_bytes(bytes) & 0x7fff_ffff, 4) }
}

/// The sent direction of a connection, for the request under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Responses {
    content: u32,
    padding: u32,
    header_kept: u32,
    record: u32,
    /// The request under way.
    id: u32,
    /// Bytes of the response's head in the memory.
    head_kept: u32,
    /// How many there were when [`Responses::head_grew`] was asked last.
    head_seen: u32,
    /// [`Sent`] bits.
    sent: u32,
}

/// What is known of a response, as bits.
#[derive(Clone, Copy, Debug)]
pub struct Sent;
impl Sent {
    /// The request's `END_REQUEST` record was sent.
    pub const ENDED: u32 = 1;
    /// Something of this request was sent since [`Responses::take`] was asked last.
    pub const OURS: u32 = 1 << 1;
    /// The record boundaries were lost: the end cannot be told.
    pub const BROKEN: u32 = 1 << 2;
}

impl Responses {
    /// A connection begins, or a record does after it was lost where they begin.
    #[inline(always)]
    pub fn open(&mut self) {
        self.content = 0;
        self.padding = 0;
        self.header_kept = 0;
        self.record = record::NONE;
        self.id = 0;
        self.head_kept = 0;
        self.sent = 0;
    }

    /// The response to a new request is expected; the stream goes on.
    #[inline(always)]
    pub fn expect(&mut self, requests: &Requests) {
        // Its boundaries may be lost: a new response begins with a record.
        if self.sent & Sent::BROKEN != 0 {
            self.open();
        }
        self.id = requests.id;
        self.head_kept = 0;
        self.head_seen = 0;
        self.sent = 0;
    }

    #[inline(always)]
    pub fn plan(&self, left: u32) -> Plan {
        if self.content == 0 {
            return if self.padding > 0 {
                Plan::pass_over(self.padding.min(left))
            } else {
                Plan::fill(SENT_HEADER, self.header_kept, HEADER_BYTES, left)
            };
        }
        let left = self.content.min(left);
        if self.record == record::STDOUT && self.head_kept < WINDOW as u32 {
            return Plan::fill(RESPONSE, self.head_kept, WINDOW as u32, left);
        }
        Plan::pass_over(left)
    }

    #[inline(always)]
    pub fn took(&mut self, memory: &Memory, plan: Plan) {
        if self.content == 0 {
            if self.padding > 0 {
                self.padding -= self.padding.min(plan.len);
                return;
            }
            self.header_kept += plan.len;
            if self.header_kept >= HEADER_BYTES {
                self.header_kept = 0;
                self.header(memory);
            }
            return;
        }
        if self.record == record::STDOUT && self.head_kept < WINDOW as u32 {
            self.head_kept += plan.len;
        }
        self.content -= self.content.min(plan.len);
        if self.record != record::NONE {
            self.sent |= Sent::OURS;
        }
        if self.record == record::END && self.content == 0 {
            self.sent |= Sent::ENDED;
        }
    }

    #[inline(always)]
    pub fn lose(&mut self) {
        self.sent |= Sent::BROKEN | Sent::OURS;
    }

    /// What is known; the bit [`Sent::OURS`] tells of what was sent since it was asked last.
    #[inline(always)]
    pub fn take(&mut self) -> u32 {
        let sent = self.sent;
        self.sent &= !Sent::OURS;
        sent
    }

    /// True when there are bytes of the response's head that were not there when it was asked last.
    #[inline(always)]
    pub fn head_grew(&mut self) -> bool {
        let seen = self.head_seen;
        self.head_seen = self.head_kept;
        seen != self.head_kept
    }

    /// Bytes of the response's head in the memory, from [`RESPONSE`] on.
    #[inline(always)]
    pub fn head_kept(&self) -> u32 {
        self.head_kept
    }

    #[inline(always)]
    fn header(&mut self, memory: &Memory) {
        let header = Header::read(memory, SENT_HEADER);
        if header.version != VERSION {
            self.lose();
            return;
        }
        self.content = header.content;
        self.padding = header.padding;
        self.record = record::NONE;
        if header.id == 0 || header.id != self.id {
            return;
        }
        self.sent |= Sent::OURS;
        self.record = header.kind;
    }
}
