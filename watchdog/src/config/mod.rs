//! The configuration: what users write, checked into values that the rest can rely on.
//!
//! [`Config::load`] reports every mistake it finds, each with file, line, column, key, what is wrong and what
//! would be right. Keys are read one by one from TOML's spanned tree, which is what makes that possible: a
//! derived deserializer stops at the first mistake.
//!
//! What this version does not do yet is refused when ignoring it would be unsafe: a protocol, a match that would take in
//! other processes.
//!
//! Two endpoints may share requests only when one is plainly the more specific: a literal segment beats `*`,
//! then a named method beats any method.

mod agent;
pub mod defaults;
mod endpoint;
mod error;
mod hook;
mod matching;
mod rollback;
mod section;
mod service;
pub(crate) mod trust;
mod values;
mod window;

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::model::{EndpointName, ServiceName, Uprobes};
use crate::release::{Freeze, Hours};

pub use agent::AgentOverrides;
pub use endpoint::wildcard_mask;
pub use error::{ConfigError, ConfigErrors};
pub use hook::{ExecConfig, HookCall, HookConfig, HookUrl, PLACEHOLDERS, WebhookConfig};

use error::{Fault, Findings};
use section::Section;

/// Far more than any configuration; a larger file is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration that was checked as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    pub agent: AgentConfig,
    pub services: Vec<ServiceConfig>,
    /// What was accepted but deserves a word, one sentence each with file and line.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks a file, who may change it, and who may change the programs and keys that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        trust::config_file(path).map_err(|fault| ConfigErrors::whole_file(&name, fault))?;
        let text = read_file(path).map_err(|fault| ConfigErrors::whole_file(&name, fault))?;
        let mut config = Self::parse(&text, &name)?;
        let warnings = trust::hooks(&config.services, &name)?;
        config.warnings.extend(warnings);
        Ok(config)
    }

    /// Checks a text; `file_name` is what messages call it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        let mut findings = Findings::new(file_name, text);
        let (document, syntax) = toml::de::DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            // What the recovered tree would say about keys is as likely an echo of the same mistake.
            for error in syntax {
                let message = error.message().replace('\n', ", ");
                let span = error.span().unwrap_or_default();
                findings.error(
                    "",
                    &span,
                    Fault::new(format!("not valid TOML: {message}"), "see https://toml.io"),
                );
            }
            return Err(findings.into_errors());
        }
        let mut root = Section::root(&document);
        let agent = agent::read(root.take("agent"), &mut findings);
        let services = service::read_all(&mut root, &mut findings);
        root.finish(&mut findings);
        findings.finish().map(|warnings| Self { agent, services, warnings })
    }
}

fn read_file(path: &Path) -> Result<String, Fault> {
    let io = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("name the file with --config; the package's default is {}", defaults::CONFIG_FILE)
            }
            std::io::ErrorKind::PermissionDenied => {
                "run it as the user that may read it, usually root".to_owned()
            }
            _ => "name a regular file that can be read".to_owned(),
        };
        Fault::new(format!("cannot be read: {error}"), remedy)
    };
    // A fifo would block the open for ever.
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Fault::new(format!("is {kind}"), "name the configuration file itself"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Fault::new("is over 1 MiB", "name the configuration file itself"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
        Fault::new(format!("is not UTF-8 text (line {line})"), "save it as UTF-8")
    })
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub control: PathBuf,
    /// Its members may use the control socket to read.
    pub control_group: String,
    /// Who beside root may use it to change something.
    pub control_operators: Vec<ControlOperator>,
    /// Smallest share of the processes' CPU that must be attributed for a verdict, 0 to 1.
    pub min_coverage: f64,
    pub log: String,
}

/// One entry of `control_operators`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOperator {
    User(String),
    /// Written with a `%` before its name, as in sudoers(5).
    Group(String),
}

impl From<&str> for ControlOperator {
    fn from(text: &str) -> Self {
        text.strip_prefix('%')
            .map_or_else(|| Self::User(text.to_owned()), |group| Self::Group(group.to_owned()))
    }
}

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub name: ServiceName,
    pub matcher: Match,
    pub build: BuildSource,
    pub protocol: Protocol,
    pub uprobes: Uprobes,
    /// What requests of a process that warms up may cost, in multiples of their budgets; `None`: by its runtime.
    pub warmup_factor: Option<f64>,
    pub mode: Mode,
    /// How long a new build stays on probation.
    pub guard_for: Duration,
    /// Probability of a false rollback per deploy, over the whole guard and all budgets together.
    pub false_rollback_rate: f64,
    pub endpoints: Vec<EndpointConfig>,
    pub release_window: Option<ReleaseWindow>,
    pub rollback: Option<RollbackConfig>,
}

/// Which processes belong to a service. All conditions that are set must hold (AND); children are included.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub unit: Option<String>,
    pub exe: Option<PathBuf>,
    pub cmdline: Option<Regex>,
    pub listen: Option<Listen>,
    pub cgroup: Option<String>,
    pub container: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Port(u16),
    Unix(PathBuf),
}

/// Where a process's build is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildSource {
    Auto,
    Env(String),
    /// Relative to the process's working directory.
    File {
        path: PathBuf,
        in_place: Option<bool>,
    },
    /// `in_place` as written: the same processes serve the new build once the symlink (or the file) changes.
    /// `None`: told by whether the program loads its code at each request.
    Symlink {
        path: PathBuf,
        in_place: Option<bool>,
    },
    BuildId,
    Image,
    Marker,
    Command(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Auto,
    Http1,
    Fastcgi,
    Uwsgi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Counts what it would have done.
    Observe,
    /// Asks.
    Approve,
    /// Acts.
    Enforce,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Observe, Self::Approve, Self::Enforce];

    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Enforce => "enforce",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Debug)]
pub struct EndpointConfig {
    pub name: EndpointName,
    /// `None`: any method.
    pub method: Option<String>,
    /// Exact, or with `*` standing for one whole segment.
    pub path: String,
    /// The service's changes do not touch it: when it becomes dearer, the host has become slower.
    pub control: bool,
    pub budget: Budget,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    pub mean_cpu: Option<Duration>,
    /// (p, limit) from keys such as `p99_cpu`, p in 0 to 1.
    pub quantile_cpu: Vec<(f64, Duration)>,
    /// Largest ratio to the last good build.
    pub vs_baseline: Option<f64>,
    /// Requests per second at peak.
    pub peak_rate: Option<f64>,
    /// `peak_rate = "auto"`: it is what the endpoint's own traffic had.
    pub learn_peak_rate: bool,
    /// Largest share of the host's cores at peak, 0 to 1.
    pub max_host_share: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct ReleaseWindow {
    /// As written, checked.
    pub allow: Vec<String>,
    /// Days on which nothing may be released, whatever `allow` says.
    pub freezes: Vec<Freeze>,
    pub timezone: String,
    pub on_violation: OnViolation,
    /// A violation is rolled back only if the service had a request so long before.
    pub users_within: Duration,
    /// What `allow`, `freezes` and `timezone` say.
    pub hours: Hours,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// People are told.
    Alert,
    /// It is an incident like a build's that costs too much: mode and rails decide.
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackConfig {
    /// Brings the good build back.
    pub hook: HookConfig,
    /// Before it; unless it succeeds, nothing is rolled back.
    pub pre: Option<HookConfig>,
    /// Once the incident has ended, recovered or escalated.
    pub post: Option<HookConfig>,
    /// When a person is needed, and again as often as that is repeated.
    pub escalate: Option<HookConfig>,
    pub cooldown: Duration,
    pub max_per_day: u32,
    pub verify_within: Duration,
    /// The hook runs in its test mode, and nothing is condemned.
    pub dry_run: bool,
}

impl RollbackConfig {
    /// Every hook under the key that it stands under, the rollback's own under `rollback`.
    pub fn hooks(&self) -> impl Iterator<Item = (&'static str, &HookConfig)> {
        let beside = [("rollback.pre", &self.pre), ("rollback.post", &self.post)];
        let beside = beside.into_iter().chain([("rollback.escalate", &self.escalate)]);
        std::iter::once(("rollback", &self.hook))
            .chain(beside.filter_map(|(key, hook)| Some((key, hook.as_ref()?))))
    }
}
