//! Loads the kernel programs, tells them what to watch, and drains what they measured. Only this module uses aya.

pub mod tick;

use std::os::fd::BorrowedFd;

use serde::Serialize;
use watchdog_common::types::{Series, SeriesKey};

use self::tick::Tick;

/// Which way of seeing socket traffic could be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Tracepoints `sock_recv_length` and `sock_send_length` (kernel 6.3 and later).
    Core,
    /// Function exits of `inet_recvmsg` and its like.
    A,
}

/// What was loaded and attached, for the log, `doctor` and the metrics.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    pub tier: Tier,
    /// Attached programs.
    pub attached: Vec<String>,
    /// Why better tiers, or single programs, could not be had: (what, why).
    pub degraded: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct KernelOptions {
    /// Size of the sample ring in bytes (a power of two), for tests of its overflow.
    pub sample_ring_bytes: Option<u32>,
    /// Use this tier or fail.
    pub only_tier: Option<Tier>,
    /// Let the kernel keep run time and count of each program (costs two clock reads per run).
    pub probe_stats: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("{what}: {why}; {remedy}")]
    Cannot { what: String, why: String, remedy: String },
}

/// One endpoint pattern of a service; index 0 is reserved for "other".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPattern {
    pub index: u16,
    pub method: Option<String>,
    pub path: String,
}

/// The loaded programs and their maps. Dropping it detaches everything.
#[derive(Debug)]
pub struct Kernel {}

#[expect(clippy::todo, clippy::unused_self, clippy::needless_pass_by_value, reason = "signatures first")]
impl Kernel {
    pub fn load(_options: &KernelOptions) -> Result<Self, KernelError> {
        todo!()
    }

    pub fn report(&self) -> &KernelReport {
        todo!()
    }

    /// Tells the kernel a service's endpoint patterns.
    pub fn register_service(&mut self, _service: u32, _endpoints: &[EndpointPattern]) -> Result<(), KernelError> {
        todo!()
    }

    /// Takes a build slot for a (service, build) pair; its counters start at zero.
    pub fn open_slot(&mut self, _service: u32, _endpoint_count: u16) -> Result<u16, KernelError> {
        todo!()
    }

    /// Gives a slot back; no process may be watched under it any more.
    pub fn close_slot(&mut self, _slot: u16) -> Result<(), KernelError> {
        todo!()
    }

    /// Watches a process (all its threads, its later children too) under a slot; also moves it to another slot.
    pub fn watch(&mut self, _tgid: u32, _slot: u16) {
        todo!()
    }

    pub fn unwatch(&mut self, _tgid: u32) {
        todo!()
    }

    /// Drains both rings and reads the conservation figures.
    pub fn tick(&mut self, _now_mono_ns: u64) -> Result<Tick, KernelError> {
        todo!()
    }

    /// Counts, sums and histograms of every open slot, cumulative.
    pub fn series(&self) -> Result<Vec<(SeriesKey, Box<Series>)>, KernelError> {
        todo!()
    }

    /// (program, runs, nanoseconds) as the kernel counted them, empty unless `probe_stats` is on.
    pub fn probe_stats(&self) -> Vec<(String, u64, u64)> {
        todo!()
    }

    /// Becomes readable when a process event waits.
    pub fn process_events_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}
