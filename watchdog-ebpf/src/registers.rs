//! The system call that a task is in, from the user registers that the kernel saved at its entry.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_task_pt_regs};

use crate::offsets::Task;

#[cfg(not(bpf_target_arch = "x86_64"))]
compile_error!("the registers of a system call are known for x86_64 only");

/// Bytes in user memory.
#[derive(Clone, Copy)]
pub(crate) struct UserBytes {
    pub(crate) address: u64,
    pub(crate) len: u64,
}

/// What a system call does with a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// The buffer is an argument.
    Buffer,
    /// The argument is an array of `struct iovec`.
    Vector,
    /// The argument is a `struct user_msghdr`, or an array that begins with one.
    Message,
    /// `sendfile`, `splice`: the bytes are never in user memory.
    NoBuffer,
    IoUring,
    Unknown,
}

pub(crate) mod call {
    pub(crate) const READ: u64 = 0;
    pub(crate) const WRITE: u64 = 1;
    pub(crate) const READV: u64 = 19;
    pub(crate) const WRITEV: u64 = 20;
    pub(crate) const CLOSE: u64 = 3;
    pub(crate) const NANOSLEEP: u64 = 35;
    pub(crate) const SENDFILE: u64 = 40;
    pub(crate) const SHUTDOWN: u64 = 48;
    pub(crate) const SENDTO: u64 = 44;
    pub(crate) const RECVFROM: u64 = 45;
    pub(crate) const SENDMSG: u64 = 46;
    pub(crate) const RECVMSG: u64 = 47;
    pub(crate) const FUTEX: u64 = 202;
    pub(crate) const SPLICE: u64 = 275;
    pub(crate) const RECVMMSG: u64 = 299;
    pub(crate) const SENDMMSG: u64 = 307;
    pub(crate) const IO_URING_ENTER: u64 = 426;
    pub(crate) const FUTEX_WAKE: u64 = 454;
    pub(crate) const FUTEX_WAIT: u64 = 455;
}

/// Offsets in `x86_64`'s `struct pt_regs`, part of the ptrace interface.
const RSI: usize = 104;
const RDX: usize = 96;
const RDI: usize = 112;
const ORIG_RAX: usize = 120;

/// The system call of a task, by its saved registers.
#[derive(Clone, Copy)]
pub(crate) struct SystemCall {
    registers: *const u8,
    /// As a signed number it is negative when the task entered the kernel by an interrupt.
    pub(crate) number: u64,
}

impl SystemCall {
    #[inline(always)]
    pub(crate) fn of(task: Task) -> Self {
        // SAFETY: the helper takes a trusted task and returns its pt_regs, a BTF pointer; loads that fault read zero.
        unsafe {
            let registers = bpf_task_pt_regs(task.0.cast_mut().cast()) as *const u8;
            Self { registers, number: read_volatile(registers.add(ORIG_RAX).cast()) }
        }
    }

    #[inline(always)]
    fn first(self) -> u64 {
        // SAFETY: as in `of`.
        unsafe { read_volatile(self.registers.add(RDI).cast()) }
    }

    /// The address of the futex that the call waits on or wakes, if it does that.
    #[inline(always)]
    pub(crate) fn futex(self) -> Option<u64> {
        matches!(self.number, call::FUTEX | call::FUTEX_WAKE | call::FUTEX_WAIT).then(|| self.first())
    }

    /// True for the calls that close a connection.
    #[inline(always)]
    pub(crate) fn closes(self) -> bool {
        matches!(self.number, call::CLOSE | call::SHUTDOWN)
    }

    /// True when it waits on a mutex of glibc's, or of Rust's standard library: both wait while its word is 2, which says
    /// that it is held and awaited.
    #[inline(always)]
    pub(crate) fn waits_for_mutex(self) -> bool {
        const WAIT: u64 = 0;
        const WAIT_BITSET: u64 = 9;
        const OPTIONS: u64 = 0x180;
        let operation = self.second() & !OPTIONS;
        self.number == call::FUTEX && (operation == WAIT || operation == WAIT_BITSET) && self.third() == 2
    }

    #[inline(always)]
    fn second(self) -> u64 {
        // SAFETY: as in `of`.
        unsafe { read_volatile(self.registers.add(RSI).cast()) }
    }

    #[inline(always)]
    fn third(self) -> u64 {
        // SAFETY: as in `of`.
        unsafe { read_volatile(self.registers.add(RDX).cast()) }
    }

    /// True for the calls by which one thread gives work to another: a futex, or a write to a pipe or eventfd.
    #[inline(always)]
    pub(crate) fn hands_over(self) -> bool {
        matches!(
            self.number,
            call::FUTEX | call::FUTEX_WAKE | call::WRITE | call::WRITEV | call::SENDTO | call::SENDMSG
        )
    }

    #[inline(always)]
    pub(crate) fn via(self) -> Via {
        match self.number {
            call::READ | call::WRITE | call::RECVFROM | call::SENDTO => Via::Buffer,
            call::READV | call::WRITEV => Via::Vector,
            call::RECVMSG | call::SENDMSG | call::RECVMMSG | call::SENDMMSG => Via::Message,
            call::SENDFILE | call::SPLICE => Via::NoBuffer,
            call::IO_URING_ENTER => Via::IoUring,
            _ => Via::Unknown,
        }
    }

    /// The first stretch of user memory of the call, at most `moved` bytes.
    #[inline(always)]
    pub(crate) fn first_bytes(self, moved: u64) -> Option<UserBytes> {
        let vector = match self.via() {
            Via::Buffer => return Some(UserBytes { address: self.second(), len: moved }),
            Via::Vector => self.second(),
            Via::Message => read_u64(self.second() + 16)?,
            _ => return None,
        };
        let [address, len] = read_pair(vector)?;
        Some(UserBytes { address, len: len.min(moved) })
    }

    /// Where the call's stretches of user memory behind the first are told: the address of the next `struct iovec`, and
    /// how many there are.
    #[inline(always)]
    pub(crate) fn further_bytes(self) -> Option<(u64, u64)> {
        let (vector, count) = match self.via() {
            Via::Vector => (self.second(), self.third()),
            Via::Message => read_pair(self.second() + 16)?.into(),
            _ => return Some((0, 0)),
        };
        Some((vector + 16, count.saturating_sub(1)))
    }

    /// The last five bytes that the call sent, given how many it moved.
    #[inline(always)]
    pub(crate) fn last_five(self, moved: u64) -> Option<[u8; 5]> {
        let (vector, count) = match self.via() {
            Via::Buffer => return read_five(self.second() + moved.checked_sub(5)?),
            Via::Vector => (self.second(), self.third()),
            Via::Message => read_pair(self.second() + 16)?.into(),
            _ => return None,
        };
        let [address, len] = read_pair(vector + 16 * count.checked_sub(1)?)?;
        read_five(address + len.checked_sub(5)?)
    }
}

/// Where the bytes of an operation lie in user memory.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// As the system call's arguments say.
    Call(SystemCall),
    /// In this one buffer.
    Buffer(u64),
}

impl Source {
    #[inline(always)]
    pub(crate) fn via(self) -> Via {
        match self {
            Self::Call(call) => call.via(),
            Self::Buffer(_) => Via::Buffer,
        }
    }

    /// As [`SystemCall::first_bytes`].
    #[inline(always)]
    pub(crate) fn first_bytes(self, moved: u64) -> Option<UserBytes> {
        match self {
            Self::Call(call) => call.first_bytes(moved),
            Self::Buffer(address) => Some(UserBytes { address, len: moved }),
        }
    }

    /// True for a message that carries more than bytes, such as open connections.
    #[inline(always)]
    pub(crate) fn passes_on(self) -> bool {
        /// Where a `struct user_msghdr` tells how long its control data is.
        const CONTROL_LEN: u64 = 40;
        match self {
            Self::Call(call) if call.number == call::SENDMSG => {
                read_u64(call.second() + CONTROL_LEN).is_some_and(|len| len != 0)
            }
            _ => false,
        }
    }

    /// As [`SystemCall::further_bytes`].
    #[inline(always)]
    pub(crate) fn further_bytes(self) -> Option<(u64, u64)> {
        match self {
            Self::Call(call) => call.further_bytes(),
            Self::Buffer(_) => Some((0, 0)),
        }
    }

    /// As [`SystemCall::last_five`].
    #[inline(always)]
    pub(crate) fn last_five(self, moved: u64) -> Option<[u8; 5]> {
        match self {
            Self::Call(call) => call.last_five(moved),
            Self::Buffer(address) => read_five(address + moved.checked_sub(5)?),
        }
    }
}

#[inline(always)]
fn read_five(address: u64) -> Option<[u8; 5]> {
    let mut bytes = [0u8; 5];
    read_user(bytes.as_mut_ptr(), 5, address).then_some(bytes)
}

#[inline(always)]
pub(crate) fn read_u64(address: u64) -> Option<u64> {
    let mut value = 0u64;
    read_user((&raw mut value).cast(), 8, address).then_some(value)
}

/// Two words at once: each copy from user memory costs the same some tens of nanoseconds, however little it copies.
#[inline(always)]
pub(crate) fn read_pair(address: u64) -> Option<[u64; 2]> {
    let mut pair = [0u64; 2];
    read_user(pair.as_mut_ptr().cast(), 16, address).then_some(pair)
}

/// Copies from user memory; false when it cannot be read.
#[inline(always)]
pub(crate) fn read_user(to: *mut u8, len: u32, address: u64) -> bool {
    // SAFETY: `to` has room for `len` bytes (the verifier checks it); the helper tolerates any user address.
    unsafe { bpf_probe_read_user(to.cast::<c_void>(), len, address as *const c_void) == 0 }
}
