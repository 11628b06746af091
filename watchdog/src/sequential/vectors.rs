//! Reference values of the engine from elsewhere, and whether this engine agrees with them.
//!
//! `cargo xtask vectors FILE` and the tests read the same format: JSON with a list `vectors` of sequences, each with its
//! parameters, components, requests (`tick`, `x_ms`, `cls`) and what has to come out: the evidence `M`, its maximum and
//! the clearing evidence `V` at chosen requests, the verdict, the request of each decision, and estimate and interval
//! there. All parameters are obeyed; one that is not known is an error, as passing over it would compare something else.

mod check;
mod format;

#[cfg(test)]
mod tests;

pub use check::{Agreement, Difference, TOLERANCE, check};
pub use format::{AtDecision, ComponentRow, FormatError, Parameters, Point, Step, Vector, parse};
