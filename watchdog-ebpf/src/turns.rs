//! Threads that answer what others receive. What one of those uses before it answers waits over its sleeps: the answer says
//! for certain which request it was for, and a thread that never answers any has nothing kept for it.
//!
//! waitress has one thread that receives all, and others that answer: they wait for Python's lock in between, and nobody can
//! tell such a wait from one for work by the sleep alone. Ruby's threads even wait for the interpreter's lock where they
//! wait for work, so those that receive requests are looked at in this way too: Puma's threads read what is there when a
//! connection is accepted, and its reactor reads the heads that come later.

use watchdog_common::abi::{RUNTIME_RUBY, SLOT_MASK};
use watchdog_common::types::RequestFlags;

use crate::counters;
use crate::goroutine::is_go;
use crate::handover::LEAST_WORK_NS;
use crate::maps::{Binding, Request, Role, Thread};
use crate::request::{Cause, finish, flush, ongoing, unbind};

/// Of a thread that has used so much and not answered, it is believed whose work it does, in nanoseconds.
const LONG_NS: u64 = 200_000_000;

/// Whether what the thread uses in no request waits for what it answers next.
#[inline(always)]
pub(crate) fn answers_later(thread: &Thread, process: u16) -> bool {
    thread.role & Role::ANSWERS != 0
        && (process & RUNTIME_RUBY != 0 || thread.role & Role::RECEIVES == 0 && !is_go(process))
}

/// Puts time of a thread in no request aside.
#[inline(always)]
pub(crate) fn put_aside(thread: &mut Thread, process: u16, ns: u64, now: u64) {
    let slot = process & SLOT_MASK;
    thread.aside_ns += ns;
    thread.aside_mono_ns = now;
    counters::kept(slot, ns);
}

/// A thread that goes to sleep leaves the request that it answered. What it has used since is that one's if it is little;
/// if not, it has gone on with another one.
#[inline(always)]
pub(crate) fn leave_answered(thread: &mut Thread, now: u64) {
    if thread.held_ns >= LEAST_WORK_NS && thread.seen & u32::from(RequestFlags::COMPLETE) != 0 {
        if thread.binding == Binding::OWN {
            finish(thread.request, now);
        }
        unbind(thread);
    } else if ongoing(thread.request).is_none() {
        unbind(thread);
    }
}

/// A thread that has just received a request wakes one that answers requests and is in none.
#[inline(always)]
pub(crate) fn feed(to: &mut Thread, from: &Thread) {
    if from.binding == Binding::OWN
        && from.seen & u32::from(RequestFlags::ANSWERED) == 0
        && !to.request.is_some()
        && (to.aside_ns == 0 || ongoing(to.fed).is_none())
    {
        to.fed = from.request;
    }
}

/// Hands what a thread has used for very long, without answering, to the request that it was fed: one whose answer never
/// comes must be seen.
#[inline(always)]
pub(crate) fn believe(thread: &mut Thread, process: u16) {
    const PAST: u16 = RequestFlags::ANSWERED | RequestFlags::CLOSED;
    if !answers_later(thread, process)
        || thread.request.is_some()
        || thread.aside_ns + thread.held_ns < LONG_NS
        || ongoing(thread.fed).is_none_or(|place| place.flags & PAST != 0)
    {
        return;
    }
    thread.request = thread.fed;
    thread.binding = Binding::INFERRED;
    thread.seen = 0;
    thread.fed = Request::NONE;
    let slot = process & SLOT_MASK;
    take_up(thread, slot);
    flush(thread, slot);
}

#[inline(always)]
fn take_up(thread: &mut Thread, slot: u16) {
    counters::kept(slot, thread.aside_ns.wrapping_neg());
    thread.held_ns += thread.aside_ns;
    thread.aside_ns = 0;
}

/// The thread comes to a request. What it has put aside is that one's if it answers it, and put something aside since the
/// request began.
#[inline(always)]
pub(crate) fn settle_aside(thread: &mut Thread, request: Request, cause: Cause, slot: u16) {
    if thread.aside_ns == 0 {
        return;
    }
    let since = ongoing(request).map_or(u64::MAX, |place| place.start_mono_ns);
    if cause == Cause::Send && since <= thread.aside_mono_ns {
        take_up(thread, slot);
    } else {
        drop_aside(thread, slot);
    }
}

/// What was put aside is nobody's.
#[inline(always)]
pub(crate) fn drop_aside(thread: &mut Thread, slot: u16) {
    counters::unattributed(slot, thread.aside_ns);
    counters::kept(slot, thread.aside_ns.wrapping_neg());
    thread.aside_ns = 0;
}
