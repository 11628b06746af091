//! The shop under gunicorn, as an installation of its own: see tests/apps/shop.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{Step, Target};

const WORKERS: usize = 2;
const READY_WITHIN: Duration = Duration::from_secs(30);
/// gunicorn's own limit for requests under way, and a little more.
const ENDS_WITHIN: Duration = Duration::from_secs(25);

/// gunicorn with the shop's packages: `SHOP_GUNICORN`, or the one that `cargo xtask demo` has installed below the
/// target folder.
pub fn gunicorn() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHOP_GUNICORN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("finding the running program")?;
    let found =
        own.ancestors().map(|folder| folder.join("xtask/venv/bin/gunicorn")).find(|path| path.is_file());
    let path = found.context(
        "no gunicorn below the target folder: run `cargo xtask setup python`, or set SHOP_GUNICORN",
    )?;
    let flask = Command::new(path.with_file_name("python")).args(["-c", "import flask"]).output();
    ensure!(
        flask.is_ok_and(|output| output.status.success()),
        "{} has no Flask: install tests/apps/shop/requirements.txt there",
        path.display()
    );
    Ok(path)
}

/// An installation with a running server, ended when dropped.
#[derive(Debug)]
pub struct Shop {
    root: PathBuf,
    port: u16,
    first_master: Child,
}

impl Shop {
    /// Lays out the releases (name, iterations of a password check) below `root` and serves the first one.
    pub fn start(root: &Path, worker_class: &str, releases: &[(&str, u32)]) -> anyhow::Result<Self> {
        let gunicorn = gunicorn()?;
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/shop");
        for (name, iterations) in releases {
            let mut script = Command::new(scripts.join("add-release.sh"));
            checked(script.arg(root).arg(name).arg(iterations.to_string()))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let first_master = Command::new(root.join("bin/start.sh"))
            .env("SHOP_GUNICORN", gunicorn)
            .env("SHOP_BIND", format!("127.0.0.1:{port}"))
            .env("SHOP_WORKER_CLASS", worker_class)
            .env("SHOP_WORKERS", WORKERS.to_string())
            .stdin(Stdio::null())
            .spawn()
            .context("starting the shop's gunicorn")?;
        let mut shop = Self { root: root.to_owned(), port, first_master };
        let end = Instant::now() + READY_WITHIN;
        // It listens long before its workers have loaded the application, and what they load is what the symlink
        // points at then: a release switched too early would be taken for the first one.
        while shop.loaded_workers() < WORKERS || TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = shop.first_master.try_wait()? {
                bail!("gunicorn ended ({status}); its log: {}", shop.log());
            }
            ensure!(Instant::now() < end, "gunicorn does not listen on port {port}; its log: {}", shop.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(shop)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn target(&self) -> Target {
        Target::Tcp(([127, 0, 0, 1], self.port).into())
    }

    /// The release that serves, as its master's working directory says.
    pub fn serving(&self) -> anyhow::Result<String> {
        let pid = self.master().context("no pid file: gunicorn does not run")?;
        let release =
            std::fs::read_link(format!("/proc/{pid}/cwd")).context("reading the master's directory")?;
        Ok(release.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Runs one of the scripts under `bin/` to its end.
    pub fn script(&self, name: &str, argument: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(self.root.join("bin").join(name));
        command.arg(argument).output().with_context(|| format!("running {name}"))
    }

    pub fn deploy(&self, release: &str) -> anyhow::Result<()> {
        checked(Command::new(self.root.join("bin/deploy.sh")).arg(release))
    }

    /// The argv of the rollback hook, for a configuration.
    pub fn rollback_script(&self) -> PathBuf {
        self.root.join("bin/rollback.sh")
    }

    /// Workers that have said so in a file.
    fn loaded_workers(&self) -> usize {
        let entries = std::fs::read_dir(self.root.join("run")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ready.")).count()
    }

    /// The process that all others of the server come from.
    pub fn master(&self) -> Option<i32> {
        std::fs::read_to_string(self.root.join("run/gunicorn.pid")).ok()?.trim().parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("run/gunicorn.log")).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let end = Instant::now() + ENDS_WITHIN;
        if let Some(pid) = self.master() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            // A successor is no child of this process, but gunicorn removes its pid file when its workers have ended.
            while self.master().is_some() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Both fail only when it has ended already.
        let _ = self.first_master.kill();
        let _ = self.first_master.wait();
    }
}

/// Visitors of all endpoints, logins foremost.
pub fn visitors() -> Vec<Step> {
    vec![
        Step::post("login", "/login", "user=ann&password=correct+horse").weighing(3),
        Step::get("browse", "/browse").weighing(3),
        Step::get("report", "/report").weighing(1),
        Step::post("unknown", "/login", "user=zoe&password=x").expecting(401).weighing(1),
    ]
}

fn checked(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} ended with {}: {}{}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
