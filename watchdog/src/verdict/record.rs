//! Which of two measurements of an endpoint is believed: the time that was charged to its requests, or the estimate that
//! needs no charging.
//!
//! 1. Direct attribution, where it is sure of itself (most of the time was charged on exact signs) and the estimate does
//!    not contradict it, or has nothing to say.
//! 2. The estimate, where direct attribution had to infer more than a tenth, or more than a tenth of the requests came by
//!    HTTP/2, which are counted and not charged, and the estimate is narrow enough to be held against the budget.
//! 3. Neither: both are sure and contradict each other, or neither is sure. Then nothing may be concluded.

use serde::{Deserialize, Serialize};

use super::NotMeasurable;
use super::evidence::EstimateFigures;
use super::words::cpu;
use crate::estimate::{Answer, EndpointEstimate, Figure};
use crate::model::EndpointName;

/// Direct attribution is unsure of an endpoint when less than this share of its time was charged on exact signs.
pub const LEAST_CONFIDENCE: f64 = 0.9;
/// The two contradict each other beyond an interval of this error; it is looked at thousands of times in a probation.
const CONTRADICTION_ERROR: f64 = 1e-4;
/// What either may be off by where work of several requests interleaves: a part of the endpoint's own figure, and of the
/// dearest endpoint's, whose time may be smeared over the others.
const OWN_TOLERANCE: f64 = 0.1;
const SMEAR_TOLERANCE: f64 = 0.02;
/// The 95 % interval reaches at most so far to each side, as a part of the figure or of what is allowed.
const NARROW: f64 = 0.3;

/// What is known of one endpoint beside its requests' own figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// Share of the endpoint's time that was charged on exact signs; `None` without any.
    pub confidence: Option<f64>,
    pub estimate: EndpointEstimate,
    /// Time that was charged to no request, per request of this endpoint: direct figures may miss up to so much.
    pub uncharged_ns: f64,
    /// Direct mean of the service's dearest endpoint.
    pub dearest_ns: f64,
    /// Windows that the estimate is from.
    pub windows: u64,
    /// The estimate of the same endpoint on the good build, where it can be told.
    pub baseline: Option<Figure>,
}

/// Which measurement is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Direct,
    Estimate,
    /// Not yet: direct attribution is unsure, and the estimate needs more.
    Waiting,
    Neither,
}

impl Measure {
    /// Of [`Self::label`].
    pub const LABELS: [&str; 4] = ["direct", "estimate", "waiting", "neither"];

    pub fn label(self) -> &'static str {
        match self {
            Self::Direct => Self::LABELS[0],
            Self::Estimate => Self::LABELS[1],
            Self::Waiting => Self::LABELS[2],
            Self::Neither => Self::LABELS[3],
        }
    }
}

/// The choice for one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub measure: Measure,
    /// Why, in words that go on after the measure's name.
    pub why: String,
    /// Set with [`Measure::Neither`].
    pub reason: Option<NotMeasurable>,
}

impl Opinion {
    /// `allowed_ns`: the smallest limit of a mean that the endpoint is held to. `names`: by index, "other" first.
    pub fn record(&self, endpoint: &EndpointName, allowed_ns: Option<f64>, names: &[EndpointName]) -> Record {
        let sure = self.charged() >= LEAST_CONFIDENCE
            && self.confidence.is_none_or(|share| share >= LEAST_CONFIDENCE);
        let told = match &self.estimate.answer {
            Answer::Known { figure } => Some(figure),
            _ => None,
        };
        let because = |measure, why: String| Record { measure, why, reason: None };
        match (sure, told) {
            (true, Some(figure)) => match self.contradiction(figure) {
                None => because(Measure::Direct, "the estimate agrees".to_owned()),
                Some((direct_ns, interval_ns)) => {
                    let seconds = |ns: f64| ns * 1e-9;
                    let reason = NotMeasurable::Contradiction {
                        endpoint: endpoint.clone(),
                        direct_cpu_seconds: seconds(direct_ns),
                        estimate_cpu_seconds: seconds(figure.mean_ns),
                        interval_cpu_seconds: (seconds(interval_ns.0), seconds(interval_ns.1)),
                    };
                    let why = "the two contradict each other".to_owned();
                    Record { measure: Measure::Neither, why, reason: Some(reason) }
                }
            },
            (true, None) => because(Measure::Direct, self.silence(names)),
            (false, Some(figure)) if is_narrow(figure, allowed_ns) => {
                because(Measure::Estimate, self.unsure())
            }
            (false, Some(figure)) => {
                let reach = percent(half_width_ns(figure) / figure.mean_ns.max(1.0));
                because(Measure::Waiting, format!("{}, and the estimate is still ±{reach}", self.unsure()))
            }
            (false, None) => {
                let why = format!("{}, and {}", self.unsure(), self.silence(names));
                match self.estimate.answer {
                    Answer::Windows { .. } | Answer::Requests { .. } => because(Measure::Waiting, why),
                    _ => {
                        let reason = NotMeasurable::Unsure { endpoint: endpoint.clone(), why: why.clone() };
                        Record { measure: Measure::Neither, why, reason: Some(reason) }
                    }
                }
            }
        }
    }

    /// For the evidence; `None` where the estimate has no figure.
    pub fn figures(&self) -> Option<EstimateFigures> {
        let Answer::Known { figure } = &self.estimate.answer else { return None };
        let (lower_ns, upper_ns) = figure.interval_ns(0.05);
        Some(EstimateFigures {
            mean_cpu_seconds: figure.mean_ns * 1e-9,
            interval_cpu_seconds: (lower_ns * 1e-9, upper_ns * 1e-9),
            direct_mean_cpu_seconds: self.estimate.direct_mean_ns.map(|ns| ns * 1e-9),
            windows: self.windows,
        })
    }

    /// The direct mean and the interval that it contradicts.
    fn contradiction(&self, figure: &Figure) -> Option<(f64, (f64, f64))> {
        let direct_ns = self.estimate.direct_mean_ns?;
        let (lower_ns, upper_ns) = figure.interval_ns(CONTRADICTION_ERROR);
        let tolerance_ns = OWN_TOLERANCE * direct_ns + SMEAR_TOLERANCE * self.dearest_ns;
        let contradicts =
            direct_ns + tolerance_ns + self.uncharged_ns < lower_ns || direct_ns - tolerance_ns > upper_ns;
        contradicts.then_some((direct_ns, (lower_ns, upper_ns)))
    }

    /// Share of the requests that direct attribution charges, and does not only count.
    fn charged(&self) -> f64 {
        1.0 - self.estimate.uncharged as f64 / self.estimate.requests.max(1) as f64
    }

    fn unsure(&self) -> String {
        if self.charged() < LEAST_CONFIDENCE {
            let share = percent(1.0 - self.charged());
            return format!(
                "{share} of the requests came by HTTP/2, which are counted but not charged one by one"
            );
        }
        let share = percent(1.0 - self.confidence.unwrap_or(1.0));
        format!(
            "{share} of the time was charged by inference, {} are allowed",
            percent(1.0 - LEAST_CONFIDENCE)
        )
    }

    /// Why the estimate has no figure.
    fn silence(&self, names: &[EndpointName]) -> String {
        match &self.estimate.answer {
            Answer::Known { .. } => String::new(),
            Answer::Together { with, figure } => {
                let with: Vec<&str> = with
                    .iter()
                    .filter_map(|index| names.get(usize::from(*index)))
                    .map(EndpointName::as_str)
                    .collect();
                format!(
                    "the estimate cannot tell it from {}, as they always come together; a request of any of them \
                     takes {}",
                    with.join(" and "),
                    cpu(figure.mean_ns * 1e-9)
                )
            }
            Answer::Even => "the estimate cannot tell, as the load hardly varies".to_owned(),
            Answer::Windows { seen, needed } => {
                format!("the estimate has {seen} of {needed} windows that it needs")
            }
            Answer::Requests { seen, needed } => {
                format!("the estimate needs {needed} requests spread over its windows ({seen} seen)")
            }
            Answer::Crowded => "the estimate has no room for so many endpoints".to_owned(),
        }
    }
}

fn half_width_ns(figure: &Figure) -> f64 {
    let (lower_ns, upper_ns) = figure.interval_ns(0.05);
    (upper_ns - lower_ns) / 2.0
}

fn is_narrow(figure: &Figure, allowed_ns: Option<f64>) -> bool {
    half_width_ns(figure) <= NARROW * figure.mean_ns.max(allowed_ns.unwrap_or(0.0))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opinion(direct_ms: f64, confidence: f64, answer: Answer) -> Opinion {
        Opinion {
            confidence: Some(confidence),
            estimate: EndpointEstimate {
                endpoint: 1,
                requests: 500,
                uncharged: 0,
                direct_mean_ns: Some(direct_ms * 1e6),
                answer,
            },
            uncharged_ns: 0.2e6,
            dearest_ns: 20e6,
            windows: 200,
            baseline: None,
        }
    }

    fn known(mean_ms: f64, error_ms: f64) -> Answer {
        let figure = Figure {
            mean_ns: mean_ms * 1e6,
            centre_ns: mean_ms * 1e6,
            error_ns: error_ms * 1e6,
            degrees: 29.0,
        };
        Answer::Known { figure }
    }

    #[test]
    fn the_rules_choose_the_measure_of_record() {
        let names: Vec<EndpointName> = vec!["other".into(), "login".into(), "browse".into()];
        let figure = Figure { mean_ns: 11e6, centre_ns: 11e6, error_ns: 1e5, degrees: 29.0 };
        for (opinion, measure, why) in [
            (opinion(20.0, 0.99, known(20.5, 0.4)), Measure::Direct, "the estimate agrees"),
            // 2.0 ms of its own, 0.4 of smear, 0.2 uncharged, 4.5 errors of 0.4.
            (opinion(20.0, 0.99, known(24.3, 0.4)), Measure::Direct, "the estimate agrees"),
            (opinion(20.0, 0.99, known(25.0, 0.4)), Measure::Neither, "contradict"),
            (opinion(20.0, 0.99, known(15.0, 0.4)), Measure::Neither, "contradict"),
            (
                opinion(20.0, 0.5, known(40.0, 0.4)),
                Measure::Estimate,
                "50 % of the time was charged by inference",
            ),
            (opinion(20.0, 0.5, known(40.0, 15.0)), Measure::Waiting, "still ±77 %"),
            (opinion(20.0, 0.99, Answer::Even), Measure::Direct, "the load hardly varies"),
            (opinion(20.0, 0.5, Answer::Even), Measure::Neither, "the load hardly varies"),
            (
                opinion(20.0, 0.5, Answer::Windows { seen: 3, needed: 24 }),
                Measure::Waiting,
                "3 of 24 windows",
            ),
            (
                opinion(20.0, 0.99, Answer::Together { with: vec![2], figure }),
                Measure::Direct,
                "cannot tell it from browse, as they always come together; a request of any of them takes 11 ms",
            ),
        ] {
            let record = opinion.record(&"login".into(), Some(30e6), &names);
            assert_eq!(record.measure, measure, "{opinion:?}");
            assert!(record.why.contains(why), "{}", record.why);
            assert_eq!(record.reason.is_some(), measure == Measure::Neither);
        }
    }

    #[test]
    fn requests_of_http2_are_measured_by_the_estimate() {
        let by_http2 = |uncharged, answer| {
            let mut opinion = opinion(20.0, 1.0, answer);
            opinion.confidence = None;
            opinion.estimate.uncharged = uncharged;
            opinion.estimate.direct_mean_ns = (uncharged < 500).then_some(20e6);
            opinion.record(&"login".into(), Some(30e6), &[])
        };
        let all = by_http2(500, known(20.5, 0.4));
        assert_eq!(all.measure, Measure::Estimate);
        assert!(all.why.starts_with("100 % of the requests came by HTTP/2"), "{}", all.why);
        assert_eq!(by_http2(500, known(20.5, 15.0)).measure, Measure::Waiting);
        assert_eq!(by_http2(500, Answer::Windows { seen: 1, needed: 24 }).measure, Measure::Waiting);
        assert_eq!(by_http2(500, Answer::Even).measure, Measure::Neither);
        assert_eq!(by_http2(40, known(20.5, 0.4)).measure, Measure::Direct);
    }

    #[test]
    fn a_light_endpoint_may_be_told_loosely_when_its_budget_is_wide() {
        let light = opinion(0.3, 0.5, known(0.5, 1.0));
        let record = |allowed_ns| light.record(&"browse".into(), allowed_ns, &[]).measure;
        assert_eq!((record(Some(50e6)), record(None)), (Measure::Estimate, Measure::Waiting));
    }
}
