//! Whether what a request costs is back: the engine's clearing test on what the good build serves after the hook.

use std::time::Duration;

use crate::aggregate::{ClassAggregate, MIN_REQUESTS as BASELINE_REQUESTS};
use crate::sequential::stats::normal_upper_quantile;
use crate::sequential::{Clearance, Process};
use crate::verdict::clearing;

/// Requests on the good build since the hook ended before its cost is believed.
pub const MIN_REQUESTS: u64 = 5;

/// Evidence at which the cost is back: wrong in one verification of a hundred at most, as in a probation.
const BACK_BAR: f64 = 100.0;
/// Evidence at which the good build is called too dear as well: a condemnation is lifted on it.
const HIGH_BAR: f64 = 1000.0;
/// No request counts for more than so many times the limit.
const CAP: f64 = 50.0;
/// Each side of the baseline's own interval.
const BASELINE_ERROR: f64 = 0.025;
/// The test begins anew so often: what a queue that drains, or an empty cache, cost at first must not outweigh the rest.
const BEGINNINGS: u32 = 8;

/// What a request of the endpoint may cost after the rollback, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostLimit {
    limit_ns: f64,
    /// What is cleared against: the limit less what lies above the cap.
    cleared_ns: f64,
    /// In multiples of `cleared_ns`.
    cap: f64,
    baseline_ns: Option<f64>,
}

impl CostLimit {
    /// The stricter of the budget and the upper end of the good build's own interval times its tolerance; `None` when there is neither.
    ///
    /// A good build whose own baseline lies above the budget (it was adopted so) is held to its baseline alone: the
    /// rollback can bring back what was there, not more.
    pub fn new(
        budget: Option<Duration>,
        baseline: Option<&ClassAggregate>,
        vs_baseline: f64,
    ) -> Option<Self> {
        let baseline = baseline.filter(|baseline| baseline.requests >= BASELINE_REQUESTS);
        let mean_ns = baseline.and_then(ClassAggregate::mean_ns).filter(|mean_ns| *mean_ns > 0.0);
        let budget_ns = budget.map(|budget| budget.as_nanos() as f64);
        let relative_ns = baseline.zip(mean_ns).map(|(baseline, mean_ns)| {
            let (mean_ns, sd_ns) = baseline.capped_moments_ns(CAP * mean_ns).unwrap_or((mean_ns, 0.0));
            let error_ns = normal_upper_quantile(BASELINE_ERROR) * sd_ns / (baseline.requests as f64).sqrt();
            (mean_ns + error_ns) * vs_baseline.max(1.0)
        });
        let limit_ns = match (budget_ns, relative_ns, mean_ns) {
            (Some(budget), Some(relative), Some(mean)) if mean <= budget => budget.min(relative),
            (_, Some(relative), _) => relative,
            (budget, None, _) => budget?,
        };
        if !(limit_ns.is_finite() && limit_ns > 0.0) {
            return None;
        }
        let (cleared_ns, cap) = clearing(limit_ns, baseline);
        Some(Self { limit_ns, cleared_ns, cap, baseline_ns: mean_ns })
    }
}

/// What is known of the cost since the hook ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub requests: u64,
    pub mean: Option<Duration>,
    /// `None`: nothing is known to hold it to.
    pub limit: Option<Duration>,
    /// The good build's mean before.
    pub baseline: Option<Duration>,
    /// It is shown to be below the limit.
    pub is_back: bool,
    /// It is shown to be above the limit, on processes that are warm, in the second half of the verification.
    pub is_high: bool,
}

/// The running test. Pure: time arrives as an argument.
#[derive(Clone, Debug)]
pub struct CostTest {
    limit: Option<CostLimit>,
    requests: u64,
    cpu_ns: u64,
    /// With the share of the capital that each is given; those that did not begin yet hold theirs.
    tests: Vec<(f64, Clearance)>,
    high: Process,
}

impl CostTest {
    pub fn new(limit: Option<CostLimit>) -> Self {
        Self { limit, requests: 0, cpu_ns: 0, tests: Vec::new(), high: Process::new(1.0, 0) }
    }

    /// `count` requests that the good build began after the hook, of `cpu_ns` on-CPU time each. `elapsed`: since the hook
    /// ended; `warm`: whether their process had run for a while.
    pub fn observe(
        &mut self,
        cpu_ns: u64,
        count: u64,
        warm: bool,
        elapsed: Duration,
        verify_within: Duration,
    ) {
        self.requests = self.requests.saturating_add(count);
        self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns.saturating_mul(count));
        let Some(limit) = self.limit else { return };
        let part = elapsed.as_secs_f64() / verify_within.as_secs_f64().max(1e-3) * f64::from(BEGINNINGS);
        while self.tests.len() <= BEGINNINGS as usize && (self.tests.len() as f64) <= part {
            let share = if self.tests.is_empty() { 0.5 } else { 0.5 / f64::from(BEGINNINGS) };
            self.tests.push((share, Clearance::new(limit.cap)));
        }
        let z = cpu_ns as f64 / limit.cleared_ns;
        for (_, test) in &mut self.tests {
            test.settle(z, count, MIN_REQUESTS, BACK_BAR);
        }
        if warm && part * 2.0 >= f64::from(BEGINNINGS) {
            self.high.settle((cpu_ns as f64 / limit.limit_ns).min(CAP), count);
        }
    }

    pub fn cost(&self) -> Cost {
        let duration = |ns: f64| Duration::try_from_secs_f64(ns * 1e-9).unwrap_or(Duration::MAX);
        let begun: f64 = self.tests.iter().map(|(share, _)| share).sum();
        let staked: f64 = self.tests.iter().map(|(share, test)| share * test.value()).sum();
        let enough = self.requests >= MIN_REQUESTS;
        Cost {
            requests: self.requests,
            mean: self.cpu_ns.checked_div(self.requests).map(Duration::from_nanos),
            limit: self.limit.map(|limit| duration(limit.limit_ns)),
            baseline: self.limit.and_then(|limit| limit.baseline_ns).map(duration),
            is_back: enough && self.limit.is_some() && staked + (1.0 - begun) >= BACK_BAR,
            is_high: enough && self.high.value(1.0) >= HIGH_BAR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const WITHIN: Duration = Duration::from_mins(5);

    /// 1000 requests of 40 to 60 ms.
    fn baseline() -> ClassAggregate {
        let mut baseline = ClassAggregate::default();
        for i in 0..1000 {
            baseline.record((40 + i % 21) * MS, 1);
        }
        baseline
    }

    fn limit() -> CostLimit {
        CostLimit::new(None, Some(&baseline()), 1.3).unwrap()
    }

    /// So many requests of `cpu_ms` each between two seconds after the hook.
    fn serve(test: &mut CostTest, cpu_ms: u64, requests: u32, seconds: std::ops::Range<f64>) {
        for i in 0..requests {
            let part = f64::from(i) / f64::from(requests);
            let elapsed = Duration::from_secs_f64(seconds.start + part * (seconds.end - seconds.start));
            test.observe(cpu_ms * MS, 1, true, elapsed, WITHIN);
        }
    }

    #[test]
    fn the_limit_is_the_stricter_of_the_budget_and_the_baselines_upper_end() {
        let limit_ms = |budget_ms: Option<u64>, with_baseline: bool| {
            let baseline = baseline();
            CostLimit::new(budget_ms.map(Duration::from_millis), with_baseline.then_some(&baseline), 1.3)
                .map(|limit| limit.limit_ns / 1e6)
        };
        // The mean is 50 ms and its standard error 0.19 ms.
        let relative = limit_ms(None, true).unwrap();
        assert!((65.3..65.7).contains(&relative), "{relative}");
        assert!((limit_ms(Some(52), true).unwrap() - 52.0).abs() < 1e-9);
        assert!((limit_ms(Some(40), true).unwrap() - relative).abs() < 1e-9, "it was never within 40 ms");
        assert!((limit_ms(Some(40), false).unwrap() - 40.0).abs() < 1e-9);
        assert_eq!(limit_ms(None, false), None);
        let mut few = ClassAggregate::default();
        few.record(MS, 199);
        assert!(CostLimit::new(None, Some(&few), 1.3).is_none(), "199 requests are no baseline");
    }

    #[test]
    fn the_usual_cost_is_back_after_some_requests_and_a_high_one_never() {
        let mut test = CostTest::new(Some(limit()));
        let mut needed = 0;
        while !test.cost().is_back {
            serve(&mut test, 50, 1, 0.0..1.0);
            needed += 1;
            assert!(needed < 200, "{:?}", test.cost());
        }
        assert!(needed > 5, "{needed}");
        let mut test = CostTest::new(Some(limit()));
        serve(&mut test, 70, 20_000, 0.0..299.0);
        let cost = test.cost();
        assert!(!cost.is_back && cost.is_high, "{cost:?}");
        assert_eq!(cost.mean, Some(Duration::from_millis(70)));
    }

    #[test]
    fn a_dear_beginning_delays_it_and_does_not_hide_it() {
        let mut test = CostTest::new(Some(limit()));
        serve(&mut test, 500, 500, 0.0..30.0);
        assert!(!test.cost().is_back);
        serve(&mut test, 50, 500, 40.0..80.0);
        let cost = test.cost();
        assert!(cost.is_back && !cost.is_high, "{cost:?}");
    }

    #[test]
    fn what_begins_cold_is_no_sign_against_the_good_build() {
        let mut test = CostTest::new(Some(limit()));
        for i in 0..1000 {
            test.observe(500 * MS, 1, false, Duration::from_millis(200_000 + i), WITHIN);
        }
        assert!(!test.cost().is_high);
        serve(&mut test, 500, 1000, 0.0..100.0);
        assert!(!test.cost().is_high, "nor what it costs in the first half");
        serve(&mut test, 500, 20, 200.0..201.0);
        assert!(test.cost().is_high);
    }

    #[test]
    fn without_a_limit_or_requests_nothing_is_shown() {
        let mut test = CostTest::new(None);
        serve(&mut test, 50, 100, 0.0..10.0);
        let cost = test.cost();
        assert!(!cost.is_back && !cost.is_high && cost.requests == 100 && cost.limit.is_none());
        assert_eq!(CostTest::new(Some(limit())).cost().mean, None);
    }

    /// Cost exactly at the limit: called back in one verification of a hundred at most.
    #[test]
    fn a_cost_at_the_limit_is_rarely_called_back() {
        let limit = CostLimit::new(Some(Duration::from_millis(50)), None, 1.3).unwrap();
        let mut back = 0;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            let mut test = CostTest::new(Some(limit));
            let mut once = false;
            for i in 0..300_u64 {
                // xorshift; 0 to 100 ms, 50 on average.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let cpu_ns = state % (100 * MS + 1);
                test.observe(cpu_ns, 1, true, Duration::from_secs(i), WITHIN);
                once |= test.cost().is_back;
            }
            back += u32::from(once);
        }
        assert!(back <= 6, "{back} of 200");
    }
}
