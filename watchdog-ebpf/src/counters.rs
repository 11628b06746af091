//! Counting: losses by reason, and whose CPU time it was.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use watchdog_common::types::{Blind, Conservation, Loss};

use crate::maps::{BLIND, CONSERVATION, LOSSES, slot_of};
use crate::offsets::Task;

/// Adds to a counter that other CPUs or interrupts add to as well.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, amount: u64) {
    // SAFETY: callers pass an aligned u64 inside a map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Sets a shared value from one to another; false when it was not the first.
#[inline(always)]
pub(crate) fn exchange(value: *mut u64, from: u64, to: u64) -> bool {
    // SAFETY: callers pass an aligned u64 inside a map value.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(value, from, to)
    };
    done
}

#[inline(always)]
pub(crate) fn lost(reason: Loss) {
    // Rare, so it may look up whose loss it is.
    let slot = slot_of(Task::current().tgid());
    if let Some(losses) = LOSSES.get_ptr_mut(u32::from(slot)) {
        // SAFETY: reasons are fewer than the array's elements; a live map value.
        add(unsafe { (&raw mut (*losses).0).cast::<u64>().add(reason as usize) }, 1);
    }
}

#[inline(always)]
fn conserve(slot: u16, field: impl FnOnce(*mut Conservation) -> *mut u64, amount: u64) {
    if let Some(figures) = CONSERVATION.get_ptr_mut(u32::from(slot)) {
        add(field(figures), amount);
    }
}

#[inline(always)]
pub(crate) fn process_time(slot: u16, ns: u64) {
    // SAFETY: a field of a live map value.
    conserve(slot, |c| unsafe { &raw mut (*c).process_ns }, ns);
}

#[inline(always)]
pub(crate) fn attributed(slot: u16, ns: u64) {
    // SAFETY: as above.
    conserve(slot, |c| unsafe { &raw mut (*c).attributed_ns }, ns);
}

#[inline(always)]
pub(crate) fn shared(slot: u16, ns: u64) {
    // SAFETY: as above.
    conserve(slot, |c| unsafe { &raw mut (*c).shared_ns }, ns);
}

/// Time that waits for a request; taken out by adding its negative.
#[inline(always)]
pub(crate) fn kept(slot: u16, ns: u64) {
    if ns != 0 {
        // SAFETY: as above.
        conserve(slot, |c| unsafe { &raw mut (*c).kept_ns }, ns);
    }
}

#[inline(always)]
pub(crate) fn unattributed(slot: u16, ns: u64) {
    // SAFETY: as above.
    conserve(slot, |c| unsafe { &raw mut (*c).unattributed_ns }, ns);
}

#[inline(always)]
pub(crate) fn started(slot: u16) {
    // SAFETY: as above.
    conserve(slot, |c| unsafe { &raw mut (*c).started }, 1);
}

#[inline(always)]
pub(crate) fn finished(slot: u16) {
    // SAFETY: as above.
    conserve(slot, |c| unsafe { &raw mut (*c).finished }, 1);
}

/// Bytes that were received, by what can be made of them.
#[inline(always)]
pub(crate) fn received(slot: u16, field: impl FnOnce(*mut Blind) -> *mut u64, bytes: u64) {
    if let Some(figures) = BLIND.get_ptr_mut(u32::from(slot)) {
        add(field(figures), bytes);
    }
}
