//! Files that are not of the format, parameters that are obeyed, and differences that are found.

use serde_json::{Value, json};

use super::super::BETS;
use super::{check, parse};

/// Two requests at the limit: no evidence, whatever the bets are.
fn file() -> Value {
    json!({"format": 2, "vectors": [{
        "name": "at_the_limit", "about": "", "verdict": "undecided", "decided_at_n": 2,
        "params": {"alpha": 0.001, "beta": 0.01, "w0": 0.5, "cap": 50.0, "cap_clear": 5.0, "n_min": 5,
                   "outlier_allowance": 0, "warmup_factor": 1.0, "warmup_seconds": 0,
                   "lambda": BETS, "pi": [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125]},
        "components": [{"weight": 1.0, "cls": null, "kind": "mean", "limit_ms": 10.0}],
        "tick": [0, 3], "x_ms": [10.0, 10.0], "cls": [0, 1],
        "trajectory": [{"n": 1, "M": 1.0, "max_M": 1.0, "V": 1.0}, {"n": 2, "M": 1.0, "max_M": 1.0, "V": 1.0}],
        "first_violation_n": null, "first_clear_n": null, "at_decision": null
    }]})
}

/// `path` of the only sequence set to `value`, or taken out.
fn changed(path: &str, value: Option<Value>) -> String {
    let mut file = file();
    let (parent, field) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() { "/vectors/0".to_owned() } else { format!("/vectors/0/{parent}") };
    match (file.pointer_mut(&parent).unwrap(), value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(field.to_owned(), value)),
        (Value::Object(fields), None) => drop(fields.remove(field).unwrap()),
        (Value::Array(list), value) => list[field.parse::<usize>().unwrap()] = value.unwrap(),
        _ => panic!("{path}"),
    }
    file.to_string()
}

#[test]
fn values_that_agree_are_counted() {
    let vectors = parse(&file().to_string()).unwrap();
    let agreement = check(&vectors[0]).unwrap();
    assert_eq!((agreement.requests, agreement.compared, agreement.full_from), (2, 10, None));
    assert!(agreement.largest_error < 1e-14);
}

#[test]
fn files_that_are_something_else_say_what_would_be_right() {
    for (text, said) in [
        ("M = 1", "no JSON"),
        ("{\"x\": NaN}", "JSON has no NaN"),
        ("[]", "no list \"vectors\""),
        ("{\"vectors\": []}", "no list \"vectors\""),
        ("{\"format\": 3, \"vectors\": []}", "only format 2"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    for (path, value, said) in [
        ("params", None, "missing field `params`"),
        ("params/alpha", None, "params: missing field `alpha`"),
        ("params/alpha", Some(json!(0.0)), "params.alpha is 0: want above 0, at most 1"),
        ("params/cap_clear", Some(json!(1.0)), "params.cap_clear is 1: want above 1"),
        ("params/kappa", Some(json!(4.0)), "params: unknown field `kappa`"),
        ("params/warmup_factor", Some(json!(0.5)), "want 1 or more"),
        ("params/lambda/0", Some(json!(2.0)), "params.lambda and params.pi: bet 2 is not"),
        ("params/pi/0", Some(json!(0.5)), "sum to 1.375, not to 1"),
        (
            "params/environment_steps",
            Some(json!([{"tick": 3, "factor": 1.1}, {"tick": 1, "factor": 1.0}])),
            "rising ticks",
        ),
        (
            "components/0/kind",
            Some(json!("median")),
            "components[0]: kind is \"median\": want \"mean\" or \"quantile\"",
        ),
        ("components/0/weight", Some(json!(0.4)), "weights sum to 0.4: want 1"),
        ("components/0/limit_ms", Some(json!("10")), "components[0]: invalid type"),
        ("tick", Some(json!([0])), "tick has 1 entries, x_ms has 2"),
        ("tick", Some(json!([5, 3])), "tick[1] is before tick[0]"),
        ("x_ms/1", Some(json!(-1.0)), "x_ms[1] is -1: want 0 or more"),
        ("cls/1", Some(json!(300)), "invalid value: integer `300`, expected u8"),
        ("trajectory/1/n", Some(json!(7)), "trajectory's n is 7: want 1 to 2"),
        ("trajectory/1/M", None, "trajectory[1]: missing field `M`"),
        ("components/0/cls", Some(json!(1)), "for a single mean over all classes only"),
        ("verdict", Some(json!("fine")), "verdict is \"fine\": want"),
    ] {
        let error = parse(&changed(path, value)).unwrap_err().to_string();
        assert!(error.contains("vectors[0] (at_the_limit)") && error.contains(said), "{path}: {error}");
    }
}

#[test]
fn the_first_difference_is_told() {
    for (path, value, told) in [
        (
            "trajectory/1/M",
            json!(1.000_000_01),
            "M after 2 requests: wanted 1.00000001, got 1.0 (1.0e-8 off)",
        ),
        ("trajectory/0/max_M", json!(2.0), "max_M after 1 requests: wanted 2.0, got 1.0"),
        ("trajectory/0/V", json!(0.9), "V after 1 requests: wanted 0.9, got 1.0"),
        ("first_violation_n", json!(2), "first_violation_n after 2 requests: wanted 2, got none"),
        ("verdict", json!("cleared"), "verdict after 2 requests: wanted cleared, got undecided"),
        ("decided_at_n", json!(1), "decided_at_n after 2 requests: wanted 1, got 2"),
    ] {
        let difference = check(&parse(&changed(path, Some(value))).unwrap()[0]).unwrap_err().to_string();
        assert!(difference.starts_with("at_the_limit: ") && difference.contains(told), "{difference}");
    }
}

/// What the engine comes to for `field` in two requests a little above the limit.
fn got(path: &str, value: Option<Value>, field: &str) -> f64 {
    let mut file: Value = match value {
        Some(value) => serde_json::from_str(&changed(path, Some(value))).unwrap(),
        None => file(),
    };
    let sequence = &mut file["vectors"][0];
    sequence["x_ms"] = json!([17.0, 18.0]);
    let mut point = json!({"n": 2, "M": 7.0, "max_M": 7.0, "V": 7.0});
    // Each difference tells a value; with it the next one is found.
    loop {
        sequence["trajectory"] = json!([point]);
        let difference = check(&parse(&json!({"vectors": [sequence]}).to_string()).unwrap()[0]).unwrap_err();
        let value: f64 = difference.got.split(' ').next().unwrap().parse().unwrap();
        if difference.field == field {
            return value;
        }
        point[difference.field] = json!(value);
    }
}

/// Every parameter moves an outcome, so none is passed over.
#[test]
fn all_parameters_are_obeyed() {
    for (path, value, field) in [
        ("params/w0", json!(0.9), "M"),
        ("params/cap", json!(1.5), "M"),
        ("params/cap_clear", json!(9.0), "V"),
        ("params/outlier_allowance", json!(1), "M"),
        ("params/warmup_steps", json!([{"tick": 0, "factor": 3.0}]), "M"),
        ("params/environment_steps", json!([{"tick": 2, "factor": 0.9}]), "V"),
        ("params/lambda/3", json!(0.3), "M"),
        ("components/0/limit_ms", json!(11.0), "V"),
    ] {
        let (usual, other) = (got(path, None, field), got(path, Some(value), field));
        assert!((usual / other - 1.0).abs() > 1e-3, "{path}: {usual} and {other}");
    }
    let mut file = file();
    file["vectors"][0]["params"]["alpha"] = json!(1.0);
    let outcome = |file: &Value| check(&parse(&file.to_string()).unwrap()[0]).map_err(|d| d.to_string());
    assert!(outcome(&file).is_ok(), "five requests are needed");
    file["vectors"][0]["params"]["n_min"] = json!(2);
    let told = outcome(&file).unwrap_err();
    assert!(told.contains("first_violation_n after 2 requests: wanted none, got 2"), "{told}");
}
