//! A slow build, or slow surroundings: what makes requests dearer and is not the build's doing.
//!
//! * [`Warmup`]: the first requests of a process.

mod warmup;

pub use warmup::{COLD_FACTOR, Warmup};
