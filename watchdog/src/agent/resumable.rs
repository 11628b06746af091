//! A judge that the next agent can go on with.
//!
//! A judge is the same bit for bit after the same inputs. So its whole state is written now and then, and its inputs every
//! second: the former costs tens of kilobytes, the latter a few hundred bytes. All that changes a judge goes through here;
//! it can be read like any judge.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Baseline, Cell};
use crate::config::ServiceConfig;
use crate::incident::boot_id;
use crate::model::BuildId;
use crate::sequential::Conditions;
use crate::verdict::{Checkpoint, Judge, Observation, Opinion, TellJudge, UnderWay};

/// What a judge was told, in the order it was told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Input {
    /// End, CPU of each, count, endpoint, cell.
    #[serde(rename = "o")]
    Observed(u64, u64, u64, u16, Cell),
    /// Endpoint, cell, CPU.
    #[serde(rename = "c")]
    Continued(u16, Cell, u64),
    #[serde(rename = "e")]
    Conditions(Conditions),
    /// Cores that the service may use.
    #[serde(rename = "k")]
    Cores(f64),
    /// Counted and not bet on, as its surroundings were bad.
    #[serde(rename = "n")]
    Noted(u64, u64, u64, u16, Cell),
    /// Counted without a figure: endpoint, count, end.
    #[serde(rename = "t")]
    Counted(u16, u64, u64),
    #[serde(rename = "x")]
    CutOff(UnderWay),
    /// Its verdict was dealt with.
    #[serde(rename = "s")]
    Settled,
    /// It must be dealt with anew.
    #[serde(rename = "u")]
    Unsettled,
}

#[derive(Debug)]
pub(super) struct Resumable {
    judge: Judge,
    /// "Exceeds" was dealt with.
    settled: bool,
    /// Since it was last asked for.
    inputs: Vec<Input>,
    /// It changed in a way that no input tells of.
    changed: bool,
}

/// The state as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptJudge {
    /// What it was made from: with another configuration it says nothing.
    pub(super) basis: String,
    /// Whose figures it compares with.
    pub(super) baseline: Option<BuildId>,
    boot: String,
    settled: bool,
    judge: Judge,
}

impl Deref for Resumable {
    type Target = Judge;

    fn deref(&self) -> &Judge {
        &self.judge
    }
}

impl Resumable {
    pub(super) fn new(judge: Judge) -> Self {
        Self { judge, settled: false, inputs: Vec::new(), changed: true }
    }

    /// Goes on where an earlier agent was.
    pub(super) fn resume(kept: KeptJudge, inputs: Vec<Input>, now_mono_ns: u64) -> Self {
        let mut resumed = Self::new(kept.judge);
        resumed.settled = kept.settled;
        for input in inputs {
            resumed.apply(&input);
        }
        if kept.boot != boot_id() {
            resumed.judge.carry_over_reboot(now_mono_ns);
        }
        resumed
    }

    pub(super) fn keep(&self, basis: &str, baseline: Option<&BuildId>) -> KeptJudge {
        KeptJudge {
            basis: basis.to_owned(),
            baseline: baseline.cloned(),
            boot: boot_id().to_owned(),
            settled: self.settled,
            judge: self.judge.clone(),
        }
    }

    pub(super) fn observe(&mut self, seen: &Observation) {
        let cell = seen.cell();
        self.take(Input::Observed(seen.end_mono_ns, seen.cpu_ns, seen.count, seen.endpoint, cell));
    }

    pub(super) fn continuation(&mut self, endpoint: u16, cell: Cell, cpu_ns: u64) {
        self.take(Input::Continued(endpoint, cell, cpu_ns));
    }

    pub(super) fn set_conditions(&mut self, conditions: Conditions) {
        if conditions != self.judge.conditions() {
            self.take(Input::Conditions(conditions));
        }
    }

    /// Requests that are counted and not charged.
    pub(super) fn count(&mut self, endpoint: u16, requests: u64, end_mono_ns: u64) {
        self.take(Input::Counted(endpoint, requests, end_mono_ns));
    }

    /// A request of the build that will never end.
    pub(super) fn cut_off(&mut self, request: UnderWay) {
        self.take(Input::CutOff(request));
    }

    /// What is under way is not kept: the next agent looks again.
    pub(super) fn look_at_unfinished(&mut self, now_mono_ns: u64, under_way: &[UnderWay]) {
        let before = self.judge.is_over();
        self.judge.look_at_unfinished(now_mono_ns, under_way);
        self.changed |= self.judge.is_over() != before;
    }

    /// The comparison with a good build that became known begins; see [`Judge::take_up`].
    pub(super) fn take_up(&mut self, service: &ServiceConfig, baseline: &Baseline) -> bool {
        let taken_up = self.judge.take_up(service, baseline);
        self.changed |= taken_up;
        taken_up
    }

    pub(super) fn set_cores(&mut self, cores: f64) {
        if (cores - self.judge.cores()).abs() > 1e-9 {
            self.take(Input::Cores(cores));
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    pub(super) fn settle(&mut self) {
        self.take(Input::Settled);
    }

    pub(super) fn unsettle(&mut self) {
        self.take(Input::Unsettled);
    }

    /// A new agent's windows and counters begin empty. What is known no better than before stays as it was: else direct
    /// evidence that was not believed would be, for the first seconds.
    pub(super) fn consult(&mut self, opinions: Vec<Opinion>) {
        if opinions.is_empty() {
            return;
        }
        let merged = opinions.into_iter().map(|mut opinion| {
            let before = self.judge.opinion(opinion.estimate.endpoint);
            opinion.confidence = opinion.confidence.or(before.and_then(|before| before.confidence));
            opinion
        });
        let (merged, looks) = (merged.collect(), self.judge.looks());
        self.judge.consult(merged);
        self.changed |= self.judge.looks() != looks;
    }

    /// Whether its state must be written whole.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    pub(super) fn take_inputs(&mut self) -> Vec<Input> {
        self.changed = false;
        std::mem::take(&mut self.inputs)
    }

    fn take(&mut self, input: Input) {
        self.apply(&input);
        self.inputs.push(input);
    }

    fn apply(&mut self, input: &Input) {
        match *input {
            Input::Observed(end_mono_ns, cpu_ns, count, endpoint, cell) => {
                self.judge.observe(&observation(end_mono_ns, cpu_ns, count, endpoint, cell));
            }
            Input::Noted(end_mono_ns, cpu_ns, count, endpoint, cell) => {
                self.judge.note(&observation(end_mono_ns, cpu_ns, count, endpoint, cell));
            }
            Input::Counted(endpoint, requests, end_mono_ns) => {
                self.judge.count(endpoint, requests, end_mono_ns);
            }
            Input::CutOff(request) => self.judge.cut_off(request),
            Input::Continued(endpoint, cell, cpu_ns) => self.judge.continuation(endpoint, cell, cpu_ns),
            Input::Conditions(conditions) => self.judge.set_conditions(conditions),
            Input::Cores(cores) => self.judge.set_cores(cores),
            Input::Settled => self.settled = true,
            Input::Unsettled => self.settled = false,
        }
    }
}

impl TellJudge for Resumable {
    fn judge(&self) -> &Judge {
        &self.judge
    }

    fn set_conditions(&mut self, conditions: Conditions) {
        Self::set_conditions(self, conditions);
    }

    fn observe(&mut self, seen: &Observation) {
        Self::observe(self, seen);
    }

    fn note(&mut self, seen: &Observation) {
        let cell = seen.cell();
        self.take(Input::Noted(seen.end_mono_ns, seen.cpu_ns, seen.count, seen.endpoint, cell));
    }

    fn go_back_to(&mut self, checkpoint: Checkpoint) {
        self.judge.go_back_to(checkpoint);
        self.changed = true;
    }
}

fn observation(end_mono_ns: u64, cpu_ns: u64, count: u64, endpoint: u16, cell: Cell) -> Observation {
    let Cell { class, status, age } = cell;
    Observation { end_mono_ns, cpu_ns, count, endpoint, class, status, age }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Age;
    use crate::config::Config;
    use crate::model::StatusClass;
    use crate::verdict::{HostFacts, Probation};

    fn judge() -> Judge {
        let text = r#"
[[service]]
name = "web"
match = { unit = "web.service" }
mode = "observe"

[[service.endpoint]]
name = "login"
path = "/login"
budget = { mean_cpu = "80ms", p99_cpu = "400ms", peak_rate = 10.0, max_host_share = 0.25 }
"#;
        let config = Config::parse(text, "config.toml").unwrap();
        Judge::new(&config.services[0], Probation::new("new".into(), 0), HostFacts { cores: 4.0 }, None)
    }

    fn feed(judge: &mut Resumable, seconds: std::ops::Range<u64>) {
        for second in seconds {
            judge.observe(&Observation {
                end_mono_ns: second * 1_000_000_000,
                cpu_ns: 60_000_000 + (second * 7_919_111) % 50_000_000,
                count: 1 + second % 2,
                endpoint: 1,
                class: StatusClass::Redirect,
                status: 302,
                age: Age::To30,
            });
            if second % 5 == 0 {
                judge.continuation(1, Cell::new(302, Age::Older), 1_000_003);
            }
            if second == 40 {
                judge.set_cores(2.5);
            }
        }
    }

    /// As it goes through the ledger.
    fn written<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    #[test]
    fn a_killed_judge_goes_on_bit_for_bit() {
        let mut whole = Resumable::new(judge());
        feed(&mut whole, 0..100);
        let mut first = Resumable::new(judge());
        feed(&mut first, 0..30);
        first.take_inputs();
        let kept = written(&first.keep("basis", None));
        feed(&mut first, 30..60);
        first.settle();
        let inputs = written(&first.take_inputs());
        let mut second = Resumable::resume(kept, inputs, 1);
        assert!(second.is_settled());
        feed(&mut second, 60..100);
        assert_eq!(second.judge, whole.judge);
    }

    #[test]
    fn after_a_reboot_the_probation_goes_on_at_the_second_it_was_in() {
        let mut whole = Resumable::new(judge());
        feed(&mut whole, 0..200);
        let mut first = Resumable::new(judge());
        feed(&mut first, 0..100);
        let mut kept = written(&first.keep("basis", None));
        kept.boot = "another".to_owned();
        // The new boot's clock shows less than the old one did; the last request was in second 99.
        let now_mono_ns = 20_000_000_000;
        let mut second = Resumable::resume(kept, Vec::new(), now_mono_ns);
        for (n, second_of_boot) in (100..200).zip(21..) {
            second.observe(&Observation {
                end_mono_ns: second_of_boot * 1_000_000_000,
                cpu_ns: 60_000_000 + (n * 7_919_111) % 50_000_000,
                count: 1 + n % 2,
                endpoint: 1,
                class: StatusClass::Redirect,
                status: 302,
                age: Age::To30,
            });
        }
        assert_eq!(second.log_evidence(), whole.log_evidence());
    }
}
