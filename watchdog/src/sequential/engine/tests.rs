use super::super::bets::{BETS, STAKE};
use super::super::component::{Kind, Scope, Stratum};
use super::*;
use proptest::prelude::*;

fn mean(weight: f64, endpoint: u16, class: Option<u8>, limit: f64) -> Component {
    Component { weight, scope: Scope { endpoint, class }, kind: Kind::Mean, limit, confirmation: Vec::new() }
}

fn engine(components: Vec<Component>) -> Engine {
    Engine::new(Parameters::default(), components).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * left.abs().max(right.abs())
}

#[test]
fn impossible_components_are_refused() {
    let new = |components| Engine::new(Parameters::default(), components).map(|_| ());
    assert_eq!(new(vec![]), Ok(()));
    assert!(matches!(new(vec![mean(0.5, 0, None, 1.0)]), Err(InvalidComponents::Weights(_))));
    assert_eq!(new(vec![mean(1.0, 0, None, 0.0)]), Err(InvalidComponents::Limit(0)));
    assert_eq!(new(vec![mean(1.0, 0, None, f64::NAN)]), Err(InvalidComponents::Limit(0)));
    let scattered = vec![mean(0.4, 1, None, 1.0), mean(0.3, 2, None, 1.0), mean(0.3, 1, None, 1.0)];
    assert_eq!(new(scattered), Err(InvalidComponents::Scattered(2)));
    let mut quantile = mean(1.0, 0, None, 1.0);
    quantile.kind = Kind::Quantile { p: 1.0 };
    assert_eq!(new(vec![quantile]), Err(InvalidComponents::Quantile(0)));
}

#[test]
fn an_endpoint_needs_its_own_requests_before_it_is_judged() {
    let mut engine = engine(vec![mean(0.5, 1, None, 1.0), mean(0.5, 3, None, 1.0)]);
    for _ in 0..100 {
        engine.observe(0, 1, 2, 1.0, 1, Conditions::NORMAL);
    }
    for n in 1..=5 {
        assert_eq!(engine.violated(), None, "after {} requests of endpoint 3", n - 1);
        engine.observe(0, 3, 2, 1e9, 1, Conditions::NORMAL);
    }
    let crossing = engine.violated().unwrap();
    assert_eq!((crossing.component, crossing.requests, crossing.requests_in_all), (1, 5, 105));
}

#[test]
fn unknown_endpoints_and_late_figures_do_no_harm() {
    let mut engine = engine(vec![mean(1.0, 1, None, 1.0)]);
    engine.observe(10, 1, 0, 1.0, 1, Conditions::NORMAL);
    let before = engine.clone();
    engine.observe(11, 0, 0, 100.0, 1, Conditions::NORMAL);
    engine.observe(11, 9, 0, 100.0, 1, Conditions::NORMAL);
    engine.observe(11, 1, 0, 100.0, 0, Conditions::NORMAL);
    assert_eq!(engine, before);
    engine.observe(3, 1, 0, 1.0, 1, Conditions::NORMAL);
    assert!(close(engine.evidence(), before.evidence()));
}

#[test]
fn the_verdict_stays_when_the_evidence_goes() {
    let mut engine = engine(vec![mean(1.0, 0, None, 1.0)]);
    for _ in 0..10 {
        engine.observe(0, 0, 0, 20.0, 1, Conditions::NORMAL);
    }
    let crossing = engine.violated().unwrap();
    engine.observe(0, 0, 0, 0.0, 1000, Conditions::NORMAL);
    assert!(engine.evidence() < 1.0 && engine.max_evidence() > 1000.0);
    assert_eq!(engine.violated(), Some(crossing));
}

#[test]
fn a_mean_that_only_the_mix_raised_is_not_held_against_the_build() {
    // Usually one request in two is dear (30) and the mean 15.5; the budget is 20.
    let strata = vec![
        Stratum { weight: 0.5, class: 0, limit: 30.0 * 20.0 / 15.5 },
        Stratum { weight: 0.5, class: 1, limit: 20.0 / 15.5 },
    ];
    let component = Component { confirmation: strata, ..mean(1.0, 0, None, 20.0) };
    let (mut mix, mut slow) = (engine(vec![component.clone()]), engine(vec![component]));
    for _ in 0..300 {
        mix.observe(0, 0, 0, 30.0, 1, Conditions::NORMAL);
        slow.observe(0, 0, 0, 90.0, 1, Conditions::NORMAL);
        slow.observe(0, 0, 1, 1.0, 1, Conditions::NORMAL);
    }
    assert_eq!(mix.violated(), None);
    assert!(mix.over_budget().is_some());
    assert!(slow.violated().is_some());
}

#[test]
fn conditions_scale_the_limits() {
    let mut plain = engine(vec![mean(1.0, 0, None, 1.0)]);
    let mut scaled = engine(vec![mean(1.0, 0, None, 1.0)]);
    plain.observe(0, 0, 0, 2.0, 7, Conditions::NORMAL);
    scaled.observe(0, 0, 0, 10.0, 7, Conditions::new(4.0, 7.0));
    assert!(close(plain.evidence(), scaled.evidence()));
    assert!(close(Conditions::new(0.5, 0.1).factor(), 0.8));
}

proptest! {
    /// The definition: every second starts bettors of its own, and the evidence is the sum over all starts.
    #[test]
    fn it_is_the_sum_over_all_starting_times(steps in prop::collection::vec((0u64..4, 0.0..5.0f64), 1..40)) {
        let mut engine = engine(vec![mean(1.0, 0, None, 1.0)]);
        let (mut second, mut at) = (0, Vec::new());
        for &(wait, x) in &steps {
            second += wait;
            at.push((second, x));
            engine.observe(second, 0, 0, x, 1, Conditions::NORMAL);
        }
        let mut sum = 1.0 - released(second, 0.5);
        for start in 0..=second {
            let share = if start == 0 { 0.5 } else { released(start, 0.5) - released(start - 1, 0.5) };
            for bet in BETS {
                let played = at.iter().filter(|(second, _)| *second >= start);
                sum += played.fold(STAKE * share, |stake, (_, x)| stake * (1.0 + bet * (x - 1.0)));
            }
        }
        prop_assert!(close(engine.evidence(), sum), "{} against {sum}", engine.evidence());
    }

    #[test]
    fn the_order_inside_a_second_does_not_matter(
        seconds in prop::collection::vec(prop::collection::vec((0u8..3, 0.0..9.0f64), 1..8), 1..8), seed in any::<u64>(),
    ) {
        let components = || vec![mean(0.5, 0, None, 1.0), mean(0.3, 0, Some(1), 2.0), mean(0.2, 0, Some(2), 0.5)];
        let (mut ordered, mut shuffled) = (engine(components()), engine(components()));
        for (second, requests) in (0..).zip(&seconds) {
            let mut other = requests.clone();
            other.sort_by_key(|(class, x)| (x.to_bits() ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*class));
            for (a, b) in requests.iter().zip(&other) {
                ordered.observe(second, 0, a.0, a.1, 1, Conditions::NORMAL);
                shuffled.observe(second, 0, b.0, b.1, 1, Conditions::NORMAL);
            }
            prop_assert!(close(ordered.evidence(), shuffled.evidence()));
        }
    }
}
