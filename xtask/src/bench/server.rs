//! The servers under load: each in processes of its own, on a free port of loopback, ended when dropped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::paths;
use crate::process::free_address;
use crate::setup;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// User and system CPU of a process since it began, threads that ended included.
pub(super) fn cpu_of(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))
        .with_context(|| format!("process {pid} has no CPU clock: has it ended?"))?;
    Ok(nix::time::clock_gettime(clock)?.into())
}

/// A program pinned to one CPU, so that server and load do not compete where there are two or more.
pub(super) fn pinned(program: &Path, cpu: usize) -> Command {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

/// A started server.
pub(super) struct Server {
    child: Child,
    /// The process that serves.
    worker: u32,
    pub(super) address: SocketAddr,
}

impl Server {
    /// nginx with one worker; `/login` is answered from the configuration, `/page.html` is a file of 4 KB.
    pub(super) fn nginx() -> Result<Self> {
        let program = setup::nginx().context("nginx is not there, though setup found it before")?;
        let folder = paths::artefacts().join("bench-nginx");
        let address = free_address()?;
        write_nginx_files(&folder, address)?;
        let child = pinned(&program, 0)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut server = Self { worker: child.id(), child, address };
        let log = folder.join("error.log");
        server.wait_until_ready().with_context(|| format!("nginx; its log is {}", log.display()))?;
        let master = server.child.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))
            .context("asking the kernel for nginx's worker")?;
        let worker = children.split_whitespace().next().context("nginx has no worker")?;
        server.worker = worker.parse()?;
        Ok(server)
    }

    /// The burn server, a thread per connection.
    pub(super) fn burn(program: &Path, browse_us: u64) -> Result<Self> {
        let mut child = pinned(program, 0)
            .args(["--browse-us", &browse_us.to_string(), "--exit-with-parent"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdout = child.stdout.take().context("its standard output was asked for")?;
        let mut server = Self { worker: child.id(), child, address: ([127, 0, 0, 1], 0).into() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("the burn server announced itself with {line:?}"))?;
        let address = said["listening"].as_str().context("the burn server does not tell its address")?;
        server.address = address.parse()?;
        Ok(server)
    }

    /// The process to watch, its children included.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU of the process that serves.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.worker)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let give_up = Instant::now() + READY_WITHIN;
        while TcpStream::connect_timeout(&self.address, READY_WITHIN).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended at once ({status})");
            }
            if Instant::now() > give_up {
                bail!("it takes no connections");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx ends its worker on SIGTERM; both calls fail only when it has ended already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn write_nginx_files(folder: &Path, address: SocketAddr) -> Result<()> {
    fs::create_dir_all(folder.join("html"))?;
    fs::create_dir_all(folder.join("temp"))?;
    fs::write(folder.join("html/page.html"), "load-watchdog\n".repeat(293))?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path temp;\n"))
        .concat();
    let text = format!(
        "daemon off;\nworker_processes 1;\npid nginx.pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n{temporary}    access_log off;\n    sendfile on;\n    tcp_nopush on;\n    \
         keepalive_requests 1000000000;\n    \
         server {{\n        listen {address};\n        root html;\n        \
         location = /login {{ return 200 \"welcome\\n\"; }}\n    }}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), text)
        .with_context(|| format!("cannot write nginx's files to {}", folder.display()))
}
