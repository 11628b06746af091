//! Requests that have begun and not ended are shown to the judges of builds on probation.

use std::collections::HashMap;

use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::types::{OngoingRequest, RequestFlags};

use super::Agent;
use super::service::Build;
use crate::environment::Warmup;
use crate::incident::BuildState;
use crate::verdict::UnderWay;

/// The kernel's table has 65,536 places: a look takes about a millisecond.
const LOOK_EVERY_NS: u64 = 500_000_000;

impl Agent {
    /// Requests that will never end, because their process did.
    pub(super) fn take_cut_off(&mut self, requests: &[OngoingRequest]) {
        for request in requests {
            let Some(slot) = self.slots.get(&request.build_slot) else { continue };
            let Some(build) = self.services[slot.service].builds.get_mut(&slot.build) else { continue };
            let under_way = under_way(request, build, &self.environment.warmup);
            if let Some((judged, under_way)) = build.judged.as_mut().zip(under_way) {
                judged.judge.cut_off(under_way);
            }
        }
    }

    /// After a tick's requests were taken: what ended until then is not under way any more.
    pub(super) fn look_at_unfinished(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.looked.at_unfinished_ns) < LOOK_EVERY_NS {
            return;
        }
        let slots = &self.slots;
        let on_probation = |slot: u16| {
            let slot = slots.get(&slot)?;
            let build = self.services.get(slot.service)?.builds.get(&slot.build)?;
            (build.state == BuildState::Probation && build.judged.is_some())
                .then(|| (slot.service, slot.build.clone()))
        };
        let mut by_build: HashMap<_, Vec<UnderWay>> =
            slots.keys().filter_map(|slot| Some((on_probation(*slot)?, Vec::new()))).collect();
        if by_build.is_empty() {
            return;
        }
        self.looked.at_unfinished_ns = now_mono_ns;
        for request in self.kernel.ongoing() {
            let Some(named) = on_probation(request.build_slot) else { continue };
            let build = &self.services[named.0].builds[&named.1];
            if let Some(of_build) = by_build.get_mut(&named) {
                of_build.extend(under_way(&request, build, &self.environment.warmup));
            }
        }
        for ((service, id), requests) in by_build {
            let build = self.services[service].builds.get_mut(&id);
            if let Some(judged) = build.and_then(|build| build.judged.as_mut()) {
                judged.judge.look_at_unfinished(now_mono_ns, &requests);
                judged.stale |= judged.judge.is_over();
            }
        }
    }
}

/// `None` for what is no request of a watched endpoint, or not known to be one yet.
fn under_way(request: &OngoingRequest, build: &Build, warmup: &Warmup) -> Option<UnderWay> {
    let not_yet = RequestFlags::HEAD | RequestFlags::CONTINUATION;
    if request.endpoint == ENDPOINT_OTHER || request.flags & not_yet != 0 {
        return None;
    }
    // Time that was taken back in the moment in which the place was given to this request.
    let given_ns = if i64::try_from(request.oncpu_ns).is_ok() { request.oncpu_ns } else { 0 };
    let siblings = build.processes.iter().copied();
    let known = build.judged.as_ref().is_some_and(|judged| judged.judge.knows_warm_up(request.endpoint));
    let factor = warmup.factor(request.tgid, request.endpoint, request.start_mono_ns, siblings);
    let warmup = if known { 1.0 } else { factor };
    Some(UnderWay { endpoint: request.endpoint, cpu_ns: given_ns.max(request.seen_ns), warmup })
}
