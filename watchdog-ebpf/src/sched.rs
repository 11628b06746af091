//! On-CPU time from switch to switch, and the hand-over of work at wake-ups.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use watchdog_common::abi::SLOT_MASK;
use watchdog_common::types::{Loss, RequestFlags};

use crate::clock;
use crate::counters;
use crate::eager;
use crate::goroutine::{is_go, look};
use crate::handover::{
    inherit, is_housekeeping, is_in_work, is_lock, park, remember_lock, settle, tells_done, wait, work_of,
};
use crate::maps::{
    Binding, Role, SLICE_SCRATCH, Slice, Thread, process_of, slot_of, thread_of, thread_of_or_new,
};
use crate::offsets::Task;
use crate::registers::{SystemCall, call};
use crate::request::{charge, finish, flush, now_ns, ongoing, take_back, unbind};
use crate::turns::{answers_later, believe, feed, leave_answered, put_aside};

/// Of a thread that has used so much without a pause, in nanoseconds, it is known whose work it does.
const LONG_NS: u64 = 200_000_000;
/// A slice that began unseen and seems to be longer is not believed.
const LONGEST_UNSEEN_NS: u64 = 1_000_000_000;
/// Kept for the next request without a sign that it concerns one, in nanoseconds.
const CARRIED_UNSEEN_NS: u64 = 50_000;
/// Kept with a sign by a thread that has not received any request.
pub(crate) const CARRIED_FIRST_NS: u64 = 3_000_000;
/// Kept with a sign: connections that never bring a request must not save up for one that does.
const CARRIED_NS: u64 = 20_000_000;

/// `sched_switch(bool preempt, task_struct *prev, task_struct *next, unsigned int prev_state)`, under the run
/// queue's lock with interrupts off: nothing here may allocate.
#[btf_tracepoint]
pub(crate) fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let previous = Task(ctx.arg::<*const u8>(1));
    let next = Task(ctx.arg::<*const u8>(2));
    let tgid = previous.tgid();
    let process = process_of(tgid);
    let next_slot = slot_of(next.tgid());
    if process == 0 && next_slot == 0 {
        return 0;
    }
    let Some(slice) = SLICE_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element; this program does not nest, and no exit runs on this CPU meanwhile.
    let slice = unsafe { &mut *slice };
    let now = now_ns();
    if process != 0 {
        let sleeps = ctx.arg::<u64>(0) as u8 == 0 && ctx.arg::<u32>(3) != 0;
        switch_out(&Leaving { task: previous, tgid, process, sleeps, now }, slice);
    }
    slice.pid = 0;
    if next_slot != 0 {
        slice.pid = next.pid();
        slice.start_mono_ns = now;
        slice.start_exec_ns = next.sum_exec_ns();
        if let Some(thread) = thread_of(next) {
            thread.segment_mono_ns = now;
            thread.slice_charged_ns = 0;
            thread.slice_given_ns = 0;
            thread.exec_ns = slice.start_exec_ns;
        }
    }
    0
}

/// A thread that leaves the CPU.
struct Leaving {
    task: Task,
    tgid: u32,
    /// Build slot and runtime.
    process: u16,
    /// It waits for something, as opposed to being made to wait.
    sleeps: bool,
    now: u64,
}

/// The slice's scheduler time, which leaves out what hypervisor and interrupts took, is what is charged in the end:
/// the segments charged within the slice by our own clock, and the rest to the last one.
#[inline(always)]
fn switch_out(leaving: &Leaving, slice: &Slice) {
    let Leaving { task, tgid, process, sleeps, now } = *leaving;
    let slot = process & SLOT_MASK;
    let thread = thread_of(task);
    let total_ns = task.sum_exec_ns();
    // A few slices in a thousand begin unseen; the scheduler's total at the last switch tells those of known threads.
    let start_ns = match &thread {
        _ if slice.pid == task.pid() => slice.start_exec_ns,
        Some(thread) if thread.exec_ns != 0 => thread.exec_ns,
        // Of the others the scheduler may know it. Where they have received something, what came before is not theirs to pay.
        None if total_ns.wrapping_sub(task.previous_sum_exec_ns()) < LONGEST_UNSEEN_NS => {
            task.previous_sum_exec_ns()
        }
        thread => {
            // Only what was charged within the slice is known.
            counters::lost(Loss::SliceUnknown);
            total_ns - thread.as_ref().map_or(0, |thread| thread.slice_charged_ns)
        }
    };
    let exec_ns = total_ns.wrapping_sub(start_ns);
    counters::process_time(slot, exec_ns);
    let Some(thread) = thread else {
        of_nobody(task, process, exec_ns);
        return;
    };
    if is_go(process) {
        look(thread, task, tgid, slot, sleeps, now);
    }
    thread.exec_ns = total_ns;
    let charged = thread.slice_charged_ns;
    if charged > exec_ns {
        // What was charged by our clock held time that the hypervisor or an interrupt took.
        let excess = charged - exec_ns;
        let held = if excess < thread.held_ns { excess } else { thread.held_ns };
        thread.held_ns -= held;
        thread.debt_ns += take_back(thread, slot, excess - held);
    } else {
        let rest = exec_ns - charged;
        let repaid = if thread.debt_ns < rest { thread.debt_ns } else { rest };
        thread.debt_ns -= repaid;
        thread.held_ns += rest - repaid;
    }
    thread.slice_charged_ns = 0;
    thread.segment_mono_ns = 0;
    if sleeps {
        went_idle(thread, leaving);
    } else if thread.request.is_some()
        && (is_go(process) || thread.held_ns >= LONG_NS)
        && clock::is_certain(thread)
    {
        // A request that never sleeps would not be charged before its end, and a goroutine may end its request on another
        // thread before this one runs again.
        flush(thread, slot);
    } else {
        believe(thread, process);
    }
}

/// Time of a thread that works for no request. Go's runtime has a thread that looks after the others every 20 us and
/// threads that look for work, which sleep in between as no handler does.
#[inline(always)]
fn of_nobody(task: Task, process: u16, ns: u64) {
    let slot = process & SLOT_MASK;
    if is_housekeeping(task) || is_go(process) && SystemCall::of(task).number == call::NANOSLEEP {
        counters::shared(slot, ns);
    } else {
        counters::unattributed(slot, ns);
    }
}

/// Housekeeping of a thread that receives requests but is in none is kept for the next one as far as it concerns
/// connections: accepting and closing them, agreeing on keys. Little is also kept without such a sign, as not every one
/// can be seen; not more, as a thread that polls while nobody comes would save up for one request.
#[inline(always)]
fn carry(thread: &mut Thread, leaving: &Leaving) {
    let Leaving { task, process, now, .. } = *leaving;
    let slot = process & SLOT_MASK;
    let held = thread.held_ns;
    if thread.role & (Role::PASSES | Role::RECEIVES) == Role::PASSES {
        thread.held_ns = 0;
        counters::shared(slot, held);
        return;
    }
    let most = match thread.role & (Role::TENDS | Role::RECEIVES) {
        0 => 0,
        Role::RECEIVES => CARRIED_UNSEEN_NS,
        // It may receive its first request yet.
        Role::TENDS => CARRIED_FIRST_NS,
        _ => CARRIED_NS,
    };
    let room = most.saturating_sub(thread.carried_ns);
    let kept = if held < room { held } else { room };
    thread.role &= !Role::TENDS;
    thread.carried_ns += kept;
    counters::kept(slot, kept);
    thread.held_ns = 0;
    if answers_later(thread, process) {
        put_aside(thread, process, held - kept, now);
        believe(thread, process);
    } else if held != kept {
        of_nobody(task, process, held - kept);
    }
}

/// A thread that waits hands over what it holds. One that has answered its request is done with it.
#[inline(always)]
fn went_idle(thread: &mut Thread, leaving: &Leaving) {
    let Leaving { task, tgid, process, now, .. } = *leaving;
    let slot = process & SLOT_MASK;
    let futex = SystemCall::of(task).futex();
    // A loop that waits for a lock is in the middle of its turn.
    if futex.is_none() {
        thread.reads = 0;
        thread.role &= !Role::TOLD;
        thread.slept_mono_ns = now;
        eager::pauses(thread);
    }
    let owns = thread.binding == Binding::OWN;
    let answers = answers_later(thread, process);
    if !owns && !answers {
        if let Some(futex) = futex {
            wait(thread, tgid, futex);
        }
        settle(thread, tgid);
    }
    if answers {
        leave_answered(thread, now);
    }
    if !thread.request.is_some() {
        carry(thread, leaving);
        return;
    }
    let Some(flags) = flush(thread, slot) else {
        unbind(thread);
        return;
    };
    let cut_off = RequestFlags::ANSWERED | RequestFlags::CLOSED;
    if !owns {
        return;
    }
    if thread.seen & u32::from(RequestFlags::COMPLETE) != 0 || flags & cut_off == cut_off {
        if !lingers(task, thread) {
            finish(thread.request, now);
            unbind(thread);
        }
    } else if flags & RequestFlags::ANSWERED == 0 && !is_go(process) {
        // It waits for something in the middle of its request.
        if let Some(futex) = futex {
            remember_lock(tgid, futex);
        }
        if let Some(place) = ongoing(thread.request) {
            park(thread.request, place);
        }
    }
}

/// True for a worker that waits for the other side to close, as php-fpm does (in `recv`) before it goes on with what
/// the script does behind its response.
#[inline(always)]
fn lingers(task: Task, thread: &Thread) -> bool {
    thread.seen & u32::from(RequestFlags::LINGERS) != 0 && SystemCall::of(task).number == call::RECVFROM
}

/// `sched_waking(task_struct *p)`: a thread in a request that wakes an idle thread of its own process hands its
/// request on. A thread that has a request of its own keeps it, whoever wakes it: else the hand-over of a lock, such
/// as Python's, would smear every request over all others.
#[btf_tracepoint]
pub(crate) fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    let waker = Task::current();
    let tgid = waker.tgid();
    let process = process_of(tgid);
    if process == 0 {
        return 0;
    }
    let woken = Task(ctx.arg::<*const u8>(0));
    if woken.tgid() != tgid {
        return 0;
    }
    if is_go(process) {
        // It may go on with a goroutine that began on another thread, without ever receiving anything itself.
        if thread_of_or_new(woken).is_none() {
            counters::lost(Loss::TaskStorage);
        }
        return 0;
    }
    // Interrupts wake threads too, in whosever context they come.
    let call = SystemCall::of(waker);
    if !call.hands_over() {
        return 0;
    }
    let futex = call.futex();
    let to = thread_of(woken);
    let is_loop = to.as_ref().is_some_and(|to| to.role & Role::RECEIVES != 0);
    // Only one that tells a thread something that receives requests is worth a state of its own here.
    let from = if is_loop { thread_of_or_new(waker) } else { thread_of(waker) };
    let Some(from) = from else { return 0 };
    let takes_turns = to.as_ref().is_some_and(|to| answers_later(to, process));
    if takes_turns && let Some(to) = thread_of(woken) {
        feed(to, from);
    }
    // Whoever is woken may answer the request before this thread sleeps.
    if from.role & Role::POOLED != 0 && from.binding != Binding::OWN && !answers_later(from, process) {
        charge(from);
        settle(from, tgid);
        flush(from, process & SLOT_MASK);
    }
    if !takes_turns
        && futex.is_some_and(|futex| SystemCall::of(woken).waits_for_mutex() || is_lock(tgid, futex))
    {
        return 0;
    }
    let busy = to.as_ref().is_some_and(|to| {
        to.binding == Binding::JOB
            || to.binding == Binding::OWN && ongoing(to.request).is_some()
            || futex.is_some_and(|futex| is_in_work(to, tgid, futex))
    });
    // A thread that accepts and polls connections for others works for the request that comes next there.
    if is_loop
        && !busy
        && futex.is_some()
        && from.role & (Role::RECEIVES | Role::POOLED) == 0
        && !from.request.is_some()
        && let Some(to) = thread_of(woken)
    {
        charge(from);
        if to.carried_ns < CARRIED_NS {
            counters::kept(process & SLOT_MASK, from.held_ns);
            to.carried_ns += from.held_ns + from.carried_ns;
            from.held_ns = 0;
            from.carried_ns = 0;
        }
    }
    if !busy
        && !takes_turns
        && (from.request.is_some() || from.role & Role::RECEIVES != 0)
        && !is_housekeeping(woken)
        && let Some(given) = work_of(from, tgid, !is_loop)
    {
        let Some(to) = thread_of_or_new(woken) else {
            counters::lost(Loss::TaskStorage);
            return 0;
        };
        inherit(to, &given, futex);
    }
    if is_loop
        && futex.is_none()
        && let Some(to) = to
    {
        to.role |= Role::TOLD;
        tells_done(from);
    }
    0
}
