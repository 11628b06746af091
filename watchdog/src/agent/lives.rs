//! The life of a build: it appears, is on probation and passes it, goes and comes back.

use std::collections::HashSet;

use super::Agent;
use super::keeping::{Kept, Unsaved};
use super::processes::Place;
use super::resumable::{Input, KeptJudge, Resumable};
use super::service::{Build, Judged};
use crate::event::{Event, Standing};
use crate::identity::Identified;
use crate::incident::{BuildState, Moment};
use crate::model::BuildId;
use crate::store::StoreError;

impl Agent {
    /// A build that this agent does not know: from the ledger, or new.
    pub(super) fn build_appeared(
        &mut self,
        place: &Place,
        first: &Identified,
        now_mono_ns: u64,
    ) -> Result<(), StoreError> {
        let known = self.store.build(&self.services[place.service].config.name, &place.build)?;
        let service = &self.services[place.service];
        let adopting = service.adopting;
        let name = &service.config.name.clone();
        let restored = self.is_restored(place, first)?;
        let (initial, why) = match self.manual.decisions.build(name, &place.build) {
            Some((decision, opinion)) => (opinion.state(), format!("{} by {}", opinion.name(), decision.who)),
            None if adopting => {
                (BuildState::Adopted, "ran when the agent first came to the service".to_owned())
            }
            None => (BuildState::Probation, "appeared after another build was known".to_owned()),
        };
        if known.is_none() && !adopting {
            self.check_release(place, first, initial, &why, now_mono_ns)?;
        }
        let record = self.store.build_appeared(name, &place.build, initial, &why, &Moment::now())?;
        let standing = match (&known, record.state) {
            (None, BuildState::Adopted) => Standing::Adopted,
            (None, BuildState::Probation) => Standing::New,
            (Some(_), BuildState::Probation) => Standing::OnProbation,
            (Some(_), BuildState::Adopted | BuildState::Good) if restored => Standing::Restored,
            (_, BuildState::Adopted | BuildState::Good) => Standing::Good,
            (_, BuildState::Condemned) => Standing::Condemned,
        };
        // One that a person condemned before anybody saw it has not been here before, so this is its coming.
        let returned = record.state == BuildState::Condemned
            && (known.is_none() || began_since(first, &record.state_since));
        let stored = self.store.figures(name, &place.build)?;
        let kept = Kept::read(&stored);
        let judged = self.judged_for(place.service, &place.build, record.state, kept.judge, now_mono_ns)?;
        let service = &mut self.services[place.service];
        let build = Build {
            state: record.state,
            slot: None,
            processes: HashSet::new(),
            youngest_mono_ns: None,
            served: false,
            first_seen_mono_ns: now_mono_ns,
            state_since: record.state_since,
            gone_since_mono_ns: None,
            idle_since_mono_ns: None,
            unsaved: Unsaved::after(&stored),
            guarded_ns: kept.guarded_ns,
            aggregate: kept.aggregate,
            judged,
            second: super::second::Second::default(),
        };
        service.builds.insert(place.build.clone(), build);
        let name = service.config.name.clone();
        Event::BuildAppeared { service: &name, build: &place.build, standing }.emit(&mut self.counters);
        if let Some(damaged) = kept.damaged {
            let why = format!("service {name}, build {}: {damaged}; it is left out", place.build);
            Event::Warning { what: "a part of the ledger cannot be read", why: &why }
                .emit(&mut self.counters);
        }
        if returned {
            self.condemned_is_back(place.service, &place.build);
        }
        Ok(())
    }

    /// Whether the process began after a build was first seen that is newer than its own.
    fn is_restored(&self, place: &Place, first: &Identified) -> Result<bool, StoreError> {
        let name = &self.services[place.service].config.name;
        let Some(latest) = self.store.builds(Some(name))?.into_iter().next() else { return Ok(false) };
        Ok(latest.build != place.build && began_since(first, &latest.first_seen))
    }

    /// Its last process had ended a moment ago.
    pub(super) fn build_is_back(
        &mut self,
        place: &Place,
        first: &Identified,
        now_mono_ns: u64,
    ) -> Result<(), StoreError> {
        let service = &self.services[place.service];
        let name = service.config.name.clone();
        let state = service.builds[&place.build].state;
        let restored = self.is_restored(place, first)?;
        let record = self.store.build_appeared(&name, &place.build, state, "came back", &Moment::now())?;
        let judge_missing = service.builds[&place.build].judged.is_none();
        let judged = if judge_missing {
            self.judged_for(place.service, &place.build, record.state, None, now_mono_ns)?
        } else {
            None
        };
        let returned = record.state == BuildState::Condemned && began_since(first, &record.state_since);
        if restored && record.state.is_restorable() {
            Event::BuildAppeared { service: &name, build: &place.build, standing: Standing::Restored }
                .emit(&mut self.counters);
        }
        let build = self.services[place.service].builds.get_mut(&place.build).expect("the caller looked");
        build.state = record.state;
        build.state_since = record.state_since;
        if judge_missing {
            build.judged = judged;
        }
        if returned {
            Event::BuildAppeared { service: &name, build: &place.build, standing: Standing::Condemned }
                .emit(&mut self.counters);
            self.condemned_is_back(place.service, &place.build);
        }
        Ok(())
    }

    /// A judge for a build in this state: the one that an earlier agent kept, else a new one: with the last good build on probation, by the absolute budgets alone when
    /// adopted, none otherwise.
    pub(super) fn judged_for(
        &self,
        service: usize,
        build: &BuildId,
        state: BuildState,
        kept: Option<(KeptJudge, Vec<Input>)>,
        now_mono_ns: u64,
    ) -> Result<Option<Judged>, StoreError> {
        let service = &self.services[service];
        let lost = self.lost_for_good();
        if matches!(state, BuildState::Probation | BuildState::Adopted)
            && let Some((kept, inputs)) = kept
            && let Some(baseline) = service.same_baseline(&self.store, build, &kept)?
        {
            return Ok(Some(Judged::of(Resumable::resume(kept, inputs, now_mono_ns), baseline, lost)));
        }
        let baseline = match state {
            BuildState::Probation => service.baseline(&self.store, build)?,
            BuildState::Adopted => None,
            BuildState::Good | BuildState::Condemned => return Ok(None),
        };
        Ok(Some(Judged::new(service, build, now_mono_ns, baseline, lost)))
    }
}

/// Whether a process began after that moment. A condemned build's own processes may stay, idle or ending, after the
/// rollback: an agent that starts anew, or loads a new configuration, must not take them for its return.
fn began_since(process: &Identified, then: &Moment) -> bool {
    process.age() < then.until(&Moment::now())
}
