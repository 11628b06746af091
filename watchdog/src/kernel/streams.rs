//! Requests of HTTP/2: what the ring brings of their heads becomes requests by build slot and endpoint, as the kernel
//! programs would look them up.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;

use aya::maps::{MapData, RingBuf};
use watchdog_common::abi::{ENDPOINT_OTHER, MAX_WILDCARD_MASKS};
use watchdog_common::http::{PathHash, ends_path};
use watchdog_common::types::{Blind, EndpointKey, Loss, STREAM_EVENT_BYTES, ServicePatterns, StreamPiece};
use watchdog_http2::{Follower, Request};

use super::Kernel;
use super::tick::LossCounts;

pub(super) struct Streams {
    ring: RingBuf<MapData>,
    follower: Follower,
    patterns: Patterns,
    /// By build slot.
    read: BTreeMap<u16, Read>,
}

/// What could be read of the traffic of a slot, in bytes.
#[derive(Clone, Copy, Default)]
struct Read {
    /// Of followed connections, of which it is known, or not known yet, what they were for.
    judged: u64,
    readable: u64,
    hidden: u64,
}

/// Of all services, by their number.
struct Patterns {
    hash_key: u64,
    services: BTreeMap<u32, ServicePatterns>,
    endpoints: HashMap<(u32, u32, u64, u64), u16>,
}

impl Patterns {
    /// As `watchdog-ebpf/src/endpoint.rs` does.
    fn endpoint(&self, service: u32, method: u64, path: &[u8]) -> u16 {
        let Some(patterns) = self.services.get(&service) else { return ENDPOINT_OTHER };
        let Some((b'/', rest)) = path.split_first() else { return ENDPOINT_OTHER };
        let mut hash = PathHash::new(self.hash_key);
        rest.iter().take_while(|byte| !ends_path(**byte)).for_each(|byte| hash.push(*byte, &patterns.masks));
        let hashes = hash.finish(&patterns.masks);
        let known = MAX_WILDCARD_MASKS.min(patterns.mask_count as usize);
        let of_mask = |place: usize| {
            let at = |method| self.endpoints.get(&(service, patterns.masks[place], hashes[place], method));
            at(method).or_else(|| at(0)).copied()
        };
        (0..known).find_map(of_mask).unwrap_or(ENDPOINT_OTHER)
    }
}

impl Streams {
    pub(super) fn new(ring: RingBuf<MapData>, hash_key: u64) -> Self {
        let patterns = Patterns { hash_key, services: BTreeMap::new(), endpoints: HashMap::new() };
        Self { ring, follower: Follower::default(), patterns, read: BTreeMap::new() }
    }

    /// The endpoints of a service, in place of those that it had.
    pub(super) fn register(
        &mut self,
        service: u32,
        patterns: ServicePatterns,
        endpoints: &BTreeMap<u16, EndpointKey>,
    ) {
        self.patterns.endpoints.retain(|key, _| key.0 != service);
        self.patterns.services.insert(service, patterns);
        let keys =
            endpoints.iter().map(|(index, key)| ((service, key.mask, key.path_hash, key.method), *index));
        self.patterns.endpoints.extend(keys);
    }

    /// The slot's counters begin at zero.
    pub(super) fn open_slot(&mut self, slot: u16) {
        self.read.remove(&slot);
    }
}

impl Kernel {
    /// Requests of HTTP/2 that are over since the last call; those of unknown path are losses.
    pub(super) fn drain_streams(&mut self, losses: &mut BTreeMap<u16, LossCounts>) -> Vec<Request> {
        let (patterns, open) = (&self.streams.patterns, &self.open);
        let resolve = |slot: u16, method: u64, path: &[u8]| match open.get(&slot) {
            Some((service, _)) => patterns.endpoint(*service, method, path),
            None => ENDPOINT_OTHER,
        };
        while let Some(item) = self.streams.ring.next() {
            if let Some(told) = parse(&item) {
                self.streams.follower.take(&told, &resolve);
            }
        }
        let requests = self.streams.follower.requests();
        for request in requests.iter().filter(|request| request.endpoint.is_none()) {
            losses.entry(request.build_slot).or_default()[Loss::Http2 as usize] += 1;
        }
        requests
    }

    /// Divides what followed connections brought into what could be read and what could not, as their requests were.
    pub(super) fn divide_streams(&mut self, slot: u16, blind: Blind, requests: &[Request]) -> Blind {
        let read = self.streams.read.entry(slot).or_default();
        let of_slot = requests.iter().filter(|request| request.build_slot == slot);
        let (known, unknown) =
            of_slot.fold((0u64, 0u64), |(known, unknown), request| match request.endpoint {
                Some(_) => (known + 1, unknown),
                None => (known, unknown + 1),
            });
        if let Some(unknown_share) = unknown.saturating_mul(1 << 16).checked_div(known + unknown) {
            let bytes = blind.streams_bytes.saturating_sub(read.judged);
            let hidden = (bytes >> 16) * unknown_share + (((bytes & 0xffff) * unknown_share) >> 16);
            read.judged = blind.streams_bytes;
            read.hidden += hidden;
            read.readable += bytes - hidden;
        }
        Blind {
            readable_bytes: blind.readable_bytes + read.readable,
            http2_bytes: blind.http2_bytes + read.hidden,
            ..blind
        }
    }

    pub(super) fn sweep_streams(&mut self, now_mono_ns: u64) {
        let slots = &self.tgid_slots;
        self.streams.follower.sweep(now_mono_ns, |tgid| slots.get(tgid) != 0);
    }

    /// HTTP/2 connections that are followed, and bytes of memory that this takes, roughly.
    pub fn streams_held(&self) -> (usize, usize) {
        self.streams.follower.held()
    }
}

/// An item of the ring: pieces come whole, other events without the room for bytes.
fn parse(item: &[u8]) -> Option<StreamPiece> {
    if item.len() < STREAM_EVENT_BYTES {
        return None;
    }
    let mut whole = [0u8; size_of::<StreamPiece>()];
    let used = item.len().min(whole.len());
    whole[..used].copy_from_slice(&item[..used]);
    // SAFETY: as long as a StreamPiece, for which any bits are valid; the read needs no alignment.
    Some(unsafe { whole.as_ptr().cast::<StreamPiece>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use watchdog_common::http::{method_code, path_hash};

    use super::*;

    const KEY: u64 = 0x1234_5678_9abc_def1;

    #[test]
    fn endpoints_are_found_as_the_kernel_finds_them() {
        let key = |method: &[u8], path: &str, mask: u32| EndpointKey {
            path_hash: path_hash(path.as_bytes(), mask, KEY),
            method: if method.is_empty() { 0 } else { method_code(method) },
            service: 2,
            mask,
        };
        let endpoints = [
            (1, key(b"POST", "/login", 0)),
            (2, key(b"", "/api/*/items", 2)),
            (3, key(b"", "/api/v1/items", 0)),
        ];
        let masks = ServicePatterns { masks: [0, 2, 0, 0], mask_count: 2, protocol: 0 };
        let mut patterns = Patterns { hash_key: KEY, services: BTreeMap::new(), endpoints: HashMap::new() };
        patterns.services.insert(2, masks);
        for (index, key) in endpoints {
            patterns.endpoints.insert((2, key.mask, key.path_hash, key.method), index);
        }
        let found = |method: &[u8], path: &[u8]| patterns.endpoint(2, method_code(method), path);
        assert_eq!(found(b"POST", b"/login?next=/"), 1);
        assert_eq!(found(b"GET", b"/login"), ENDPOINT_OTHER);
        assert_eq!((found(b"GET", b"/api/v2/items"), found(b"GET", b"/api/v1/items")), (2, 3));
        assert_eq!((found(b"OPTIONS", b"*"), found(b"GET", b"")), (ENDPOINT_OTHER, ENDPOINT_OTHER));
        assert_eq!(patterns.endpoint(1, method_code(b"POST"), b"/login"), ENDPOINT_OTHER);
    }
}
