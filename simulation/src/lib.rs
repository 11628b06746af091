//! Simulation of the decision engine: the engine of the agent itself, with the traffic and the nuisances of the decision
//! note, beside the rules that are deployed today.
//!
//! `cargo xtask simulate` writes docs/decisions.md with it. A crate of its own, as it needs neither a kernel nor a
//! server, and nothing of it belongs into the agent.

#![forbid(unsafe_code)]

pub mod deploy;
pub mod document;
pub mod ladder;
pub mod limits;
pub mod mann_whitney;
pub mod naive;
pub mod plots;
pub mod pool;
pub mod rng;
pub mod rules;
pub mod statistics;
pub mod tables;
pub mod workload;
pub mod world;
