//! What the agent and its kernel programs must agree on, once.
//!
//! Everything here is `no_std`, has no dependency and no `unsafe`: names and limits ([`abi`]), the
//! `#[repr(C)]` values that cross the kernel boundary ([`types`]), the bucket arithmetic of the
//! histograms ([`histogram`]) and the HTTP/1 parsing that runs in the kernel and is fuzzed on the host ([`http`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod cgi;
pub mod fastcgi;
pub mod histogram;
pub mod http;
pub mod http2;
pub mod types;
pub mod uwsgi;
