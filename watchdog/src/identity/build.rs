//! Tells which build a process runs.
//!
//! `auto` asks, in this order, and takes the first that answers:
//! 1. an environment variable ([`AUTO_ENV`]): somebody wrote it for this purpose;
//! 2. a file in the working directory ([`AUTO_FILES`]), as Capistrano and others leave it;
//! 3. the directory below `releases/` that the working directory, else the program, lies in;
//! 4. the build-id of the program, unless it only hosts the application (an interpreter, uWSGI, ...).
//!
//! Nothing is guessed beyond that: a process whose build cannot be told is reported with what to do.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use procfs::Current;

use super::process::{FileId, Process, Program, file_id};
use super::trail::Trail;
use super::{command, elf};
use crate::clock;
use crate::config::BuildSource;
use crate::model::BuildId;
use crate::text;

/// Longest name of a build in bytes; what is longer is cut.
pub const MAX_BUILD_BYTES: usize = 128;

/// The variables that `auto` asks for, in this order.
pub const AUTO_ENV: [&str; 10] = [
    "LOAD_WATCHDOG_BUILD",
    "GIT_SHA",
    "GIT_COMMIT",
    "GIT_REVISION",
    "COMMIT_SHA",
    "REVISION",
    "SOURCE_VERSION",
    "SOURCE_COMMIT",
    "HEROKU_SLUG_COMMIT",
    "RENDER_GIT_COMMIT",
];
/// The files that `auto` looks for in the working directory, in this order.
pub const AUTO_FILES: [&str; 4] = ["REVISION", ".revision", "GIT_COMMIT", "BUILD_ID"];

const MAX_FILE_BYTES: u64 = 4096;
/// A command that failed is asked again after this time.
const RETRY_COMMAND: Duration = Duration::from_secs(30);
/// Start times are rounded down to a tick, and the kernel stamps files with the time of its last timer tick.
const CLOCK_SLACK_MS: i64 = 20;

/// Which source told the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildOrigin {
    Env(String),
    File(String),
    /// Name of the directory below `releases/`.
    ReleaseDirectory,
    Symlink,
    ProgramBuildId,
    Command,
}

impl fmt::Display for BuildOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(name) => write!(f, "file {name}"),
            Self::ReleaseDirectory => f.write_str("release directory"),
            Self::Symlink => f.write_str("symlink"),
            Self::ProgramBuildId => f.write_str("build-id of the program"),
            Self::Command => f.write_str("command"),
        }
    }
}

pub(super) type Told = Result<(BuildId, BuildOrigin), String>;

type CommandKey = (Vec<String>, Program, Option<FileId>);

/// What was asked before and cannot have changed.
#[derive(Debug, Default)]
pub(super) struct BuildCache {
    /// By device, inode and modification time of the program.
    programs: HashMap<(FileId, i64), Result<Option<String>, String>>,
    /// By command, program run and working directory: forks of one start share the answer, a restart asks again.
    commands: HashMap<CommandKey, (Instant, Told)>,
}

impl BuildCache {
    const MAX_ENTRIES: usize = 1024;

    /// `helper`: it is the child of a process of the service whose build is known, and runs another program.
    /// `per_request`: what in this process loads the application's code at each request.
    pub(super) fn tell(
        &mut self,
        process: &Process,
        source: &BuildSource,
        helper: bool,
        per_request: Option<&str>,
    ) -> Told {
        match source {
            BuildSource::Auto => self.auto(process, helper, per_request),
            BuildSource::Env(name) => env(process, &[name])?.ok_or_else(|| {
                format!(
                    "its environment has no {name}; set it where the service is started (some servers overwrite \
                     their environment with a title: use {{ file = .. }} for those)"
                )
            }),
            BuildSource::File { path, .. } => file(process, path).map_err(|error| {
                format!("{error}; write the build's name into it at each deploy, and keep the releases of running processes")
            }),
            BuildSource::Symlink { path, .. } => symlink(process, path),
            BuildSource::BuildId => self.program(process),
            BuildSource::Command(argv) => self.command(process, argv),
            BuildSource::Image | BuildSource::Marker => {
                Err("this source of the build is not available yet in this version".to_owned())
            }
        }
    }

    fn auto(&mut self, process: &Process, helper: bool, per_request: Option<&str>) -> Told {
        if let Some(told) = env(process, &AUTO_ENV)? {
            return Ok(told);
        }
        // Its working directory is that of the request under way.
        if let Some(runtime) = per_request {
            return Err(format!(
                "{runtime} loads the application's code at each request, so that neither its program nor its working \
                 directory tells the build; name what deploys change, with build = {{ symlink = .. }} or \
                 {{ file = .. }} and an absolute path",
            ));
        }
        for name in AUTO_FILES {
            if let Ok(told) = file(process, Path::new(name)) {
                return Ok(told);
            }
        }
        let (cwd, deleted) = process.cwd().map_err(|error| error.to_string())?;
        let exe = process.exe().map_err(|error| error.to_string())?;
        if let Some(name) = release_name(&cwd).or_else(|| release_name(&exe)) {
            return Ok((name, BuildOrigin::ReleaseDirectory));
        }
        let why = if elf::is_host(&exe) {
            format!("{} only hosts the application", exe.display())
        } else if helper {
            "it is a helper of the service".to_owned()
        } else {
            match self.program(process) {
                Ok(told) => return Ok(told),
                Err(error) => error,
            }
        };
        let deleted = if deleted { " (deleted)" } else { "" };
        Err(format!(
            "no variable such as {}, no file {} in its working directory {}{deleted}, no releases/NAME directory, and {why}; \
             set GIT_SHA where the service is started, write REVISION at each deploy, or name a source with build = {{ .. }}",
            AUTO_ENV[1],
            AUTO_FILES[0],
            cwd.display(),
        ))
    }

    fn program(&mut self, process: &Process) -> Told {
        let path = process.path("exe");
        let metadata =
            std::fs::metadata(&path).map_err(|error| format!("its program cannot be read: {error}"))?;
        self.limit();
        let key = ((metadata.dev(), metadata.ino()), metadata.mtime_nsec() ^ (metadata.mtime() << 30));
        let id = self.programs.entry(key).or_insert_with(|| elf::build_id(&path));
        match id {
            Ok(Some(id)) => named(id.as_bytes(), BuildOrigin::ProgramBuildId)
                .ok_or_else(|| "its program has an empty build-id".to_owned()),
            Ok(None) => Err("its program has no build-id; link it with --build-id".to_owned()),
            Err(error) => Err(format!("its program cannot be read: {error}")),
        }
    }

    fn command(&mut self, process: &Process, argv: &[String]) -> Told {
        self.limit();
        let key = (argv.to_vec(), process.program, process.cwd_id());
        if let Some((asked, told)) = self.commands.get(&key)
            && (told.is_ok() || asked.elapsed() < RETRY_COMMAND)
        {
            return told.clone();
        }
        let told = command::ask(argv, process, command::TIMEOUT)
            .map_err(|error| format!("{error}; run it by hand in the process's working directory"))
            .and_then(|output| {
                named(output.as_bytes(), BuildOrigin::Command)
                    .ok_or_else(|| format!("{} printed nothing on its first line", argv[0]))
            });
        self.commands.insert(key, (Instant::now(), told.clone()));
        told
    }

    fn limit(&mut self) {
        if self.programs.len() >= Self::MAX_ENTRIES {
            self.programs.clear();
        }
        if self.commands.len() >= Self::MAX_ENTRIES {
            self.commands.clear();
        }
    }
}

/// First line, trimmed, without what a terminal obeys, bounded; `None` when nothing is left.
fn named(text: &[u8], origin: BuildOrigin) -> Option<(BuildId, BuildOrigin)> {
    let text = String::from_utf8_lossy(text);
    let line: String = text.trim().lines().next()?.chars().filter(|c| text::is_plain(*c)).collect();
    let line = line.trim();
    let name = line[..line.floor_char_boundary(MAX_BUILD_BYTES)].trim_end();
    (!name.is_empty()).then(|| (BuildId::from(name), origin))
}

fn env(process: &Process, names: &[&str]) -> Result<Option<(BuildId, BuildOrigin)>, String> {
    let found = process.env(names).map_err(|error| error.to_string())?;
    Ok(found.and_then(|(name, value)| named(value.as_bytes(), BuildOrigin::Env(name))))
}

fn file(process: &Process, path: &Path) -> Told {
    let (cwd, deleted) = process.cwd().unwrap_or_default();
    let mark = if deleted { " (its directory was deleted)" } else { "" };
    let opened = process.open_file(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY);
    file_name(opened, path, &format!("{}{mark}", cwd.join(path).display()))
}

/// The first line of a file; `shown` is its name in messages.
pub(super) fn file_name(opened: std::io::Result<File>, path: &Path, shown: &str) -> Told {
    let mut bytes = Vec::new();
    opened
        .and_then(|file| {
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)
        })
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    named(&bytes, BuildOrigin::File(path.display().to_string())).ok_or_else(|| format!("{shown} is empty"))
}

/// The component behind the last `releases` of a path.
fn release_name(path: &Path) -> Option<BuildId> {
    let mut names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut found = None;
    while let Some(name) = names.next() {
        if name == "releases" {
            found = names.next();
        }
    }
    Some(named(found?.as_bytes(), BuildOrigin::ReleaseDirectory)?.0)
}

/// For a process that keeps the build that it was started with.
fn symlink(process: &Process, path: &Path) -> Told {
    let (root, _) =
        process.root().map_err(|error| format!("its root directory cannot be opened: {error}"))?;
    let trail = Trail::follow(root.as_fd(), path);
    let name = link_name(path, &trail)?;
    let started = started_unix_ms(process.start_time)?;
    if trail.changed_unix_ms.zip(started).is_some_and(|(changed, start)| changed > start + CLOCK_SLACK_MS) {
        return Err(format!(
            "{} was changed after the process had started, so that its target says nothing about it; restart the \
             process, or say in_place = true if it serves the new release without a restart",
            path.display()
        ));
    }
    Ok(name)
}

/// The release that a symlink names: of the last link in its chain, what follows `releases`, else the target's name.
pub(super) fn link_name(path: &Path, trail: &Trail) -> Told {
    let shown = path.display();
    let Some(last) = trail.targets.last() else {
        return Err(match &trail.end {
            Ok(_) => format!("{shown} is no symlink; name the symlink that deploys flip"),
            Err(error) => {
                format!("{shown} cannot be read: {error}; it must be a symlink to the release in use")
            }
        });
    };
    let own_name = || match last.components().next_back()? {
        Component::Normal(name) => named(name.as_bytes(), BuildOrigin::Symlink),
        _ => None,
    };
    release_name(last)
        .map(|name| (name, BuildOrigin::Symlink))
        .or_else(own_name)
        .ok_or_else(|| format!("the target of {shown} ({}) has no name of its own", last.display()))
}

/// When a process started, by the wall clock.
fn started_unix_ms(start_time: u64) -> Result<Option<i64>, String> {
    let uptime =
        procfs::Uptime::current().map_err(|error| format!("/proc/uptime cannot be read: {error}"))?;
    #[expect(clippy::cast_possible_truncation, reason = "an uptime in milliseconds is far below 2^53")]
    let uptime_ms = (uptime.uptime * 1000.0) as i64;
    let start_ms = i64::try_from(start_time * 1000 / procfs::ticks_per_second()).ok();
    Ok(start_ms.map(|start_ms| clock::unix_ms() - uptime_ms + start_ms))
}

/// Whether a process runs another program than its parent in the service: a helper, such as `git` below a server.
pub(super) fn is_helper(process: &Process, parent: &Process) -> bool {
    let same_file = file_id(&process.path("exe")) == file_id(&parent.path("exe"));
    let name = |process: &Process| process.exe().ok().and_then(|exe| exe.file_name().map(ToOwned::to_owned));
    !same_file && name(process) != name(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_first_lines_without_control_characters() {
        let name =
            |text: &str| named(text.as_bytes(), BuildOrigin::Symlink).map(|(name, _)| String::from(name));
        assert_eq!(name("  3f2a9c \nsecond\n").as_deref(), Some("3f2a9c"));
        assert_eq!(name("\n\nv1\x1b[31m\x07\r\n").as_deref(), Some("v1[31m"));
        assert_eq!(name(" \n \n"), None);
        assert_eq!(name(&"é".repeat(100)).unwrap().len(), MAX_BUILD_BYTES);
        assert_eq!(name(&format!("a{}", "é".repeat(100))).unwrap().len(), MAX_BUILD_BYTES - 1);
    }

    #[test]
    fn the_release_is_what_follows_the_last_releases_directory() {
        let name = |path: &str| release_name(Path::new(path)).map(String::from);
        assert_eq!(name("/srv/web/releases/20170127/app").as_deref(), Some("20170127"));
        assert_eq!(name("releases/42").as_deref(), Some("42"));
        assert_eq!(name("/releases/1/releases/2").as_deref(), Some("2"));
        assert_eq!(name("/srv/releases"), None);
        assert_eq!(name("/srv/web/current"), None);
    }
}
