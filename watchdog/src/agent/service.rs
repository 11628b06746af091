//! What the agent keeps of each service and build while it runs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use watchdog_common::abi::ENDPOINT_OTHER;

use crate::aggregate::{Baseline, BuildAggregate, PeakRate};
use crate::config::{Budget, ServiceConfig};
use crate::incident::{BuildState, Moment};
use crate::model::{BuildId, EndpointName};
use crate::store::{Store, StoreError, StoredPeak};
use crate::verdict::{HostFacts, Judge, Probation, Verdict};

use super::account::Shown;
use super::coverage::Coverage;
use super::hidden::Hidden;
use super::keeping::{Kept, Unsaved};
use super::resumable::{KeptJudge, Resumable};
use super::second::Second;
use super::users::Users;

/// A configured service.
#[derive(Debug)]
pub(super) struct Service {
    /// The configuration, with the mode that is in force.
    pub(super) config: ServiceConfig,
    /// By endpoint index as the kernel counts: "other" first, then as configured.
    pub(super) endpoints: Vec<EndpointName>,
    pub(super) builds: BTreeMap<BuildId, Build>,
    pub(super) coverage: Coverage,
    pub(super) hidden: Hidden,
    /// Until the first build was seen of a service that the ledger does not know: what is there is adopted.
    pub(super) adopting: bool,
    /// Processes that match the service but whose build could not be read, with the reason.
    pub(super) nameless: BTreeMap<u32, String>,
    pub(super) users: Users,
    /// Highest rates, by endpoint index.
    pub(super) peaks: Vec<PeakRate>,
    /// Cores that it may use: of the host, or by the quota of its cgroup.
    pub(super) cores: f64,
    /// Endpoints on which a person accepted a build: their budgets do not bind it.
    pub(super) waived: BTreeMap<BuildId, BTreeSet<EndpointName>>,
    /// Builds that a person condemned on an endpoint: never a baseline, and never good by themselves.
    pub(super) known_bad: BTreeSet<BuildId>,
}

impl Service {
    pub(super) fn new(config: ServiceConfig, adopting: bool, stored: &[StoredPeak]) -> Self {
        let mut endpoints = vec![EndpointName::other()];
        endpoints.extend(config.endpoints.iter().map(|endpoint| endpoint.name.clone()));
        let peaks = endpoints.iter().map(|name| peak_of(stored, name)).collect();
        Self {
            config,
            endpoints,
            builds: BTreeMap::new(),
            coverage: Coverage::default(),
            hidden: Hidden::default(),
            adopting,
            nameless: BTreeMap::new(),
            users: Users::since(crate::clock::mono_ns()),
            peaks,
            cores: host_cores(),
            waived: BTreeMap::new(),
            known_bad: BTreeSet::new(),
        }
    }

    /// The configuration with what was learned in it.
    pub(super) fn resolved(&self) -> ServiceConfig {
        let mut config = self.config.clone();
        for (endpoint, peak) in config.endpoints.iter_mut().zip(&self.peaks[1..]) {
            if endpoint.budget.learn_peak_rate {
                endpoint.budget.peak_rate = peak.known();
            }
        }
        config
    }

    /// The same for the judge of one build: without the budgets that do not bind it.
    fn resolved_for(&self, build: &BuildId) -> ServiceConfig {
        let mut config = self.resolved();
        if let Some(waived) = self.waived.get(build) {
            for endpoint in config.endpoints.iter_mut().filter(|it| waived.contains(&it.name)) {
                endpoint.budget = Budget::default();
            }
        }
        config
    }

    /// Whether a request may be a user's: one on none of the endpoints, such as a health check, is not taken for one.
    pub(super) fn is_of_users(&self, endpoint: u16) -> bool {
        endpoint != ENDPOINT_OTHER || self.config.endpoints.is_empty()
    }

    pub(super) fn processes(&self) -> u64 {
        self.builds.values().map(|build| build.processes.len() as u64).sum()
    }

    /// Whether any process began less than `span_ns` ago.
    pub(super) fn is_starting(&self, now_mono_ns: u64, span_ns: u64) -> bool {
        let youngest = self.builds.values().filter_map(|build| build.youngest_mono_ns).max();
        youngest.is_some_and(|youngest| now_mono_ns.saturating_sub(youngest) < span_ns)
    }

    /// The last good build with what is known of it: the memory's figures while it runs, the ledger's otherwise.
    ///
    /// When the last good build has too few requests on every endpoint, an earlier good one that has enough is taken.
    pub(super) fn baseline(&self, store: &Store, not: &BuildId) -> Result<Option<Baseline>, StoreError> {
        let mut first = None;
        for record in store.builds(Some(&self.config.name))? {
            if record.build == *not || !record.state.is_restorable() || self.known_bad.contains(&record.build)
            {
                continue;
            }
            let aggregate = match self.builds.get(&record.build) {
                Some(build) => build.aggregate.clone(),
                None => self.stored_aggregate(store, &record.build)?,
            };
            let baseline = Baseline::new(record.build, aggregate);
            if self.endpoints.iter().any(|endpoint| baseline.endpoint(endpoint).is_some()) {
                return Ok(Some(baseline));
            }
            first = first.or(Some(baseline));
        }
        Ok(first)
    }

    /// What the ledger has of a build.
    pub(super) fn stored_aggregate(
        &self,
        store: &Store,
        build: &BuildId,
    ) -> Result<BuildAggregate, StoreError> {
        Ok(Kept::read(&store.figures(&self.config.name, build)?).aggregate)
    }

    /// The baseline that a kept judge compares with; outer `None` when the judge cannot go on: the configuration is
    /// another one, or that build is no good one any more.
    #[expect(clippy::option_option, reason = "a judge may go on without a baseline")]
    pub(super) fn same_baseline(
        &self,
        store: &Store,
        build: &BuildId,
        kept: &KeptJudge,
    ) -> Result<Option<Option<Baseline>>, StoreError> {
        if kept.basis != self.basis(build) {
            return Ok(None);
        }
        let Some(id) = &kept.baseline else { return Ok(Some(None)) };
        let good = store.build(&self.config.name, id)?.is_some_and(|record| record.state.is_restorable());
        if !good {
            return Ok(None);
        }
        let aggregate = match self.builds.get(id) {
            Some(build) => build.aggregate.clone(),
            None => self.stored_aggregate(store, id)?,
        };
        Ok(Some(Some(Baseline::new(id.clone(), aggregate))))
    }
}

/// A build of a service that runs, or ran a moment ago.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) state: BuildState,
    /// Taken while it has processes.
    pub(super) slot: Option<u16>,
    pub(super) processes: HashSet<u32>,
    /// When its newest process was first seen; `None`: it was only served by processes that began with another build.
    pub(super) youngest_mono_ns: Option<u64>,
    /// This agent saw a request of its on an endpoint of the service.
    pub(super) served: bool,
    /// When this agent first saw it.
    pub(super) first_seen_mono_ns: u64,
    /// Since when it has been in its state.
    pub(super) state_since: Moment,
    /// When its last process ended.
    pub(super) gone_since_mono_ns: Option<u64>,
    /// Without processes, and without requests under way.
    pub(super) idle_since_mono_ns: Option<u64>,
    pub(super) aggregate: BuildAggregate,
    /// Of `aggregate`, what the ledger does not have.
    pub(super) unsaved: Unsaved,
    /// How much of its guard time it has served: time that it had processes which an agent watched.
    pub(super) guarded_ns: u64,
    pub(super) judged: Option<Judged>,
    pub(super) second: Second,
}

/// The judgement of a build.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) judge: Resumable,
    /// The baseline that the judge was given, for the metrics and the status.
    pub(super) baseline: Option<Baseline>,
    pub(super) verdict: Verdict,
    /// Requests that were lost before it began.
    pub(super) lost_before: u64,
    /// New requests since `verdict`.
    pub(super) stale: bool,
    pub(super) verdict_mono_ns: u64,
    /// Whether people were told that it cannot be measured.
    pub(super) told_unmeasurable: bool,
    /// Whether people were told that it is over budget for a reason that is not known.
    pub(super) told_unattributed: bool,
    /// End of its first request on a watched endpoint.
    pub(super) first_end_mono_ns: Option<u64>,
    pub(super) shown: Option<Shown>,
}

impl Judged {
    pub(super) fn new(
        service: &Service,
        build: &BuildId,
        now_mono_ns: u64,
        baseline: Option<Baseline>,
        lost_before: u64,
    ) -> Self {
        let probation = Probation::new(build.clone(), now_mono_ns);
        let host = HostFacts { cores: service.cores };
        let judge =
            Resumable::new(Judge::new(&service.resolved_for(build), probation, host, baseline.as_ref()));
        Self::of(judge, baseline, lost_before)
    }

    /// With a judge that may have been at work before.
    pub(super) fn of(judge: Resumable, baseline: Option<Baseline>, lost_before: u64) -> Self {
        let verdict = Verdict::Undecided { missing: Vec::new(), evidence: None };
        Self {
            judge,
            baseline,
            verdict,
            lost_before,
            stale: true,
            verdict_mono_ns: 0,
            told_unmeasurable: false,
            told_unattributed: false,
            first_end_mono_ns: None,
            shown: None,
        }
    }

    /// It exceeds, and that was not dealt with yet.
    pub(super) fn is_found(&self) -> bool {
        matches!(self.verdict, Verdict::Exceeds { .. }) && !self.judge.is_settled()
    }
}

fn peak_of(stored: &[StoredPeak], endpoint: &EndpointName) -> PeakRate {
    stored.iter().find(|peak| peak.endpoint == *endpoint).map_or_else(PeakRate::default, |peak| {
        PeakRate::resume(peak.since_unix_ms, peak.watched_seconds, peak.highest)
    })
}

pub(super) fn host_cores() -> f64 {
    let cores = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    cores as f64
}
