//! The host as it really is: what serves, which hooks run, what time it is. It keeps its own account, from which the
//! reference is told what may happen.

use std::collections::BTreeMap;
use std::time::Duration;

use watchdog::config::Mode;
use watchdog::incident::{HookProcess, IncidentId, Moment};

use super::plan::{End, Plan};

/// Seconds on the monotonic clock.
pub(crate) type Seconds = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Good,
    New,
    Bad,
}

/// A run of the hook.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) incident: IncidentId,
    pub(crate) attempt: u32,
    pub(crate) test: bool,
    /// `None`: it ran, or runs, and its agent did not see the end.
    pub(crate) end: Option<End>,
}

/// A hook's process.
#[derive(Clone, Debug)]
pub(crate) struct Proc {
    pub(crate) process: HookProcess,
    pub(crate) incident: IncidentId,
    /// Index of the run.
    pub(crate) run: usize,
    pub(crate) ends_at: Seconds,
    /// The build that serves when it ends by itself.
    pub(crate) switches_to: Option<String>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now_s: Seconds,
    wall_offset_s: i64,
    pub(crate) mode: Mode,
    /// Whether the service is configured.
    pub(crate) configured: bool,
    pub(crate) cost_high: bool,
    pub(crate) disk_full: bool,
    pub(crate) serving: String,
    /// In the order of their deploys.
    pub(crate) builds: Vec<String>,
    pub(crate) truth: BTreeMap<String, Truth>,
    pub(crate) runs: Vec<Run>,
    pub(crate) procs: Vec<Proc>,
    /// Durable intents of hooks that were no rehearsal: the incident, when, and from which build to which.
    pub(crate) intents: Vec<(IncidentId, Seconds, String, String)>,
    pub(crate) approved: Vec<IncidentId>,
    /// Builds whose rollback a person rejected.
    pub(crate) rejected: Vec<String>,
    /// Incidents that lifted their condemnation.
    pub(crate) pardoned: Vec<IncidentId>,
    pub(crate) paused_until: Option<Seconds>,
    started: u64,
    /// For people, when a sequence fails.
    pub(crate) story: Vec<String>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            now_s: 100_000,
            wall_offset_s: 0,
            mode: plan.mode,
            configured: true,
            cost_high: false,
            disk_full: false,
            serving: "v1".to_owned(),
            builds: vec!["v1".to_owned()],
            truth: BTreeMap::from([("v1".to_owned(), Truth::Good)]),
            runs: Vec::new(),
            procs: Vec::new(),
            intents: Vec::new(),
            approved: Vec::new(),
            rejected: Vec::new(),
            pardoned: Vec::new(),
            paused_until: None,
            started: 0,
            story: Vec::new(),
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        let wall_s = 1_485_500_400 + i64::try_from(self.now_s).unwrap() + self.wall_offset_s;
        Moment { unix_ms: wall_s * 1000, mono_ns: self.now_s * 1_000_000_000, boot: "boot".to_owned() }
    }

    pub(crate) fn step_clock(&mut self, seconds: i64) {
        self.wall_offset_s += seconds;
    }

    /// Time goes on, and hooks that nobody waits for come to their end.
    pub(crate) fn wait(&mut self, seconds: Seconds) {
        self.now_s += seconds;
        let now_s = self.now_s;
        let ended: Vec<Proc> = self.procs.iter().filter(|proc| proc.ends_at <= now_s).cloned().collect();
        for proc in ended {
            self.end(&proc, true);
        }
    }

    /// A hook's process is gone; `by_itself`: it came to its end.
    pub(crate) fn end(&mut self, proc: &Proc, by_itself: bool) {
        self.procs.retain(|other| other.process != proc.process);
        if let (true, Some(build)) = (by_itself, &proc.switches_to) {
            self.say(format!("the hook switched to {build}"));
            self.serving.clone_from(build);
        }
    }

    /// A new build serves.
    pub(crate) fn deploy(&mut self) -> String {
        let build = format!("v{}", self.builds.len() + 1);
        self.builds.push(build.clone());
        self.truth.insert(build.clone(), Truth::New);
        self.serving.clone_from(&build);
        build
    }

    /// Pids come round: three of them, over and over, told apart by their start.
    pub(crate) fn new_process(&mut self) -> HookProcess {
        self.started += 1;
        let pid = 4000 + i32::try_from(self.started % 3).unwrap();
        HookProcess { pid, start_ticks: self.started, boot: "boot".to_owned() }
    }

    pub(crate) fn is_alive(&self, process: &HookProcess) -> bool {
        self.procs.iter().any(|proc| proc.process == *process)
    }

    /// The build that serves, if it is new and was deployed after this one.
    pub(crate) fn newer_than(&self, build: &str) -> Option<String> {
        let place = |build: &str| self.builds.iter().position(|known| known == build);
        let is_newer = place(&self.serving) > place(build) && self.truth[&self.serving] == Truth::New;
        is_newer.then(|| self.serving.clone())
    }

    pub(crate) fn since_last_intent(&self, not: &IncidentId) -> Option<Duration> {
        let others = self.intents.iter().filter(|(incident, ..)| incident != not);
        others.map(|(_, at, ..)| Duration::from_secs(self.now_s - at)).min()
    }

    pub(crate) fn intents_of_last_day(&self, not: &IncidentId) -> u32 {
        let recent = |(incident, at, ..): &&(IncidentId, Seconds, String, String)| {
            incident != not && self.now_s - at < 86_400
        };
        u32::try_from(self.intents.iter().filter(recent).count()).unwrap()
    }

    pub(crate) fn say(&mut self, mut line: String) {
        line.insert_str(0, &format!("{:>7} s  ", self.now_s));
        self.story.push(line);
    }
}
