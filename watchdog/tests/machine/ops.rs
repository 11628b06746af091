//! Everything that can happen to the agent, one after the other.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use watchdog::action::Point;
use watchdog::incident::{BuildState, Operator, PausedUntil, State};

use super::hands::Doom;
use super::plan::Op;
use super::reference::{self, Right};
use super::sim::{Crash, Sim, locked};
use super::world::Truth;

impl Sim {
    /// Also called while a hook runs.
    pub(crate) fn apply(self: &Arc<Self>, op: &Op) {
        self.say(format!("{op:?}"));
        match op {
            Op::DeployBad => {
                let build = self.deploy();
                self.verdict(&build);
            }
            Op::DeployTwoBad => {
                let first = self.deploy();
                locked(&self.world).wait(20);
                let second = self.deploy();
                self.verdict(&first);
                self.turn();
                self.verdict(&second);
            }
            Op::DeployGood => {
                self.deploy();
            }
            Op::Redeploy => self.redeploy(),
            Op::Wait { seconds } => locked(&self.world).wait(*seconds),
            Op::StepClock { seconds } => locked(&self.world).step_clock(*seconds),
            Op::DieAt { point, nth, down_s } => {
                *locked(&self.doom) = Some(Doom { point: *point, left: *nth, down_s: *down_s });
            }
            Op::Restart { down_s } => {
                let doom = Doom { point: Point::Detected, left: u32::MAX, down_s: *down_s };
                *locked(&self.doom) = Some(doom);
                resume_unwind(Box::new(Crash));
            }
            Op::Approve => self.operate(State::AwaitingApproval, |by| Operator::Approved { by }),
            Op::Reject => self.operate(State::AwaitingApproval, |by| Operator::Rejected { by }),
            Op::Acknowledge => self.operate(State::Escalated, |by| Operator::Acknowledged { by }),
            Op::Pause { seconds } => {
                let pause = PausedUntil {
                    by: "uid 0".to_owned(),
                    since: self.now(),
                    lasts: Duration::from_secs(*seconds),
                };
                self.store().set_pause(&pause).unwrap();
                let mut world = locked(&self.world);
                world.paused_until = Some(world.now_s + seconds);
            }
            Op::Resume => {
                self.store().end_pause().unwrap();
                locked(&self.world).paused_until = None;
            }
            Op::Mode(mode) => locked(&self.world).mode = *mode,
            Op::DiskFull => self.disk_full(true),
            Op::DiskFree => self.disk_full(false),
            Op::RemoveService => self.remove_service(),
            Op::AddService => locked(&self.world).configured = true,
            Op::CondemnGood => {
                let name = "web".into();
                if let Some(good) = self.store().last_good_build(&name).unwrap() {
                    let (why, now) = ("condemned by uid 0", self.now());
                    self.store()
                        .set_build_state(&name, &good.build, BuildState::Condemned, why, &now)
                        .unwrap();
                    locked(&self.world).truth.insert(good.build.to_string(), Truth::Bad);
                }
            }
            Op::CostHigh(high) => locked(&self.world).cost_high = *high,
        }
    }

    fn deploy(&self) -> String {
        let build = locked(&self.world).deploy();
        let (name, at) = ("web".into(), self.now());
        self.store()
            .build_appeared(&name, &build.as_str().into(), BuildState::Probation, "new", &at)
            .unwrap();
        build
    }

    fn redeploy(&self) {
        let condemned = {
            let mut world = locked(&self.world);
            let last = world.intents.last().map(|(_, _, bad, _)| bad.clone());
            let condemned = last.filter(|bad| world.truth[bad] == Truth::Bad);
            if let Some(bad) = &condemned {
                world.serving.clone_from(bad);
            }
            condemned
        };
        if let Some(bad) = condemned {
            self.verdict(&bad);
        }
    }

    /// A person decides about the newest incident in a state.
    fn operate(&self, state: State, decision: fn(String) -> Operator) {
        let store = self.store();
        let incidents = store.incidents(1000).unwrap();
        let Some(incident) = incidents.iter().find(|incident| incident.state == state) else { return };
        let operator = decision("uid 1000".to_owned());
        let (service, live) = (self.service(), self.live(incident));
        let service = service.as_ref().map(|service| (service, &live));
        let approves = matches!(operator, Operator::Approved { .. });
        let rejects = matches!(operator, Operator::Rejected { .. });
        // Said before it is done: the agent may die once it is on disk.
        let right = {
            let mut world = locked(&self.world);
            if approves {
                world.approved.push(incident.id.clone());
            }
            if rejects {
                world.rejected.push(incident.bad_build.to_string());
            }
            reference::right(&world, &self.plan, incident, &incidents)
        };
        let configured = service.is_some();
        match self.driver().operate(service, &incident.id, &operator) {
            Ok(armed) if approves => {
                assert!(configured && right == Right::Act, "approved against {right:?}");
                assert_eq!(armed.state, State::Armed);
                locked(&self.counts).approved += 1;
                self.with(|agent| agent.to_run.push(incident.id.clone()));
            }
            Ok(_) => {}
            Err(error) => {
                self.say(format!("not decided: {error}"));
                let mut world = locked(&self.world);
                if approves {
                    world.approved.pop();
                }
                if rejects {
                    world.rejected.pop();
                }
                let full = world.disk_full;
                assert!(full || (approves && (!configured || right != Right::Act)), "{error}");
            }
        }
    }

    fn remove_service(&self) {
        locked(&self.world).configured = false;
        // What is under way but not in the hands of a hook is given up, as the agent's reload does.
        let running = self.running();
        for incident in self.store().open_incidents().unwrap() {
            let idle = matches!(incident.state, State::AwaitingApproval | State::Verifying);
            if idle && Some(&incident.id) != running.as_ref() {
                self.give_up(&incident.id);
                self.with(|agent| agent.verifying.retain(|(id, _)| *id != incident.id));
            }
        }
    }

    pub(crate) fn disk_full(&self, full: bool) {
        let mut world = locked(&self.world);
        if world.disk_full == full {
            return;
        }
        world.disk_full = full;
        let ledger = rusqlite::Connection::open(self.dir.path().join("state/state.db")).unwrap();
        let sql = if full {
            "CREATE TRIGGER full BEFORE INSERT ON incident_events BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        } else {
            "DROP TRIGGER full"
        };
        ledger.execute_batch(sql).unwrap();
    }
}
