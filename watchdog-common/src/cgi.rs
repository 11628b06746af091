//! What FastCGI and the uwsgi protocol have in common: requests as variables (`REQUEST_METHOD`, `REQUEST_URI`, ...)
//! that come in any number of pieces, and the status in the head of a CGI response.
//!
//! A connection keeps a small [memory](MEMORY) of named stretches. The readers of both protocols do not touch the
//! stream; they [plan](Plan) how many of its next bytes go where in that memory, or are passed over, and draw their
//! conclusions once that was done. So a parameter of 8 KiB costs what one of 8 bytes does, and it makes no difference
//! how the stream is cut into reads.
//!
//! The path is `REQUEST_URI` up to its `?`: what users see and configure. Servers whose front end does not pass it on
//! have `DOCUMENT_URI`, or `SCRIPT_NAME` followed by `PATH_INFO`.

use crate::abi::HEAD_WINDOW;
use crate::http::STEP;

/// Bytes of a value, and of a response's head, that are kept.
pub const WINDOW: usize = HEAD_WINDOW;

/// Where in the memory the kept values begin: a stretch of [`WINDOW`] bytes for each.
pub const URI: usize = 0;
pub const SCRIPT: usize = WINDOW;
pub const INFO: usize = 2 * WINDOW;
pub const METHOD: usize = 3 * WINDOW;
/// The method needs no more of its stretch than this; the rest belongs to the framing.
const METHOD_BYTES: u32 = 16;
/// A packet's or record's header, as far as it was received.
pub const HEADER: usize = METHOD + 16;
/// A record's header, as far as it was sent.
pub const SENT_HEADER: usize = HEADER + 16;
/// The beginning of a variable, as far as it was received.
pub const VARIABLE: usize = SENT_HEADER + 16;
/// Enough for the lengths and the name of every variable that is looked for.
pub const VARIABLE_BYTES: u32 = 24;
/// Of a response's head, once the request is known; the values are not needed any more.
pub const RESPONSE: usize = 0;
/// Places that a [`Plan`] may name.
pub const PLACES: usize = 4 * WINDOW;
/// Size of the memory: as much can be copied to every place as a plan may ask for.
pub const MEMORY: usize = PLACES + WINDOW;

pub type Memory = [u8; MEMORY];

/// What to do with the next bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where in the memory they go, or [`NOWHERE`].
    pub to: u32,
    /// How many; at most [`WINDOW`] unless they go nowhere.
    pub len: u32,
}

/// The bytes are passed over.
pub const NOWHERE: u32 = u32::MAX;

impl Plan {
    #[inline(always)]
    pub const fn pass_over(len: u32) -> Self {
        Self { to: NOWHERE, len }
    }

    /// Fills a stretch that begins at `at` and holds `kept` of `wanted` bytes, with at most `left`.
    #[inline(always)]
    pub fn fill(at: usize, kept: u32, wanted: u32, left: u32) -> Self {
        Self { to: at as u32 + kept, len: wanted.saturating_sub(kept).min(left) }
    }
}

/// Bits of what is known of a request.
mod known {
    pub(super) const METHOD: u32 = 1;
    pub(super) const URI: u32 = 1 << 1;
    pub(super) const DOCUMENT: u32 = 1 << 2;
    pub(super) const SCRIPT: u32 = 1 << 3;
    pub(super) const INFO: u32 = 1 << 4;
}

/// The variables of one request, as far as they were received.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Variables {
    /// Bytes of the stream that belong to no value that is kept.
    skip: u64,
    /// Bytes still to come of the value that is being kept.
    value: u64,
    /// Its stretch in the memory, as a multiple of [`WINDOW`].
    stretch: u32,
    /// Its bit of `known`.
    current: u32,
    known: u32,
    /// Bytes kept in each stretch.
    kept: [u32; 4],
    _pad: u32,
}

/// Where a request's path comes from, in bytes of the memory's stretches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Uri { len: u32 },
    ScriptAndInfo { script: u32, info: u32 },
    None,
}

impl Variables {
    /// A new request's variables come.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.skip = 0;
        self.value = 0;
        self.known = 0;
    }

    /// A variable's name was read: `memory[at..at + len]`; its value has so many bytes. What is between the name and
    /// the value belongs to the caller.
    #[inline(always)]
    pub fn name(&mut self, memory: &Memory, at: usize, len: u32, value: u64) {
        let (current, stretch) = which(memory, at, len);
        // The request's own target is better than what the front end made of it.
        let better = current == known::DOCUMENT && self.known & known::URI != 0;
        if current == 0 || value == 0 || better {
            self.skip = value;
            return;
        }
        self.current = current;
        self.stretch = stretch;
        self.value = value;
        self.kept[stretch as usize & 3] = 0;
    }

    /// Bytes that are no part of a kept value: a name or a value that nobody looks for.
    #[inline(always)]
    pub fn pass_over(&mut self, len: u64) {
        self.skip = len;
    }

    /// What to do with the next bytes, of which there are `left`; `None` when a variable begins here.
    #[inline(always)]
    pub fn plan(&self, left: u32) -> Option<Plan> {
        if self.skip > 0 {
            return Some(Plan::pass_over(at_most(self.skip, left)));
        }
        if self.value == 0 {
            return None;
        }
        let stretch = self.stretch & 3;
        let kept = self.kept[stretch as usize];
        Some(Plan::fill(stretch as usize * WINDOW, kept, room(stretch), at_most(self.value, left)))
    }

    /// The planned bytes were copied, or passed over.
    #[inline(always)]
    pub fn took(&mut self, plan: Plan) {
        let len = u64::from(plan.len);
        if plan.to == NOWHERE {
            self.skip = self.skip.saturating_sub(len);
            return;
        }
        let stretch = self.stretch & 3;
        self.kept[stretch as usize] += plan.len;
        self.value = self.value.saturating_sub(len);
        if self.value > 0 && self.kept[stretch as usize] >= room(stretch) {
            self.skip = self.value;
            self.value = 0;
        }
        if self.value == 0 {
            self.known |= self.current;
        }
    }

    /// Method and path are known for certain: nothing that comes later changes them.
    #[inline(always)]
    pub fn decided(&self) -> bool {
        self.known & (known::METHOD | known::URI) == known::METHOD | known::URI
    }

    /// The method as the kernel compares it; 0 when there was none.
    #[inline(always)]
    pub fn method(&self, memory: &Memory) -> u64 {
        if self.known & known::METHOD == 0 {
            return 0;
        }
        word(memory, METHOD, self.kept[3])
    }

    #[inline(always)]
    pub fn path(&self) -> Path {
        if self.known & (known::URI | known::DOCUMENT) != 0 {
            return Path::Uri { len: self.kept[0] };
        }
        let of = |bit: u32, stretch: usize| if self.known & bit != 0 { self.kept[stretch] } else { 0 };
        match (of(known::SCRIPT, 1), of(known::INFO, 2)) {
            (0, 0) => Path::None,
            (script, info) => Path::ScriptAndInfo { script, info },
        }
    }
}

#[inline(always)]
fn room(stretch: u32) -> u32 {
    if stretch == 3 { METHOD_BYTES } else { WINDOW as u32 }
}

#[inline(always)]
pub(crate) fn at_most(bytes: u64, left: u32) -> u32 {
    if bytes < u64::from(left) { bytes as u32 } else { left }
}

/// True for the lengths that the names of looked-for variables have.
#[inline(always)]
pub const fn is_looked_for(len: u32) -> bool {
    matches!(len, 9 | 11 | 12 | 14)
}

/// The bit and the stretch of a variable that is looked for; bit 0 for others.
#[inline(always)]
fn which(memory: &Memory, at: usize, len: u32) -> (u32, u32) {
    const fn tail(name: &[u8]) -> u64 {
        let mut tail = 0u64;
        let mut i = 8;
        while i < name.len() {
            tail |= (name[i] as u64) << (8 * (i - 8));
            i += 1;
        }
        tail
    }
    const REQUEST: u64 = crate::http::method_code(b"REQUEST_");
    const PATH_INF: u64 = crate::http::method_code(b"PATH_INF");
    const SCRIPT_N: u64 = crate::http::method_code(b"SCRIPT_N");
    const DOCUMENT: u64 = crate::http::method_code(b"DOCUMENT");
    const METHOD_TAIL: u64 = tail(b"REQUEST_METHOD");
    const URI_TAIL: u64 = tail(b"REQUEST_URI");
    const INFO_TAIL: u64 = tail(b"PATH_INFO");
    const SCRIPT_TAIL: u64 = tail(b"SCRIPT_NAME");
    const DOCUMENT_TAIL: u64 = tail(b"DOCUMENT_URI");
    if !is_looked_for(len) {
        return (0, 0);
    }
    match (word(memory, at, 8), word(memory, at + 8, len - 8), len) {
        (REQUEST, METHOD_TAIL, 14) => (known::METHOD, 3),
        (REQUEST, URI_TAIL, 11) => (known::URI, 0),
        (PATH_INF, INFO_TAIL, 9) => (known::INFO, 2),
        (SCRIPT_N, SCRIPT_TAIL, 11) => (known::SCRIPT, 1),
        (DOCUMENT, DOCUMENT_TAIL, 12) => (known::DOCUMENT, 0),
        _ => (0, 0),
    }
}

/// The bytes `at..at + len` of the memory, one to eight of them, as a little-endian word. Arithmetic instead of
/// branches: the verifier would follow both sides of each.
#[inline(always)]
pub fn word(memory: &Memory, at: usize, len: u32) -> u64 {
    let Some(bytes) = memory.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { return 0 };
    u64::from_le_bytes(*bytes) & (u64::MAX >> (64u32.wrapping_sub(8 * len) & 63))
}

/// What a line of a CGI response's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Status(u16),
    Location,
    /// An empty line, or one that is not complete.
    End,
}

/// Reads the status of a CGI response in steps of [`STEP`] bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusScan {
    status: u32,
    redirects: u32,
}

impl StatusScan {
    #[inline(always)]
    pub fn begin(&mut self) {
        self.status = 0;
        self.redirects = 0;
    }

    /// What the head says as far as it was looked at: a response without a status is a 200, or a redirect.
    #[inline(always)]
    pub fn status(&self) -> u16 {
        match (self.status, self.redirects) {
            (0, 0) => 200,
            (0, _) => 302,
            (status, _) => status as u16,
        }
    }

    /// Takes the line ends among the bytes `at..at + STEP` of the memory's first `len`; false when the scan is over.
    #[inline(always)]
    pub fn step(&mut self, memory: &Memory, at: usize, len: usize) -> bool {
        if at >= len {
            return false;
        }
        // The line end before the first line is only thought of.
        let word = word(memory, at, 8);
        let mut flagged = line_ends(word);
        let mut next = if at == 0 { 0 } else { next_line(flagged, at) };
        if at != 0 {
            flagged &= flagged.wrapping_sub(1);
        }
        let mut lines = 0;
        while next < len && lines < LINES {
            if !self.line(memory, next, len) {
                return false;
            }
            next = next_line(flagged, at);
            flagged &= flagged.wrapping_sub(1);
            lines += 1;
        }
        true
    }

    #[inline(always)]
    fn line(&mut self, memory: &Memory, at: usize, len: usize) -> bool {
        match line(memory, at, len) {
            None => true,
            Some(Line::Status(status)) => {
                self.status = u32::from(status);
                false
            }
            Some(Line::Location) => {
                self.redirects = 1;
                true
            }
            Some(Line::End) => false,
        }
    }
}

/// Header lines have at least four bytes, so no more of them begin in a step: the first one, and two.
const LINES: u32 = 3;

/// The line ends of a word: the uppermost bit of each such byte.
#[inline(always)]
const fn line_ends(word: u64) -> u64 {
    const LINE_ENDS: u64 = 0x0a0a_0a0a_0a0a_0a0a;
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // Exact for every byte: no carry leaves its byte.
    let differences = word ^ LINE_ENDS;
    !(((differences & LOW) + LOW) | differences | LOW)
}

/// Where the line behind the first of these line ends begins; nowhere without one.
#[inline(always)]
fn next_line(flagged: u64, at: usize) -> usize {
    if flagged == 0 { usize::MAX } else { at + (flagged.trailing_zeros() as usize >> 3) + 1 }
}

/// What the line that begins at `at` says, `None` for any other header.
#[inline(always)]
fn line(memory: &Memory, at: usize, len: usize) -> Option<Line> {
    const STATUS: u64 = crate::http::method_code(b"status:");
    const LOCATION: u64 = crate::http::method_code(b"location");
    // Lower case; '-' and ':' have this bit set already.
    const LOWER: u64 = 0x2020_2020_2020_2020;
    if at >= len {
        return Some(Line::End);
    }
    let first = *memory.get(at)?;
    if first == b'\r' || first == b'\n' {
        return Some(Line::End);
    }
    if !matches!(first | 0x20, b's' | b'l') || at + 8 > len {
        return None;
    }
    let name = word(memory, at, 8) | LOWER;
    if name == LOCATION {
        return Some(Line::Location);
    }
    if name << 8 != STATUS << 8 {
        return None;
    }
    let mut at = at + 7;
    at += usize::from(matches!(memory.get(at), Some(b' ' | b'\t')));
    if at + 3 > len {
        return Some(Line::End);
    }
    let code = word(memory, at, 3);
    let digit = |k: u32| ((code >> (8 * k)) as u8).wrapping_sub(b'0');
    let (a, b, c) = (digit(0), digit(1), digit(2));
    if a == 0 || a > 5 || b > 9 || c > 9 {
        return Some(Line::End);
    }
    Some(Line::Status(u16::from(a) * 100 + u16::from(b) * 10 + u16::from(c)))
}

/// The status of a response whose head begins with the first `len` bytes of the memory, composed for user space.
pub fn status(memory: &Memory, len: usize) -> u16 {
    let mut scan = StatusScan::default();
    let _ = (0..WINDOW / STEP).find(|step| !scan.step(memory, step * STEP, len));
    scan.status()
}
