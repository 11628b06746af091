//! The surroundings of one build on probation: its controls, the factor that they give, and what is held because of them.

use std::collections::VecDeque;

use super::control::{Control, Source};
use crate::sequential::Conditions;
use crate::verdict::{Checkpoint, Judge, Observation, TellJudge, Verdict, Violation};

const CHECKPOINT_EVERY_NS: u64 = 10_000_000_000;
/// What was bet on in the last half minute before a control is found violated is taken back: it was slow already.
const CHECKPOINTS: usize = 4;

/// A build over budget waits no longer than this for a control that looks bad and is not yet violated.
const DOUBT_NS: u64 = 30_000_000_000;

/// `K` names a build of a service.
#[derive(Debug)]
pub struct Surroundings<K> {
    /// The best first, with whose requests feed it; `None` for the loop.
    controls: Vec<(Option<K>, Control)>,
    chosen: Option<usize>,
    factor: f64,
    relative: bool,
    held: Option<Held>,
    doubt: Option<Doubt>,
    checkpoints: VecDeque<(u64, Checkpoint)>,
}

/// The build is over budget, and a control looks as if it were the host: who is first over the bar is chance.
#[derive(Debug)]
struct Doubt {
    /// `None`: nothing speaks, or spoke for too long, for the host.
    violation: Option<Violation>,
    since_mono_ns: u64,
}

/// While the surroundings are bad.
#[derive(Debug)]
struct Held {
    violation: Violation,
    since_mono_ns: u64,
    /// Goes on with what the build's judge must not see, for what may be said meanwhile.
    judge: Judge,
}

/// That people must be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Violated(Violation),
    /// After so many seconds.
    Recovered(f64),
}

impl<K: PartialEq> Surroundings<K> {
    /// `judge` is the build's, as it begins.
    pub fn new(mut controls: Vec<(Option<K>, Control)>, judge: &Judge, now_mono_ns: u64) -> Self {
        controls.sort_by(|(_, a), (_, b)| a.source().cmp(b.source()));
        Self {
            controls,
            chosen: None,
            factor: 1.0,
            relative: judge.strictest_ratio().is_some(),
            held: None,
            doubt: None,
            checkpoints: VecDeque::from([(now_mono_ns, judge.checkpoint())]),
        }
    }

    /// A request of a build that may be a control.
    pub fn request(&mut self, by: &K, seen: &Observation) {
        let fed = self.controls.iter_mut().filter(|(fed_by, _)| fed_by.as_ref() == Some(by));
        fed.for_each(|(_, control)| control.observe(seen));
    }

    /// A reading of the loop.
    pub fn reading(&mut self, seen: &Observation) {
        let fed = self.controls.iter_mut().filter(|(fed_by, _)| fed_by.is_none());
        fed.for_each(|(_, control)| control.observe(seen));
    }

    /// The same out of turn, see [`Self::wants_a_look`].
    pub fn look(&mut self, seen: &Observation) {
        let fed = self.controls.iter_mut().filter(|(fed_by, _)| fed_by.is_none());
        fed.for_each(|(_, control)| control.look(seen));
    }

    /// The build's own request: bet on, or only counted while the surroundings are bad.
    pub fn judge(&mut self, judge: &mut impl TellJudge, seen: &Observation, warmup: f64) {
        // A host that is faster than it was makes no absolute budget stricter.
        let absolute = judge.judge().has_absolute_budget(seen.endpoint);
        let environment = if absolute { self.factor.max(1.0) } else { self.factor };
        let conditions = Conditions::new(warmup, environment);
        match &mut self.held {
            None => {
                judge.set_conditions(conditions);
                judge.observe(seen);
            }
            Some(held) => {
                judge.note(seen);
                held.judge.set_conditions(conditions);
                held.judge.observe(seen);
            }
        }
    }

    /// Looks at the controls; what follows holds for the requests that come next.
    pub fn advance(&mut self, judge: &mut impl TellJudge, now_mono_ns: u64) -> Option<Change> {
        self.controls.iter_mut().for_each(|(_, control)| control.advance(now_mono_ns));
        self.chosen = self.controls.iter().position(|(_, control)| control.is_usable(now_mono_ns));
        let control = self.chosen.map(|chosen| &self.controls[chosen].1);
        let ratio = control.and_then(Control::figure).map_or(1.0, |figure| figure.ratio);
        self.factor = ratio.clamp(0.8, 1.25);
        match (control.and_then(Control::violation), self.held.take()) {
            (Some(violation), Some(held)) => {
                self.held = Some(Held { violation, ..held });
                None
            }
            (Some(violation), None) => {
                let before = judge.judge().clone();
                if let Some((_, checkpoint)) = self.checkpoints.pop_front() {
                    judge.go_back_to(checkpoint);
                }
                self.checkpoints.clear();
                self.doubt = None;
                self.held =
                    Some(Held { violation: violation.clone(), since_mono_ns: now_mono_ns, judge: before });
                Some(Change::Violated(violation))
            }
            (None, Some(held)) => {
                self.checkpoints = VecDeque::from([(now_mono_ns, judge.judge().checkpoint())]);
                Some(Change::Recovered(now_mono_ns.saturating_sub(held.since_mono_ns) as f64 * 1e-9))
            }
            (None, None) => {
                self.remember(judge.judge(), now_mono_ns);
                self.doubt(judge.judge(), now_mono_ns);
                None
            }
        }
    }

    /// What may be said: of the judge itself, or of the one that saw what it must not.
    pub fn verdict(&self, judge: &Judge, ask: impl Fn(&Judge) -> Verdict) -> Verdict {
        match &self.held {
            None => match (ask(judge), self.doubt.as_ref().and_then(|doubt| doubt.violation.as_ref())) {
                (Verdict::Exceeds { .. }, Some(violation)) => {
                    Verdict::Environment { violation: violation.clone() }
                }
                (verdict, _) => verdict,
            },
            Some(held) => ask(&held.judge).in_bad_surroundings(&held.violation, self.relative),
        }
    }

    /// What limits are multiplied with from the next request on.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// What the factor is from; `None` while nothing can tell.
    pub fn source(&self) -> Option<&Source> {
        self.chosen.map(|chosen| self.controls[chosen].1.source())
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.held.as_ref().map(|held| &held.violation)
    }

    /// Whether a control should be looked at once more, at once: the build has just been found over budget.
    pub fn wants_a_look(&self, judge: &Judge) -> bool {
        self.held.is_none() && self.doubt.is_none() && judge.exceeding().is_some()
    }

    fn doubt(&mut self, judge: &Judge, now_mono_ns: u64) {
        let Some(evidence) = judge.exceeding() else {
            self.doubt = None;
            return;
        };
        let before = evidence.baseline.as_ref().map(|baseline| baseline.mean_cpu_seconds);
        let of_build = before.filter(|mean| *mean > 0.0).map(|mean| evidence.mean_cpu_seconds / mean);
        // The best control, and the loop, which was asked again just now.
        let mut asked =
            self.controls.iter().enumerate().filter(|(place, (_, control))| {
                Some(*place) == self.chosen || *control.source() == Source::Loop
            });
        let violation = asked.find_map(|(_, (_, control))| control.suspicion(of_build, now_mono_ns));
        let since_mono_ns = self.doubt.as_ref().map_or(now_mono_ns, |doubt| doubt.since_mono_ns);
        // Once it was certain, or for long enough, it stays so.
        let settled = self.doubt.as_ref().is_some_and(|doubt| doubt.violation.is_none());
        let in_time = now_mono_ns.saturating_sub(since_mono_ns) < DOUBT_NS;
        let violation = violation.filter(|_| in_time && !settled);
        self.doubt = Some(Doubt { violation, since_mono_ns });
    }

    fn remember(&mut self, judge: &Judge, now_mono_ns: u64) {
        let due = self
            .checkpoints
            .back()
            .is_none_or(|(at, _)| now_mono_ns.saturating_sub(*at) >= CHECKPOINT_EVERY_NS);
        if due {
            self.checkpoints.push_back((now_mono_ns, judge.checkpoint()));
            if self.checkpoints.len() > CHECKPOINTS {
                self.checkpoints.pop_front();
            }
        }
    }
}
