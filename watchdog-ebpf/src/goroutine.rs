//! Go programs: requests belong to goroutines, which move between threads without the kernel's knowledge.
//!
//! Whenever a thread comes into the kernel, the goroutine that it runs is read from its thread-local storage. The time
//! since it came last is this goroutine's: one that stopped in between for lack of work has usually come itself, by a
//! read that found nothing, and one that is stopped for another's sake is stopped by a signal.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use watchdog_common::abi::{MAX_ONGOING, RUNTIME_GO};
use watchdog_common::types::RequestFlags;

use crate::clock;
use crate::counters;
use crate::handover::{place_of, tag_of};
use crate::maps::{Binding, ONGOING_GO, Request, Thread, process_of, thread_of};
use crate::offsets::Task;
use crate::registers::read_user;
use crate::request::{charge, flush, leave, ongoing};
use crate::sched::CARRIED_FIRST_NS;

/// Go's signal to a thread whose goroutine has run long enough.
const SIGURG: i32 = 23;

/// What a goroutine works on.
#[repr(C)]
pub(crate) struct Goroutine {
    pub(crate) tag: u64,
    pub(crate) request: Request,
    /// Used for its connection before its first request.
    pub(crate) carried_ns: u64,
}

#[inline(always)]
pub(crate) fn is_go(process: u16) -> bool {
    process & RUNTIME_GO != 0
}

/// Tag of the goroutine that the current thread runs, 0 if it cannot be read. The linker puts the pointer to it just
/// below the thread pointer.
#[inline(always)]
fn current(task: Task, tgid: u32) -> u64 {
    let mut goroutine = 0u64;
    let pointer = task.thread_pointer();
    if pointer == 0 || !read_user((&raw mut goroutine).cast(), 8, pointer - 8) || goroutine == 0 {
        return 0;
    }
    tag_of(tgid, goroutine)
}

/// True when the current thread is in Go's scheduler, also if it was made to wait there, as by the thread it woke: `g`
/// points to its thread's `m` at offset 48, whose first field is the goroutine of the scheduler.
#[inline(always)]
fn is_scheduler(task: Task) -> bool {
    const G_M: u64 = 48;
    let (mut goroutine, mut thread, mut scheduler) = (0u64, 0u64, 0u64);
    read_user((&raw mut goroutine).cast(), 8, task.thread_pointer() - 8)
        && read_user((&raw mut thread).cast(), 8, goroutine + G_M)
        && read_user((&raw mut scheduler).cast(), 8, thread)
        && goroutine == scheduler
}

#[inline(always)]
fn request_of(goroutine: u64) -> Request {
    let Some(place) = ONGOING_GO.get_ptr(place_of(goroutine, MAX_ONGOING)) else { return Request::NONE };
    // SAFETY: a live map value; a torn request has an identity that nothing has.
    let place = unsafe { &*place };
    if place.tag == goroutine { place.request } else { Request::NONE }
}

/// The goroutine has received this request. Returns what it did for the connection before, in nanoseconds.
#[inline(always)]
pub(crate) fn own(goroutine: u64, request: Request) -> u64 {
    let Some(place) = ONGOING_GO.get_ptr_mut(place_of(goroutine, MAX_ONGOING)) else { return 0 };
    // SAFETY: as in `request_of`.
    let place = unsafe { &mut *place };
    let kept = place.carried_ns;
    place.carried_ns = 0;
    place.tag = goroutine;
    place.request = request;
    kept
}

/// The goroutine agrees on keys, or the like: what its thread holds for no request waits for the request that this
/// goroutine will receive, on whatever thread.
#[inline(always)]
pub(crate) fn keep(thread: &mut Thread, slot: u16) {
    if thread.goroutine == 0 || thread.request.is_some() {
        return;
    }
    let Some(place) = ONGOING_GO.get_ptr_mut(place_of(thread.goroutine, MAX_ONGOING)) else { return };
    // SAFETY: as in `request_of`.
    let place = unsafe { &mut *place };
    if place.tag != thread.goroutine {
        place.tag = thread.goroutine;
        place.request = Request::NONE;
    }
    let room = CARRIED_FIRST_NS.saturating_sub(place.carried_ns);
    let kept = if thread.held_ns < room { thread.held_ns } else { room };
    place.carried_ns += kept;
    counters::kept(slot, kept);
    thread.held_ns -= kept;
}

/// Makes the request of the goroutine that runs the thread's request, before the time since the last look is charged.
/// A thread that sleeps runs the scheduler: its time goes to the goroutine that ran before.
#[inline(always)]
pub(crate) fn look(thread: &mut Thread, task: Task, tgid: u32, slot: u16, sleeps: bool, now: u64) {
    let goroutine = current(task, tgid);
    if goroutine == 0 {
        return;
    }
    let mut request = request_of(goroutine);
    // The runtime uses a goroutine that has ended for another one.
    let under_way = ongoing(request);
    if under_way.is_none() {
        request = Request::NONE;
    }
    thread.goroutine = goroutine;
    if request.identity() == thread.request.identity() || !request.is_some() && (sleeps || is_scheduler(task))
    {
        return;
    }
    leave(thread, slot, now);
    if let Some(place) = under_way {
        thread.request = request;
        thread.binding = Binding::OWN;
        thread.seen = u32::from(place.flags & (RequestFlags::ANSWERED | RequestFlags::COMPLETE));
    }
}

/// `signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`, in the thread that gets it.
#[btf_tracepoint]
pub(crate) fn signal_deliver(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(0) != SIGURG {
        return 0;
    }
    let task = Task::current();
    let tgid = task.tgid();
    let process = process_of(tgid);
    if !is_go(process) {
        return 0;
    }
    let Some(thread) = thread_of(task) else { return 0 };
    let slot = process & watchdog_common::abi::SLOT_MASK;
    let since = thread.segment_mono_ns;
    look(thread, task, tgid, slot, false, since);
    charge(thread);
    // The goroutine goes on elsewhere, and may end its request before this thread runs again.
    if clock::is_certain(thread) {
        flush(thread, slot);
    }
    0
}
