//! Node's servers: see tests/apps/node.

use std::net::Ipv4Addr;
use std::process::Command;

use super::{
    Role, Running, SHARED, Server, application, certificate, databases, free_port, installed, program,
};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "node-express-scrypt",
        model: "one loop; crypto.scrypt in libuv's pool",
        bound: SHARED,
        start: || start(&[]),
    },
    Server {
        name: "node-express-pbkdf2",
        model: "one loop; crypto.pbkdf2 in libuv's pool",
        bound: SHARED,
        start: || start(&[("HASH", "pbkdf2")]),
    },
    Server {
        name: "node-express-bcrypt",
        model: "one loop; a native addon's work in libuv's pool",
        bound: SHARED,
        start: || start(&[("HASH", "bcrypt")]),
    },
    Server {
        name: "node-http-sync",
        model: "one loop, which hashes too",
        bound: SHARED,
        start: || start(&[("APP", "plain"), ("HASH", "sync")]),
    },
    Server {
        name: "node-express-data",
        model: "one loop with pooled PostgreSQL and one Redis connection; crypto.scrypt in libuv's pool",
        bound: SHARED,
        start: || start(&[("APP", "data")]),
    },
    Server {
        name: "node-https",
        model: "one loop with TLS in the process; crypto.scrypt in libuv's pool",
        bound: SHARED,
        start: || start(&[("TRANSPORT", "https")]),
    },
    Server {
        name: "node-cluster",
        model: "two loops that get their connections from a third process; crypto.scrypt in libuv's pools",
        bound: SHARED,
        start: || start(&[("WORKERS", "2")]),
    },
];

/// Several requests at a time on one connection, their heads compressed with a state that the connection keeps.
pub(super) const HTTP2_SERVERS: &[Server] = &[
    Server {
        name: "node-h2c",
        model: "one loop with HTTP/2; crypto.scrypt in libuv's pool",
        bound: SHARED,
        start: || start(&[("APP", "plain"), ("TRANSPORT", "h2c")]),
    },
    Server {
        name: "node-h2",
        model: "one loop with HTTP/2 over TLS in the process; crypto.scrypt in libuv's pool",
        bound: SHARED,
        start: || start(&[("APP", "plain"), ("TRANSPORT", "h2")]),
    },
];

/// Starts tests/apps/node/server.js with these variables.
fn start(variables: &[(&str, &str)]) -> anyhow::Result<Running> {
    let value = |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| *value);
    let port = free_port()?;
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let (target, tls) = match value("TRANSPORT") {
        None => (Target::Tcp(address), false),
        Some("h2c") => (Target::Http2 { address, tls: false }, false),
        Some("h2") => (Target::Http2 { address, tls: true }, true),
        Some(_) => (Target::Tls(address), true),
    };
    let mut running = Running::new(target)?;
    let mut command = Command::new(program("node", &[])?);
    command
        .arg("server.js")
        .current_dir(application("node"))
        .env("NODE_PATH", installed("node/node_modules")?)
        // As people run it; Express is slower otherwise.
        .env("NODE_ENV", "production")
        .env("PORT", port.to_string())
        .envs(variables.iter().copied());
    if tls {
        let (certificate, key) = certificate(running.folder())?;
        command.env("TLS_CERT", certificate).env("TLS_KEY", key);
    }
    if value("APP") == Some("data") {
        command.env("DATABASE_URL", databases::postgres(&mut running)?);
        command.env("REDIS_URL", databases::redis(&mut running)?);
    }
    running.start("node", Role::Server, &mut command)?;
    running.ready()
}
