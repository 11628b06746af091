//! Work that passes from thread to thread: who gets it, and which request it is for.
//!
//! A thread that is woken from a futex by a thread in a request either gets work from it or a lock. A futex on which
//! threads wait in the middle of their own requests is a lock. Pools whose threads are all busy are given work
//! without any sign: such requests are parked when their thread leaves them, and a pool's thread that goes on working
//! when its work is done is taken to work for the one that was parked first.

use watchdog_common::abi::{ENDPOINT_OTHER, LOCK_PLACES, MAX_ENDPOINTS, PARKED_PROCESSES, PARKED_REQUESTS};
use watchdog_common::types::{Habit, OngoingRequest, RequestFlags};

use crate::counters::exchange;
use crate::maps::{Binding, HABITS, LOCKS, PARKED_REQ, Request, Role, Thread};
use crate::offsets::Task;
use crate::request::{now_ns, ongoing};

/// A pool's thread that has used less than this, in nanoseconds, has found no work.
const FOUND_NONE_NS: u64 = 50_000;
/// Work of less than this is not worth a guess: what a pool's thread does between two jobs takes less.
pub(crate) const LEAST_WORK_NS: u64 = 250_000;
/// Work that is given away so soon after a request was received is that request's, in nanoseconds.
const AT_ONCE_NS: u64 = 2_000_000;
/// One request in so many gives work away, and at least so many were seen to: then it is a habit of the endpoint.
const HABIT_SHARE: u32 = 4;
const HABIT_LEAST: u32 = 3;
/// So many were answered when their loop was told that work is done.
const TOLD_LEAST: u32 = 6;
/// One request in so many gives work away, and of those that waited one in so many was answered when its loop was told: each
/// sign is too rare for itself, and both together are a habit too.
const BOTH_SHARE: u32 = 16;
const BOTH_WAITED: u32 = 3;
/// It stays one while one request in so many does; a saturated pool shows few.
const HABIT_KEPT: u32 = 64;
/// Bytes at most by which a pool's threads tell their loop, over a pair of sockets, that work is done.
pub(crate) const LONGEST_SIGN: u64 = 16;
/// Parked requests that are looked at for one that still waits.
const LOOKS: u32 = 16;

/// A process and an address in it as one number: 22 bits and the 42 lowest above an alignment of eight.
#[inline(always)]
pub(crate) fn tag_of(tgid: u32, address: u64) -> u64 {
    u64::from(tgid) << 42 | (address >> 3) & ((1 << 42) - 1)
}

/// Spreads a tag over a table of `places`, a power of two.
#[inline(always)]
pub(crate) fn place_of(tag: u64, places: u32) -> u32 {
    (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 & (places - 1)
}

/// Remembers the futex on which a thread waits that has an unanswered request of its own.
#[inline(always)]
pub(crate) fn remember_lock(tgid: u32, address: u64) {
    let tag = tag_of(tgid, address);
    if let Some(place) = LOCKS.get_ptr_mut(place_of(tag, LOCK_PLACES)) {
        // SAFETY: a live map value; written whole.
        unsafe { place.write_volatile(tag) };
    }
}

#[inline(always)]
pub(crate) fn is_lock(tgid: u32, address: u64) -> bool {
    let tag = tag_of(tgid, address);
    // SAFETY: a live map value; written whole.
    LOCKS.get_ptr(place_of(tag, LOCK_PLACES)).is_some_and(|place| unsafe { place.read_volatile() } == tag)
}

#[inline(always)]
fn habit_of(slot: u16, endpoint: u16) -> Option<&'static mut Habit> {
    let index = u32::from(slot) * MAX_ENDPOINTS + (u32::from(endpoint) & (MAX_ENDPOINTS - 1));
    let habit = HABITS.get_ptr_mut(index)?;
    // SAFETY: a live map value; its counts may miss one now and then, which does not matter.
    Some(unsafe { &mut *habit })
}

/// Counts a request, for its endpoint's habit.
#[inline(always)]
pub(crate) fn count_begun(slot: u16, endpoint: u16) {
    if let Some(habit) = habit_of(slot, endpoint) {
        habit.begun += 1;
        // Old habits fade.
        if habit.begun == 1 << 16 {
            habit.begun >>= 1;
            habit.handed >>= 1;
            habit.waited >>= 1;
            habit.told >>= 1;
        }
        if (habit.handed + habit.told) * HABIT_KEPT < habit.begun {
            habit.gives_away = 0;
        }
    }
}

/// Whether what was counted is a habit. Without a jump: the verifier walks each of them.
#[inline(always)]
#[expect(clippy::needless_bitwise_bool, reason = "a lazy operator is a jump")]
fn form(habit: &mut Habit) {
    let Habit { begun, handed, waited, told, .. } = *habit;
    let gave = (handed >= HABIT_LEAST) & (handed * HABIT_SHARE >= begun);
    let enough = (told >= TOLD_LEAST) & (told * HABIT_SHARE >= begun);
    // Requests that wait for something else are answered in such moments too, but not mostly.
    let was_told = enough & (told * 3 >= waited * 2);
    let both =
        enough & (told * BOTH_WAITED >= waited) & (handed >= HABIT_LEAST) & (handed * BOTH_SHARE >= begun);
    habit.gives_away |= u32::from(gave | was_told | both);
}

/// Loops wake threads for other reasons too, such as the one that accepts their connections: only work that was given
/// for certain and done shows a habit.
#[inline(always)]
fn count_handed(thread: &mut Thread) {
    if thread.role & Role::CERTAIN == 0 || thread.held_ns < LEAST_WORK_NS {
        return;
    }
    thread.role &= !Role::CERTAIN;
    if let Some(place) = ongoing(thread.request)
        && let Some(habit) = habit_of(place.build_slot, place.endpoint)
    {
        habit.handed += 1;
        form(habit);
    }
}

/// A thread tells another one, by a pipe or the like, that work is done.
#[inline(always)]
pub(crate) fn tells_done(thread: &mut Thread) {
    if thread.role & Role::RECEIVES == 0 && thread.binding != Binding::OWN {
        thread.role |= Role::POOLED | Role::DONE;
    }
}

/// A loop answers a request. If it has waited over the loop's sleep, and the loop was told since that work is done, then
/// it gave that work away.
#[inline(always)]
pub(crate) fn answers(thread: &mut Thread, place: &OngoingRequest) {
    if thread.reads != 0 && place.start_mono_ns >= thread.slept_mono_ns {
        thread.reads -= 1;
    }
    if thread.role & Role::RECEIVES != 0
        && place.last_mono_ns < thread.slept_mono_ns
        && let Some(habit) = habit_of(place.build_slot, place.endpoint)
    {
        habit.waited += 1;
        if thread.role & Role::TOLD != 0 {
            habit.told += 1;
        }
        form(habit);
    }
}

/// Queues a request that its thread leaves unanswered, if requests of its endpoint use to give work away.
#[inline(always)]
pub(crate) fn park(request: Request, place: &mut OngoingRequest) {
    const PAST: u16 =
        RequestFlags::ANSWERED | RequestFlags::HANDED | RequestFlags::PARKED | RequestFlags::CLOSED;
    if place.flags & PAST != 0 || place.endpoint == ENDPOINT_OTHER {
        return;
    }
    if habit_of(place.build_slot, place.endpoint).is_none_or(|habit| habit.gives_away == 0) {
        return;
    }
    place.flags |= RequestFlags::PARKED;
    enqueue(request, place.tgid);
}

#[inline(always)]
fn enqueue(request: Request, tgid: u32) {
    let owner = u64::from(tgid);
    let Some(parked) = PARKED_REQ.get_ptr_mut(tgid & (PARKED_PROCESSES - 1)) else { return };
    // SAFETY: a live map value; the index is inside the ring. Two processes may race for it: each request's identity
    // is checked when it is taken out.
    unsafe {
        if (*parked).tgid != owner {
            (*parked).tgid = owner;
            (&raw mut (*parked).head).write_volatile((&raw const (*parked).tail).read_volatile());
        }
        let tail = (&raw const (*parked).tail).read_volatile();
        let at = tail as u32 & (PARKED_REQUESTS - 1);
        (&raw mut (*parked).ring).cast::<Request>().add(at as usize).write_volatile(request);
        // Another of the process's loops was faster: this one's request is found by its next sign.
        exchange(&raw mut (*parked).tail, tail, tail + 1);
    }
}

/// The request that has waited longest for a thread of the process's pool.
#[inline(always)]
fn take_parked(tgid: u32) -> Option<Request> {
    let parked = PARKED_REQ.get_ptr_mut(tgid & (PARKED_PROCESSES - 1))?;
    // SAFETY: as in `park`.
    if unsafe { (*parked).tgid } != u64::from(tgid) {
        return None;
    }
    let mut look = 0;
    while look < LOOKS {
        look += 1;
        // SAFETY: as in `park`.
        let (head, tail) = unsafe {
            ((&raw const (*parked).head).read_volatile(), (&raw const (*parked).tail).read_volatile())
        };
        if head >= tail {
            return None;
        }
        let behind = tail - head;
        let next = if behind > u64::from(PARKED_REQUESTS) { tail - u64::from(PARKED_REQUESTS) } else { head };
        // SAFETY: as in `park`.
        if !exchange(unsafe { &raw mut (*parked).head }, head, next + 1) {
            continue;
        }
        let at = next as u32 & (PARKED_REQUESTS - 1);
        // SAFETY: as in `park`.
        let request =
            unsafe { (&raw const (*parked).ring).cast::<Request>().add(at as usize).read_volatile() };
        if let Some(place) = ongoing(request)
            && place.flags & (RequestFlags::ANSWERED | RequestFlags::HANDED) == 0
        {
            place.flags |= RequestFlags::HANDED;
            return Some(request);
        }
    }
    None
}

/// One of the requests that gave work away last and are not answered yet, also if a thread was seen to take it up:
/// then somebody else's work was taken for its.
#[inline(always)]
fn find_parked(tgid: u32) -> Option<Request> {
    let parked = PARKED_REQ.get_ptr_mut(tgid & (PARKED_PROCESSES - 1))?;
    // SAFETY: as in `park`.
    let (owner, tail) = unsafe { ((*parked).tgid, (&raw const (*parked).tail).read_volatile()) };
    if owner != u64::from(tgid) {
        return None;
    }
    let mut look = 1;
    while look <= LOOKS {
        let at = (tail as u32).wrapping_sub(look) & (PARKED_REQUESTS - 1);
        // SAFETY: as in `park`.
        let request =
            unsafe { (&raw const (*parked).ring).cast::<Request>().add(at as usize).read_volatile() };
        if let Some(place) = ongoing(request)
            && place.flags & RequestFlags::ANSWERED == 0
        {
            return Some(request);
        }
        look += 1;
    }
    None
}

/// What a thread gives to another one.
pub(crate) struct Given {
    pub(crate) request: Request,
    /// There is hardly another request that the work may be for.
    pub(crate) certain: bool,
}

/// Which request the work is for that a thread in a request gives to another thread, to one of a pool or to another loop.
#[inline(always)]
pub(crate) fn work_of(from: &mut Thread, tgid: u32, to_pool: bool) -> Option<Given> {
    let surely_not = |request| Some(Given { request, certain: false });
    // Event loops read several requests before they work on the first.
    if from.role & Role::RECEIVES != 0
        && let Some(request) = take_parked(tgid)
    {
        return surely_not(request);
    }
    if !from.request.is_some() || from.seen & u32::from(RequestFlags::ANSWERED) != 0 {
        return None;
    }
    if from.binding != Binding::OWN {
        let works = from.role & Role::DONE == 0 && ongoing(from.request).is_some();
        return if works { surely_not(from.request) } else { None };
    }
    let place = ongoing(from.request)?;
    let habit = habit_of(place.build_slot, place.endpoint)?;
    // A loop that has received several may work on any of them, and one that has received this one long ago may work
    // on what others received.
    let certain = from.reads <= 1 && now_ns().saturating_sub(place.last_mono_ns) < AT_ONCE_NS;
    if !certain && habit.gives_away == 0 {
        return None;
    }
    if to_pool && place.flags & RequestFlags::HANDED == 0 {
        place.flags |= RequestFlags::HANDED;
        if habit.gives_away != 0 {
            enqueue(from.request, tgid);
        }
        if from.reads != 0 {
            from.reads -= 1;
        }
    }
    Some(Given { request: from.request, certain: certain && to_pool })
}

/// Gives a thread work for a request, or more of it; `futex` is what it was woken from.
#[inline(always)]
pub(crate) fn inherit(to: &mut Thread, given: &Given, futex: Option<u64>) {
    if to.binding == Binding::INHERITED && to.request.identity() == given.request.identity() {
        to.role &= !Role::DONE;
        return;
    }
    to.request = given.request;
    to.binding = Binding::INHERITED;
    to.seen = 0;
    let certain = if given.certain { Role::CERTAIN } else { 0 };
    to.role = to.role & !(Role::DONE | Role::CERTAIN) | Role::POOLED | Role::FRESH | certain;
    to.given_on = futex.unwrap_or(0);
}

/// A pool's thread that is woken in the middle of its work from another futex than the one where it waits for work gets
/// no other work.
#[inline(always)]
pub(crate) fn is_in_work(thread: &Thread, tgid: u32, futex: u64) -> bool {
    thread.binding == Binding::INHERITED
        && thread.role & Role::DONE == 0
        && thread.given_on != 0
        && tag_of(tgid, futex) != tag_of(tgid, thread.given_on)
        && ongoing(thread.request).is_some_and(|place| place.flags & RequestFlags::ANSWERED == 0)
}

/// A pool's thread sleeps on a futex. If that is where it was woken and it has done nothing since, another one was
/// faster, and the request waits again.
#[inline(always)]
pub(crate) fn wait(thread: &mut Thread, tgid: u32, futex: u64) {
    if thread.role & Role::FRESH == 0 {
        return;
    }
    if thread.held_ns >= FOUND_NONE_NS {
        thread.role &= !Role::FRESH;
    } else if tag_of(tgid, futex) == tag_of(tgid, thread.given_on) {
        thread.role &= !Role::FRESH;
        if let Some(place) = ongoing(thread.request) {
            place.flags &= !(RequestFlags::HANDED | RequestFlags::PARKED);
            park(thread.request, place);
        }
        thread.request = Request::NONE;
        thread.binding = 0;
    }
}

/// A pool's thread that sleeps, or tells that its work is done: if its request is over, what it holds is work that it
/// took up without being woken.
#[inline(always)]
pub(crate) fn settle(thread: &mut Thread, tgid: u32) {
    count_handed(thread);
    if thread.role & (Role::POOLED | Role::RECEIVES) != Role::POOLED || thread.held_ns < LEAST_WORK_NS {
        return;
    }
    let waits = ongoing(thread.request).is_some_and(|place| place.flags & RequestFlags::ANSWERED == 0);
    if waits && thread.role & Role::DONE == 0 {
        return;
    }
    if let Some(request) = take_parked(tgid).or_else(|| find_parked(tgid)) {
        thread.request = request;
        thread.binding = Binding::INFERRED;
        thread.seen = 0;
        thread.role &= !(Role::DONE | Role::CERTAIN);
    }
}

/// True for threads that serve the runtime and no single request, by the names that the runtimes give them.
#[inline(always)]
pub(crate) fn is_housekeeping(task: Task) -> bool {
    const fn name(text: [u8; 8]) -> u64 {
        u64::from_le_bytes(text)
    }
    /// HotSpot's compilers, collectors and services.
    const NAMES: [u64; 13] = [
        name(*b"C1 Compi"),
        name(*b"C2 Compi"),
        name(*b"GC Threa"),
        name(*b"G1 Conc#"),
        name(*b"G1 Main "),
        name(*b"G1 Refin"),
        name(*b"G1 Servi"),
        name(*b"VM Threa"),
        name(*b"VM Perio"),
        name(*b"Referenc"),
        name(*b"Finalize"),
        name(*b"Common-C"),
        name(*b"Signal D"),
    ];
    let own = task.name();
    let mut k = 0;
    while k < NAMES.len() {
        if own == NAMES[k] {
            return true;
        }
        k += 1;
    }
    false
}
