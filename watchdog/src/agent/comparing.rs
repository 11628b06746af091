//! Builds on probation that came before enough was known of a good build.

use super::Agent;
use super::service::{Build, Service};
use crate::event::Event;
use crate::incident::BuildState;
use crate::model::BuildId;
use crate::store::StoreError;

/// Requests that a baseline needs do not come sooner than this matters.
const LOOK_EVERY_NS: u64 = 5_000_000_000;

impl Agent {
    /// Whether enough is known of a good build by now, for the judges that wait for one.
    pub(super) fn take_up_baselines(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.looked.for_baselines_ns) < LOOK_EVERY_NS {
            return;
        }
        self.looked.for_baselines_ns = now_mono_ns;
        let waiting = |(index, service): (usize, &Service)| {
            let waits = |build: &Build| {
                let judged = build.judged.as_ref();
                build.state == BuildState::Probation && judged.is_some_and(|it| it.judge.waits_for_baseline())
            };
            let builds = service.builds.iter().filter(|(_, build)| waits(build));
            builds.map(|(id, _)| (index, id.clone())).collect::<Vec<_>>()
        };
        let waiting: Vec<(usize, BuildId)> = self.services.iter().enumerate().flat_map(waiting).collect();
        for named in waiting {
            // What a judge must not see meanwhile is with a copy of it, which cannot take up anything.
            if !self.environment.holds(&named) {
                let taken_up = self.take_up_baseline(&named);
                self.report("looking for a good build to compare with", taken_up);
            }
        }
    }

    fn take_up_baseline(&mut self, named: &(usize, BuildId)) -> Result<(), StoreError> {
        let (index, id) = named;
        let service = &mut self.services[*index];
        let Some(baseline) = service.baseline(&self.store, id)? else { return Ok(()) };
        let resolved = service.resolved();
        let Some(judged) = service.builds.get_mut(id).and_then(|build| build.judged.as_mut()) else {
            return Ok(());
        };
        if judged.judge.take_up(&resolved, &baseline) {
            let with = baseline.build.clone();
            judged.baseline = Some(baseline);
            judged.stale = true;
            judged.shown = None;
            self.environment.begin_anew(named);
            let service = &self.services[*index].config.name;
            Event::Compared { service, build: id, with: &with }.emit(&mut self.counters);
        }
        Ok(())
    }
}
