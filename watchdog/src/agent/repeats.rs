//! Repeat offenders: whether a build that exceeds costs what a condemned one did.

use super::Agent;
use crate::incident::BuildState;
use crate::store::StoreError;
use crate::verdict::{Condemned, Evidence, Repeat, repeats};

/// Of the condemned builds, the last so many are looked at.
const LOOKED_AT: usize = 20;

impl Agent {
    /// The condemned build of the service that this evidence repeats; of several the one whose cost is nearest.
    pub(super) fn repeated(&mut self, service: usize, evidence: &Evidence) -> Option<Repeat> {
        let found = self.look_for_repeated(service, evidence);
        // An incident is not held up for a name.
        self.report("looking for a repeat offender", found).flatten()
    }

    fn look_for_repeated(&self, service: usize, evidence: &Evidence) -> Result<Option<Repeat>, StoreError> {
        let service = &self.services[service];
        let name = &service.config.name;
        let records = self.store.builds(Some(name))?;
        let condemned = records
            .iter()
            .filter(|record| record.state == BuildState::Condemned)
            .filter(|record| record.build != evidence.build);
        let mut nearest: Option<Repeat> = None;
        for record in condemned.take(LOOKED_AT) {
            let aggregate = match service.builds.get(&record.build) {
                Some(build) => build.aggregate.clone(),
                None => service.stored_aggregate(&self.store, &record.build)?,
            };
            let incident = self.store.last_cost_incident(name, &record.build)?;
            let told = incident.as_ref().and_then(|incident| {
                // Of another version, it may not be readable: then the figures alone tell.
                Some((
                    incident.id.as_str(),
                    serde_json::from_value::<Evidence>(incident.evidence.clone()).ok()?,
                ))
            });
            let known = Condemned {
                build: &record.build,
                requests: aggregate.endpoint(&evidence.endpoint),
                evidence: told.as_ref().map(|(id, evidence)| (*id, evidence)),
            };
            let distance = |repeat: &Repeat| (repeat.mean_cpu_seconds - evidence.mean_cpu_seconds).abs();
            if let Some(repeat) = repeats(evidence, &known)
                && nearest.as_ref().is_none_or(|nearest| distance(&repeat) < distance(nearest))
            {
                nearest = Some(repeat);
            }
        }
        Ok(nearest)
    }
}

/// The sentence and the evidence of an incident, with what they repeat.
pub(super) fn with_repeat(
    evidence: &Evidence,
    sentence: &str,
    repeat: Option<&Repeat>,
) -> serde_json::Result<(String, serde_json::Value)> {
    let mut json = serde_json::to_value(evidence)?;
    let Some(repeat) = repeat else { return Ok((sentence.to_owned(), json)) };
    json["repeats"] = serde_json::to_value(repeat)?;
    Ok((format!("{sentence}; {}", repeat.sentence(evidence)), json))
}
