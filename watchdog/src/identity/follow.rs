//! Services that are deployed in place: their processes' build is what a symlink, or a file, names now.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use super::Identifier;
use super::place::{Asked, Kind, LOOK_EVERY};
use super::process::Process;
use crate::config::BuildSource;

/// How a process's build is told while it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followed {
    pub(super) source: Option<Asked>,
    pub(super) per_request: Option<&'static str>,
}

/// By what the builds of a service's processes change: for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Following {
    /// Each process keeps the build that it was started with.
    Start { processes: usize },
    /// The build changes under the processes that run.
    Place {
        processes: usize,
        path: PathBuf,
        /// What loads the application's code at each request; `None`: the configuration says that it does.
        because: Option<&'static str>,
        /// Why inotify does not watch it, so that it is only looked at now and then.
        unwatched: Option<String>,
        /// Why it names no build now; the processes keep the one that it named before.
        problem: Option<String>,
    },
}

impl Following {
    /// What keeps the build from being told now.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Place { problem: Some(problem), .. } => Some(format!(
                "The build that serves now cannot be told: {problem}. Its processes keep the build that was told \
                 before, if any was."
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |processes: usize| format!("{processes} process{}", if processes == 1 { "" } else { "es" });
        match self {
            Self::Start { processes } => {
                write!(f, "{}: the build is the one that the process was started with", count(*processes))
            }
            Self::Place { processes, path, because, unwatched, .. } => {
                write!(f, "{}: the build changes in place, with {} (", count(*processes), path.display())?;
                match because {
                    Some(runtime) => write!(f, "{runtime} loads its code at each request")?,
                    None => f.write_str("in_place = true")?,
                }
                match unwatched {
                    None => f.write_str(")"),
                    Some(why) => {
                        write!(f, "), looked at every {} ms only, for {why}", LOOK_EVERY.as_millis())
                    }
                }
            }
        }
    }
}

impl Identifier {
    /// Readable when the build of processes may have changed in place. `None`: inotify is refused altogether.
    pub fn changes_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sources.fd()
    }

    /// Takes what inotify has, and looks at what it cannot watch. The processes whose build is to be asked for again
    /// by [`Self::identify`].
    pub fn changed(&mut self) -> Vec<u32> {
        if !self.sources.look() {
            return Vec::new();
        }
        let sources = &self.sources;
        let mut pids: Vec<u32> = self
            .known
            .iter()
            .filter(|(_, known)| known.source.is_some_and(|asked| !sources.holds(asked)))
            .map(|(pid, _)| *pid)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// By what the builds of a service's processes change.
    pub fn following(&self, service: usize) -> Vec<Following> {
        let mut by_source: BTreeMap<Option<u32>, (usize, Option<&'static str>)> = BTreeMap::new();
        for known in self.known.values() {
            if known.service() == Some(service) {
                let entry = by_source.entry(known.source.map(|asked| asked.source)).or_default();
                entry.0 += 1;
                entry.1 = entry.1.or(known.per_request);
            }
        }
        let setting =
            self.services.get(service).and_then(|service| in_place(&service.build)).and_then(|it| it.2);
        by_source
            .into_iter()
            .map(|(source, (processes, runtime))| match source.and_then(|source| self.sources.get(source)) {
                None => Following::Start { processes },
                Some(source) => Following::Place {
                    processes,
                    path: source.key.path.clone(),
                    because: runtime.filter(|_| setting.is_none()),
                    unwatched: source.unwatched.clone(),
                    problem: source.told.as_ref().err().cloned(),
                },
            })
            .collect()
    }

    /// What tells a process's build while it runs, if anything does.
    pub(super) fn followed_by(&mut self, process: &Process, service: usize) -> Followed {
        let source = &self.services[service].build;
        let per_request = self.runtimes.per_request(process);
        let Some((kind, path, setting)) = in_place(source) else {
            return Followed { source: None, per_request };
        };
        if !setting.unwrap_or(per_request.is_some()) {
            return Followed { source: None, per_request };
        }
        let asked = process
            .absolute(path)
            .map_err(|error| error.to_string())
            .and_then(|path| self.sources.ask(process, kind, path));
        // A root that may not be read: the ordinary way says why.
        Followed { source: asked.ok(), per_request }
    }

    pub(super) fn drop_unused_sources(&mut self) {
        let known = &self.known;
        self.sources
            .keep(|source| known.values().any(|it| it.source.is_some_and(|asked| asked.source == source)));
    }
}

/// A source that can change in place: what it is, where, and what the configuration says.
fn in_place(source: &BuildSource) -> Option<(Kind, &PathBuf, Option<bool>)> {
    match source {
        BuildSource::Symlink { path, in_place } => Some((Kind::Symlink, path, *in_place)),
        BuildSource::File { path, in_place } => Some((Kind::File, path, *in_place)),
        _ => None,
    }
}
