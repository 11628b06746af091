//! The configuration: what users write, checked into values that the rest can rely on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::model::{EndpointName, ServiceName};

/// A configuration that was checked as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    pub agent: AgentConfig,
    pub services: Vec<ServiceConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub control: PathBuf,
    pub control_group: String,
    /// Smallest share of the processes' CPU that must be attributed for a verdict, 0 to 1.
    pub min_coverage: f64,
    pub log: String,
}

#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub name: ServiceName,
    pub matcher: Match,
    pub build: BuildSource,
    pub protocol: Protocol,
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
    File(PathBuf),
    Symlink(PathBuf),
    BuildId,
    Image,
    Marker,
    Command(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Auto,
    Http1,
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

#[derive(Clone, Debug)]
pub struct EndpointConfig {
    pub name: EndpointName,
    /// `None`: any method.
    pub method: Option<String>,
    /// Exact, or with `*` standing for one whole segment.
    pub path: String,
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
    /// Largest share of the host's cores at peak, 0 to 1.
    pub max_host_share: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct ReleaseWindow {
    /// As written, checked.
    pub allow: Vec<String>,
    pub timezone: String,
    pub on_violation: OnViolation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    Alert,
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackConfig {
    /// argv; `{good_build}`, `{bad_build}`, `{service}`, `{endpoint}`, `{incident}` are replaced. Never a shell.
    pub exec: Vec<String>,
    pub user: Option<String>,
    pub timeout: Duration,
    pub retries: u32,
    pub cooldown: Duration,
    pub max_per_day: u32,
    pub verify_within: Duration,
}
