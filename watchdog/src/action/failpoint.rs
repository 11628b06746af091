//! Where a test kills the agent: the steps between which nothing else is journaled.

/// A step of the driver that was just completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The intent is on disk, the hook is not spawned.
    IntentJournaled,
    /// The hook is spawned, its process is not on disk.
    Spawned,
    /// The hook's process is on disk.
    StartRecorded,
    /// The hook ended, its outcome is not on disk.
    Ended,
    /// The outcome is on disk, what follows from it is not.
    EndRecorded,
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
