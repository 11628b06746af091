//! The state machine: which step may follow which, and what each does to the ledger.
//!
//! ```text
//! detected ──┬─► observed ────────────────────────────────────────────────────────────────► closed
//!            ├─► awaiting_approval ──► (rejected) ────────────────────────────────────────► closed
//!            │          │ approved
//!            └─► armed ◄┴─────────────────────────────────────┐ exit 75
//!                  └─► intent_journaled ──► hook_running ─────┤
//!                           │ not started     │   │           └─► hook_done ─► verifying ─► recovered ─► closed
//!                           ▼                 │   │                              ▲ │ │
//!                      hook_failed ◄──────────┘   ├─► (ended unseen) ────────────┘ │ │
//!                           │                     └─► hook_timed_out               │ │ (cost stays high on the good
//!                           │                               │                      │ │  build too: pardoned)
//!                           └────────► escalated ◄──────────┴──────────────────────┴─┘
//!                                          └─► (acknowledged) ────────────────────────────► closed
//! ```
//! To `escalated` lead all states before the end: what is refused, what cannot be known after a crash, a service that was
//! taken out of the configuration. A dry run goes the same way as far as the hook's end, and ends `observed`.
//!
//! A state is written durably before its effect: `armed` before anything is prepared, `intent_journaled` before the hook is
//! spawned, `verifying` before anything is judged. In `armed` nothing runs, and nothing has an unknown outcome: it is the
//! only state from which the hook is begun.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The verdict is recorded, nothing is decided.
    Detected,
    /// Mode observe or a dry run: recorded with what would have been done.
    Observed,
    /// A person is asked: mode approve, or a rail that a person may overrule.
    AwaitingApproval,
    /// Decided or approved: the hook is to be run, and does not run. Also the pause before another attempt that it asked for.
    Armed,
    /// The hook is about to be spawned, or was and died with the agent before its pid was recorded.
    IntentJournaled,
    /// The hook's process is recorded, its end is not.
    HookRunning,
    HookDone,
    HookFailed,
    HookTimedOut,
    /// The hook ended; traffic shows whether it helped.
    Verifying,
    Recovered,
    /// A person is needed; repeated until acknowledged.
    Escalated,
    Closed,
}

/// What happens to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Mode observe: only recorded.
    Observe,
    /// A person is asked.
    Ask,
    /// A person said yes.
    Approve,
    /// A person said no.
    Reject,
    /// Mode enforce, and every rail holds.
    Arm,
    /// The same in a dry run.
    ArmRehearsal,
    /// The hook is about to be spawned.
    JournalIntent,
    /// The same in a dry run.
    JournalRehearsal,
    HookStarted,
    /// The hook ended with exit 75, and another attempt is left.
    TryAgain,
    HookDone,
    /// The hook ended in failure, or could not be started.
    HookFailed,
    HookTimedOut,
    /// The hook's effect is judged, also when nobody saw its exit because the agent had been killed.
    Verify,
    /// A dry run is over.
    Rehearsed,
    Recover,
    /// The good build costs as much: the cause was not the build.
    Exonerate,
    Escalate,
    /// A person acknowledged it, or it is of no matter any more.
    Close,
}

/// What a step changes in the ledger besides the state, in the same transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerEffect {
    Nothing,
    /// The incident is a dry run from now on.
    MarkRehearsal,
    /// The bad build is condemned, and the rollback counts for the cooldown and the day's limit.
    Condemn,
    /// The bad build is on probation again.
    Pardon,
}

/// Where a step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub to: State,
    pub effect: LedgerEffect,
}

/// A step that must not follow; the incident stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an incident that is {from} cannot take the step {step:?}")]
pub struct IllegalStep {
    pub from: State,
    pub step: Step,
}

/// What follows from a step: the only place where transitions are allowed.
pub fn transition(from: State, step: Step) -> Result<Transition, IllegalStep> {
    let to = next(from, step)?;
    let effect = match step {
        Step::ArmRehearsal => LedgerEffect::MarkRehearsal,
        Step::JournalIntent => LedgerEffect::Condemn,
        Step::Exonerate => LedgerEffect::Pardon,
        _ => LedgerEffect::Nothing,
    };
    Ok(Transition { to, effect })
}

fn next(from: State, step: Step) -> Result<State, IllegalStep> {
    match (from, step) {
        // What was armed before a crash is decided again, and may be decided otherwise.
        (State::Detected | State::Armed, Step::Observe)
        | (State::HookDone | State::HookFailed | State::HookTimedOut, Step::Rehearsed) => Ok(State::Observed),
        (State::Detected | State::Armed, Step::Ask) => Ok(State::AwaitingApproval),
        (State::Detected, Step::Arm)
        | (State::Detected | State::Armed, Step::ArmRehearsal)
        | (State::AwaitingApproval, Step::Approve)
        | (State::HookRunning, Step::TryAgain) => Ok(State::Armed),
        (State::Armed, Step::JournalIntent | Step::JournalRehearsal) => Ok(State::IntentJournaled),
        (State::IntentJournaled, Step::HookStarted) => Ok(State::HookRunning),
        (State::HookRunning, Step::HookDone) => Ok(State::HookDone),
        (State::IntentJournaled | State::HookRunning, Step::HookFailed) => Ok(State::HookFailed),
        (State::HookRunning, Step::HookTimedOut) => Ok(State::HookTimedOut),
        (State::HookDone | State::HookRunning, Step::Verify) => Ok(State::Verifying),
        (State::Verifying, Step::Recover) => Ok(State::Recovered),
        (State::Verifying, Step::Exonerate)
        | (
            State::Detected
            | State::AwaitingApproval
            | State::Armed
            | State::IntentJournaled
            | State::HookRunning
            | State::HookDone
            | State::HookFailed
            | State::HookTimedOut
            | State::Verifying,
            Step::Escalate,
        ) => Ok(State::Escalated),
        (State::AwaitingApproval, Step::Reject)
        | (State::Observed | State::AwaitingApproval | State::Recovered | State::Escalated, Step::Close) => {
            Ok(State::Closed)
        }
        (from, step) => Err(IllegalStep { from, step }),
    }
}

impl Step {
    pub const ALL: [Self; 19] = [
        Self::Observe,
        Self::Ask,
        Self::Approve,
        Self::Reject,
        Self::Arm,
        Self::ArmRehearsal,
        Self::JournalIntent,
        Self::JournalRehearsal,
        Self::HookStarted,
        Self::TryAgain,
        Self::HookDone,
        Self::HookFailed,
        Self::HookTimedOut,
        Self::Verify,
        Self::Rehearsed,
        Self::Recover,
        Self::Exonerate,
        Self::Escalate,
        Self::Close,
    ];
}

impl State {
    pub const ALL: [Self; 13] = [
        Self::Detected,
        Self::Observed,
        Self::AwaitingApproval,
        Self::Armed,
        Self::IntentJournaled,
        Self::HookRunning,
        Self::HookDone,
        Self::HookFailed,
        Self::HookTimedOut,
        Self::Verifying,
        Self::Recovered,
        Self::Escalated,
        Self::Closed,
    ];

    /// The name used in the store, in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::Observed => "observed",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Armed => "armed",
            Self::IntentJournaled => "intent_journaled",
            Self::HookRunning => "hook_running",
            Self::HookDone => "hook_done",
            Self::HookFailed => "hook_failed",
            Self::HookTimedOut => "hook_timed_out",
            Self::Verifying => "verifying",
            Self::Recovered => "recovered",
            Self::Escalated => "escalated",
            Self::Closed => "closed",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether this incident still stands in the way of another one for the same service and build.
    ///
    /// An observed one does: the same bad build would otherwise be observed again with every verdict.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Recovered | Self::Closed)
    }

    /// Whether a rollback is under way: decided, and neither verified nor given up.
    pub fn is_under_way(self) -> bool {
        matches!(
            self,
            Self::Armed
                | Self::IntentJournaled
                | Self::HookRunning
                | Self::HookDone
                | Self::HookFailed
                | Self::HookTimedOut
                | Self::Verifying
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows in the order of [`State::ALL`], columns in the order of [`Step::ALL`]; `.` is illegal, else the state's first
    /// letters (`+`: the bad build is condemned, `-`: pardoned, `*`: marked as a dry run).
    #[rustfmt::skip]
    const TABLE: [(&str, &str); 13] = [
        //                    obs ask app rej arm ar* int ih* sta try don fai tim ver reh rec exo esc clo
        ("detected",          "ob  aw  .   .   ar  ar* .   .   .   .   .   .   .   .   .   .   .   es  . "),
        ("observed",          ".   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   cl"),
        ("awaiting_approval", ".   .   ar  cl  .   .   .   .   .   .   .   .   .   .   .   .   .   es  cl"),
        ("armed",             "ob  aw  .   .   .   ar* in+ in  .   .   .   .   .   .   .   .   .   es  . "),
        ("intent_journaled",  ".   .   .   .   .   .   .   .   ru  .   .   fa  .   .   .   .   .   es  . "),
        ("hook_running",      ".   .   .   .   .   .   .   .   .   ar  do  fa  ti  ve  .   .   .   es  . "),
        ("hook_done",         ".   .   .   .   .   .   .   .   .   .   .   .   .   ve  ob  .   .   es  . "),
        ("hook_failed",       ".   .   .   .   .   .   .   .   .   .   .   .   .   .   ob  .   .   es  . "),
        ("hook_timed_out",    ".   .   .   .   .   .   .   .   .   .   .   .   .   .   ob  .   .   es  . "),
        ("verifying",         ".   .   .   .   .   .   .   .   .   .   .   .   .   .   .   re  es- es  . "),
        ("recovered",         ".   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   cl"),
        ("escalated",         ".   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   cl"),
        ("closed",            ".   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   .   . "),
    ];

    fn letters(transition: Transition) -> String {
        let name = transition.to.name();
        let state = name.strip_prefix("hook_").unwrap_or(name);
        let mark = match transition.effect {
            LedgerEffect::Nothing => "",
            LedgerEffect::MarkRehearsal => "*",
            LedgerEffect::Condemn => "+",
            LedgerEffect::Pardon => "-",
        };
        format!("{}{mark}", &state[..2])
    }

    #[test]
    fn every_state_takes_exactly_the_steps_of_the_table() {
        for (state, (name, row)) in State::ALL.into_iter().zip(TABLE) {
            assert_eq!(state.name(), name);
            let cells: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(cells.len(), Step::ALL.len());
            for (step, cell) in Step::ALL.into_iter().zip(cells) {
                let got = transition(state, step);
                match cell {
                    "." => assert_eq!(got, Err(IllegalStep { from: state, step }), "{state} {step:?}"),
                    to => assert_eq!(got.map(letters).as_deref(), Ok(to), "{state} {step:?}"),
                }
            }
        }
    }

    fn reachable(from: State) -> Vec<State> {
        let mut reached = vec![from];
        let mut index = 0;
        while let Some(&state) = reached.get(index) {
            for to in Step::ALL.into_iter().filter_map(|step| next(state, step).ok()) {
                if !reached.contains(&to) {
                    reached.push(to);
                }
            }
            index += 1;
        }
        reached
    }

    #[test]
    fn nothing_leads_back_to_the_hook_once_it_ended() {
        for ended in [State::HookDone, State::HookFailed, State::HookTimedOut, State::Verifying] {
            let reached = reachable(ended);
            for hook in [State::Armed, State::IntentJournaled, State::HookRunning] {
                assert!(!reached.contains(&hook), "{ended} leads to {hook}");
            }
            assert!(reached.contains(&State::Closed), "{ended} can never be closed");
        }
    }

    #[test]
    fn every_state_can_come_to_an_end() {
        for state in State::ALL {
            assert!(reachable(state).contains(&State::Closed), "{state}");
        }
    }

    #[test]
    fn names_round_trip_and_agree_with_json() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(State::from_name("splendid"), None);
    }
}
