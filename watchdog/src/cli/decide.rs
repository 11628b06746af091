//! The commands by which people decide, and the one that asks for pipelines.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::fmt::friendly::SpanParser;

use super::{Client, EXIT_CODES};
use crate::config::Mode;
use crate::control::{self, HOLDS_FOR, span};

#[derive(Debug, Subcommand)]
pub enum BuildsCommand {
    /// Take a build for good before its guard time is over, or although it was
    /// condemned.
    ///
    /// Its budgets do not bind it any more, and the next builds are compared with it.
    /// With --endpoint only that endpoint's budgets do not bind it. Wins over every
    /// verdict until it is withdrawn (builds forget), replaced (builds condemn) or,
    /// with --for, over.
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Accept(BuildDecision),

    /// Take a build for bad, whatever it costs.
    ///
    /// A build that serves on probation is an incident at once: mode and safety rails
    /// decide whether it is rolled back. One that is not there, seen before or not, is
    /// an incident when it comes, and never a build to go back to; `load-watchdog gate`
    /// answers 1. With --endpoint the first request there is the incident.
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Condemn(BuildDecision),

    /// Withdraw what was decided of a build, be it by a person or by an incident.
    ///
    /// A build that is here is on probation again and judged anew, without its figures
    /// so far; of any other nothing is known any more. With --endpoint only what was
    /// decided of that endpoint is withdrawn.
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Forget {
        #[command(flatten)]
        build: BuildName,
        #[command(flatten)]
        client: Client,
    },
}

#[derive(Clone, Debug, Args)]
pub struct BuildName {
    /// The service, as [[service]] name in the configuration.
    pub service: String,
    /// The build, as `load-watchdog builds` shows it.
    pub build: String,
    /// Only what it costs on this endpoint.
    #[arg(long, value_name = "ENDPOINT")]
    pub endpoint: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct BuildDecision {
    #[command(flatten)]
    pub build: BuildName,
    /// How long it holds, such as "2h"; until it is withdrawn when left out.
    #[arg(long = "for", value_name = "TIME", value_parser = holds_for)]
    pub holds_for: Option<Duration>,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Clone, Debug, Args)]
pub struct ModeArgs {
    /// The service, as [[service]] name in the configuration.
    pub service: String,
    /// The mode, or "configured" for the one in the configuration.
    pub mode: ModeName,
    /// How long it holds, such as "2h"; until it is withdrawn when left out.
    #[arg(long = "for", value_name = "TIME", value_parser = holds_for)]
    pub holds_for: Option<Duration>,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// Count what it would have done.
    Observe,
    /// Ask a person.
    Approve,
    /// Act.
    Enforce,
    /// As the configuration says.
    Configured,
}

#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// How long; it ends by itself, as one that is forgotten must not leave the host
    /// without a guard.
    #[arg(long = "for", value_name = "TIME", value_parser = holds_for, default_value = "2h")]
    pub holds_for: Duration,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Clone, Debug, Args)]
pub struct IncidentArgs {
    /// The incident's id, as `load-watchdog incidents` shows it.
    pub incident: String,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Lines to show.
    #[arg(long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    #[command(flatten)]
    pub client: Client,
}

#[derive(Clone, Debug, Args)]
pub struct GateArgs {
    /// The service, as [[service]] name in the configuration.
    pub service: String,
    /// The build, as its source names it.
    pub build: String,
    /// Wait so long for an answer other than "undecided", such as "10m".
    #[arg(long, value_name = "TIME", value_parser = holds_for)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    pub client: Client,
}

impl BuildsCommand {
    /// What is asked of the agent, and how.
    pub(super) fn request(self) -> (control::Command, Client) {
        match self {
            Self::Accept(BuildDecision { build, holds_for, client }) => {
                let command = control::Command::Accept {
                    service: build.service.into(),
                    build: build.build.into(),
                    endpoint: build.endpoint.map(Into::into),
                    for_seconds: holds_for.map(|holds_for| holds_for.as_secs()),
                };
                (command, client)
            }
            Self::Condemn(BuildDecision { build, holds_for, client }) => {
                let command = control::Command::Condemn {
                    service: build.service.into(),
                    build: build.build.into(),
                    endpoint: build.endpoint.map(Into::into),
                    for_seconds: holds_for.map(|holds_for| holds_for.as_secs()),
                };
                (command, client)
            }
            Self::Forget { build, client } => {
                let command = control::Command::Forget {
                    service: build.service.into(),
                    build: build.build.into(),
                    endpoint: build.endpoint.map(Into::into),
                };
                (command, client)
            }
        }
    }
}

impl ModeArgs {
    pub(super) fn request(self) -> (control::Command, Client) {
        let mode = match self.mode {
            ModeName::Observe => Some(Mode::Observe),
            ModeName::Approve => Some(Mode::Approve),
            ModeName::Enforce => Some(Mode::Enforce),
            ModeName::Configured => None,
        };
        let for_seconds = self.holds_for.filter(|_| mode.is_some()).map(|holds_for| holds_for.as_secs());
        (control::Command::Mode { service: self.service.into(), mode, for_seconds }, self.client)
    }
}

/// "90s", "2h 30m": whole seconds within the bounds that the agent takes.
fn holds_for(text: &str) -> Result<Duration, String> {
    let examples = "write a number with its unit, such as \"90s\", \"30m\" or \"24h\"";
    let parsed = SpanParser::new()
        .parse_unsigned_duration(text)
        .map_err(|_| format!("it is not a time; {examples}"))?;
    if !HOLDS_FOR.contains(&parsed) || parsed.subsec_nanos() != 0 {
        return Err(format!(
            "it must be whole seconds from {} to {}",
            span(*HOLDS_FOR.start()),
            span(*HOLDS_FOR.end())
        ));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds() {
        assert_eq!(holds_for("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(holds_for("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "7", "-2h", "soon", "10ms", "0s", "9000h", "1.5s"] {
            assert!(holds_for(wrong).is_err(), "{wrong:?}");
        }
        assert!(holds_for("8784h").is_ok());
    }
}
