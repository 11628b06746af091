//! The server with its releases, and the agent's configuration.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processes::{self, Interrupt, Process};
use super::{Args, BAD, BAD_FACTOR, BUDGET_MS, GOOD, LOGIN_MS, Plan, Scenario, Workers};
use super::{incident, output_of, shown};
use crate::process::{self as steps, Progress};
use crate::setup::{self, Component};
use crate::{descendants, paths, setup::gunicorn};

const WORKERS: usize = 2;
const THREADS: usize = 4;
/// Start of the name of the sockets' folder; the demo's process id follows.
const SOCKETS: &str = "load-watchdog-demo-";

/// Everything that the demonstration stands on.
pub(crate) struct Stage {
    /// Logs, the agent's state and the shop's installation; kept until the next run.
    folder: PathBuf,
    /// Short, because a socket's path has at most 107 bytes.
    sockets: PathBuf,
    pub(super) agent_program: PathBuf,
    pub(super) driver_program: PathBuf,
    pub(super) server: SocketAddr,
    metrics: SocketAddr,
    workers: Workers,
    scenario: Scenario,
    master: Option<Process>,
    /// Held for the whole run.
    _lock: Flock<File>,
}

impl Stage {
    pub(super) fn set_up(args: &Args) -> Result<Self> {
        let folder = paths::artefacts().join("demo");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let lock = lock(&folder)?;
        end_leftovers(&folder);
        setup::ensure(&[Component::Build, Component::Python])?;
        let programs = build(args)?;
        let sockets = std::env::temp_dir().join(format!("{SOCKETS}{}", std::process::id()));
        for old in ["shop", "state"] {
            remove(&folder.join(old))?;
        }
        fs::create_dir_all(&sockets).with_context(|| format!("creating {}", sockets.display()))?;
        let stage = Self {
            folder,
            sockets,
            agent_program: args.agent.clone().unwrap_or_else(|| programs.join("load-watchdog")),
            driver_program: programs.join("drive"),
            server: steps::free_address()?,
            metrics: steps::free_address()?,
            workers: args.workers,
            scenario: args.scenario,
            master: None,
            _lock: lock,
        };
        for log in stage.request_logs() {
            let _ = fs::remove_file(log);
        }
        stage.add_releases()?;
        stage.configure(if args.scenario == Scenario::Incident { incident::AT_NIGHT } else { "" })?;
        Ok(stage)
    }

    /// Writes the agent's configuration; `more` goes on in `[service.rollback]`.
    pub(super) fn configure(&self, more: &str) -> Result<()> {
        fs::write(self.config(), self.config_text() + more).context("writing the agent's configuration")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn agent_log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn request_logs(&self) -> [PathBuf; 2] {
        [self.file("requests-kept.csv"), self.file("requests-new.csv")]
    }

    fn shop(&self) -> PathBuf {
        self.folder.join("shop")
    }

    /// What runs.
    pub(super) fn players(&self) -> Vec<(&'static str, String)> {
        let model = match self.workers {
            Workers::Sync => format!("{WORKERS} sync workers"),
            Workers::Gthread => format!("{WORKERS} workers with {THREADS} threads"),
        };
        vec![
            ("server", format!("gunicorn, {model}, on {}", self.server)),
            ("agent", shown(&self.agent_program)),
        ]
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn facts(&self, args: &Args, plan: &Plan) -> Vec<(&'static str, String)> {
        let rate = if plan.logins_per_second < 1.0 {
            format!("a login every {:.0} s", 1.0 / plan.logins_per_second)
        } else {
            format!("{} logins/s", plan.logins_per_second)
        };
        let mut facts = self.players();
        facts.extend([
            ("good build", format!("{GOOD}: checking a password takes about {LOGIN_MS} ms of CPU")),
            ("bad build", format!("{BAD}: {BAD_FACTOR} times as much")),
            ("budget", format!("{BUDGET_MS} ms of CPU per login on average, 1.5 times the last good build")),
            ("traffic", format!("{:?}: {rate} and other requests, kept and new connections", args.scenario)),
            ("folder", shown(&self.folder)),
        ]);
        facts
    }

    fn add_releases(&self) -> Result<()> {
        let iterations = iterations_for(Duration::from_millis(LOGIN_MS))?;
        for (name, factor) in self.scenario.releases() {
            let script = paths::root().join("tests/apps/shop/add-release.sh");
            let iterations = (iterations * factor).to_string();
            output_of(Command::new(script).arg(self.shop()).arg(name).arg(iterations))?;
        }
        Ok(())
    }

    fn config_text(&self) -> String {
        let rollback = self.shop().join("bin/rollback.sh");
        format!(
            r#"# Written by `cargo xtask demo`.
[agent]
listen = "{metrics}"
state_dir = "{state}"
control = "{control}"
control_group = "root"
log = "info"

[[service]]
name = "shop"
match = {{ listen = {port} }}
build = {{ file = "REVISION" }}
mode = "enforce"
guard_for = "24h"
# Passwords are hashed in C: the first requests of a worker cost no more than later ones.
warmup_factor = 1

[[service.endpoint]]
name = "login"
method = "POST"
path = "/login"
budget = {{ mean_cpu = "{BUDGET_MS}ms", vs_baseline = 1.5 }}

[[service.endpoint]]
name = "browse"
method = "GET"
path = "/browse"
budget = {{ mean_cpu = "20ms" }}

[service.rollback]
exec = ["{rollback}", "{{good_build}}"]
timeout = "{timeout}s"
verify_within = "{verify}s"
"#,
            metrics = self.metrics,
            state = self.state().display(),
            control = self.control().display(),
            port = self.server.port(),
            rollback = rollback.display(),
            timeout = super::HOOK_WITHIN.as_secs(),
            verify = self.scenario.plan().verify_within.as_secs(),
        )
    }

    /// Starts gunicorn on the good build and waits until it answers.
    pub(super) fn start_server(&mut self, interrupt: &Interrupt) -> Result<()> {
        let class = match self.workers {
            Workers::Sync => "sync",
            Workers::Gthread => "gthread",
        };
        let mut command = Command::new(self.shop().join("bin/start.sh"));
        command
            .env("SHOP_GUNICORN", gunicorn())
            .env("SHOP_BIND", self.server.to_string())
            .env("SHOP_WORKER_CLASS", class)
            .env("SHOP_WORKERS", WORKERS.to_string())
            .env("SHOP_THREADS", THREADS.to_string())
            .stdin(Stdio::null());
        let mut master = Process::start("gunicorn", &mut command, &self.file("gunicorn-start.log"), false)?;
        let end = Instant::now() + Duration::from_secs(20);
        while self.ready_workers() < WORKERS || TcpStream::connect(self.server).is_err() {
            interrupt.check()?;
            master.check_running()?;
            ensure!(
                Instant::now() < end,
                "gunicorn does not answer on {} after 20 s:\n{}",
                self.server,
                processes::tail(&self.shop().join("run/gunicorn.log"))
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.master = Some(master);
        Ok(())
    }

    fn ready_workers(&self) -> usize {
        let entries = fs::read_dir(self.shop().join("run")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ready.")).count()
    }

    /// Starts one of the shop's scripts with a release's name.
    pub(super) fn script(&self, script: &str, release: &str, log: &str) -> Result<Process> {
        let mut command = Command::new(self.shop().join("bin").join(script));
        command.arg(release).stdin(Stdio::null());
        Process::start(script, &mut command, &self.file(log), false)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The first master may have handed over to a successor: the pid files name whoever is in charge now.
        for name in ["gunicorn.pid.2", "gunicorn.pid"] {
            end_by_pid_file(&self.shop().join("run").join(name));
        }
        self.master = None;
        descendants::end(Duration::from_secs(5));
        // A folder that cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

fn lock(folder: &Path) -> Result<Flock<File>> {
    let file = File::create(folder.join("lock")).context("creating the demo's lock file")?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => {
            bail!("another demo is running in {}; wait for it, or end it with Ctrl-C", folder.display())
        }
    }
}

/// What a killed demo has left behind: its server, and the folder of its sockets.
fn end_leftovers(folder: &Path) {
    for name in ["gunicorn.pid.2", "gunicorn.pid"] {
        end_by_pid_file(&folder.join("shop/run").join(name));
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(SOCKETS)).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !processes::is_alive(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Ends the gunicorn master that a pid file names, if that process still is one of this installation.
fn end_by_pid_file(path: &Path) {
    let Some(pid) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return;
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let Some(root) = path.parent().and_then(Path::parent) else { return };
    if !String::from_utf8_lossy(&command).contains(&*root.to_string_lossy()) {
        return;
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let end = Instant::now() + Duration::from_secs(5);
    while processes::is_alive(pid) && Instant::now() < end {
        // An orphan that became this process's child stays a zombie until it is waited for.
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {} of an earlier run", folder.display()))
        }
        _ => Ok(()),
    }
}

fn python() -> PathBuf {
    gunicorn().with_file_name("python")
}

/// Builds the agent and the driver; returns the folder that holds them.
fn build(args: &Args) -> Result<PathBuf> {
    let progress = Progress::start("building the agent and the load driver");
    let mut cargo = crate::cargo::command(&["build", "--bins", "--profile", &args.profile]);
    steps::run(&mut cargo, &progress, "demo-build.log")?;
    progress.end("ready");
    let folder = if args.profile == "dev" { "debug" } else { &args.profile };
    Ok(paths::target().join(folder))
}

/// Iterations of PBKDF2 that take so much CPU on this machine, to two digits.
fn iterations_for(cpu: Duration) -> Result<u64> {
    const MEASURE: &str = "
import hashlib, time
best = 1e9
for _ in range(15):
    start = time.thread_time()
    hashlib.pbkdf2_hmac('sha256', b'correct horse', b'0123456789abcdef', 20000)
    best = min(best, time.thread_time() - start)
print(best / 20000)
";
    let seconds: f64 = output_of(Command::new(python()).args(["-c", MEASURE]))?
        .trim()
        .parse()
        .context("measuring how fast this machine hashes")?;
    let iterations = cpu.as_secs_f64() / seconds;
    ensure!(
        (100.0..1e8).contains(&iterations),
        "PBKDF2 takes {seconds} s per iteration here, which cannot be right"
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in the range that was just checked"
    )]
    Ok((iterations / 100.0).round() as u64 * 100)
}
