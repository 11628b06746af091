//! Requests of HTTP/2, counted by endpoint, out of what the kernel programs hand over: the heads of requests as they came,
//! and the ends of streams.
//!
//! - [`hpack`]: what a head says, with the state that its connection keeps.
//! - [`connection`]: one connection: pieces to frames, frames to heads, heads to requests.
//! - [`follower`]: all of them, within bounds.
//!
//! Of a head, method and path are kept, as long as the connection may refer to them; everything else is passed over and
//! not even decompressed. Nothing here leaves the agent's memory but counts by endpoint.
#![forbid(unsafe_code)]

pub mod connection;
pub mod follower;
pub mod hpack;

pub use follower::{Follower, Request};
