//! What may happen, said a second time and more simply: from the world's own account, not from the agent's ledger.

use std::time::Duration;

use watchdog::config::Mode;
use watchdog::incident::{Decision, Incident, IncidentEvent, State};
use watchdog::model::BuildId;

use super::plan::{End, Plan};
use super::world::{Run, Truth, World};

/// Which kind of decision is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Act,
    Observe,
    Ask,
    Refuse,
}

impl Right {
    pub(crate) fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Act | Decision::Rehearse => Self::Act,
            Decision::Observe { .. } => Self::Observe,
            Decision::Ask { .. } => Self::Ask,
            Decision::Refuse { .. } => Self::Refuse,
        }
    }
}

/// The decision about an incident as the world is now. `others`: all other incidents, as they stand.
pub(crate) fn right(world: &World, plan: &Plan, incident: &Incident, others: &[Incident]) -> Right {
    let bad = incident.bad_build.as_str();
    let good = incident.good_build.as_ref().map(BuildId::as_str);
    let approved = world.approved.contains(&incident.id);
    let other =
        |test: &dyn Fn(&Incident) -> bool| others.iter().any(|other| other.id != incident.id && test(other));

    let target_is_good = good.is_some_and(|good| good != bad && world.truth.get(good) == Some(&Truth::Good));
    let impossible = !target_is_good || world.newer_than(bad).is_some();
    let under_way = other(&|other| other.state.is_under_way());
    let restored = world
        .intents
        .iter()
        .rfind(|(of, ..)| *of != incident.id)
        .is_some_and(|(_, _, _, restored)| restored == bad);
    let cautious = restored
        || world.truth[bad] != Truth::New
        || world.rejected.iter().any(|rejected| rejected == bad)
        || other(&|other| {
            other.state == State::Escalated && world.intents.iter().any(|(of, ..)| *of == other.id)
        })
        || world.paused_until.is_some_and(|until| world.now_s < until)
        || world
            .since_last_intent(&incident.id)
            .is_some_and(|since| since < Duration::from_secs(plan.cooldown_s))
        || world.intents_of_last_day(&incident.id) >= plan.max_per_day;
    if world.mode == Mode::Observe && !approved {
        Right::Observe
    } else if impossible {
        Right::Refuse
    } else if under_way || (!approved && (cautious || world.mode == Mode::Approve)) {
        Right::Ask
    } else {
        Right::Act
    }
}

/// Called at each spawn of a hook: whether it may run at all.
pub(crate) fn may_spawn(world: &World, plan: &Plan, run: &Run) {
    let running = world.procs.iter().find(|proc| !world.runs[proc.run].test);
    assert!(running.is_none() || run.test, "two hooks at a time: {running:?}");
    let before: Vec<&Run> = world.runs.iter().filter(|other| other.incident == run.incident).collect();
    for other in &before {
        assert_eq!(other.end, Some(End::Again), "a hook of unknown or final outcome is run again: {other:?}");
    }
    assert_eq!(run.attempt as usize, before.len() + 1, "attempts are counted");
    assert!(run.attempt <= plan.retries + 1, "more attempts than allowed");
}

/// Edges of the drawing in ARCHITECTURE.md.
const EDGES: [(&str, &[&str]); 11] = [
    ("detected", &["observed", "awaiting_approval", "armed", "escalated"]),
    ("observed", &["closed"]),
    ("awaiting_approval", &["armed", "closed", "escalated"]),
    ("armed", &["intent_journaled", "observed", "awaiting_approval", "armed", "escalated"]),
    ("intent_journaled", &["hook_running", "hook_failed", "escalated"]),
    ("hook_running", &["armed", "hook_done", "hook_failed", "hook_timed_out", "verifying", "escalated"]),
    ("hook_done", &["verifying", "observed", "escalated"]),
    ("hook_failed", &["observed", "escalated"]),
    ("hook_timed_out", &["observed", "escalated"]),
    ("verifying", &["recovered", "escalated"]),
    ("escalated", &["closed"]),
];

/// What must hold of an incident once everything has come to rest.
pub(crate) fn at_rest(world: &World, incident: &Incident, timeline: &[IncidentEvent]) {
    let runs: Vec<&Run> = world.runs.iter().filter(|run| run.incident == incident.id).collect();
    let effective = runs.iter().filter(|run| !run.test && run.end != Some(End::Again)).count();
    let last = timeline.last().expect("it was detected");
    let said = || format!("{} with {runs:?}: {}", incident.state, last.note);
    assert!(effective <= 1, "the hook ran more than once: {}", said());
    match incident.state {
        State::Recovered => assert_eq!(effective, 1, "recovered without a run: {}", said()),
        State::Observed | State::AwaitingApproval => {
            assert_eq!(effective, 0, "run without a decision: {}", said());
        }
        State::Escalated => assert!(!last.note.is_empty(), "escalated without a reason"),
        State::Closed => {
            let before = last.from.expect("closing is a step");
            assert!(matches!(
                before,
                State::Observed | State::AwaitingApproval | State::Escalated | State::Recovered
            ));
        }
        other => panic!("the incident is left in {other}: {}", said()),
    }
    // Exactly one run, or somebody was told why not.
    let told = timeline.iter().any(|event| {
        matches!(event.to, State::Escalated | State::AwaitingApproval | State::Observed | State::Closed)
    });
    assert!(effective == 1 || told, "neither run nor told: {}", said());
    let journaled = timeline.iter().any(|event| event.to == State::IntentJournaled);
    assert!(journaled || runs.is_empty(), "run without an intent on disk: {}", said());
    assert_eq!(timeline.first().map(|event| event.from), Some(None));
    for event in timeline {
        let Some(from) = event.from else { continue };
        let edges = EDGES.iter().find(|(name, _)| *name == from.name()).map_or(&[][..], |(_, to)| to);
        let ends = from == State::Recovered && event.to == State::Closed;
        assert!(ends || edges.contains(&event.to.name()), "{from} to {}", event.to);
    }
}
