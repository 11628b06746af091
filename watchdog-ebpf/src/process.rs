//! Which processes are watched: children from their first instruction, until the last thread has ended.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use watchdog_common::abi::SLOT_MASK;
use watchdog_common::types::{Loss, ProcessEvent, ProcessEventKind};

use crate::counters;
use crate::goroutine::is_go;
use crate::handover::{inherit, work_of};
use crate::maps::{PROCESSES, SLICE_SCRATCH, process_of, set_process, slot_of, thread_of, thread_of_or_new};
use crate::offsets::Task;
use crate::request::{charge, leave, now_ns};
use crate::turns::drop_aside;

#[inline(always)]
fn tell(ctx: &BtfTracePointContext, kind: ProcessEventKind, tgid: u32, parent_tgid: u32, slot: u16) {
    let event =
        ProcessEvent { mono_ns: now_ns(), tgid, parent_tgid, kind: kind as u32, build_slot: u32::from(slot) };
    if PROCESSES.output(event, 0).is_err() {
        counters::lost(Loss::ProcessRingFull);
        warn!(ctx, "no room to tell of process {}: the next scan will find it", tgid);
    }
}

/// `sched_process_fork(task_struct *parent, task_struct *child)`, before the child runs.
#[btf_tracepoint]
pub(crate) fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    let parent = task.tgid();
    let process = process_of(parent);
    let slot = process & SLOT_MASK;
    if slot == 0 {
        return 0;
    }
    let new = Task(ctx.arg::<*const u8>(1));
    let child = new.tgid();
    if is_go(process) {
        // As in `sched_waking`.
        if child == parent && thread_of_or_new(new).is_none() {
            counters::lost(Loss::TaskStorage);
        }
    // A thread or a program that is started in the middle of a request works for it.
    } else if let Some(from) = thread_of(task)
        && let Some(given) = work_of(from, parent, true)
        && let Some(to) = thread_of_or_new(new)
    {
        inherit(to, &given, None);
    }
    if child != parent {
        set_process(child, process);
        tell(&ctx, ProcessEventKind::Fork, child, parent, slot);
    }
    0
}

/// `sched_process_exec(task_struct *p, pid_t old_pid, linux_binprm *bprm)`: told for every process of the host, so
/// that a service is noticed before its first request.
#[btf_tracepoint]
pub(crate) fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let tgid = Task(ctx.arg::<*const u8>(0)).tgid();
    tell(&ctx, ProcessEventKind::Exec, tgid, 0, slot_of(tgid));
    0
}

/// `sched_process_exit(task_struct *p)`, in the context of the thread that ends.
#[btf_tracepoint]
pub(crate) fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    let tgid = task.tgid();
    let slot = slot_of(tgid);
    if slot == 0 {
        return 0;
    }
    let mut slice_ns = None;
    if let Some(thread) = thread_of(task) {
        let now = charge(thread);
        slice_ns = Some(thread.slice_charged_ns);
        leave(thread, slot, now);
        counters::unattributed(slot, thread.carried_ns);
        counters::kept(slot, thread.carried_ns.wrapping_neg());
        thread.carried_ns = 0;
        drop_aside(thread, slot);
        // What it uses until its last switch is nobody's: it will receive no request for which to keep it.
        thread.role = 0;
    }
    // The kernel took this thread off the count before it called us.
    if task.live_threads() != 0 {
        return 0;
    }
    // The last switch-out comes after the process is no longer watched: its slice is closed here.
    if let Some(slice) = SLICE_SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's element.
        let slice = unsafe { &mut *slice };
        if slice.pid == task.pid() {
            if let Some(ns) = slice_ns {
                counters::process_time(slot, ns);
            } else {
                let ns = now_ns().saturating_sub(slice.start_mono_ns);
                counters::process_time(slot, ns);
                counters::unattributed(slot, ns);
            }
            slice.pid = 0;
        }
    }
    set_process(tgid, 0);
    tell(&ctx, ProcessEventKind::Exit, tgid, 0, slot);
    0
}
