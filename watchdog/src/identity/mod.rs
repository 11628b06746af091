//! Which service and which build a process belongs to. The only place that reads `/proc` of other processes.
//!
//! A process is known by pid and start time, since pids come again. What it was identified as holds until it runs
//! another program, or changes its working directory (a server that reloads into a new release does), so that
//! asking again costs one read of its `stat`.
//!
//! Cost, on a slow two-core virtual machine with 109 processes, unoptimized build (`identity::tests::members::cost`): a scan
//! 4 to 9 ms, one process 0.1 ms, but 6 ms for a process with sockets where a service is matched by listening.
//!
//! Membership. Each process is held against the services in the order of the configuration; the first whose
//! conditions all hold has it, and it is said once when another would have too. A process that matches none
//! belongs where its parent does: children are included. Membership lasts as long as the program runs: a worker
//! that stops listening to finish its last requests is still the service's.
//!
//! Build. What the configured source tells about the process itself comes first. Where that fails, the build is the
//! parent's if the parent belongs to the same service, or what the same program was found to be before: servers
//! overwrite their environment, and a release may be deleted under a running process. A child that runs another
//! program (a helper such as `git`) never contributes that program's build-id: it would look like a deploy.
//! A symlink that changed after the process started says nothing about it and is not used, unless the service is
//! deployed **in place**: its processes serve the new code as soon as a symlink (or a file) changes. That is said by
//! `in_place = true`, or known of programs that load the code at each request (`runtime`). Such processes are followed
//! by the source itself, watched by inotify (`place`), for as long as they run.
//!
//! Reading other users' processes needs `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`.

mod build;
mod cgroup;
mod cold;
mod command;
mod elf;
mod follow;
mod place;
mod process;
mod quota;
mod runtime;
mod sockets;
#[cfg(test)]
mod tests;
mod trail;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use procfs::ProcError;

pub use build::{AUTO_ENV, AUTO_FILES, BuildOrigin, MAX_BUILD_BYTES};

use crate::config::{BuildSource, Match, ServiceConfig};
use crate::model::{BuildId, ServiceName};
use build::BuildCache;
pub use cold::Runtime;
use follow::Followed;
pub use follow::Following;
use place::{Asked, Since, Sources};
use process::{FileId, Process, Program};
use runtime::Runtimes;
use sockets::Listeners;

/// A process that belongs to no service may do so later: it begins to listen, or is moved into a cgroup.
/// The wait grows with the time that it has been known, between these bounds.
const RECHECK_STRANGERS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A build that could not be told is asked for again.
const RECHECK_UNKNOWN: Duration = Duration::from_secs(2);
/// Longest chain of ancestors that is followed.
const MAX_ANCESTORS: usize = 64;

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    pub pid: u32,
    /// Clock ticks since boot, from `/proc/PID/stat`.
    pub start_time: u64,
    /// Index in the configuration.
    pub service: usize,
    /// `None`: it could not be told, and the service cannot be judged by this process.
    pub build: Option<BuildId>,
    /// What told the build.
    pub build_source: Option<BuildOrigin>,
    /// Why the build is `None`, and what to do.
    pub problem: Option<String>,
    /// Its build changes while it runs, with its source: since when that has named this build.
    in_place: Option<Since>,
}

impl Identified {
    /// For how long the process can have run this build: since its start, to a tick of the clock, or since the build
    /// changed in place.
    pub fn age(&self) -> Duration {
        let started =
            Duration::from_millis(self.start_time.saturating_mul(1000) / procfs::ticks_per_second());
        let age = crate::clock::since_boot().saturating_sub(started);
        self.in_place.and_then(Since::elapsed).map_or(age, |named| named.min(age))
    }

    /// Whether its build changes while it runs.
    pub fn is_in_place(&self) -> bool {
        self.in_place.is_some()
    }
}

/// A process that exists but may not be read.
#[derive(Debug, thiserror::Error)]
#[error("/proc/{pid}/{file} cannot be read: {reason}; {remedy}")]
pub struct IdentityError {
    pub pid: u32,
    pub file: &'static str,
    pub reason: String,
    remedy: &'static str,
    gone: bool,
}

impl IdentityError {
    fn new(pid: u32, file: &'static str, error: &ProcError) -> Self {
        let denied = match error {
            ProcError::PermissionDenied(_) => true,
            ProcError::Io(error, _) => error.kind() == std::io::ErrorKind::PermissionDenied,
            _ => false,
        };
        let remedy = if denied {
            "run the agent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
        } else {
            "look whether the process still runs"
        };
        Self { pid, file, reason: error.to_string(), remedy, gone: process::is_gone(error) }
    }
}

/// Tells processes' services and builds. Holds what it found; not cheap to make anew.
#[derive(Debug)]
pub struct Identifier {
    services: Vec<Service>,
    known: HashMap<u32, Known>,
    builds: BuildCache,
    runtimes: Runtimes,
    sources: Sources,
    refusals_told: HashSet<String>,
    ambiguous: HashSet<(usize, usize)>,
    refusal_told: bool,
    notices: Vec<String>,
}

#[derive(Clone, Debug)]
struct Service {
    name: ServiceName,
    matcher: Match,
    build: BuildSource,
}

/// What was found about a process.
#[derive(Clone, Debug)]
struct Known {
    start_time: u64,
    program: Program,
    cwd: Option<FileId>,
    /// When this program was first seen, and when it was last looked at closely.
    first: Instant,
    checked: Instant,
    /// The configuration changed since: what it belongs to must be found anew.
    outdated: bool,
    identified: Option<Identified>,
    /// What it is followed by when it is deployed in place.
    source: Option<Asked>,
    /// What in it loads the application's code at each request.
    per_request: Option<&'static str>,
}

impl Identifier {
    pub fn new(services: &[ServiceConfig]) -> Self {
        Self {
            services: services.iter().map(Service::of).collect(),
            known: HashMap::new(),
            builds: BuildCache::default(),
            runtimes: Runtimes::default(),
            sources: Sources::new(),
            refusals_told: HashSet::new(),
            ambiguous: HashSet::new(),
            refusal_told: false,
            notices: Vec::new(),
        }
    }

    /// Takes a new configuration. A process keeps its build where service and source are the same as before.
    pub fn reload(&mut self, services: &[ServiceConfig]) {
        let before = std::mem::replace(&mut self.services, services.iter().map(Service::of).collect());
        let now = &self.services;
        self.known.retain(|_, known| {
            let Some(identified) = &mut known.identified else { return false };
            let old = &before[identified.service];
            match now.iter().position(|new| new.name == old.name && new.build == old.build) {
                Some(index) => identified.service = index,
                None => return false,
            }
            known.outdated = true;
            true
        });
        self.drop_unused_sources();
        self.ambiguous.clear();
    }

    /// Every process of every service. Reads all of `/proc`, see the module's tests for what it costs.
    ///
    /// Processes that may not be read are left out, and told by [`Self::take_notices`].
    pub fn scan(&mut self) -> Vec<Identified> {
        let mut round = Round::default();
        let pids = all_pids();
        self.known.retain(|pid, _| pids.contains(pid));
        self.drop_unused_sources();
        self.sources.look_at_all();
        let mut found = Vec::new();
        let mut refused: Option<IdentityError> = None;
        for pid in pids {
            match self.look(pid, false, &mut round, 0) {
                Ok(identified) => found.extend(identified),
                Err(error) if error.gone => {}
                Err(error) => refused = Some(error),
            }
        }
        found.sort_unstable_by_key(|identified| identified.pid);
        if let Some(error) = refused
            && !std::mem::replace(&mut self.refusal_told, true)
        {
            self.notices.push(error.to_string());
        }
        found
    }

    /// One process, read afresh: for an event that it forked or runs another program. `None` when it belongs to no
    /// service (yet: a server begins to listen only some time after it started) or is gone.
    ///
    /// Takes up to two seconds where the build comes from a command, and tens of microseconds otherwise.
    pub fn identify(&mut self, pid: u32) -> Result<Option<Identified>, IdentityError> {
        match self.look(pid, true, &mut Round::default(), 0) {
            Err(error) if error.gone => Ok(None),
            result => result,
        }
    }

    /// Cores that these processes may use together: by the quotas of their cgroups, `host` at most. Read anew each time.
    pub fn cores(pids: impl Iterator<Item = u32>, host: f64) -> f64 {
        let quotas = pids.filter_map(|pid| {
            let process = Process::open(pid).ok().flatten()?;
            Some(quota::of(&process.cgroups().ok()?))
        });
        quota::together(quotas, host)
    }

    /// Whether the pid still names the process that started then.
    pub fn is_same(&self, pid: u32, start_time: u64) -> bool {
        Process::open(pid).ok().flatten().is_some_and(|process| process.start_time == start_time)
    }

    /// What runs the code of a process; `None` when it is gone or may not be read. Costs a read of its program's name, and
    /// of its mappings where that tells nothing.
    pub fn runtime(&self, pid: u32) -> Option<Runtime> {
        cold::of(&Process::open(pid).ok().flatten()?)
    }

    /// Drops what is known of a process that ended.
    pub fn forget(&mut self, pid: u32) {
        if self.known.remove(&pid).is_some_and(|known| known.source.is_some()) {
            self.drop_unused_sources();
        }
    }

    /// Whether some service is matched by what it listens on. Its processes are found only once they listen, so
    /// look again shortly after a start that was not identified.
    pub fn matches_by_listening(&self) -> bool {
        self.services.iter().any(|service| service.matcher.listen.is_some())
    }

    /// What an operator should know, each thing once: ambiguous matches, processes that may not be read.
    pub fn take_notices(&mut self) -> Vec<String> {
        self.notices.extend(self.sources.take_refusals(&mut self.refusals_told));
        std::mem::take(&mut self.notices)
    }

    fn look(
        &mut self,
        pid: u32,
        afresh: bool,
        round: &mut Round,
        depth: usize,
    ) -> Result<Option<Identified>, IdentityError> {
        // The agent's own command line names the services, and its hooks are no part of them.
        if pid == std::process::id() {
            return Ok(None);
        }
        let Some(process) = Process::open(pid)? else {
            self.known.remove(&pid);
            return Ok(None);
        };
        let before = self.known.get(&pid).filter(|known| known.is(&process)).cloned();
        if let Some(known) = &before
            && !afresh
            && known.holds(&process)
            && known.source.is_none_or(|asked| self.sources.holds(asked))
        {
            return Ok(known.identified.clone());
        }
        let parent = if process.parent > 1 && depth < MAX_ANCESTORS {
            // A parent that cannot be read says nothing about its child.
            self.look(process.parent, false, round, depth + 1).unwrap_or(None)
        } else {
            None
        };
        let now = Instant::now();
        let first = before.as_ref().map_or(now, |known| known.first);
        // A fork has its parent's program, arguments, cgroup and sockets: what holds for one holds for both.
        let forked = self.known.get(&process.parent).is_some_and(|known| known.program == process.program);
        let own = match &parent {
            Some(parent) if forked => Some(parent.service),
            _ => self.own_service(&process, round)?,
        };
        let service = own
            .or_else(|| before.as_ref().and_then(Known::service))
            .or_else(|| parent.as_ref().map(|parent| parent.service));
        let cwd = process.cwd_id();
        let before = before.and_then(|known| {
            let (same_cwd, identified) = (known.cwd == cwd, known.identified?);
            let by_env = matches!(identified.build_source, Some(BuildOrigin::Env(_)));
            let usable = Some(identified.service) == service && identified.build.is_some();
            (usable && (same_cwd || by_env || identified.is_in_place())).then_some(identified)
        });
        let mut followed = Followed::default();
        let identified = service.map(|service| {
            let parent = parent.filter(|parent| parent.service == service && parent.build.is_some());
            followed = self.followed_by(&process, service);
            self.with_build(&process, service, parent, before, followed)
        });
        let known = Known {
            start_time: process.start_time,
            program: process.program,
            cwd,
            first,
            checked: now,
            outdated: false,
            identified: identified.clone(),
            source: followed.source,
            per_request: followed.per_request,
        };
        self.known.insert(pid, known);
        Ok(identified)
    }

    /// The first service whose conditions hold for the process itself.
    fn own_service(&mut self, process: &Process, round: &mut Round) -> Result<Option<usize>, IdentityError> {
        let mut first: Option<usize> = None;
        for (index, service) in self.services.iter().enumerate() {
            if !service.holds(process, round)? {
                continue;
            }
            match first {
                None => first = Some(index),
                Some(winner) => {
                    if self.ambiguous.insert((winner, index)) {
                        self.notices.push(format!(
                            "process {} matches service \"{}\" and service \"{}\": it counts for \"{}\", which comes \
                             first; make one of the two matches narrower",
                            process.pid, self.services[winner].name, service.name, self.services[winner].name
                        ));
                    }
                }
            }
        }
        Ok(first)
    }

    fn with_build(
        &mut self,
        process: &Process,
        service: usize,
        parent: Option<Identified>,
        before: Option<Identified>,
        followed: Followed,
    ) -> Identified {
        let source = &self.services[service].build;
        let helper = parent.as_ref().is_some_and(|parent| {
            let parent = Process::open(parent.pid).ok().flatten();
            parent.is_some_and(|parent| build::is_helper(process, &parent))
        });
        let in_place = followed.source.and_then(|asked| self.sources.get(asked.source));
        let since = in_place.map(|source| source.since);
        let told = match in_place {
            Some(source) => source.told.clone(),
            None if helper && *source == BuildSource::BuildId => {
                Err("it is a helper of the service".to_owned())
            }
            None => self.builds.tell(process, source, helper, followed.per_request),
        };
        let (build, build_source, problem) = match (told, before, parent) {
            (Ok((build, origin)), _, _) => (Some(build), Some(origin), None),
            (Err(_), Some(known), _) | (Err(_), None, Some(known)) => (known.build, known.build_source, None),
            (Err(problem), None, None) => (None, None, Some(problem)),
        };
        Identified {
            pid: process.pid,
            start_time: process.start_time,
            service,
            build,
            build_source,
            problem,
            in_place: since,
        }
    }
}

impl Service {
    fn of(config: &ServiceConfig) -> Self {
        Self { name: config.name.clone(), matcher: config.matcher.clone(), build: config.build.clone() }
    }

    /// Whether all conditions hold, the cheap ones asked first.
    fn holds(&self, process: &Process, round: &mut Round) -> Result<bool, IdentityError> {
        let matcher = &self.matcher;
        if matcher.container.is_some() {
            return Ok(false);
        }
        if matcher.unit.is_some() || matcher.cgroup.is_some() {
            let groups = process.cgroups()?;
            let in_unit = matcher.unit.as_ref().is_none_or(|unit| cgroup::in_unit(&groups, unit));
            if !in_unit || !matcher.cgroup.as_ref().is_none_or(|path| cgroup::below(&groups, path)) {
                return Ok(false);
            }
        }
        if let Some(wanted) = &matcher.exe
            && process.exe()? != *wanted
            && process::file_id(wanted).is_none_or(|id| process::file_id(&process.path("exe")) != Some(id))
        {
            return Ok(false);
        }
        if let Some(pattern) = &matcher.cmdline
            && !pattern.is_match(&process.cmdline()?)
        {
            return Ok(false);
        }
        match &matcher.listen {
            Some(listen) => round.listeners.holds(process, listen),
            None => Ok(true),
        }
    }
}

impl Known {
    /// Membership lasts as long as the program and the configuration.
    fn service(&self) -> Option<usize> {
        self.identified.as_ref().filter(|_| !self.outdated).map(|identified| identified.service)
    }

    fn is(&self, process: &Process) -> bool {
        self.start_time == process.start_time && self.program == process.program
    }

    /// Whether what was found needs no second look.
    fn holds(&self, process: &Process) -> bool {
        match &self.identified {
            None => {
                let (least, most) = RECHECK_STRANGERS;
                self.checked.elapsed() < self.checked.duration_since(self.first).clamp(least, most)
            }
            Some(identified) => {
                !self.outdated
                    && (identified.is_in_place() || self.cwd == process.cwd_id())
                    && (identified.build.is_some() || self.checked.elapsed() < RECHECK_UNKNOWN)
            }
        }
    }
}

/// What is read once for many processes.
#[derive(Debug, Default)]
struct Round {
    listeners: Listeners,
}

fn all_pids() -> HashSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
