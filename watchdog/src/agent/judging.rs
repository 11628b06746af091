//! From drained requests to verdicts, probation and baselines.

use std::sync::Arc;

use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::types::{Conservation, Loss, RequestFlags};

use super::Agent;
use super::coverage::{Coverage, STARTING_NS, growth};
use super::service::Judged;
use crate::estimate::Requests;
use crate::event::Event;
use crate::incident::{BuildState, Moment};
use crate::kernel::tick::{LossCounts, Tick};
use crate::model::{BuildId, EndpointName, ServiceName, StatusClass};
use crate::store::StoreError;
use crate::verdict::{Measurability, Observation, Verdict};

const SAVE_EVERY_NS: u64 = 10_000_000_000;
/// Without new requests a verdict changes by coverage only.
const JUDGE_AT_LEAST_EVERY_NS: u64 = 1_000_000_000;

/// Losses after which a request is known to nobody; the other reasons are counted elsewhere or concern no request.
const LOST_FOR_GOOD: [Loss; 4] =
    [Loss::OngoingFull, Loss::ConnectionStorage, Loss::SeriesMissing, Loss::UnreadableBuffer];

impl Agent {
    /// Hands the finished requests to the builds they belong to.
    pub(super) fn take_requests(&mut self, tick: &Tick) {
        for sample in &tick.samples {
            let class = StatusClass::of_status(sample.status);
            match Observation::of_sample(sample) {
                Some(seen) => {
                    let began_mono_ns =
                        sample.end_mono_ns.saturating_sub(u64::from(sample.wall_us).saturating_mul(1000));
                    self.observe(sample.build_slot, &seen, began_mono_ns);
                    self.verify_request(sample.build_slot, &seen, began_mono_ns);
                }
                None => self.continuation(sample.build_slot, sample.endpoint, class, sample.oncpu_ns),
            }
            debug_assert!(sample.flags & RequestFlags::HEAD == 0, "a finished request has its head");
        }
        for rebuilt in &tick.rebuilt {
            for seen in Observation::of_rebuilt(rebuilt, tick.mono_ns) {
                self.observe(rebuilt.build_slot, &seen, tick.mono_ns);
                // When it began is not known; a tick before its end is close enough to say which side of the hook.
                self.verify_request(rebuilt.build_slot, &seen, tick.mono_ns);
            }
        }
    }

    fn observe(&mut self, slot: u16, seen: &Observation, began_mono_ns: u64) {
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &mut self.services[slot.service];
        let Some(build) = service.builds.get_mut(&slot.build) else { return };
        let Some(endpoint) = service.endpoints.get(usize::from(seen.endpoint)) else { return };
        build.aggregate.endpoint_mut(endpoint).record(seen.class, seen.cpu_ns, seen.count, seen.end_mono_ns);
        build.second.ended(&Requests {
            endpoint: seen.endpoint,
            began_mono_ns,
            ended_mono_ns: seen.end_mono_ns,
            count: seen.count,
            direct_ns: seen.cpu_ns,
        });
        if let Some(judged) = &mut build.judged {
            judged.judge.observe(seen);
            judged.stale = true;
            let first = judged.first_end_mono_ns.get_or_insert(seen.end_mono_ns);
            *first = seen.end_mono_ns.min(*first);
        }
    }

    /// Requests of HTTP/2: they are counted, for the estimate to tell what they cost.
    pub(super) fn take_streams(&mut self, tick: &Tick) {
        for request in &tick.streams {
            let Some(slot) = self.slots.get(&request.build_slot) else { continue };
            let service = &mut self.services[slot.service];
            service.coverage.add_uncharged(tick.mono_ns, 1);
            let Some(build) = service.builds.get_mut(&slot.build) else { continue };
            // What it was for is not known: with those on no watched endpoint, it keeps the others' figures right.
            let endpoint = request.endpoint.unwrap_or(ENDPOINT_OTHER);
            let requests = Requests {
                endpoint,
                began_mono_ns: request.began_mono_ns,
                ended_mono_ns: request.ended_mono_ns,
                count: 1,
                direct_ns: 0,
            };
            build.second.counted(&requests);
            if let Some(judged) = &mut build.judged
                && endpoint != ENDPOINT_OTHER
            {
                judged.judge.count(endpoint, 1, request.ended_mono_ns);
                judged.stale = true;
                let first = judged.first_end_mono_ns.get_or_insert(request.ended_mono_ns);
                *first = request.ended_mono_ns.min(*first);
            }
        }
    }

    fn continuation(&mut self, slot: u16, endpoint: u16, class: StatusClass, cpu_ns: u64) {
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &mut self.services[slot.service];
        let Some(build) = service.builds.get_mut(&slot.build) else { return };
        let Some(name) = service.endpoints.get(usize::from(endpoint)) else { return };
        build.aggregate.endpoint_mut(name).continuation(class, cpu_ns);
        build.second.continued(endpoint, cpu_ns);
        if let Some(judged) = &mut build.judged {
            judged.judge.continuation(endpoint, class, cpu_ns);
        }
    }

    /// Whose CPU time it was.
    pub(super) fn take_conservation(
        &mut self,
        figures: &[(u16, Conservation)],
        span_ns: u64,
        now_mono_ns: u64,
    ) {
        let mut grown = vec![Conservation::default(); self.services.len()];
        for (number, after) in figures {
            let Some(slot) = self.slots.get_mut(number) else { continue };
            let more = growth(&slot.conservation, after);
            slot.conservation = *after;
            let sum = &mut grown[slot.service];
            sum.process_ns += more.process_ns;
            sum.attributed_ns += more.attributed_ns;
            sum.shared_ns += more.shared_ns;
            sum.started += more.started;
            self.totals.observe_conservation(*number, after);
            let service = &mut self.services[slot.service];
            let (endpoints, starting) =
                (service.endpoints.len(), service.is_starting(now_mono_ns, STARTING_NS));
            if let Some(build) = service.builds.get_mut(&slot.build) {
                build.second.advance(endpoints, now_mono_ns, span_ns, &more, !starting);
            }
        }
        for (service, grown) in self.services.iter_mut().zip(&grown) {
            let starting = service.is_starting(now_mono_ns, STARTING_NS);
            let processes = service.processes();
            service.coverage.add(now_mono_ns, span_ns, grown, processes, starting);
        }
    }

    /// What could not be read, and what was lost, by whose it was.
    pub(super) fn take_blindness(&mut self, tick: &Tick) {
        for (index, service) in self.services.iter_mut().enumerate() {
            let slots = tick
                .blind
                .iter()
                .filter(|(slot, _)| self.slots.get(slot).is_some_and(|slot| slot.service == index));
            service.hidden.add(tick.mono_ns, &slots.copied().collect::<Vec<_>>());
        }
        for (number, losses) in &tick.slot_losses {
            match self.slots.get(number) {
                Some(slot) => {
                    if let Some(build) = self.services[slot.service].builds.get_mut(&slot.build) {
                        build.second.lost += for_good(losses);
                    }
                }
                None => self.opinions.lost_by_nobody += for_good(losses),
            }
        }
    }

    /// Requests that nobody saw and whose service could not be told.
    pub(super) fn lost_for_good(&self) -> u64 {
        self.opinions.lost_by_nobody
    }

    /// Asks every judge that has something new, and acts on the answers.
    pub(super) fn judge(&mut self, now_mono_ns: u64) {
        if self.ask_judges(now_mono_ns) {
            // Nothing is done on a verdict that the newest second opinion does not share.
            self.consult_now(now_mono_ns);
            self.ask_judges(now_mono_ns);
        }
        self.act_on_verdicts(now_mono_ns);
    }

    /// Whether a build was newly found over budget.
    fn ask_judges(&mut self, now_mono_ns: u64) -> bool {
        let lost = self.lost_for_good();
        let mut found = false;
        for service in &mut self.services {
            let coverage = Coverage::ratio(&service.coverage);
            let min_coverage = self.config.agent.min_coverage;
            let blind = service.hidden.blind(service.config.name.as_str(), min_coverage);
            for build in service.builds.values_mut() {
                let Some(judged) = &mut build.judged else { continue };
                let age_ns = now_mono_ns.saturating_sub(judged.verdict_mono_ns);
                if !judged.stale && age_ns < JUDGE_AT_LEAST_EVERY_NS {
                    continue;
                }
                judged.stale = false;
                judged.verdict_mono_ns = now_mono_ns;
                judged.verdict = judged.judge.verdict(&Measurability {
                    coverage,
                    min_coverage,
                    lost_requests: lost - judged.lost_before + build.second.lost,
                    blind: blind.clone(),
                });
                found |= is_over(&judged.verdict) && !judged.settled;
            }
        }
        found
    }

    fn act_on_verdicts(&mut self, now_mono_ns: u64) {
        let mut exceeding = Vec::new();
        let mut passed = Vec::new();
        for (index, service) in self.services.iter_mut().enumerate() {
            for (id, build) in &mut service.builds {
                let Some(judged) = &mut build.judged else { continue };
                if let Some(told) = told_change(judged) {
                    let endpoint = EndpointName::from("all");
                    Event::Measurable {
                        service: &service.config.name,
                        build: id,
                        endpoint: &endpoint,
                        now: told,
                        sentence: &judged.verdict.sentence(),
                    }
                    .emit(&mut self.counters);
                }
                if is_over(&judged.verdict) && !judged.settled {
                    judged.settled = true;
                    exceeding.push((index, id.clone()));
                }
                let guarded = build.state_since.until(&Moment::now());
                if build.state == BuildState::Probation
                    && guarded >= service.config.guard_for
                    && judged.judge.requests() > 0
                    && matches!(judged.verdict, Verdict::Within { .. } | Verdict::Undecided { .. })
                {
                    passed.push((index, id.clone()));
                }
            }
        }
        for (service, build) in exceeding {
            self.exceeds(service, &build, now_mono_ns);
        }
        for (service, build) in passed {
            let result = self.pass_probation(service, &build);
            self.report("ending a probation", result);
        }
    }

    fn pass_probation(&mut self, service: usize, id: &BuildId) -> Result<(), StoreError> {
        let service = &mut self.services[service];
        let Some(build) = service.builds.get_mut(id) else { return Ok(()) };
        let now = Moment::now();
        let why = "stayed within its budgets for the whole guard time";
        self.store.set_build_state(&service.config.name, id, BuildState::Good, why, &now)?;
        build.state = BuildState::Good;
        build.state_since = now;
        build.judged = None;
        // The ledger has no figures of it yet.
        build.saved_requests = 0;
        Event::ProbationPassed { service: &service.config.name, build: id }.emit(&mut self.counters);
        Ok(())
    }

    /// Writes good builds' figures to the ledger, off the loop: each write waits for the disk.
    pub(super) fn save_baselines(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.incidents.saved_mono_ns) < SAVE_EVERY_NS {
            return;
        }
        if self.incidents.saving.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.incidents.saved_mono_ns = now_mono_ns;
        let writes = self.unsaved_baselines();
        if writes.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        self.incidents.saving = Some(tokio::task::spawn_blocking(move || {
            for write in &writes {
                if let Err(error) = write.save(&store) {
                    tracing::error!(%error, "a baseline could not be saved");
                    return;
                }
            }
        }));
    }

    /// The same at the end, in place.
    pub(super) fn save_baselines_now(&mut self) {
        for write in self.unsaved_baselines() {
            let saved = write.save(&self.store);
            self.report("saving a baseline", saved);
        }
    }

    fn unsaved_baselines(&mut self) -> Vec<BaselineWrite> {
        let mut writes = Vec::new();
        for service in &mut self.services {
            let name = service.config.name.clone();
            for (id, build) in service.builds.iter_mut().filter(|(_, build)| build.is_baseline()) {
                let requests = build.aggregate.requests();
                if requests == build.saved_requests {
                    continue;
                }
                build.saved_requests = requests;
                for (endpoint, figures) in &build.aggregate.endpoints {
                    if let Ok(json) = serde_json::to_string(figures) {
                        let (service, build) = (name.clone(), id.clone());
                        writes.push(BaselineWrite { service, build, endpoint: endpoint.clone(), json });
                    }
                }
            }
        }
        writes
    }
}

/// One endpoint's figures on their way to the ledger.
struct BaselineWrite {
    service: ServiceName,
    build: BuildId,
    endpoint: EndpointName,
    json: String,
}

impl BaselineWrite {
    fn save(&self, store: &crate::store::Store) -> Result<(), StoreError> {
        store.put_baseline(&self.service, &self.endpoint, &self.build, &self.json, &Moment::now())
    }
}

fn is_over(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Exceeds { .. } | Verdict::OverBudgetNotAttributed { .. })
}

fn for_good(losses: &LossCounts) -> u64 {
    LOST_FOR_GOOD.iter().map(|loss| losses[*loss as usize]).sum()
}

/// Whether people must be told that a build became measurable (`true`) or stopped to be (`false`).
fn told_change(judged: &mut Judged) -> Option<bool> {
    let unmeasurable = matches!(judged.verdict, Verdict::NotMeasurable { .. });
    let changed = unmeasurable != judged.told_unmeasurable;
    judged.told_unmeasurable = unmeasurable;
    changed.then_some(!unmeasurable)
}
