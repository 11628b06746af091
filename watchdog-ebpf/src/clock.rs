//! Requests that burn CPU and do not end: a thread that runs on and on is switched out seldom, or not at all on a CPU of
//! its own, so that nobody would see what it uses. A clock on every CPU looks at what runs.

use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use watchdog_common::types::RequestFlags;

use crate::maps::{Binding, Role, Thread, slot_of, thread_of};
use crate::offsets::Task;
use crate::request::{now_ns, ongoing};

/// It interrupts the other programs, so it reads what is the thread's and writes what is its own alone. A program that
/// it interrupts moves the begin of the segment before what the segment held, so it never counts a segment twice.
#[perf_event]
pub(crate) fn cpu_clock(_ctx: PerfEventContext) -> u32 {
    let task = Task::current();
    if slot_of(task.tgid()) == 0 {
        return 0;
    }
    let Some(thread) = thread_of(task) else { return 0 };
    if !is_certain(thread) {
        return 0;
    }
    let Some(place) = ongoing(thread.request) else { return 0 };
    // SAFETY: aligned fields of a live value; volatile, because a program that is interrupted may be writing them.
    let (held, since) = unsafe {
        ((&raw const thread.held_ns).read_volatile(), (&raw const thread.segment_mono_ns).read_volatile())
    };
    let running = if since == 0 { 0 } else { now_ns().saturating_sub(since) };
    let seen = place.oncpu_ns + held + running;
    // Of several threads that work for the request, each knows what it holds itself.
    if seen > place.seen_ns && seen < i64::MAX as u64 {
        // SAFETY: an aligned field of a live map value.
        unsafe { (&raw mut place.seen_ns).write_volatile(seen) };
    }
    0
}

/// What the thread holds is for its request, which waits for the answer: it has received no other one since, and has not
/// told that the work it was given is done.
#[inline(always)]
pub(crate) fn is_certain(thread: &Thread) -> bool {
    if thread.role & Role::DONE != 0 || thread.binding == Binding::OWN && thread.reads > 1 {
        return false;
    }
    let past = RequestFlags::ANSWERED | RequestFlags::CLOSED;
    ongoing(thread.request).is_some_and(|place| place.flags & past == 0)
}
