//! The servers that people run, unmodified, with the same small application on each.
//!
//! `POST /login` checks a password with the platform's usual hash (15 to 30 ms of CPU; `HASH_COST` in the environment
//! multiplies it, to make a heavy build), the same with an unknown user answers 401 without hashing, `GET /browse` is
//! light, `GET /report` sleeps 50 ms. Where the platform has a thread CPU clock, every answer tells in `X-Cpu-Ns` what
//! the application itself saw of its request.
//!
//! A family of servers is a file here, which lists them as `SERVERS`, its applications are below tests/apps, and what
//! it needs installed is a file below xtask/src/setup/servers.

mod axum;
mod check;
pub mod contend;
mod databases;
mod golang;
mod java;
mod judge;
mod mod_wsgi;
mod nginx;
mod node;
mod perl;
pub mod php;
mod process;
mod python;
mod ruby;
mod running;

use crate::load::Step;

pub use check::{Front, Line, Outcome, Session, Trial};
pub use judge::{Bounds, judge};
pub use nginx::nginx;
pub use running::{Role, Running, application, certificate, free_address, free_port, installed, program};

/// A server that can be started.
#[derive(Debug)]
pub struct Server {
    pub name: &'static str,
    /// Who does a request's work, in a few words.
    pub model: &'static str,
    /// How far the logins' mean may be from what the application itself measured, as a share.
    pub bound: f64,
    pub start: fn() -> anyhow::Result<Running>,
}

/// What is promised where one thread does one request.
pub const EXACT: f64 = 0.05;
/// What is promised for pools, event loops, goroutines and tasks.
pub const SHARED: f64 = 0.10;

/// Every server there is, by family.
pub fn all() -> impl Iterator<Item = &'static Server> {
    [
        python::SERVERS,
        mod_wsgi::SERVERS,
        php::SERVERS,
        node::SERVERS,
        ruby::SERVERS,
        java::SERVERS,
        golang::SERVERS,
        axum::SERVERS,
        perl::SERVERS,
    ]
    .into_iter()
    .flatten()
}

/// Servers of HTTP/2, whose requests are counted and not charged one by one: nothing may be guessed.
pub fn counted() -> impl Iterator<Item = &'static Server> {
    [node::HTTP2_SERVERS, golang::HTTP2_SERVERS, nginx::HTTP2_SERVERS].into_iter().flatten()
}

/// The server of that name.
pub fn named(name: &str) -> anyhow::Result<&'static Server> {
    all()
        .chain(counted())
        .find(|server| server.name == name)
        .ok_or_else(|| anyhow::anyhow!("there is no server named {name}"))
}

/// The kinds of request in a mixed load.
pub fn mix() -> Vec<Step> {
    vec![
        Step::post("login", "/login", "user=ann&password=secret").weighing(3),
        Step::get("browse", "/browse").weighing(4),
        Step::get("report", "/report").weighing(1),
        Step::post("unknown", "/login", "user=nobody&password=secret").expecting(401).weighing(1),
    ]
}
