//! What is known of the surroundings of each build, and told to its judge before its requests are.

use std::collections::HashSet;

use super::Agent;
use super::processes::Place;
use super::service::Build;
use crate::clock;
use crate::control::WarmingStatus;
use crate::environment::{COLD_FACTOR, Warmup};
use crate::identity::Identified;
use crate::identity::Runtime;
use crate::sequential::Conditions;

/// Of all services.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) warmup: Warmup,
}

impl Environment {
    /// What a request's budgets are multiplied with. `tgid`: the process that served it, if that is known.
    pub(super) fn conditions(
        &self,
        tgid: Option<u32>,
        endpoint: u16,
        began_mono_ns: u64,
        siblings: &HashSet<u32>,
    ) -> Conditions {
        let siblings = siblings.iter().copied();
        let warmup = match tgid {
            Some(tgid) => self.warmup.factor(tgid, endpoint, began_mono_ns, siblings),
            None => self.warmup.factor_of_any(endpoint, began_mono_ns, siblings),
        };
        Conditions::new(warmup, 1.0)
    }

    /// What of a build warms up at the moment, for `status`.
    pub(super) fn warming(&self, build: &Build, now_mono_ns: u64) -> Option<WarmingStatus> {
        let (processes, factor) = self.warmup.warming(now_mono_ns, build.processes.iter().copied());
        (processes > 0).then_some(WarmingStatus { processes, factor })
    }
}

impl Agent {
    /// A process is placed under a build: from when on it warms up, and how much.
    pub(super) fn note_start(&mut self, identified: &Identified, place: &Place, now_mono_ns: u64) {
        let declared = self.services[place.service].config.warmup_factor;
        let factor = declared.unwrap_or_else(|| factor_of(self.identifier.runtime(identified.pid)));
        let age_ns = u64::try_from(identified.age().as_nanos()).unwrap_or(u64::MAX);
        self.environment.warmup.began(identified.pid, now_mono_ns.saturating_sub(age_ns), factor);
    }

    pub(super) fn warming(&self, build: &Build) -> Option<WarmingStatus> {
        self.environment.warming(build, clock::mono_ns())
    }
}

/// What cannot be read may be anything.
fn factor_of(runtime: Option<Runtime>) -> f64 {
    if runtime.is_none_or(Runtime::starts_cold) { COLD_FACTOR } else { 1.0 }
}
