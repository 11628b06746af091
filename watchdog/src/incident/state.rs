//! The state machine: which step may follow which.
//!
//! ```text
//! detected ──► observed ─────────────────────────────────────────────► closed
//!    │
//!    ├───────► awaiting_approval ──► (rejected) ─────────────────────► closed
//!    │                │
//!    ├────────────────┴► intent_journaled ◄─┐ exit 75
//!    │                      │      │        │
//!    │           not started│      └► hook_running ─► hook_done ─► verifying ─► recovered ─► closed
//!    │                      │           │      │ └──────────────────▲   │
//!    │                      ▼           │      │  exit seen by nobody   │
//!    │                  hook_failed ◄───┘      └► hook_timed_out        │
//!    │                      │                          │                │
//!    └► (refused) ──────────┴────────► escalated ◄─────┴────────────────┘
//!                                          └─────────────────────────► closed
//! ```
//! To `escalated` also lead `awaiting_approval`, `intent_journaled` and `hook_running`: what cannot be known after a crash.
//!
//! A state is written durably before its effect: `intent_journaled` before the hook is spawned, `verifying` before
//! anything is judged recovered.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The verdict is recorded, nothing is decided.
    Detected,
    /// Mode observe: recorded with what it would have done.
    Observed,
    /// Mode approve: a person is asked.
    AwaitingApproval,
    /// The hook is about to be spawned, or was and died with the agent before its pid was recorded.
    IntentJournaled,
    /// The hook's process is recorded, its end is not; or it asked to be tried again and the pause runs.
    HookRunning,
    HookDone,
    HookFailed,
    HookTimedOut,
    /// The hook ended; traffic shows whether it helped.
    Verifying,
    Recovered,
    /// A person is needed; repeated until closed.
    Escalated,
    Closed,
}

/// What happens to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Observe,
    AskApproval,
    /// A person said no.
    Reject,
    /// Decided or approved; also the next attempt after exit 75.
    JournalIntent,
    HookStarted,
    HookDone,
    /// The hook ended in failure, or could not be started.
    HookFailed,
    HookTimedOut,
    /// The hook ended; when nobody saw its exit (the agent had been killed), its effect is judged all the same.
    Verify,
    Recover,
    Escalate,
    Close,
}

/// A step that must not follow; the incident stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an incident that is {from} cannot take the step {step:?}")]
pub struct IllegalStep {
    pub from: State,
    pub step: Step,
}

/// The state after a step: the only place where transitions are allowed.
pub fn next(from: State, step: Step) -> Result<State, IllegalStep> {
    match (from, step) {
        (State::Detected, Step::Observe) => Ok(State::Observed),
        (State::Detected, Step::AskApproval) => Ok(State::AwaitingApproval),
        (State::Detected | State::AwaitingApproval | State::HookRunning, Step::JournalIntent) => {
            Ok(State::IntentJournaled)
        }
        (State::IntentJournaled, Step::HookStarted) => Ok(State::HookRunning),
        (State::HookRunning, Step::HookDone) => Ok(State::HookDone),
        (State::IntentJournaled | State::HookRunning, Step::HookFailed) => Ok(State::HookFailed),
        (State::HookRunning, Step::HookTimedOut) => Ok(State::HookTimedOut),
        (State::HookDone | State::HookRunning, Step::Verify) => Ok(State::Verifying),
        (State::Verifying, Step::Recover) => Ok(State::Recovered),
        (
            State::Detected
            | State::AwaitingApproval
            | State::IntentJournaled
            | State::HookRunning
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

impl State {
    pub const ALL: [Self; 12] = [
        Self::Detected,
        Self::Observed,
        Self::AwaitingApproval,
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
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 12] = [
        Step::Observe,
        Step::AskApproval,
        Step::Reject,
        Step::JournalIntent,
        Step::HookStarted,
        Step::HookDone,
        Step::HookFailed,
        Step::HookTimedOut,
        Step::Verify,
        Step::Recover,
        Step::Escalate,
        Step::Close,
    ];

    /// Rows in the order of [`State::ALL`], columns in the order of [`STEPS`]; `.` is illegal.
    #[rustfmt::skip]
    const TABLE: [(&str, &str); 12] = [
        //                    obs ask rej int sta don fai tim ver rec esc clo
        ("detected",          "o   a   .   i   .   .   .   .   .   .   e   ."),
        ("observed",          ".   .   .   .   .   .   .   .   .   .   .   c"),
        ("awaiting_approval", ".   .   c   i   .   .   .   .   .   .   e   c"),
        ("intent_journaled",  ".   .   .   .   r   .   f   .   .   .   e   ."),
        ("hook_running",      ".   .   .   i   .   d   f   t   v   .   e   ."),
        ("hook_done",         ".   .   .   .   .   .   .   .   v   .   .   ."),
        ("hook_failed",       ".   .   .   .   .   .   .   .   .   .   e   ."),
        ("hook_timed_out",    ".   .   .   .   .   .   .   .   .   .   e   ."),
        ("verifying",         ".   .   .   .   .   .   .   .   .   R   e   ."),
        ("recovered",         ".   .   .   .   .   .   .   .   .   .   .   c"),
        ("escalated",         ".   .   .   .   .   .   .   .   .   .   .   c"),
        ("closed",            ".   .   .   .   .   .   .   .   .   .   .   ."),
    ];

    fn letter(state: State) -> &'static str {
        match state {
            State::Detected => "D",
            State::Observed => "o",
            State::AwaitingApproval => "a",
            State::IntentJournaled => "i",
            State::HookRunning => "r",
            State::HookDone => "d",
            State::HookFailed => "f",
            State::HookTimedOut => "t",
            State::Verifying => "v",
            State::Recovered => "R",
            State::Escalated => "e",
            State::Closed => "c",
        }
    }

    #[test]
    fn every_state_takes_exactly_the_steps_of_the_table() {
        for (state, (name, row)) in State::ALL.into_iter().zip(TABLE) {
            assert_eq!(state.name(), name);
            let cells: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(cells.len(), STEPS.len());
            for (step, cell) in STEPS.into_iter().zip(cells) {
                let got = next(state, step);
                match cell {
                    "." => assert_eq!(got, Err(IllegalStep { from: state, step }), "{state} {step:?}"),
                    to => assert_eq!(got.map(letter), Ok(to), "{state} {step:?}"),
                }
            }
        }
    }

    #[test]
    fn nothing_leads_back_to_the_hook_once_it_ended() {
        for ended in [State::HookDone, State::HookFailed, State::HookTimedOut, State::Verifying] {
            let mut reached = vec![ended];
            let mut index = 0;
            while let Some(&state) = reached.get(index) {
                for to in STEPS.into_iter().filter_map(|step| next(state, step).ok()) {
                    if !reached.contains(&to) {
                        reached.push(to);
                    }
                }
                index += 1;
            }
            assert!(!reached.contains(&State::IntentJournaled), "{ended}");
            assert!(!reached.contains(&State::HookRunning), "{ended}");
            assert!(reached.contains(&State::Closed), "{ended} can never be closed");
        }
    }

    #[test]
    fn names_round_trip_and_agree_with_json() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(State::from_name("armed"), None);
    }
}
