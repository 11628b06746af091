//! The engine against reference values from an independent implementation in Python (`data/vectors.json`).

use serde::Deserialize;
use watchdog::sequential::{
    BETS, Clearance, Component, Conditions, Engine, Kind, Parameters, STAKE, Scope, Weighted, interval,
    ln_evidence_above,
};

#[derive(Deserialize)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    params: Params,
    components: Vec<ComponentRow>,
    tick: Vec<u64>,
    x_ms: Vec<f64>,
    cls: Vec<u8>,
    trajectory: Vec<Point>,
    first_violation_n: Option<u64>,
    first_clear_n: Option<u64>,
    verdict: String,
    decided_at_n: u64,
    at_decision: Option<AtDecision>,
}

#[derive(Deserialize)]
struct Params {
    alpha: f64,
    beta: f64,
    w0: f64,
    cap: f64,
    cap_clear: f64,
    n_min: u64,
    outlier_allowance: usize,
    warmup_factor: f64,
    warmup_seconds: u64,
    lambda: Vec<f64>,
    pi: Vec<f64>,
}

#[derive(Deserialize)]
struct ComponentRow {
    weight: f64,
    cls: Option<u8>,
    kind: String,
    limit_ms: f64,
    p: Option<f64>,
}

#[derive(Deserialize)]
struct Point {
    n: usize,
    #[serde(rename = "M")]
    m: f64,
    #[serde(rename = "max_M")]
    max_m: f64,
    #[serde(rename = "V")]
    v: Option<f64>,
}

#[derive(Deserialize)]
struct AtDecision {
    mean_z_capped: f64,
    lower95_z: f64,
    upper95_z: f64,
    log_e_start_only: f64,
}

fn vectors() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vectors.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).expect("the file is in the tree"))
        .expect("it has the shape above");
    assert_eq!(file.vectors.len(), 15);
    file.vectors
}

fn close(name: &str, what: &str, ours: f64, reference: f64) {
    let error = (ours - reference).abs() / reference.abs().max(f64::MIN_POSITIVE);
    assert!(error <= 1e-9, "{name}: {what} is {ours}, the reference has {reference} ({error:e} off)");
}

impl Vector {
    fn engine(&self) -> Engine {
        let component = |row: &ComponentRow| Component {
            weight: row.weight,
            scope: Scope { endpoint: 0, class: row.cls },
            kind: match row.p {
                Some(p) if row.kind == "quantile" => Kind::Quantile { p },
                _ => Kind::Mean,
            },
            limit: row.limit_ms,
            confirmation: Vec::new(),
        };
        let params = &self.params;
        let parameters = Parameters {
            alpha: params.alpha,
            beta: params.beta,
            first_stake: params.w0,
            cap: params.cap,
            min_requests: params.n_min,
            outlier_allowance: params.outlier_allowance,
            ..Parameters::default()
        };
        Engine::new(parameters, self.components.iter().map(component).collect())
            .expect("the reference accepts it")
    }

    fn conditions(&self, tick: u64) -> Conditions {
        let warming_up = tick < self.params.warmup_seconds;
        Conditions::new(if warming_up { self.params.warmup_factor } else { 1.0 }, 1.0)
    }

    /// Multiples of the only component's limit.
    fn z(&self, n: usize) -> f64 {
        self.x_ms[n] / (self.components[0].limit_ms * self.conditions(self.tick[n]).factor())
    }

    /// Runs the engine; checks the trajectory on the way.
    fn check_violation(&self) -> Engine {
        let mut engine = self.engine();
        let mut points = self.trajectory.iter().peekable();
        for (n, ((&tick, &x), &class)) in (1..).zip(self.tick.iter().zip(&self.x_ms).zip(&self.cls)) {
            engine.observe(tick, 0, class, x, 1, self.conditions(tick));
            if let Some(point) = points.next_if(|point| point.n == n) {
                close(&self.name, &format!("M after {n}"), engine.evidence(), point.m);
                // Ours counts the 1 it starts from; the reference looks at requests only.
                close(&self.name, &format!("max M after {n}"), engine.max_evidence(), point.max_m.max(1.0));
            }
        }
        assert!(points.peek().is_none(), "{}: points left", self.name);
        let violated = engine.violated().map(|crossing| crossing.requests);
        assert_eq!(violated, self.first_violation_n, "{}: the sample of the violation", self.name);
        engine
    }

    fn check_clearance(&self) {
        if self.trajectory[0].v.is_none() {
            return;
        }
        let mut clearance = Clearance::new(self.params.cap_clear);
        let mut points = self.trajectory.iter().peekable();
        for n in 0..self.x_ms.len() {
            clearance.settle(self.z(n), 1, self.params.n_min, 1.0 / self.params.beta);
            if let Some(point) = points.next_if(|point| point.n == n + 1) {
                close(
                    &self.name,
                    &format!("V after {}", n + 1),
                    clearance.value(),
                    point.v.expect("a clearance has it everywhere"),
                );
            }
        }
        assert_eq!(
            clearance.cleared_after(),
            self.first_clear_n,
            "{}: the sample of the clearance",
            self.name
        );
    }

    fn check_interval(&self) {
        let Some(at) = &self.at_decision else { return };
        let decided = usize::try_from(self.decided_at_n).expect("some hundred");
        let values: Vec<Weighted> =
            (0..decided).map(|n| self.z(n)).map(|z| Weighted { low: z, high: z, count: 1 }).collect();
        let cap = self.params.cap;
        let found = interval(&values, cap);
        let mean = values.iter().map(|value| value.low.min(cap)).sum::<f64>() / decided as f64;
        close(&self.name, "mean", mean, at.mean_z_capped);
        close(&self.name, "lower end", found.lower, at.lower95_z);
        close(&self.name, "upper end", found.upper, at.upper95_z);
        close(
            &self.name,
            "ln evidence from the start",
            ln_evidence_above(&values, cap, 1.0),
            at.log_e_start_only,
        );
    }
}

#[test]
fn the_bets_are_those_of_the_reference() {
    for vector in vectors() {
        assert_eq!(vector.params.lambda, BETS, "{}", vector.name);
        assert_eq!(vector.params.pi, [STAKE; BETS.len()], "{}", vector.name);
    }
}

#[test]
fn evidence_and_the_sample_of_the_verdict_agree() {
    for vector in vectors() {
        vector.check_violation();
    }
}

#[test]
fn clearances_agree() {
    for vector in vectors() {
        vector.check_clearance();
    }
}

#[test]
fn intervals_at_the_verdict_agree() {
    for vector in vectors() {
        vector.check_interval();
    }
}

#[test]
fn verdicts_agree() {
    for vector in vectors() {
        let earlier = |a: Option<u64>, b: Option<u64>| a.is_some_and(|a| b.is_none_or(|b| a <= b));
        let (violated, cleared) = (vector.first_violation_n, vector.first_clear_n);
        let verdict = match () {
            () if earlier(violated, cleared) => "violated",
            () if cleared.is_some() => "cleared",
            () => "undecided",
        };
        assert_eq!(verdict, vector.verdict, "{}", vector.name);
    }
}

#[test]
fn a_state_that_was_saved_goes_on_bit_for_bit() {
    for vector in vectors() {
        let whole = vector.check_violation();
        let mut resumed = vector.engine();
        for n in 0..vector.x_ms.len() {
            resumed.observe(
                vector.tick[n],
                0,
                vector.cls[n],
                vector.x_ms[n],
                1,
                vector.conditions(vector.tick[n]),
            );
            resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        }
        assert_eq!(whole, resumed, "{}", vector.name);
    }
}
