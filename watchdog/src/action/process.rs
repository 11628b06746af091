//! A hook's process from outside: who it is, whether it lives, and its end.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};
use tokio::time::{Instant, sleep, sleep_until};

use super::command::HookKind;
use crate::incident::{HookProcess, IncidentId};

pub(super) const POLL: Duration = Duration::from_millis(20);
/// How long the rest of the group has after its leader obeyed SIGTERM.
const LINGER: Duration = Duration::from_millis(500);

/// Identity of a process that exists; for a child that was not waited for it always does.
pub(super) fn identify(pid: u32) -> Option<HookProcess> {
    let pid = i32::try_from(pid).ok()?;
    let (_, start_ticks) = stat(pid)?;
    Some(HookProcess { pid, start_ticks, boot: crate::incident::boot_id().to_owned() })
}

/// The running rollback hook of an incident, recognised by its environment: for the moment between the fork and the
/// record of the pid. `None` also when /proc may not be read, which needs `CAP_SYS_PTRACE` for another user's process.
pub(super) fn find(incident: &IncidentId) -> Option<HookProcess> {
    // A hook that runs before or beside it has the same incident.
    let wanted = [
        format!("LOAD_WATCHDOG_INCIDENT={incident}"),
        format!("LOAD_WATCHDOG_HOOK={}", HookKind::Rollback.name()),
    ];
    let has_variables = |pid: u32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            let has = |variable: &String| {
                environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
            };
            wanted.iter().all(has)
        })
    };
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| has_variables(*pid))
        .filter_map(identify)
        // Its children have the variable too; the hook itself leads its group.
        .find(|process| getpgid(Some(Pid::from_raw(process.pid))) == Ok(Pid::from_raw(process.pid)))
        .filter(is_alive)
}

/// Whether the very process still runs: same boot, same start time, not merely a zombie.
pub(super) fn is_alive(process: &HookProcess) -> bool {
    process.boot == crate::incident::boot_id()
        && stat(process.pid).is_some_and(|(state, start_ticks)| {
            start_ticks == process.start_ticks && !matches!(state, 'Z' | 'X')
        })
}

/// State and start time (fields 3 and 22) of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in field 2 may hold spaces and parentheses: the fields are counted from its last `)`.
fn parse_stat(line: &str) -> Option<(char, u64)> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// Waits until the process has ended; it need not be a child.
pub(super) async fn ended(process: &HookProcess) {
    while is_alive(process) {
        sleep(POLL).await;
    }
}

/// Ends a process group: SIGTERM, up to `grace` for its leader, SIGKILL for whatever is left.
///
/// A child must not have been waited for: as long as its pid is taken, the group's number cannot be reused. For the
/// child of an earlier agent nobody can promise that; half a second is too short for all pids to come round.
/// Returns whether the leader had to be killed. A webhook is recorded under the agent's own process, which is left alone.
pub(super) async fn end_group(leader: &HookProcess, grace: Duration) -> bool {
    if leader.pid <= 1 || Pid::from_raw(leader.pid) == Pid::this() {
        return false;
    }
    let group = Pid::from_raw(leader.pid);
    let signal = |signal| {
        if let Err(errno) = killpg(group, signal) {
            tracing::warn!(pid = leader.pid, %errno, "cannot send {signal} to the hook's process group");
        }
    };
    let deadline = Instant::now() + grace;
    signal(Signal::SIGTERM);
    // A stopped process takes SIGTERM only when continued.
    signal(Signal::SIGCONT);
    let obeyed = tokio::select! {
        () = ended(leader) => true,
        () = sleep_until(deadline) => false,
    };
    if obeyed {
        sleep_until(deadline.min(Instant::now() + LINGER)).await;
    }
    signal(Signal::SIGKILL);
    !obeyed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let line = "4711 (a) b ( c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(line), Some(('S', 987_654)));
        for broken in ["", "4711", "4711 (a)", "4711 (a) S 1 2"] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_process_is_itself_and_a_reused_pid_is_not() {
        let own = identify(std::process::id()).unwrap();
        assert!(is_alive(&own));
        assert!(!is_alive(&HookProcess { start_ticks: own.start_ticks + 1, ..own.clone() }));
        assert!(!is_alive(&HookProcess { boot: "another".to_owned(), ..own }));
    }
}
