use super::super::super::Parameters;
use super::super::super::component::{Component, Pool, PoolLimit, Scope, Stratum};
use super::*;
use proptest::prelude::*;

const CLASSES: u8 = 3;

fn component(weight: f64, class: Option<u8>, kind: Kind, limit: f64) -> Component {
    Component { weight, scope: Scope { endpoint: 0, class }, kind, limit, confirmation: Vec::new() }
}

/// A pooled mean that is confirmed by class, a bundle of three classes, and a pool by class.
fn engine(outlier_allowance: usize) -> Engine {
    let limits = [1.0, 0.05, 2.0];
    let strata = (0u8..).zip(limits).map(|(class, limit)| Stratum { weight: 1.0 / 3.0, class, limit });
    let mut components = vec![component(0.2, None, Kind::Mean, 0.8)];
    components[0].confirmation = strata.collect();
    for (class, limit) in (0u8..).zip(limits) {
        components.push(component(0.1, Some(class), Kind::Mean, limit));
        components.push(component(0.05, Some(class), Kind::Quantile { p: 0.9 }, limit * 1.5));
    }
    let of_pool = (0u8..).zip(limits).map(|(class, limit)| PoolLimit {
        scope: Scope { endpoint: 0, class: Some(class) },
        overall: limit,
        of_build: limit * 1.2,
    });
    let pool = Pool { weight: 0.35, limits: of_pool.collect() };
    let parameters = Parameters { outlier_allowance, ..Parameters::default() };
    Engine::with_pool(parameters, components, Some(pool)).unwrap()
}

fn unfinished(x: f64) -> Unfinished {
    Unfinished { endpoint: 0, x, conditions: Conditions::NORMAL }
}

proptest! {
    /// Whatever the outcomes are, and however much more the requests use.
    #[test]
    fn it_is_never_more_than_what_comes_out(
        ended in prop::collection::vec((0u8..CLASSES, 0.0..3.0f64), 0..20),
        under_way in prop::collection::vec((0u8..CLASSES, 0.0..6.0f64, 0.0..2.0f64), 0..9),
        outlier_allowance in 0usize..2,
    ) {
        let mut engine = engine(outlier_allowance);
        for (class, x) in ended {
            engine.observe(1, 0, class, x, 1, Conditions::NORMAL);
        }
        let now: Vec<Unfinished> = under_way.iter().map(|(_, x, _)| unfinished(*x)).collect();
        let floor = engine.with_unfinished(2, &now);
        engine.advance(2);
        for (class, x, more) in &under_way {
            engine.observe(2, 0, *class, x + more, 1, Conditions::NORMAL);
        }
        let in_the_end = engine.evidence();
        prop_assert!(floor.evidence <= in_the_end * (1.0 + 1e-9), "{} > {in_the_end}", floor.evidence);
    }

    #[test]
    fn more_cpu_never_speaks_for_the_build(
        under_way in prop::collection::vec(0.0..6.0f64, 1..12),
        more in 0.0..2.0f64,
        which in 0usize..12,
    ) {
        let engine = engine(0);
        let mut now: Vec<Unfinished> = under_way.iter().map(|x| unfinished(*x)).collect();
        let before = engine.with_unfinished(1, &now).evidence;
        let which = which % now.len();
        now[which].x += more;
        prop_assert!(engine.with_unfinished(1, &now).evidence >= before * (1.0 - 1e-9));
    }
}

#[test]
fn requests_that_never_end_reach_the_bar() {
    let engine = engine(0);
    let endless = |number: usize| vec![unfinished(20.0); number];
    let fewest = (1..20).find(|&number| engine.with_unfinished(5, &endless(number)).crossing.is_some());
    // Five at least, as of requests that end.
    assert_eq!(fewest, Some(5));
    let crossing = engine.with_unfinished(5, &endless(5)).crossing.unwrap();
    assert_eq!((crossing.requests, crossing.requests_in_all, crossing.second), (5, 5, 5));
}

#[test]
fn requests_that_have_just_begun_say_nothing() {
    let engine = engine(0);
    let floor = engine.with_unfinished(5, &vec![unfinished(0.0); 500]);
    assert!(floor.evidence < 1.0 && floor.crossing.is_none(), "{floor:?}");
    assert_eq!(engine.with_unfinished(0, &[]).evidence.to_bits(), engine.evidence().to_bits());
}

/// Each alone is explained by the dearest outcome; the bets on a cheap one must not be taken for won.
#[test]
fn one_request_that_fits_an_outcome_proves_nothing() {
    let engine = engine(0);
    let before = engine.evidence();
    let floor = engine.with_unfinished(0, &[unfinished(1.9)]);
    assert!(floor.evidence < before * 1.5, "{floor:?}");
}
