//! Python's servers: see tests/apps/python.

use std::net::Ipv4Addr;
use std::process::Command;

use super::{EXACT, Role, Running, Server, application, free_port, installed};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[Server {
    name: "gunicorn-sync",
    model: "one process does one request at a time",
    bound: EXACT,
    start: || gunicorn("sync", 1),
}];

/// Processes of each server; this machine may have more CPUs.
const WORKERS: &str = "2";

fn gunicorn(class: &str, threads: u32) -> anyhow::Result<Running> {
    let port = free_port()?;
    let mut running = Running::new(Target::Tcp((Ipv4Addr::LOCALHOST, port).into()))?;
    let mut command = python_program("gunicorn")?;
    command.args(["--workers", WORKERS, "--worker-class", class, "--threads", &threads.to_string()]).args([
        "--bind",
        &format!("127.0.0.1:{port}"),
        "--no-control-socket",
        "shop_flask:app",
    ]);
    running.start("gunicorn", Role::Server, &mut command)?;
    running.ready()
}

/// A program of the virtual environment, started beside the applications.
fn python_program(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(installed("python/bin")?.join(name));
    command.current_dir(application("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}
