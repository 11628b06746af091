//! Requests begin, are bound to threads, collect on-CPU time, and are finished and counted.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use watchdog_common::abi::{ENDPOINT_OTHER, MAX_ONGOING};
use watchdog_common::histogram::{BUCKETS, bucket_of};
use watchdog_common::types::{Loss, OngoingRequest, RequestFlags, Sample, SeriesKey, TAKEN, VACANT};

use crate::counters;
use crate::eager;
use crate::goroutine::own;
use crate::handover::park;
use crate::maps::{Binding, Connection, ONGOING_REQ, Request, Role, SAMPLES, SERIES, Thread};
use crate::turns::settle_aside;

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Moves the on-CPU time since the last charge into what the thread holds. Returns the time of the charge.
#[inline(always)]
pub(crate) fn charge(thread: &mut Thread) -> u64 {
    let now = now_ns();
    let since = thread.segment_mono_ns;
    // SAFETY: an aligned field of a live value. Volatile, to be written before what the segment held: see `clock`.
    unsafe { (&raw mut thread.segment_mono_ns).write_volatile(now) };
    if since != 0 {
        // Clocks of two CPUs may differ by a little.
        if now >= since {
            let held = thread.held_ns + (now - since);
            // SAFETY: as above.
            unsafe { (&raw mut thread.held_ns).write_volatile(held) };
            thread.slice_charged_ns += now - since;
        } else {
            counters::lost(Loss::ClockStep);
        }
    }
    now
}

/// Places that a request may have: the first comes from its connection's cookie, so that neighbours do not meet
/// until 65,536 connections later, and then only if the first one's request is still under way.
const PLACES: u32 = 8;
/// From one to the next; odd, so that the chains of neighbours do not join.
const STRIDE: u32 = 8_191;

/// The request under way, if it is still in its place.
#[inline(always)]
pub(crate) fn ongoing(request: Request) -> Option<&'static mut OngoingRequest> {
    let found = ONGOING_REQ.get_ptr_mut(request.place)?;
    // SAFETY: a live map value; the place may be given to another request while we look, which the identity shows
    // in all but a few nanoseconds, and then a few nanoseconds of on-CPU time go to that other request.
    let found = unsafe { &mut *found };
    // A vacant place has the identity of no request.
    (found.identity == request.identity() && request.is_some()).then_some(found)
}

/// Takes a vacant place for the connection's next request, preferably the one it had before.
#[inline(always)]
fn claim(connection: &mut Connection) -> Option<&'static mut OngoingRequest> {
    let first = connection.request.connection as u32;
    let mut k = 0;
    while k < PLACES {
        let place = (first + k * STRIDE) & (MAX_ONGOING - 1);
        let found = ONGOING_REQ.get_ptr_mut(place)?;
        // SAFETY: a live map value; the identity is its first field and only touched atomically.
        let found = unsafe { &mut *found };
        if counters::exchange(&raw mut found.identity, VACANT, TAKEN) {
            connection.request.place = place;
            return Some(found);
        }
        k += 1;
    }
    None
}

/// Hands what the thread holds to its request. Returns the request's flags, or `None` when it is over: then the
/// time belongs to nobody.
#[inline(always)]
pub(crate) fn flush(thread: &mut Thread, slot: u16) -> Option<u16> {
    let held = thread.held_ns;
    thread.held_ns = 0;
    if thread.request.is_some()
        && let Some(request) = ongoing(thread.request)
    {
        if held != 0 {
            counters::add(&raw mut request.oncpu_ns, held);
            if thread.binding == Binding::INFERRED {
                counters::add(&raw mut request.inferred_ns, held);
            }
            if thread.given_to != request.identity {
                thread.given_to = request.identity;
                thread.slice_given_ns = 0;
            }
            thread.slice_given_ns += held;
            counters::attributed(slot, held);
        }
        return Some(request.flags);
    }
    counters::unattributed(slot, held);
    None
}

#[inline(always)]
pub(crate) fn unbind(thread: &mut Thread) {
    thread.request = Request::NONE;
    thread.binding = 0;
    thread.seen = 0;
}

/// Takes time back from the thread's request that it was handed in this slice; returns what could not be.
#[inline(always)]
pub(crate) fn take_back(thread: &mut Thread, slot: u16, ns: u64) -> u64 {
    let back = if ns < thread.slice_given_ns { ns } else { thread.slice_given_ns };
    if back == 0 {
        return ns;
    }
    let Some(request) = ongoing(thread.request) else { return ns };
    if thread.given_to != request.identity {
        return ns;
    }
    // The counters wrap: adding what is missing to zero subtracts.
    counters::add(&raw mut request.oncpu_ns, back.wrapping_neg());
    if thread.binding == Binding::INFERRED {
        counters::add(&raw mut request.inferred_ns, back.wrapping_neg());
    }
    counters::attributed(slot, back.wrapping_neg());
    ns - back
}

/// Leaves the thread's current request because another one comes: what is held goes to the old one, which is
/// finished when its response is complete or its connection is gone.
#[inline(always)]
pub(crate) fn leave(thread: &mut Thread, slot: u16, now: u64) {
    let flags = flush(thread, slot);
    let over = RequestFlags::COMPLETE | RequestFlags::CLOSED;
    if thread.binding == Binding::OWN && flags.is_some_and(|flags| flags & over != 0) {
        finish(thread.request, now);
    }
    unbind(thread);
}

/// What brought a thread to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Receive,
    Send,
    /// An answer from elsewhere that the request asked for.
    Answer,
}

/// Makes a request the thread's own. Time that the thread holds for no request, or only inherited, goes along:
/// what it does next shows whose work that was. So does, at a send, what it holds since it last answered
/// something or received something: the send says for certain whose work it was.
#[inline(always)]
pub(crate) fn bind(thread: &mut Thread, request: Request, cause: Cause, slot: u16, now: u64) {
    // A pool's thread that talks to a database for a request stays the pool's.
    let pooled = cause == Cause::Answer
        && matches!(thread.binding, Binding::INHERITED | Binding::INFERRED | Binding::JOB);
    if cause == Cause::Receive {
        thread.role |= Role::RECEIVES;
        if thread.last_read.identity() != request.identity() {
            eager::reads(thread);
            thread.last_read = request;
            thread.reads += 1;
        }
    }
    if cause == Cause::Answer {
        eager::pauses(thread);
    }
    if thread.goroutine != 0 {
        thread.carried_ns += own(thread.goroutine, request);
    }
    if thread.request.identity() == request.identity() {
        if !pooled {
            thread.binding = Binding::OWN;
        }
        return;
    }
    if pooled {
        return;
    }
    if thread.binding == Binding::OWN {
        if let Some(place) = ongoing(thread.request) {
            park(thread.request, place);
        }
        let goes_along = cause == Cause::Send && !eager::has_worked(thread);
        let held = thread.held_ns;
        if goes_along {
            thread.held_ns = 0;
        }
        leave(thread, slot, now);
        if goes_along {
            thread.held_ns = held;
        }
    }
    thread.request = request;
    thread.binding = Binding::OWN;
    thread.seen = 0;
    thread.slice_given_ns = 0;
    thread.held_ns += thread.carried_ns;
    counters::kept(slot, thread.carried_ns.wrapping_neg());
    thread.carried_ns = 0;
    settle_aside(thread, request, cause, slot);
}

/// Begins the connection's next request. False when the map is full.
#[inline(always)]
pub(crate) fn begin(
    connection: &mut Connection,
    thread: &mut Thread,
    slot: u16,
    tgid: u32,
    now: u64,
    flags: u16,
) -> bool {
    // The previous request of this connection ends here, whoever holds it.
    if thread.binding == Binding::OWN && thread.request.connection == connection.request.connection {
        flush(thread, slot);
        unbind(thread);
    }
    if connection.request.sequence != 0 {
        finish(connection.request, now);
    }
    connection.request.sequence += 1;
    connection.sent = 0;
    connection.expected = 0;
    let Some(request) = claim(connection) else {
        counters::lost(Loss::OngoingFull);
        return false;
    };
    request.oncpu_ns = 0;
    request.inferred_ns = 0;
    request.seen_ns = 0;
    request.start_mono_ns = now;
    request.last_mono_ns = now;
    request.sequence = connection.request.sequence;
    request.tgid = tgid;
    request.build_slot = slot;
    request.endpoint = connection.endpoint;
    request.status = connection.status;
    request.flags = flags;
    // SAFETY: an aligned field of a live map value. Last, and volatile: from here on it can be found.
    unsafe { (&raw mut request.identity).write_volatile(connection.request.identity()) };
    if flags & RequestFlags::CONTINUATION == 0 {
        counters::started(slot);
    }
    true
}

/// Finishes a request: counts it, once, and sends its sample.
#[inline(always)]
pub(crate) fn finish(request: Request, now: u64) {
    let Some(place) = ongoing(request) else { return };
    let identity = &raw mut place.identity;
    let mut request = OngoingRequest { identity: request.identity(), ..*place };
    // Time that was taken back in the moment in which the place was given to this request.
    if request.oncpu_ns > i64::MAX as u64 {
        request.oncpu_ns = 0;
    }
    if request.inferred_ns > request.oncpu_ns {
        request.inferred_ns = request.oncpu_ns;
    }
    // Of several that finish the same request, the one that vacates its place counts it.
    if !counters::exchange(identity, request.identity, VACANT) {
        return;
    }
    // Its head never ended: it was no request.
    if request.flags & RequestFlags::HEAD != 0 {
        counters::lost(Loss::Abandoned);
        return;
    }
    let key = SeriesKey {
        build_slot: request.build_slot,
        endpoint: request.endpoint,
        status_class: if request.status < 600 { request.status / 100 } else { 0 },
        _pad: 0,
    };
    let Some(series) = SERIES.get_ptr_mut(key) else {
        counters::lost(Loss::SeriesMissing);
        return;
    };
    // SAFETY: fields of a live map value; entries are removed only after their slot is out of use.
    unsafe {
        counters::add(&raw mut (*series).oncpu_sum_ns, request.oncpu_ns);
        if request.inferred_ns != 0 {
            counters::add(&raw mut (*series).inferred_ns, request.inferred_ns);
        }
        if request.flags & RequestFlags::CONTINUATION != 0 {
            counters::add(&raw mut (*series).continued_ns, request.oncpu_ns);
            return;
        }
        counters::add(&raw mut (*series).count, 1);
        let bucket = bucket_of(request.oncpu_ns);
        if bucket < BUCKETS {
            counters::add((&raw mut (*series).buckets).cast::<u64>().add(bucket), 1);
        }
    }
    counters::finished(request.build_slot);
    if request.endpoint == ENDPOINT_OTHER {
        return;
    }
    let wall_us = now.saturating_sub(request.start_mono_ns) / 1000;
    let sample = Sample {
        end_mono_ns: now,
        oncpu_ns: request.oncpu_ns,
        wall_us: if wall_us > u64::from(u32::MAX) { u32::MAX } else { wall_us as u32 },
        tgid: request.tgid,
        build_slot: request.build_slot,
        endpoint: request.endpoint,
        status: request.status,
        flags: request.flags,
    };
    if SAMPLES.output(sample, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        counters::lost(Loss::SampleRingFull);
    }
}
