//! One connection: pieces of frames become heads, and heads become requests.

use std::collections::VecDeque;

use watchdog_common::http2::{flag, frame};
use watchdog_common::types::StreamPiece;

use crate::follower::Request;
use crate::hpack::{Decoder, Fields, Path};

/// Bytes of one request's head; more is not looked at.
const MOST_HEAD_BYTES: usize = 64 * 1024;
/// Requests that are under way at the same time. Servers allow 100 to 250.
const MOST_PENDING: usize = 1024;
/// Requests that one gap can stand for.
const MOST_MISSED: u32 = 1024;

/// Which endpoint a request of a build slot is for.
pub type Resolve<'a> = &'a dyn Fn(u16, u64, &[u8]) -> u16;

#[derive(Clone, Copy, Debug)]
struct Pending {
    stream: u32,
    began_mono_ns: u64,
    build_slot: u16,
    /// `None` until it is known, or for good.
    endpoint: Option<u16>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    /// Number of the next piece.
    next: u32,
    /// The head that is being received; `None` where its beginning was missed.
    head: Option<Vec<u8>>,
    /// Where the payload of the current frame begins in it.
    frame_at: usize,
    /// Newest stream.
    last_stream: u32,
    /// The ends of answers cannot be seen: requests end as they begin.
    unended: bool,
    pending: VecDeque<Pending>,
    pub(crate) last_mono_ns: u64,
    pub(crate) tgid: u32,
}

impl Connection {
    /// Bytes that it keeps, roughly.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + self.decoder.weight()
            + self.head.as_ref().map_or(0, Vec::capacity)
            + self.pending.len() * size_of::<Pending>()
    }

    /// Takes the next piece of what is received; requests that are over with it go to `ended`.
    pub fn piece(&mut self, piece: &StreamPiece, resolve: Resolve<'_>, ended: &mut Vec<Request>) {
        let missed = piece.sequence.wrapping_sub(self.next);
        self.next = piece.sequence.wrapping_add(1);
        if missed != 0 {
            self.lose();
        }
        let is_new = piece.frame == frame::HEADERS && piece.stream > self.last_stream;
        if is_new {
            if missed != 0 && self.last_stream != 0 {
                self.count_missed(piece, missed, ended);
            }
            self.last_stream = piece.stream;
            self.begin(piece, piece.stream, ended);
        }
        self.collect(piece);
        if piece.left == 0 && piece.flags & flag::END_HEADERS != 0 {
            self.complete(piece, resolve, ended);
        }
    }

    /// The stream's answer is complete, or the stream was broken off.
    pub fn end(&mut self, stream: u32, mono_ns: u64, ended: &mut Vec<Request>) {
        self.unended = false;
        if let Some(at) = self.pending.iter().position(|pending| pending.stream == stream)
            && let Some(pending) = self.pending.remove(at)
        {
            ended.push(pending.over(mono_ns));
        }
    }

    /// The ends of answers are not seen from here on, until one is.
    pub fn unended(&mut self, mono_ns: u64, ended: &mut Vec<Request>) {
        self.unended = true;
        self.end_all(mono_ns, ended);
    }

    /// Ends all requests under way.
    pub fn end_all(&mut self, mono_ns: u64, ended: &mut Vec<Request>) {
        ended.extend(self.pending.drain(..).map(|pending| pending.over(mono_ns)));
    }

    /// Ends requests that began before, as if they had been short: the ends of their answers were missed, or they go on
    /// for so long that nothing can be told by when.
    pub fn end_before(&mut self, mono_ns: u64, ended: &mut Vec<Request>) {
        while let Some(first) = self.pending.front().filter(|first| first.began_mono_ns < mono_ns) {
            ended.push(first.over(first.began_mono_ns));
            self.pending.pop_front();
        }
    }

    fn lose(&mut self) {
        self.decoder.forget();
        self.head = None;
    }

    /// Of the streams in between, at most as many were requests as pieces are missing.
    fn count_missed(&mut self, piece: &StreamPiece, missed: u32, ended: &mut Vec<Request>) {
        let between = (piece.stream - self.last_stream) / 2;
        for step in 1..between.min(missed.saturating_add(1)).min(MOST_MISSED) {
            self.begin(piece, self.last_stream + 2 * step, ended);
        }
    }

    fn begin(&mut self, piece: &StreamPiece, stream: u32, ended: &mut Vec<Request>) {
        if self.pending.len() >= MOST_PENDING
            && let Some(oldest) = self.pending.pop_front()
        {
            ended.push(oldest.over(piece.mono_ns));
        }
        self.pending.push_back(Pending {
            stream,
            began_mono_ns: piece.mono_ns,
            build_slot: piece.build_slot,
            endpoint: None,
        });
    }

    /// Adds the piece's bytes to the head.
    fn collect(&mut self, piece: &StreamPiece) {
        let len = usize::from(piece.len).min(piece.bytes.len());
        if u64::from(piece.left) + len as u64 == u64::from(piece.length) {
            // A frame begins.
            if piece.frame == frame::HEADERS {
                self.head = Some(Vec::new());
            }
            self.frame_at = self.head.as_ref().map_or(0, Vec::len);
        }
        let Some(head) = &mut self.head else { return };
        if head.len() + len > MOST_HEAD_BYTES {
            self.lose();
            return;
        }
        head.extend_from_slice(&piece.bytes[..len]);
        if piece.left == 0 && piece.frame == frame::HEADERS && !strip(head, self.frame_at, piece.flags) {
            self.lose();
        }
    }

    /// A head is complete.
    fn complete(&mut self, piece: &StreamPiece, resolve: Resolve<'_>, ended: &mut Vec<Request>) {
        let fields = self.head.take().map(|head| self.decoder.decode(&head));
        if fields.is_none() {
            self.decoder.forget();
        }
        let fields = fields.and_then(Result::ok);
        let Some(at) = self.pending.iter().position(|pending| pending.stream == piece.stream) else { return };
        let pending = &mut self.pending[at];
        // Trailers come later, and say nothing of the kind.
        if pending.endpoint.is_none() {
            pending.endpoint = fields.and_then(|Fields { method, path }| match path {
                Path::Known(path) => Some(resolve(pending.build_slot, method?, &path)),
                Path::None => Some(watchdog_common::abi::ENDPOINT_OTHER),
                Path::Unknown => None,
            });
        }
        if self.unended
            && let Some(pending) = self.pending.remove(at)
        {
            ended.push(pending.over(pending.began_mono_ns));
        }
    }
}

impl Pending {
    fn over(&self, mono_ns: u64) -> Request {
        Request {
            build_slot: self.build_slot,
            endpoint: self.endpoint,
            began_mono_ns: self.began_mono_ns,
            ended_mono_ns: mono_ns.max(self.began_mono_ns),
        }
    }
}

/// Takes padding and priority out of the payload of a `HEADERS` frame at `head[at..]`; false if they do not fit.
fn strip(head: &mut Vec<u8>, at: usize, flags: u8) -> bool {
    const PRIORITY_BYTES: usize = 5;
    let mut before = 0;
    if flags & flag::PADDED != 0 {
        let Some(&padding) = head.get(at) else { return false };
        before = 1;
        let Some(len) = head.len().checked_sub(usize::from(padding)) else { return false };
        if len < at + before {
            return false;
        }
        head.truncate(len);
    }
    if flags & flag::PRIORITY != 0 {
        before += PRIORITY_BYTES;
    }
    if head.len() < at + before {
        return false;
    }
    head.drain(at..at + before);
    true
}

#[cfg(test)]
mod tests;
