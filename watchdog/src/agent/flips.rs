//! In-place deploys: the build changes under processes that run, when the symlink or file flips that names it.
//!
//! The kernel counts a request under the slot that its process had when it began. So all processes of the service are
//! moved to the new build's slot at once, and requests under way stay with the build that they began in.

use super::Agent;

impl Agent {
    /// Takes what inotify has to tell. Whether a build changed: events in the same directory are mostly about
    /// something else, and need no tick.
    pub(super) fn note_flips(&mut self) -> bool {
        self.flipped.extend(self.identifier.changed());
        !self.flipped.is_empty()
    }

    /// Asks for the build of the processes again whose source changed, and moves them.
    pub(super) fn follow_flips(&mut self, now_mono_ns: u64) {
        self.note_flips();
        let mut moved = Vec::new();
        for tgid in std::mem::take(&mut self.flipped) {
            let identified = self.identifier.identify(tgid);
            match self.report("reading a process", identified) {
                Some(Some(identified)) => {
                    if self.processes.moves(&identified) {
                        self.watch_at_once(&identified);
                    }
                    moved.push(identified);
                }
                Some(None) => self.unwatch(tgid, now_mono_ns),
                None => {}
            }
        }
        for identified in &moved {
            self.place(identified, now_mono_ns);
        }
    }
}
