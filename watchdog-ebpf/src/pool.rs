//! Pools of threads whose workers take the next job without being woken: there a wake-up does not tell whose work it
//! is, and the job itself must be followed. The names are libuv's, whose pool Node.js works with.

use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use watchdog_common::types::{Loss, RequestFlags};

use crate::counters::lost;
use crate::maps::{Binding, ONGOING_JOB, Request};
use crate::probe::Hit;
use crate::request::{Cause, bind, leave, ongoing, unbind};

/// Where a `uv_work_t` holds its `struct uv__work`: part of libuv's binary interface since 1.0, on every 64-bit Unix.
const WORK_REQ: u64 = 88;

/// `enum uv__work_kind`: file operations.
const UV_WORK_FAST_IO: u32 = 1;

/// `uv__work_submit(uv_loop_t *loop, struct uv__work *w, enum uv__work_kind kind, ...)`, for file operations: the
/// other kinds that come here are not followed, or come as below.
#[uprobe]
pub(crate) fn pool_submit(ctx: ProbeContext) -> u32 {
    if ctx.arg::<u64>(2).is_some_and(|kind| kind as u32 == UV_WORK_FAST_IO) {
        submit(&ctx, 0);
    }
    0
}

/// `uv_queue_work(uv_loop_t *loop, uv_work_t *req, ...)`, into which compilers put the function above.
#[uprobe]
pub(crate) fn pool_queue(ctx: ProbeContext) -> u32 {
    submit(&ctx, WORK_REQ);
    0
}

/// The job is the current request's.
#[inline(always)]
fn submit(ctx: &ProbeContext, offset: u64) {
    let Some(hit) = Hit::of(ctx) else { return };
    let Some(job) = ctx.arg::<u64>(1) else { return };
    let job = job.wrapping_add(offset);
    let request = hit.known_thread().map_or(Request::NONE, |thread| thread.request);
    if let Some(place) = ongoing(request) {
        // No wake-up need guess whose work this is.
        place.flags |= RequestFlags::HANDED;
    }
    if ONGOING_JOB.insert(hit.key(job), request, 0).is_err() {
        lost(Loss::JobStorage);
    }
}

/// `uv__queue_work(struct uv__work *w)` and its like, on a thread of the pool: what it does now is for the request that
/// submitted the job. What it held for nobody goes along, as that was the way to the job.
#[uprobe]
pub(crate) fn pool_start(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let Some(job) = ctx.arg::<u64>(0) else { return 0 };
    let Some(job) = ONGOING_JOB.get_ptr(hit.key(job)) else { return 0 };
    // SAFETY: a live map value, which is written before its job can start.
    let request = unsafe { *job };
    let Some((thread, now)) = hit.charged() else {
        lost(Loss::TaskStorage);
        return 0;
    };
    if thread.binding == Binding::OWN {
        leave(thread, hit.slot, now);
    }
    thread.request = request;
    thread.binding = Binding::JOB;
    thread.seen = 0;
    0
}

/// Their return: the thread belongs to nobody until its next job.
#[uretprobe]
pub(crate) fn pool_end(ctx: RetProbeContext) -> u32 {
    if let Some(hit) = Hit::of(&ctx)
        && let Some((thread, now)) = hit.charged()
    {
        leave(thread, hit.slot, now);
    }
    0
}

/// `uv__queue_done(struct uv__work *w, int status)` and its like, on the loop's thread: what follows is for the
/// request that submitted the job, as after an answer of a database.
#[uprobe]
pub(crate) fn pool_done(ctx: ProbeContext) -> u32 {
    let Some(hit) = Hit::of(&ctx) else { return 0 };
    let Some(job) = ctx.arg::<u64>(0) else { return 0 };
    let key = hit.key(job);
    let Some(job) = ONGOING_JOB.get_ptr(key) else { return 0 };
    // SAFETY: as above; only this thread removes it.
    let request = unsafe { *job };
    let _ = ONGOING_JOB.remove(key);
    let Some((thread, now)) = hit.charged() else { return 0 };
    if request.is_some() && ongoing(request).is_some() {
        // What it holds since it was woken was the way to here.
        if thread.binding != Binding::OWN {
            unbind(thread);
        }
        bind(thread, request, Cause::Answer, hit.slot, now);
    } else {
        leave(thread, hit.slot, now);
    }
    0
}
