//! A server that runs, with what it needs beside it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::process::Process;
use crate::load::{Get, Target};

/// Java and a new database cluster are the slowest.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// What a process is to the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The application server: its figures are judged against the application's own.
    Server,
    /// Something that handles the same requests before it, as a reverse proxy does: watched under a slot of its own.
    Front,
    /// A database or the like: not watched.
    Helper,
}

/// A running server. Its processes are ended, latest first, and its folder is removed when dropped.
#[derive(Debug)]
pub struct Running {
    pub target: Target,
    /// Processes to watch; their children are found.
    pub roots: Vec<u32>,
    /// What stands before the server, by name.
    pub fronts: Vec<(&'static str, u32)>,
    processes: Vec<Process>,
    folder: TempDir,
}

impl Running {
    /// Nothing yet, but a folder to run in; requests will go to `target`.
    pub fn new(target: Target) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("load-watchdog-server-").tempdir()?;
        Ok(Self { target, roots: Vec::new(), fronts: Vec::new(), processes: Vec::new(), folder })
    }

    /// For sockets, settings, data and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a process, which must stay in the foreground; its output goes to `<name>.log` in the folder.
    pub fn start(&mut self, name: &'static str, role: Role, command: &mut Command) -> anyhow::Result<u32> {
        let process = Process::start(name, self.folder.path(), command)?;
        let pid = process.pid();
        self.processes.push(process);
        match role {
            Role::Server => self.roots.push(pid),
            Role::Front => self.fronts.push((name, pid)),
            Role::Helper => {}
        }
        Ok(pid)
    }

    /// Waits until the application answers through everything before it.
    pub fn ready(mut self) -> anyhow::Result<Self> {
        let target = self.target.clone();
        self.await_that(|| {
            let answer = Get::fetch(&target, "/browse", Duration::from_secs(5))?;
            anyhow::ensure!(answer.status == 200, "GET /browse answered {}", answer.status);
            Ok(())
        })?;
        Ok(self)
    }

    /// Waits until `check` succeeds. Fails when a process ends or when that takes too long, with the end of the logs.
    pub fn await_that(&mut self, check: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let Err(error) = check() else { return Ok(()) };
            for process in &mut self.processes {
                if let Some(status) = process.ended()? {
                    bail!(
                        "{} ended ({status}) before it was ready; its log:\n{}",
                        process.name,
                        process.log()
                    );
                }
            }
            if Instant::now() > end {
                let logs: Vec<_> = self
                    .processes
                    .iter()
                    .map(|process| format!("{}: {}", process.name, process.log()))
                    .collect();
                return Err(
                    error.context(format!("not ready within {READY_WITHIN:?}; logs:\n{}", logs.join("\n")))
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

/// An address of loopback that nothing listens on now.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("finding a free port")?.local_addr()?)
}

/// The same, its port alone.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(free_address()?.port())
}

/// A file that `cargo xtask setup servers` has installed, `path` below its folder in the target folder.
pub fn installed(path: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    own.ancestors()
        .map(|folder| folder.join("xtask/servers").join(path))
        .find(|path| path.exists())
        .with_context(|| {
            format!("no xtask/servers/{path} below the target folder: run `cargo xtask setup servers`")
        })
}

/// A program of the system: on PATH, or one of `places`.
pub fn program(name: &str, places: &[&str]) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .chain(places.iter().map(PathBuf::from))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} on PATH: run `cargo xtask setup servers`"))
}

/// An application of tests/apps.
pub fn application(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps").join(path)
}

/// A certificate for loopback, signed by itself, and its key: paths of PEM files in `folder`.
pub fn certificate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).context("writing the certificate")?;
    std::fs::write(&key, made.signing_key.serialize_pem()).context("writing the certificate's key")?;
    Ok((certificate, key))
}
