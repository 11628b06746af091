//! Go: net/http with bcrypt in the handler's goroutine. The runtime moves goroutines between threads as it likes, and
//! has no clock of a goroutine's CPU time.

use std::net::SocketAddr;
use std::process::Command;

use super::{EXACT, Role, Running, SHARED, Server, free_port, installed};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "go-nethttp",
        model: "goroutines on as many threads as cores",
        bound: SHARED,
        start: || start(TODAY, Target::Tcp, &[]),
    },
    Server {
        name: "go-debian",
        model: "goroutines on as many threads as cores, by Debian's Go",
        bound: SHARED,
        start: || start(DEBIAN, Target::Tcp, &[]),
    },
    // A cross-check: the goroutine has a thread, and so a clock, for itself.
    Server {
        name: "go-locked",
        model: "goroutines that hold their thread during the handler",
        bound: EXACT,
        start: || start(TODAY, Target::Tcp, &[("LOCK_THREAD", "1")]),
    },
    Server {
        name: "go-tls",
        model: "goroutines, crypto/tls in the process",
        bound: SHARED,
        start: || start(TODAY, Target::Tls, &[("MODE", "tls")]),
    },
    Server {
        name: "go-debian-tls",
        model: "goroutines, crypto/tls of Debian's Go in the process",
        bound: SHARED,
        start: || start(DEBIAN, Target::Tls, &[("MODE", "tls")]),
    },
];

/// What `net/http` and its sister make of HTTP/2.
pub(super) const HTTP2_SERVERS: &[Server] = &[
    Server {
        name: "go-h2c",
        model: "goroutines with HTTP/2",
        bound: SHARED,
        start: || start(TODAY, http2, &[("MODE", "h2c"), ("LOCK_THREAD", "1")]),
    },
    Server {
        name: "go-h2",
        model: "goroutines with HTTP/2 over crypto/tls in the process",
        bound: SHARED,
        start: || start(TODAY, http2_in_tls, &[("MODE", "h2"), ("LOCK_THREAD", "1")]),
    },
    Server {
        name: "go-debian-h2",
        model: "goroutines with HTTP/2 over crypto/tls of Debian's Go in the process",
        bound: SHARED,
        start: || start(DEBIAN, http2_in_tls, &[("MODE", "h2"), ("LOCK_THREAD", "1")]),
    },
];

fn http2(address: SocketAddr) -> Target {
    Target::Http2 { address, tls: false }
}

fn http2_in_tls(address: SocketAddr) -> Target {
    Target::Http2 { address, tls: true }
}

/// The same program by two toolchains.
const TODAY: &str = "go-today/shop";
const DEBIAN: &str = "go/shop";

fn start(
    program: &str,
    target: fn(SocketAddr) -> Target,
    environment: &[(&str, &str)],
) -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let mut running = Running::new(target(address))?;
    let mut command = Command::new(installed(program)?);
    command.env("LISTEN", address.to_string()).envs(environment.iter().copied());
    running.start("go", Role::Server, &mut command)?;
    running.ready()
}
