//! Points in time that survive a restart of the agent, a reboot and a stepped clock.

use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::IncidentId;
use crate::model::BuildId;

/// A point in time on both clocks.
///
/// Durations are taken from the monotonic clock as long as the host was not rebooted in between, so that stepping the
/// wall clock neither shortens a cooldown nor empties the day's count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Wall clock, for people.
    pub unix_ms: i64,
    /// `CLOCK_MONOTONIC` of the boot named by `boot`.
    pub mono_ns: u64,
    /// The kernel's boot id.
    pub boot: String,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            unix_ms: crate::clock::unix_ms(),
            mono_ns: crate::clock::mono_ns(),
            boot: boot_id().to_owned(),
        }
    }

    /// Time from `self` to `now`.
    ///
    /// After a reboot only the wall clock knows, and the time since the boot is a lower bound whatever it says.
    pub fn until(&self, now: &Self) -> Duration {
        if self.boot == now.boot {
            return Duration::from_nanos(now.mono_ns.saturating_sub(self.mono_ns));
        }
        let wall =
            Duration::from_millis(u64::try_from(now.unix_ms.saturating_sub(self.unix_ms)).unwrap_or(0));
        wall.max(Duration::from_nanos(now.mono_ns))
    }
}

/// One id per boot of the kernel; the empty string where /proc does not tell.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    })
}

/// A rollback that was begun: its intent was journaled, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RollbackMark {
    pub incident: IncidentId,
    pub at: Moment,
    pub bad_build: BuildId,
    pub good_build: BuildId,
}

/// The rollbacks of one service, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollbackHistory(pub Vec<RollbackMark>);

impl RollbackHistory {
    /// Number of rollbacks begun less than `span` ago.
    pub fn within(&self, span: Duration, now: &Moment) -> u32 {
        let count = self.0.iter().filter(|mark| mark.at.until(now) < span).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Time since the last one.
    pub fn since_last(&self, now: &Moment) -> Option<Duration> {
        self.0.iter().map(|mark| mark.at.until(now)).min()
    }

    /// The last rollback, if it restored this build.
    pub fn restored(&self, build: &BuildId) -> Option<&RollbackMark> {
        self.0.first().filter(|mark| mark.good_build == *build)
    }

    /// The last rollback that took this build away.
    pub fn took_away(&self, build: &BuildId) -> Option<&RollbackMark> {
        self.0.iter().find(|mark| mark.bad_build == *build)
    }

    /// The rollbacks of other incidents.
    #[must_use]
    pub fn without(mut self, incident: &IncidentId) -> Self {
        self.0.retain(|mark| mark.incident != *incident);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const HOUR_NS: u64 = 3_600_000_000_000;

    fn at(unix_h: i64, mono_h: u64, boot: &str) -> Moment {
        Moment { unix_ms: unix_h * HOUR_MS, mono_ns: mono_h * HOUR_NS, boot: boot.to_owned() }
    }

    #[test]
    fn a_stepped_wall_clock_changes_no_duration_within_a_boot() {
        let then = at(1000, 5, "a");
        for step_h in [-24, 0, 24] {
            assert_eq!(then.until(&at(1001 + step_h, 6, "a")), Duration::from_hours(1));
        }
    }

    #[test]
    fn after_a_reboot_the_uptime_is_a_lower_bound() {
        let then = at(1000, 500, "a");
        assert_eq!(then.until(&at(1030, 2, "b")), Duration::from_hours(30));
        assert_eq!(then.until(&at(900, 2, "b")), Duration::from_hours(2), "clock went back over the reboot");
    }

    #[test]
    fn history_counts_by_age_and_knows_what_was_restored() {
        let mark = |mono_h, good: &str| RollbackMark {
            incident: format!("20170127-{good}").as_str().into(),
            at: at(0, mono_h, "a"),
            bad_build: "bad".into(),
            good_build: good.into(),
        };
        let history = RollbackHistory(vec![mark(50, "v3"), mark(40, "v2"), mark(1, "v1")]);
        let now = at(0, 51, "a");
        assert_eq!(history.within(Duration::from_hours(24), &now), 2);
        assert_eq!(history.since_last(&now), Some(Duration::from_hours(1)));
        assert_eq!(history.restored(&"v3".into()).map(|mark| mark.incident.as_str()), Some("20170127-v3"));
        assert!(history.restored(&"v2".into()).is_none());
        assert_eq!(history.took_away(&"bad".into()).map(|mark| mark.incident.as_str()), Some("20170127-v3"));
        assert!(history.took_away(&"v3".into()).is_none());
        let others = history.without(&"20170127-v3".into());
        assert_eq!(others.since_last(&now), Some(Duration::from_hours(11)));
        assert_eq!(RollbackHistory::default().since_last(&now), None);
    }

    #[test]
    fn now_reads_both_clocks() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second.mono_ns >= first.mono_ns);
        assert_eq!(first.boot.len(), 36);
    }
}
