//! Release windows: a new build whose first process began outside its service's window is told at once, as an incident of a
//! kind of its own. It is judged like any other, and what it costs is another incident.
//!
//! With `on_violation = "rollback"`, and when anybody is there, the incident goes the way of every other: see
//! [`super::rollback`] for that, and [`super::held`] for what follows.

use serde::Serialize;

use super::Agent;
use super::processes::Place;
use super::users::Seen;
use crate::config::{OnViolation, ReleaseWindow, ServiceConfig};
use crate::control::{OutsideStatus, ReleaseWindowStatus};
use crate::event::Event;
use crate::identity::Identified;
use crate::incident::{BuildState, Incident, IncidentKind, Moment, NewIncident, State};
use crate::model::EndpointName;
use crate::release::Outside;
use crate::store::{Release, StoreError};
use crate::verdict::EVIDENCE_SCHEMA;

/// Incidents of builds that appeared outside a release window.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Those that run nothing, of builds on probation.
    pub(super) open: Vec<Incident>,
    /// To be decided on with the first request of their builds. Sooner, whoever deploys may not have switched to the build yet,
    /// and would do so after the rollback.
    pub(super) undecided: Vec<Incident>,
    pub(super) looked_mono_ns: u64,
    /// No build is held back, as far as was looked.
    pub(super) none_held: bool,
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
    freezes: Vec<String>,
    timezone: &'a str,
    /// Of the service, when it was noticed.
    users: Seen,
}

impl Windows {
    /// The others are carried on with those of any kind.
    pub(super) fn of_an_earlier_agent(mut open: Vec<Incident>) -> Self {
        let undecided = open.extract_if(.., |incident| incident.state == State::Detected).collect();
        open.retain(|incident| incident.state == State::Observed);
        Self { open, undecided, ..Self::default() }
    }

    /// An incident that nothing more is done about, if it is one of these.
    pub(super) fn observed(&mut self, incident: Incident) {
        if incident.kind == IncidentKind::ReleaseWindow {
            self.open.push(incident);
        }
    }
}

impl Agent {
    /// For a build that the ledger does not know, and that it knows then: an agent that is killed in between tells it again,
    /// and the incident is there once. See [`Agent::decide_releases`] for what is to be decided on.
    pub(super) fn check_release(
        &mut self,
        place: &Place,
        first: &Identified,
        initial: BuildState,
        why: &str,
        now_mono_ns: u64,
    ) -> Result<(), StoreError> {
        let service = &self.services[place.service];
        let config = &service.config;
        let Some(window) = &config.release_window else { return Ok(()) };
        let (now, age) = (Moment::now(), first.age());
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let Some(outside) = window.hours.outside(now.unix_ms.saturating_sub(age_ms)) else { return Ok(()) };
        let users = service.users.seen(now_mono_ns, window.users_within);
        let evidence = Evidence {
            schema: EVIDENCE_SCHEMA,
            kind: IncidentKind::ReleaseWindow,
            outside: &outside,
            process: first.pid,
            noticed_after_seconds: age.as_secs_f64(),
            allow: &window.allow,
            freezes: window.freezes.iter().map(ToString::to_string).collect(),
            timezone: &window.timezone,
            users,
        };
        let new = NewIncident {
            service: config.name.clone(),
            endpoint: EndpointName::other(),
            bad_build: place.build.clone(),
            good_build: self.store.last_good_build(&config.name)?.map(|record| record.build),
            reason: sentence(place, &outside, window, &users),
            evidence: serde_json::to_value(&evidence).unwrap_or_default(),
            mode: config.mode,
        };
        let noticed = format!("noticed {:.2} s after process {} began", age.as_secs_f64(), first.pid);
        let only_told = only_told(window.on_violation, initial, why, &users);
        let alert = only_told.map(|because| {
            format!("{noticed}; {because}, so nothing is run; open while the build is on probation")
        });
        let release = Release { initial, why, alert: alert.as_deref() };
        let incident = match self.driver.open_release(&new, &release) {
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
        let step =
            alert.unwrap_or_else(|| format!("{noticed}; decided on with its first request on an endpoint"));
        let is_alert = incident.state == State::Observed;
        Event::IncidentStep { service: &new.service, incident: incident.id.as_str(), step: &step }
            .emit(&mut self.counters);
        if is_alert {
            self.windows.open.push(incident);
        } else {
            self.windows.undecided.push(incident);
        }
        Ok(())
    }

    /// Builds that serve: the mode and the rails decide, as about any other incident.
    pub(super) fn decide_releases(&mut self) {
        for incident in std::mem::take(&mut self.windows.undecided) {
            let Some(index) = self.index_of(&incident.service) else {
                self.give_up(&incident.id, super::rollback::REMOVED);
                continue;
            };
            let build = self.services[index].builds.get(&incident.bad_build);
            if build.is_some_and(|build| build.served) {
                self.decide_incident(index, incident);
            } else {
                self.windows.undecided.push(incident);
            }
        }
    }

    pub(super) fn release_window_status(&self, service: usize) -> Option<ReleaseWindowStatus> {
        let config = &self.services[service].config;
        let window = config.release_window.as_ref()?;
        let now = jiff::Timestamp::from_millisecond(crate::clock::unix_ms()).ok()?;
        let active = self.incidents.active.iter().map(|active| &active.incident);
        let escalated = self.incidents.escalated.iter().map(|(incident, _)| incident);
        let carried = active.chain(escalated).filter(|it| it.kind == IncidentKind::ReleaseWindow);
        let outside = self.windows.open.iter().chain(&self.windows.undecided).chain(carried);
        let outside = outside.filter(|incident| incident.service == config.name);
        Some(ReleaseWindowStatus {
            allow: window.allow.clone(),
            timezone: window.timezone.clone(),
            open: window.hours.is_open(now),
            freeze: window.hours.freeze(now).map(|freeze| freeze.to_string()),
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

fn sentence(place: &Place, outside: &Outside, window: &ReleaseWindow, users: &Seen) -> String {
    let opens = match &outside.opens {
        Some(opens) => format!("which opens on {opens}"),
        None => "which does not open within eight days".to_owned(),
    };
    let hours = format!("{}; {}", window.allow.join(", "), window.timezone);
    let place_in_time = match &outside.freeze {
        Some(freeze) => {
            format!("in the freeze {freeze}, when the release window ({hours}) is closed, {opens}")
        }
        None => format!("outside the release window ({hours}), {opens}"),
    };
    format!(
        "build {} appeared on {}, {place_in_time}; the service had {}",
        place.build,
        outside.at,
        users.sentence()
    )
}

/// Why nothing is to be run; `None`: the mode and the rails decide that.
fn only_told(on_violation: OnViolation, initial: BuildState, why: &str, users: &Seen) -> Option<String> {
    match on_violation {
        OnViolation::Alert => Some("on_violation is \"alert\"".to_owned()),
        OnViolation::Rollback if initial != BuildState::Probation => {
            Some(format!("on_violation is \"rollback\", and the build was {why}"))
        }
        OnViolation::Rollback if users.requests == 0 => {
            Some(format!("on_violation is \"rollback\", and nobody was there ({})", users.sentence()))
        }
        OnViolation::Rollback => None,
    }
}

/// A configuration without its release windows: what is measured and judged.
pub(super) fn without_windows(services: &[ServiceConfig]) -> Vec<ServiceConfig> {
    let mut services = services.to_vec();
    for service in &mut services {
        service.release_window = None;
    }
    services
}
