//! Release windows: a new build whose first process began outside its service's window is told at once, as an incident of a
//! kind of its own. It is judged like any other, and what it costs is another incident.

use serde::Serialize;

use super::Agent;
use super::processes::Place;
use crate::config::{OnViolation, ReleaseWindow, ServiceConfig};
use crate::control::{OutsideStatus, ReleaseWindowStatus};
use crate::event::Event;
use crate::identity::Identified;
use crate::incident::{BuildState, Incident, IncidentKind, Moment, NewIncident, Step};
use crate::model::EndpointName;
use crate::release::Outside;
use crate::store::StoreError;
use crate::verdict::EVIDENCE_SCHEMA;

const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// A build that this agent has not seen for so long is gone, as it is for the judges.
const GONE_AFTER_NS: u64 = 600_000_000_000;

/// Incidents of builds that appeared outside a release window and are on probation.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: Vec<Incident>,
    looked_mono_ns: u64,
}

/// What the ledger keeps of such an incident.
#[derive(Debug, Serialize)]
struct Evidence<'a> {
    schema: u32,
    kind: IncidentKind,
    /// When its first process began.
    #[serde(flatten)]
    outside: &'a Outside,
    process: u32,
    /// From there to the incident.
    noticed_after_seconds: f64,
    allow: &'a [String],
    timezone: &'a str,
}

impl Windows {
    pub(super) fn of_an_earlier_agent(open: Vec<Incident>) -> Self {
        Self { open, looked_mono_ns: 0 }
    }
}

impl Agent {
    /// For a build that the ledger does not know, before it does: an agent that is killed in between tells it again, and
    /// the incident is there once.
    pub(super) fn check_release(&mut self, place: &Place, first: &Identified) -> Result<(), StoreError> {
        let config = &self.services[place.service].config;
        let Some(window) = &config.release_window else { return Ok(()) };
        let (now, age) = (Moment::now(), first.age());
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let Some(outside) = window.hours.outside(now.unix_ms.saturating_sub(age_ms)) else { return Ok(()) };
        let evidence = Evidence {
            schema: EVIDENCE_SCHEMA,
            kind: IncidentKind::ReleaseWindow,
            outside: &outside,
            process: first.pid,
            noticed_after_seconds: age.as_secs_f64(),
            allow: &window.allow,
            timezone: &window.timezone,
        };
        let new = NewIncident {
            service: config.name.clone(),
            endpoint: EndpointName::other(),
            bad_build: place.build.clone(),
            good_build: self.store.last_good_build(&config.name)?.map(|record| record.build),
            reason: sentence(place, &outside, window),
            evidence: serde_json::to_value(&evidence).unwrap_or_default(),
            mode: config.mode,
        };
        let note = note(first, age.as_secs_f64(), window.on_violation);
        let incident = match self.store.open_alert(IncidentKind::ReleaseWindow, &new, &note, &now) {
            Ok(incident) => incident,
            Err(StoreError::AlreadyOpen { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let reason = IncidentKind::ReleaseWindow.name();
        Event::IncidentOpened {
            service: &new.service,
            incident: incident.id.as_str(),
            reason,
            sentence: &new.reason,
        }
        .emit(&mut self.counters);
        Event::IncidentStep { service: &new.service, incident: incident.id.as_str(), step: &note }
            .emit(&mut self.counters);
        self.windows.open.push(incident);
        Ok(())
    }

    /// Closes the incidents whose build is not on probation any more: nobody is to be told of them again.
    pub(super) fn follow_windows(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.windows.looked_mono_ns) < LOOK_EVERY_NS {
            return;
        }
        self.windows.looked_mono_ns = now_mono_ns;
        for incident in std::mem::take(&mut self.windows.open) {
            let closed = self.close_if_over(&incident, now_mono_ns);
            if self.report("closing an incident", closed) != Some(true) {
                self.windows.open.push(incident);
            }
        }
    }

    fn close_if_over(&mut self, incident: &Incident, now_mono_ns: u64) -> Result<bool, StoreError> {
        let service = self.services.iter().find(|service| service.config.name == incident.service);
        let here = service.and_then(|service| service.builds.get(&incident.bad_build));
        if here.is_some_and(|build| build.state == BuildState::Probation) {
            return Ok(false);
        }
        let record = self.store.build(&incident.service, &incident.bad_build)?;
        let note = match record {
            Some(record) if record.state == BuildState::Probation => {
                // What an agent does not see in its first minutes may be about to start.
                if now_mono_ns.saturating_sub(self.started_mono_ns) < GONE_AFTER_NS {
                    return Ok(false);
                }
                "the build is gone".to_owned()
            }
            Some(record) => format!("the build is {} now: {}", record.state, record.why),
            None => "the build was forgotten".to_owned(),
        };
        self.store.advance(&incident.id, Step::Close, &note, &Moment::now())?;
        Event::IncidentStep { service: &incident.service, incident: incident.id.as_str(), step: &note }
            .emit(&mut self.counters);
        Ok(true)
    }

    pub(super) fn release_window_status(&self, service: usize) -> Option<ReleaseWindowStatus> {
        let config = &self.services[service].config;
        let window = config.release_window.as_ref()?;
        let now = jiff::Timestamp::from_millisecond(crate::clock::unix_ms()).ok()?;
        let outside = self.windows.open.iter().filter(|incident| incident.service == config.name);
        Some(ReleaseWindowStatus {
            allow: window.allow.clone(),
            timezone: window.timezone.clone(),
            open: window.hours.is_open(now),
            changes_unix_ms: window.hours.next_change(now).map(jiff::Timestamp::as_millisecond),
            outside: outside
                .map(|incident| OutsideStatus {
                    build: incident.bad_build.clone(),
                    incident: incident.id.to_string(),
                })
                .collect(),
        })
    }
}

fn sentence(place: &Place, outside: &Outside, window: &ReleaseWindow) -> String {
    let opens = match &outside.opens {
        Some(opens) => format!("which opens on {opens}"),
        None => "which does not open within eight days".to_owned(),
    };
    format!(
        "build {} appeared on {}, outside the release window ({}; {}), {opens}",
        place.build,
        outside.at,
        window.allow.join(", "),
        window.timezone
    )
}

fn note(first: &Identified, noticed_after_seconds: f64, on_violation: OnViolation) -> String {
    let done = match on_violation {
        OnViolation::Alert => "on_violation is \"alert\", so nothing is run",
        OnViolation::Rollback => {
            "on_violation is \"rollback\", which is not acted on in this version: nothing is run"
        }
    };
    format!(
        "noticed {noticed_after_seconds:.2} s after process {} began; {done}; open while the build is on probation",
        first.pid
    )
}

/// A configuration without its release windows: what is measured and judged.
pub(super) fn without_windows(services: &[ServiceConfig]) -> Vec<ServiceConfig> {
    let mut services = services.to_vec();
    for service in &mut services {
        service.release_window = None;
    }
    services
}
