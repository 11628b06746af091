//! The kernel programs of load-watchdog. ARCHITECTURE.md ("The state machine") tells the rules that they follow.
//!
//! - [`sched`]: on-CPU time of every watched thread, from switch to switch; hand-over of work at wake-ups.
//! - [`socket`], [`endpoint`], [`response`]: what is received and sent, and which request it belongs to.
//! - [`handover`], [`goroutine`]: whose work a thread does that received no request itself.
//! - [`packets`], [`fastcgi`], [`uwsgi`]: requests that come as records or packets and not as text.
//! - [`streams`]: HTTP/2, whose requests are decoded and counted by the agent.
//! - [`request`]: requests begin, are bound to threads, and are finished and counted.
//! - [`clock`]: what requests have used that never let go of their CPU.
//! - [`process`]: which processes are watched.
//! - [`probe`], [`pool`], [`tls`], [`go_tls`]: the extra tier, user probes on pools and TLS libraries.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the BPF target has no AtomicU64::fetch_add; its xadd instruction is an intrinsic"
)]

mod bytes;
mod clock;
mod counters;
mod eager;
mod elsewhere;
mod endpoint;
mod fastcgi;
mod go_tls;
mod goroutine;
mod handover;
mod maps;
mod offsets;
mod packets;
mod pool;
mod probe;
mod process;
mod registers;
mod request;
mod response;
mod sched;
mod socket;
mod streams;
mod tls;
mod turns;
mod uwsgi;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call the tracing helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
