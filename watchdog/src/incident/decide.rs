//! Whether to act on an incident: the safety checks, as a function of what is known.

use std::time::Duration;

use super::BuildState;
use crate::config::Mode;
use crate::model::BuildId;

/// All that the decision depends on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub mode: Mode,
    /// Whether the service has a `[service.rollback]`.
    pub hook_configured: bool,
    pub bad_build: &'a BuildId,
    /// `None`: the ledger does not know the build.
    pub bad_state: Option<BuildState>,
    /// The last good build with its state.
    pub good_build: Option<(&'a BuildId, BuildState)>,
    /// Whether another incident for this service and bad build is open.
    pub other_open_incident: bool,
    /// Whether the last rollback of this service restored the build that is now called bad.
    pub restored_by_rollback: bool,
    pub since_last_rollback: Option<Duration>,
    pub cooldown: Duration,
    pub rollbacks_last_day: u32,
    pub max_per_day: u32,
}

/// What to do with an incident that was just detected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Act,
    /// Mode observe; `refusal` is `None` when mode enforce would have acted.
    Observe {
        refusal: Option<Refusal>,
    },
    AskApproval,
    /// Not safe: a person is told instead.
    Refuse {
        reason: Refusal,
    },
}

/// Why a rollback is not safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("another incident for build {bad_build} is still open; close it first")]
    OtherOpenIncident { bad_build: BuildId },
    #[error("build {bad_build} was itself restored by the last rollback; the cause is not this build alone")]
    RestoredByRollback { bad_build: BuildId },
    #[error(
        "build {bad_build} is {}, and only a build on probation is rolled back",
        state.map_or("unknown", BuildState::name)
    )]
    NotOnProbation { bad_build: BuildId, state: Option<BuildState> },
    #[error(
        "no good build is known to go back to: what runs when the agent first comes to a service is adopted as good, \
         and a later build becomes good by passing its probation"
    )]
    NoGoodBuild,
    #[error("the good build {build} is the bad build")]
    SameBuild { build: BuildId },
    #[error("build {good_build} is {state}, and only a good or adopted build is restored")]
    GoodBuildNotGood { good_build: BuildId, state: BuildState },
    #[error("the service has no [service.rollback] to run")]
    NoHook,
    #[error(
        "the last rollback was {} s ago and the cooldown is {} s",
        since.as_secs(),
        cooldown.as_secs()
    )]
    Cooldown { since: Duration, cooldown: Duration },
    #[error("{count} rollbacks in the last 24 hours, and max_per_day is {max_per_day}")]
    MaxPerDay { count: u32, max_per_day: u32 },
}

/// Decides: every check must hold before the mode is even looked at.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let refusal = first_refusal(facts);
    match (facts.mode, refusal) {
        (Mode::Observe, refusal) => Decision::Observe { refusal },
        (_, Some(reason)) => Decision::Refuse { reason },
        (Mode::Approve, None) => Decision::AskApproval,
        (Mode::Enforce, None) => Decision::Act,
    }
}

fn first_refusal(facts: &Facts<'_>) -> Option<Refusal> {
    let bad_build = facts.bad_build;
    if facts.other_open_incident {
        return Some(Refusal::OtherOpenIncident { bad_build: bad_build.clone() });
    }
    if facts.restored_by_rollback {
        return Some(Refusal::RestoredByRollback { bad_build: bad_build.clone() });
    }
    if facts.bad_state != Some(BuildState::Probation) {
        return Some(Refusal::NotOnProbation { bad_build: bad_build.clone(), state: facts.bad_state });
    }
    let Some((good_build, state)) = facts.good_build else {
        return Some(Refusal::NoGoodBuild);
    };
    if good_build == bad_build {
        return Some(Refusal::SameBuild { build: bad_build.clone() });
    }
    if !state.is_restorable() {
        return Some(Refusal::GoodBuildNotGood { good_build: good_build.clone(), state });
    }
    if !facts.hook_configured {
        return Some(Refusal::NoHook);
    }
    if let Some(since) = facts.since_last_rollback.filter(|since| *since < facts.cooldown) {
        return Some(Refusal::Cooldown { since, cooldown: facts.cooldown });
    }
    if facts.rollbacks_last_day >= facts.max_per_day {
        return Some(Refusal::MaxPerDay { count: facts.rollbacks_last_day, max_per_day: facts.max_per_day });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies `change` to facts that allow a rollback, and decides.
    fn with(change: impl FnOnce(&mut Facts<'_>)) -> Decision {
        let (bad, good) = (BuildId::from("v2"), BuildId::from("v1"));
        let mut facts = Facts {
            mode: Mode::Enforce,
            hook_configured: true,
            bad_build: &bad,
            bad_state: Some(BuildState::Probation),
            good_build: Some((&good, BuildState::Good)),
            other_open_incident: false,
            restored_by_rollback: false,
            since_last_rollback: Some(Duration::from_mins(30)),
            cooldown: Duration::from_mins(30),
            rollbacks_last_day: 2,
            max_per_day: 3,
        };
        change(&mut facts);
        decide(&facts)
    }

    fn refusal(change: impl FnOnce(&mut Facts<'_>)) -> String {
        match with(change) {
            Decision::Refuse { reason } => reason.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn modes_act_ask_or_only_observe() {
        assert_eq!(with(|_| ()), Decision::Act);
        assert_eq!(with(|f| f.mode = Mode::Approve), Decision::AskApproval);
        assert_eq!(with(|f| f.mode = Mode::Observe), Decision::Observe { refusal: None });
        assert_eq!(with(|f| f.since_last_rollback = None), Decision::Act);
        let adopted = BuildId::from("v0");
        let decision = decide(&Facts {
            good_build: Some((&adopted, BuildState::Adopted)),
            mode: Mode::Enforce,
            hook_configured: true,
            bad_build: &"v2".into(),
            bad_state: Some(BuildState::Probation),
            other_open_incident: false,
            restored_by_rollback: false,
            since_last_rollback: None,
            cooldown: Duration::ZERO,
            rollbacks_last_day: 0,
            max_per_day: 1,
        });
        assert_eq!(decision, Decision::Act);
    }

    #[test]
    fn only_a_build_on_probation_is_rolled_back() {
        for state in [Some(BuildState::Adopted), Some(BuildState::Good), Some(BuildState::Condemned), None] {
            let said = refusal(|f| f.bad_state = state);
            assert!(said.contains(state.map_or("unknown", BuildState::name)), "{said}");
        }
    }

    #[test]
    fn the_target_must_be_another_good_build() {
        assert!(refusal(|f| f.good_build = None).contains("no good build"));
        assert!(
            refusal(|f| f.good_build = Some((f.bad_build, BuildState::Good))).contains("is the bad build")
        );
        for state in [BuildState::Condemned, BuildState::Probation] {
            let said = refusal(|f| f.good_build = f.good_build.map(|(build, _)| (build, state)));
            assert!(said.contains(state.name()), "{said}");
        }
    }

    #[test]
    fn limits_refuse_at_their_edges() {
        assert!(refusal(|f| f.since_last_rollback = Some(Duration::from_secs(1799))).contains("1799 s ago"));
        assert!(refusal(|f| f.rollbacks_last_day = 3).contains("max_per_day is 3"));
        assert!(refusal(|f| f.max_per_day = 0).contains("max_per_day is 0"));
        assert!(refusal(|f| f.other_open_incident = true).contains("still open"));
        assert!(refusal(|f| f.restored_by_rollback = true).contains("restored by the last rollback"));
        assert!(refusal(|f| f.hook_configured = false).contains("[service.rollback]"));
    }

    #[test]
    fn approve_refuses_what_is_unsafe_and_observe_says_what_would_have_been_refused() {
        let approve = with(|f| {
            f.mode = Mode::Approve;
            f.good_build = None;
        });
        assert_eq!(approve, Decision::Refuse { reason: Refusal::NoGoodBuild });
        let observe = with(|f| {
            f.mode = Mode::Observe;
            f.good_build = None;
        });
        assert_eq!(observe, Decision::Observe { refusal: Some(Refusal::NoGoodBuild) });
    }
}
