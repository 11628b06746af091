//! The driver's hands in the world of the test, and the fail-point that kills the agent.

use std::panic::resume_unwind;
use std::sync::{Arc, Weak};
use std::time::Duration;

use watchdog::action::{
    FailPoint, Hands, HookOutcome, HookRequest, HookRun, Later, Point, StartedHook, WatchedHook,
};
use watchdog::config::{HookConfig, RollbackConfig};
use watchdog::incident::{HookProcess, IncidentId, Moment, State};

use super::plan::{End, Hook};
use super::reference;
use super::sim::{Crash, Sim, locked};
use super::world::{Proc, Run, Truth};

/// Where the agent dies.
#[derive(Clone, Debug)]
pub(crate) struct Doom {
    pub(crate) point: Point,
    /// It comes there so often, the last time included.
    pub(crate) left: u32,
    pub(crate) down_s: u64,
}

pub(crate) struct SimHands {
    pub(crate) sim: Weak<Sim>,
}

impl SimHands {
    fn sim(&self) -> Arc<Sim> {
        self.sim.upgrade().expect("the simulation outlives its agent")
    }
}

impl FailPoint for SimHands {
    fn reached(&self, point: Point) {
        let sim = self.sim();
        if point == Point::IntentJournaled {
            intent(&sim);
        }
        if point == Point::Settled {
            pardons(&sim);
        }
        let dies = {
            let mut doom = locked(&sim.doom);
            match &mut *doom {
                Some(doom) if doom.point == point => {
                    doom.left -= 1;
                    doom.left == 0
                }
                _ => false,
            }
        };
        if dies {
            locked(&sim.world).say(format!("the agent dies at {point}"));
            locked(&sim.counts).deaths.push(point);
            resume_unwind(Box::new(Crash));
        }
    }
}

/// An intent is on disk: the first one of a rollback counts, and condemns.
fn intent(sim: &Sim) {
    let id = sim.running().expect("an incident is carried");
    let incident = sim.store().incident(&id).unwrap();
    let mut world = locked(&sim.world);
    let known = world.intents.iter().any(|(of, ..)| *of == id);
    if !incident.dry_run && !known {
        let (at, bad) = (world.now_s, incident.bad_build.to_string());
        let good = incident.good_build.expect("there is a target").to_string();
        world.truth.insert(bad.clone(), Truth::Bad);
        world.intents.push((id, at, bad, good));
    }
}

/// Builds whose condemnation was lifted are new again.
fn pardons(sim: &Sim) {
    let store = sim.store();
    for incident in store.incidents(1000).unwrap() {
        let last = store.events(&incident.id).unwrap().pop();
        let pardoned = last.is_some_and(|last| last.note.contains("the cause was not the build"));
        let mut world = locked(&sim.world);
        if pardoned && incident.state == State::Escalated && !world.pardoned.contains(&incident.id) {
            world.truth.insert(incident.bad_build.to_string(), Truth::New);
            world.pardoned.push(incident.id);
            locked(&sim.counts).exonerated += 1;
        }
    }
}

struct SimHook {
    sim: Arc<Sim>,
    process: HookProcess,
    run: usize,
    plan: Hook,
}

impl Hands for SimHands {
    fn now(&self) -> Moment {
        locked(&self.sim().world).moment()
    }

    fn pause(&self, span: Duration) -> Later<'_, ()> {
        locked(&self.sim().world).wait(span.as_secs());
        Box::pin(std::future::ready(()))
    }

    fn spawn<'a>(
        &'a self,
        _: &'a RollbackConfig,
        request: &'a HookRequest,
    ) -> Later<'a, Result<Box<dyn StartedHook>, String>> {
        let sim = self.sim();
        let mut world = locked(&sim.world);
        let run = Run {
            incident: request.incident.clone(),
            attempt: request.attempt,
            test: request.test,
            end: None,
        };
        reference::may_spawn(&world, &sim.plan, &run);
        assert_eq!(run.test, sim.plan.dry_run, "a dry run that is none, or the other way round");
        assert_eq!(run.test, request.bad_build.as_str() == "test-bad-build");
        let plan = sim.plan.hooks[world.runs.len() % sim.plan.hooks.len()].clone();
        if plan.end == End::NotStarted {
            return Box::pin(std::future::ready(Err("could not be started".to_owned())));
        }
        let process = world.new_process();
        let switches = plan.switches && !run.test && !matches!(plan.end, End::Again | End::Hangs);
        let seconds = if plan.end == End::Hangs { 100_000 } else { plan.seconds };
        let proc = Proc {
            process: process.clone(),
            incident: run.incident.clone(),
            run: world.runs.len(),
            ends_at: world.now_s + seconds,
            switches_to: request.good_build.as_ref().filter(|_| switches).map(ToString::to_string),
        };
        let index = world.runs.len();
        world.say(format!("the hook runs: {run:?}, {plan:?}"));
        world.runs.push(run);
        world.procs.push(proc);
        drop(world);
        let hook = SimHook { sim, process, run: index, plan };
        Box::pin(std::future::ready(Ok(Box::new(hook) as Box<dyn StartedHook>)))
    }

    fn run<'a>(&'a self, _: &'a HookConfig, _: &'a HookRequest) -> Later<'a, HookRun> {
        unreachable!("no hook stands beside the rollback in this world")
    }

    fn find(&self, incident: &IncidentId) -> Option<HookProcess> {
        let sim = self.sim();
        let world = locked(&sim.world);
        world.procs.iter().find(|proc| proc.incident == *incident).map(|proc| proc.process.clone())
    }

    fn is_alive(&self, process: &HookProcess) -> bool {
        locked(&self.sim().world).is_alive(process)
    }

    fn watch<'a>(&'a self, process: &'a HookProcess, rest: Duration) -> Later<'a, WatchedHook> {
        let forced = wait_for(&self.sim(), process, rest.as_secs()).then_some(true);
        let (stdout, stderr) = (String::new(), String::new());
        Box::pin(std::future::ready(WatchedHook { forced, stdout, stderr }))
    }
}

/// Waits for the end of a hook; `true`: the time was over, and it was killed.
fn wait_for(sim: &Sim, process: &HookProcess, limit_s: u64) -> bool {
    let mut world = locked(&sim.world);
    let Some(proc) = world.procs.iter().find(|proc| proc.process == *process).cloned() else { return false };
    let left_s = proc.ends_at.saturating_sub(world.now_s);
    let times_out = left_s > limit_s;
    world.wait(left_s.min(limit_s));
    if times_out {
        world.end(&proc, false);
    }
    times_out
}

impl StartedHook for SimHook {
    fn process(&self) -> &HookProcess {
        &self.process
    }

    fn finish(self: Box<Self>, limit: Duration) -> Later<'static, HookRun> {
        Box::pin(async move {
            if let Some(op) = &self.plan.meanwhile {
                self.sim.apply(op);
            }
            let timed_out = wait_for(&self.sim, &self.process, limit.as_secs());
            let outcome = match &self.plan.end {
                _ if timed_out => HookOutcome::TimedOut { after_ms: 120_000, forced: false },
                End::Done => HookOutcome::Done,
                End::Again => HookOutcome::TryAgain,
                End::Exit(code) => HookOutcome::Failed { code: *code },
                End::Signal => HookOutcome::Signalled { signal: 9, name: "SIGKILL".to_owned() },
                End::Lost | End::Hangs | End::NotStarted => {
                    HookOutcome::Lost { why: "nobody knows".to_owned() }
                }
            };
            locked(&self.sim.world).runs[self.run].end = Some(self.plan.end.clone());
            HookRun { outcome, stdout: String::new(), stderr: String::new(), took_ms: 0, notes: Vec::new() }
        })
    }
}
