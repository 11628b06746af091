//! What one drain of the kernel's maps brought. Pure values: a recorded run replays them.

use watchdog_common::types::{Blind, Conservation, Loss, OngoingRequest, ProcessEvent, Sample};
pub use watchdog_http2::Request as StreamRequest;

/// By [`Loss`] as index.
pub type LossCounts = [u64; Loss::ALL.len()];

/// Everything since the previous tick.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// When it was taken, `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// Finished requests on watched endpoints, in the order in which they ended on each CPU.
    pub samples: Vec<Sample>,
    /// Requests whose samples the ring dropped, rebuilt from the kernel's histogram.
    pub rebuilt: Vec<RebuiltRequests>,
    /// Requests that will never end, because their process did or their connection was closed long ago.
    pub cut_off: Vec<OngoingRequest>,
    /// Requests of HTTP/2 that are over, on watched endpoints or not: counted, and never charged.
    pub streams: Vec<StreamRequest>,
    pub processes: Vec<ProcessEvent>,
    /// Per build slot, since the slot was taken (not a difference).
    pub conservation: Vec<(u16, Conservation)>,
    /// Per build slot, since the slot was taken (not a difference). What followed HTTP/2 connections brought is divided
    /// into the readable and the hidden, as the paths of their requests could be told.
    pub blind: Vec<(u16, Blind)>,
    /// Losses since the previous tick, by [`Loss`] as index: of all slots, and those that belong to none.
    pub losses: LossCounts,
    /// The same by build slot; slots without any are left out.
    pub slot_losses: Vec<(u16, LossCounts)>,
}

/// Requests of one series that came as bucket counts, split between the buckets' edges so that their sum is exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltRequests {
    pub build_slot: u16,
    pub endpoint: u16,
    pub status_class: u16,
    /// Figures to use as on-CPU times, with how many requests have each.
    pub oncpu_ns: Vec<(u64, u64)>,
}
