//! What follows from a release outside its window: when its incident is closed, and what becomes of its build.
//!
//! A build that was rolled back for when it appeared was not found bad. It is condemned like any other, so that `gate` refuses
//! it and nobody brings it back unnoticed, but only until the window opens; and not while it serves all the same, since a
//! condemned build is not judged.

use super::Agent;
use super::rollback::{Active, Phase};
use crate::event::Event;
use crate::incident::{BuildState, Incident, IncidentKind, Moment, State, Step};
use crate::model::{BuildId, EndpointName};
use crate::store::StoreError;

const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// A build that this agent has not seen for so long is gone, as it is for the judges.
const GONE_AFTER_NS: u64 = 600_000_000_000;

impl Agent {
    /// Decides on releases whose builds serve. Once a second: lifts what is over, and closes the incidents that nobody needs to
    /// be told of again.
    pub(super) fn follow_windows(&mut self, now_mono_ns: u64) {
        self.decide_releases();
        if now_mono_ns.saturating_sub(self.windows.looked_mono_ns) < LOOK_EVERY_NS {
            return;
        }
        self.windows.looked_mono_ns = now_mono_ns;
        let any_window = self.services.iter().any(|service| service.config.release_window.is_some());
        if any_window || !self.windows.none_held {
            let lifted = self.lift_what_is_over();
            self.report("lifting a condemnation", lifted);
        }
        for incident in std::mem::take(&mut self.windows.undecided) {
            let told = self.only_tell_if_over(&incident, now_mono_ns);
            match self.report("closing an incident", told).flatten() {
                Some(observed) => self.windows.open.push(observed),
                None => self.windows.undecided.push(incident),
            }
        }
        for incident in std::mem::take(&mut self.windows.open) {
            let closed = self.close_if_over(&incident, now_mono_ns);
            if self.report("closing an incident", closed) != Some(true) {
                self.windows.open.push(incident);
            }
        }
        let is_waiting = |active: &&Active| {
            active.incident.kind == IncidentKind::ReleaseWindow
                && matches!(active.phase, Phase::AwaitingApproval { .. })
        };
        let waiting: Vec<Incident> =
            self.incidents.active.iter().filter(is_waiting).map(|active| active.incident.clone()).collect();
        for incident in waiting {
            let closed = self.close_if_over(&incident, now_mono_ns);
            if self.report("closing an incident", closed) == Some(true) {
                self.incidents.active.retain(|active| active.incident.id != incident.id);
            }
        }
    }

    /// Of a build that did not serve, so that nothing was decided.
    fn only_tell_if_over(
        &mut self,
        incident: &Incident,
        now_mono_ns: u64,
    ) -> Result<Option<Incident>, StoreError> {
        let Some(why) = self.is_over(incident, now_mono_ns)? else { return Ok(None) };
        let note = format!("nothing is run, as the build has not served a request: {why}");
        let observed = self.store.advance(&incident.id, Step::Observe, &note, &Moment::now())?;
        Event::IncidentStep { service: &incident.service, incident: incident.id.as_str(), step: &note }
            .emit(&mut self.counters);
        Ok(Some(observed))
    }

    fn close_if_over(&mut self, incident: &Incident, now_mono_ns: u64) -> Result<bool, StoreError> {
        let Some(note) = self.is_over(incident, now_mono_ns)? else { return Ok(false) };
        match self.store.advance(&incident.id, Step::Close, &note, &Moment::now()) {
            // A person was faster.
            Err(StoreError::IllegalStep(_)) => return Ok(true),
            closed => closed?,
        };
        Event::IncidentStep { service: &incident.service, incident: incident.id.as_str(), step: &note }
            .emit(&mut self.counters);
        Ok(true)
    }

    /// Why an incident that runs nothing is of no matter any more.
    fn is_over(&self, incident: &Incident, now_mono_ns: u64) -> Result<Option<String>, StoreError> {
        let index = self.index_of(&incident.service);
        let here = index.and_then(|index| self.services[index].builds.get(&incident.bad_build));
        let waits = matches!(incident.state, State::AwaitingApproval | State::Detected);
        if waits && index.is_some_and(|index| self.has_opened(index, &incident.detected)) {
            return Ok(Some("the release window has opened: the build may stay".to_owned()));
        }
        if here.is_some_and(|build| build.state == BuildState::Probation) {
            return Ok(None);
        }
        let record = self.store.build(&incident.service, &incident.bad_build)?;
        Ok(match record {
            Some(record) if record.state == BuildState::Probation => {
                // What an agent does not see in its first minutes may be about to start.
                let gone = now_mono_ns.saturating_sub(self.started_mono_ns) >= GONE_AFTER_NS;
                gone.then(|| "the build is gone".to_owned())
            }
            Some(record) => {
                let held = record.state == BuildState::Condemned
                    && self.held_back(&incident.service, &incident.bad_build)?.is_some();
                (!held).then(|| format!("the build is {} now: {}", record.state, record.why))
            }
            None => Some("the build was forgotten".to_owned()),
        })
    }

    /// Whether the window of a service was open since, or is configured no more. The wall clock decides: it is a matter of the
    /// calendar.
    fn has_opened(&self, service: usize, since: &Moment) -> bool {
        let window = self.services[service].config.release_window.as_ref();
        window.is_none_or(|window| window.hours.opened_between(since.unix_ms, crate::clock::unix_ms()))
    }

    /// The incident by which a build is condemned for when it appeared, and for nothing else.
    fn held_back(
        &self,
        service: &crate::model::ServiceName,
        build: &BuildId,
    ) -> Result<Option<Incident>, StoreError> {
        let held = self.store.held_back()?;
        Ok(held.into_iter().find(|held| held.service == *service && held.bad_build == *build))
    }

    fn lift_what_is_over(&mut self) -> Result<(), StoreError> {
        let held_back = self.store.held_back()?;
        self.windows.none_held = held_back.is_empty();
        for held in held_back {
            let Some(service) = self.index_of(&held.service) else { continue };
            if held.state.is_under_way() {
                continue;
            }
            let since = held.intent.as_ref().unwrap_or(&held.detected);
            if self.has_opened(service, since) {
                self.lift(&held, "the release window has opened since")?;
            } else if held.state == State::Escalated && self.runs(service, &held.bad_build) {
                self.lift(&held, "its rollback did not take it away, and it is judged")?;
            }
        }
        Ok(())
    }

    fn lift(&mut self, held: &Incident, because: &str) -> Result<(), StoreError> {
        let why = format!("held back by incident {} until now: {because}", held.id);
        if self.store.lift(held, &why, &Moment::now())? {
            let step = format!("build {} is on probation again: {because}", held.bad_build);
            Event::IncidentStep { service: &held.service, incident: held.id.as_str(), step: &step }
                .emit(&mut self.counters);
            self.renew_build(&held.service, &held.bad_build, true)?;
        }
        Ok(())
    }

    /// A build that was condemned runs again: an incident at once, from the ledger.
    pub(super) fn condemned_is_back(&mut self, service: usize, bad: &BuildId) {
        let under_way = self
            .incidents
            .active
            .iter()
            .any(|active| active.service == service && active.incident.bad_build == *bad);
        if under_way {
            return;
        }
        let opened = self.open_for_return(service, bad);
        self.report("opening an incident", opened);
    }

    fn open_for_return(&mut self, service: usize, bad: &BuildId) -> Result<(), StoreError> {
        let schema = crate::verdict::EVIDENCE_SCHEMA;
        let name = self.services[service].config.name.clone();
        let Some(held) = self.held_back(&name, bad)? else {
            let reason = format!("build {bad} was condemned before and is back");
            let evidence = serde_json::json!({ "schema": schema, "condemned": true });
            let (kind, label) = (IncidentKind::Cost, "condemned_build");
            return self.open_new(service, kind, bad, EndpointName::other(), &reason, evidence, label);
        };
        if self.has_opened(service, held.intent.as_ref().unwrap_or(&held.detected)) {
            return self.lift(&held, "the release window has opened since");
        }
        let kind = IncidentKind::ReleaseWindow;
        let reason = format!(
            "build {bad} was rolled back by incident {} and is back before the release window opens",
            held.id
        );
        let evidence = serde_json::json!({ "schema": schema, "kind": kind, "held_back_by": held.id });
        self.open_new(service, kind, bad, EndpointName::other(), &reason, evidence, kind.name())
    }

    /// A rollback took its build away: what else waits for approval of a person to do so is of no matter any more.
    pub(super) fn close_others(&mut self, by: &Incident) {
        let is_other = |active: &&Active| {
            let incident = &active.incident;
            matches!(active.phase, Phase::AwaitingApproval { .. })
                && incident.service == by.service
                && incident.bad_build == by.bad_build
        };
        let others: Vec<(usize, Incident)> = self
            .incidents
            .active
            .iter()
            .filter(is_other)
            .map(|active| (active.service, active.incident.clone()))
            .collect();
        for (service, other) in others {
            let closed = self.store.close_taken_away(&other, by, &Moment::now());
            if self.report("closing an incident", closed).is_none() {
                continue;
            }
            self.incidents.active.retain(|active| active.incident.id != other.id);
            self.refresh_state(service, &other.bad_build);
            let step = format!("closed: incident {} took the build away", by.id);
            Event::IncidentStep { service: &other.service, incident: other.id.as_str(), step: &step }
                .emit(&mut self.counters);
        }
    }
}
