//! A connection and the ways to read from it and write to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, recvmsg, send, sendmsg};
use nix::sys::uio::{readv, writev};
use nix::unistd::{read, write};

use super::options::{Options, ReadCall, WriteCall};

/// A client's connection with the bytes that were read but not yet used.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    pub unread: Vec<u8>,
    has_read: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Connection {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, unread: Vec::new(), has_read: false }
    }

    /// Makes reads return EAGAIN rather than block, where the options ask for it.
    pub fn prepare(&self, options: &Options) -> io::Result<()> {
        if options.nonblocking {
            fcntl(&self.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    /// Reads once more into [`Connection::unread`]; returns the number of bytes, 0 at the end of the stream.
    pub fn receive(&mut self, options: &Options) -> io::Result<usize> {
        let limit = match options.first_read {
            size if size > 0 && !self.has_read => size,
            _ => options.read_size,
        };
        self.receive_up_to(limit, options)
    }

    /// The same, with a limit of its own.
    pub fn receive_up_to(&mut self, limit: usize, options: &Options) -> io::Result<usize> {
        let old = self.unread.len();
        self.unread.resize(old + limit.max(1), 0);
        let result = self.fill(old, options);
        self.unread.truncate(old + result.as_ref().copied().unwrap_or(0));
        self.has_read = true;
        result
    }

    fn fill(&mut self, from: usize, options: &Options) -> io::Result<usize> {
        loop {
            let raw = self.fd.as_raw_fd();
            let space = &mut self.unread[from..];
            if options.peek {
                match recv(raw, space, MsgFlags::MSG_PEEK) {
                    Err(Errno::EAGAIN) => {
                        self.wait(PollFlags::POLLIN)?;
                        continue;
                    }
                    Err(Errno::EINTR) => continue,
                    other => other?,
                };
            }
            let result = match options.read_call {
                ReadCall::Recv => recv(raw, space, MsgFlags::empty()),
                ReadCall::Read => read(&self.fd, space),
                ReadCall::Readv => {
                    // Two parts, as servers with a ring buffer have.
                    let (first, second) = space.split_at_mut(space.len() / 2);
                    readv(&self.fd, &mut [IoSliceMut::new(first), IoSliceMut::new(second)])
                }
                ReadCall::Recvmsg => {
                    recvmsg::<()>(raw, &mut [IoSliceMut::new(space)], None, MsgFlags::empty())
                        .map(|message| message.bytes)
                }
            };
            match result {
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN)?,
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// A read that is expected to find nothing (EAGAIN); what it does find is kept.
    pub fn probe(&mut self) {
        let mut buffer = [0; 512];
        if let Ok(count) = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    pub fn wait(&self, flags: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(self.fd.as_fd(), flags)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends all bytes by the call that the options name.
    pub fn send(&self, options: &Options, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let raw = self.fd.as_raw_fd();
            let result = match options.write_call {
                WriteCall::Send => send(raw, bytes, MsgFlags::MSG_NOSIGNAL),
                WriteCall::Write => write(&self.fd, bytes),
                WriteCall::Sendmsg => {
                    sendmsg::<()>(raw, &[IoSlice::new(bytes)], &[], MsgFlags::MSG_NOSIGNAL, None)
                }
            };
            bytes = &bytes[self.sent(result)?..];
        }
        Ok(())
    }

    /// Sends both parts by writev.
    pub fn send_vectored(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        while !(head.is_empty() && body.is_empty()) {
            let sent = self.sent(writev(&self.fd, &[IoSlice::new(head), IoSlice::new(body)]))?;
            let of_head = sent.min(head.len());
            head = &head[of_head..];
            body = &body[sent - of_head..];
        }
        Ok(())
    }

    /// What a sending call returned; waits where it would block, which counts as nothing sent.
    pub fn sent(&self, result: nix::Result<usize>) -> io::Result<usize> {
        match result {
            Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT).map(|()| 0),
            Err(Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }
}
