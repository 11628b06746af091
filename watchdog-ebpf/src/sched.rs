//! On-CPU time from switch to switch, and the hand-over of work at wake-ups.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use watchdog_common::types::{Loss, RequestFlags};

use crate::counters;
use crate::maps::{Binding, SLICE_SCRATCH, Slice, Thread, slot_of, thread_of, thread_of_or_new};
use crate::offsets::Task;
use crate::registers::{SystemCall, call};
use crate::request::{finish, flush, now_ns, ongoing, unbind};

/// `sched_switch(bool preempt, task_struct *prev, task_struct *next, unsigned int prev_state)`, under the run
/// queue's lock with interrupts off: nothing here may allocate.
#[btf_tracepoint]
pub(crate) fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let previous = Task(ctx.arg::<*const u8>(1));
    let next = Task(ctx.arg::<*const u8>(2));
    let previous_slot = slot_of(previous.tgid());
    let next_slot = slot_of(next.tgid());
    if previous_slot == 0 && next_slot == 0 {
        return 0;
    }
    let Some(slice) = SLICE_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element; this program does not nest, and no exit runs on this CPU meanwhile.
    let slice = unsafe { &mut *slice };
    let now = now_ns();
    if previous_slot != 0 {
        let sleeps = ctx.arg::<u64>(0) as u8 == 0 && ctx.arg::<u32>(3) != 0;
        switch_out(previous, previous_slot, sleeps, slice, now);
    }
    slice.pid = 0;
    if next_slot != 0 {
        slice.pid = next.pid();
        slice.start_mono_ns = now;
        slice.start_exec_ns = next.sum_exec_ns();
        if let Some(thread) = thread_of(next) {
            thread.segment_mono_ns = now;
            thread.slice_charged_ns = 0;
            thread.exec_ns = slice.start_exec_ns;
        }
    }
    0
}

/// The slice's scheduler time, which leaves out what hypervisor and interrupts took, is what is charged in the end:
/// the segments charged within the slice by our own clock, and the rest to the last one.
#[inline(always)]
fn switch_out(task: Task, slot: u16, sleeps: bool, slice: &Slice, now: u64) {
    let thread = thread_of(task);
    let total_ns = task.sum_exec_ns();
    // A few slices in a thousand begin unseen; the scheduler's total at the last switch tells those of known threads.
    let start_ns = match &thread {
        _ if slice.pid == task.pid() => slice.start_exec_ns,
        Some(thread) if thread.exec_ns != 0 => thread.exec_ns,
        // Of the others only what was charged within the slice is known.
        thread => {
            counters::lost(Loss::SliceUnknown);
            total_ns - thread.as_ref().map_or(0, |thread| thread.slice_charged_ns)
        }
    };
    let exec_ns = total_ns.wrapping_sub(start_ns);
    counters::process_time(slot, exec_ns);
    let Some(thread) = thread else {
        counters::unattributed(slot, exec_ns);
        return;
    };
    thread.exec_ns = total_ns;
    let charged = thread.slice_charged_ns;
    if charged > exec_ns {
        thread.debt_ns += charged - exec_ns;
    } else {
        let rest = exec_ns - charged;
        let repaid = if thread.debt_ns < rest { thread.debt_ns } else { rest };
        thread.debt_ns -= repaid;
        thread.held_ns += rest - repaid;
    }
    thread.slice_charged_ns = 0;
    thread.segment_mono_ns = 0;
    if sleeps {
        went_idle(task, thread, slot, now);
    }
}

/// A thread that waits hands over what it holds. One that has answered its request is done with it.
#[inline(always)]
fn went_idle(task: Task, thread: &mut Thread, slot: u16, now: u64) {
    match flush(thread, slot) {
        None => unbind(thread),
        Some(flags) => {
            let cut_off = RequestFlags::ANSWERED | RequestFlags::CLOSED;
            let over = thread.seen & u32::from(RequestFlags::COMPLETE) != 0 || flags & cut_off == cut_off;
            if thread.binding == Binding::OWN && over && !lingers(task, thread) {
                finish(thread.request, now);
                unbind(thread);
            }
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
    let slot = slot_of(tgid);
    if slot == 0 {
        return 0;
    }
    let woken = Task(ctx.arg::<*const u8>(0));
    if woken.tgid() != tgid {
        return 0;
    }
    let Some(from) = thread_of(waker) else { return 0 };
    if !from.request.is_some() || from.seen & u32::from(RequestFlags::ANSWERED) != 0 {
        return 0;
    }
    // Interrupts wake threads too, in whosever context they come.
    if !SystemCall::of(waker).hands_over() {
        return 0;
    }
    let Some(to) = thread_of_or_new(woken) else {
        counters::lost(Loss::TaskStorage);
        return 0;
    };
    if to.binding == Binding::OWN || ongoing(from.request).is_none() {
        return 0;
    }
    to.request = from.request;
    to.binding = Binding::INHERITED;
    to.seen = 0;
    0
}
