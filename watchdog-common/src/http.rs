//! HTTP/1 as far as the kernel needs it: the request line's method and path, the status code, and how long the
//! response is.
//!
//! All of it is pure, never panics and never allocates. The kernel programs call the small pieces on bytes that lie
//! in map memory; [`request`] composes them for the agent, the tests and the fuzzer.
//!
//! Paths are compared as keyed hashes, segment by segment, so that one pass over the path answers every pattern of
//! a service: `/api/*/login` is the same fold with the wildcard's segment replaced. The key is drawn at start-up,
//! so nobody outside can choose a path that collides. Paths are compared as sent: no decoding of `%xx`, no folding
//! of `//`; what follows `?` or `#` does not count.

use crate::abi::{HEAD_WINDOW, MAX_WILDCARD_MASKS};

/// Bytes of a response that are looked at for its framing.
pub const RESPONSE_WINDOW: usize = 256;
/// Longest method name that is accepted, in bytes.
pub const MAX_METHOD_BYTES: usize = 16;

/// What the first received bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Could become a request line; more bytes are needed.
    Partial,
    /// A request line: the method (first eight bytes, little-endian) and where its target begins.
    Method { method: u64, target: usize },
    /// A TLS record.
    Tls,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// None of these.
    Other,
}

/// Looks at the beginning of what was received: `head[..len]`.
#[inline(always)]
pub fn opening(head: &[u8], len: usize) -> Opening {
    let mut method = 0u64;
    let mut i = 0;
    while i <= MAX_METHOD_BYTES {
        let Some(&byte) = head.get(i) else { return Opening::Partial };
        if i >= len {
            return Opening::Partial;
        }
        if byte == b' ' {
            break;
        }
        if !(byte.is_ascii_uppercase() || byte == b'-') {
            return if i == 0 && byte == 0x16 { Opening::Tls } else { Opening::Other };
        }
        if i < 8 {
            method |= u64::from(byte) << (8 * i);
        }
        i += 1;
    }
    if !(3..=MAX_METHOD_BYTES).contains(&i) {
        return Opening::Other;
    }
    let target = i + 1;
    if target >= len {
        return Opening::Partial;
    }
    match head.get(target) {
        Some(b'*') if method == PRI => Opening::Http2,
        // Origin form, absolute form (http://...), and the "*" of OPTIONS.
        Some(b'/' | b'h' | b'*') => Opening::Method { method, target },
        _ => Opening::Other,
    }
}

const PRI: u64 = method_code(b"PRI");

/// A method as the kernel compares it: its first eight bytes, little-endian, zero-padded.
pub const fn method_code(method: &[u8]) -> u64 {
    let mut code = 0u64;
    let mut i = 0;
    while i < 8 && i < method.len() {
        code |= (method[i] as u64) << (8 * i);
        i += 1;
    }
    code
}

/// True for the byte behind a path in a request line.
#[inline(always)]
pub const fn ends_path(byte: u8) -> bool {
    matches!(byte, b' ' | b'?' | b'#' | b'\r' | b'\n')
}

const WILDCARD: u64 = 0x2a2a_2a2a_2a2a_2a2a;

#[inline(always)]
const fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Hashes a path byte by byte, once for each set of wildcard positions.
#[derive(Clone, Copy, Debug)]
pub struct PathHash {
    key: u64,
    segment: u64,
    index: u32,
    totals: [u64; MAX_WILDCARD_MASKS],
}

impl PathHash {
    #[inline(always)]
    pub const fn new(key: u64) -> Self {
        Self { key, segment: key, index: 0, totals: [key; MAX_WILDCARD_MASKS] }
    }

    /// Takes the next byte behind the path's leading slash.
    #[inline(always)]
    pub fn push(&mut self, byte: u8, masks: &[u32; MAX_WILDCARD_MASKS]) {
        if byte == b'/' {
            self.close_segment(masks);
        } else {
            self.segment = mix(self.segment, u64::from(byte));
        }
    }

    /// Ends the path: one hash per mask.
    #[inline(always)]
    pub fn finish(mut self, masks: &[u32; MAX_WILDCARD_MASKS]) -> [u64; MAX_WILDCARD_MASKS] {
        self.close_segment(masks);
        self.totals
    }

    #[inline(always)]
    fn close_segment(&mut self, masks: &[u32; MAX_WILDCARD_MASKS]) {
        let mut m = 0;
        while m < MAX_WILDCARD_MASKS {
            // Arithmetic instead of a branch: the verifier would follow both sides for every segment.
            let wild = u64::from((masks[m] >> (self.index & 31)) & 1).wrapping_neg();
            let piece = (self.segment & !wild) | (WILDCARD & wild);
            self.totals[m] = mix(self.totals[m], piece);
            m += 1;
        }
        self.segment = self.key;
        self.index += 1;
    }
}

/// Bytes of a path that are looked at in one step of a scan.
pub const STEP: usize = 8;

/// Reads a path to its end in steps of [`STEP`] bytes. The kernel lets a helper call the steps, so that its verifier
/// walks one of them and not all.
#[derive(Clone, Copy, Debug)]
pub struct PathScan {
    pub hash: PathHash,
    pub masks: [u32; MAX_WILDCARD_MASKS],
    end: PathEnd,
}

/// How a scan of a path ended.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEnd {
    /// The window ended first.
    Window = 0,
    /// The bytes received so far ended first.
    Received = 1,
    /// The path did.
    Path = 2,
}

impl PathScan {
    #[inline(always)]
    pub const fn new(key: u64, masks: [u32; MAX_WILDCARD_MASKS]) -> Self {
        Self { hash: PathHash::new(key), masks, end: PathEnd::Window }
    }

    /// How it ended, given how many bytes there were.
    #[inline(always)]
    pub fn end(&self, len: usize) -> PathEnd {
        if self.end as u32 == PathEnd::Received as u32 && len >= HEAD_WINDOW {
            PathEnd::Window
        } else {
            self.end
        }
    }

    /// Takes the bytes `at..at + STEP` of `head[..len]`; false when the scan is over.
    #[inline(always)]
    pub fn step(&mut self, head: &[u8; 2 * HEAD_WINDOW], at: usize, len: usize) -> bool {
        let mut k = 0;
        while k < STEP {
            if at + k >= len {
                self.end = PathEnd::Received;
                return false;
            }
            let Some(&byte) = head.get(at + k) else { return false };
            if ends_path(byte) {
                self.end = PathEnd::Path;
                return false;
            }
            self.hash.push(byte, &self.masks);
            k += 1;
        }
        true
    }
}

/// A request line that was read far enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    pub method: u64,
    /// One hash per mask; `None` when the path does not end within the window, or is no path.
    pub path: Option<[u64; MAX_WILDCARD_MASKS]>,
}

/// What the received bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Partial,
    Request(RequestLine),
    Tls,
    Http2,
    Other,
}

/// The kernel's judgement of the first `len` received bytes, composed for user space.
pub fn request(
    head: &[u8; 2 * HEAD_WINDOW],
    len: usize,
    masks: &[u32; MAX_WILDCARD_MASKS],
    key: u64,
) -> Head {
    let (method, target) = match opening(head, len) {
        Opening::Partial => return Head::Partial,
        Opening::Tls => return Head::Tls,
        Opening::Http2 => return Head::Http2,
        Opening::Other => return Head::Other,
        Opening::Method { method, target } => (method, target),
    };
    if head.get(target) != Some(&b'/') {
        return Head::Request(RequestLine { method, path: None });
    }
    let mut scan = PathScan::new(key, *masks);
    let steps = HEAD_WINDOW / STEP;
    let _ = (0..steps).find(|step| !scan.step(head, target + 1 + step * STEP, len));
    match scan.end(len) {
        PathEnd::Received => Head::Partial,
        PathEnd::Window => Head::Request(RequestLine { method, path: None }),
        PathEnd::Path => Head::Request(RequestLine { method, path: Some(scan.hash.finish(masks)) }),
    }
}

/// The hash of a path (with its leading slash) under one set of wildcard positions, as patterns are stored.
pub fn path_hash(path: &[u8], mask: u32, key: u64) -> u64 {
    let masks = [mask; MAX_WILDCARD_MASKS];
    let mut hash = PathHash::new(key);
    for &byte in path.iter().skip(1) {
        hash.push(byte, &masks);
    }
    hash.finish(&masks)[0]
}

/// The status code of a response that begins with `head`: `HTTP/1.x NNN`.
#[inline(always)]
pub fn status(head: &[u8; 16]) -> Option<u16> {
    let version = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], 0]);
    if version != method_code(b"HTTP/1.") || head[8] != b' ' {
        return None;
    }
    let digit = |byte: u8| u16::from(byte.wrapping_sub(b'0'));
    let (a, b, c) = (digit(head[9]), digit(head[10]), digit(head[11]));
    if a == 0 || a > 5 || b > 9 || c > 9 {
        return None;
    }
    Some(a * 100 + b * 10 + c)
}

/// How the end of a response can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, whose value begins at this offset.
    LengthAt(usize),
    /// `Transfer-Encoding`: ends with an empty chunk.
    Chunked,
    /// Neither within the window: ends with the connection, or has no body.
    Unknown,
}

/// Finds the framing headers in the first `len` bytes of a response.
pub fn framing(head: &[u8; 2 * RESPONSE_WINDOW], len: usize) -> Framing {
    let mut found = None;
    let _ = (0..RESPONSE_WINDOW / STEP).find(|step| {
        let mut word = [0u8; STEP];
        word.copy_from_slice(&head[step * STEP..(step + 1) * STEP]);
        found = framing_step(head, step * STEP, u64::from_le_bytes(word), len);
        found.is_some()
    });
    found.unwrap_or(Framing::Unknown)
}

/// One step of [`framing`]: looks for the headers behind the line ends among the eight bytes at `at`, which are also
/// given as a little-endian word. `None`: not found yet.
#[inline(always)]
pub fn framing_step(head: &[u8; 2 * RESPONSE_WINDOW], at: usize, word: u64, len: usize) -> Option<Framing> {
    const LINE_ENDS: u64 = 0x0a0a_0a0a_0a0a_0a0a;
    if at >= len {
        return Some(Framing::Unknown);
    }
    // The classic test for a zero byte; it may also flag a byte behind a true one, which the look below sorts out.
    let differences = word ^ LINE_ENDS;
    let mut flagged = differences.wrapping_sub(0x0101_0101_0101_0101) & !differences & 0x8080_8080_8080_8080;
    // Header lines have at least four bytes, so no more than two of them end here.
    let mut lines = 0;
    while flagged != 0 && lines < 2 {
        let k = (flagged.trailing_zeros() as usize >> 3) & (STEP - 1);
        if (word >> (8 * k)) & 0xff == 0x0a
            && let Some(found) = framing_at(head, at + k + 1, len)
        {
            return Some(found);
        }
        flagged &= flagged - 1;
        lines += 1;
    }
    None
}

/// What the header line that begins at `at` says of the framing; `None` for any other line.
#[inline(always)]
fn framing_at(head: &[u8; 2 * RESPONSE_WINDOW], at: usize, len: usize) -> Option<Framing> {
    const LENGTH: &[u8; 15] = b"content-length:";
    const CODING: &[u8; 18] = b"transfer-encoding:";
    if at + CODING.len() >= len {
        return Some(Framing::Unknown);
    }
    let first = *head.get(at)?;
    if first | 0x20 == b'c' && is_name(head, at, LENGTH) {
        return Some(Framing::LengthAt(at + LENGTH.len()));
    }
    if first | 0x20 == b't' && is_name(head, at, CODING) {
        return Some(Framing::Chunked);
    }
    // An empty line ends the head.
    if first == b'\r' { Some(Framing::Unknown) } else { None }
}

/// Reads the value of `Content-Length` at `at`, and tells how many bytes the whole response has at least: the head
/// up to there, and the body. What the head has behind that line is not counted; it is a few hundred bytes at most.
///
/// `at` is taken modulo the window: the kernel's verifier wants to see that it cannot leave it.
#[inline(always)]
pub fn response_bytes(head: &[u8; 2 * RESPONSE_WINDOW], at: usize) -> u64 {
    let at = at & (RESPONSE_WINDOW - 1);
    let mut value = 0u64;
    let mut k = 0;
    while k < 20 {
        let byte = head[at + k];
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte != b' ' && byte != b'\t' {
            break;
        }
        k += 1;
    }
    value.saturating_add(at as u64)
}

#[inline(always)]
fn is_name<const N: usize>(head: &[u8; 2 * RESPONSE_WINDOW], at: usize, name: &[u8; N]) -> bool {
    let mut k = 1;
    while k < N {
        let Some(&byte) = head.get(at + k) else { return false };
        // '-' and ':' have this bit set already.
        if byte | 0x20 != name[k] {
            return false;
        }
        k += 1;
    }
    true
}

#[cfg(test)]
mod tests;
