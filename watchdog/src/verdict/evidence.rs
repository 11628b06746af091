//! What a verdict rests on, for people, for the ledger and for the hook.

use serde::{Deserialize, Serialize};

use super::record::Measure as Record;
use crate::aggregate::{Age, ClassAggregate, ClassKey};
use crate::model::{BuildId, EndpointName, ServiceName, StatusClass};
use crate::sequential::{Weighted, interval};

/// Version of the JSON that [`Evidence`] becomes; grows when a field changes its meaning or goes.
pub const EVIDENCE_SCHEMA: u32 = 1;

/// The budget a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BudgetKind {
    /// `mean_cpu`.
    MeanCpu,
    /// `pXX_cpu`.
    QuantileCpu { p: f64 },
    /// `vs_baseline`.
    VsBaseline { ratio: f64 },
    /// `peak_rate` (requests per second) with `max_host_share` (0 to 1).
    HostShare { peak_rate: f64, max_share: f64 },
}

impl BudgetKind {
    /// Stable, for labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::MeanCpu => "mean_cpu",
            Self::QuantileCpu { .. } => "quantile_cpu",
            Self::VsBaseline { .. } => "vs_baseline",
            Self::HostShare { .. } => "max_host_share",
        }
    }
}

/// Which outcome of the endpoint's requests a budget looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    All,
    Class(StatusClass),
    /// One status of a class of which the baseline has several.
    Status(u16),
    /// The same of processes that have just started.
    Young {
        class: StatusClass,
        /// `None`: all of the class.
        status: Option<u16>,
        age: Age,
    },
    /// Outcomes that are rare in the baseline, or that it never had.
    Rest,
}

impl Outcome {
    pub fn of_class(key: ClassKey) -> Self {
        match (key.age.filter(|age| *age != Age::Older), key.status) {
            (Some(age), status) => Self::Young { class: key.class, status, age },
            (None, Some(status)) => Self::Status(status),
            (None, None) => Self::Class(key.class),
        }
    }
}

/// What the limit is a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Mean,
    /// A share `1 - p` of the requests may be above the limit.
    Quantile {
        p: f64,
    },
}

/// The same outcome of the endpoint on the last good build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineFigures {
    pub build: BuildId,
    pub requests: u64,
    pub mean_cpu_seconds: f64,
}

/// What CPU time and counts alone say of the endpoint, over the recent windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateFigures {
    pub mean_cpu_seconds: f64,
    /// 95 %.
    pub interval_cpu_seconds: (f64, f64),
    /// Of the same requests, by direct attribution.
    pub direct_mean_cpu_seconds: Option<f64>,
    pub windows: u64,
}

/// Requests of the endpoint that had begun and not ended when the verdict fell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedFigures {
    pub requests: u64,
    /// What they had used until then, together.
    pub cpu_seconds: f64,
    pub longest_cpu_seconds: f64,
}

/// Everything a verdict rests on. Times are on-CPU seconds per request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub schema: u32,
    pub service: ServiceName,
    pub build: BuildId,
    /// The endpoint with the strongest evidence.
    pub endpoint: EndpointName,
    pub budget: BudgetKind,
    pub outcome: Outcome,
    pub measure: Measure,
    /// Requests of the endpoint until then.
    pub requests: u64,
    /// Those with this outcome; the figures below are about them.
    pub outcome_requests: u64,
    /// Of those, how many were above the limit.
    pub above_limit: u64,
    pub limit_cpu_seconds: f64,
    pub mean_cpu_seconds: f64,
    /// 95 % interval of the mean (requests capped at 50 times the limit), valid whenever one looks; absent where it was
    /// not worked out.
    pub interval_cpu_seconds: Option<(f64, f64)>,
    pub baseline: Option<BaselineFigures>,
    /// Share of the host's cores that the endpoint needs at its peak rate, all outcomes together; 1 is the whole host.
    pub projected_host_share: Option<f64>,
    /// Natural logarithm of the largest evidence so far; `exp(-x)` is a p-value.
    pub log_evidence: f64,
    /// At which the verdict falls: `ln(1 / false_rollback_rate)`.
    pub log_bar: f64,
    /// Seconds after the build came, whole.
    pub second: u64,
    /// End of the last request in it, `CLOCK_MONOTONIC`: of the deciding one when there was a verdict.
    pub last_end_mono_ns: u64,
    /// Which measurement the figures above are.
    #[serde(default = "direct")]
    pub measured_by: Record,
    /// Share of the endpoint's time that direct attribution charged on exact signs; absent where it is not known.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// Absent where it cannot be told.
    #[serde(default)]
    pub estimate: Option<EstimateFigures>,
    /// Present when the verdict rests on requests that had not ended.
    #[serde(default)]
    pub unfinished: Option<UnfinishedFigures>,
}

fn direct() -> Record {
    Record::Direct
}

impl Evidence {
    /// Mean over limit, or over the baseline times its ratio: above 1 is over budget.
    pub fn budget_ratio(&self) -> f64 {
        match self.measure {
            Measure::Mean => self.mean_cpu_seconds / self.limit_cpu_seconds,
            Measure::Quantile { p } => {
                let allowed = (1.0 - p) * self.outcome_requests as f64;
                if allowed > 0.0 { self.above_limit as f64 / allowed } else { 0.0 }
            }
        }
    }

    /// For somebody who was woken by it.
    pub fn sentence(&self) -> String {
        let enough = match self.requests {
            1 => "1 request was enough".to_owned(),
            n => format!("{n} requests were enough"),
        };
        format!("{}{}; {enough}", self.finding(), self.method())
    }

    /// The sentence without how many requests it took.
    pub fn finding(&self) -> String {
        if let Some(unfinished) = &self.unfinished {
            return self.hanging(unfinished);
        }
        let needs = self.needs();
        match self.budget {
            BudgetKind::MeanCpu => format!("{needs}, budget {}", cpu(self.limit_cpu_seconds)),
            BudgetKind::HostShare { peak_rate, max_share } => format!(
                "{needs}: at {peak_rate} requests per second that is {:.0} % of this host's CPU, allowed {:.0} %",
                100.0 * self.projected_host_share.unwrap_or_default(),
                100.0 * max_share
            ),
            BudgetKind::QuantileCpu { .. } => {
                format!("{}; the budget allows {}", self.exceeding(), self.allowed_share())
            }
            BudgetKind::VsBaseline { ratio } => self.against_baseline(&needs, ratio),
        }
    }

    fn hanging(&self, unfinished: &UnfinishedFigures) -> String {
        let (requests, have) = match unfinished.requests {
            1 => ("1 request".to_owned(), "has"),
            n => (format!("{n} requests"), "have"),
        };
        let budget = match self.budget {
            BudgetKind::VsBaseline { .. } => match &self.baseline {
                Some(baseline) if baseline.requests > 0 => format!(
                    "the good build {} needed {} per request",
                    baseline.build,
                    cpu(baseline.mean_cpu_seconds)
                ),
                _ => "more than the good build ever needed".to_owned(),
            },
            _ => format!("budget {} per request", cpu(self.limit_cpu_seconds)),
        };
        format!(
            "build {}: {requests} of {} {have} not ended and {have} used {} CPU so far, the longest {}; {budget}",
            self.build,
            self.endpoint,
            cpu(unfinished.cpu_seconds),
            cpu(unfinished.longest_cpu_seconds)
        )
    }

    /// How it was measured, unless in the usual way.
    fn method(&self) -> String {
        match (self.measured_by, self.confidence) {
            (Record::Estimate, Some(confidence)) => format!(
                " (estimated from CPU time and counts, as only {:.0} % of the time could be charged for certain)",
                100.0 * confidence
            ),
            (Record::Estimate, None) => {
                " (estimated from CPU time and counts, as the requests came by HTTP/2)".to_owned()
            }
            _ => String::new(),
        }
    }

    fn against_baseline(&self, needs: &str, ratio: f64) -> String {
        let Some(baseline) = &self.baseline else { return format!("{needs}, more than the last good build") };
        if baseline.requests == 0 {
            return format!("{needs}, an outcome that the good build {} never had", baseline.build);
        }
        format!(
            "{needs}, {:.1} times the {} of the good build {} ({} requests), allowed {ratio} times",
            self.mean_cpu_seconds / baseline.mean_cpu_seconds,
            cpu(baseline.mean_cpu_seconds),
            baseline.build,
            baseline.requests
        )
    }

    fn needs(&self) -> String {
        let least = match self.interval_cpu_seconds {
            Some((lower, _)) if lower > 0.0 => format!(" (at least {})", cpu(lower)),
            _ => String::new(),
        };
        format!("build {} needs {} CPU per {}{least}", self.build, cpu(self.mean_cpu_seconds), self.request())
    }

    fn exceeding(&self) -> String {
        format!(
            "build {} needed more than {} CPU for {} of {} {} requests",
            self.build,
            cpu(self.limit_cpu_seconds),
            self.above_limit,
            self.outcome_requests,
            self.endpoint
        )
    }

    fn allowed_share(&self) -> String {
        match self.measure {
            Measure::Quantile { p } => format!("{} %", significant(100.0 * (1.0 - p))),
            Measure::Mean => "none".to_owned(),
        }
    }

    fn request(&self) -> String {
        match self.outcome {
            Outcome::All => format!("{} request", self.endpoint),
            Outcome::Class(class) => format!("{} request answered {}", self.endpoint, class.label()),
            Outcome::Status(status) => format!("{} request answered {status}", self.endpoint),
            Outcome::Young { class, status, age } => {
                let answer = status.map_or_else(|| class.label().to_owned(), |status| status.to_string());
                let age = age.label();
                format!("{} request answered {answer} by a process that has run {age}", self.endpoint)
            }
            Outcome::Rest => format!("{} request with a rare outcome", self.endpoint),
        }
    }
}

/// What the mean can be of the requests seen, in seconds.
pub(super) fn interval_seconds(seen: &ClassAggregate, scale_ns: f64, cap: f64) -> (f64, f64) {
    let values: Vec<Weighted> = seen
        .sketch
        .buckets()
        .map(|bucket| Weighted {
            low: bucket.low as f64 / scale_ns,
            high: bucket.high as f64 / scale_ns,
            count: bucket.count,
        })
        .collect();
    let found = interval(&values, cap);
    (found.lower * scale_ns * 1e-9, found.upper * scale_ns * 1e-9)
}

/// A time with a unit that suits it, three digits.
pub(super) fn cpu(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", significant(s)),
        s if s >= 1e-3 => format!("{} ms", significant(s * 1e3)),
        s => format!("{} µs", significant(s * 1e6)),
    }
}

/// Three significant digits, no trailing zeros, never in exponent form.
fn significant(figure: f64) -> String {
    let digits = match figure.abs() {
        f if f >= 99.95 => 0,
        f if f >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{figure:.digits$}");
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            schema: EVIDENCE_SCHEMA,
            service: "web".into(),
            build: "9f3c".into(),
            endpoint: "login".into(),
            budget: BudgetKind::MeanCpu,
            outcome: Outcome::All,
            measure: Measure::Mean,
            requests: 7,
            outcome_requests: 7,
            above_limit: 7,
            limit_cpu_seconds: 0.110,
            mean_cpu_seconds: 0.2121,
            interval_cpu_seconds: Some((0.1413, 0.9)),
            baseline: None,
            projected_host_share: None,
            log_evidence: 7.2,
            log_bar: 6.9,
            second: 3,
            last_end_mono_ns: 0,
            measured_by: Record::Direct,
            confidence: None,
            estimate: None,
            unfinished: None,
        }
    }

    #[test]
    fn the_sentences_are_plain() {
        let mean = evidence();
        assert_eq!(
            mean.sentence(),
            "build 9f3c needs 212 ms CPU per login request (at least 141 ms), budget 110 ms; 7 requests were enough"
        );
        let estimated =
            Evidence { measured_by: Record::Estimate, confidence: Some(0.41), requests: 900, ..evidence() };
        assert_eq!(
            estimated.sentence(),
            "build 9f3c needs 212 ms CPU per login request (at least 141 ms), budget 110 ms (estimated from CPU time \
             and counts, as only 41 % of the time could be charged for certain); 900 requests were enough"
        );
        let unfinished = UnfinishedFigures { requests: 5, cpu_seconds: 9.87, longest_cpu_seconds: 4.0 };
        let hanging = Evidence { unfinished: Some(unfinished), requests: 5, ..evidence() };
        assert_eq!(
            hanging.sentence(),
            "build 9f3c: 5 requests of login have not ended and have used 9.87 s CPU so far, the longest 4 s; budget \
             110 ms per request; 5 requests were enough"
        );
        let counted = Evidence { confidence: None, ..estimated };
        assert!(counted.sentence().contains("as the requests came by HTTP/2"), "{}", counted.sentence());
        let share = Evidence {
            budget: BudgetKind::HostShare { peak_rate: 40.0, max_share: 0.25 },
            projected_host_share: Some(2.121),
            ..evidence()
        };
        assert_eq!(
            share.finding(),
            "build 9f3c needs 212 ms CPU per login request (at least 141 ms): \
             at 40 requests per second that is 212 % of this host's CPU, allowed 25 %"
        );
        let quantile = Evidence {
            budget: BudgetKind::QuantileCpu { p: 0.99 },
            measure: Measure::Quantile { p: 0.99 },
            above_limit: 3,
            limit_cpu_seconds: 0.4,
            ..evidence()
        };
        assert_eq!(
            quantile.finding(),
            "build 9f3c needed more than 400 ms CPU for 3 of 7 login requests; the budget allows 1 %"
        );
        let relative = Evidence {
            budget: BudgetKind::VsBaseline { ratio: 1.3 },
            outcome: Outcome::Class(StatusClass::Redirect),
            baseline: Some(BaselineFigures {
                build: "41aa".into(),
                requests: 9830,
                mean_cpu_seconds: 0.0892,
            }),
            ..evidence()
        };
        assert_eq!(
            relative.finding(),
            "build 9f3c needs 212 ms CPU per login request answered 3xx (at least 141 ms), \
             2.4 times the 89.2 ms of the good build 41aa (9830 requests), allowed 1.3 times"
        );
    }

    #[test]
    fn times_have_units_that_suit_them() {
        for (seconds, text) in [
            (12.0, "12 s"),
            (1.234, "1.23 s"),
            (0.0105, "10.5 ms"),
            (0.25, "250 ms"),
            (0.000_34, "340 µs"),
            (0.0, "0 µs"),
        ] {
            assert_eq!(cpu(seconds), text);
        }
    }

    #[test]
    fn it_survives_json() {
        let text = serde_json::to_string(&evidence()).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence());
    }
}
