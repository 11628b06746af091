//! Starts the agent, turns its loop, reloads and stops it.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::keeping::Keeping;
use super::manual::Manual;
use super::second::Opinions;
use super::service::Service;
use super::windows::{Windows, without_windows};
use super::{Agent, AgentOptions, Failures, Incidents, Processes, Told};
use crate::action::{Driver, Recorder};
use crate::clock;
use crate::config::{Config, ConfigErrors, ServiceConfig};
use crate::control::server::{self as control, ControlError, ControlSocket};
use crate::event::logging::LogLevel;
use crate::event::{Event, logging, notify};
use crate::identity::Identifier;
use crate::incident::IncidentKind;
use crate::kernel::{Kernel, KernelError, KernelOptions};
use crate::metrics::server::{self as http, Heartbeat};
use crate::metrics::{Counters, Totals};
use crate::model::Uprobes;
use crate::store::{Store, StoreError};

const TICK: Duration = Duration::from_millis(100);
/// Process events wake the loop at once, but not more often than this: a host that compiles starts thousands.
const LEAST_BETWEEN_TICKS: Duration = Duration::from_millis(10);
/// For the final write to the ledger.
const STOP_WITHIN: Duration = Duration::from_millis(800);

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(options: AgentOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The ledger's writes and the hook's files; each thread costs memory.
        .max_blocking_threads(4)
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(start_and_loop(options));
    // A write that still waits for the disk must not keep the process: what it would write is rewritten next time.
    runtime.shutdown_timeout(STOP_WITHIN);
    result
}

fn load(options: &AgentOptions) -> Result<Config, ConfigErrors> {
    let mut config = Config::load(&options.config_file)?;
    options.overrides.apply(&mut config.agent)?;
    Ok(config)
}

/// What any service asks for.
fn uprobes_of(config: &Config) -> Uprobes {
    config.services.iter().fold(Uprobes::NONE, |all, service| all.or(service.uprobes))
}

fn bind_control(config: &Config, counters: &mut Counters) -> Result<ControlSocket, ControlError> {
    let (group, operators) = (&config.agent.control_group, &config.agent.control_operators);
    let socket = control::bind(&config.agent.control, group, operators)?;
    for warning in &socket.warnings {
        Event::Warning { what: "control socket", why: warning }.emit(counters);
    }
    Ok(socket)
}

fn load_kernel(options: &mut KernelOptions, config: &Config) -> Result<Kernel, KernelError> {
    options.uprobes = uprobes_of(config);
    Kernel::load(options)
}

async fn start_and_loop(mut options: AgentOptions) -> anyhow::Result<()> {
    let config = load(&options)?;
    let log = logging::init(&config.agent.log);
    let mut counters = Counters::default();
    warn_all(&config, &mut counters);
    let store = Arc::new(Store::open(&config.agent.state_dir)?);
    let heartbeat = Heartbeat::default();
    let (scrapes_in, mut scrapes) = mpsc::channel(4);
    let listen = config.agent.listen;
    let listener = http::bind(listen).await.with_context(|| {
        format!("cannot serve metrics on {listen}; another agent? change agent.listen or stop it")
    })?;
    let (calls_in, mut calls) = mpsc::channel(4);
    let socket = bind_control(&config, &mut counters)?;
    // Addresses first: a second agent is refused before it puts anything into the kernel.
    let kernel = load_kernel(&mut options.kernel, &config)?;
    tokio::spawn(http::serve(listener, scrapes_in, heartbeat.clone(), http::CONNECTION_LIMIT));
    tokio::spawn(control::serve(socket, calls_in));

    let (rollback_events, mut rollbacks) = mpsc::unbounded_channel();
    let now_mono_ns = clock::mono_ns();
    let driver = driver(&store, &config.agent.state_dir);
    let mut agent = Agent {
        identifier: Identifier::new(&config.services),
        services: make_services(&config.services, &store)?,
        manual: Manual::load(&store)?,
        options,
        config,
        driver,
        store,
        kernel,
        slots: HashMap::new(),
        processes: Processes::default(),
        flipped: Vec::new(),
        reserved: HashMap::new(),
        incidents: Incidents::default(),
        windows: Windows::default(),
        keeping: Keeping::default(),
        totals: Totals::default(),
        counters,
        failures: Failures::default(),
        rollback_events,
        started_mono_ns: now_mono_ns,
        last_tick_mono_ns: now_mono_ns,
        losses_told: Told::default(),
        opinions: Opinions::default(),
        looked: super::Looked::default(),
        environment: super::environment::Environment::start(),
    };
    agent.take_over()?;
    heartbeat.beat(clock::mono_ns());

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let process_events = watched(agent.kernel.process_events_fd())?;
    let flips = agent.identifier.changes_fd().map(watched).transpose()?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let alive_every = notify::alive_every();
    let (mut last_alive, mut last_tick) = (Instant::now(), Instant::now());
    let mut hurry = false;

    Event::Started { services: agent.services.len(), report: agent.kernel.report() }
        .emit(&mut agent.counters);
    notify::ready(&agent.summary());
    let why = loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = readable(Some(&process_events)) => {
                agent.meet_newcomers();
                hurry = true;
            }
            () = readable(flips.as_ref()) => {
                if !agent.note_flips() {
                    continue;
                }
                hurry = true;
            }
            () = sleep_until(last_tick + LEAST_BETWEEN_TICKS), if hurry => {}
            Some(event) = rollbacks.recv() => agent.on_rollback_event(event, clock::mono_ns()),
            Some(call) = calls.recv() => agent.answer(call),
            Some(reply) = scrapes.recv() => {
                let _ = reply.send(agent.scrape());
            }
            _ = hangup.recv() => agent.reload(&log),
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
        // Whatever woke the loop, no tick is late because of it; and none comes twice within its time.
        if last_tick.elapsed() >= LEAST_BETWEEN_TICKS {
            hurry = false;
            last_tick = Instant::now();
            agent.tick(clock::mono_ns());
            heartbeat.beat(clock::mono_ns());
            if alive_every.is_some_and(|every| last_alive.elapsed() >= every) {
                last_alive = Instant::now();
                notify::alive();
            }
        }
    };
    agent.stop(why);
    // Dropping the agent drops the kernel programs; the socket's file goes with its task.
    Ok(())
}

/// A copy of the descriptor that tells when it is readable.
fn watched(descriptor: BorrowedFd<'_>) -> anyhow::Result<AsyncFd<OwnedFd>> {
    let copy = descriptor.try_clone_to_owned()?;
    // SAFETY: the copy is owned by the `AsyncFd`, which closes it only after it has taken it out of the poll set.
    Ok(unsafe { AsyncFd::register(copy)? })
}

/// Never without a descriptor: the ticks look then.
async fn readable(descriptor: Option<&AsyncFd<OwnedFd>>) {
    match descriptor {
        Some(descriptor) => {
            if let Ok(mut guard) = descriptor.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

/// The rollback's program runs under a supervisor; where its records cannot be kept, without one.
fn driver(store: &Arc<Store>, state_dir: &Path) -> Driver {
    let driver = Driver::new(Arc::clone(store));
    match Recorder::open(state_dir) {
        Ok(recorder) => driver.with_recorder(recorder),
        Err(error) => {
            let path = state_dir.display();
            tracing::warn!(
                "hooks run without a supervisor, so a later agent cannot know how one ended: no records can be kept in {path}: \
                 {error}"
            );
            driver
        }
    }
}

fn warn_all(config: &Config, counters: &mut Counters) {
    for warning in &config.warnings {
        Event::Warning { what: "configuration", why: warning }.emit(counters);
    }
}

/// A configuration holds regular expressions, so it has no `PartialEq`; its debug form has every value.
fn as_text(config: &(impl std::fmt::Debug + ?Sized)) -> String {
    format!("{config:?}")
}

fn make_services(configs: &[ServiceConfig], store: &Store) -> Result<Vec<Service>, StoreError> {
    configs
        .iter()
        .map(|config| {
            let unknown = store.builds(Some(&config.name))?.is_empty();
            Ok(Service::new(config.clone(), unknown, &store.peaks(&config.name)?))
        })
        .collect()
}

impl Agent {
    /// The last turn.
    fn stop(&mut self, why: &str) {
        notify::stopping();
        Event::Stopping { why }.emit(&mut self.counters);
        self.tick(clock::mono_ns());
        self.save_all_now();
    }

    /// The first turn.
    fn take_over(&mut self) -> anyhow::Result<()> {
        self.apply_decisions();
        self.register_services()?;
        // What an earlier agent left open comes first: its builds are no news.
        self.reconcile()?;
        self.windows = Windows::of_an_earlier_agent(self.store.open_alerts(IncidentKind::ReleaseWindow)?);
        self.tick(clock::mono_ns());
        Ok(())
    }

    fn summary(&self) -> String {
        format!(
            "watching {} processes of {} services, kernel tier {:?}",
            self.processes.len(),
            self.services.len(),
            self.kernel.report().tier
        )
    }

    /// SIGHUP: takes a new configuration, or keeps the old one and says why.
    fn reload(&mut self, log: &LogLevel) {
        notify::reloading();
        let file = self.options.config_file.display().to_string();
        match load(&self.options) {
            Ok(config) => match self.take_config(config, log) {
                Ok(()) => Event::ConfigLoaded { file: &file }.emit(&mut self.counters),
                Err(error) => Event::ConfigRejected { file: &file, errors: &error }.emit(&mut self.counters),
            },
            Err(errors) => Event::ConfigRejected { file: &file, errors: &errors }.emit(&mut self.counters),
        }
        notify::ready(&self.summary());
    }

    /// Builds and judges of services that did not change go on; everything else begins anew from the ledger.
    fn take_config(&mut self, config: Config, log: &LogLevel) -> anyhow::Result<()> {
        warn_all(&config, &mut self.counters);
        self.keep_what_needs_a_restart(&config);
        if let Err(error) = log.set(&config.agent.log) {
            Event::Warning { what: "the log level stays as it was", why: &error }.emit(&mut self.counters);
        }
        if as_text(&config.services) == as_text(&self.config.services) {
            // Nothing to watch differently: not one request is missed.
            self.config = config;
            return Ok(());
        }
        if as_text(&without_windows(&config.services)) == as_text(&without_windows(&self.config.services)) {
            // When builds may appear changes nothing for those that are here.
            for (service, config) in self.services.iter_mut().zip(&config.services) {
                service.config = config.clone();
            }
            self.config = config;
            self.apply_decisions();
            return Ok(());
        }
        let mut services = make_services(&config.services, &self.store)?;
        self.save_all_now();
        self.release_all();
        for index in services.len()..self.services.len() {
            // The kernel forgets the patterns of a service that is gone.
            let cleared = self.kernel.register_service(u32::try_from(index)?, &[]);
            self.report("clearing a service's endpoints", cleared);
        }
        for service in &mut services {
            if let Some((_, mode)) = self.manual.decisions.mode(&service.config.name) {
                service.config.mode = mode;
            }
            let same = |old: &&mut Service| old.config.name == service.config.name;
            let Some(old) = self.services.iter_mut().find(same) else { continue };
            service.builds = std::mem::take(&mut old.builds);
            service.adopting = old.adopting;
            service.cores = old.cores;
            std::mem::swap(&mut service.users, &mut old.users);
            for (name, peak) in service.endpoints.iter().zip(&mut service.peaks) {
                let place = old.endpoints.iter().position(|old| old == name);
                if let Some(place) = place {
                    std::mem::swap(peak, &mut old.peaks[place]);
                }
            }
            let unchanged = as_text(&old.config) == as_text(&service.config);
            if !unchanged {
                service.builds.retain(|_, build| build.judged.is_none());
            }
        }
        self.environment.forget_services();
        self.identifier.reload(&config.services);
        self.services = services;
        self.config = config;
        self.apply_decisions();
        self.renumber_incidents();
        self.register_services()?;
        // At once: what is not watched is not measured.
        self.follow_processes(&[], clock::mono_ns());
        Ok(())
    }

    /// Addresses and paths are taken once.
    fn keep_what_needs_a_restart(&mut self, new: &Config) {
        let wanted = uprobes_of(new);
        if wanted.and(self.options.kernel.uprobes) != wanted {
            let why =
                "the first service that asks for a kind of uprobes needs `systemctl restart load-watchdog`";
            Event::Warning { what: "a changed setting is not in force yet", why: &why }
                .emit(&mut self.counters);
        }
        let (old, new) = (&self.config.agent, &new.agent);
        if (old.listen, &old.state_dir, &old.control, &old.control_group, &old.control_operators)
            != (new.listen, &new.state_dir, &new.control, &new.control_group, &new.control_operators)
        {
            let why = "listen, state_dir, control, control_group and control_operators need \
                       `systemctl restart load-watchdog`";
            Event::Warning { what: "a changed setting is not in force yet", why: &why }
                .emit(&mut self.counters);
        }
    }
}
