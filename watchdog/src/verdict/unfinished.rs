//! Requests that have begun and not ended, as far as they speak against a build.

use serde::{Deserialize, Serialize};

use super::evidence::UnfinishedFigures;
use super::judge::Judge;
use crate::sequential::{Conditions, Unfinished};

/// Requests whose process ended before they did, that are remembered: the dearest.
const REMEMBERED: usize = 256;

/// A request that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnderWay {
    pub endpoint: u16,
    /// On-CPU time so far.
    pub cpu_ns: u64,
    /// The warm-up factor of its process; the environment is the judge's.
    pub warmup: f64,
}

/// What the judge remembers of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// Requests that will never end, because their process did.
    off: Vec<UnderWay>,
    /// The last look reached the bar.
    reached: bool,
}

impl Judge {
    /// A request will never end: its process did.
    pub fn cut_off(&mut self, request: UnderWay) {
        let off = &mut self.unfinished.off;
        off.push(request);
        if off.len() > REMEMBERED {
            // Cheap ones count too: what is forgotten must be dear, or the evidence would grow.
            off.sort_by_key(|request| request.cpu_ns);
            off.truncate(REMEMBERED);
        }
    }

    /// Looks at all requests of the build that are under way. The bar has to be reached at two looks: one that ends just
    /// then is in neither the requests that ended nor in these.
    pub fn look_at_unfinished(&mut self, now_mono_ns: u64, under_way: &[UnderWay]) {
        if self.is_over() {
            return;
        }
        let environment = self.conditions.environment();
        let all = || under_way.iter().chain(&self.unfinished.off);
        let unfinished: Vec<Unfinished> = all()
            .map(|request| Unfinished {
                endpoint: request.endpoint,
                x: request.cpu_ns as f64,
                conditions: Conditions::new(request.warmup, environment),
            })
            .collect();
        // Every limit is that of some request's mean or quantile; without a dear request there is nothing to find.
        let dear = all().any(|request| self.is_dear(request));
        let floor = dear.then(|| self.engine.with_unfinished(self.second_of(now_mono_ns), &unfinished));
        let crossing = floor.and_then(|floor| floor.crossing);
        let before = std::mem::replace(&mut self.unfinished.reached, crossing.is_some());
        let Some((crossing, floor)) = crossing.zip(floor).filter(|_| before) else { return };
        let endpoint = self.engine.components()[crossing.component].scope.endpoint;
        let own: Vec<u64> =
            all().filter(|request| request.endpoint == endpoint).map(|request| request.cpu_ns).collect();
        let mut evidence = self.evidence_at(crossing, floor.evidence, true);
        evidence.last_end_mono_ns = now_mono_ns;
        evidence.unfinished = Some(UnfinishedFigures {
            requests: own.len() as u64,
            cpu_seconds: own.iter().sum::<u64>() as f64 * 1e-9,
            longest_cpu_seconds: own.iter().copied().max().unwrap_or(0) as f64 * 1e-9,
        });
        self.exceeds = Some(Box::new(evidence));
    }

    /// The evidence has reached the bar, by direct figures.
    pub fn is_over(&self) -> bool {
        self.exceeds.is_some()
    }

    fn is_dear(&self, request: &UnderWay) -> bool {
        let limits = self.engine.components().iter();
        let mut own = limits.filter(|component| component.scope.endpoint == request.endpoint);
        own.any(|component| request.cpu_ns as f64 > component.limit)
    }
}
