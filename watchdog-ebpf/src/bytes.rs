//! Bytes that a call moved, and loops over them, as the kernel's verifier likes them.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_loop;
use watchdog_common::abi::HEAD_WINDOW;
use watchdog_common::http::RESPONSE_WINDOW;

use crate::maps::Connection;
use crate::registers::read_user;

/// A value that was just stored, read back: it is unknown to the verifier, which would otherwise walk all that
/// follows once for each value that it could be.
#[inline(always)]
pub(crate) fn reloaded(field: &u32) -> usize {
    // SAFETY: a reference; volatile, so that the compiler does not remember what was stored.
    unsafe { core::ptr::read_volatile(field) as usize }
}

const _: () = assert!(HEAD_WINDOW == RESPONSE_WINDOW);

/// Fills the first half of the buffer from user memory, whatever part of it the call moved; false when that much
/// cannot be read there. It goes by way of the stack: before it copies, the kernel checks the destination
/// (`CONFIG_HARDENED_USERCOPY`), which takes 75 ns for an object on the heap and next to nothing for the stack.
///
/// A function of its own: the stack is small, and what is called besides has a frame as well.
#[inline(never)]
pub(crate) fn read_window(connection: &mut Connection, address: u64) -> bool {
    read_half(connection, 0, address)
        && read_half(connection, HEAD_WINDOW / 2, address + HEAD_WINDOW as u64 / 2)
}

/// Half of it at a time: older kernels allow 512 bytes of stack to a program and all that it calls.
#[inline(always)]
fn read_half(connection: &mut Connection, offset: usize, address: u64) -> bool {
    const WORDS: usize = HEAD_WINDOW / 2 / 8;
    let mut window = MaybeUninit::<[u64; WORDS]>::uninit();
    if !read_user(window.as_mut_ptr().cast(), HEAD_WINDOW as u32 / 2, address) {
        return false;
    }
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the buffer and its half begin at a multiple of 8 (asserted beside its struct)"
    )]
    // SAFETY: the offset is inside the buffer.
    let to = unsafe { connection.head.as_mut_ptr().add(offset).cast::<u64>() };
    let from = window.as_ptr().cast::<u64>();
    let mut w = 0;
    while w < WORDS {
        // SAFETY: inside both, which are aligned; volatile, lest the compiler calls its bytewise memcpy.
        unsafe { to.add(w).write_volatile(from.add(w).read_volatile()) };
        w += 1;
    }
    true
}

/// Calls `step` with 0, 1, 2, ... until it returns 1. The verifier walks the step once, and not once for each round.
#[inline(always)]
pub(crate) fn repeat<T>(rounds: u32, step: unsafe extern "C" fn(u64, *mut T) -> u64, state: &mut T) {
    let state: *mut T = state;
    // SAFETY: the helper calls `step` with the round's number and `state`, which outlives the call.
    unsafe { bpf_loop(rounds, step as *mut c_void, state.cast(), 0) };
}
