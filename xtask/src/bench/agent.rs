//! What watches: the kernel programs alone (`attach`), or the whole agent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::server::cpu_of;
use crate::paths;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// The kernel programs, attached and drained by the helper `attach`, which judges nothing.
pub(super) struct Attached {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What it tells at its end.
#[derive(Debug, Deserialize)]
pub(super) struct Figures {
    pub(super) finished: u64,
    pub(super) probes: Vec<Probe>,
}

/// The kernel's statistics of one program.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Probe {
    pub(super) program: String,
    pub(super) runs: u64,
    pub(super) ns: u64,
}

impl Attached {
    /// Attaches, watches a process and its children if one is named, and waits until all is in place.
    pub(super) fn start(
        program: &Path,
        pid: Option<u32>,
        endpoints: &[&str],
        probe_stats: bool,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--exit-with-parent");
        if let Some(pid) = pid {
            command.args(["--pid", &pid.to_string()]);
        }
        for path in endpoints {
            command.args(["--endpoint", &format!("GET {path}")]);
        }
        if probe_stats {
            command.arg("--probe-stats");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("its standard output was asked for")?);
        let mut attached = Self { child, stdin, stdout };
        attached.line().context("the kernel programs could not be attached; the reason is above")?;
        Ok(attached)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("attach ended without a word");
        }
        Ok(line)
    }

    /// Detaches.
    pub(super) fn end(mut self) -> Result<Figures> {
        drop(self.stdin.take());
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).context("the figures of attach cannot be read")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `load-watchdog run` with a configuration of its own.
pub(super) struct Agent {
    child: Child,
}

impl Agent {
    /// Starts it to watch the server that listens at an address, and waits until it answers on /healthz.
    pub(super) fn start(program: &Path, server: SocketAddr, path: &str) -> Result<Self> {
        let folder = paths::artefacts().join("bench-agent");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let listen = crate::process::free_address()?;
        let config = folder.join("config.toml");
        let text = format!(
            "[agent]\nlisten = \"{listen}\"\nstate_dir = \"{folder}\"\ncontrol = \"{folder}/control.sock\"\n\n\
             [[service]]\nname = \"bench\"\nmatch = {{ listen = {port} }}\nmode = \"observe\"\n\n\
             [[service.endpoint]]\nname = \"request\"\nmethod = \"GET\"\npath = \"{path}\"\n\
             budget = {{ mean_cpu = \"500ms\" }}\n",
            folder = folder.display(),
            port = server.port(),
        );
        fs::write(&config, text)?;
        let log = folder.join("log");
        let output = fs::File::create(&log)?;
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut agent = Self { child };
        let give_up = Instant::now() + READY_WITHIN;
        while !is_healthy(listen) {
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent ended ({status}); its log is {}", log.display());
            }
            if Instant::now() > give_up {
                bail!("the agent is not ready; its log is {}", log.display());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Resident memory in KiB: now, and at most so far.
    pub(super) fn memory_kib(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        let now = field("VmRSS:").context("the kernel tells no VmRSS")?;
        Ok((now, field("VmHWM:").context("the kernel tells no VmHWM")?))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn is_healthy(address: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        })
        .and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}
