//! Hosts that add up against one host that saw everything.

use super::super::component::{Kind, PoolLimit, Scope, Stratum};
use super::*;
use proptest::prelude::*;

/// Two endpoints with means, a quantile, a class and a confirmed budget, and the pool.
fn components() -> Vec<Component> {
    let of = |weight, endpoint, class, kind, limit| Component {
        weight,
        scope: Scope { endpoint, class },
        kind,
        limit,
        confirmation: Vec::new(),
    };
    let mut confirmed = of(0.15, 0, None, Kind::Mean, 1.2);
    confirmed.confirmation =
        vec![Stratum { weight: 0.6, class: 0, limit: 1.5 }, Stratum { weight: 0.4, class: 1, limit: 0.7 }];
    vec![
        confirmed,
        of(0.10, 0, None, Kind::Quantile { p: 0.9 }, 2.0),
        of(0.05, 0, Some(1), Kind::Mean, 0.9),
        of(0.20, 2, None, Kind::Mean, 1.1),
    ]
}

fn pool() -> Pool {
    let limit = |endpoint, class, overall, of_build| PoolLimit {
        scope: Scope { endpoint, class },
        overall,
        of_build,
    };
    let limits = vec![limit(0, Some(0), 1.2, 1.5), limit(0, Some(1), 1.2, 0.7), limit(2, None, 1.1, 1.1)];
    Pool { weight: 0.5, limits }
}

fn parameters(outlier_allowance: usize, own_grid: bool) -> Parameters {
    let grid = || Bets::new(&[0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], &[0.1; 10]).unwrap();
    let bets = if own_grid { grid() } else { Bets::default() };
    Parameters { outlier_allowance, bets, ..Parameters::default() }
}

fn engine(parameters: &Parameters) -> Engine {
    Engine::with_pool(parameters.clone(), components(), Some(pool())).unwrap()
}

fn collector(parameters: &Parameters) -> Collector {
    Collector::new(parameters.clone(), components(), Some(pool())).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * left.abs().max(right.abs())
}

#[derive(Clone, Debug)]
struct Request {
    wait: u64,
    host: usize,
    endpoint: u16,
    class: u8,
    x: f64,
    count: u64,
    warm: bool,
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let x = prop_oneof![4 => 0.0..3.0f64, 1 => 3.0..80.0f64, 1 => Just(0.0)];
    let count = prop_oneof![6 => Just(1u64), 1 => 2u64..6];
    let wait = prop_oneof![3 => Just(0u64), 1 => 1u64..5];
    let one = (wait, 0usize..8, prop_oneof![Just(0u16), Just(1), Just(2)], 0u8..3, x, count, any::<bool>());
    let request = one.prop_map(|(wait, host, endpoint, class, x, count, warm)| Request {
        wait,
        host,
        endpoint,
        class,
        x,
        count,
        warm,
    });
    prop::collection::vec(request, 1..250)
}

/// The state at the end of every second, by its seconds: of one stream, and of hosts whose summaries are merged, and of
/// hosts whose summaries are applied one after the other.
struct Compared {
    single: Engine,
    merged: Engine,
    in_turn: Engine,
    collectors: Vec<Collector>,
    /// Largest evidence at the ends of seconds, of the single stream.
    max: f64,
}

impl Compared {
    fn end_second(&mut self, next: u64, allowance: usize) -> Result<(), TestCaseError> {
        let summaries: Vec<Summary> =
            self.collectors.iter_mut().filter_map(|host| host.finish(next)).collect();
        let Some((first, others)) = summaries.split_first() else { return Ok(()) };
        let mut all = first.clone();
        for other in others {
            // As they are sent.
            let sent: Summary = serde_json::from_str(&serde_json::to_string(other).unwrap()).unwrap();
            all.merge(&sent, allowance).unwrap();
        }
        self.merged.apply(&all).unwrap();
        summaries.iter().for_each(|summary| self.in_turn.apply(summary).unwrap());
        self.max = self.max.max(self.single.evidence());
        for other in [&self.merged, &self.in_turn] {
            let single = &self.single;
            prop_assert!(
                close(single.evidence(), other.evidence()),
                "{} {}",
                single.evidence(),
                other.evidence()
            );
            prop_assert!(close(single.overall.now, other.overall.now));
            prop_assert!(close(single.pool_evidence().unwrap(), other.pool_evidence().unwrap()));
            prop_assert_eq!(single.requests(), other.requests());
            for index in 0..single.components().len() {
                prop_assert!(close(single.component_evidence(index), other.component_evidence(index)));
                let (ours, theirs) = (single.totals(index).unwrap(), other.totals(index).unwrap());
                prop_assert_eq!(ours.requests, theirs.requests);
                prop_assert!(close(ours.sum_x, theirs.sum_x) && close(ours.sum_z, theirs.sum_z));
            }
        }
        // Summaries in turn are looked at in between as well, so theirs may be larger.
        prop_assert!(close(self.merged.max_evidence(), self.max.max(1.0)));
        // The first request of the next second ends the second for the single stream, too.
        for index in 0..self.single.components().len() {
            let (ours, theirs) = (self.single.since_start(index), self.merged.since_start(index));
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => prop_assert!((ours.ln_gain - theirs.ln_gain).abs() < 1e-9),
                (ours, theirs) => {
                    let gain = ours.or(theirs).map_or(0.0, |since| since.ln_gain);
                    prop_assert!(gain < 1e-9, "{ours:?} {theirs:?}");
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn merged_hosts_are_one_host(
        requests in requests(), hosts in 1usize..=8, allowance in 0usize..4, own_grid in any::<bool>(),
    ) {
        let parameters = parameters(allowance, own_grid);
        let mut compared = Compared {
            single: engine(&parameters),
            merged: engine(&parameters),
            in_turn: engine(&parameters),
            collectors: vec![collector(&parameters); hosts],
            max: 1.0,
        };
        let mut second = 0;
        for request in requests {
            if request.wait > 0 {
                second += request.wait;
                compared.end_second(second, allowance)?;
            }
            // A host's own conditions.
            let conditions = Conditions::new(if request.warm { 1.0 } else { 4.0 }, 1.0 + 0.02 * (request.host % hosts) as f64);
            let Request { host, endpoint, class, x, count, .. } = request;
            compared.single.observe(second, endpoint, class, x, count, conditions);
            let finished = compared.collectors[host % hosts].observe(second, endpoint, class, x, count, conditions);
            prop_assert!(finished.is_none(), "the second was finished before");
        }
        compared.end_second(second + 1, allowance)?;
    }
}

#[test]
fn a_thousand_requests_a_second_keep_nine_digits() {
    for allowance in [0, 3] {
        let parameters = parameters(allowance, false);
        let (mut single, mut merged, mut host) =
            (engine(&parameters), engine(&parameters), collector(&parameters));
        for n in 0..20_000_u64 {
            // About the limit: the evidence stays moderate.
            let x = 0.4 + 1.4 * ((n * 7919) % 1000) as f64 / 1000.0;
            single.observe(n / 1000, 2, 0, x, 1, Conditions::NORMAL);
            if let Some(summary) = host.observe(n / 1000, 2, 0, x, 1, Conditions::NORMAL) {
                merged.apply(&summary).unwrap();
            }
        }
        merged.apply(&host.finish(20).unwrap()).unwrap();
        assert!(close(single.evidence(), merged.evidence()), "{} {}", single.evidence(), merged.evidence());
        assert_eq!(single.requests(), merged.requests());
    }
}

#[test]
fn summaries_that_do_not_fit_are_refused_and_change_nothing() {
    let parameters = parameters(1, false);
    let mut host = collector(&parameters);
    host.observe(3, 0, 1, 2.0, 4, Conditions::NORMAL);
    let good = host.finish(4).unwrap();
    let mut engine = engine(&parameters);
    let before = engine.clone();
    let refused = |change: &dyn Fn(&mut Summary)| {
        let mut bad = good.clone();
        change(&mut bad);
        let mut untouched = before.clone();
        let error = untouched.apply(&bad).unwrap_err();
        assert_eq!(untouched, before);
        error
    };
    assert_eq!(refused(&|s| s.version = 2), SummaryMismatch::Version { found: 2 });
    assert!(matches!(
        refused(&|s| s.components.truncate(2)),
        SummaryMismatch::Shape { what: "components", .. }
    ));
    assert!(matches!(refused(&|s| s.pool = None), SummaryMismatch::Shape { what: "pools", .. }));
    assert!(matches!(
        refused(&|s| s.components[0].own.ln.push(0.0)),
        SummaryMismatch::Shape { what: "bets", .. }
    ));
    assert!(matches!(
        refused(&|s| s.components[0].own.largest.clear()),
        SummaryMismatch::Shape { what: "largest figures", .. }
    ));
    assert!(matches!(refused(&|s| s.components[0].own.ln[0] = f64::NAN), SummaryMismatch::Figure { .. }));
    assert!(matches!(refused(&|s| s.components[0].own.largest[0] = -1.0), SummaryMismatch::Figure { .. }));

    engine.apply(&good).unwrap();
    assert_eq!(engine.requests(), 4);
    let mut other = good.clone();
    other.second = 9;
    let mut sum = good.clone();
    assert_eq!(sum.merge(&other, 1), Err(SummaryMismatch::Second(3, 9)));
    assert_eq!(sum, good);
}

#[test]
fn figures_that_are_none_are_counted() {
    let parameters = parameters(0, false);
    let mut host = collector(&parameters);
    host.observe(0, 0, 0, f64::NAN, 2, Conditions::NORMAL);
    host.observe(0, 0, 0, -1.0, 1, Conditions::NORMAL);
    let mut engine = engine(&parameters);
    engine.apply(&host.finish(1).unwrap()).unwrap();
    assert_eq!((engine.rejected(), engine.requests()), (3, 0));
    assert_eq!(host.finish(2), None);
}

#[test]
fn extreme_seconds_stay_numbers() {
    for allowance in [0, 2] {
        let grid = Bets::new(&[0.5, 1.0], &[0.5, 0.5]).unwrap();
        let parameters = Parameters { bets: grid, ..parameters(allowance, false) };
        let mut host = collector(&parameters);
        let mut engine = engine(&parameters);
        for (second, x) in (0..).zip([0.0, 1e300, 0.0, 50.0]) {
            host.observe(second, 2, 0, x, 1, Conditions::NORMAL);
            host.observe(second, 2, 0, x, u64::MAX, Conditions::NORMAL);
            engine.apply(&host.finish(second + 1).unwrap()).unwrap();
            assert!(engine.evidence().is_finite() && engine.evidence() >= 0.0, "{}", engine.evidence());
        }
        assert!(engine.is_full());
    }
}
