//! A slow build, or slow surroundings: what makes requests dearer and is not the build's doing.
//!
//! * [`Warmup`]: the first requests of a process.
//! * [`Calibration`]: a loop of at most a millisecond each second, whose cost the host alone decides.
//! * [`Smoothed`]: what something costs now, in multiples of what it used to.

mod calibration;
mod control;
mod counters;
mod ratio;
mod surroundings;
mod warmup;

#[cfg(test)]
mod tests;

pub use calibration::{Calibration, Reading, stored_as};
pub use control::{Control, Source};
pub use counters::{Counters, Counts};
pub use ratio::{Figure, Smoothed, Yardstick};
pub use surroundings::{Change, Surroundings};
pub use warmup::{COLD_FACTOR, Warmup};
