//! Connections inside Go's `crypto/tls`, by the register ABI of Go 1.17 and later. Go's stacks move, so a return address
//! there must not be replaced: `go_tls_return` sits on the `ret` instructions themselves.

use core::mem::size_of;

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use watchdog_common::abi::GO_READ_BYTES;
use watchdog_common::types::Loss;

use crate::counters::lost;
use crate::maps::ONGOING_GOREAD;
use crate::probe::Hit;
use crate::response::send;
use crate::socket::receive;
use crate::tls::{close, operation};

/// What Go's TLS was asked to read.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct GoRead {
    pub(crate) session: u64,
    pub(crate) buffer: u64,
}
const _: () = assert!(size_of::<GoRead>() == GO_READ_BYTES);

/// The first words of a function's arguments (at a return, of its results), and the goroutine that runs it.
///
/// The programs sit behind the function's check of its stack, which leaves these registers alone: where the stack is too
/// small, the function is entered a second time, and must count once.
struct Words {
    first: u64,
    second: u64,
    third: u64,
    goroutine: u64,
}

impl Words {
    #[inline(always)]
    fn of(ctx: &ProbeContext) -> Self {
        // SAFETY: the program's own context; each field is read by one load of its width.
        unsafe {
            let registers = ctx.regs;
            Self {
                first: (*registers).rax,
                second: (*registers).rbx,
                third: (*registers).rcx,
                goroutine: (*registers).r14,
            }
        }
    }
}

/// `func (c *Conn) Read(b []byte) (int, error)`
#[uprobe]
#[inline(always)]
pub(crate) fn go_tls_read(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let words = Words::of(&ctx);
    let read = GoRead { session: words.first, buffer: words.second };
    if ONGOING_GOREAD.insert(hit.key(words.goroutine), read, 0).is_err() {
        lost(Loss::ConnectionStorage);
    }
    0
}

/// Where that returns.
#[uprobe]
#[inline(always)]
pub(crate) fn go_tls_return(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let words = Words::of(&ctx);
    let key = hit.key(words.goroutine);
    let Some(read) = ONGOING_GOREAD.get_ptr(key) else { return 0 };
    // SAFETY: a live map value of the goroutine that runs this.
    let read = unsafe { *read };
    let _ = ONGOING_GOREAD.remove(key);
    if words.first.cast_signed() > 0
        && let Some(mut op) = operation(&hit, read.session, read.buffer, words.first)
    {
        receive(&mut op, None);
    }
    0
}

/// `func (c *Conn) Write(b []byte) (int, error)`
#[uprobe]
#[inline(always)]
pub(crate) fn go_tls_write(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let words = Words::of(&ctx);
    if words.third != 0
        && let Some(mut op) = operation(&hit, words.first, words.second, words.third)
    {
        send(&mut op, None, false);
    }
    0
}

/// `func (c *Conn) Close() error`
#[uprobe]
#[inline(always)]
pub(crate) fn go_tls_close(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::of(&ctx) {
        close(&hit, Words::of(&ctx).first);
    }
    0
}
