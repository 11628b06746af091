//! Requests begin, are bound to threads, collect on-CPU time, and are finished and counted.

use aya_ebpf::bindings::{BPF_ANY, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::histogram::{BUCKETS, bucket_of};
use watchdog_common::types::{Loss, OngoingRequest, RequestFlags, Sample, SeriesKey};

use crate::counters;
use crate::maps::{Binding, Connection, ONGOING_REQ, SAMPLES, SERIES, Thread};

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
    if since != 0 {
        // Clocks of two CPUs may differ by a little.
        if now >= since {
            thread.held_ns += now - since;
            thread.slice_charged_ns += now - since;
        } else {
            counters::lost(Loss::ClockStep);
        }
    }
    thread.segment_mono_ns = now;
    now
}

/// The request under way on a connection, if it is still the one with this number.
#[inline(always)]
pub(crate) fn ongoing(connection: u64, sequence: u32) -> Option<&'static mut OngoingRequest> {
    let request = ONGOING_REQ.get_ptr_mut(connection)?;
    // SAFETY: a live map value; it may be reused while we look, which the number on it shows in all but a few
    // nanoseconds, and then a few nanoseconds go to the connection's next request.
    let request = unsafe { &mut *request };
    (request.sequence == sequence).then_some(request)
}

/// Hands what the thread holds to its request. Returns the request's flags, or `None` when it is over: then the
/// time belongs to nobody.
#[inline(always)]
pub(crate) fn flush(thread: &mut Thread, slot: u16) -> Option<u16> {
    let held = thread.held_ns;
    thread.held_ns = 0;
    if thread.connection != 0
        && let Some(request) = ongoing(thread.connection, thread.sequence)
    {
        if held != 0 {
            counters::add(&raw mut request.oncpu_ns, held);
            counters::attributed(slot, held);
        }
        return Some(request.flags);
    }
    counters::unattributed(slot, held);
    None
}

#[inline(always)]
pub(crate) fn unbind(thread: &mut Thread) {
    thread.connection = 0;
    thread.binding = 0;
    thread.seen = 0;
}

/// Leaves the thread's current request because another one comes: what is held goes to the old one, which is
/// finished when its response is complete or its connection is gone.
#[inline(always)]
pub(crate) fn leave(thread: &mut Thread, slot: u16, now: u64) {
    let flags = flush(thread, slot);
    let over = RequestFlags::COMPLETE | RequestFlags::CLOSED;
    if thread.binding == Binding::OWN && flags.is_some_and(|flags| flags & over != 0) {
        finish(thread.connection, thread.sequence, now);
    }
    unbind(thread);
}

/// What brought a thread to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Receive,
    Send,
}

/// Makes a request the thread's own. Time that the thread holds for no request, or only inherited, goes along:
/// what it does next shows whose work that was. So does, at a send, what it holds since it last answered
/// something or received something: the send says for certain whose work it was.
#[inline(always)]
pub(crate) fn bind(thread: &mut Thread, connection: u64, sequence: u32, cause: Cause, slot: u16, now: u64) {
    if thread.connection == connection && thread.sequence == sequence {
        thread.binding = Binding::OWN;
        return;
    }
    if thread.binding == Binding::OWN {
        let held = thread.held_ns;
        if cause == Cause::Send {
            thread.held_ns = 0;
        }
        leave(thread, slot, now);
        if cause == Cause::Send {
            thread.held_ns = held;
        }
    }
    thread.connection = connection;
    thread.sequence = sequence;
    thread.binding = Binding::OWN;
    thread.seen = 0;
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
    let cookie = connection.cookie;
    // The previous request of this connection ends here, whoever holds it.
    if thread.binding == Binding::OWN && thread.connection == cookie {
        flush(thread, slot);
        unbind(thread);
    }
    if connection.sequence != 0 {
        finish(cookie, connection.sequence, now);
    }
    connection.sequence += 1;
    connection.sent = 0;
    connection.expected = 0;
    let request = OngoingRequest {
        oncpu_ns: 0,
        start_mono_ns: now,
        last_mono_ns: now,
        sequence: connection.sequence,
        tgid,
        build_slot: slot,
        endpoint: connection.endpoint,
        status: connection.status,
        flags,
    };
    if ONGOING_REQ.insert(cookie, request, u64::from(BPF_ANY)).is_err() {
        counters::lost(Loss::OngoingFull);
        return false;
    }
    if flags & RequestFlags::CONTINUATION == 0 {
        counters::started(slot);
    }
    true
}

/// Finishes a request: counts it, once, and sends its sample.
#[inline(always)]
pub(crate) fn finish(connection: u64, sequence: u32, now: u64) {
    let Some(request) = ongoing(connection, sequence) else { return };
    let request = *request;
    // Of several that finish the same request, the one whose removal succeeds counts it.
    if ONGOING_REQ.remove(connection).is_err() {
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
