//! What the loop answers between two ticks: commands and scrapes.

use std::time::Duration;

use watchdog_common::types::Loss;

use super::Agent;
use super::service::{Build, Judged, Service};
use crate::aggregate::{EndpointAggregate, NEEDED_SECONDS};
use crate::config::EndpointConfig;
use crate::control::server::Call;
use crate::control::{
    AgentStatus, BuildStatus, Command, ComparedWith, EndpointStatus, EstimateStatus, Outcome, PeakStatus,
    Refusal, RefusalCode, ServiceStatus, StatusSnapshot, ledger,
};
use crate::identity::Following;
use crate::incident::BuildState;
use crate::kernel::Tier;
use crate::metrics::{self, BuildEvidence, JudgedCpu, Snapshot};
use crate::model::BuildId;
use crate::verdict::{Account, Evidence, Verdict, Warming};

impl Agent {
    pub(super) fn answer(&mut self, call: Call) {
        self.refresh_accounts();
        let outcome = match &call.command {
            Command::Status => Outcome::Status(self.status()),
            command if command.writes() => self.change(command, &call.by),
            Command::Gate { service, .. } if !self.is_configured(service) => self.unknown_service(service),
            command => ledger::read(&self.store, command, &self.live_builds()).unwrap_or_else(|error| {
                Outcome::Error(Refusal { code: RefusalCode::Failed, message: error.to_string() })
            }),
        };
        // The client may have gone away.
        let _ = call.reply.send(outcome);
    }

    fn live_builds(&self) -> ledger::LiveBuilds {
        let mut live = ledger::LiveBuilds::new();
        for (index, service) in self.services.iter().enumerate() {
            for (id, build) in &service.builds {
                let status = self.build_status(index, id, build);
                let known = ledger::Live {
                    processes: status.processes,
                    compared_with: status.compared_with,
                    verdict: status.verdict,
                    sentence: status.sentence,
                    progress: status.progress,
                };
                live.insert((service.config.name.clone(), id.clone()), known);
            }
        }
        live
    }

    fn status(&self) -> StatusSnapshot {
        let report = self.kernel.report();
        let losses = Loss::ALL
            .iter()
            .zip(self.counters.losses)
            .filter(|(_, count)| *count > 0)
            .map(|(loss, count)| (loss.label().to_owned(), count));
        StatusSnapshot {
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_seconds: self.age_seconds(self.started_mono_ns),
                config_file: self.options.config_file.display().to_string(),
                config_ok: self.counters.reload_ok,
                tier: match report.tier {
                    Tier::Core => "core",
                    Tier::A => "a",
                }
                .to_owned(),
                degraded: report.degraded.iter().map(|(what, why)| format!("{what}: {why}")).collect(),
                losses: losses.collect(),
                decisions: self.decision_records(),
            },
            services: (0..self.services.len()).map(|index| self.service_status(index)).collect(),
        }
    }

    fn age_seconds(&self, mono_ns: u64) -> f64 {
        self.last_tick_mono_ns.saturating_sub(mono_ns) as f64 * 1e-9
    }

    fn service_status(&self, index: usize) -> ServiceStatus {
        let service = &self.services[index];
        let coverage = service.coverage.ratio();
        let following = self.identifier.following(index);
        let mut problems = problems(service, coverage, self.config.agent.min_coverage);
        problems.extend(following.iter().filter_map(Following::problem));
        ServiceStatus {
            service: service.config.name.clone(),
            mode: service.config.mode,
            configured_mode: Some(self.configured_mode(&service.config.name))
                .filter(|configured| *configured != service.config.mode),
            observed: self.observed(&service.config.name),
            processes: service.processes(),
            coverage,
            min_coverage: self.config.agent.min_coverage,
            hidden: service
                .hidden
                .shares()
                .iter()
                .map(|(kind, share)| ((*kind).to_owned(), *share))
                .collect(),
            following: following.iter().map(ToString::to_string).collect(),
            notes: notes(service),
            problems,
            open_incident: self.open_incident(index).map(ToString::to_string),
            release_window: self.release_window_status(index),
            builds: service.builds.iter().map(|(id, build)| self.build_status(index, id, build)).collect(),
        }
    }

    fn build_status(&self, index: usize, id: &BuildId, build: &Build) -> BuildStatus {
        let service = &self.services[index];
        let on_probation = build.state == BuildState::Probation;
        let guarded = Duration::from_nanos(build.guarded_ns);
        // An adopted build is held to absolute budgets only: worth a word when it breaks one.
        let told = |judged: &&Judged| on_probation || !matches!(judged.verdict, Verdict::Undecided { .. });
        let judged = build.judged.as_ref().filter(told);
        let verdict = judged.and_then(|_| self.told(index, id, build));
        let progress = judged.map(|judged| judged.judge.progress());
        let warming = judged.and_then(|_| self.environment.warming(build));
        let sentence = verdict.as_ref().map(|verdict| {
            let warming = warming.map(|it| Warming { processes: it.processes, factor: it.factor });
            Account { verdict, progress: progress.as_ref(), warming }.sentence()
        });
        BuildStatus {
            build: id.clone(),
            state: build.state.name().to_owned(),
            state_since_unix_ms: build.state_since.unix_ms,
            role: role(service, id, build).map(str::to_owned),
            compared_with: build
                .judged
                .as_ref()
                .filter(|_| on_probation)
                .and_then(|judged| compared_with(service, judged)),
            processes: build.processes.len() as u64,
            seen_for_seconds: self.age_seconds(build.first_seen_mono_ns),
            probation_left_seconds: on_probation
                .then(|| service.config.guard_for.saturating_sub(guarded).as_secs_f64()),
            log_evidence: judged.map(|judged| judged.judge.log_evidence().0),
            verdict: verdict.as_ref().map(|verdict| verdict.label().to_owned()),
            sentence,
            progress,
            missing: verdict.as_ref().map(|verdict| verdict.missing().to_vec()).unwrap_or_default(),
            evidence: verdict.as_ref().and_then(|verdict| verdict.evidence().cloned()),
            warming,
            environment: self.environment.status(&(index, id.clone())),
            endpoints: service
                .config
                .endpoints
                .iter()
                .enumerate()
                .map(|(place, endpoint)| endpoint_status(service, place + 1, endpoint, build))
                .collect(),
        }
    }

    /// The Prometheus exposition.
    pub(super) fn scrape(&mut self) -> String {
        self.read_series();
        self.refresh_accounts();
        let mut judged = Vec::new();
        let mut evidence = Vec::new();
        let mut coverage = Vec::new();
        let mut processes = Vec::new();
        let mut hidden = Vec::new();
        let mut opinions = Vec::new();
        for (index, service) in self.services.iter().enumerate() {
            let name = &service.config.name;
            coverage.push((name.clone(), service.coverage.ratio()));
            let shares = service.hidden.shares();
            hidden.extend(shares.into_iter().map(|(kind, share)| (name.clone(), kind, share)));
            for (id, build) in &service.builds {
                processes.push((name.clone(), id.clone(), build.processes.len() as u64));
                opinions.extend(endpoint_opinions(service, id, build));
                let Some(judgement) = &build.judged else { continue };
                evidence.push(self.build_evidence(index, id, build, judgement));
                judged.extend(endpoint_metrics(service, id, build, judgement));
            }
        }
        let rendered = metrics::render(&Snapshot {
            tier: Some(self.kernel.report().tier),
            totals: &self.totals,
            counters: &self.counters,
            coverage,
            hidden,
            opinions,
            judged,
            evidence,
            processes,
            observed: self.store.observed().unwrap_or_default().into_iter().collect(),
            environment: self.environment.metrics(&self.services),
            probes: self.kernel.probe_stats(),
        });
        self.report("rendering the metrics", rendered).unwrap_or_default()
    }
}

impl Agent {
    fn build_evidence(&self, index: usize, id: &BuildId, build: &Build, judged: &Judged) -> BuildEvidence {
        let progress = judged.judge.progress();
        let to_exceed = progress.to_exceed.iter().map(|to_go| ("exceeds", to_go));
        let to_go = to_exceed.chain(progress.to_clear.iter().map(|to_go| ("within", to_go)));
        let told = self.told(index, id, build);
        let figures = |evidence: &Evidence| JudgedCpu {
            endpoint: evidence.endpoint.clone(),
            mean_seconds: evidence.mean_cpu_seconds,
            interval_seconds: evidence.interval_cpu_seconds,
            limit_seconds: evidence.limit_cpu_seconds,
        };
        BuildEvidence {
            service: self.services[index].config.name.clone(),
            build: id.clone(),
            verdict: judged.verdict.label(),
            log_evidence: judged.judge.log_evidence().0,
            log_bar: progress.log_bar,
            requests: progress.requests,
            to_go: to_go.map(|(verdict, it)| (it.endpoint.clone(), verdict, it.requests)).collect(),
            cpu: told.as_ref().and_then(Verdict::evidence).map(figures),
            warming: self.environment.warming(build).map_or(0, |warming| warming.processes),
        }
    }
}

/// Which part a build has in a comparison. Any number may be on probation at once, each for itself.
fn role(service: &Service, id: &BuildId, build: &Build) -> Option<&'static str> {
    if build.state == BuildState::Probation {
        return Some("candidate");
    }
    let compared = |other: &Build| {
        let baseline = other.judged.as_ref().and_then(|judged| judged.baseline.as_ref());
        other.state == BuildState::Probation && baseline.is_some_and(|baseline| baseline.build == *id)
    };
    let is_control = !build.processes.is_empty() && service.builds.values().any(compared);
    is_control.then_some("control")
}

fn compared_with(service: &Service, judged: &Judged) -> Option<ComparedWith> {
    let baseline = judged.baseline.as_ref()?;
    let running = service.builds.get(&baseline.build);
    Some(ComparedWith {
        build: baseline.build.clone(),
        requests: service.config.endpoints.iter().map(|endpoint| baseline.requests(&endpoint.name)).sum(),
        processes: running.map_or(0, |build| build.processes.len() as u64),
    })
}

/// Where the configuration asks for it.
fn peak_status(service: &Service, index: usize, endpoint: &EndpointConfig) -> Option<PeakStatus> {
    let peak = service.peaks.get(index).filter(|_| endpoint.budget.learn_peak_rate)?;
    Some(PeakStatus {
        since_unix_ms: peak.since_unix_ms,
        watched_seconds: peak.watched_seconds,
        needed_seconds: NEEDED_SECONDS,
        per_second: peak.highest.map(|(per_second, _)| per_second),
        at_unix_ms: peak.highest.map(|(_, at_unix_ms)| at_unix_ms),
    })
}

fn notes(service: &Service) -> Vec<String> {
    if !service.coverage.is_uncharged() {
        return Vec::new();
    }
    vec![format!(
        "Requests of {} come by HTTP/2: they are counted by endpoint and not charged one by one, so the estimate is the \
         measure of record.",
        service.config.name
    )]
}

/// What keeps a service from being judged, and what to do.
fn problems(service: &Service, coverage: Option<f64>, min_coverage: f64) -> Vec<String> {
    let mut problems = Vec::new();
    if service.processes() == 0 && service.nameless.is_empty() {
        problems.push(
            "No process matches: nothing is measured. Check `match` of the service against `ps` and `systemctl status`."
                .to_owned(),
        );
    }
    if let Some((tgid, problem)) = service.nameless.iter().next() {
        problems.push(format!(
            "The build of {} process(es) cannot be told, so they are not measured; process {tgid}: {problem}",
            service.nameless.len()
        ));
    }
    let name = service.config.name.as_str();
    if let Some(blind) = service.hidden.blind(name, min_coverage) {
        problems.push(format!("{blind}: nothing is judged."));
    }
    problems.extend(service.hidden.sentences(name));
    if let Some(coverage) = coverage.filter(|coverage| *coverage < min_coverage) {
        let advice = if service.hidden.share().is_some_and(|share| share > 0.01) {
            "What cannot be read is named above."
        } else {
            "All that it receives can be read; see the losses by reason, and which threads of it use the CPU."
        };
        problems.push(format!(
            "Only {:.0} % of the CPU time could be charged to requests, {:.0} % are needed: nothing is judged. {advice}",
            coverage * 100.0,
            min_coverage * 100.0
        ));
    }
    if service.config.endpoints.is_empty() {
        problems.push("No endpoint is configured: nothing is judged. Add a [[service.endpoint]].".to_owned());
    }
    problems
}

/// `index` as the kernel counts: "other" is 0.
fn endpoint_status(
    service: &Service,
    index: usize,
    endpoint: &EndpointConfig,
    build: &Build,
) -> EndpointStatus {
    let (name, budget) = (&endpoint.name, &endpoint.budget);
    let of_judge = build.judged.as_ref().and_then(|judged| judged.judge.record(name));
    let record = of_judge.or_else(|| build.second.record(service, index, endpoint));
    let seen = build.aggregate.endpoint(name);
    let baseline = build.judged.as_ref().and_then(|judged| judged.baseline.as_ref());
    let of_baseline = baseline.and_then(|baseline| Some((baseline, baseline.endpoint(name)?)));
    EndpointStatus {
        endpoint: name.clone(),
        requests: seen.map_or(0, EndpointAggregate::requests) + build.second.uncharged(index),
        uncharged_requests: build.second.uncharged(index),
        mean_cpu_seconds: seen.and_then(mean_seconds),
        p99_cpu_seconds: seen.and_then(p99_seconds),
        budget_mean_cpu_seconds: budget.mean_cpu.map(|limit| limit.as_secs_f64()),
        budget_vs_baseline: budget.vs_baseline,
        baseline_build: of_baseline.map(|(baseline, _)| baseline.build.clone()),
        baseline_mean_cpu_seconds: of_baseline.and_then(|(_, figures)| mean_seconds(figures)),
        baseline_requests: of_baseline.map(|(_, figures)| figures.requests()),
        at_peak: service.peak(index),
        peak: peak_status(service, index, endpoint),
        confidence: build.second.confidence(index),
        estimate: estimate_status(build, index),
        measure_of_record: record.as_ref().map(|record| record.measure.label().to_owned()),
        measure_why: record.map(|record| record.why),
    }
}

fn estimate_status(build: &Build, index: usize) -> Option<EstimateStatus> {
    let opinion =
        build.second.opinions.iter().find(|opinion| usize::from(opinion.estimate.endpoint) == index)?;
    let figures = opinion.figures()?;
    Some(EstimateStatus {
        mean_cpu_seconds: figures.mean_cpu_seconds,
        lower_cpu_seconds: figures.interval_cpu_seconds.0,
        upper_cpu_seconds: figures.interval_cpu_seconds.1,
        direct_mean_cpu_seconds: figures.direct_mean_cpu_seconds,
    })
}

fn endpoint_opinions(service: &Service, id: &BuildId, build: &Build) -> Vec<metrics::Opinion> {
    let point = |(place, endpoint): (usize, &EndpointConfig)| {
        let status = endpoint_status(service, place + 1, endpoint, build);
        metrics::Opinion {
            service: service.config.name.clone(),
            endpoint: endpoint.name.clone(),
            build: id.clone(),
            confidence: status.confidence,
            estimate: status.estimate.map(|figures| {
                [figures.mean_cpu_seconds, figures.lower_cpu_seconds, figures.upper_cpu_seconds]
            }),
            measure: build
                .second
                .opinions
                .iter()
                .any(|opinion| {
                    usize::from(opinion.estimate.endpoint) == place + 1 && opinion.estimate.requests > 0
                })
                .then_some(status.measure_of_record)
                .flatten(),
        }
    };
    service.config.endpoints.iter().enumerate().map(point).collect()
}

fn mean_seconds(figures: &EndpointAggregate) -> Option<f64> {
    figures.mean_ns().map(|mean_ns| mean_ns * 1e-9)
}

fn p99_seconds(figures: &EndpointAggregate) -> Option<f64> {
    let sketch = figures.pooled(|_| true).sketch;
    // The smallest value that at least 99 % do not exceed.
    let rank = (sketch.total() * 99).div_ceil(100);
    sketch.order_statistic(rank).map(|bucket| bucket.high as f64 * 1e-9)
}

fn endpoint_metrics(
    service: &Service,
    id: &BuildId,
    build: &Build,
    judgement: &Judged,
) -> Vec<metrics::Judged> {
    let mut points = Vec::new();
    for (place, endpoint) in service.config.endpoints.iter().enumerate() {
        let status = endpoint_status(service, place + 1, endpoint, build);
        let mut ratios = Vec::new();
        if let Some(mean) = status.mean_cpu_seconds {
            if let Some(limit) = status.budget_mean_cpu_seconds.filter(|limit| *limit > 0.0) {
                ratios.push(("mean_cpu", mean / limit));
            }
            if let (Some(ratio), Some(baseline)) =
                (status.budget_vs_baseline, status.baseline_mean_cpu_seconds)
            {
                ratios.push(("vs_baseline", mean / (baseline * ratio)));
            }
        }
        let baseline = judgement.baseline.as_ref().map(|baseline| baseline.build.clone());
        points.push(metrics::Judged {
            service: service.config.name.clone(),
            endpoint: endpoint.name.clone(),
            build: id.clone(),
            ratios,
            baseline: baseline.zip(status.baseline_mean_cpu_seconds),
            baseline_requests: status.baseline_requests,
            host_share: status
                .mean_cpu_seconds
                .zip(status.at_peak)
                .map(|(mean, peak)| peak.cores_needed(mean) / peak.cores),
        });
    }
    points
}
