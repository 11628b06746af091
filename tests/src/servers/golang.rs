//! Go: net/http with bcrypt in the handler's goroutine. The runtime moves goroutines between threads as it likes, and
//! has no clock of a goroutine's CPU time.

use std::process::Command;

use super::{EXACT, Role, Running, SHARED, Server, free_port, installed};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "go-nethttp",
        model: "goroutines on as many threads as cores",
        bound: SHARED,
        start: || start(Target::Tcp, &[]),
    },
    // A cross-check: the goroutine has a thread, and so a clock, for itself.
    Server {
        name: "go-locked",
        model: "goroutines that hold their thread during the handler",
        bound: EXACT,
        start: || start(Target::Tcp, &[("LOCK_THREAD", "1")]),
    },
    Server {
        name: "go-tls",
        model: "goroutines, crypto/tls in the process",
        bound: SHARED,
        start: || start(Target::Tls, &[("MODE", "tls")]),
    },
];

/// What `net/http` and its sister make of HTTP/2.
pub(super) const HTTP2_SERVERS: &[Server] = &[
    Server {
        name: "go-h2c",
        model: "goroutines with HTTP/2",
        bound: SHARED,
        start: || {
            start(|address| Target::Http2 { address, tls: false }, &[("MODE", "h2c"), ("LOCK_THREAD", "1")])
        },
    },
    Server {
        name: "go-h2",
        model: "goroutines with HTTP/2 over crypto/tls in the process",
        bound: SHARED,
        start: || {
            start(|address| Target::Http2 { address, tls: true }, &[("MODE", "h2"), ("LOCK_THREAD", "1")])
        },
    },
];

fn start(
    target: fn(std::net::SocketAddr) -> Target,
    environment: &[(&str, &str)],
) -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let mut running = Running::new(target(address))?;
    let mut command = Command::new(installed("go/shop")?);
    command.env("LISTEN", address.to_string()).envs(environment.iter().copied());
    running.start("go", Role::Server, &mut command)?;
    running.ready()
}
