//! A small agent around the real driver and the real ledger: it does what the agent's loop does, in the world of the test.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::unbounded_channel;
use watchdog::action::{Driver, Live};
use watchdog::config::{RollbackConfig, ServiceConfig};
use watchdog::incident::{
    BuildState, Cost, Incident, IncidentId, Moment, NewIncident, Reconciliation, State, VerifyFacts, verify,
};
use watchdog::store::{Store, StoreError};

use super::hands::{Doom, SimHands};
use super::plan::{Op, Plan};
use super::reference::{self, Right};
use super::world::World;
use super::{Counts, support};

const VERIFY_WITHIN_S: u64 = 300;
const REMOVED: &str = "the service was taken out of the configuration";

/// What a crash unwinds with; the panic hook is not called for it.
pub(crate) struct Crash;

pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) world: Mutex<World>,
    pub(crate) doom: Mutex<Option<Doom>>,
    pub(crate) counts: Mutex<Counts>,
    pub(crate) dir: TempDir,
    agent: Mutex<Option<Agent>>,
}

/// What dies in a crash.
pub(crate) struct Agent {
    store: Arc<Store>,
    driver: Driver,
    /// Armed incidents whose hook is to be run.
    pub(crate) to_run: Vec<IncidentId>,
    /// Since when they are verified.
    pub(crate) verifying: Vec<(IncidentId, u64)>,
    /// What the ledger could not take.
    unwritten: Vec<Unwritten>,
    /// The incident whose hook runs.
    running: Option<IncidentId>,
}

enum Unwritten {
    Incident(NewIncident),
    Decision(IncidentId),
    Escalation(IncidentId),
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    pub(crate) fn new(plan: Plan, directory: Option<&PathBuf>) -> Arc<Self> {
        let dir = directory.map_or_else(TempDir::new, TempDir::new_in).unwrap();
        let world = Mutex::new(World::new(&plan));
        let sim = Arc::new(Self {
            plan,
            world,
            doom: Mutex::default(),
            counts: Mutex::default(),
            dir,
            agent: Mutex::default(),
        });
        sim.start();
        let at = locked(&sim.world).moment();
        sim.store()
            .build_appeared(&"web".into(), &"v1".into(), BuildState::Adopted, "was there", &at)
            .unwrap();
        sim
    }

    pub(crate) fn say(&self, line: impl Into<String>) {
        locked(&self.world).say(line.into());
    }

    pub(crate) fn now(&self) -> Moment {
        locked(&self.world).moment()
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&locked(&self.agent).as_ref().expect("an agent runs").store)
    }

    pub(crate) fn driver(&self) -> Driver {
        locked(&self.agent).as_ref().expect("an agent runs").driver.clone()
    }

    pub(crate) fn running(&self) -> Option<IncidentId> {
        locked(&self.agent).as_ref().and_then(|agent| agent.running.clone())
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Agent) -> T) -> T {
        change(locked(&self.agent).as_mut().expect("an agent runs"))
    }

    pub(crate) fn service(&self) -> Option<ServiceConfig> {
        let configured = locked(&self.world).configured;
        configured.then(|| support::service(Some(self.hook_config())))
    }

    fn hook_config(&self) -> RollbackConfig {
        let mut rollback = support::with_timeout(support::rollback(["/bin/true"]), Duration::from_mins(2));
        rollback.hook.retries = self.plan.retries;
        RollbackConfig {
            cooldown: Duration::from_secs(self.plan.cooldown_s),
            max_per_day: self.plan.max_per_day,
            verify_within: Duration::from_secs(VERIFY_WITHIN_S),
            dry_run: self.plan.dry_run,
            ..rollback
        }
    }

    pub(crate) fn live(&self, incident: &Incident) -> Live {
        let world = locked(&self.world);
        let newer_build = world.newer_than(incident.bad_build.as_str()).map(|build| build.as_str().into());
        Live { mode: world.mode, dry_run: self.plan.dry_run, newer_build }
    }

    /// Runs a part of the agent, which may die in it; then the next one is started.
    fn agent_does(self: &Arc<Self>, what: impl FnOnce(&Arc<Self>)) {
        let done = catch_unwind(AssertUnwindSafe(|| what(self)));
        match done {
            Ok(()) => {}
            Err(payload) if payload.is::<Crash>() => self.restart(),
            Err(payload) => resume_unwind(payload),
        }
    }

    fn restart(self: &Arc<Self>) {
        loop {
            *locked(&self.agent) = None;
            let down_s = locked(&self.doom).take().map_or(0, |doom| doom.down_s);
            locked(&self.world).wait(down_s);
            locked(&self.counts).restarts += 1;
            match catch_unwind(AssertUnwindSafe(|| {
                self.start();
                self.take_over();
            })) {
                Ok(()) => return,
                Err(payload) if payload.is::<Crash>() => {}
                Err(payload) => resume_unwind(payload),
            }
        }
    }

    fn start(self: &Arc<Self>) {
        self.say("the agent starts");
        let store = Arc::new(Store::open(&self.dir.path().join("state")).unwrap());
        let hands = Arc::new(SimHands { sim: Arc::downgrade(self) });
        let driver =
            Driver::new(Arc::clone(&store)).with_hands(Arc::clone(&hands) as Arc<_>).with_fail_point(hands);
        *locked(&self.agent) = Some(Agent {
            store,
            driver,
            to_run: Vec::new(),
            verifying: Vec::new(),
            unwritten: Vec::new(),
            running: None,
        });
    }

    /// As the agent's `reconcile`.
    fn take_over(self: &Arc<Self>) {
        let found = self.driver().reconcile().unwrap_or_else(|_| {
            self.say("the agent cannot start: somebody frees the disk");
            self.disk_full(false);
            self.driver().reconcile().unwrap()
        });
        for found in found {
            let incident = found.incident;
            self.say(format!("found {} {}: {:?}", incident.bad_build, incident.state, found.next));
            match found.next {
                Reconciliation::Wait { .. } => {}
                _ if self.service().is_none() => {
                    if !matches!(incident.state, State::Observed | State::Escalated) {
                        self.give_up(&incident.id);
                    }
                    continue;
                }
                _ => {}
            }
            match found.next {
                Reconciliation::Decide => self.decide(&incident.id),
                Reconciliation::Retry { .. } => self.with(|agent| agent.to_run.push(incident.id)),
                Reconciliation::Wait { attempt, process } => {
                    self.with(|agent| agent.running = Some(incident.id.clone()));
                    let (driver, timeout) = (self.driver(), self.hook_config().hook.timeout);
                    let (events, _told) = unbounded_channel();
                    let adopted =
                        runtime().block_on(driver.adopt(timeout, &incident.id, attempt, process, &events));
                    self.hook_over(&incident.id, adopted.ok());
                }
                Reconciliation::Verify => self.verify_from_now(&incident.id),
                Reconciliation::Leave
                | Reconciliation::Rehearsed { .. }
                | Reconciliation::Escalate { .. } => {}
            }
        }
        self.turn();
    }

    fn verify_from_now(&self, id: &IncidentId) {
        let now_s = locked(&self.world).now_s;
        self.with(|agent| agent.verifying.push((id.clone(), now_s)));
    }

    pub(crate) fn give_up(&self, id: &IncidentId) {
        match self.driver().escalate(id, REMOVED) {
            Ok(_) | Err(StoreError::IllegalStep(_)) => {}
            Err(_) => self.with(|agent| agent.unwritten.push(Unwritten::Escalation(id.clone()))),
        }
    }

    /// A verdict has fallen, or a condemned build is back.
    pub(crate) fn verdict(&self, bad: &str) {
        if self.service().is_none() {
            return;
        }
        let good = self.store().last_good_build(&"web".into()).unwrap();
        let mode = locked(&self.world).mode;
        self.open(NewIncident {
            service: "web".into(),
            endpoint: "login".into(),
            bad_build: bad.into(),
            good_build: good.map(|record| record.build).filter(|good| good.as_str() != bad),
            reason: "over budget".to_owned(),
            evidence: json!({}),
            mode,
        });
    }

    fn open(&self, new: NewIncident) {
        match self.driver().open(&new) {
            Ok(incident) => self.decide(&incident.id),
            Err(StoreError::AlreadyOpen { .. }) => {}
            Err(error) => {
                self.say(format!("not opened: {error}"));
                self.with(|agent| agent.unwritten.push(Unwritten::Incident(new)));
            }
        }
    }

    fn decide(&self, id: &IncidentId) {
        let store = self.store();
        let incident = store.incident(id).unwrap();
        let Some(service) = self.service() else {
            self.give_up(id);
            return;
        };
        let right =
            reference::right(&locked(&self.world), &self.plan, &incident, &store.incidents(1000).unwrap());
        let settled = self.driver().settle(&service, id, &self.live(&incident));
        match settled {
            Ok((incident, decision)) => {
                self.say(format!("{} decided: {decision:?}", incident.bad_build));
                assert_eq!(Right::of(&decision), right, "{decision:?}");
                locked(&self.counts).decisions.push(right);
                if right == Right::Act {
                    self.with(|agent| agent.to_run.push(id.clone()));
                }
            }
            Err(error) => {
                self.say(format!("not decided: {error}"));
                self.with(|agent| agent.unwritten.push(Unwritten::Decision(id.clone())));
            }
        }
    }

    /// The loop's turn: runs what is armed, judges verifications, writes what could not be written.
    pub(crate) fn turn(self: &Arc<Self>) {
        loop {
            for unwritten in self.with(|agent| std::mem::take(&mut agent.unwritten)) {
                match unwritten {
                    Unwritten::Incident(new) if self.service().is_some() => self.open(new),
                    Unwritten::Incident(_) => {}
                    Unwritten::Decision(id) => self.decide(&id),
                    Unwritten::Escalation(id) => self.give_up(&id),
                }
            }
            let Some(id) = self.with(|agent| agent.to_run.pop()) else { break };
            if self.service().is_none() {
                self.give_up(&id);
                continue;
            }
            self.with(|agent| agent.running = Some(id.clone()));
            let (driver, hook) = (self.driver(), self.hook_config());
            let (events, _told) = unbounded_channel();
            let ended = runtime().block_on(driver.roll_back(hook, &id, &events));
            if let Err(error) = &ended {
                self.say(format!("the rollback ended early: {error}"));
            }
            self.hook_over(&id, ended.ok());
        }
        self.judge();
    }

    fn hook_over(&self, id: &IncidentId, ended: Option<Incident>) {
        self.with(|agent| agent.running = None);
        match ended.map(|incident| incident.state) {
            Some(State::Verifying) if self.service().is_none() => self.give_up(id),
            Some(State::Verifying) => self.verify_from_now(id),
            Some(_) => {}
            None => self.with(|agent| agent.unwritten.push(Unwritten::Escalation(id.clone()))),
        }
    }

    fn judge(&self) {
        for (id, since_s) in self.with(|agent| agent.verifying.clone()) {
            let Ok(incident) = self.store().incident(&id) else { continue };
            let facts = self.facts(&incident, since_s);
            match self.driver().conclude(&id, &verify(&facts), &facts) {
                Ok(None) | Err(_) => continue,
                Ok(Some((incident, note))) => {
                    self.say(format!("{} {}: {note}", incident.bad_build, incident.state));
                    let world = locked(&self.world);
                    if incident.state == State::Recovered {
                        let good = incident.good_build.expect("it was restored");
                        assert_eq!(world.serving, good.as_str(), "recovered, and another build serves");
                        assert!(!world.cost_high, "recovered, and the cost is not back");
                        locked(&self.counts).recovered += 1;
                    }
                }
            }
            self.with(|agent| agent.verifying.retain(|(verifying, _)| *verifying != id));
        }
    }

    /// What traffic shows.
    fn facts(&self, incident: &Incident, since_s: u64) -> VerifyFacts {
        let world = locked(&self.world);
        let serves = |build: &str| world.serving == build;
        let good = incident.good_build.as_ref().is_some_and(|good| serves(good.as_str()));
        let bad = serves(incident.bad_build.as_str());
        let ms = Duration::from_millis;
        let seconds = world.now_s - since_s;
        let requests = if good { seconds * 10 } else { 0 };
        VerifyFacts {
            good_build_serves: good,
            bad_build_serves: bad,
            newer_build: (!good && !bad).then(|| world.serving.as_str().into()),
            cost: Cost {
                requests,
                mean: (requests > 0).then(|| ms(if world.cost_high { 300 } else { 50 })),
                limit: Some(ms(62)),
                baseline: Some(ms(48)),
                is_back: requests > 40 && !world.cost_high,
                is_high: requests > 400 && world.cost_high,
            },
            good_served_after: (requests > 0).then(|| ms(100)),
            bad_served_until: None,
            since_hook: Duration::from_secs(seconds),
            verify_within: Duration::from_secs(VERIFY_WITHIN_S),
        }
    }

    /// Carries one thing out, in the loop.
    pub(crate) fn happens(self: &Arc<Self>, op: &Op) {
        self.agent_does(|sim| {
            // Some traffic comes in between.
            locked(&sim.world).wait(sim.plan.pace_s);
            sim.turn();
            sim.apply(op);
            sim.turn();
        });
        self.one_open_incident_per_build();
    }

    fn one_open_incident_per_build(&self) {
        let mut open: Vec<_> =
            self.store().open_incidents().unwrap().into_iter().map(|incident| incident.bad_build).collect();
        let all = open.len();
        open.sort();
        open.dedup();
        assert_eq!(open.len(), all, "two open incidents of one build");
    }

    /// Lets everything come to rest, and asks the reference about each incident.
    pub(crate) fn finish(self: &Arc<Self>) {
        *locked(&self.doom) = None;
        for _ in 0..4 {
            // A hook that ran last may have filled it again.
            self.happens(&Op::DiskFree);
            self.happens(&Op::Wait { seconds: VERIFY_WITHIN_S });
        }
        let store = self.store();
        let world = locked(&self.world);
        for incident in store.incidents(1000).unwrap() {
            let timeline = store.events(&incident.id).unwrap();
            reference::at_rest(&world, &incident, &timeline);
            let mut counts = locked(&self.counts);
            counts.ends.push(incident.state);
            counts.incidents += 1;
        }
        for run in &world.runs {
            locked(&self.counts).hooks.push(run.end.clone());
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
