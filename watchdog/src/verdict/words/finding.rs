//! What was found of a build, from its evidence.

use super::nouns::{cpu, many, one, requests, significant, span};
use super::peak::cores;
use crate::verdict::evidence::{BudgetKind, Evidence, Measure, Outcome, UnfinishedFigures};
use crate::verdict::record::Measure as Record;

/// A host that is so much slower or faster is worth a word.
const WORTH_A_WORD: f64 = 0.05;

/// What the interval is for.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Its lower end is what the verdict rests on.
    Decided,
    /// Both ends say how much is open.
    Open,
}

impl Evidence {
    /// For somebody who was woken by it.
    pub fn sentence(&self) -> String {
        let enough = match &self.since {
            Some(since) if self.unfinished.is_none() => {
                (since.requests, format!("{} since then", requests(&self.endpoint, since.requests)))
            }
            _ => (self.requests, requests(&self.endpoint, self.requests)),
        };
        let were = if enough.0 == 1 { "was" } else { "were" };
        let mut sentence = format!("{}{}; {} {were} enough", self.finding(), self.method(), enough.1);
        for more in [self.at_peak(), self.surroundings()].into_iter().flatten() {
            sentence.push_str("; ");
            sentence.push_str(&more);
        }
        sentence
    }

    /// The sentence without how many requests it took.
    pub fn finding(&self) -> String {
        self.told(Stage::Decided)
    }

    /// While nothing is decided.
    pub(super) fn so_far(&self) -> String {
        format!("{}{}", self.told(Stage::Open), self.method())
    }

    /// When every budget is kept.
    pub(super) fn within(&self) -> String {
        let seen = requests(&self.endpoint, self.requests);
        let mut sentence = format!("within its budgets after {seen}: {}", self.so_far());
        if let Some(peak) = self.at_peak() {
            sentence.push_str("; ");
            sentence.push_str(&peak);
        }
        sentence
    }

    fn told(&self, stage: Stage) -> String {
        if let Some(unfinished) = &self.unfinished {
            return self.hanging(unfinished);
        }
        let needs = self.needs(stage);
        match self.budget {
            BudgetKind::MeanCpu => format!("{needs}, budget {}", cpu(self.limit_cpu_seconds)),
            BudgetKind::HostShare { peak_rate, max_share } => {
                let of = match self.peak() {
                    Some(peak) => cores(peak.cores),
                    None => "the cores".to_owned(),
                };
                let (share, rate) = (significant(100.0 * max_share), significant(peak_rate));
                let limit = cpu(self.limit_cpu_seconds);
                format!("{needs}, budget {limit} ({share} % of {of} at {rate}/s)")
            }
            BudgetKind::QuantileCpu { .. } => {
                format!("{}; the budget allows {}", self.exceeding(), self.allowed_share())
            }
            BudgetKind::VsBaseline { ratio } => self.against_baseline(&needs, ratio),
        }
    }

    fn hanging(&self, unfinished: &UnfinishedFigures) -> String {
        let have = if unfinished.requests == 1 { "has" } else { "have" };
        let one = one(&self.endpoint);
        let budget = match self.budget {
            BudgetKind::VsBaseline { .. } => match &self.baseline {
                Some(baseline) if baseline.requests > 0 => format!(
                    "the good build {} needed {} per {one}",
                    baseline.build,
                    cpu(baseline.mean_cpu_seconds)
                ),
                _ => "more than the good build ever needed".to_owned(),
            },
            _ => format!("budget {} per {one}", cpu(self.limit_cpu_seconds)),
        };
        format!(
            "build {}: {} {have} not ended and {have} used {} CPU so far, the longest {}; {budget}",
            self.build,
            requests(&self.endpoint, unfinished.requests),
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
            self.latest_mean() / baseline.mean_cpu_seconds,
            cpu(baseline.mean_cpu_seconds),
            baseline.build,
            baseline.requests
        )
    }

    fn needs(&self, stage: Stage) -> String {
        let (build, request) = (&self.build, self.request());
        if let Some(since) = &self.since {
            return format!(
                "build {build} has needed about {} CPU per {request} since {} after it came ({} over all)",
                cpu(since.mean_cpu_seconds),
                span(since.second),
                cpu(self.mean_cpu_seconds)
            );
        }
        let needs = format!("build {build} needs {} CPU per {request}", cpu(self.mean_cpu_seconds));
        match (stage, self.interval_cpu_seconds) {
            (Stage::Decided, Some((lower, _))) if lower > 0.0 => format!("{needs} (at least {})", cpu(lower)),
            (Stage::Open, Some((lower, upper))) => {
                format!("{needs} so far ({} to {})", cpu(lower), cpu(upper))
            }
            (Stage::Open, None) => format!("{needs} so far"),
            _ => needs,
        }
    }

    fn exceeding(&self) -> String {
        format!(
            "build {} needed more than {} CPU for {} of {} {}",
            self.build,
            cpu(self.limit_cpu_seconds),
            self.above_limit,
            self.outcome_requests,
            many(&self.endpoint)
        )
    }

    fn allowed_share(&self) -> String {
        match self.measure {
            Measure::Quantile { p } => format!("{} %", significant(100.0 * (1.0 - p))),
            Measure::Mean => "none".to_owned(),
        }
    }

    /// One request that the figures are about, as "login answered 2xx".
    pub fn request(&self) -> String {
        let one = one(&self.endpoint);
        match self.outcome {
            Outcome::All => one,
            Outcome::Class(class) => format!("{one} answered {}", class.label()),
            Outcome::Status(status) => format!("{one} answered {status}"),
            Outcome::Young { class, status, age } => {
                let answer = status.map_or_else(|| class.label().to_owned(), |status| status.to_string());
                format!("{one} answered {answer} by a process that has run {}", age.label())
            }
            Outcome::Rest => format!("{one} with a rare outcome"),
        }
    }

    /// What requests of the outcome cost at last.
    fn latest_mean(&self) -> f64 {
        self.since.as_ref().map_or(self.mean_cpu_seconds, |since| since.mean_cpu_seconds)
    }

    fn at_peak(&self) -> Option<String> {
        if self.unfinished.is_some() {
            return None;
        }
        let Some(peak) = self.peak() else {
            let share = self.projected_host_share?;
            return matches!(self.budget, BudgetKind::HostShare { .. })
                .then(|| format!("at its peak it would need {:.0} % of the cores", 100.0 * share));
        };
        Some(peak.would_need(self.endpoint_mean()))
    }

    /// Of all outcomes together, at last where that is known.
    fn endpoint_mean(&self) -> f64 {
        match self.outcome {
            Outcome::All => self.latest_mean(),
            _ => self.endpoint_mean_cpu_seconds.unwrap_or(self.mean_cpu_seconds),
        }
    }

    /// When limits were moved far enough for somebody to wonder.
    fn surroundings(&self) -> Option<String> {
        let host = self.setting.as_ref()?.host.as_ref()?;
        let control = host.control.as_deref()?;
        let factor = host.factor;
        let relative = matches!(self.budget, BudgetKind::VsBaseline { .. });
        if factor >= 1.0 + WORTH_A_WORD {
            Some(format!(
                "the limit was raised {factor:.2} times, as {control} costs so much more than before"
            ))
        } else if factor <= 1.0 - WORTH_A_WORD && relative {
            Some(format!("the limit was lowered to {factor:.2} times, as {control} costs less than before"))
        } else {
            None
        }
    }

    /// What stands behind the sentence, a line each: for the report of an incident.
    pub fn details(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "evidence {:.1} after {}, {:.1} needed (natural logarithms), {} after the build came",
            self.log_evidence,
            requests(&self.endpoint, self.requests),
            self.log_bar,
            span(self.second)
        )];
        let outcome = format!("{} of {}", requests(&self.endpoint, self.outcome_requests), self.requests);
        let interval = self.interval_cpu_seconds.map_or(String::new(), |(lower, upper)| {
            format!(", 95 % interval {} to {}", cpu(lower), cpu(upper))
        });
        lines.push(format!(
            "{} CPU per {} ({outcome}){interval}; limit {}",
            cpu(self.mean_cpu_seconds),
            self.request(),
            cpu(self.limit_cpu_seconds)
        ));
        lines.extend(self.since.as_ref().map(|since| {
            format!(
                "since {} after the build came: {} per {}, {} (the start was chosen because what follows is dear, so \
                 this is rather too high)",
                span(since.second),
                cpu(since.mean_cpu_seconds),
                self.request(),
                requests(&self.endpoint, since.requests)
            )
        }));
        lines.extend(self.estimate.as_ref().map(|estimate| {
            let (lower, upper) = estimate.interval_cpu_seconds;
            format!(
                "estimate from CPU time and counts alone: {} ({} to {})",
                cpu(estimate.mean_cpu_seconds),
                cpu(lower),
                cpu(upper)
            )
        }));
        lines.extend(self.baseline.as_ref().map(|baseline| {
            let how = match self.setting.as_ref().and_then(|setting| setting.baseline_processes) {
                Some(0) => ", its stored figures",
                Some(_) => ", which ran beside it",
                None => "",
            };
            format!(
                "compared with the good build {}: {} requests, {} each{how}",
                baseline.build,
                baseline.requests,
                cpu(baseline.mean_cpu_seconds)
            )
        }));
        lines.extend(self.setting.as_ref().and_then(|setting| setting.host.as_ref()).map(|host| {
            match &host.control {
                Some(control) => format!("surroundings: {:.2} times as slow, by {control}", host.factor),
                None => "surroundings: nothing told whether the host was slower than before".to_owned(),
            }
        }));
        lines.extend(self.at_peak());
        lines
    }
}
