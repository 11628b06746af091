//! What every user probe does first. Unlike the other programs, these run with preemption on: `sched_switch` may come
//! between any two of their instructions and change the thread's account. It does so only in a slice's figures, never
//! in what the thread is bound to; a slice cut short within the few nanoseconds of [`charge`] would be charged twice.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_attach_cookie;
use watchdog_common::abi::SLOT_MASK;

use crate::goroutine::is_go;
use crate::maps::{NO_TAIL, PointerKey, Thread, process_of, thread_of, thread_of_or_new};
use crate::offsets::Task;
use crate::request::charge;

/// A watched thread at a probe.
pub(crate) struct Hit {
    pub(crate) task: Task,
    pub(crate) tgid: u32,
    pub(crate) slot: u16,
    process: u16,
}

impl Hit {
    /// `None` in a process that is not watched, and where the probe was put for another process: those that share
    /// memory (between `vfork` and `exec`) share probes, and before 6.13 a probe on a return heeds no process.
    #[inline(always)]
    pub(crate) fn of(ctx: &impl EbpfContext) -> Option<Self> {
        let task = Task::current();
        let tgid = task.tgid();
        let process = process_of(tgid);
        let slot = process & SLOT_MASK;
        if tgid == 0 {
            // Never so, which neither compiler nor verifier can know, and the array is empty. Without a tail call in
            // it, the verifier (since 6.13) gives a program of this type with more than 64 bytes of stack one stack
            // per CPU, although it can be preempted. It must be in the program itself: those that the compiler would make a
            // function of their own, as they are large, are inlined always.
            // SAFETY: nothing lives here that would need to be dropped.
            unsafe { NO_TAIL.tail_call(ctx, 0) };
        }
        // SAFETY: the program's own context.
        let put_for = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
        (slot != 0 && put_for == u64::from(tgid)).then_some(Self { task, tgid, slot, process })
    }

    #[inline(always)]
    pub(crate) fn is_go(&self) -> bool {
        is_go(self.process)
    }

    #[inline(always)]
    pub(crate) fn key(&self, address: u64) -> PointerKey {
        PointerKey { address, tgid: self.tgid, _pad: 0 }
    }

    /// The thread's state, if it has any.
    #[inline(always)]
    pub(crate) fn known_thread(&self) -> Option<&'static mut Thread> {
        thread_of(self.task)
    }

    /// The thread's state, made if need be.
    #[inline(always)]
    pub(crate) fn thread(&self) -> Option<&'static mut Thread> {
        thread_of_or_new(self.task)
    }

    /// The thread's state with all its time charged, and the time of the charge.
    #[inline(always)]
    pub(crate) fn charged(&self) -> Option<(&'static mut Thread, u64)> {
        let thread = self.thread()?;
        let now = charge(thread);
        Some((thread, now))
    }
}
