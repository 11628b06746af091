//! What is known of the surroundings of each build, and told to its judge before its requests are.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Agent;
use super::processes::Place;
use super::service::{Build, Judged, Service};
use crate::aggregate::{Age, Baseline};
use crate::clock;
use crate::config::EndpointConfig;
use crate::control::{EnvironmentStatus, WarmingStatus};
use crate::environment::{
    COLD_FACTOR, Calibration, Change, Control, Reading, Source, Surroundings, Warmup, stored_as,
};
use crate::event::Event;
use crate::identity::{Identified, Runtime};
use crate::incident::BuildState;
use crate::metrics;
use crate::model::{BuildId, EndpointName, StatusClass};
use crate::sequential::Conditions;
use crate::verdict::{Measurability, Observation, Verdict};

/// What a control may cost where no budget is relative, in multiples of what it used to.
const ALLOWED: f64 = 1.25;
/// Readings of the loop that a new build's surroundings begin with.
const READINGS_KEPT: usize = 30;
/// Readings at once when a build was found over budget: the loop's next turn may be a second away.
const LOOKS: usize = 10;

/// A build of a service, by the service's number.
type Named = (usize, BuildId);

/// Of all services.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) warmup: Warmup,
    calibration: Option<Calibration>,
    /// The last readings of the loop.
    readings: VecDeque<Observation>,
    last_reading: Option<Reading>,
    calibration_ns: u64,
    stored_as: EndpointName,
    /// Builds that had requests since the last reading.
    serving: HashSet<Named>,
    of: HashMap<Named, Surroundings<Named>>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            warmup: Warmup::default(),
            calibration: None,
            readings: VecDeque::new(),
            last_reading: None,
            calibration_ns: 0,
            stored_as: stored_as(),
            serving: HashSet::new(),
            of: HashMap::new(),
        }
    }
}

impl Environment {
    /// Whether the verdict on a build waits until its surroundings are well again.
    pub(super) fn holds(&self, named: &Named) -> bool {
        self.of.get(named).is_some_and(|surroundings| surroundings.violation().is_some())
    }

    /// Its judge has something new to compare with: its controls are looked for anew, and what it was before is of no use.
    pub(super) fn begin_anew(&mut self, named: &Named) {
        self.of.remove(named);
    }

    /// With the loop in a thread of its own; without it when the thread cannot be had.
    pub(super) fn start() -> Self {
        Self { calibration: Calibration::start().ok(), ..Self::default() }
    }

    /// The services are numbered anew.
    pub(super) fn forget_services(&mut self) {
        self.of.clear();
        self.serving.clear();
    }

    /// A request, told to what it is a control of and to the judge of its build. `tgid`: the process that served it, if that
    /// is known.
    pub(super) fn request(
        &mut self,
        (service, id): (usize, &BuildId),
        build: &mut Build,
        seen: &Observation,
        (tgid, began_mono_ns): (Option<u32>, u64),
    ) {
        let siblings = build.processes.iter().copied();
        let warmup = match tgid {
            Some(tgid) => self.warmup.factor(tgid, seen.endpoint, began_mono_ns, siblings),
            None => self.warmup.factor_of_any(seen.endpoint, began_mono_ns, siblings),
        };
        if let Some(tgid) = tgid {
            self.warmup.served(tgid, seen.endpoint, seen.count);
        }
        let named = (service, id.clone());
        // What warms up is dearer for a reason of its own.
        if warmup <= 1.0 {
            self.of.values_mut().for_each(|surroundings| surroundings.request(&named, seen));
        }
        if let Some(judged) = &mut build.judged {
            // The baseline's own outcomes of young processes know it better.
            let warmup = if judged.judge.knows_warm_up(seen.endpoint) { 1.0 } else { warmup };
            if let Some(surroundings) = self.of.get_mut(&named) {
                surroundings.judge(&mut judged.judge, seen, warmup);
            } else {
                judged.judge.set_conditions(Conditions::new(warmup, 1.0));
                judged.judge.observe(seen);
            }
        }
        self.serving.insert(named);
    }

    /// The verdict on a build, as far as its surroundings allow one.
    pub(super) fn verdict(&self, named: &Named, judged: &Judged, measured: &Measurability) -> Verdict {
        match self.of.get(named) {
            Some(surroundings) => surroundings.verdict(&judged.judge, |judge| judge.verdict(measured)),
            None => judged.judge.verdict(measured),
        }
    }

    /// What of a build warms up at the moment, for `status`.
    pub(super) fn warming(&self, build: &Build) -> Option<WarmingStatus> {
        let processes = build.processes.iter().copied();
        let (processes, factor) = self.warmup.warming(clock::mono_ns(), processes);
        (processes > 0).then_some(WarmingStatus { processes, factor })
    }

    /// What is known of a judged build's surroundings, for `status`.
    pub(super) fn status(&self, named: &Named) -> Option<EnvironmentStatus> {
        let surroundings = self.of.get(named)?;
        Some(EnvironmentStatus {
            factor: surroundings.factor(),
            source: surroundings.source().map(|source| source.label().to_owned()),
            control: surroundings.source().map(ToString::to_string),
            violated: surroundings.violation().map(|violation| violation.ratio),
        })
    }

    /// The same for the metrics.
    pub(super) fn metrics(&self, services: &[Service]) -> metrics::Environment {
        let point = |(named, surroundings): (&Named, &Surroundings<Named>)| metrics::Surrounded {
            service: services[named.0].config.name.clone(),
            build: named.1.clone(),
            factor: surroundings.factor(),
            source: surroundings.source().map_or("none", Source::label),
            violated: surroundings.violation().is_some(),
        };
        metrics::Environment {
            loop_seconds: self.last_reading.map(|reading| reading.stretch_ns as f64 * 1e-9),
            loop_cpu_seconds: self.calibration_ns as f64 * 1e-9,
            loop_cycles_per_instruction: self.last_reading.and_then(|reading| {
                let counts = reading.counts?;
                Some(counts.cycles as f64 / counts.instructions.max(1) as f64)
            }),
            builds: self.of.iter().map(point).collect(),
        }
    }

    /// What came of the loop: remembered with the figures of the builds that served meanwhile, so that a baseline knows
    /// what the loop cost while it was learned.
    fn take_readings(&mut self, services: &mut [Service], now_mono_ns: u64) {
        let Some(calibration) = &self.calibration else { return };
        for reading in calibration.take() {
            self.calibration_ns += reading.cost_ns;
            self.last_reading = Some(reading);
            let seen = observation(&reading, now_mono_ns);
            self.readings.push_back(seen);
            if self.readings.len() > READINGS_KEPT {
                self.readings.pop_front();
            }
            self.of.values_mut().for_each(|surroundings| surroundings.reading(&seen));
            for (service, id) in self.serving.drain() {
                let Some(build) = services.get_mut(service).and_then(|it| it.builds.get_mut(&id)) else {
                    continue;
                };
                let stored = build.aggregate.endpoint_mut(&self.stored_as);
                stored.record(seen.cell(), seen.cpu_ns, 1);
                build.unsaved.record(&self.stored_as, seen.cell(), seen.cpu_ns, 1);
            }
        }
    }

    /// Builds on probation that have no surroundings yet get them; those of others are dropped.
    fn follow_builds(&mut self, services: &[Service], now_mono_ns: u64) {
        let on_probation = |named: &Named| {
            let build = services.get(named.0).and_then(|service| service.builds.get(&named.1));
            build.is_some_and(|build| build.state == BuildState::Probation && build.judged.is_some())
        };
        self.of.retain(|named, _| on_probation(named));
        for (index, service) in services.iter().enumerate() {
            for (id, build) in &service.builds {
                let named = (index, id.clone());
                let Some(judged) = build.judged.as_ref() else { continue };
                if build.state != BuildState::Probation || self.of.contains_key(&named) {
                    continue;
                }
                let controls = self.controls(services, &named, judged, now_mono_ns);
                let mut surroundings = Surroundings::new(controls, &judged.judge, now_mono_ns);
                self.readings.iter().for_each(|reading| surroundings.reading(reading));
                self.of.insert(named, surroundings);
            }
        }
    }

    /// Everything that can be a control of a new build, with what it cost until now.
    fn controls(
        &self,
        services: &[Service],
        (index, id): &Named,
        judged: &Judged,
        now_mono_ns: u64,
    ) -> Vec<(Option<Named>, Control)> {
        let service = &services[*index];
        let allowed = judged.judge.strictest_ratio().unwrap_or(ALLOWED);
        let mut controls = Vec::new();
        let mut add = |fed_by: Option<Named>, control: Option<Control>| {
            controls.extend(control.map(|control| (fed_by, control)));
        };
        if let Some(baseline) = &judged.baseline {
            let of = |source, endpoints: fn(&EndpointConfig) -> bool| {
                Control::new(source, &service.config, endpoints, baseline.clone(), allowed, now_mono_ns)
            };
            add(
                Some((*index, baseline.build.clone())),
                of(Source::OldBuild(baseline.build.clone()), |_| true),
            );
            add(Some((*index, id.clone())), of(Source::Declared, |endpoint| endpoint.control));
            let calibration = Control::calibration(
                &service.config,
                &self.stored_as,
                &baseline.aggregate,
                allowed,
                now_mono_ns,
            );
            add(None, calibration);
        }
        for (other, neighbour) in services.iter().enumerate().filter(|(other, _)| other != index) {
            let good = neighbour
                .builds
                .iter()
                .filter(|(_, build)| build.state.is_restorable() && !build.processes.is_empty());
            for (good_id, build) in good {
                let reference = Baseline::new(good_id.clone(), build.aggregate.clone());
                let known = |endpoint: &EndpointConfig| build.aggregate.endpoint(&endpoint.name).is_some();
                let source = Source::Service(neighbour.config.name.clone());
                let control = Control::new(source, &neighbour.config, known, reference, allowed, now_mono_ns);
                add(Some((other, good_id.clone())), control);
            }
        }
        controls
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

    /// Looks at the surroundings, after a tick's requests and before the judges are asked.
    pub(super) fn look_around(&mut self, now_mono_ns: u64) {
        self.environment.take_readings(&mut self.services, now_mono_ns);
        self.environment.follow_builds(&self.services, now_mono_ns);
        for ((index, id), surroundings) in &mut self.environment.of {
            let service = &mut self.services[*index];
            let Some(judged) = service.builds.get_mut(id).and_then(|build| build.judged.as_mut()) else {
                continue;
            };
            // What was acted on stays.
            if judged.judge.is_settled() && matches!(judged.verdict, Verdict::Exceeds { .. }) {
                continue;
            }
            if surroundings.wants_a_look(&judged.judge)
                && let Some(calibration) = &mut self.environment.calibration
            {
                for _ in 0..LOOKS {
                    let reading = calibration.look();
                    self.environment.calibration_ns += reading.cost_ns;
                    surroundings.look(&observation(&reading, now_mono_ns));
                }
            }
            let Some(change) = surroundings.advance(&mut judged.judge, now_mono_ns) else { continue };
            judged.stale = true;
            if let Change::Recovered(_) = change {
                judged.judge.unsettle();
            }
            Event::Surroundings { service: &service.config.name, build: id, change: &change }
                .emit(&mut self.counters);
        }
    }
}

fn observation(reading: &Reading, now_mono_ns: u64) -> Observation {
    let cpu_ns = reading.stretch_ns;
    let (class, status, age) = (StatusClass::None, 0, Age::Older);
    Observation { end_mono_ns: now_mono_ns, cpu_ns, count: 1, endpoint: 1, class, status, age }
}

/// What cannot be read may be anything.
fn factor_of(runtime: Option<Runtime>) -> f64 {
    if runtime.is_none_or(Runtime::starts_cold) { COLD_FACTOR } else { 1.0 }
}
