//! A web server whose CPU per request is known: each request spins its thread's CPU clock for a given amount, and the
//! server keeps its own account of what each request cost. The kernel's figures are compared with that account.
//!
//! It speaks HTTP/1.x, FastCGI or the uwsgi protocol over TCP or a unix socket and can be made to read, answer and hand requests between threads in the
//! ways that real application servers do.

pub mod answer;
pub mod backend;
pub mod cgi;
pub mod connection;
pub mod gil;
pub mod handler;
pub mod meter;
pub mod options;
pub mod pool;
pub mod prefork;
pub mod request;
pub mod stats;

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use connection::Connection;
use options::{Model, Options};

/// Everything that the threads of one server share.
#[derive(Debug)]
pub struct Server {
    pub options: Options,
    pub stats: &'static stats::Shared,
    pub gil: Option<gil::Gil>,
    pub bodies: answer::Bodies,
}

impl Server {
    pub fn new(options: Options) -> anyhow::Result<Self> {
        Ok(Self {
            stats: stats::Shared::map().context("mapping the shared counters")?,
            gil: options.gil.then(gil::Gil::default),
            bodies: answer::Bodies::new(&options).context("preparing the response bodies")?,
            options,
        })
    }
}

/// The listening socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds `HOST:PORT` (port 0 chooses one) or `unix:PATH`.
    pub fn bind(address: &str) -> anyhow::Result<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok(Self::Unix(
                UnixListener::bind(path).with_context(|| format!("binding the unix socket {path}"))?,
            ));
        }
        Ok(Self::Tcp(TcpListener::bind(address).with_context(|| format!("binding {address}"))?))
    }

    /// The address in the form that [`Listener::bind`] takes.
    pub fn address(&self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                format!("unix:{}", address.as_pathname().context("a named unix socket")?.display())
            }
        })
    }

    /// Accepts one connection, blocking if the listener does.
    pub fn accept(&self) -> std::io::Result<Connection> {
        let fd: OwnedFd = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                setsockopt(&stream, sockopt::TcpNoDelay, &true)?;
                stream.into()
            }
            Self::Unix(listener) => listener.accept()?.0.into(),
        };
        Ok(Connection::new(fd))
    }

    pub fn set_nonblocking(&self, on: bool) -> std::io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(on),
            Self::Unix(listener) => listener.set_nonblocking(on),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Serves until the process is ended from outside; returns only on an error.
pub fn serve(options: Options, listener: &Listener) -> anyhow::Result<()> {
    let model = options.model;
    if options.background_percent > 0 {
        ensure!(model != Model::Prefork, "a background thread and forked children do not go together");
        work_in_background(options.background_percent)?;
    }
    let server = Arc::new(Server::new(options)?);
    server.stats.enlist(std::process::id());
    match model {
        Model::Threads => thread_per_connection(&server, listener),
        Model::Pool => pool::serve(&server, listener),
        Model::Prefork => prefork::serve(&server, listener),
    }
}

/// CPU time that no request can be charged with.
fn work_in_background(percent: u32) -> anyhow::Result<()> {
    const TURN: Duration = Duration::from_millis(20);
    let busy = TURN * percent / 100;
    let idle = TURN.saturating_sub(busy);
    std::thread::Builder::new()
        .name("burn-background".to_owned())
        .spawn(move || {
            loop {
                meter::spin(busy, None);
                std::thread::sleep(idle);
            }
        })
        .context("starting the background thread")?;
    Ok(())
}

fn thread_per_connection(server: &Arc<Server>, listener: &Listener) -> anyhow::Result<()> {
    loop {
        let connection = listener.accept().context("accepting a connection")?;
        let server = Arc::clone(server);
        std::thread::Builder::new()
            .name("burn-conn".to_owned())
            .spawn(move || handler::serve_connection(&server, connection))
            .context("starting a connection's thread")?;
    }
}
