//! Python's servers: see tests/apps/python.

use std::net::SocketAddr;
use std::process::Command;

use super::nginx::{self, Backend};
use super::{
    EXACT, Role, Running, SHARED, Server, application, certificate, databases, free_address, installed,
};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "gunicorn-sync",
        model: "each process does one request at a time",
        bound: EXACT,
        start: || alone(Gunicorn::Sync),
    },
    Server {
        name: "gunicorn-gthread",
        model: "four threads in each process, under Python's lock; another thread accepts and polls",
        bound: EXACT,
        start: || alone(Gunicorn::Threads),
    },
    Server {
        name: "waitress",
        model: "four threads under Python's lock, which answer what another one reads",
        bound: EXACT,
        start: waitress,
    },
    Server {
        name: "gunicorn-tls",
        model: "as gunicorn-gthread, with OpenSSL as a library in the process",
        bound: EXACT,
        start: gunicorn_tls,
    },
    Server {
        name: "gunicorn-postgres",
        model: "as gunicorn-sync, with a query in each login",
        bound: EXACT,
        start: gunicorn_postgres,
    },
    Server {
        name: "nginx-gunicorn",
        model: "gunicorn-sync behind nginx, over HTTP",
        bound: EXACT,
        start: nginx_gunicorn,
    },
    Server {
        name: "nginx-tls-gunicorn",
        model: "TLS ends in nginx; gunicorn-sync behind nginx, over HTTP",
        bound: EXACT,
        start: nginx_tls_gunicorn,
    },
    Server {
        name: "uvicorn-pool",
        model: "asyncio's loop; logins in its default executor",
        bound: SHARED,
        start: || uvicorn("asyncio", "pool"),
    },
    Server {
        name: "uvicorn-uvloop-pool",
        model: "uvloop; logins in its default executor",
        bound: SHARED,
        start: || uvicorn("uvloop", "pool"),
    },
    Server {
        name: "uvicorn-onloop",
        model: "asyncio's loop, which does logins too",
        bound: SHARED,
        start: || uvicorn("asyncio", "loop"),
    },
    Server {
        name: "uvicorn-uvloop-onloop",
        model: "uvloop, which does logins too",
        bound: SHARED,
        start: || uvicorn("uvloop", "loop"),
    },
    Server {
        name: "uwsgi-http-socket",
        model: "each process does one request at a time",
        bound: EXACT,
        start: || uwsgi("--http-socket"),
    },
    Server {
        name: "uwsgi-http-router",
        model: "as uwsgi-http-socket, behind a process of uWSGI's own that passes requests on in the uwsgi protocol",
        bound: EXACT,
        start: || uwsgi("--http"),
    },
    Server {
        name: "nginx-uwsgi",
        model: "uWSGI's processes behind nginx, over the uwsgi protocol",
        bound: EXACT,
        start: nginx_uwsgi,
    },
];

/// Processes of each server; the machine may have more CPUs.
const WORKERS: &str = "2";

#[derive(Clone, Copy, Debug)]
enum Gunicorn {
    Sync,
    Threads,
}

impl Gunicorn {
    /// gunicorn with the Flask application, on that address.
    fn command(self, address: SocketAddr) -> anyhow::Result<Command> {
        let mut command = python_program("gunicorn")?;
        command.args(["--workers", WORKERS, "--bind", &address.to_string(), "--no-control-socket"]);
        if let Self::Threads = self {
            command.args(["--worker-class", "gthread", "--threads", "4"]);
        }
        command.arg("shop_flask:app");
        Ok(command)
    }
}

fn alone(gunicorn: Gunicorn) -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    running.start("gunicorn", Role::Server, &mut gunicorn.command(address)?)?;
    running.ready()
}

fn waitress() -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = python_program("waitress-serve")?;
    command.args([&format!("--listen={address}"), "--threads=4", "shop_flask:app"]);
    running.start("waitress", Role::Server, &mut command)?;
    running.ready()
}

fn gunicorn_tls() -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tls(address))?;
    let (certificate, key) = certificate(running.folder())?;
    let mut command = Gunicorn::Threads.command(address)?;
    command.arg("--certfile").arg(certificate).arg("--keyfile").arg(key);
    running.start("gunicorn", Role::Server, &mut command)?;
    running.ready()
}

fn gunicorn_postgres() -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = Gunicorn::Sync.command(address)?;
    command.env("DATABASE_URL", databases::postgres(&mut running)?);
    running.start("gunicorn", Role::Server, &mut command)?;
    running.ready()
}

fn nginx_gunicorn() -> anyhow::Result<Running> {
    before_gunicorn(Target::Tcp(free_address()?))
}

fn nginx_tls_gunicorn() -> anyhow::Result<Running> {
    before_gunicorn(Target::Tls(free_address()?))
}

/// nginx that is reached at `target`, before gunicorn.
fn before_gunicorn(target: Target) -> anyhow::Result<Running> {
    let behind = free_address()?;
    let mut running = Running::new(target)?;
    running.start("gunicorn", Role::Server, &mut Gunicorn::Sync.command(behind)?)?;
    nginx::front(&mut running, Backend::Http, &behind.to_string())?;
    running.ready()
}

fn uvicorn(event_loop: &str, hash_on: &str) -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = python_program("uvicorn")?;
    command
        .args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--loop", event_loop, "shop_asgi:app"])
        .env("HASH_ON", hash_on);
    running.start("uvicorn", Role::Server, &mut command)?;
    running.ready()
}

/// uWSGI that takes HTTP itself, by one of its two options.
fn uwsgi(option: &str) -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = uwsgi_command()?;
    // It closes every connection without saying so, which its manual wants to be told like this.
    command.args([option, &address.to_string(), "--add-header", "Connection: close"]);
    running.start("uwsgi", Role::Server, &mut command)?;
    running.ready()
}

fn nginx_uwsgi() -> anyhow::Result<Running> {
    let mut running = Running::new(Target::Tcp(free_address()?))?;
    let socket = running.folder().join("uwsgi.sock");
    let mut command = uwsgi_command()?;
    command.arg("--socket").arg(&socket);
    running.start("uwsgi", Role::Server, &mut command)?;
    nginx::front(&mut running, Backend::Uwsgi, &format!("unix:{}", socket.display()))?;
    running.ready()
}

/// uWSGI with the Flask application.
fn uwsgi_command() -> anyhow::Result<Command> {
    let mut command = python_program("uwsgi")?;
    command.args(["--master", "--processes", WORKERS, "--need-app", "--die-on-term"]).args([
        "--module",
        "shop_flask:app",
        "--pythonpath",
        ".",
    ]);
    command.arg("--virtualenv").arg(installed("python")?);
    Ok(command)
}

/// A program of the virtual environment, started beside the applications.
fn python_program(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(installed("python/bin")?.join(name));
    command.current_dir(application("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}
