//! The format of the reference values, and what a file has to keep to.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::super::bets::Bets;
use super::super::component::{Component, Conditions, Kind, Scope};

/// Of the files that are read.
const FORMAT: u64 = 2;
/// Longest one is remembered of; a file of that size is a mistake.
const MOST_OUTLIERS: usize = 64;

/// One sequence of requests with what has to come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    /// What it is about, for people.
    #[serde(default)]
    pub about: String,
    pub params: Parameters,
    pub components: Vec<ComponentRow>,
    /// Whole seconds since the deploy, of each request; never falling.
    pub tick: Vec<u64>,
    /// CPU milliseconds of each request.
    pub x_ms: Vec<f64>,
    /// Outcome class of each request.
    pub cls: Vec<u8>,
    pub trajectory: Vec<Point>,
    /// Requests (from 1) after which each decision holds, if it does.
    pub first_violation_n: Option<u64>,
    pub first_clear_n: Option<u64>,
    /// `violated`, `cleared` or `undecided`.
    pub verdict: String,
    pub decided_at_n: u64,
    #[serde(default)]
    pub at_decision: Option<AtDecision>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    pub alpha: f64,
    pub beta: f64,
    pub w0: f64,
    pub cap: f64,
    pub cap_clear: f64,
    pub n_min: u64,
    pub outlier_allowance: usize,
    /// Factor on the limits for requests before `warmup_seconds`.
    pub warmup_factor: f64,
    pub warmup_seconds: u64,
    pub lambda: Vec<f64>,
    pub pi: Vec<f64>,
    /// In place of the two above: the factor from each tick on, 1 before the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warmup_steps: Vec<Step>,
    /// The environment's factor from each tick on, 1 before the first; kept within 0.8 to 1.25.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment_steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub tick: u64,
    pub factor: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRow {
    pub weight: f64,
    pub cls: Option<u8>,
    /// `mean` or `quantile`.
    pub kind: String,
    pub limit_ms: f64,
    /// Of a quantile.
    #[serde(default)]
    pub p: Option<f64>,
}

/// What has to hold after `n` requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub n: u64,
    #[serde(rename = "M")]
    pub m: f64,
    #[serde(rename = "max_M")]
    pub max_m: f64,
    /// For a single pooled mean only.
    #[serde(rename = "V", default)]
    pub v: Option<f64>,
}

/// What has to hold of the first component at the decision, in multiples of its limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtDecision {
    pub mean_z: f64,
    pub mean_z_capped: f64,
    pub lower95_z: f64,
    pub upper95_z: f64,
    pub log_e_start_only: f64,
}

/// The file is not of the format: what, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    #[error("the file is no JSON: {0} (JSON has no NaN and no Infinity)")]
    Json(String),
    #[error(
        "the file has no list \"vectors\" with at least one sequence at its top: want {{\"format\": 2, \"vectors\": [...]}}"
    )]
    NoVectors,
    #[error("the file's \"format\" is {0}: only format {FORMAT} is read")]
    Format(String),
    #[error("{place}: {what}")]
    Sequence { place: String, what: String },
}

/// All sequences of a file.
pub fn parse(text: &str) -> Result<Vec<Vector>, FormatError> {
    let mut file: Value = serde_json::from_str(text).map_err(|error| FormatError::Json(error.to_string()))?;
    if let Some(format) = file.get("format").filter(|format| format.as_u64() != Some(FORMAT)) {
        return Err(FormatError::Format(format.to_string()));
    }
    let Some(Value::Array(sequences)) = file.get_mut("vectors").map(Value::take) else {
        return Err(FormatError::NoVectors);
    };
    if sequences.is_empty() {
        return Err(FormatError::NoVectors);
    }
    sequences.into_iter().enumerate().map(|(index, sequence)| one(index, sequence)).collect()
}

fn one(index: usize, sequence: Value) -> Result<Vector, FormatError> {
    let name = sequence.get("name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
    let at = |what: String| FormatError::Sequence { place: format!("vectors[{index}] ({name})"), what };
    // In parts, so that an error names the part that it is in.
    if let Value::Object(fields) = &sequence {
        part::<Parameters>(fields.get("params"), "params").map_err(&at)?;
        for (list, try_one) in
            [("components", try_part::<ComponentRow> as fn(&Value) -> _), ("trajectory", try_part::<Point>)]
        {
            for (row, value) in fields.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
                try_one(value).map_err(|error| at(format!("{list}[{row}]: {error}")))?;
            }
        }
    }
    let vector: Vector = serde_json::from_value(sequence).map_err(|error| at(error.to_string()))?;
    vector.valid().map_err(at)?;
    Ok(vector)
}

fn try_part<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<(), serde_json::Error> {
    T::deserialize(value).map(|_| ())
}

fn part<T: for<'a> Deserialize<'a>>(value: Option<&Value>, name: &str) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("missing field `{name}`"))?;
    try_part::<T>(value).map_err(|error| format!("{name}: {error}"))
}

fn want(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Parameters {
    /// Warm-up and environment in force.
    pub fn conditions(&self, tick: u64) -> Conditions {
        let in_force = |steps: &[Step]| {
            steps.iter().rev().find(|step| step.tick <= tick).map_or(1.0, |step| step.factor)
        };
        let warmup = if !self.warmup_steps.is_empty() {
            in_force(&self.warmup_steps)
        } else if tick < self.warmup_seconds {
            self.warmup_factor
        } else {
            1.0
        };
        Conditions::new(warmup, in_force(&self.environment_steps))
    }

    fn valid(&self) -> Result<(), String> {
        let probability = |p: f64| p > 0.0 && p <= 1.0;
        want(probability(self.alpha), || format!("params.alpha is {}: want above 0, at most 1", self.alpha))?;
        want(probability(self.beta), || format!("params.beta is {}: want above 0, at most 1", self.beta))?;
        want((0.0..=1.0).contains(&self.w0), || format!("params.w0 is {}: want 0 to 1", self.w0))?;
        want(self.cap > 0.0, || format!("params.cap is {}: want above 0", self.cap))?;
        want(self.cap_clear > 1.0, || format!("params.cap_clear is {}: want above 1", self.cap_clear))?;
        want(self.outlier_allowance <= MOST_OUTLIERS, || {
            format!("params.outlier_allowance is {}: want at most {MOST_OUTLIERS}", self.outlier_allowance)
        })?;
        Bets::new(&self.lambda, &self.pi).map_err(|error| format!("params.lambda and params.pi: {error}"))?;
        want(self.warmup_factor >= 1.0, || {
            format!("params.warmup_factor is {}: want 1 or more", self.warmup_factor)
        })?;
        for (name, steps, least) in
            [("warmup_steps", &self.warmup_steps, 1.0), ("environment_steps", &self.environment_steps, 1e-9)]
        {
            want(steps.is_sorted_by(|a, b| a.tick < b.tick), || format!("params.{name}: want rising ticks"))?;
            want(steps.iter().all(|step| step.factor >= least), || {
                format!("params.{name}: want factors of {least} or more")
            })?;
        }
        let twice = !self.warmup_steps.is_empty() && self.warmup_seconds > 0;
        want(!twice, || "params has warmup_steps and warmup_seconds: want one of them".to_owned())
    }
}

impl ComponentRow {
    /// As the engine has it.
    pub fn component(&self) -> Component {
        let kind = match self.p {
            Some(p) if self.kind == "quantile" => Kind::Quantile { p },
            _ => Kind::Mean,
        };
        let scope = Scope { endpoint: 0, class: self.cls };
        Component { weight: self.weight, scope, kind, limit: self.limit_ms, confirmation: Vec::new() }
    }

    fn valid(&self) -> Result<(), String> {
        match (self.kind.as_str(), self.p) {
            ("mean", None) => Ok(()),
            ("quantile", Some(p)) if p > 0.0 && p < 1.0 => Ok(()),
            ("quantile", p) => Err(format!("p is {p:?}: a quantile wants one between 0 and 1")),
            ("mean", Some(_)) => Err("a mean has no p".to_owned()),
            (kind, _) => Err(format!("kind is {kind:?}: want \"mean\" or \"quantile\"")),
        }?;
        want(self.limit_ms > 0.0, || format!("limit_ms is {}: want above 0", self.limit_ms))?;
        want(self.weight >= 0.0, || format!("weight is {}: want 0 or more", self.weight))
    }
}

impl Vector {
    /// The clearing evidence is defined for a single mean over all classes only.
    pub fn is_cleared_by_v(&self) -> bool {
        matches!(&self.components[..], [only] if only.cls.is_none() && only.kind == "mean")
    }

    fn valid(&self) -> Result<(), String> {
        self.params.valid()?;
        want(!self.components.is_empty(), || "components is empty: want at least one".to_owned())?;
        for (index, row) in self.components.iter().enumerate() {
            row.valid().map_err(|error| format!("components[{index}]: {error}"))?;
        }
        let weights: f64 = self.components.iter().map(|row| row.weight).sum();
        want((weights - 1.0).abs() < 1e-9, || format!("the components' weights sum to {weights}: want 1"))?;
        let n = self.x_ms.len();
        want(n > 0, || "x_ms is empty: want at least one request".to_owned())?;
        for (name, length) in [("tick", self.tick.len()), ("cls", self.cls.len())] {
            want(length == n, || format!("{name} has {length} entries, x_ms has {n}: want one per request"))?;
        }
        if let Some(index) = self.x_ms.iter().position(|&x| x.is_nan() || x < 0.0) {
            return Err(format!("x_ms[{index}] is {}: want 0 or more", self.x_ms[index]));
        }
        if let Some(index) = self.tick.windows(2).position(|two| two[0] > two[1]) {
            let at = index + 1;
            return Err(format!("tick[{at}] is before tick[{index}]: want seconds that never fall"));
        }
        want(!self.trajectory.is_empty(), || "trajectory is empty: want at least one point".to_owned())?;
        want(self.trajectory.is_sorted_by(|a, b| a.n < b.n), || "trajectory: want rising n".to_owned())?;
        let requests = n as u64;
        for (name, at) in self.trajectory.iter().map(|point| ("trajectory's n", point.n)).chain([
            ("decided_at_n", self.decided_at_n),
            ("first_violation_n", self.first_violation_n.unwrap_or(1)),
            ("first_clear_n", self.first_clear_n.unwrap_or(1)),
        ]) {
            want((1..=requests).contains(&at), || format!("{name} is {at}: want 1 to {requests}"))?;
        }
        let has_v = self.trajectory.iter().any(|point| point.v.is_some()) || self.first_clear_n.is_some();
        want(!has_v || self.is_cleared_by_v(), || {
            "V or first_clear_n is told: both are for a single mean over all classes only".to_owned()
        })?;
        want(["violated", "cleared", "undecided"].contains(&self.verdict.as_str()), || {
            format!("verdict is {:?}: want \"violated\", \"cleared\" or \"undecided\"", self.verdict)
        })
    }
}
