//! Incidents of which a person is only told: recorded and left open, with nothing to run.

use rusqlite::params;

use super::{insert, take};
use crate::incident::{Incident, IncidentKind, Moment, NewIncident, Step};
use crate::model::{BuildId, ServiceName};
use crate::store::{Result, Store};

impl Store {
    /// Records what was seen, and why nothing is run, in one step: no agent finds it half done. At most one of a kind is
    /// open per service and build.
    pub fn open_alert(
        &self,
        kind: IncidentKind,
        new: &NewIncident,
        note: &str,
        at: &Moment,
    ) -> Result<Incident> {
        self.write(|tx| {
            let incident = insert(tx, kind, new, at)?;
            take(tx, &incident.id, Step::Observe, note, at)
        })
    }

    /// Those that are open, oldest first.
    pub fn open_alerts(&self, kind: IncidentKind) -> Result<Vec<Incident>> {
        self.select(
            "SELECT * FROM incidents WHERE kind = ?1 AND state NOT IN ('recovered', 'closed') ORDER BY rowid",
            params![kind.name()],
        )
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
