//! Whether to act on an incident: the safety rails, as a function of what is known.

use std::time::Duration;

use super::{Breaker, BuildState, IncidentId};
use crate::config::Mode;
use crate::model::BuildId;

/// All that the decision depends on.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each of these facts holds or does not")]
pub struct Facts<'a> {
    pub mode: Mode,
    /// The hook is only rehearsed.
    pub dry_run: bool,
    /// A person approved this very incident.
    pub approved: bool,
    /// Whether the service has a `[service.rollback]`.
    pub hook_configured: bool,
    pub bad_build: &'a BuildId,
    /// `None`: the ledger does not know the build.
    pub bad_state: Option<BuildState>,
    /// The last good build with its state; inner `None`: the ledger does not know it.
    pub good_build: Option<(&'a BuildId, Option<BuildState>)>,
    /// A build that appeared after the bad one, and runs.
    pub newer_build: Option<&'a BuildId>,
    /// The incident is about a release window that has opened since, or is not configured any more.
    pub window_opened: bool,
    /// Another rollback of this service that is neither verified nor given up.
    pub rollback_under_way: Option<&'a IncidentId>,
    /// The last rollback of this service, if it restored the build that is now called bad.
    pub restored_by: Option<&'a IncidentId>,
    /// The rollback that took the bad build away before.
    pub rolled_back_by: Option<&'a IncidentId>,
    /// Who rejected the rollback of this build before.
    pub rejected_by: Option<&'a str>,
    /// Rollbacks of other incidents.
    pub since_last_rollback: Option<Duration>,
    pub cooldown: Duration,
    pub rollbacks_last_day: u32,
    pub max_per_day: u32,
    /// Open after a rollback that failed or did not help.
    pub breaker: Option<&'a Breaker>,
    /// What is left of a pause of the whole agent, and who ordered it.
    pub paused: Option<(Duration, &'a str)>,
}

/// What to do with an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Act,
    /// A dry run: all steps, and the hook in its test mode.
    Rehearse,
    /// Mode observe; `refusal` is `None` when mode enforce would have acted.
    Observe {
        refusal: Option<Refusal>,
    },
    /// A person is asked; `because` is `None` in mode approve when every rail holds.
    Ask {
        because: Option<Refusal>,
    },
    /// There is nothing that could sensibly be run: a person is told instead.
    Refuse {
        reason: Refusal,
    },
}

/// A rail that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
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
    #[error(
        "build {good_build} is {}, and only a good or adopted build is restored",
        state.map_or("unknown", BuildState::name)
    )]
    GoodBuildNotGood { good_build: BuildId, state: Option<BuildState> },
    #[error("build {newer_build} was deployed after build {bad_build}: a rollback would undo that as well")]
    NewerBuild { bad_build: BuildId, newer_build: BuildId },
    #[error("the service has no [service.rollback] to run")]
    NoHook,
    #[error(
        "the release window has opened since build {bad_build} appeared, or is not configured any more: it may stay"
    )]
    WindowOpened { bad_build: BuildId },
    #[error("the rollback of incident {incident} is still under way")]
    UnderWay { incident: IncidentId },
    #[error(
        "build {bad_build} was itself restored by the last rollback (incident {incident}): the cause is not this build \
         alone"
    )]
    RestoredByRollback { bad_build: BuildId, incident: IncidentId },
    #[error(
        "build {bad_build} is condemned and was deployed again{}: whoever did that may have meant it",
        incident.as_ref().map_or_else(String::new, |incident| format!(" after the rollback of incident {incident}"))
    )]
    DeployedAgain { bad_build: BuildId, incident: Option<IncidentId> },
    #[error("{by} rejected a rollback of build {bad_build} before")]
    RejectedBefore { bad_build: BuildId, by: String },
    #[error(
        "the circuit breaker is open: incident {incident} was not solved by its rollback; acknowledge it first"
    )]
    BreakerOpen { incident: IncidentId },
    #[error("{by} paused all rollbacks for another {} s", left.as_secs())]
    Paused { by: String, left: Duration },
    #[error(
        "the last rollback was {} s ago and the cooldown is {} s",
        since.as_secs(),
        cooldown.as_secs()
    )]
    Cooldown { since: Duration, cooldown: Duration },
    #[error("{count} rollbacks in the last 24 hours, and max_per_day is {max_per_day}")]
    MaxPerDay { count: u32, max_per_day: u32 },
}

impl Refusal {
    /// Whether a person is asked, since a rollback is possible all the same, or may be later. Otherwise it is escalated.
    pub fn asks(&self) -> bool {
        !matches!(
            self,
            Self::NotOnProbation { .. }
                | Self::NoGoodBuild
                | Self::SameBuild { .. }
                | Self::GoodBuildNotGood { .. }
                | Self::NewerBuild { .. }
                | Self::NoHook
        )
    }

    /// Whether a person's approval is stronger. Two hooks at a time never are, nor a target that is no good one.
    pub fn yields_to_approval(&self) -> bool {
        match self {
            Self::UnderWay { .. } => false,
            Self::NotOnProbation { state, .. } => state.is_some(),
            other => other.asks(),
        }
    }

    /// Name in metrics and JSON.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotOnProbation { .. } => "not_on_probation",
            Self::NoGoodBuild => "no_good_build",
            Self::SameBuild { .. } => "same_build",
            Self::GoodBuildNotGood { .. } => "good_build_not_good",
            Self::NewerBuild { .. } => "newer_build",
            Self::NoHook => "no_hook",
            Self::WindowOpened { .. } => "window_opened",
            Self::UnderWay { .. } => "under_way",
            Self::RestoredByRollback { .. } => "restored_by_rollback",
            Self::DeployedAgain { .. } => "deployed_again",
            Self::RejectedBefore { .. } => "rejected_before",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Paused { .. } => "paused",
            Self::Cooldown { .. } => "cooldown",
            Self::MaxPerDay { .. } => "max_per_day",
        }
    }
}

/// Decides: every rail must hold before the mode is even looked at.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let mut refusals = rails(facts);
    if facts.approved {
        refusals.retain(|refusal| !refusal.yields_to_approval());
    }
    // What makes a rollback impossible is said before what a person could overrule.
    let impossible = refusals.iter().position(|refusal| !refusal.asks());
    let refusal = (!refusals.is_empty()).then(|| refusals.swap_remove(impossible.unwrap_or(0)));
    match (facts.mode, refusal) {
        (Mode::Observe, refusal) if !facts.approved => Decision::Observe { refusal },
        (_, Some(refusal)) if refusal.asks() => Decision::Ask { because: Some(refusal) },
        (_, Some(reason)) => Decision::Refuse { reason },
        (Mode::Approve, None) if !facts.approved => Decision::Ask { because: None },
        (_, None) if facts.dry_run => Decision::Rehearse,
        (_, None) => Decision::Act,
    }
}

/// Every rail that does not hold, in the order in which they are told.
pub fn rails(facts: &Facts<'_>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let bad_build = || facts.bad_build.clone();
    match (facts.restored_by, facts.bad_state) {
        (Some(incident), _) => {
            refusals.push(Refusal::RestoredByRollback { bad_build: bad_build(), incident: incident.clone() });
        }
        (None, Some(BuildState::Probation)) => {}
        (None, Some(BuildState::Condemned)) => refusals
            .push(Refusal::DeployedAgain { bad_build: bad_build(), incident: facts.rolled_back_by.cloned() }),
        (None, state) => refusals.push(Refusal::NotOnProbation { bad_build: bad_build(), state }),
    }
    match facts.good_build {
        None => refusals.push(Refusal::NoGoodBuild),
        Some((good_build, _)) if good_build == facts.bad_build => {
            refusals.push(Refusal::SameBuild { build: bad_build() });
        }
        Some((_, Some(state))) if state.is_restorable() => {}
        Some((good_build, state)) => {
            refusals.push(Refusal::GoodBuildNotGood { good_build: good_build.clone(), state });
        }
    }
    if let Some(newer_build) = facts.newer_build {
        let newer_build = newer_build.clone();
        refusals.push(Refusal::NewerBuild { bad_build: bad_build(), newer_build });
    }
    if !facts.hook_configured {
        refusals.push(Refusal::NoHook);
    }
    if facts.window_opened {
        refusals.push(Refusal::WindowOpened { bad_build: bad_build() });
    }
    if let Some(incident) = facts.rollback_under_way {
        refusals.push(Refusal::UnderWay { incident: incident.clone() });
    }
    if let Some(by) = facts.rejected_by {
        refusals.push(Refusal::RejectedBefore { bad_build: bad_build(), by: by.to_owned() });
    }
    if let Some(breaker) = facts.breaker {
        refusals.push(Refusal::BreakerOpen { incident: breaker.incident.clone() });
    }
    if let Some((left, by)) = facts.paused {
        refusals.push(Refusal::Paused { by: by.to_owned(), left });
    }
    if let Some(since) = facts.since_last_rollback.filter(|since| *since < facts.cooldown) {
        refusals.push(Refusal::Cooldown { since, cooldown: facts.cooldown });
    }
    if facts.rollbacks_last_day >= facts.max_per_day && facts.hook_configured {
        refusals.push(Refusal::MaxPerDay { count: facts.rollbacks_last_day, max_per_day: facts.max_per_day });
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::Moment;

    /// Applies `change` to facts that allow a rollback, and decides.
    fn with(change: impl FnOnce(&mut Facts<'_>)) -> Decision {
        let (bad, good) = (BuildId::from("v2"), BuildId::from("v1"));
        let mut facts = Facts {
            mode: Mode::Enforce,
            dry_run: false,
            approved: false,
            hook_configured: true,
            bad_build: &bad,
            bad_state: Some(BuildState::Probation),
            good_build: Some((&good, Some(BuildState::Good))),
            newer_build: None,
            window_opened: false,
            rollback_under_way: None,
            restored_by: None,
            rolled_back_by: None,
            rejected_by: None,
            since_last_rollback: Some(Duration::from_mins(30)),
            cooldown: Duration::from_mins(30),
            rollbacks_last_day: 2,
            max_per_day: 3,
            breaker: None,
            paused: None,
        };
        change(&mut facts);
        decide(&facts)
    }

    /// A change that breaks one rail.
    type Change = fn(&mut Facts<'_>);

    fn refusal(change: impl FnOnce(&mut Facts<'_>)) -> String {
        match with(change) {
            Decision::Refuse { reason } => reason.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn modes_act_ask_or_only_observe() {
        assert_eq!(with(|_| ()), Decision::Act);
        assert_eq!(with(|f| f.mode = Mode::Approve), Decision::Ask { because: None });
        assert_eq!(with(|f| f.mode = Mode::Observe), Decision::Observe { refusal: None });
        assert_eq!(with(|f| f.since_last_rollback = None), Decision::Act);
        let adopted = with(|f| f.good_build = f.good_build.map(|(b, _)| (b, Some(BuildState::Adopted))));
        assert_eq!(adopted, Decision::Act);
        assert_eq!(with(|f| f.dry_run = true), Decision::Rehearse);
        for mode in [Mode::Approve, Mode::Observe] {
            let approved = with(|f| (f.mode, f.approved) = (mode, true));
            assert_eq!(approved, Decision::Act, "{mode:?}");
        }
    }

    #[test]
    fn only_a_build_on_probation_is_rolled_back() {
        for state in [Some(BuildState::Adopted), Some(BuildState::Good), None] {
            let said = refusal(|f| f.bad_state = state);
            assert!(said.contains(state.map_or("unknown", BuildState::name)), "{said}");
        }
    }

    #[test]
    fn the_target_must_be_another_good_build_and_no_newer_one_be_there() {
        let newer = BuildId::from("v3");
        assert!(refusal(|f| f.good_build = None).contains("no good build"));
        assert!(
            refusal(|f| f.good_build = Some((f.bad_build, Some(BuildState::Good))))
                .contains("is the bad build")
        );
        for state in [Some(BuildState::Condemned), Some(BuildState::Probation), None] {
            let said = refusal(|f| f.good_build = f.good_build.map(|(build, _)| (build, state)));
            assert!(said.contains(state.map_or("unknown", BuildState::name)), "{said}");
        }
        assert!(refusal(|f| f.hook_configured = false).contains("[service.rollback]"));
        with(|f| {
            let overtaken = rails(&Facts { newer_build: Some(&newer), ..f.clone() });
            assert!(
                matches!(&overtaken[..], [Refusal::NewerBuild { newer_build, .. }] if *newer_build == newer)
            );
        });
    }

    #[test]
    fn limits_ask_at_their_edges_and_yield_to_a_person() {
        let cases: [(Change, &str); 5] = [
            (|f| f.window_opened = true, "window has opened"),
            (|f| f.since_last_rollback = Some(Duration::from_secs(1799)), "1799 s ago"),
            (|f| f.rollbacks_last_day = 3, "max_per_day is 3"),
            (|f| f.paused = Some((Duration::from_secs(90), "uid 0")), "another 90 s"),
            (|f| f.rejected_by = Some("uid 1000"), "uid 1000 rejected"),
        ];
        for (change, text) in cases {
            let Decision::Ask { because: Some(because) } = with(change) else { panic!("{text}") };
            assert!(because.to_string().contains(text), "{because}");
            let approved = with(|f| {
                change(f);
                f.approved = true;
            });
            assert_eq!(approved, Decision::Act, "{text}");
            let observed = with(|f| {
                change(f);
                f.mode = Mode::Observe;
            });
            assert_eq!(observed, Decision::Observe { refusal: Some(because) });
        }
    }

    #[test]
    fn other_rollbacks_are_respected() {
        let first = IncidentId::from("20170127-00000001");
        let moment = Moment { unix_ms: 0, mono_ns: 0, boot: String::new() };
        let breaker = Breaker { incident: first.clone(), since: moment };
        let (bad, good) = (BuildId::from("v2"), BuildId::from("v1"));
        let usual = Facts {
            mode: Mode::Enforce,
            dry_run: false,
            approved: false,
            hook_configured: true,
            bad_build: &bad,
            bad_state: Some(BuildState::Probation),
            good_build: Some((&good, Some(BuildState::Good))),
            newer_build: None,
            window_opened: false,
            rollback_under_way: None,
            restored_by: None,
            rolled_back_by: None,
            rejected_by: None,
            since_last_rollback: None,
            cooldown: Duration::ZERO,
            rollbacks_last_day: 0,
            max_per_day: 1,
            breaker: None,
            paused: None,
        };
        assert_eq!(decide(&usual), Decision::Act);
        let again = Facts { bad_state: Some(BuildState::Condemned), ..usual.clone() };
        let cases = [
            (Facts { restored_by: Some(&first), ..usual.clone() }, "restored_by_rollback", true),
            (Facts { breaker: Some(&breaker), ..usual.clone() }, "breaker_open", true),
            (Facts { rollback_under_way: Some(&first), ..usual.clone() }, "under_way", false),
            (Facts { rolled_back_by: Some(&first), ..again.clone() }, "deployed_again", true),
            (again, "deployed_again", true),
        ];
        for (facts, label, yields) in cases {
            let Decision::Ask { because: Some(because) } = decide(&facts) else { panic!("{label}") };
            assert_eq!(because.label(), label);
            let approved = decide(&Facts { approved: true, ..facts });
            assert_eq!(approved == Decision::Act, yields, "{approved:?}");
        }
    }

    #[test]
    fn what_makes_it_impossible_is_said_first_and_no_approval_helps() {
        let both = |f: &mut Facts<'_>| {
            f.rollbacks_last_day = 3;
            f.good_build = None;
        };
        assert_eq!(with(both), Decision::Refuse { reason: Refusal::NoGoodBuild });
        let approved = with(|f| {
            both(f);
            f.approved = true;
        });
        assert_eq!(approved, Decision::Refuse { reason: Refusal::NoGoodBuild });
        let observe = with(|f| {
            both(f);
            f.mode = Mode::Observe;
        });
        assert_eq!(observe, Decision::Observe { refusal: Some(Refusal::NoGoodBuild) });
        assert!(matches!(
            with(|f| (f.bad_state, f.approved) = (None, true)),
            Decision::Refuse { reason: Refusal::NotOnProbation { .. } }
        ));
    }
}
