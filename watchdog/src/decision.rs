//! What people decide over the control socket, as values; [`crate::store`] keeps them. What they say to an incident, and the
//! pause of all rollbacks, are [`crate::incident`]'s.
//!
//! A decision holds until it is withdrawn, replaced by another one on the same subject, or over. While it holds it wins over
//! statistics: an accepted build is not judged, a condemned one is bad whatever it costs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::incident::{BuildState, Moment};
use crate::model::{BuildId, EndpointName, ServiceName};

/// Who does something: a user of the host, by the kernel's word, or the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `None`: the agent itself, such as when a decision is over.
    pub uid: Option<u32>,
    /// From the user database; `uid N` where it does not know.
    pub name: String,
}

impl Who {
    pub fn agent() -> Self {
        Self { uid: None, name: "load-watchdog".to_owned() }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.uid {
            // Names can be given anew; the number is what the kernel said.
            Some(uid) if self.name != format!("uid {uid}") => write!(f, "{} (uid {uid})", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opinion {
    Accepted,
    Condemned,
}

impl Opinion {
    /// The name used in the store, in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Condemned => "condemned",
        }
    }

    /// What a build of this opinion is in the ledger.
    pub fn state(self) -> BuildState {
        match self {
            Self::Accepted => BuildState::Good,
            Self::Condemned => BuildState::Condemned,
        }
    }
}

/// What a decision is about. At most one is in force for each, whatever it says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Instead of the configuration's.
    Mode { service: ServiceName, mode: Mode },
    /// `endpoint: None`: the build as a whole.
    Build { service: ServiceName, build: BuildId, endpoint: Option<EndpointName>, opinion: Opinion },
}

impl Subject {
    /// Whether two cannot be in force at once.
    pub fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mode { service, .. }, Self::Mode { service: of, .. }) => service == of,
            (
                Self::Build { service, build, endpoint, .. },
                Self::Build { service: of, build: other, endpoint: on, .. },
            ) => service == of && build == other && endpoint == on,
            _ => false,
        }
    }
}

/// A decision that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its number in the ledger.
    pub id: i64,
    pub subject: Subject,
    pub who: Who,
    pub made: Moment,
    /// `None`: until somebody withdraws it.
    pub holds_for: Option<Duration>,
    /// Of a whole build: the state that it goes back to when the decision is over.
    pub before: Option<BuildState>,
}

impl Decision {
    /// Time that it holds from now on; `None`: until somebody withdraws it.
    pub fn left(&self, now: &Moment) -> Option<Duration> {
        self.holds_for.map(|holds_for| holds_for.saturating_sub(self.made.until(now)))
    }

    pub fn is_over(&self, now: &Moment) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// The mode that it gives to a service.
    pub fn mode_of(&self, of: &ServiceName) -> Option<Mode> {
        match &self.subject {
            Subject::Mode { service, mode } if service == of => Some(*mode),
            _ => None,
        }
    }

    /// What it says of a build; outer `None`: nothing. Inner: the endpoint, `None` the whole build.
    pub fn says_of(&self, of: &ServiceName, build: &BuildId) -> Option<(Option<&EndpointName>, Opinion)> {
        match &self.subject {
            Subject::Build { service, build: about, endpoint, opinion }
                if service == of && about == build =>
            {
                Some((endpoint.as_ref(), *opinion))
            }
            _ => None,
        }
    }
}

/// What people have decided and is in force, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Decisions(pub Vec<Decision>);

impl Decisions {
    /// The mode of a service that is not the configuration's.
    pub fn mode(&self, service: &ServiceName) -> Option<(&Decision, Mode)> {
        self.0.iter().find_map(|decision| Some((decision, decision.mode_of(service)?)))
    }

    /// The decision on a whole build.
    pub fn build(&self, service: &ServiceName, build: &BuildId) -> Option<(&Decision, Opinion)> {
        self.of_build(service, build)
            .find_map(|(decision, endpoint, opinion)| endpoint.is_none().then_some((decision, opinion)))
    }

    /// All decisions on a build and its endpoints.
    pub fn of_build<'a, 'b>(
        &'a self,
        service: &'b ServiceName,
        build: &'b BuildId,
    ) -> impl Iterator<Item = (&'a Decision, Option<&'a EndpointName>, Opinion)> {
        self.0.iter().filter_map(move |decision| {
            let (endpoint, opinion) = decision.says_of(service, build)?;
            Some((decision, endpoint, opinion))
        })
    }

    /// The one that a new decision on this subject takes the place of.
    pub fn replaced_by(&self, subject: &Subject) -> Option<&Decision> {
        self.0.iter().find(|decision| subject.replaces(&decision.subject))
    }
}

/// How the timeline says that mode enforce would have acted; counted by it.
pub const WOULD_HAVE_RUN: &str = "mode observe: mode enforce would have run the hook";
/// The same of an incident in which it would not have acted either.
pub const WOULD_NOT_HAVE_RUN: &str = "mode observe: mode enforce would not have run the hook either";

/// What mode observe kept from happening to a service, since the ledger began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Incidents in which mode enforce would have run the hook.
    pub would_have_rolled_back: u64,
    /// Incidents in which it would have refused to, or asked.
    pub would_have_refused: u64,
    pub last_unix_ms: Option<i64>,
}

/// One line of the audit trail: a command that was carried out or refused, or a decision that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub at: Moment,
    pub who: Who,
    /// As it would be typed, without flags that concern the client only.
    pub command: String,
    /// False: refused.
    pub done: bool,
    /// What the person was told.
    pub said: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_s: u64, unix_s: i64, boot: &str) -> Moment {
        Moment { unix_ms: unix_s * 1000, mono_ns: mono_s * 1_000_000_000, boot: boot.to_owned() }
    }

    fn decision(subject: Subject, holds_for: Option<u64>) -> Decision {
        Decision {
            id: 1,
            subject,
            who: Who { uid: Some(0), name: "root".to_owned() },
            made: at(100, 1_000_000, "a"),
            holds_for: holds_for.map(Duration::from_secs),
            before: None,
        }
    }

    #[test]
    fn a_stepped_clock_neither_prolongs_nor_ends_a_decision() {
        let observe = || Subject::Mode { service: "web".into(), mode: Mode::Observe };
        let observed = decision(observe(), Some(7200));
        for stepped in [-86_400, 0, 86_400] {
            let then = |seconds: u64| at(100 + seconds, 1_000_000 + stepped, "a");
            assert!(!observed.is_over(&then(7199)), "{stepped}");
            assert!(observed.is_over(&then(7200)), "{stepped}");
            assert_eq!(observed.left(&then(7000)), Some(Duration::from_secs(200)));
        }
        // After a reboot the wall clock tells; time since the boot is the least that it can be.
        assert!(!observed.is_over(&at(10, 1_003_600, "b")));
        assert!(observed.is_over(&at(10, 1_007_200, "b")));
        assert!(observed.is_over(&at(7200, 900_000, "b")));
        assert!(!decision(observe(), None).is_over(&at(u64::MAX / 2_000_000_000, 0, "a")));
    }

    #[test]
    fn one_subject_has_one_decision() {
        let build = |build: &str, endpoint: Option<&str>, opinion| Subject::Build {
            service: "web".into(),
            build: build.into(),
            endpoint: endpoint.map(Into::into),
            opinion,
        };
        let mode = |service: &str, mode| Subject::Mode { service: service.into(), mode };
        let whole = build("v2", None, Opinion::Accepted);
        assert!(whole.replaces(&build("v2", None, Opinion::Condemned)));
        assert!(!whole.replaces(&build("v2", Some("login"), Opinion::Condemned)));
        assert!(!whole.replaces(&build("v3", None, Opinion::Accepted)));
        assert!(mode("web", Mode::Observe).replaces(&mode("web", Mode::Enforce)));
        assert!(!mode("web", Mode::Observe).replaces(&mode("api", Mode::Observe)));
        assert!(!whole.replaces(&mode("web", Mode::Observe)));
    }

    #[test]
    fn what_is_in_force_is_found_by_its_subject() {
        let of = |endpoint: Option<&str>, opinion| {
            decision(
                Subject::Build {
                    service: "web".into(),
                    build: "v2".into(),
                    endpoint: endpoint.map(Into::into),
                    opinion,
                },
                None,
            )
        };
        let decisions = Decisions(vec![
            of(Some("login"), Opinion::Condemned),
            decision(Subject::Mode { service: "web".into(), mode: Mode::Observe }, None),
            of(None, Opinion::Accepted),
        ]);
        let (service, build) = (ServiceName::from("web"), BuildId::from("v2"));
        assert_eq!(decisions.build(&service, &build).map(|(_, opinion)| opinion), Some(Opinion::Accepted));
        assert_eq!(decisions.of_build(&service, &build).count(), 2);
        assert_eq!(decisions.mode(&service).map(|(_, mode)| mode), Some(Mode::Observe));
        assert_eq!(decisions.mode(&"api".into()), None);
    }
}
