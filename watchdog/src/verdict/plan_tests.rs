//! Weights, the pool and the clearing rules that follow from a configuration.

use std::time::Duration;

use super::HostFacts;
use super::plan::{Plan, REST};
use super::tests::{baseline, mean_budget, relative_budget, service};
use crate::aggregate::Baseline;
use crate::config::Budget;
use crate::model::StatusClass;
use crate::sequential::{Kind, Parameters, PoolLimit};

fn plan(budgets: &[(&str, Budget)], baseline: Option<&Baseline>) -> Plan {
    Plan::new(&service(budgets), HostFacts { cores: 4.0 }, baseline, &Parameters::default())
}

fn quantile_budget() -> Budget {
    Budget { quantile_cpu: vec![(0.99, Duration::from_millis(400))], ..Budget::default() }
}

fn weight_of(plan: &Plan, endpoint: u16) -> f64 {
    plan.components.iter().filter(|c| c.scope.endpoint == endpoint).map(|c| c.weight).sum()
}

fn limits_of(plan: &Plan, endpoint: u16) -> Vec<PoolLimit> {
    let pool = plan.pool.as_ref().expect("there is a pool");
    pool.limits.iter().filter(|limit| limit.scope.endpoint == endpoint).copied().collect()
}

#[test]
fn one_endpoint_needs_no_pool() {
    for budgets in [mean_budget(1.1), quantile_budget(), relative_budget(1.1)] {
        let plan = plan(&[("login", budgets)], Some(&baseline(2000, 1)));
        assert!(plan.pool.is_none());
        assert!((weight_of(&plan, 1) - 1.0).abs() < 1e-12);
    }
    // Nor does one beside another without a limit of its mean.
    let plan = plan(&[("login", mean_budget(1.1)), ("search", quantile_budget())], None);
    assert!(plan.pool.is_none());
    assert!((weight_of(&plan, 1) - 0.5).abs() < 1e-12 && (weight_of(&plan, 2) - 0.5).abs() < 1e-12);
}

#[test]
fn half_of_the_capital_is_on_the_pool_and_each_endpoint_feeds_it_by_its_own_limit() {
    let budgets = [("login", mean_budget(1.1)), ("search", mean_budget(2.0)), ("page", quantile_budget())];
    let plan = plan(&budgets, None);
    assert!((plan.pool.as_ref().unwrap().weight - 0.5).abs() < 1e-12);
    for endpoint in 1..=3 {
        assert!((weight_of(&plan, endpoint) - 0.5 / 3.0).abs() < 1e-12);
    }
    for endpoint in [1, 2] {
        let [limit] = limits_of(&plan, endpoint)[..] else { panic!("one limit for all classes") };
        let component = plan.components.iter().find(|c| c.scope.endpoint == endpoint).unwrap();
        assert_eq!(limit.scope.class, None);
        assert_eq!(
            (limit.overall.to_bits(), limit.of_build.to_bits()),
            (component.limit.to_bits(), component.limit.to_bits())
        );
    }
    assert!(limits_of(&plan, 3).is_empty(), "a quantile is no limit of the mean");
}

#[test]
fn an_absolute_budget_feeds_the_pool_twice_where_a_baseline_confirms_it() {
    let plan = plan(&[("login", mean_budget(1.1)), ("search", mean_budget(1.1))], Some(&baseline(2000, 1)));
    let limits = limits_of(&plan, 1);
    let component = &plan.components[0];
    assert_eq!(limits.len(), component.confirmation.len());
    for (limit, stratum) in limits.iter().zip(&component.confirmation) {
        assert_eq!(limit.scope.class, Some(stratum.class));
        assert_eq!(limit.overall.to_bits(), component.limit.to_bits());
        assert_eq!(limit.of_build.to_bits(), stratum.limit.to_bits());
    }
    assert!(
        limits.iter().any(|limit| limit.scope.class == Some(REST)),
        "what the baseline never saw feeds it too"
    );
    // There is no baseline of the other endpoint.
    assert_eq!(limits_of(&plan, 2).len(), 1);
}

#[test]
fn a_comparison_with_the_baseline_feeds_the_pool_class_by_class() {
    let both = Budget { vs_baseline: Some(1.2), ..mean_budget(1.1) };
    let plan = plan(&[("login", both), ("search", mean_budget(1.0))], Some(&baseline(2000, 1)));
    let means: Vec<_> = plan
        .components
        .iter()
        .filter(|c| c.scope.endpoint == 1 && c.kind == Kind::Mean && c.scope.class.is_some())
        .map(|c| (c.scope.class, c.limit.to_bits()))
        .collect();
    let of_pool: Vec<_> =
        limits_of(&plan, 1).iter().map(|limit| (limit.scope.class, limit.overall.to_bits())).collect();
    assert!(means.len() >= 3);
    assert_eq!(of_pool, means);
    assert!(limits_of(&plan, 1).iter().all(|limit| limit.overall.to_bits() == limit.of_build.to_bits()));
}

#[test]
fn every_class_with_a_twentieth_of_the_cpu_has_to_be_cleared() {
    let mut known = baseline(4000, 1);
    let login = known.aggregate.endpoint_mut(&"login".into());
    // About 4 % and 8 % of the CPU of some 350 s.
    login.record(StatusClass::ServerError, 140_000_000, 100, 0);
    login.record(StatusClass::Informational, 280_000_000, 100, 0);
    let plan = plan(&[("login", relative_budget(1.2))], Some(&known));
    let claims = &plan.endpoints[0].claims;
    let cleared = |class: StatusClass| claims.iter().any(|claim| claim.class == Some(class as u8));
    assert!(cleared(StatusClass::Redirect) && cleared(StatusClass::Informational));
    assert!(!cleared(StatusClass::ServerError) && !cleared(StatusClass::ClientError));
    assert!(claims.iter().all(|claim| claim.kind == Kind::Mean));
}

#[test]
fn clearing_is_against_the_budget_less_twice_the_tail_and_quantiles_against_themselves() {
    let budget = Budget { quantile_cpu: quantile_budget().quantile_cpu, ..mean_budget(1.5) };
    let known = baseline(4000, 1);
    let plan = plan(&[("login", budget)], Some(&known));
    let [mean, quantile] = &plan.endpoints[0].claims[..] else { panic!("one each") };
    let limit_ns = plan.endpoints[0].mean_limit_ns.unwrap();
    let reduction = mean.limit_ns / limit_ns;
    assert!((0.96..1.0).contains(&reduction), "at most 2 % of the tail, twice: {reduction}");
    assert_eq!((quantile.kind, quantile.class), (Kind::Quantile { p: 0.99 }, None));
    assert!((quantile.limit_ns - 400e6).abs() < 1.0);
}
