//! What the engine was told, in order: enough to come to the same state again, bit for bit.
//!
//! The state is a function of the parameters, the components and the ordered entries. A change of limits or of warm-up and
//! environment is an entry of its own and holds from the next request on, as it did then.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Parameters;
use super::component::{Component, Conditions, InvalidComponents, Pool};
use super::engine::Engine;
use super::summary::{Summary, SummaryMismatch};

/// Of [`Log`]; another one is not read.
pub const LOG_VERSION: u16 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    pub version: u16,
    pub parameters: Parameters,
    pub components: Vec<Component>,
    pub pool: Option<Pool>,
    pub entries: Vec<Entry>,
}

/// One thing that was told, and by whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Whole seconds after the deploy.
    pub second: u64,
    /// With `sequence`, the order inside a second.
    pub host: u32,
    pub sequence: u64,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Requests {
        endpoint: u16,
        class: u8,
        x: f64,
        count: u64,
    },
    /// Of this host, from its next request on.
    Conditions {
        conditions: Conditions,
    },
    /// From the next request on.
    Limit {
        component: usize,
        limit: f64,
    },
    Summary {
        summary: Summary,
    },
}

#[derive(Clone, Debug, PartialEq, Error)]
pub enum ReplayError {
    #[error("the log has version {found}, this program reads version {LOG_VERSION}")]
    Version { found: u16 },
    #[error("the log's components: {0}")]
    Components(#[from] InvalidComponents),
    #[error("entry {entry} of the log: {source}")]
    Limit { entry: usize, source: InvalidComponents },
    #[error("entry {entry} of the log: {source}")]
    Summary { entry: usize, source: SummaryMismatch },
}

impl Log {
    pub fn new(parameters: Parameters, components: Vec<Component>, pool: Option<Pool>) -> Self {
        Self { version: LOG_VERSION, parameters, components, pool, entries: Vec::new() }
    }

    /// Entries of several hosts in the one order in which they are replayed: by second, host and sequence. A change of
    /// conditions stays before the requests of its host that it was told before.
    pub fn sort(&mut self) {
        self.entries.sort_by_key(|entry| (entry.second, entry.host, entry.sequence));
    }

    /// The state after all entries.
    pub fn replay(&self) -> Result<Engine, ReplayError> {
        if self.version != LOG_VERSION {
            return Err(ReplayError::Version { found: self.version });
        }
        let (components, pool) = (self.components.clone(), self.pool.clone());
        let mut engine = Engine::with_pool(self.parameters.clone(), components, pool)?;
        let mut conditions: Vec<(u32, Conditions)> = Vec::new();
        for (entry, Entry { second, host, event, .. }) in self.entries.iter().enumerate() {
            match event {
                Event::Requests { endpoint, class, x, count } => {
                    let own = conditions.iter().find(|(own, _)| own == host);
                    let conditions = own.map_or(Conditions::NORMAL, |(_, conditions)| *conditions);
                    engine.observe(*second, *endpoint, *class, *x, *count, conditions);
                }
                Event::Conditions { conditions: new } => {
                    conditions.retain(|(own, _)| own != host);
                    conditions.push((*host, *new));
                }
                Event::Limit { component, limit } => engine
                    .set_limit(*component, *limit)
                    .map_err(|source| ReplayError::Limit { entry, source })?,
                Event::Summary { summary } => {
                    engine.apply(summary).map_err(|source| ReplayError::Summary { entry, source })?;
                }
            }
        }
        Ok(engine)
    }
}

/// An engine whose every input is written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorder {
    engine: Engine,
    log: Log,
    conditions: Conditions,
}

impl Recorder {
    pub fn new(
        parameters: Parameters,
        components: Vec<Component>,
        pool: Option<Pool>,
    ) -> Result<Self, InvalidComponents> {
        let engine = Engine::with_pool(parameters.clone(), components.clone(), pool.clone())?;
        Ok(Self { engine, log: Log::new(parameters, components, pool), conditions: Conditions::NORMAL })
    }

    /// As [`Engine::observe`]. Figures that are no finite number from 0 on are not written down: nothing rests on them.
    pub fn observe(
        &mut self,
        second: u64,
        endpoint: u16,
        class: u8,
        x: f64,
        count: u64,
        conditions: Conditions,
    ) {
        if x.is_finite() && x >= 0.0 {
            if conditions != self.conditions {
                self.conditions = conditions;
                self.push(second, Event::Conditions { conditions });
            }
            self.push(second, Event::Requests { endpoint, class, x, count });
        }
        self.engine.observe(second, endpoint, class, x, count, conditions);
    }

    /// As [`Engine::set_limit`].
    pub fn set_limit(&mut self, second: u64, component: usize, limit: f64) -> Result<(), InvalidComponents> {
        self.engine.set_limit(component, limit)?;
        self.push(second, Event::Limit { component, limit });
        Ok(())
    }

    /// As [`Engine::apply`].
    pub fn apply(&mut self, summary: &Summary) -> Result<(), SummaryMismatch> {
        self.engine.apply(summary)?;
        self.push(summary.second, Event::Summary { summary: summary.clone() });
        Ok(())
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    fn push(&mut self, second: u64, event: Event) {
        let sequence = self.log.entries.len() as u64;
        self.log.entries.push(Entry { second, host: 0, sequence, event });
    }
}

#[cfg(test)]
mod tests {
    use super::super::component::{Kind, PoolLimit, Scope};
    use super::super::summary::Collector;
    use super::*;
    use proptest::prelude::*;

    fn components() -> Vec<Component> {
        let mean = |endpoint, kind, limit| {
            let scope = Scope { endpoint, class: None };
            Component { weight: 0.25, scope, kind, limit, confirmation: Vec::new() }
        };
        vec![mean(0, Kind::Mean, 1.0), mean(1, Kind::Quantile { p: 0.9 }, 2.0)]
    }

    fn pool() -> Option<Pool> {
        let limit =
            |endpoint| PoolLimit { scope: Scope { endpoint, class: None }, overall: 1.5, of_build: 2.0 };
        Some(Pool { weight: 0.5, limits: vec![limit(0), limit(1)] })
    }

    fn recorder(outlier_allowance: usize) -> Recorder {
        let parameters = Parameters { outlier_allowance, ..Parameters::default() };
        Recorder::new(parameters, components(), pool()).unwrap()
    }

    proptest! {
        #[test]
        fn a_log_plays_again_to_the_same_bits(
            steps in prop::collection::vec((0u64..3, 0u16..3, 0.0..9.0f64, 1u64..4, 0u8..6, 0.7..1.4f64), 1..120),
            allowance in 0usize..3,
        ) {
            let mut recorder = recorder(allowance);
            let (mut second, mut environment, mut warmup) = (0, 1.0, 1.0);
            for (wait, endpoint, x, count, what, figure) in steps {
                second += wait;
                match what {
                    0 => environment = figure,
                    1 => warmup = if warmup > 1.0 { 1.0 } else { 4.0 },
                    2 => recorder.set_limit(second, usize::from(endpoint) % 2, figure).unwrap(),
                    3 => {
                        let mut host =
                            Collector::new(recorder.log().parameters.clone(), components(), pool()).unwrap();
                        host.observe(second, endpoint % 2, 0, x, count, Conditions::new(warmup, environment));
                        let summary = host.finish(second + 1).unwrap();
                        recorder.apply(&summary).unwrap();
                    }
                    _ => {}
                }
                recorder.observe(second, endpoint, 1, x, count, Conditions::new(warmup, environment));
            }
            let again = recorder.log().replay().unwrap();
            prop_assert_eq!(&again, recorder.engine());
            let text = serde_json::to_string(recorder.log()).unwrap();
            let read: Log = serde_json::from_str(&text).unwrap();
            let state = |engine: &Engine| serde_json::to_string(engine).unwrap();
            prop_assert_eq!(state(&read.replay().unwrap()), state(recorder.engine()));
        }
    }

    #[test]
    fn hosts_are_played_in_one_order_with_their_own_conditions() {
        let entry = |second, host, sequence, event| Entry { second, host, sequence, event };
        let requests = |x| Event::Requests { endpoint: 0, class: 0, x, count: 1 };
        let slow = Event::Conditions { conditions: Conditions::new(1.0, 1.25) };
        let mut one = Log::new(Parameters::default(), components(), pool());
        one.entries = vec![
            entry(0, 1, 0, slow),
            entry(0, 1, 1, requests(3.0)),
            entry(0, 2, 0, requests(2.0)),
            entry(4, 1, 2, requests(1.0)),
        ];
        let mut other = one.clone();
        other.entries.reverse();
        other.sort();
        assert_eq!(other, one);
        let mut engine = Engine::with_pool(Parameters::default(), components(), pool()).unwrap();
        for (second, x, environment) in [(0, 3.0, 1.25), (0, 2.0, 1.0), (4, 1.0, 1.25)] {
            engine.observe(second, 0, 0, x, 1, Conditions::new(1.0, environment));
        }
        assert_eq!(one.replay().unwrap(), engine);
    }

    #[test]
    fn logs_that_cannot_be_played_say_why() {
        let mut log = recorder(0).log().clone();
        log.entries.push(Entry {
            second: 0,
            host: 0,
            sequence: 0,
            event: Event::Limit { component: 7, limit: 1.0 },
        });
        let error = log.replay().unwrap_err();
        assert_eq!(
            error.to_string(),
            "entry 0 of the log: component 7 has a limit that is not a positive number"
        );
        log.version = 9;
        assert_eq!(log.replay().unwrap_err(), ReplayError::Version { found: 9 });
    }
}
