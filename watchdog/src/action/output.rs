//! What the hook writes: read as fast as it comes, kept head and tail.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

/// Bytes kept of the beginning and of the end of each stream: 64 KiB together.
const HEAD: usize = 32 * 1024;
const TAIL: usize = 32 * 1024;
const CHUNK: usize = 64 * 1024;

/// A pipe for one stream: what the reader gets, and what the hook gets.
///
/// The hook's end is opened for reading too, so that the pipe has a reader as long as the hook lives: when the reader
/// dies in the middle, the hook's next write does not end it with SIGPIPE half-way through a rollback.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, write_only) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let both = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_CLOEXEC.bits())
        .open(format!("/proc/self/fd/{}", write_only.as_raw_fd()));
    Ok((ours, both.map_or(write_only, OwnedFd::from)))
}

/// Reads one stream to its end.
#[derive(Debug)]
pub(super) struct Pump {
    receiver: Option<Receiver>,
    kept: Kept,
}

impl Pump {
    pub(super) fn new(ours: OwnedFd) -> io::Result<Self> {
        Ok(Self { receiver: Some(Receiver::from_owned_fd(ours)?), kept: Kept::default() })
    }

    /// Joins a stream of a hook that another agent started; reads nothing when that is not possible.
    pub(super) fn join(pid: i32, fd: u32) -> Self {
        let path = format!("/proc/{pid}/fd/{fd}");
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(Path::new(&path))
            .and_then(|file| Receiver::from_owned_fd(file.into()));
        Self { receiver: opened.ok(), kept: Kept::default() }
    }

    /// Returns when every process that could write has closed the stream. May be dropped and called again.
    pub(super) async fn run(&mut self) {
        let mut chunk = vec![0; CHUNK];
        while let Some(receiver) = &mut self.receiver {
            match receiver.read(&mut chunk).await {
                Ok(0) | Err(_) => self.receiver = None,
                Ok(count) => self.kept.add(&chunk[..count]),
            }
        }
    }

    /// The text kept so far; and where somebody still holds the stream open, the task that reads on.
    ///
    /// It reads on and throws away: a server that the hook started and that still logs into it would otherwise stop at a
    /// full pipe.
    pub(super) fn finish(mut self) -> (String, Option<JoinHandle<()>>) {
        let is_open = self.receiver.is_some();
        let text = self.kept.text();
        let reads_on = is_open.then(|| {
            self.kept = Kept::default();
            tokio::spawn(async move { self.run().await })
        });
        (text, reads_on)
    }
}

/// The first [`HEAD`] and the last [`TAIL`] bytes.
#[derive(Debug, Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(TAIL);
        let rest = &rest[skipped..];
        let drained = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..drained);
        self.tail.extend(rest);
        self.left_out += (skipped + drained) as u64;
    }

    fn text(&self) -> String {
        let (front, back) = self.tail.as_slices();
        let gap = match self.left_out {
            // Joined before decoding: a character may lie across the border.
            0 => String::new(),
            count => format!("\n[{count} bytes left out]\n"),
        };
        let bytes = [&self.head, gap.as_bytes(), front, back].concat();
        String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(chunks: impl IntoIterator<Item = Vec<u8>>) -> Kept {
        let mut kept = Kept::default();
        for chunk in chunks {
            kept.add(&chunk);
        }
        kept
    }

    #[test]
    fn short_output_is_kept_whole_across_the_border() {
        let text = "é".repeat(HEAD.midpoint(TAIL) - 1);
        for size in [1, 3, 1000, CHUNK] {
            let kept = kept(text.as_bytes().chunks(size).map(<[u8]>::to_vec));
            assert!(kept.text() == text, "chunks of {size}");
        }
        let odd = format!("x{text}");
        assert!(kept([odd.clone().into_bytes()]).text() == odd, "a character on the border");
    }

    #[test]
    fn long_output_keeps_both_ends_and_counts_the_rest() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
        let left_out = bytes.len() - HEAD - TAIL;
        for size in [1, 7, CHUNK, bytes.len()] {
            let text = kept(bytes.chunks(size).map(<[u8]>::to_vec)).text();
            assert!(text.as_bytes().starts_with(&bytes[..HEAD]), "chunks of {size}");
            assert!(text.as_bytes().ends_with(&bytes[bytes.len() - TAIL..]), "chunks of {size}");
            assert!(text.contains(&format!("\n[{left_out} bytes left out]\n")), "chunks of {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(kept([vec![b'a', 0xff, 0, b'b']]).text(), "a\u{fffd}\u{fffd}b");
    }
}
