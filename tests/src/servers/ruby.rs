//! Ruby: Sinatra on Puma, with bcrypt in the thread of the request.

use std::process::Command;

use super::{EXACT, Role, Running, Server, application, free_port, program};
use crate::load::Target;

/// Puma's own default.
const THREADS: &str = "5:5";

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "puma-threads",
        model: "a pool of threads under one lock, fed by a reactor thread",
        bound: EXACT,
        start: || start(0),
    },
    Server {
        name: "puma-cluster",
        model: "two processes, each with a pool of threads under one lock",
        bound: EXACT,
        start: || start(2),
    },
];

fn start(workers: u32) -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = Command::new(program("puma", &[])?);
    command.args([
        "--environment",
        "production",
        "--threads",
        THREADS,
        "--bind",
        &format!("tcp://{address}"),
    ]);
    if workers > 0 {
        command.args(["--preload", "--workers", &workers.to_string()]);
    }
    command.arg("config.ru").current_dir(application("ruby"));
    running.start("puma", Role::Server, &mut command)?;
    running.ready()
}
