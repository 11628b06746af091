//! The engine against reference values from an independent implementation in Python.
//!
//! `data/vectors.json` comes with the decision note; `data/vectors_other.json` is from the same reference with other grids
//! of bets, outliers left out, steps of warm-up and environment. `cargo xtask vectors FILE` checks any other file.

use watchdog::sequential::vectors::{Vector, check, parse};
use watchdog::sequential::{Bets, Engine, Parameters};

const FILES: [(&str, &str, usize); 2] = [
    ("vectors.json", include_str!("data/vectors.json"), 15),
    ("vectors_other.json", include_str!("data/vectors_other.json"), 7),
];

fn vectors() -> impl Iterator<Item = Vector> {
    FILES.into_iter().flat_map(|(file, text, sequences)| {
        let vectors = parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(vectors.len(), sequences, "{file}");
        vectors
    })
}

#[test]
fn evidence_verdicts_and_intervals_agree() {
    for vector in vectors() {
        let agreement = check(&vector).unwrap_or_else(|difference| panic!("{difference}"));
        assert!(agreement.compared >= 2 * vector.trajectory.len() + 4, "{}", vector.name);
        assert_eq!(agreement.full_from, None, "{}: everything is compared", vector.name);
    }
}

#[test]
fn a_state_that_was_saved_goes_on_bit_for_bit() {
    for vector in vectors() {
        let params = &vector.params;
        let parameters = Parameters {
            alpha: params.alpha,
            first_stake: params.w0,
            cap: params.cap,
            min_requests: params.n_min,
            outlier_allowance: params.outlier_allowance,
            bets: Bets::new(&params.lambda, &params.pi).unwrap(),
            ..Parameters::default()
        };
        let components: Vec<_> = vector.components.iter().map(|row| row.component()).collect();
        let mut whole = Engine::new(parameters, components).unwrap();
        let mut resumed = whole.clone();
        for (n, &tick) in vector.tick.iter().enumerate() {
            let (class, x, conditions) = (vector.cls[n], vector.x_ms[n], params.conditions(tick));
            whole.observe(tick, 0, class, x, 1, conditions);
            resumed.observe(tick, 0, class, x, 1, conditions);
            resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        }
        assert_eq!(whole, resumed, "{}", vector.name);
        assert_eq!(whole.violated().map(|crossing| crossing.requests), vector.first_violation_n);
    }
}
