//! Real processes, identified on the running system.

#![expect(clippy::similar_names, reason = "an identifier gives identified processes")]

mod builds;
mod in_place;
mod members;

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::*;
use crate::config::Config;

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let running = Self(command.stdin(Stdio::null()).spawn().expect("the program starts"));
        // `spawn` returns while the kernel still lays out the new program's arguments.
        wait_until("the program is laid out", || {
            let process = Process::open(running.pid()).unwrap();
            process.is_none_or(|process| {
                // Unreadable for a moment when it is just replaced, or ends.
                process.program.stack != 0 && process.cmdline().is_ok_and(|line| !line.is_empty())
            })
        });
        running
    }

    /// A Python program that prints a line when it is ready.
    fn python(script: &str, arguments: &[&str], command: impl FnOnce(&mut Command)) -> (Self, String) {
        let mut python = Command::new("python3");
        python.args(["-c", script]).args(arguments).stdout(Stdio::piped()).env_remove("REVISION");
        command(&mut python);
        let mut running = Self::start(&mut python);
        let mut line = String::new();
        let stdout = running.0.stdout.take().unwrap();
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut line).unwrap();
        // Kept open: the program may print again.
        std::mem::forget(lines);
        (running, line.trim().to_owned())
    }

    /// `sleep`, with the seconds as a mark on its command line.
    fn sleep(mark: u32) -> Command {
        let mut command = Command::new("/bin/sleep");
        command.arg(mark.to_string()).env_clear();
        command
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn services(texts: &[(&str, &str)]) -> Vec<ServiceConfig> {
    let mut toml = String::new();
    for (index, (matcher, build)) in texts.iter().enumerate() {
        write!(
            toml,
            "[[service]]\nname = \"s{index}\"\nmatch = {matcher}\nbuild = {build}\n\
             [[service.endpoint]]\nname = \"e\"\npath = \"/\"\n"
        )
        .unwrap();
    }
    Config::parse(&toml, "test").unwrap_or_else(|errors| panic!("{errors}")).services
}

fn identifier(matcher: &str, build: &str) -> Identifier {
    Identifier::new(&services(&[(matcher, build)]))
}

fn by_mark(mark: u32, build: &str) -> Identifier {
    identifier(&format!("{{ cmdline = '^/bin/sleep {mark}$' }}"), build)
}

fn build_of(identifier: &mut Identifier, pid: u32) -> String {
    let identified = identifier.identify(pid).unwrap().expect("belongs to a service");
    identified.build.unwrap_or_else(|| panic!("{:?}", identified.problem)).into()
}

fn problem_of(identifier: &mut Identifier, pid: u32) -> String {
    let identified = identifier.identify(pid).unwrap().expect("belongs to a service");
    assert_eq!((identified.build, identified.build_source), (None, None));
    identified.problem.unwrap()
}

fn pids(identifier: &mut Identifier) -> Vec<u32> {
    identifier.scan().into_iter().map(|identified| identified.pid).collect()
}

/// `releases/1` and `releases/2` with their REVISION, and `current` pointing to the first.
fn releases() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["1", "2"] {
        let release = directory.path().join("releases").join(name);
        fs::create_dir_all(&release).unwrap();
        fs::write(release.join("REVISION"), format!("rev-{name}\n")).unwrap();
    }
    let current = directory.path().join("current");
    symlink("releases/1", &current).unwrap();
    (directory, current)
}

fn flip(current: &Path, to: &str) {
    let next = current.with_extension("next");
    symlink(to, &next).unwrap();
    fs::rename(&next, current).unwrap();
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Listens where it is told, forks two workers, and says who they are.
const SERVER: &str = "
import os, signal, socket, sys
kind, where = sys.argv[1], sys.argv[2]
if kind == 'unix':
    s = socket.socket(socket.AF_UNIX); s.bind(where)
else:
    s = socket.socket(socket.AF_INET6 if kind == 'tcp6' else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('::1' if kind == 'tcp6' else '127.0.0.1', int(where)))
s.listen()
workers = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        import ctypes; ctypes.CDLL(None).prctl(1, 9); signal.alarm(60)
        signal.pause()
    workers.append(pid)
print(*workers, s.getsockname()[1] if kind != 'unix' else 0, flush=True)
def reload(*_):
    os.chdir(os.environ['CURRENT'])
    pid = os.fork()
    if pid == 0:
        import ctypes; ctypes.CDLL(None).prctl(1, 9); signal.alarm(60)
        signal.pause()
signal.signal(signal.SIGHUP, reload)
while True: signal.pause()
";
