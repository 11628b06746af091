//! What is known of each build beside its requests' own figures: windows of CPU time and counts, the estimate from them,
//! and how sure direct attribution is of each endpoint.

use std::collections::HashMap;

use watchdog_common::types::{Conservation, Series, SeriesKey};

use super::Agent;
use super::service::Service;
use crate::config::EndpointConfig;
use crate::estimate::{Answer, EndpointEstimate, Estimate, Figure, Growth, Requests, Windows};
use crate::model::BuildId;
use crate::verdict::{Opinion, Record};

/// A fit takes a millisecond or two.
const CONSULT_EVERY_NS: u64 = 5_000_000_000;
/// Charged time that says something of an endpoint's confidence.
const LEAST_CHARGED_NS: u64 = 20_000_000;

/// Of all services.
#[derive(Debug, Default)]
pub(super) struct Opinions {
    consulted_mono_ns: u64,
    /// Losses of requests whose service could not be told: they count against every build.
    pub(super) lost_by_nobody: u64,
}

/// Of one build.
#[derive(Debug, Default)]
pub(super) struct Second {
    windows: Option<Windows>,
    pub(super) estimate: Option<Estimate>,
    /// By endpoint: charged to its requests, and of that by inference.
    charged: Vec<(u64, u64)>,
    /// What the judge was last told, or would be.
    pub(super) opinions: Vec<Opinion>,
    /// Requests of the build that were lost for good.
    pub(super) lost: u64,
    /// By endpoint: requests that were counted and not charged (HTTP/2).
    pub(super) counted: Vec<u64>,
}

impl Second {
    pub(super) fn ended(&mut self, requests: &Requests) {
        if let Some(windows) = &mut self.windows {
            windows.ended(requests);
        }
    }

    /// Requests that have ended and are not charged.
    pub(super) fn counted(&mut self, requests: &Requests) {
        let index = usize::from(requests.endpoint);
        if self.counted.len() <= index {
            self.counted.resize(index + 1, 0);
        }
        self.counted[index] += requests.count;
        if let Some(windows) = &mut self.windows {
            windows.counted(requests);
        }
    }

    /// Requests of an endpoint that were counted and not charged.
    pub(super) fn uncharged(&self, endpoint: usize) -> u64 {
        self.counted.get(endpoint).copied().unwrap_or(0)
    }

    pub(super) fn continued(&mut self, endpoint: u16, cpu_ns: u64) {
        if let Some(windows) = &mut self.windows {
            windows.continued(endpoint, cpu_ns);
        }
    }

    /// What grew in a tick that took `span_ns`.
    pub(super) fn advance(
        &mut self,
        endpoints: usize,
        now_mono_ns: u64,
        span_ns: u64,
        grown: &Conservation,
        settled: bool,
    ) {
        let growth = Growth {
            cpu_ns: grown.process_ns,
            attributed_ns: grown.attributed_ns,
            started: grown.started,
            finished: grown.finished,
        };
        let begun = || Windows::new(endpoints, now_mono_ns.saturating_sub(span_ns));
        self.windows.get_or_insert_with(begun).advance(now_mono_ns, &growth, settled);
    }

    /// Share of the endpoint's time that was charged on exact signs.
    pub(super) fn confidence(&self, endpoint: usize) -> Option<f64> {
        let (charged_ns, inferred_ns) = *self.charged.get(endpoint)?;
        (charged_ns >= LEAST_CHARGED_NS).then(|| 1.0 - (inferred_ns as f64 / charged_ns as f64).min(1.0))
    }

    fn figure(&self, endpoint: u16) -> Option<Figure> {
        match &self.estimate.as_ref()?.endpoint(endpoint)?.answer {
            Answer::Known { figure } => Some(*figure),
            _ => None,
        }
    }

    fn opinions_with(&self, baseline: Option<&Self>) -> Vec<Opinion> {
        let Some(estimate) = &self.estimate else { return Vec::new() };
        let direct = estimate.endpoints.iter().filter_map(|endpoint| endpoint.direct_mean_ns);
        let dearest_ns = direct.fold(0.0, f64::max);
        let opinion = |endpoint: &EndpointEstimate| Opinion {
            confidence: self.confidence(usize::from(endpoint.endpoint)),
            uncharged_ns: estimate.unattributed_ns as f64 / endpoint.requests.max(1) as f64,
            dearest_ns,
            windows: estimate.windows,
            baseline: baseline.and_then(|baseline| baseline.figure(endpoint.endpoint)),
            estimate: endpoint.clone(),
        };
        estimate.endpoints.iter().map(opinion).collect()
    }

    /// Which measurement of an endpoint is believed, where no judge says so: held to the absolute budget.
    pub(super) fn record(
        &self,
        service: &Service,
        index: usize,
        endpoint: &EndpointConfig,
    ) -> Option<Record> {
        let opinion = self.opinions.iter().find(|opinion| usize::from(opinion.estimate.endpoint) == index)?;
        let allowed_ns = endpoint.budget.mean_cpu.map(|limit| limit.as_secs_f64() * 1e9);
        Some(opinion.record(&endpoint.name, allowed_ns, &service.endpoints))
    }
}

impl Agent {
    /// Fits every build's windows and tells the judges, every few seconds.
    pub(super) fn consult(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.opinions.consulted_mono_ns) >= CONSULT_EVERY_NS {
            self.consult_now(now_mono_ns);
        }
    }

    pub(super) fn consult_now(&mut self, now_mono_ns: u64) {
        self.opinions.consulted_mono_ns = now_mono_ns;
        let series = self.kernel.series();
        let Some(series) = self.report("reading the request counters", series) else { return };
        self.take_confidence(&series);
        for service in &mut self.services {
            let budgeted: Vec<u16> = (1_u16..)
                .zip(&service.config.endpoints)
                .filter(|(_, endpoint)| endpoint.budget != crate::config::Budget::default())
                .map(|(index, _)| index)
                .collect();
            for build in service.builds.values_mut() {
                if let Some(windows) = &build.second.windows {
                    build.second.estimate = Some(windows.fit(&budgeted));
                }
            }
            let ids: Vec<BuildId> = service.builds.keys().cloned().collect();
            for id in ids {
                let good = service.builds[&id].judged.as_ref().and_then(|judged| judged.baseline.as_ref());
                let good = good.and_then(|good| service.builds.get(&good.build));
                let opinions = service.builds[&id].second.opinions_with(good.map(|good| &good.second));
                let build = service.builds.get_mut(&id).expect("its key was just read");
                if let Some(judged) = &mut build.judged {
                    judged.judge.consult(opinions.clone());
                    judged.stale = true;
                }
                build.second.opinions = opinions;
            }
        }
    }

    fn take_confidence(&mut self, series: &[(SeriesKey, Box<Series>)]) {
        let mut by_slot: HashMap<u16, Vec<(u64, u64)>> = HashMap::new();
        for (key, counts) in series {
            let charged = by_slot.entry(key.build_slot).or_default();
            let index = usize::from(key.endpoint);
            if charged.len() <= index {
                charged.resize(index + 1, (0, 0));
            }
            charged[index].0 += counts.oncpu_sum_ns;
            charged[index].1 += counts.inferred_ns;
        }
        for (number, charged) in by_slot {
            let Some(slot) = self.slots.get(&number) else { continue };
            if let Some(build) = self.services[slot.service].builds.get_mut(&slot.build) {
                build.second.charged = charged;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_what_was_not_inferred_of_enough_time() {
        let second = Second { charged: vec![(0, 0), (1 << 30, 1 << 28), (5, 5)], ..Second::default() };
        assert_eq!(second.confidence(1), Some(0.75));
        assert_eq!((second.confidence(0), second.confidence(2), second.confidence(3)), (None, None, None));
    }
}
