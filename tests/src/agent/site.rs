//! A folder in which builds of the burn server are deployed, and the agent's configuration for them.
//!
//! Each build listens on `BUILD.sock`; the symlink `current.sock` says which one serves, and changes in one step, so that
//! no request fails. The hook of a test is a shell script that changes it back.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::harness::{Burn, executable};
use crate::load::{Load, LoadOptions, Step, Target};
use crate::skip::skip;

/// CPU of a login of a good build, microseconds.
pub const GOOD_US: u64 = 2_000;
/// Four times that.
pub const BAD_US: u64 = 8_000;
/// More requests than 200 logins for a baseline need.
pub const BASELINE: u64 = 320;
/// The absolute budget of a login, between the two.
const BUDGET_MS: u64 = 5;

/// One `[[service]]` of the agent's configuration.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// The value of `match`, in TOML.
    pub matcher: String,
    /// The value of `build`, in TOML.
    pub build: String,
    pub mode: String,
    /// The program of the hook; `None`: no `[service.rollback]`.
    pub hook: Option<PathBuf>,
    /// Further lines of `[service.rollback]`.
    pub rollback: String,
    pub guard_for: String,
    /// Further lines of the service itself.
    pub more: String,
    /// `budget` of the logins, in TOML.
    pub budget: String,
}

impl Service {
    pub fn toml(&self) -> String {
        let Self { name, matcher, build, mode, hook, rollback, guard_for, more, budget } = self;
        let mut text = format!(
            r#"
[[service]]
name = "{name}"
match = {matcher}
build = {build}
mode = "{mode}"
guard_for = "{guard_for}"
{more}

[[service.endpoint]]
name = "login"
method = "POST"
path = "/login"
budget = {budget}

[[service.endpoint]]
name = "browse"
method = "GET"
path = "/browse"
budget = {{ mean_cpu = "50ms" }}
"#
        );
        if let Some(hook) = hook {
            let _ = write!(
                text,
                "\n[service.rollback]\nexec = [\"{}\", \"{{good_build}}\"]\n{rollback}\n",
                hook.display()
            );
        }
        text
    }
}

/// The folder of one test, removed with the last copy of this value.
#[derive(Clone, Debug)]
pub struct Site {
    folder: Arc<TempDir>,
    metrics: SocketAddr,
}

/// A new folder; `None` (after saying why) when this user may not run the agent.
pub fn site_or_skip() -> Option<Site> {
    if Uid::effective().is_root() {
        return Some(Site::new().unwrap_or_else(|error| panic!("{error:#}")));
    }
    skip("the agent needs root to load its kernel programs")
}

impl Site {
    pub fn new() -> anyhow::Result<Self> {
        let metrics = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?.local_addr()?;
        Ok(Self { folder: Arc::new(TempDir::new().context("making a folder")?), metrics })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.file("config.toml")
    }

    pub fn control(&self) -> PathBuf {
        self.file("control.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.file("state")
    }

    /// What the agents of this site wrote, one after the other.
    pub fn log(&self) -> PathBuf {
        self.file("agent.log")
    }

    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Writes the agent's configuration.
    pub fn configure(&self, services: &[Service]) -> anyhow::Result<()> {
        let mut text = format!(
            "[agent]\nlisten = \"{}\"\nstate_dir = \"{}\"\ncontrol = \"{}\"\n",
            self.metrics,
            self.state_dir().display(),
            self.control().display()
        );
        text.extend(services.iter().map(Service::toml));
        fs::write(self.config(), text).context("writing the agent's configuration")
    }

    /// The service that this site's burn servers are, in mode enforce with the hook that switches back.
    pub fn web(&self) -> anyhow::Result<Service> {
        Ok(Service {
            name: "web".to_owned(),
            matcher: format!("{{ cmdline = 'burn --listen unix:{}/' }}", self.folder().display()),
            build: "{ env = \"REVISION\" }".to_owned(),
            mode: "enforce".to_owned(),
            hook: Some(self.switching_hook("")?),
            rollback: "verify_within = \"20s\"\ntimeout = \"30s\"".to_owned(),
            guard_for: "24h".to_owned(),
            more: String::new(),
            budget: format!("{{ mean_cpu = \"{BUDGET_MS}ms\", vs_baseline = 1.5 }}"),
        })
    }

    /// A hook that says that it ran, keeps what it was given, does `first`, and switches to the good build.
    pub fn switching_hook(&self, first: &str) -> anyhow::Result<PathBuf> {
        self.hook(&format!(
            "{first}\nln -sfn \"$LOAD_WATCHDOG_GOOD_BUILD.sock\" next.sock && mv -T next.sock current.sock"
        ))
    }

    /// A hook that says that it ran, keeps what it was given, and does `body` in the site's folder.
    pub fn hook(&self, body: &str) -> anyhow::Result<PathBuf> {
        let path = self.file("hook.sh");
        let text = format!(
            "#!/bin/sh\ncd '{}' || exit 1\necho \"$LOAD_WATCHDOG_INCIDENT\" >>hook.runs\nenv >hook.env\n\
             echo \"$@\" >hook.args\ncat >hook.json\n{body}\n",
            self.folder().display()
        );
        fs::write(&path, text).context("writing the hook")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// How often the hook was run.
    pub fn hook_runs(&self) -> usize {
        fs::read_to_string(self.file("hook.runs")).map_or(0, |text| text.lines().count())
    }

    /// Starts a build whose logins cost so much; it serves once [`Self::switch`] says so.
    pub fn start(&self, build: &str, login_us: u64) -> anyhow::Result<Burn> {
        self.start_with(build, login_us, &[])
    }

    pub fn start_with(&self, build: &str, login_us: u64, args: &[&str]) -> anyhow::Result<Burn> {
        let socket = self.file(&format!("{build}.sock"));
        // Of the same build before its restart.
        let _ = fs::remove_file(&socket);
        let login_us = login_us.to_string();
        let mut command = Command::new(executable("burn")?);
        command
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .args(["--build", build, "--login-us", &login_us, "--browse-us", "300"])
            .args(args)
            .env("REVISION", build);
        Burn::start_command(&mut command)
    }

    /// Starts a build and lets it serve.
    pub fn deploy(&self, build: &str, login_us: u64) -> anyhow::Result<Burn> {
        let burn = self.start(build, login_us)?;
        self.switch(build)?;
        Ok(burn)
    }

    /// From now on new connections reach this build.
    pub fn switch(&self, build: &str) -> anyhow::Result<()> {
        let next = self.file("next.sock");
        let _ = fs::remove_file(&next);
        symlink(format!("{build}.sock"), &next)?;
        fs::rename(&next, self.file("current.sock")).context("switching the build that serves")
    }

    pub fn target(&self) -> Target {
        Target::Unix(self.file("current.sock"))
    }

    /// `requests` logins and visits as fast as they are answered, none of which may fail.
    pub fn visit(&self, requests: u64) -> anyhow::Result<()> {
        let options = LoadOptions { concurrency: 2, ..self.visitors(requests) };
        let report = crate::load::run(options)?;
        ensure!(report.failures == 0, "{} requests failed: {:?}", report.failures, report.failed);
        Ok(())
    }

    /// Visitors that come at this rate until they are stopped.
    pub fn visit_at(&self, per_second: f64) -> anyhow::Result<Load> {
        let rate = Some(per_second);
        Load::start(LoadOptions { concurrency: 4, rate, ..self.visitors(100_000) })
    }

    /// Each with a connection of its own, so that a switch takes effect at once: three logins to one visit.
    pub fn visitors(&self, requests: u64) -> LoadOptions {
        let steps = vec![
            Step::post("login", "/login", "user=ann&password=secret").weighing(3),
            Step::get("browse", "/browse"),
        ];
        LoadOptions { keep_alive: false, ..LoadOptions::new(self.target(), steps, requests) }
    }
}
