//! Rust: axum on tokio's threads, with argon2 where it belongs and where it is often found.

use std::process::Command;

use super::{Role, Running, SHARED, Server, free_port, installed};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "axum-blocking",
        model: "tasks on tokio's workers, the hash on its blocking threads",
        bound: SHARED,
        start: || start("blocking"),
    },
    Server {
        name: "axum-worker",
        model: "tasks on tokio's workers, the hash among them",
        bound: SHARED,
        start: || start("worker"),
    },
];

fn start(hash_on: &str) -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = Command::new(installed("axum/release/axum-shop")?);
    command.env("LISTEN", address.to_string()).env("HASH_ON", hash_on);
    running.start("axum", Role::Server, &mut command)?;
    running.ready()
}
