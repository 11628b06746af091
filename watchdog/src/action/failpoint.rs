//! Where a test kills the agent: the steps between which nothing else is journaled.

use std::fmt;

/// A step of an incident's course that was just completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The incident is on disk, nothing is decided.
    Detected,
    /// The decision is on disk; when it is to act, nothing is prepared.
    Decided,
    /// The intent is on disk, the hook is not spawned.
    IntentJournaled,
    /// The hook is spawned, its process is not on disk.
    Spawned,
    /// The hook's process is on disk.
    StartRecorded,
    /// The hook ended, its outcome is not on disk.
    Ended,
    /// The outcome is on disk, what follows from it is not. Also before another attempt.
    EndRecorded,
    /// The step into verifying, or the escalation of a failed hook, is on disk, and nobody was told.
    Concluded,
    /// The verification has its result, which is not on disk.
    Verified,
    /// The result is on disk, and nobody was told.
    Settled,
}

impl Point {
    pub const ALL: [Self; 10] = [
        Self::Detected,
        Self::Decided,
        Self::IntentJournaled,
        Self::Spawned,
        Self::StartRecorded,
        Self::Ended,
        Self::EndRecorded,
        Self::Concluded,
        Self::Verified,
        Self::Settled,
    ];

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|point| point.to_string() == name)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Called at every [`Point`]; the agent's own does nothing.
pub trait FailPoint: Send + Sync {
    fn reached(&self, point: Point);
}

#[derive(Clone, Copy, Debug)]
pub struct NoFailPoint;

impl FailPoint for NoFailPoint {
    fn reached(&self, _: Point) {}
}

/// Dies as by `kill -9` at a point.
#[derive(Clone, Copy, Debug)]
pub struct DieAt(pub Point);

impl FailPoint for DieAt {
    fn reached(&self, point: Point) {
        if point == self.0 {
            // It cannot fail for the own process, and does not return.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Names the [`Point`] at which an agent of a debug build kills itself. A release build knows nothing of it.
pub const DIE_AT: &str = "LOAD_WATCHDOG_DIE_AT";

/// The agent's own.
pub(super) fn of_this_program() -> std::sync::Arc<dyn FailPoint> {
    #[cfg(debug_assertions)]
    if let Some(point) = std::env::var(DIE_AT).ok().and_then(|name| Point::from_name(&name)) {
        tracing::warn!(%point, "a test lets this agent die");
        return std::sync::Arc::new(DieAt(point));
    }
    std::sync::Arc::new(NoFailPoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names_that_round_trip() {
        for point in Point::ALL {
            assert_eq!(Point::from_name(&point.to_string()), Some(point));
        }
        assert_eq!(Point::from_name("Nowhere"), None);
    }
}
