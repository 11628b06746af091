//! The commands, as they travel and as they are typed.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::identity::MAX_BUILD_BYTES;
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::text;

/// Longest name of a service, endpoint or incident; the configuration allows 64 bytes.
const MAX_NAME_BYTES: usize = 64;
/// The shortest and the longest time that a decision can be made for.
pub const HOLDS_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(24 * 366);
/// Most lines of the audit trail that are told at once.
pub const MAX_AUDIT_LINES: u32 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    Status,
    Builds,
    Incidents,
    Incident {
        id: String,
    },
    /// Who did what, the newest first.
    Audit {
        limit: u32,
    },
    /// Whether a build may go on, for pipelines.
    Gate {
        service: ServiceName,
        build: BuildId,
    },
    /// Runs the hook of an incident that waits for a person (mode "approve").
    Approve {
        incident: String,
    },
    /// Closes an incident that waits for a person, without a hook.
    Reject {
        incident: String,
    },
    /// A person knows of an escalated incident: it is not repeated any more.
    Acknowledge {
        incident: String,
    },
    /// Takes a build, or what it costs on one endpoint, for good.
    Accept {
        service: ServiceName,
        build: BuildId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<EndpointName>,
        /// Left out: until it is withdrawn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Takes a build for bad, whatever it costs.
    Condemn {
        service: ServiceName,
        build: BuildId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<EndpointName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Withdraws what was decided of a build, be it by a person or by an incident: it is judged anew.
    Forget {
        service: ServiceName,
        build: BuildId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<EndpointName>,
    },
    /// Gives a service another mode than the configuration's; without one, the configuration's again.
    Mode {
        service: ServiceName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<Mode>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Starts no hook, of any service.
    Pause {
        for_seconds: u64,
    },
    Resume,
}

impl Command {
    /// Whether it changes anything: such commands need root or an operator.
    pub fn writes(&self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::Builds
                | Self::Incidents
                | Self::Incident { .. }
                | Self::Audit { .. }
                | Self::Gate { .. }
        )
    }

    /// As it would be typed, for the audit trail and the log: bounded and on one line.
    pub fn typed(&self) -> String {
        let mut typed = match self {
            Self::Status => "status".to_owned(),
            Self::Builds => "builds".to_owned(),
            Self::Incidents => "incidents".to_owned(),
            Self::Incident { id } => format!("incidents show {id}"),
            Self::Audit { limit } => format!("audit --limit {limit}"),
            Self::Gate { service, build } => format!("gate {service} {build}"),
            Self::Approve { incident } => format!("approve {incident}"),
            Self::Reject { incident } => format!("reject {incident}"),
            Self::Acknowledge { incident } => format!("acknowledge {incident}"),
            Self::Accept { service, build, .. } => format!("builds accept {service} {build}"),
            Self::Condemn { service, build, .. } => format!("builds condemn {service} {build}"),
            Self::Forget { service, build, .. } => format!("builds forget {service} {build}"),
            Self::Mode { service, mode, .. } => {
                format!("mode {service} {}", mode.map_or("configured", Mode::name))
            }
            Self::Pause { .. } => "pause".to_owned(),
            Self::Resume => "resume".to_owned(),
        };
        if let Some(endpoint) = self.endpoint() {
            let _ = write!(typed, " --endpoint {endpoint}");
        }
        if let Some(holds_for) = self.holds_for() {
            let _ = write!(typed, " --for {}", span(holds_for));
        }
        text::line(&typed).into_owned()
    }

    pub fn endpoint(&self) -> Option<&EndpointName> {
        match self {
            Self::Accept { endpoint, .. }
            | Self::Condemn { endpoint, .. }
            | Self::Forget { endpoint, .. } => endpoint.as_ref(),
            _ => None,
        }
    }

    /// How long what it decides is to hold.
    pub fn holds_for(&self) -> Option<Duration> {
        match self {
            Self::Accept { for_seconds, .. }
            | Self::Condemn { for_seconds, .. }
            | Self::Mode { for_seconds, .. } => for_seconds.map(Duration::from_secs),
            Self::Pause { for_seconds } => Some(Duration::from_secs(*for_seconds)),
            _ => None,
        }
    }

    /// What cannot be meant: names that no build, service or incident can have, and times out of range.
    pub fn check(&self) -> Result<(), String> {
        let names: [(&str, Option<&str>, usize); 4] = [
            ("service", self.service().map(ServiceName::as_str), MAX_NAME_BYTES),
            ("build", self.build().map(BuildId::as_str), MAX_BUILD_BYTES),
            ("endpoint", self.endpoint().map(EndpointName::as_str), MAX_NAME_BYTES),
            ("incident", self.incident(), MAX_NAME_BYTES),
        ];
        for (what, name, most) in names {
            let Some(name) = name else { continue };
            if name.is_empty() || name.len() > most || !name.chars().all(text::is_plain) {
                return Err(format!(
                    "no {what} is named so: it has 1 to {most} bytes and no control characters"
                ));
            }
        }
        match self.holds_for() {
            Some(holds_for) if !HOLDS_FOR.contains(&holds_for) => Err(format!(
                "a decision is made for {} to {}, or until it is withdrawn",
                span(*HOLDS_FOR.start()),
                span(*HOLDS_FOR.end())
            )),
            _ => Ok(()),
        }
    }

    fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Gate { service, .. }
            | Self::Accept { service, .. }
            | Self::Condemn { service, .. }
            | Self::Forget { service, .. }
            | Self::Mode { service, .. } => Some(service),
            _ => None,
        }
    }

    fn build(&self) -> Option<&BuildId> {
        match self {
            Self::Gate { build, .. }
            | Self::Accept { build, .. }
            | Self::Condemn { build, .. }
            | Self::Forget { build, .. } => Some(build),
            _ => None,
        }
    }

    fn incident(&self) -> Option<&str> {
        match self {
            Self::Incident { id } => Some(id),
            Self::Approve { incident } | Self::Reject { incident } | Self::Acknowledge { incident } => {
                Some(incident)
            }
            _ => None,
        }
    }
}

/// Whole seconds in the form that the command line takes: "2h 30m".
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_told_from_what_reads() {
        assert!(!Command::Gate { service: "web".into(), build: "v1".into() }.writes());
        assert!(!Command::Audit { limit: 1 }.writes());
        assert!(Command::Pause { for_seconds: 1 }.writes() && Command::Resume.writes());
        assert!(Command::Acknowledge { incident: "i".to_owned() }.writes());
    }

    #[test]
    fn a_command_is_kept_as_it_was_typed() {
        let condemn = Command::Condemn {
            service: "web".into(),
            build: "v2".into(),
            endpoint: Some("login".into()),
            for_seconds: Some(9_000),
        };
        assert_eq!(condemn.typed(), "builds condemn web v2 --endpoint login --for 2h 30m");
        let mode = Command::Mode { service: "web".into(), mode: None, for_seconds: None };
        assert_eq!(mode.typed(), "mode web configured");
        assert_eq!(Command::Pause { for_seconds: 61 }.typed(), "pause --for 1m 1s");
    }

    #[test]
    fn an_accept_of_an_older_client_still_reads() {
        let old = r#"{"command":"accept","service":"web","build":"v2"}"#;
        let accept =
            Command::Accept { service: "web".into(), build: "v2".into(), endpoint: None, for_seconds: None };
        assert_eq!(serde_json::from_str::<Command>(old).unwrap(), accept);
        assert_eq!(serde_json::to_string(&accept).unwrap(), old);
    }

    #[test]
    fn names_that_nothing_can_have_are_refused() {
        let gate = |service: &str, build: &str| {
            Command::Gate { service: service.into(), build: build.into() }.check()
        };
        assert_eq!(gate("web", "grün/v2 (hotfix)"), Ok(()));
        for (service, build) in
            [("", "v"), ("web", ""), ("web", "v\u{1b}[2J"), ("web", "v\nroot"), ("web", "a\u{202e}b")]
        {
            assert!(gate(service, build).is_err(), "{service:?} {build:?}");
        }
        assert!(gate(&"w".repeat(65), "v").is_err() && gate("web", &"v".repeat(129)).is_err());
        assert!(Command::Approve { incident: "\u{9b}31m".to_owned() }.check().is_err());
        let pause = |for_seconds| Command::Pause { for_seconds }.check();
        assert!(pause(0).is_err() && pause(u64::MAX).is_err() && pause(7200).is_ok());
    }
}
