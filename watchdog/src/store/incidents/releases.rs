//! Builds that appeared outside their service's release window: their incidents, and which of them are held back.

use rusqlite::params;

use super::{insert, pardon, set_state, take};
use crate::incident::{BuildState, Incident, IncidentKind, Moment, NewIncident, Step};
use crate::model::{BuildId, ServiceName};
use crate::store::builds::appear;
use crate::store::{Result, Store};

/// What the ledger is told of a build that it does not know, and of what is to be done about its release.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    pub initial: BuildState,
    /// What brought the build into that state.
    pub why: &'a str,
    /// Why nothing is to be run: the incident is recorded as observed. `None`: it is detected, and to be decided on.
    pub alert: Option<&'a str>,
}

impl Store {
    /// Records a build together with the incident of its release, both or neither: no agent finds the one without the other,
    /// and none decides about a build that the ledger does not know.
    pub fn released_outside(
        &self,
        new: &NewIncident,
        release: &Release<'_>,
        at: &Moment,
    ) -> Result<Incident> {
        self.write(|tx| {
            appear(tx, &new.service, &new.bad_build, release.initial, release.why, at)?;
            let incident = insert(tx, IncidentKind::ReleaseWindow, new, at)?;
            match release.alert {
                Some(note) => take(tx, &incident.id, Step::Observe, note, at),
                None => Ok(incident),
            }
        })
    }

    /// The open incidents of this kind, oldest first.
    pub fn open_alerts(&self, kind: IncidentKind) -> Result<Vec<Incident>> {
        self.select(
            "SELECT * FROM incidents WHERE kind = ?1 AND state NOT IN ('recovered', 'closed') ORDER BY rowid",
            params![kind.name()],
        )
    }

    /// The incidents by which builds are condemned for when they appeared, and for nothing else.
    pub fn held_back(&self) -> Result<Vec<Incident>> {
        self.select(
            "SELECT incidents.* FROM incidents
             JOIN builds ON builds.service = incidents.service AND builds.build = incidents.bad_build
             WHERE incidents.kind = 'release_window' AND incidents.intent_boot IS NOT NULL
                 AND builds.state = 'condemned' AND builds.why LIKE 'incident ' || incidents.id || ':%'
             ORDER BY incidents.rowid",
            params![],
        )
    }

    /// The build of an incident is on probation again, if it is condemned for that incident and nothing else. Returns whether
    /// it was.
    pub fn lift(&self, incident: &Incident, why: &str, at: &Moment) -> Result<bool> {
        self.write(|tx| pardon(tx, incident, why, at))
    }

    /// Closes an incident that waits, because the rollback of another one took its build away. A build that was found too dear
    /// is condemned for that from now on, whatever becomes of the other incident.
    pub fn close_taken_away(&self, waiting: &Incident, by: &Incident, at: &Moment) -> Result<Incident> {
        self.write(|tx| {
            let note = format!("the build was taken away by the rollback of incident {}", by.id);
            let closed = take(tx, &waiting.id, Step::Close, &note, at)?;
            if waiting.kind == IncidentKind::Cost {
                let why = format!("incident {}: {}", waiting.id, waiting.reason);
                set_state(tx, &waiting.service, &waiting.bad_build, BuildState::Condemned, &why, at)?;
            }
            Ok(closed)
        })
    }

    /// The last incident about the cost of a build on an endpoint: what it was condemned for, if it was.
    pub fn last_cost_incident(&self, service: &ServiceName, build: &BuildId) -> Result<Option<Incident>> {
        let found = self.select(
            "SELECT * FROM incidents
             WHERE service = ?1 AND bad_build = ?2 AND kind = 'cost' AND json_extract(evidence, '$.endpoint') NOT NULL
             ORDER BY rowid DESC LIMIT 1",
            params![service.as_str(), build.as_str()],
        )?;
        Ok(found.into_iter().next())
    }
}
