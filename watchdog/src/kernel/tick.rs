//! What one drain of the kernel's maps brought. Pure values: a recorded run replays them.

use watchdog_common::types::{Conservation, Loss, ProcessEvent, Sample};

/// Everything since the previous tick.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// When it was taken, `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// Finished requests on watched endpoints, in the order in which they ended on each CPU.
    pub samples: Vec<Sample>,
    /// Requests whose samples the ring dropped, rebuilt from the kernel's histogram.
    pub rebuilt: Vec<RebuiltRequests>,
    pub processes: Vec<ProcessEvent>,
    /// Per build slot, since the slot was taken (not a difference).
    pub conservation: Vec<(u16, Conservation)>,
    /// Losses since the previous tick, by [`Loss`] as index.
    pub losses: [u64; Loss::ALL.len()],
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
