//! OpenTelemetry inside the process, beside the agent outside of it: the same application, one switch.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::watcher::{Programs, Watcher, programs};
use super::{Plan, Run, Set, load, pin, watched};
use crate::load::{Get, Target};
use crate::servers::{application, free_port, installed};

const READY_WITHIN: Duration = Duration::from_mins(1);
/// Exporters send every 5 s; half of them is seen in a run.
const FLUSH: Duration = Duration::from_secs(6);

/// An application that can be instrumented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    Flask,
    Express,
}

/// Figures of one application.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub rate: f64,
    /// By variant: `off`, `agent` (off, with the agent's programs), `bpftrace`, `drop`, `otlp`.
    pub sets: Vec<Set>,
    pub programs: Programs,
    /// What the instrumented variants say they have exported, to prove that they were.
    pub exported: BTreeMap<String, String>,
}

impl App {
    pub const ALL: [Self; 2] = [Self::Flask, Self::Express];

    pub fn name(self) -> &'static str {
        match self {
            Self::Flask => "otel-flask",
            Self::Express => "otel-express",
        }
    }

    /// Starts it with telemetry `off`, `drop` or `otlp`.
    fn start(self, telemetry: &str, collector: Option<SocketAddr>) -> anyhow::Result<Process> {
        let mut command = match self {
            Self::Flask => {
                let port = free_port()?;
                let mut command = Command::new(installed("otel-flask/bin")?.join("gunicorn"));
                command.args([
                    "--worker-class",
                    "gthread",
                    "--threads",
                    "8",
                    "--no-control-socket",
                    "--bind",
                ]);
                command
                    .arg(format!("127.0.0.1:{port}"))
                    .arg("app:app")
                    .current_dir(application("otel-flask"));
                command.env("TELEMETRY", telemetry);
                with_collector(&mut command, collector);
                return Process::start(&mut command, Some(([127, 0, 0, 1], port).into()));
            }
            Self::Express => {
                let mut command = Command::new("node");
                command.args(["--require", "./telemetry.js", "app.js"]).current_dir(express()?);
                command
            }
        };
        command.env("TELEMETRY", telemetry);
        with_collector(&mut command, collector);
        Process::start(&mut command, None)
    }
}

fn with_collector(command: &mut Command, collector: Option<SocketAddr>) {
    if let Some(address) = collector {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    }
}

fn express() -> anyhow::Result<PathBuf> {
    installed("otel-express")
}

/// Ended when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts it and waits until it takes connections; without an address, it prints `listening PORT`.
    fn start(command: &mut Command, address: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("its standard output was asked for")?;
        let mut process = Self { child, address: ([127, 0, 0, 1], 0).into() };
        process.address = if let Some(address) = address {
            address
        } else {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            let port = line.trim().strip_prefix("listening ").with_context(|| format!("it said {line:?}"))?;
            ([127, 0, 0, 1], port.parse::<u16>()?).into()
        };
        let end = Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(process.address).is_err() {
            ensure!(process.child.try_wait()?.is_none(), "{} ended", command.get_program().display());
            ensure!(Instant::now() < end, "{} takes no connections", command.get_program().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }

    fn target(&self) -> Target {
        Target::Tcp(self.address)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = crate::window::family(self.child.id()).unwrap_or_default();
        for pid in family.into_iter().rev() {
            // Fails only for what has ended already; all of them descend from a child that is not yet waited for.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = self.child.wait();
    }
}

/// Measures one application: every variant runs all the time, and they are loaded in turns.
pub fn row(app: App, plan: &Plan, tell: &dyn Fn(&str)) -> anyhow::Result<Row> {
    pin(1)?;
    let collector = Process::start(Command::new("node").arg("collector.js").current_dir(express()?), None)?;
    pin(0)?;
    let started = (|| {
        let start = |telemetry| app.start(telemetry, Some(collector.address));
        anyhow::Ok([start("off")?, start("drop")?, start("otlp")?])
    })();
    pin(1)?;
    let [off, dropping, otlp] = started?;
    let pid = |process: &Process| [process.child.id()];
    for process in [&off, &dropping, &otlp] {
        load(&process.target(), &pid(process), plan, None)?;
    }
    let (warm, _) = load(&off.target(), &pid(&off), plan, None)?;
    // The instrumented ones must keep up, too.
    let rate = 0.3 * warm.requests_per_second;
    tell(&format!("{:.0} requests/s at saturation", warm.requests_per_second));
    let mut variants = vec![
        ("off", &off, Watcher::Nobody),
        ("agent", &off, Watcher::Agent),
        ("drop", &dropping, Watcher::Nobody),
        ("otlp", &otlp, Watcher::Nobody),
    ];
    if plan.bpftrace {
        variants.push(("bpftrace", &off, Watcher::Bpftrace));
    }
    let mut sets = Vec::new();
    for number in 0..plan.pairs as usize {
        let mut set = Set::new();
        for step in 0..variants.len() {
            let (name, process, watcher) = variants[(number + step) % variants.len()];
            let run: Run = watched(watcher, &process.target(), &pid(process), plan, Some(rate))?;
            set.insert(name.to_owned(), run);
        }
        let told: Vec<String> =
            set.iter().map(|(name, run)| format!("{name} {:.1} us", run.cpu_ns / 1e3)).collect();
        tell(&format!("set {}: {}", number + 1, told.join(", ")));
        sets.push(set);
    }
    let programs = programs(&off.target(), &pid(&off), plan, rate)?;
    std::thread::sleep(FLUSH);
    let mut exported = BTreeMap::new();
    for (name, process) in [("off", &off), ("drop", &dropping), ("otlp", &otlp)] {
        let answer = Get::fetch(&process.target(), "/telemetry", Duration::from_secs(5))?;
        exported.insert(name.to_owned(), String::from_utf8_lossy(&answer.body).into_owned());
    }
    Ok(Row { name: app.name().to_owned(), rate, sets, programs, exported })
}
