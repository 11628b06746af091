//! The table from thread-group id to build slot, mapped from the kernel: single elements are written while the
//! programs read it, and fork and exit write it on the kernel's side.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use watchdog_common::abi::MAX_TGID;

const BYTES: NonZeroUsize = NonZeroUsize::new(MAX_TGID as usize * size_of::<u16>()).expect("not zero");

#[derive(Debug)]
pub(super) struct TgidSlots {
    base: NonNull<AtomicU16>,
}

// SAFETY: the mapping belongs to this value alone in this process; elements are only touched atomically.
unsafe impl Send for TgidSlots {}

impl TgidSlots {
    pub(super) fn map(fd: impl AsFd) -> nix::Result<Self> {
        // SAFETY: a new shared mapping of a map whose single value has exactly this many bytes.
        let base = unsafe {
            mmap(None, BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)?
        };
        Ok(Self { base: base.cast() })
    }

    fn element(&self, tgid: u32) -> Option<&AtomicU16> {
        // SAFETY: inside the mapping, which lives as long as self; u16 aligned.
        (tgid < MAX_TGID).then(|| unsafe { self.base.add(tgid as usize).as_ref() })
    }

    pub(super) fn set(&self, tgid: u32, slot: u16) {
        if let Some(element) = self.element(tgid) {
            element.store(slot, Ordering::Release);
        }
    }

    pub(super) fn get(&self, tgid: u32) -> u16 {
        self.element(tgid).map_or(0, |element| element.load(Ordering::Acquire))
    }
}

impl Drop for TgidSlots {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped.
        let _ = unsafe { munmap(self.base.cast(), BYTES.get()) };
    }
}
