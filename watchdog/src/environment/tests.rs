//! Controls, factor and hold on seeded traffic.

use std::time::Duration;

use super::{Change, Control, Source, Surroundings};
use crate::aggregate::{Age, Baseline, BuildAggregate};
use crate::config::{Budget, BuildSource, EndpointConfig, Match, Mode, Protocol, ServiceConfig, defaults};
use crate::model::EndpointName;
use crate::sequential::workload::{Login, Rng};
use crate::verdict::{HostFacts, Judge, Measurability, Observation, Probation, Verdict};

const S: u64 = 1_000_000_000;
const BEGAN: u64 = 100 * S;
const RATIO: f64 = 1.3;

/// What feeds a control: the old build, or a neighbour.
const OLD: u8 = 1;
const NEIGHBOUR: u8 = 2;

fn service(budget: Budget) -> ServiceConfig {
    let endpoint = |name: &str, budget: Budget| EndpointConfig {
        name: name.into(),
        method: None,
        path: format!("/{name}"),
        control: false,
        budget,
    };
    ServiceConfig {
        name: "web".into(),
        matcher: Match::default(),
        build: BuildSource::Auto,
        protocol: Protocol::Auto,
        uprobes: defaults::UPROBES,
        warmup_factor: None,
        mode: Mode::Enforce,
        guard_for: Duration::from_hours(24),
        false_rollback_rate: 1e-3,
        endpoints: vec![endpoint("login", budget)],
        release_window: None,
        rollback: None,
    }
}

fn relative() -> Budget {
    Budget { vs_baseline: Some(RATIO), ..Budget::default() }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a request")]
fn ns(ms: f64) -> u64 {
    (ms * 1e6) as u64
}

/// A login that costs `times` the usual, all outcomes alike: so does a slow host.
fn login(rng: &mut Rng, at_mono_ns: u64, times: f64) -> Observation {
    let (class, ms) = Login::USUAL.draw(rng);
    let (cpu_ns, age) = (ns(ms * times), Age::Older);
    Observation { end_mono_ns: at_mono_ns, cpu_ns, count: 1, endpoint: 1, class, status: 0, age }
}

fn baseline(requests: u64) -> Baseline {
    let mut rng = Rng::new(1);
    let mut aggregate = BuildAggregate::default();
    for _ in 0..requests {
        let seen = login(&mut rng, 0, 1.0);
        aggregate.endpoint_mut(&"login".into()).record(seen.class, seen.cpu_ns, 1);
    }
    Baseline::new("good".into(), aggregate)
}

/// A build on probation beside its controls; ten requests a second of each.
struct Scene {
    surroundings: Surroundings<u8>,
    judge: Judge,
    rng: Rng,
    now: u64,
}

impl Scene {
    fn new(seed: u64, budget: Budget, sources: &[(u8, Source)]) -> Self {
        let (config, known) = (service(budget), baseline(5000));
        let probation = Probation::new("new".into(), BEGAN);
        let judge = Judge::new(&config, probation, HostFacts { cores: 4.0 }, Some(&known));
        let control = |(by, source): &(u8, Source)| {
            let control = Control::new(source.clone(), &config, |_| true, known.clone(), RATIO, BEGAN);
            (Some(*by), control.expect("5000 logins are known well enough"))
        };
        let controls = sources.iter().map(control).collect();
        Self {
            surroundings: Surroundings::new(controls, &judge, BEGAN),
            judge,
            rng: Rng::new(seed),
            now: BEGAN,
        }
    }

    /// So many seconds of a host that makes everything `host` times as dear, with a build that costs `build` times as much
    /// itself, beside controls that serve (or not).
    fn pass(&mut self, seconds: u64, host: f64, build: f64, controls: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        for tick in 0..seconds * 10 {
            self.now += S / 10;
            for by in controls {
                let seen = login(&mut self.rng, self.now, host);
                self.surroundings.request(by, &seen);
            }
            let seen = login(&mut self.rng, self.now, host * build);
            self.surroundings.judge(&mut self.judge, &seen, 1.0);
            changes.extend(self.surroundings.advance(&mut self.judge, self.now));
            let over = matches!(self.verdict(), Verdict::Exceeds { .. });
            if over {
                assert!(build > 1.5, "a good build was found over budget after {} s", tick / 10);
                break;
            }
        }
        changes
    }

    fn verdict(&self) -> Verdict {
        self.surroundings.verdict(&self.judge, |judge| judge.verdict(&Measurability::default()))
    }

    fn exceeds(&self) -> bool {
        matches!(self.verdict(), Verdict::Exceeds { .. })
    }
}

fn old() -> (u8, Source) {
    (OLD, Source::OldBuild("good".into()))
}

fn neighbour() -> (u8, Source) {
    (NEIGHBOUR, Source::Service("other".into()))
}

#[test]
fn a_host_that_drifts_by_a_fifth_is_followed_and_blames_no_build() {
    for seed in 0..6 {
        let mut scene = Scene::new(seed, relative(), &[old()]);
        // In eight steps, a quarter of a minute each; then a quarter of an hour.
        for step in 1..=8 {
            assert_eq!(scene.pass(15, 1.0 + 0.025 * f64::from(step), 1.0, &[OLD]), []);
        }
        assert_eq!(scene.pass(900, 1.2, 1.0, &[OLD]), []);
        let factor = scene.surroundings.factor();
        assert!((1.12..=1.25).contains(&factor), "{factor}");
        assert_eq!(scene.surroundings.source().map(Source::label), Some("old_build"));
    }
}

#[test]
fn without_the_factor_the_same_drift_does_blame_it() {
    // What makes the test above able to fail: 1.3 times, less what the baseline is sure of.
    let mut scene = Scene::new(1, Budget { vs_baseline: Some(1.1), ..Budget::default() }, &[]);
    scene.judge = {
        let known = baseline(5000);
        let config = service(Budget { vs_baseline: Some(1.1), ..Budget::default() });
        Judge::new(&config, Probation::new("new".into(), BEGAN), HostFacts { cores: 4.0 }, Some(&known))
    };
    let found = (0..12_000).any(|_| {
        scene.now += S / 10;
        let seen = login(&mut scene.rng, scene.now, 1.2);
        scene.surroundings.judge(&mut scene.judge, &seen, 1.0);
        scene.exceeds()
    });
    assert!(found);
}

#[test]
fn a_bad_build_on_a_slow_host_is_found_all_the_same() {
    let mut delays = Vec::new();
    for seed in 0..20 {
        let mut scene = Scene::new(seed, relative(), &[old()]);
        scene.pass(60, 1.2, 1.0, &[OLD]);
        let before = scene.now;
        scene.pass(120, 1.2, 2.0, &[OLD]);
        assert!(scene.exceeds(), "{:?}", scene.verdict());
        delays.push((scene.now - before) / (S / 10));
    }
    delays.sort_unstable();
    assert!(delays[10] <= 60, "requests until it was found: {delays:?}");
}

#[test]
fn a_control_that_is_violated_holds_the_verdict_and_says_so_when_it_is_over() {
    for seed in 0..20 {
        let mut scene = Scene::new(seed, relative(), &[neighbour()]);
        assert_eq!(scene.pass(60, 1.0, 1.0, &[NEIGHBOUR]), []);
        // Twice as slow, all of it: a build that were judged by itself would be gone within ten requests.
        let changes = scene.pass(60, 2.0, 1.0, &[NEIGHBOUR]);
        assert!(matches!(changes.as_slice(), [Change::Violated(_)]), "{changes:?}");
        assert_eq!(scene.verdict().label(), "environment");
        assert!(scene.verdict().sentence().contains("service other"), "{}", scene.verdict().sentence());
        // Over: nothing that was seen meanwhile counts.
        let changes = scene.pass(90, 1.0, 1.0, &[NEIGHBOUR]);
        assert!(matches!(changes.as_slice(), [Change::Recovered(_)]), "{changes:?}");
        assert!(!scene.exceeds());
        // And what comes does.
        scene.pass(60, 1.0, 2.0, &[NEIGHBOUR]);
        assert!(scene.exceeds());
    }
}

#[test]
fn an_absolute_budget_on_a_slow_host_is_told_and_not_blamed() {
    let budget = Budget {
        mean_cpu: Some(Duration::from_secs_f64(1.5e-3 * Login::mean_ms())),
        vs_baseline: Some(RATIO),
        ..Budget::default()
    };
    let mut scene = Scene::new(3, budget, &[neighbour()]);
    scene.pass(60, 1.0, 1.0, &[NEIGHBOUR]);
    scene.pass(300, 2.0, 1.0, &[NEIGHBOUR]);
    let label = scene.verdict().label();
    assert!(matches!(label, "over_budget_unattributed" | "environment"), "{:?}", scene.verdict());
    assert!(!scene.exceeds());
}

#[test]
fn the_best_control_that_says_anything_is_taken() {
    let mut scene = Scene::new(4, relative(), &[neighbour(), old()]);
    assert_eq!(scene.surroundings.source(), None);
    scene.pass(30, 1.0, 1.0, &[OLD, NEIGHBOUR]);
    assert_eq!(scene.surroundings.source().map(Source::label), Some("old_build"));
    // The old build is gone.
    scene.pass(70, 1.0, 1.0, &[NEIGHBOUR]);
    assert_eq!(scene.surroundings.source().map(Source::label), Some("other_service"));
    scene.pass(70, 1.0, 1.0, &[]);
    assert_eq!((scene.surroundings.source(), scene.surroundings.factor()), (None, 1.0));
}

#[test]
fn a_control_at_its_usual_cost_is_hardly_ever_violated() {
    let config = service(relative());
    let known = baseline(5000);
    let violated = (0..200).filter(|seed| {
        let source = Source::OldBuild("good".into());
        let mut control = Control::new(source, &config, |_| true, known.clone(), RATIO, BEGAN).unwrap();
        let mut rng = Rng::new(1000 + seed);
        (0..2000_u64).any(|n| {
            let at = BEGAN + n * S / 10;
            control.observe(&login(&mut rng, at, 1.0));
            control.advance(at);
            control.violation().is_some()
        })
    });
    // With the rate of a build: 0.2 of 200 would be allowed.
    assert!(violated.count() <= 1);
}

#[test]
fn what_is_hardly_known_is_no_control() {
    let name = EndpointName::from("login");
    let few = baseline(19);
    let none = Control::new(Source::Declared, &service(relative()), |_| true, few, RATIO, BEGAN);
    assert!(none.is_none());
    let config = service(relative());
    assert!(Control::calibration(&config, &name, &BuildAggregate::default(), RATIO, BEGAN).is_none());
    let control = Control::calibration(&config, &name, &baseline(5000).aggregate, RATIO, BEGAN).unwrap();
    assert_eq!((control.source(), control.figure()), (&Source::Loop, None));
}
