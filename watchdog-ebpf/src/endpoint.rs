//! Which endpoint a path names.

use watchdog_common::abi::{ENDPOINT_OTHER, HEAD_WINDOW, MAX_WILDCARD_MASKS};
use watchdog_common::http::{PathEnd, PathScan, STEP};
use watchdog_common::types::{EndpointKey, Loss, Protocol};

use crate::bytes::repeat;
use crate::counters::lost;
use crate::maps::{BUILD_SLOTS, ENDPOINTS, SERVICES};
use crate::offsets;

/// The first bytes of a request, and as many again that may be looked at, but not used.
pub(crate) type Head = [u8; 2 * HEAD_WINDOW];

/// True when connections of this protocol are looked for in the slot's service.
#[inline(always)]
pub(crate) fn speaks(slot: u16, protocol: u32) -> bool {
    BUILD_SLOTS
        .get(u32::from(slot))
        .and_then(|slot| SERVICES.get(slot.service))
        .is_some_and(|patterns| patterns.protocol == Protocol::AUTO || patterns.protocol == protocol)
}

/// The endpoint that the path at `head[target..len]` names, or `None` when more bytes are needed.
#[inline(always)]
pub(crate) fn endpoint_of(slot: u16, head: &Head, target: usize, method: u64, len: usize) -> Option<u16> {
    u16::try_from(find(slot, head, target, method, len)).ok()
}

/// More bytes are needed.
const INCOMPLETE: u32 = u32::MAX;

/// A function of its own, because its caller's stack is small; so it can return one number only.
#[inline(never)]
fn find(slot: u16, head: &Head, target: usize, method: u64, len: usize) -> u32 {
    find_endpoint(slot, head, target, method, len).map_or(INCOMPLETE, u32::from)
}

#[inline(always)]
fn find_endpoint(slot: u16, head: &Head, target: usize, method: u64, len: usize) -> Option<u16> {
    let Some(slot) = BUILD_SLOTS.get(u32::from(slot)) else { return Some(ENDPOINT_OTHER) };
    let service = slot.service;
    let Some(patterns) = SERVICES.get(service) else { return Some(ENDPOINT_OTHER) };
    let target = target & 31;
    if head[target] != b'/' {
        return Some(ENDPOINT_OTHER);
    }
    let mut path = PathReading {
        scan: PathScan::new(offsets::hash_key(), patterns.masks),
        head: &raw const *head,
        begin: target as u64 + 1,
        len: len as u64,
    };
    repeat((HEAD_WINDOW / STEP) as u32, read_path, &mut path);
    match path.scan.end(len) {
        PathEnd::Received => None,
        PathEnd::Window => {
            lost(Loss::LongPath);
            Some(ENDPOINT_OTHER)
        }
        PathEnd::Path => {
            let hashes = path.scan.hash.finish(&patterns.masks);
            Some(look_up(&hashes, &patterns.masks, patterns.mask_count, method, service))
        }
    }
}

#[repr(C)]
struct PathReading {
    head: *const Head,
    begin: u64,
    len: u64,
    scan: PathScan,
}

unsafe extern "C" fn read_path(round: u64, state: *mut PathReading) -> u64 {
    // SAFETY: what `endpoint_of` passed; the masks keep the eight bytes inside the buffer.
    let state = unsafe { &mut *state };
    let at = (state.begin as usize & 31) + STEP * (round as usize & (HEAD_WINDOW / STEP - 1));
    // SAFETY: as above.
    let head = unsafe { &*state.head };
    u64::from(!state.scan.step(head, at, state.len as usize))
}

#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value, the key would lie on the small stack twice"
)]
fn look_up(
    hashes: &[u64; MAX_WILDCARD_MASKS],
    masks: &[u32; MAX_WILDCARD_MASKS],
    mask_count: u32,
    method: u64,
    service: u32,
) -> u16 {
    let mut m = 0;
    while m < MAX_WILDCARD_MASKS {
        if m as u32 >= mask_count {
            break;
        }
        let mut key = EndpointKey { path_hash: hashes[m], method, service, mask: masks[m] };
        let mut found = ENDPOINTS.get_ptr(&key);
        if found.is_none() {
            key.method = 0;
            found = ENDPOINTS.get_ptr(&key);
        }
        if let Some(endpoint) = found {
            // SAFETY: a live map value; the agent never changes one.
            return unsafe { *endpoint } as u16;
        }
        m += 1;
    }
    ENDPOINT_OTHER
}
