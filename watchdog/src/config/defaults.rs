//! Every default of the configuration, in one place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{BuildSource, Mode, OnViolation, Protocol};
use crate::model::Uprobes;

/// Where the package puts the configuration.
pub const CONFIG_FILE: &str = "/etc/load-watchdog/config.toml";

pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9847);
pub const STATE_DIR: &str = "/var/lib/load-watchdog";
pub const CONTROL: &str = "/run/load-watchdog/control.sock";
pub const CONTROL_GROUP: &str = "adm";
pub const MIN_COVERAGE: f64 = 0.8;
pub const LOG: &str = "info";

pub const BUILD: BuildSource = BuildSource::Auto;
pub const PROTOCOL: Protocol = Protocol::Auto;
/// A user probe changes a process's memory, and costs it a trap at each hit: a service has them when its owner wrote
/// that it shall.
pub const UPROBES: Uprobes = Uprobes::NONE;
/// A service acts only when its owner wrote that it shall.
pub const MODE: Mode = Mode::Observe;
/// Past the next daily peak, whenever the deploy was.
pub const GUARD_FOR: Duration = Duration::from_hours(24);
pub const FALSE_ROLLBACK_RATE: f64 = 0.001;

pub const TIMEZONE: &str = "UTC";
pub const ON_VIOLATION: OnViolation = OnViolation::Alert;
pub const USERS_WITHIN: Duration = Duration::from_mins(5);

pub const ROLLBACK_TIMEOUT: Duration = Duration::from_mins(2);
/// Of the hooks beside the rollback's own.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
pub const HOOK_RETRIES: u32 = 2;
pub const HOOK_UMASK: u32 = 0o022;
pub const ROLLBACK_COOLDOWN: Duration = Duration::from_mins(30);
pub const ROLLBACK_MAX_PER_DAY: u32 = 3;
pub const VERIFY_WITHIN: Duration = Duration::from_mins(5);
