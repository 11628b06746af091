//! One control: something that a new build cannot change, held to what it used to cost.

use std::collections::BTreeMap;
use std::fmt;

use super::ratio::{Figure, Smoothed, Yardstick};
use crate::aggregate::{Baseline, BuildAggregate};
use crate::config::{Budget, EndpointConfig, ServiceConfig};
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::verdict::{HostFacts, Judge, Observation, Probation, Violation};

/// The loop comes once a second: 30 s. Requests come as they come.
const LOOP_MEMORY: f64 = 30.0;
const REQUEST_MEMORY: f64 = 300.0;
/// For telling at once that something is wrong.
const RECENT_MEMORY: f64 = 10.0;
/// A factor that rests on less is none.
const LEAST_EFFECTIVE: f64 = 15.0;
const MOST_ERROR: f64 = 0.05;
/// What was seen so long ago says nothing of now: the next control is asked.
const FRESH_NS: u64 = 10_000_000_000;
/// It must have been well for so long.
const CALM_NS: u64 = 10_000_000_000;
const STANDARD_ERRORS: f64 = 2.0;
/// Beyond this the factor explains nothing.
const MOST_FACTOR: f64 = 1.25;
const LEAST_TO_SUSPECT: f64 = 5.0;
/// Requests before a control can be violated; as for a build.
const LEAST_REQUESTS: u64 = 5;

/// What a control is, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The last good build, serving the same endpoints on the same host at the same time: what slows it slows the new one,
    /// and the new one's code is not in it.
    OldBuild(BuildId),
    /// Endpoints of the service that the operator declared to be untouched by its changes. Served by the new build itself:
    /// nobody but the operator can know.
    Declared,
    /// A good build of another service on this host: no code in common.
    Service(ServiceName),
    /// The agent's own loop.
    Loop,
}

impl Source {
    /// For labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::OldBuild(_) => "old_build",
            Self::Declared => "declared_endpoints",
            Self::Service(_) => "other_service",
            Self::Loop => "loop",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldBuild(build) => write!(f, "the good build {build} beside it"),
            Self::Declared => f.write_str("the endpoints declared as controls"),
            Self::Service(service) => write!(f, "service {service}, which did not change"),
            Self::Loop => f.write_str("the agent's calibration loop"),
        }
    }
}

/// Which figures of a control are looked at, and by what.
#[derive(Debug)]
pub struct Control {
    source: Source,
    /// By endpoint, as the control's service counts them.
    yardsticks: BTreeMap<u16, Yardstick>,
    smoothed: Smoothed,
    recent: Smoothed,
    config: ServiceConfig,
    reference: Baseline,
    judge: Judge,
    allowed: f64,
    last_mono_ns: Option<u64>,
    violated: bool,
    /// Since when it has been well again.
    calm_since_mono_ns: Option<u64>,
}

impl Control {
    /// `reference` is what its endpoints cost before the new build came; they may cost `allowed` times that. `None` when it
    /// has no endpoint that is known well enough.
    pub fn new(
        source: Source,
        config: &ServiceConfig,
        endpoints: impl Fn(&EndpointConfig) -> bool,
        reference: Baseline,
        allowed: f64,
        now_mono_ns: u64,
    ) -> Option<Self> {
        let yardstick = |(index, endpoint): (u16, &EndpointConfig)| {
            let yardstick = Yardstick::new(reference.aggregate.endpoint(&endpoint.name)?);
            (endpoints(endpoint) && yardstick.is_usable()).then_some((index, yardstick))
        };
        let yardsticks: BTreeMap<u16, Yardstick> =
            (1_u16..).zip(&config.endpoints).filter_map(yardstick).collect();
        if yardsticks.is_empty() {
            return None;
        }
        let budget = |(index, endpoint): (u16, &EndpointConfig)| {
            let vs_baseline = yardsticks.contains_key(&index).then_some(allowed);
            EndpointConfig { budget: Budget { vs_baseline, ..Budget::default() }, ..endpoint.clone() }
        };
        let config = ServiceConfig {
            endpoints: (1_u16..).zip(&config.endpoints).map(budget).collect(),
            ..config.clone()
        };
        let judge = judge(&config, &reference, now_mono_ns);
        let memory = if source == Source::Loop { LOOP_MEMORY } else { REQUEST_MEMORY };
        Some(Self {
            source,
            yardsticks,
            smoothed: Smoothed::new(memory),
            recent: Smoothed::new(RECENT_MEMORY),
            config,
            reference,
            judge,
            allowed,
            last_mono_ns: None,
            violated: false,
            calm_since_mono_ns: None,
        })
    }

    /// The loop as a service of one endpoint, so that the same engine judges it.
    pub fn calibration(
        judged: &ServiceConfig,
        name: &EndpointName,
        reference: &BuildAggregate,
        allowed: f64,
        now_mono_ns: u64,
    ) -> Option<Self> {
        let mut aggregate = BuildAggregate::default();
        aggregate.endpoints.insert(name.clone(), reference.endpoint(name)?.clone());
        let endpoint = EndpointConfig {
            name: name.clone(),
            method: None,
            path: "/".to_owned(),
            control: false,
            budget: Budget::default(),
        };
        let config = ServiceConfig { endpoints: vec![endpoint], ..judged.clone() };
        let reference = Baseline::new("host".into(), aggregate);
        Self::new(Source::Loop, &config, |_| true, reference, allowed, now_mono_ns)
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// A request of the control, or a reading of the loop (endpoint 1).
    pub fn observe(&mut self, seen: &Observation) {
        let yardstick = self.yardsticks.get(&seen.endpoint);
        let Some((cost, expected)) = yardstick.and_then(|it| it.measure(seen.class, seen.cpu_ns)) else {
            return;
        };
        self.smoothed.observe(cost, expected, seen.count);
        self.recent.observe(cost, expected, seen.count);
        self.judge.observe(seen);
        self.last_mono_ns = self.last_mono_ns.max(Some(seen.end_mono_ns));
    }

    /// A reading of the loop out of turn: it says how things are now, and is none of the once-a-second figures.
    pub fn look(&mut self, seen: &Observation) {
        let yardstick = self.yardsticks.get(&seen.endpoint);
        if let Some((cost, expected)) = yardstick.and_then(|it| it.measure(seen.class, seen.cpu_ns)) {
            self.recent.observe(cost, expected, seen.count);
            self.last_mono_ns = self.last_mono_ns.max(Some(seen.end_mono_ns));
        }
    }

    /// Looks whether it is violated, or well again.
    pub fn advance(&mut self, now_mono_ns: u64) {
        let (evidence, bar) = self.judge.log_evidence();
        if !self.violated {
            self.violated = evidence >= bar && self.judge.requests() >= LEAST_REQUESTS;
            self.calm_since_mono_ns = None;
            return;
        }
        // A control whose requests differ much never comes as near as errors allow: half of the way back is enough then.
        let well = self.smoothed.figure().is_some_and(|figure| {
            let halfway = f64::midpoint(1.0, self.allowed);
            figure.ratio < halfway || figure.ratio + STANDARD_ERRORS * figure.error < self.allowed
        });
        if !well {
            self.calm_since_mono_ns = None;
            return;
        }
        let since = *self.calm_since_mono_ns.get_or_insert(now_mono_ns);
        if now_mono_ns.saturating_sub(since) >= CALM_NS {
            self.violated = false;
            self.judge = judge(&self.config, &self.reference, now_mono_ns);
        }
    }

    /// Whether it says anything at the moment.
    pub fn is_usable(&self, now_mono_ns: u64) -> bool {
        let fresh = self.last_mono_ns.is_some_and(|last| now_mono_ns.saturating_sub(last) < FRESH_NS);
        let known = |figure: Figure| figure.effective >= LEAST_EFFECTIVE && figure.error <= MOST_ERROR;
        fresh && (self.violated || self.smoothed.figure().is_some_and(known))
    }

    pub fn figure(&self) -> Option<Figure> {
        self.smoothed.figure()
    }

    pub fn violation(&self) -> Option<Violation> {
        self.violated.then(|| self.as_violation())
    }

    /// As if it were violated, while it only looks so: dearer of late than a factor may explain, and dear enough to be the
    /// reason why a build costs `of_build` times what it used to.
    pub fn suspicion(&self, of_build: Option<f64>, now_mono_ns: u64) -> Option<Violation> {
        let fresh = self.last_mono_ns.is_some_and(|last| now_mono_ns.saturating_sub(last) < FRESH_NS);
        let recent = self.recent.figure().filter(|figure| fresh && figure.effective >= LEAST_TO_SUSPECT)?;
        let explains = of_build.is_none_or(|of_build| of_build / recent.ratio < self.allowed);
        (recent.ratio > MOST_FACTOR && explains).then(|| self.as_violation())
    }

    fn as_violation(&self) -> Violation {
        Violation {
            control: self.source.to_string(),
            ratio: self.recent.figure().map_or(1.0, |figure| figure.ratio),
            allowed: self.allowed,
        }
    }
}

/// What slows a control slows any number of cores alike.
fn judge(config: &ServiceConfig, reference: &Baseline, now_mono_ns: u64) -> Judge {
    let probation = Probation::new(reference.build.clone(), now_mono_ns);
    Judge::new(config, probation, HostFacts { cores: 1.0 }, Some(reference))
}
