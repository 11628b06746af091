//! Sources of the build that processes are followed by while they run: a symlink, or a file, that deploys change in
//! place.
//!
//! Each is one path under one root, whatever the number of processes. inotify watches every directory in which the
//! path can turn elsewhere ([`Trail`]), and the file itself; an event makes the path be followed anew. The name in force
//! is what is there then, so an event too many does no harm, and a link that is gone for a moment says nothing. Where
//! inotify is refused, the path is followed anew every half second. The scan of all processes does so too: changes
//! that another host makes on a shared file system, or above the directories that are watched, send no event.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::build::{self, Told};
use super::process::{Process, RootId};
use super::trail::Trail;
use crate::clock;
use crate::model::BuildId;

/// How often a path is looked at that inotify cannot watch.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A path that changes faster than it can be followed is looked at again at the next scan.
const MAX_ROUNDS: usize = 8;
const MAX_READS: usize = 64;
const IN_DIRECTORY: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
const IN_FILE: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE;

/// What stands at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Symlink,
    File,
}

/// What is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    root: RootId,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// Since when a source has named the build that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Seen to change.
    Seen(Instant),
    /// As the file system dates it, milliseconds since 1970; `None` where it does not.
    Dated(Option<i64>),
}

impl Since {
    /// `None`: nothing is known of it.
    pub(super) fn elapsed(self) -> Option<Duration> {
        match self {
            Self::Seen(at) => Some(at.elapsed()),
            Self::Dated(at) => Some(Duration::from_millis(
                u64::try_from(clock::unix_ms().saturating_sub(at?)).unwrap_or_default(),
            )),
        }
    }
}

/// A source and the answer of a moment: another generation is another answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) source: u32,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) key: Key,
    root: OwnedFd,
    pub(super) told: Told,
    pub(super) since: Since,
    /// Why inotify does not watch it.
    pub(super) unwatched: Option<String>,
    generation: u64,
    named: Option<BuildId>,
}

/// All sources that are followed.
#[derive(Debug)]
pub(super) struct Sources {
    inotify: Result<Inotify, String>,
    /// Whom a watch concerns: by name in a directory; without one, all of it.
    watches: HashMap<WatchDescriptor, HashSet<(u32, Option<std::ffi::OsString>)>>,
    by_key: HashMap<Key, u32>,
    sources: HashMap<u32, Source>,
    next: u32,
    looked: Instant,
    refusals: Vec<String>,
}

impl Sources {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|error| refusal(error, "making an inotify instance"));
        Self::with(inotify)
    }

    pub(super) fn with(inotify: Result<Inotify, String>) -> Self {
        Self {
            inotify,
            watches: HashMap::new(),
            by_key: HashMap::new(),
            sources: HashMap::new(),
            next: 0,
            looked: Instant::now(),
            refusals: Vec::new(),
        }
    }

    /// Readable when something may have changed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().ok().map(AsFd::as_fd)
    }

    /// What a process is followed by, as it is now.
    pub(super) fn ask(&mut self, process: &Process, kind: Kind, path: PathBuf) -> Result<Asked, String> {
        let (root, id) =
            process.root().map_err(|error| format!("its root directory cannot be opened: {error}"))?;
        let key = Key { root: id, path, kind };
        let source = if let Some(source) = self.by_key.get(&key) { *source } else { self.add(key, root) };
        Ok(Asked { source, generation: self.sources[&source].generation })
    }

    fn add(&mut self, key: Key, root: OwnedFd) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_key.insert(key.clone(), id);
        let source = Source {
            key,
            root,
            told: Err(String::new()),
            since: Since::Dated(None),
            unwatched: None,
            generation: 0,
            named: None,
        };
        self.sources.insert(id, source);
        self.follow(id);
        id
    }

    pub(super) fn get(&self, source: u32) -> Option<&Source> {
        self.sources.get(&source)
    }

    /// Whether the answer is still the same.
    pub(super) fn holds(&self, asked: Asked) -> bool {
        self.sources.get(&asked.source).is_some_and(|source| source.generation == asked.generation)
    }

    /// Follows every path anew that an event concerns, or that has no watch and is due. Whether an answer changed.
    pub(super) fn look(&mut self) -> bool {
        let mut concerned = self.events();
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            let unwatched = self.sources.iter().filter(|(_, source)| source.unwatched.is_some());
            concerned.extend(unwatched.map(|(id, _)| *id));
        }
        self.follow_all(concerned)
    }

    /// The same for all, whether there was an event or not.
    pub(super) fn look_at_all(&mut self) -> bool {
        let mut all = self.events();
        all.extend(self.sources.keys());
        self.follow_all(all)
    }

    fn follow_all(&mut self, sources: HashSet<u32>) -> bool {
        // Every one: `any` would stop at the first that changed.
        sources.into_iter().filter(|source| self.follow(*source)).count() > 0
    }

    /// Takes what waits; whom it concerns.
    fn events(&mut self) -> HashSet<u32> {
        let mut concerned = HashSet::new();
        let Ok(inotify) = &self.inotify else { return concerned };
        for _ in 0..MAX_READS {
            let Ok(events) = inotify.read_events() else { break };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    concerned.extend(self.sources.keys());
                }
                let Some(users) = self.watches.get(&event.wd) else { continue };
                // An event without a name is about the directory, or the file, itself.
                let meant = users
                    .iter()
                    .filter(|(_, name)| name.is_none() || event.name.is_none() || *name == event.name);
                concerned.extend(meant.map(|(source, _)| *source));
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watches.remove(&event.wd);
                }
            }
        }
        concerned
    }

    /// Whether the answer changed.
    fn follow(&mut self, id: u32) -> bool {
        let Some(mut source) = self.sources.remove(&id) else { return false };
        let mut trail = Trail::follow(source.root.as_fd(), &source.key.path);
        let mut told = read(&source.key, &trail);
        source.unwatched = None;
        for _ in 0..MAX_ROUNDS {
            match self.watch(id, source.key.kind, &trail) {
                Ok(true) => {
                    // What changed before the watch was there sent no event.
                    trail = Trail::follow(source.root.as_fd(), &source.key.path);
                    told = read(&source.key, &trail);
                }
                Ok(false) => break,
                Err(why) => {
                    if !self.refusals.contains(&why) {
                        self.refusals.push(why.clone());
                    }
                    source.unwatched = Some(why);
                    break;
                }
            }
        }
        let changed = source.generation == 0 || told != source.told;
        if changed {
            source.generation += 1;
            if let Ok((build, _)) = &told
                && source.named.as_ref() != Some(build)
            {
                source.since = if source.named.is_some() {
                    Since::Seen(Instant::now())
                } else {
                    Since::Dated(dated(source.key.kind, &trail))
                };
                source.named = Some(build.clone());
            }
            source.told = told;
        }
        self.sources.insert(id, source);
        changed
    }

    /// Watches the turns of a trail and nothing else for this source; whether a watch is new.
    fn watch(&mut self, id: u32, kind: Kind, trail: &Trail) -> Result<bool, String> {
        let inotify = self.inotify.as_ref().map_err(Clone::clone)?;
        let mut wanted = HashSet::new();
        for turn in &trail.turns {
            let watch = add(inotify, turn.directory.as_fd(), IN_DIRECTORY)?;
            wanted.insert((watch, Some(turn.name.clone())));
        }
        if let (Kind::File, Ok(file)) = (kind, &trail.end) {
            wanted.insert((add(inotify, file.as_fd(), IN_FILE)?, None));
        }
        let mut new = false;
        self.watches.retain(|watch, users| {
            users.retain(|(user, name)| *user != id || wanted.contains(&(*watch, name.clone())));
            // Refused when the kernel took it away with its directory: then that is done.
            let unused = users.is_empty() && !wanted.iter().any(|(wanted, _)| wanted == watch);
            if unused {
                let _ = inotify.rm_watch(*watch);
            }
            !unused
        });
        for (watch, name) in wanted {
            new |= self.watches.entry(watch).or_default().insert((id, name));
        }
        Ok(new)
    }

    /// Drops every source that is not in use.
    pub(super) fn keep(&mut self, in_use: impl Fn(u32) -> bool) {
        let unused: Vec<u32> = self.sources.keys().filter(|id| !in_use(**id)).copied().collect();
        for id in unused {
            self.sources.remove(&id);
            self.by_key.retain(|_, source| *source != id);
            let Ok(inotify) = &self.inotify else { continue };
            self.watches.retain(|watch, users| {
                users.retain(|(user, _)| *user != id);
                if users.is_empty() {
                    let _ = inotify.rm_watch(*watch);
                }
                !users.is_empty()
            });
        }
    }

    /// Why inotify was refused, each reason once.
    pub(super) fn take_refusals(&mut self, told: &mut HashSet<String>) -> Vec<String> {
        std::mem::take(&mut self.refusals).into_iter().filter(|why| told.insert(why.clone())).collect()
    }

    #[cfg(test)]
    pub(super) fn watch_count(&self) -> usize {
        self.watches.len()
    }
}

/// By the descriptor: the directory that was looked at, whatever has its name by now.
fn add(inotify: &Inotify, of: BorrowedFd<'_>, events: AddWatchFlags) -> Result<WatchDescriptor, String> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", of.as_raw_fd()));
    inotify.add_watch(&path, events).map_err(|error| refusal(error, "watching a directory"))
}

fn refusal(error: Errno, what: &str) -> String {
    let remedy = match error {
        Errno::ENOSPC => "raise fs.inotify.max_user_watches",
        Errno::EMFILE => "raise fs.inotify.max_user_instances, or the agent's limit of open files",
        _ => "see inotify(7)",
    };
    format!("{what} was refused: {}; {remedy}", error.desc())
}

/// The name of the build that is there.
fn read(key: &Key, trail: &Trail) -> Told {
    match key.kind {
        Kind::Symlink => {
            let name = build::link_name(&key.path, trail)?;
            match &trail.end {
                // A link of a chain may be gone for a moment: the one before it is no name of a build.
                Err(error) => Err(format!(
                    "{} leads to {}, which cannot be opened: {error}",
                    key.path.display(),
                    trail.targets.last().unwrap_or(&key.path).display()
                )),
                Ok(_) => Ok(name),
            }
        }
        Kind::File => match &trail.end {
            Err(error) => Err(format!("{} cannot be read: {error}", key.path.display())),
            Ok(file) => {
                let opened = File::options()
                    .read(true)
                    .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
                    .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
                build::file_name(opened, &key.path, &key.path.display().to_string())
            }
        },
    }
}

fn dated(kind: Kind, trail: &Trail) -> Option<i64> {
    let file = match (kind, &trail.end) {
        (Kind::File, Ok(file)) => {
            file.metadata().ok().map(|it| it.mtime() * 1000 + it.mtime_nsec() / 1_000_000)
        }
        _ => None,
    };
    trail.changed_unix_ms.max(file)
}
