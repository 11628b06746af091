//! What the next agent finds: every second each build's increments go to the ledger's journal, and now and then its
//! figures and its judge whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Agent;
use super::resumable::{Input, KeptJudge};
use super::service::{Build, Service};
use crate::aggregate::{BuildAggregate, Cell, Starts};
use crate::incident::BuildState;
use crate::model::{BuildId, EndpointName, StatusClass};
use crate::store::{BuildWrite, StoredCell, StoredFigures, StoredPeak, Written};

/// A crash loses what came since.
const SAVE_EVERY_NS: u64 = 1_000_000_000;
/// A build is written whole at least so often while anything comes.
const WHOLE_EVERY_NS: u64 = 60_000_000_000;
/// And at once when the journal would be longer than this: then that is the cheaper of the two.
const LONGEST_JOURNAL_BYTES: usize = 64 << 10;

/// How long the end waits for the disk.
const WAIT_STEP: Duration = Duration::from_millis(5);
const WAIT_STEPS: u32 = 80;

/// What the ledger does not have of a build.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// Since the last row of the journal.
    delta: BuildAggregate,
    /// In the journal, and not in the rows.
    journaled: BTreeSet<(EndpointName, Cell)>,
    journaled_bytes: usize,
    whole_mono_ns: u64,
    /// Nothing of what was written is sure to be there.
    everything: bool,
}

/// One row of the journal.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Increment {
    #[serde(default, skip_serializing_if = "BuildAggregate::is_empty")]
    figures: BuildAggregate,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Input>,
    guarded_ns: u64,
}

/// What is written with the figures.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    starts: Starts,
    guarded_ns: u64,
    judge: Option<KeptJudge>,
}

/// A build as an earlier agent left it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) aggregate: BuildAggregate,
    /// How much of its guard time it has served.
    pub(super) guarded_ns: u64,
    /// Its judge, and what that was told afterwards.
    pub(super) judge: Option<(KeptJudge, Vec<Input>)>,
    /// What could not be read.
    pub(super) damaged: Option<String>,
}

/// Writing goes on beside the loop.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    saved_mono_ns: u64,
    task: Option<tokio::task::JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

impl Unsaved {
    pub(super) fn record(&mut self, endpoint: &EndpointName, cell: Cell, cpu_ns: u64, count: u64) {
        self.delta.endpoint_mut(endpoint).record(cell, cpu_ns, count);
    }

    pub(super) fn continuation(&mut self, endpoint: &EndpointName, cell: Cell, cpu_ns: u64) {
        self.delta.endpoint_mut(endpoint).continuation(cell, cpu_ns);
    }

    pub(super) fn started(&mut self, boot: &str, second: u64) {
        self.delta.starts.record(boot, second);
    }

    /// Of a build that an earlier agent kept: its journal is not in the rows yet.
    pub(super) fn after(stored: &StoredFigures) -> Self {
        Self { everything: !stored.journal.is_empty(), ..Self::default() }
    }

    /// The ledger can go on without this agent.
    pub(super) fn is_empty(&self) -> bool {
        self.delta.is_empty() && !self.everything
    }

    fn changed(&self) -> impl Iterator<Item = (EndpointName, Cell)> {
        let endpoints = self.delta.endpoints.iter();
        endpoints.flat_map(|(name, figures)| figures.cells().map(|(cell, _)| (name.clone(), cell)))
    }
}

impl Kept {
    /// A row that cannot be read is left out and told: figures are a sum, and the rest of it is right.
    pub(super) fn read(stored: &StoredFigures) -> Self {
        let mut kept = Self::default();
        let mut damaged = None;
        for StoredCell { endpoint, cell: (class, status, age), json } in &stored.cells {
            let cell = Cell { class: StatusClass::of_index(*class), status: *status, age: (*age).into() };
            match serde_json::from_str(json) {
                Ok(figures) => kept.aggregate.endpoint_mut(endpoint).merge_cell(cell, &figures),
                Err(error) => damaged = Some(format!("figures of {endpoint}: {error}")),
            }
        }
        let mut judge = None;
        match stored.progress.as_deref().map(serde_json::from_str::<Progress>).transpose() {
            Ok(progress) => {
                let progress = progress.unwrap_or_default();
                kept.aggregate.starts = progress.starts;
                kept.guarded_ns = progress.guarded_ns;
                judge = progress.judge;
            }
            Err(error) => damaged = Some(format!("its judge: {error}")),
        }
        let mut inputs = Vec::new();
        for row in &stored.journal {
            match serde_json::from_str::<Increment>(row) {
                Ok(increment) => {
                    kept.aggregate.merge(&increment.figures);
                    kept.guarded_ns = increment.guarded_ns;
                    inputs.extend(increment.inputs);
                }
                Err(error) => {
                    damaged = Some(format!("the journal: {error}"));
                    // Evidence with a hole in it is none.
                    judge = None;
                }
            }
        }
        kept.judge = judge.map(|judge| (judge, inputs));
        kept.damaged = damaged;
        kept
    }
}

impl Build {
    /// What has to be written of it now, if anything.
    fn unsaved_write(&mut self, basis: &str, now_mono_ns: u64, last: bool) -> Option<Written> {
        if self.state == BuildState::Condemned {
            self.unsaved = Unsaved::default();
            return None;
        }
        let on_probation = self.state == BuildState::Probation && !self.processes.is_empty();
        let judge_changed = self.judged.as_ref().is_some_and(|judged| judged.judge.is_changed());
        let has_inputs = self.judged.as_ref().is_some_and(|judged| judged.judge.has_inputs());
        let unsaved = &mut self.unsaved;
        let any_new = !unsaved.delta.is_empty() || has_inputs;
        let aged = now_mono_ns.saturating_sub(unsaved.whole_mono_ns) >= WHOLE_EVERY_NS;
        let any = any_new || unsaved.journaled_bytes > 0 || on_probation;
        let mut whole = unsaved.everything || judge_changed || (any && (aged || last));
        if !whole && !any_new {
            return None;
        }
        let inputs = self.judged.as_mut().map(|judged| judged.judge.take_inputs()).unwrap_or_default();
        if !whole {
            let figures = std::mem::take(&mut unsaved.delta);
            let increment = Increment { figures, inputs, guarded_ns: self.guarded_ns };
            let json = serde_json::to_string(&increment).unwrap_or_default();
            unsaved.delta = increment.figures;
            whole = json.is_empty() || unsaved.journaled_bytes + json.len() > LONGEST_JOURNAL_BYTES;
            if !whole {
                let changed: Vec<_> = unsaved.changed().collect();
                unsaved.journaled.extend(changed);
                unsaved.journaled_bytes += json.len();
                unsaved.delta = BuildAggregate::default();
                return Some(Written::Increment { json });
            }
        }
        self.whole(basis, now_mono_ns)
    }

    fn whole(&mut self, basis: &str, now_mono_ns: u64) -> Option<Written> {
        let everything = self.unsaved.everything;
        let mut changed: BTreeSet<_> = self.unsaved.changed().collect();
        changed.append(&mut self.unsaved.journaled);
        let mut cells = Vec::new();
        for (endpoint, figures) in &self.aggregate.endpoints {
            for (cell, figures) in figures.cells() {
                // Where an endpoint has too many statuses, the increment may have one that the sum has not.
                let merged =
                    || changed.iter().any(|(name, other)| name == endpoint && other.class == cell.class);
                let is_changed =
                    changed.contains(&(endpoint.clone(), cell)) || (cell.status == 0 && merged());
                if everything || is_changed {
                    let json = serde_json::to_string(figures).ok()?;
                    let key = (cell.class.index(), cell.status, cell.age.index());
                    cells.push(StoredCell { endpoint: endpoint.clone(), cell: key, json });
                }
            }
        }
        let judge = self
            .judged
            .as_ref()
            .map(|judged| judged.judge.keep(basis, judged.baseline.as_ref().map(|baseline| &baseline.build)));
        let progress = Progress { starts: self.aggregate.starts.clone(), guarded_ns: self.guarded_ns, judge };
        let progress = serde_json::to_string(&progress).ok()?;
        self.unsaved = Unsaved { whole_mono_ns: now_mono_ns, ..Unsaved::default() };
        Some(Written::Whole { cells, progress })
    }
}

impl Service {
    /// What a judge of this service is made from, beside the baseline: the same text, the same limits.
    pub(super) fn basis(&self, build: &BuildId) -> String {
        let of_all = format!("{:?} {}", self.config.endpoints, self.config.false_rollback_rate);
        match self.waived.get(build) {
            Some(waived) => format!("{of_all} without {waived:?}"),
            None => of_all,
        }
    }

    fn unsaved_writes(&mut self, now_mono_ns: u64, last: bool) -> Vec<BuildWrite> {
        let service = self.config.name.clone();
        let bases: Vec<String> = self.builds.keys().map(|build| self.basis(build)).collect();
        let write = |((build, entry), basis): ((&BuildId, &mut Build), String)| {
            let what = entry.unsaved_write(&basis, now_mono_ns, last)?;
            Some(BuildWrite { service: service.clone(), build: build.clone(), what })
        };
        self.builds.iter_mut().zip(bases).filter_map(write).collect()
    }
}

impl Agent {
    /// Writes what came in the last second to the ledger, off the loop: it waits for the disk.
    pub(super) fn save_increments(&mut self, now_mono_ns: u64) {
        if now_mono_ns.saturating_sub(self.keeping.saved_mono_ns) < SAVE_EVERY_NS
            || self.keeping.task.as_ref().is_some_and(|task| !task.is_finished())
        {
            return;
        }
        self.keeping.saved_mono_ns = now_mono_ns;
        if self.keeping.failed.swap(false, Ordering::Relaxed) {
            self.distrust_ledger();
        }
        let peaks = self.unsaved_peaks(now_mono_ns);
        let writes = self.unsaved_writes(now_mono_ns, false);
        if writes.is_empty() && peaks.is_empty() {
            return;
        }
        let (store, failed) = (Arc::clone(&self.store), Arc::clone(&self.keeping.failed));
        self.keeping.task = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = store.save(&writes, &peaks) {
                tracing::error!(%error, "figures and evidence could not be saved");
                failed.store(true, Ordering::Relaxed);
            }
        }));
    }

    /// The same at the end, in place, everything whole.
    pub(super) fn save_all_now(&mut self) {
        // Increments that are on their way must not come after what holds them already.
        let under_way = || self.keeping.task.as_ref().is_some_and(|task| !task.is_finished());
        for _ in 0..WAIT_STEPS {
            if !under_way() {
                break;
            }
            std::thread::sleep(WAIT_STEP);
        }
        if under_way() {
            let late = "the disk is too slow; what came in the last second is not kept";
            self.report("saving figures and evidence", Err::<(), _>(late));
            return;
        }
        if self.keeping.failed.swap(false, Ordering::Relaxed) {
            self.distrust_ledger();
        }
        let writes = self.unsaved_writes(self.last_tick_mono_ns, true);
        let saved = self.store.save(&writes, &[]);
        if self.report("saving figures and evidence", saved).is_none() {
            self.distrust_ledger();
        }
    }

    /// Peaks whose minute has just ended. Those of a save that fails are written again a minute later.
    fn unsaved_peaks(&mut self, now_mono_ns: u64) -> Vec<StoredPeak> {
        let now_unix_ms = crate::clock::unix_ms();
        let mut unsaved = Vec::new();
        for service in &mut self.services {
            let serving = service.processes() > 0;
            // "Other" is no endpoint.
            for (endpoint, peak) in service.endpoints.iter().zip(&mut service.peaks).skip(1) {
                if peak.advance(serving, now_mono_ns, now_unix_ms) {
                    unsaved.push(StoredPeak {
                        service: service.config.name.clone(),
                        endpoint: endpoint.clone(),
                        since_unix_ms: peak.since_unix_ms.unwrap_or(now_unix_ms),
                        watched_seconds: peak.watched_seconds,
                        highest: peak.highest,
                    });
                }
            }
        }
        unsaved
    }

    fn distrust_ledger(&mut self) {
        let builds = self.services.iter_mut().flat_map(|service| service.builds.values_mut());
        builds.for_each(|build| build.unsaved.everything = true);
    }

    fn unsaved_writes(&mut self, now_mono_ns: u64, last: bool) -> Vec<BuildWrite> {
        self.services.iter_mut().flat_map(|service| service.unsaved_writes(now_mono_ns, last)).collect()
    }
}
