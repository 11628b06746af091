//! From drained requests to verdicts, probation and baselines.

use std::time::Duration;

use watchdog_common::abi::ENDPOINT_OTHER;
use watchdog_common::types::{Conservation, Loss, RequestFlags};

use super::Agent;
use super::coverage::{Coverage, STARTING_NS, growth};
use super::service::Judged;
use crate::aggregate::{Age, Cell, NEEDED_STARTS};
use crate::estimate::Requests;
use crate::event::Event;
use crate::incident::{BuildState, Moment, boot_id};
use crate::kernel::tick::{LossCounts, Tick};
use crate::model::{BuildId, EndpointName};
use crate::store::StoreError;
use crate::verdict::{Measurability, Observation, Verdict};

/// Without new requests a verdict changes by coverage only.
const JUDGE_AT_LEAST_EVERY_NS: u64 = 1_000_000_000;

/// Losses after which a request is known to nobody; the other reasons are counted elsewhere or concern no request.
const LOST_FOR_GOOD: [Loss; 4] =
    [Loss::OngoingFull, Loss::ConnectionStorage, Loss::SeriesMissing, Loss::UnreadableBuffer];

impl Agent {
    /// Hands the finished requests to the builds they belong to.
    pub(super) fn take_requests(&mut self, tick: &Tick) {
        for sample in &tick.samples {
            let age = self.processes.age(sample.tgid, sample.end_mono_ns);
            if let Some(seen) = Observation::of_sample(sample) {
                let seen = Observation { age, ..seen };
                let began_mono_ns =
                    sample.end_mono_ns.saturating_sub(u64::from(sample.wall_us).saturating_mul(1000));
                self.observe(sample.build_slot, &seen, Some(sample.tgid), began_mono_ns);
                self.verify_request(sample.build_slot, &seen, began_mono_ns);
            } else {
                let cell = Cell::new(sample.status, age);
                self.continuation(sample.build_slot, sample.endpoint, cell, sample.oncpu_ns);
            }
            debug_assert!(sample.flags & RequestFlags::HEAD == 0, "a finished request has its head");
        }
        for rebuilt in &tick.rebuilt {
            let age = self.age_of_slot(rebuilt.build_slot, tick.mono_ns);
            for mut seen in Observation::of_rebuilt(rebuilt, tick.mono_ns) {
                seen.age = age;
                self.observe(rebuilt.build_slot, &seen, None, tick.mono_ns);
                // When it began is not known; a tick before its end is close enough to say which side of the hook.
                self.verify_request(rebuilt.build_slot, &seen, tick.mono_ns);
            }
        }
    }

    fn observe(&mut self, slot: u16, seen: &Observation, tgid: Option<u32>, began_mono_ns: u64) {
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &mut self.services[slot.service];
        let is_of_users = service.is_of_users(seen.endpoint);
        let Some(build) = service.builds.get_mut(&slot.build) else { return };
        let Some(endpoint) = service.endpoints.get(usize::from(seen.endpoint)) else { return };
        let cell = seen.cell();
        service.peaks[usize::from(seen.endpoint)].count(seen.count);
        if is_of_users {
            service.users.count(seen.end_mono_ns, seen.count);
            build.served = true;
        }
        build.aggregate.endpoint_mut(endpoint).record(cell, seen.cpu_ns, seen.count);
        build.unsaved.record(endpoint, cell, seen.cpu_ns, seen.count);
        if seen.age != Age::Older && build.aggregate.starts.count() < NEEDED_STARTS {
            let second = build.youngest_mono_ns.unwrap_or(seen.end_mono_ns) / 1_000_000_000;
            if build.aggregate.starts.record(boot_id(), second) {
                build.unsaved.started(boot_id(), second);
            }
        }
        build.second.ended(&Requests {
            endpoint: seen.endpoint,
            began_mono_ns,
            ended_mono_ns: seen.end_mono_ns,
            count: seen.count,
            direct_ns: seen.cpu_ns,
        });
        self.environment.request((slot.service, &slot.build), build, seen, (tgid, began_mono_ns));
        if let Some(judged) = &mut build.judged {
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
            if endpoint != ENDPOINT_OTHER || service.config.endpoints.is_empty() {
                service.users.count(request.ended_mono_ns, 1);
                build.served = true;
            }
            if let Some(peak) = service.peaks.get_mut(usize::from(endpoint)) {
                peak.count(1);
            }
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

    /// How old the build's newest process is: what is allowed of requests whose process is not known.
    fn age_of_slot(&self, slot: u16, now_mono_ns: u64) -> Age {
        let build =
            self.slots.get(&slot).and_then(|slot| self.services[slot.service].builds.get(&slot.build));
        let ages = build.into_iter().flat_map(|build| &build.processes);
        ages.map(|tgid| self.processes.age(*tgid, now_mono_ns)).min().unwrap_or_default()
    }

    fn continuation(&mut self, slot: u16, endpoint: u16, cell: Cell, cpu_ns: u64) {
        let Some(slot) = self.slots.get(&slot) else { return };
        let service = &mut self.services[slot.service];
        let Some(build) = service.builds.get_mut(&slot.build) else { return };
        let Some(name) = service.endpoints.get(usize::from(endpoint)) else { return };
        build.aggregate.endpoint_mut(name).continuation(cell, cpu_ns);
        build.unsaved.continuation(name, cell, cpu_ns);
        build.second.continued(endpoint, cpu_ns);
        if let Some(judged) = &mut build.judged {
            judged.judge.continuation(endpoint, cell, cpu_ns);
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
    pub(super) fn judge(&mut self, span_ns: u64, now_mono_ns: u64) {
        if self.ask_judges(now_mono_ns) {
            // Nothing is done on a verdict that the newest second opinion does not share.
            self.consult_now(now_mono_ns);
            self.ask_judges(now_mono_ns);
        }
        self.act_on_verdicts(span_ns, now_mono_ns);
    }

    /// Whether a build was newly found over budget.
    fn ask_judges(&mut self, now_mono_ns: u64) -> bool {
        let lost = self.lost_for_good();
        let mut found = false;
        for (index, service) in self.services.iter_mut().enumerate() {
            let coverage = Coverage::ratio(&service.coverage);
            let min_coverage = self.config.agent.min_coverage;
            let blind = service.hidden.blind(service.config.name.as_str(), min_coverage);
            for (id, build) in &mut service.builds {
                let Some(judged) = &mut build.judged else { continue };
                let age_ns = now_mono_ns.saturating_sub(judged.verdict_mono_ns);
                if !judged.stale && age_ns < JUDGE_AT_LEAST_EVERY_NS {
                    continue;
                }
                judged.stale = false;
                judged.verdict_mono_ns = now_mono_ns;
                let measured = Measurability {
                    coverage,
                    min_coverage,
                    lost_requests: lost - judged.lost_before + build.second.lost,
                    blind: blind.clone(),
                };
                judged.verdict = self.environment.verdict(&(index, id.clone()), judged, &measured);
                found |= judged.is_found();
            }
        }
        found
    }

    fn act_on_verdicts(&mut self, span_ns: u64, now_mono_ns: u64) {
        let mut exceeding = Vec::new();
        let mut unattributed = Vec::new();
        let mut passed = Vec::new();
        for (index, service) in self.services.iter_mut().enumerate() {
            for (id, build) in &mut service.builds {
                if build.state == BuildState::Probation && !build.processes.is_empty() {
                    build.guarded_ns += span_ns;
                }
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
                if judged.is_found() {
                    judged.judge.settle();
                    exceeding.push((index, id.clone()));
                }
                if told_unattributed(judged) {
                    unattributed.push((index, id.clone()));
                }
                if build.state == BuildState::Probation
                    && Duration::from_nanos(build.guarded_ns) >= service.config.guard_for
                    && judged.judge.requests() > 0
                    && !service.known_bad.contains(id)
                    && matches!(judged.verdict, Verdict::Within { .. } | Verdict::Undecided { .. })
                {
                    passed.push((index, id.clone()));
                }
            }
        }
        for (service, build) in exceeding {
            self.exceeds(service, &build, now_mono_ns);
        }
        for (service, build) in unattributed {
            self.over_budget_unattributed(service, &build);
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
        Event::ProbationPassed { service: &service.config.name, build: id }.emit(&mut self.counters);
        Ok(())
    }
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

/// Whether people must be told now that a budget is broken and nobody knows by what. A verdict on the build itself, if there
/// is to be one, comes before as many requests again.
fn told_unattributed(judged: &mut Judged) -> bool {
    let Verdict::OverBudgetNotAttributed { evidence } = &judged.verdict else {
        judged.told_unattributed = false;
        return false;
    };
    let seen = judged.judge.endpoints().find(|endpoint| *endpoint.name == evidence.endpoint);
    let stands = seen.is_some_and(|endpoint| endpoint.requests >= 2 * evidence.requests);
    stands && !std::mem::replace(&mut judged.told_unattributed, stands)
}
