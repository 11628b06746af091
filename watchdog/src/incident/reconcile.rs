//! What an agent does with the open incidents that it finds when it starts.
//!
//! The rule: a hook whose outcome is unknown is never run again. What cannot be known is escalated and says so.

use serde::{Deserialize, Serialize};

use super::{Attempt, Incident, State};

/// A hook's process, named so that a reused pid is not mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookProcess {
    /// Also its process group.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of /proc/PID/stat.
    pub start_ticks: u64,
    /// The kernel's boot id.
    pub boot: String,
}

/// What to do with one open incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciliation {
    /// Nothing was run yet: decide as if it was just detected.
    Decide,
    /// The last attempt ended and asked for another one: its outcome is known, so the hook is run again.
    Retry { attempt: u32 },
    /// A dry run whose hook ended.
    Rehearsed { note: String },
    /// Nothing to do: it waits for a person.
    Leave,
    /// The hook still runs: wait for it, then verify.
    Wait { attempt: u32, process: HookProcess },
    /// The hook ended well: go on verifying.
    Verify,
    /// A person must look, because of this.
    Escalate { note: String },
}

/// Decides for one open incident; `is_alive` looks a process up.
pub fn reconcile(
    incident: &Incident,
    last_attempt: Option<&Attempt>,
    is_alive: impl FnOnce(&HookProcess) -> bool,
) -> Reconciliation {
    let outcome =
        || last_attempt.and_then(|attempt| attempt.outcome.as_deref()).unwrap_or("no outcome recorded");
    match incident.state {
        State::Detected => Reconciliation::Decide,
        State::Armed => armed(last_attempt),
        State::Observed | State::AwaitingApproval | State::Escalated | State::Recovered | State::Closed => {
            Reconciliation::Leave
        }
        State::IntentJournaled => Reconciliation::Escalate {
            note: format!(
                "the agent was killed when it was about to start the hook (attempt {}); whether the hook ran is \
                 unknown, and it is not run again: check which build serves, roll back by hand if it is {}",
                last_attempt.map_or(1, |attempt| attempt.attempt),
                incident.bad_build
            ),
        },
        State::HookRunning => running(incident, last_attempt, is_alive),
        State::HookDone | State::HookFailed | State::HookTimedOut if incident.dry_run => {
            Reconciliation::Rehearsed {
                note: format!("the dry run is over, the hook's outcome: {}", outcome()),
            }
        }
        State::HookDone | State::Verifying => Reconciliation::Verify,
        State::HookFailed | State::HookTimedOut => Reconciliation::Escalate {
            note: format!(
                "the hook did not succeed ({}), and the agent was killed before it could say so",
                outcome()
            ),
        },
    }
}

/// In this state nothing runs, and every attempt so far has a known end.
fn armed(last_attempt: Option<&Attempt>) -> Reconciliation {
    match last_attempt {
        None => Reconciliation::Decide,
        Some(Attempt { attempt, outcome: Some(_), .. }) => Reconciliation::Retry { attempt: attempt + 1 },
        Some(Attempt { attempt, .. }) => Reconciliation::Escalate {
            note: format!("attempt {attempt} of the hook has no recorded end, and it is not run again"),
        },
    }
}

fn running(
    incident: &Incident,
    last_attempt: Option<&Attempt>,
    is_alive: impl FnOnce(&HookProcess) -> bool,
) -> Reconciliation {
    let Some(Attempt { attempt, process: Some(process), .. }) = last_attempt else {
        return Reconciliation::Escalate {
            note: "the hook was started but its process was not recorded; it is not run again".to_owned(),
        };
    };
    if is_alive(process) {
        return Reconciliation::Wait { attempt: *attempt, process: process.clone() };
    }
    Reconciliation::Escalate {
        note: format!(
            "the agent was killed while the hook ran (attempt {attempt}, pid {}); the hook has ended since and its \
             outcome is unknown, and it is not run again: check which build serves, roll back by hand if it is {}",
            process.pid, incident.bad_build
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::incident::{IncidentKind, Moment};

    fn moment() -> Moment {
        Moment { unix_ms: 0, mono_ns: 0, boot: "boot".to_owned() }
    }

    fn incident(state: State) -> Incident {
        Incident {
            id: "20170127-00000000".into(),
            kind: IncidentKind::Cost,
            service: "web".into(),
            endpoint: "login".into(),
            bad_build: "v2".into(),
            good_build: Some("v1".into()),
            reason: "too dear".to_owned(),
            evidence: serde_json::json!({}),
            mode: Mode::Enforce,
            state,
            detected: moment(),
            state_since: moment(),
            intent: None,
            approved_by: None,
            rejected_by: None,
            dry_run: false,
        }
    }

    fn process() -> HookProcess {
        HookProcess { pid: 4711, start_ticks: 99, boot: "boot".to_owned() }
    }

    fn attempt(process: Option<HookProcess>, outcome: Option<&str>) -> Attempt {
        Attempt {
            attempt: 2,
            journaled: moment(),
            process,
            started: None,
            ended: None,
            outcome: outcome.map(str::to_owned),
            exit_code: None,
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    fn note(reconciliation: Reconciliation) -> String {
        match reconciliation {
            Reconciliation::Escalate { note } => note,
            other => panic!("not escalated: {other:?}"),
        }
    }

    #[test]
    fn what_was_not_run_is_decided_and_what_waits_is_left() {
        let of = |state| reconcile(&incident(state), None, |_| panic!("no process to look up"));
        assert_eq!(of(State::Detected), Reconciliation::Decide);
        for state in [State::Observed, State::AwaitingApproval, State::Escalated] {
            assert_eq!(of(state), Reconciliation::Leave);
        }
        assert_eq!(of(State::HookDone), Reconciliation::Verify);
        assert_eq!(of(State::Verifying), Reconciliation::Verify);
    }

    #[test]
    fn an_intent_without_a_process_is_escalated() {
        let said = note(reconcile(&incident(State::IntentJournaled), Some(&attempt(None, None)), |_| {
            panic!("no pid")
        }));
        assert!(
            said.contains("attempt 2") && said.contains("not run again") && said.contains("v2"),
            "{said}"
        );
    }

    #[test]
    fn a_running_hook_is_waited_for_and_a_vanished_one_escalated() {
        let attempt = attempt(Some(process()), None);
        let found = reconcile(&incident(State::HookRunning), Some(&attempt), |asked| *asked == process());
        assert_eq!(found, Reconciliation::Wait { attempt: 2, process: process() });
        let said = note(reconcile(&incident(State::HookRunning), Some(&attempt), |_| false));
        assert!(said.contains("pid 4711") && said.contains("unknown"), "{said}");
    }

    #[test]
    fn a_pause_between_attempts_is_gone_on_with() {
        let again = attempt(Some(process()), Some("exit 75: try again"));
        let of = |attempt| reconcile(&incident(State::Armed), attempt, |_| panic!("it ended"));
        assert_eq!(of(Some(&again)), Reconciliation::Retry { attempt: 3 });
        assert_eq!(of(None), Reconciliation::Decide);
        assert!(note(of(Some(&attempt(Some(process()), None)))).contains("no recorded end"));
    }

    #[test]
    fn a_dry_run_ends_whatever_the_hook_said() {
        for state in [State::HookDone, State::HookFailed, State::HookTimedOut] {
            let rehearsed = Incident { dry_run: true, ..incident(state) };
            let found = reconcile(&rehearsed, Some(&attempt(Some(process()), Some("exit 3"))), |_| false);
            assert!(
                matches!(&found, Reconciliation::Rehearsed { note } if note.contains("exit 3")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_failure_nobody_told_is_escalated() {
        let attempt = attempt(Some(process()), Some("exit 3"));
        for state in [State::HookFailed, State::HookTimedOut] {
            let said = note(reconcile(&incident(state), Some(&attempt), |_| false));
            assert!(said.contains("exit 3"), "{said}");
        }
    }
}
