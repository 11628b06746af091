//! Everything notable that happens: one variant each, which writes the log line and moves the counters.
//!
//! Nothing is logged per request. [`logging`] formats the lines for the journal, [`notify`] tells systemd.

pub mod logging;
pub mod notify;

use std::fmt::Display;

use tracing::{error, info, warn};

use crate::environment::Change;
use crate::kernel::KernelReport;
use crate::metrics::Counters;
use crate::model::{BuildId, EndpointName, ServiceName};
use crate::verdict::Violation;

/// How a build came to the agent's notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It ran when the agent first came to this service: adopted as good.
    Adopted,
    /// Never seen before: judged.
    New,
    /// Judged before, by this agent or the one before it, and still on probation.
    OnProbation,
    /// In the ledger as good.
    Good,
    /// The same, and its processes began after a newer build had come: somebody went back to it.
    Restored,
    /// In the ledger as bad: its return is an incident at once.
    Condemned,
}

/// One notable event, with what a person at 4 a.m. needs to know.
pub enum Event<'a> {
    Started {
        services: usize,
        report: &'a KernelReport,
    },
    Stopping {
        why: &'a str,
    },
    ConfigLoaded {
        file: &'a str,
    },
    ConfigRejected {
        file: &'a str,
        errors: &'a dyn Display,
    },
    /// Something works less well than it should; says what to do.
    Warning {
        what: &'a str,
        why: &'a dyn Display,
    },
    BuildAppeared {
        service: &'a ServiceName,
        build: &'a BuildId,
        standing: Standing,
    },
    BuildGone {
        service: &'a ServiceName,
        build: &'a BuildId,
    },
    ProbationPassed {
        service: &'a ServiceName,
        build: &'a BuildId,
    },
    /// A person ended a probation.
    Accepted {
        service: &'a ServiceName,
        build: &'a BuildId,
        by: &'a str,
    },
    /// A verdict changed to or from "could not measure".
    Measurable {
        service: &'a ServiceName,
        build: &'a BuildId,
        endpoint: &'a EndpointName,
        now: bool,
        sentence: &'a str,
    },
    /// A good build became known well enough in the middle of a probation.
    Compared {
        service: &'a ServiceName,
        build: &'a BuildId,
        with: &'a BuildId,
    },
    /// A control was found violated, or is well again.
    Surroundings {
        service: &'a ServiceName,
        build: &'a BuildId,
        change: &'a Change,
    },
    Exceeds {
        service: &'a ServiceName,
        build: &'a BuildId,
        endpoint: &'a EndpointName,
        sentence: &'a str,
        /// From the end of the deciding request to the verdict.
        detection_seconds: f64,
        /// From the end of the build's first request on the endpoint to the verdict.
        since_first_seconds: f64,
        requests: u64,
    },
    IncidentOpened {
        service: &'a ServiceName,
        incident: &'a str,
        reason: &'a str,
        sentence: &'a str,
    },
    /// Something happened in an incident that a person should see.
    IncidentStep {
        service: &'a ServiceName,
        incident: &'a str,
        step: &'a str,
    },
    RollbackEnded {
        service: &'a ServiceName,
        incident: &'a str,
        outcome: &'a str,
        /// Whether service is as it should be again.
        recovered: bool,
        detail: &'a str,
    },
    /// A stage failed; the tick loop goes on.
    StageFailed {
        stage: &'a str,
        error: &'a dyn Display,
    },
    /// A failed stage works again.
    StageWorks {
        stage: &'a str,
        failures: u64,
    },
    /// Losses grew in the last minute.
    Lost {
        reasons: &'a str,
    },
}

impl Event<'_> {
    /// Logs the event and counts it.
    pub fn emit(&self, counters: &mut Counters) {
        self.count(counters);
        self.log();
    }

    fn count(&self, counters: &mut Counters) {
        match self {
            Self::ConfigLoaded { .. } => counters.reload_ok = true,
            Self::ConfigRejected { .. } => counters.reload_ok = false,
            Self::Exceeds { service, detection_seconds, .. } => {
                counters.detection.entry((*service).clone()).or_default().observe(*detection_seconds);
            }
            Self::IncidentOpened { service, reason, .. } => {
                *counters.incidents.entry(((*service).clone(), (*reason).to_owned())).or_default() += 1;
            }
            Self::RollbackEnded { service, outcome, .. } => {
                *counters.rollbacks.entry(((*service).clone(), (*outcome).to_owned())).or_default() += 1;
            }
            Self::StageFailed { .. } => counters.tick_errors += 1,
            _ => {}
        }
    }

    fn log(&self) {
        match self {
            Self::Started { services, report } => {
                info!(services, tier = ?report.tier, programs = report.attached.len(), "measuring");
                for (what, why) in &report.degraded {
                    warn!(what, why, "kernel hooks are degraded; `load-watchdog doctor` says what to do");
                }
            }
            Self::Stopping { why } => info!(why, "stopping; every kernel program is detached"),
            Self::ConfigLoaded { file } => info!(file, "configuration loaded"),
            Self::ConfigRejected { file, errors } => {
                error!(file, "configuration rejected; the one before stays in force");
                for error in errors.to_string().lines() {
                    error!("{error}");
                }
            }
            Self::Warning { what, why } => warn!(%why, "{what}"),
            Self::StageFailed { stage, error } => {
                error!(stage, %error, "a stage of the tick failed; going on");
            }
            Self::StageWorks { stage, failures } => {
                info!(stage, failures, "a stage that had failed works again");
            }
            Self::Lost { reasons } => warn!(reasons, "could not measure everything in the last minute"),
            _ => self.log_judgement(),
        }
    }

    fn log_judgement(&self) {
        match self {
            Self::BuildAppeared { service, build, standing } => {
                let standing = *standing;
                match standing {
                    Standing::Adopted => {
                        info!(%service, %build, "build was here first: adopted as good");
                    }
                    Standing::New => info!(%service, %build, "new build: on probation"),
                    Standing::OnProbation => info!(%service, %build, "build is still on probation"),
                    Standing::Good => info!(%service, %build, "good build serves"),
                    Standing::Restored => {
                        info!(%service, %build, "rolled back: an earlier good build serves again, not on probation");
                    }
                    Standing::Condemned => warn!(%service, %build, "a condemned build runs"),
                }
            }
            Self::BuildGone { service, build } => info!(%service, %build, "the build's last process ended"),
            Self::ProbationPassed { service, build } => {
                info!(%service, %build, "build passed its probation: good");
            }
            Self::Accepted { service, build, by } => {
                info!(%service, %build, %by, "build accepted by hand: good");
            }
            Self::Measurable { service, build, endpoint, now, sentence } => {
                if *now {
                    info!(%service, %build, %endpoint, "measurable again: {sentence}");
                } else {
                    warn!(%service, %build, %endpoint, "cannot be judged: {sentence}");
                }
            }
            Self::Compared { service, build, with } => {
                info!(%service, %build, baseline = %with, "enough is known of {with} now: {build} is compared with it from here on");
            }
            Self::Surroundings { service, build, change } => match change {
                Change::Violated(Violation { control, ratio, allowed }) => warn!(
                    %service,
                    %build,
                    "held: {control} costs {ratio:.2} times what it used to, and may {allowed:.2} times; the last half minute's \
                     evidence against the build is dropped, and budgets relative to the good build wait"
                ),
                Change::Recovered(seconds) => info!(
                    %service,
                    %build,
                    "the surroundings are well again after {seconds:.0} s: the build is judged on"
                ),
            },
            Self::Exceeds {
                service,
                build,
                endpoint,
                sentence,
                detection_seconds,
                since_first_seconds,
                requests,
            } => {
                error!(%service, %build, %endpoint, detection_seconds, since_first_seconds, requests, "exceeds: {sentence}");
            }
            Self::IncidentOpened { service, incident, reason, sentence } => {
                error!(%service, incident, reason, "incident opened: {sentence}");
            }
            Self::IncidentStep { service, incident, step } => warn!(%service, incident, "{step}"),
            Self::RollbackEnded { service, incident, outcome, recovered, detail } => {
                if *recovered {
                    info!(%service, incident, outcome, "{detail}");
                } else {
                    error!(%service, incident, outcome, "{detail}");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_once() {
        let mut counters = Counters::default();
        let service = ServiceName::from("web");
        let event =
            Event::IncidentOpened { service: &service, incident: "i1", reason: "mean_cpu", sentence: "" };
        event.emit(&mut counters);
        event.emit(&mut counters);
        assert_eq!(counters.incidents.values().copied().collect::<Vec<_>>(), [2]);
        Event::ConfigRejected { file: "f", errors: &"no" }.emit(&mut counters);
        assert!(!counters.reload_ok);
        Event::ConfigLoaded { file: "f" }.emit(&mut counters);
        assert!(counters.reload_ok);
    }
}
