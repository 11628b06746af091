//! What a connection sends: the response's head, and the record that ends the request.

#![allow(
    clippy::cast_possible_truncation,
    reason = "offsets and counts are bounded by the memory's size, and the kernel's registers hold 64 bits"
)]

use super::{HEADER_BYTES, Header, Requests, VERSION, record};
use crate::cgi::{Memory, Plan, RESPONSE, SENT_HEADER, WINDOW};

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
