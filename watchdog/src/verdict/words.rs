//! The words: the one place where a verdict, and what belongs to it, becomes a sentence for somebody who was woken by it.
//!
//! Functions of values: log, `status`, `builds`, incidents and the hook all say the same of the same.

mod finding;
mod nouns;
mod peak;

use std::fmt;

use super::{Evidence, Missing, NotMeasurable, Progress, ToGo, Verdict, Violation};
use crate::aggregate::NEEDED_SECONDS;
use crate::model::EndpointName;

pub use nouns::cpu;
pub use peak::day_of;

pub(super) use nouns::one;
use nouns::{many, requests, significant};

/// Below this the evidence against a build is told as none: it starts at 1.
const HARDLY_ANY: f64 = 1.5;

/// All that the sentence on a build is made of.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    pub verdict: &'a Verdict,
    /// How far it is from another verdict; not needed for the log and for incidents.
    pub progress: Option<&'a Progress>,
    pub warming: Option<Warming>,
}

/// Processes of the build that have just begun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warming {
    pub processes: u64,
    /// What their requests may cost, in multiples of the budgets.
    pub factor: f64,
}

impl Verdict {
    /// Of the verdict alone.
    pub fn sentence(&self) -> String {
        Account { verdict: self, progress: None, warming: None }.sentence()
    }
}

impl Account<'_> {
    pub fn sentence(&self) -> String {
        match self.verdict {
            Verdict::Within { evidence } => self.and_warming(evidence.within()),
            Verdict::Exceeds { evidence } => evidence.sentence(),
            Verdict::OverBudgetNotAttributed { evidence } => format!(
                "{}; not attributed to the build so far, as the mix of requests or the surroundings may have changed",
                evidence.finding()
            ),
            Verdict::Undecided { missing, evidence } => self.undecided(missing, evidence.as_deref()),
            Verdict::NotMeasurable { reason } => format!("not measurable: {reason}"),
            Verdict::Environment { violation } => held(violation),
        }
    }

    fn undecided(&self, missing: &[Missing], evidence: Option<&Evidence>) -> String {
        let mut parts: Vec<String> = evidence.map(Evidence::so_far).into_iter().collect();
        let progress = self.progress.filter(|progress| progress.judged > 0);
        let waits_only_for_evidence = missing.iter().all(|it| matches!(it, Missing::Evidence { .. }));
        if let Some(progress) = progress {
            parts.extend(progress.words(waits_only_for_evidence));
        }
        // The progress tells more exactly how much is missing of it.
        let told = missing.iter().filter(|it| progress.is_none() || !matches!(it, Missing::Evidence { .. }));
        parts.extend(told.map(ToString::to_string));
        if parts.is_empty() {
            parts.push("not judged yet".to_owned());
        }
        let seen = match (evidence, self.progress) {
            (Some(evidence), _) => requests(&evidence.endpoint, evidence.requests),
            (None, Some(Progress { requests: seen @ 1.., .. })) => {
                format!("{seen} request{}", if *seen == 1 { "" } else { "s" })
            }
            _ => return self.and_warming(format!("undecided: {}", parts.join("; "))),
        };
        self.and_warming(format!("undecided after {seen}: {}", parts.join("; ")))
    }

    fn and_warming(&self, sentence: String) -> String {
        let Some(Warming { processes, factor }) = self.warming.filter(|warming| warming.processes > 0) else {
            return sentence;
        };
        let who = match processes {
            1 => "1 process is younger than 30 s, and what it serves".to_owned(),
            n => format!("{n} processes are younger than 30 s, and what they serve"),
        };
        format!("{sentence}; warm-up: {who} may cost {} times the budget", significant(factor))
    }
}

fn held(violation: &Violation) -> String {
    let Violation { control, ratio, allowed } = violation;
    format!(
        "held, as the surroundings are to blame or may be: {control} costs {ratio:.2} times what it used to (a build may \
         {allowed:.2} times); budgets relative to the last good build are judged again when that is over"
    )
}

impl Progress {
    /// How much speaks against the build, and what would settle it.
    fn words(&self, waits_only_for_evidence: bool) -> Vec<String> {
        let against = libm::exp(self.log_evidence);
        let mut words = Vec::new();
        if against < HARDLY_ANY {
            words.push("nothing speaks against it yet".to_owned());
        } else {
            let (against, bar) = (at_most_two_digits(against), libm::exp(self.log_bar).round());
            words.push(format!("the evidence against it is {against} of the {bar} that it takes"));
        }
        if let Some(ToGo { endpoint, requests: more }) = &self.to_exceed {
            words.push(format!("{} at this cost would show it over budget", about(endpoint, *more)));
        }
        if !self.to_clear.is_empty() {
            let each: Vec<String> =
                self.to_clear.iter().map(|to_go| about(&to_go.endpoint, to_go.requests)).collect();
            words.push(format!("{} like those so far would show it within budget", each.join(" and ")));
        }
        if waits_only_for_evidence && self.to_exceed.is_none() && self.to_clear.is_empty() {
            words.push("how many more requests that takes cannot be told yet".to_owned());
        }
        words
    }
}

fn about(endpoint: &EndpointName, more: u64) -> String {
    format!("about {more} more {}", if more == 1 { nouns::one(endpoint) } else { many(endpoint) })
}

/// A count of odds: nobody needs its third digit.
fn at_most_two_digits(figure: f64) -> String {
    let figure = if figure >= 100.0 {
        let step = libm::pow(10.0, libm::floor(libm::log10(figure)) - 1.0);
        (figure / step).floor() * step
    } else {
        figure
    };
    if figure >= 9.95 { format!("{figure:.0}") } else { significant((figure * 10.0).round() / 10.0) }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget => f.write_str("no endpoint of the service has a budget in the configuration"),
            Self::Requests { endpoint } => write!(f, "no {} yet", nouns::one(endpoint)),
            Self::Baseline { endpoint, requests, needed } => write!(
                f,
                "no good build to compare {} with yet ({requests} of {needed} requests are known of one)",
                many(endpoint)
            ),
            Self::PeakRate { endpoint } => write!(
                f,
                "the share of the host at {endpoint}'s peak is not measurable: too little traffic history ({} h are \
                 needed to learn its rate; builds that come after that are judged by it)",
                NEEDED_SECONDS / 3600
            ),
            Self::Estimate { endpoint, why } => write!(f, "{endpoint}: {why}"),
            Self::Quantile { endpoint } => write!(
                f,
                "the quantiles of {endpoint} cannot be judged, as too much of its time was charged by inference"
            ),
            Self::Evidence { requests: 1 } => {
                f.write_str("1 request is too few to tell within from over budget")
            }
            Self::Evidence { requests } => {
                write!(f, "{requests} requests are too few to tell within from over budget")
            }
        }
    }
}

impl fmt::Display for NotMeasurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coverage { coverage, needed } => write!(
                f,
                "only {:.0} % of the service's CPU could be charged to requests, {:.0} % needed (min_coverage)",
                100.0 * coverage,
                100.0 * needed
            ),
            Self::Lost { lost, seen } => {
                write!(f, "{lost} requests were lost, {seen} seen; `load-watchdog doctor` says why")
            }
            Self::Blind { why } => f.write_str(why),
            Self::Contradiction {
                endpoint,
                direct_cpu_seconds,
                estimate_cpu_seconds,
                interval_cpu_seconds: (lower, upper),
            } => write!(
                f,
                "two measurements of {endpoint} contradict each other: {} per request were charged to its requests, \
                 while CPU time and counts alone say {} ({} to {})",
                cpu(*direct_cpu_seconds),
                cpu(*estimate_cpu_seconds),
                cpu(*lower),
                cpu(*upper)
            ),
            Self::Unsure { endpoint, why } => write!(f, "{endpoint}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
