//! The table of requests under way, mapped from the kernel.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use watchdog_common::abi::MAX_ONGOING;
use watchdog_common::types::{OngoingRequest, TAKEN, VACANT};

const PLACES: usize = MAX_ONGOING as usize;
const BYTES: NonZeroUsize = NonZeroUsize::new(PLACES * size_of::<OngoingRequest>()).expect("not zero");

#[derive(Debug)]
pub(super) struct OngoingTable {
    base: NonNull<OngoingRequest>,
}

// SAFETY: the mapping belongs to this value alone in this process; see `request` for how it is read.
unsafe impl Send for OngoingTable {}

impl OngoingTable {
    pub(super) fn map(fd: impl AsFd) -> nix::Result<Self> {
        // SAFETY: a new shared mapping of an array whose values take exactly this many bytes.
        let base = unsafe {
            mmap(None, BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)?
        };
        Ok(Self { base: base.cast() })
    }

    /// The requests under way. Each is copied while programs may change it: its figures may be of different moments.
    pub(super) fn requests(&self) -> impl Iterator<Item = OngoingRequest> + '_ {
        (0..PLACES).filter_map(|place| self.request(place))
    }

    /// Ends requests for which `over` holds; returns those that the programs did not end in the meantime.
    pub(super) fn end(&self, over: impl Fn(&OngoingRequest) -> bool) -> Vec<OngoingRequest> {
        let ended = (0..PLACES).filter_map(|place| {
            let request = self.request(place).filter(|request| over(request))?;
            self.vacate(place, request.identity).then_some(request)
        });
        ended.collect()
    }

    fn request(&self, place: usize) -> Option<OngoingRequest> {
        let identity = self.identity(place)?.load(Ordering::Acquire);
        if identity == VACANT || identity == TAKEN {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as self; volatile, because programs write it.
        let request = unsafe { self.base.add(place).read_volatile() };
        (request.identity == identity).then_some(request)
    }

    fn vacate(&self, place: usize, identity: u64) -> bool {
        self.identity(place).is_some_and(|found| {
            found.compare_exchange(identity, VACANT, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    fn identity(&self, place: usize) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, which lives as long as self; the identity is the first field, u64 aligned.
        (place < PLACES).then(|| unsafe { self.base.add(place).cast::<AtomicU64>().as_ref() })
    }
}

impl Drop for OngoingTable {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped.
        let _ = unsafe { munmap(self.base.cast(), BYTES.get()) };
    }
}
