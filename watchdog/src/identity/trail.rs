//! Follows a path as a process sees it, step by step, and keeps each directory in which a change would lead it elsewhere.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where a path led at one moment.
#[derive(Debug)]
pub(super) struct Trail {
    /// Where the way depends on a name: every symlink, the last component, and what was missing.
    pub(super) turns: Vec<Turn>,
    /// The targets of the links that the path itself is, in turn: `current` -> `stable` -> `releases/42`. A target
    /// beside a link in a directory `releases` has that name before it.
    pub(super) targets: Vec<PathBuf>,
    /// When a symlink on the way was changed last, milliseconds since 1970.
    pub(super) changed_unix_ms: Option<i64>,
    /// What is there (opened with `O_PATH`).
    pub(super) end: io::Result<File>,
}

/// A name in a directory, whatever the directory is called.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: OsString,
}

/// A directory on the way, and the name under which it was reached.
#[derive(Clone)]
struct Place {
    directory: Arc<OwnedFd>,
    name: OsString,
}

#[derive(Debug)]
enum Step {
    Up,
    Into(OsString),
}

impl Trail {
    /// `path` is absolute; neither `..` nor a link leaves `root`.
    pub(super) fn follow(root: BorrowedFd<'_>, path: &Path) -> Self {
        let mut trail = Self {
            turns: Vec::new(),
            targets: Vec::new(),
            changed_unix_ms: None,
            end: Err(Errno::ENOENT.into()),
        };
        trail.end = trail.walk(root, path);
        trail
    }

    fn walk(&mut self, root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
        let root = Place { directory: Arc::new(root.try_clone_to_owned()?), name: OsString::new() };
        let mut places = vec![root];
        let mut ahead: VecDeque<Step> = steps(path);
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            let name = match step {
                Step::Up => {
                    places.truncate((places.len() - 1).max(1));
                    continue;
                }
                Step::Into(name) => name,
            };
            let Place { directory, name: parent } = places.last().expect("the root stays").clone();
            let turn = Turn { directory: Arc::clone(&directory), name: name.clone() };
            let opened = openat(
                directory.as_fd(),
                name.as_os_str(),
                OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            );
            let found = match opened {
                Ok(found) => File::from(found),
                Err(error) => {
                    self.turns.push(turn);
                    return Err(error.into());
                }
            };
            let metadata = found.metadata()?;
            if metadata.is_symlink() {
                self.turns.push(turn);
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let changed = metadata.ctime() * 1000 + metadata.ctime_nsec() / 1_000_000;
                self.changed_unix_ms = self.changed_unix_ms.max(Some(changed));
                let target = PathBuf::from(readlinkat(found.as_fd(), "")?);
                if target.is_absolute() {
                    places.truncate(1);
                }
                if ahead.is_empty() {
                    let beside =
                        parent == OsStr::new("releases") && target.file_name() == Some(target.as_os_str());
                    self.targets.push(if beside { Path::new(&parent).join(&target) } else { target.clone() });
                }
                for step in steps(&target).into_iter().rev() {
                    ahead.push_front(step);
                }
            } else if ahead.is_empty() {
                self.turns.push(turn);
                return Ok(found);
            } else {
                places.push(Place { directory: Arc::new(found.into()), name });
            }
        }
        // The path, or a link, ends in `/` or `..`.
        let Place { directory, .. } = places.pop().expect("the root stays");
        Ok(File::from(directory.try_clone()?))
    }
}

fn steps(path: &Path) -> VecDeque<Step> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Step::Into(name.to_owned())),
            Component::ParentDir => Some(Step::Up),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// `/srv/web/releases/{41,42}` in a root of its own.
    fn root() -> (TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["41", "42"] {
            fs::create_dir_all(folder.path().join("srv/web/releases").join(name)).unwrap();
        }
        let root = File::open(folder.path()).unwrap();
        (folder, root)
    }

    fn names(trail: &Trail) -> Vec<&str> {
        trail.turns.iter().map(|turn| turn.name.to_str().unwrap()).collect()
    }

    fn targets(trail: &Trail) -> Vec<&str> {
        trail.targets.iter().map(|target| target.to_str().unwrap()).collect()
    }

    #[test]
    fn relative_absolute_and_chained_links_lead_to_the_end_inside_the_root() {
        let (folder, root) = root();
        let web = folder.path().join("srv/web");
        symlink("releases/41", web.join("relative")).unwrap();
        symlink("/srv/web/releases/41", web.join("absolute")).unwrap();
        symlink("stable", web.join("chained")).unwrap();
        symlink("../web/relative", web.join("stable")).unwrap();
        symlink("42", web.join("releases/newest")).unwrap();
        symlink("releases/newest", web.join("beside")).unwrap();
        symlink("../../../../../srv/web/releases/42", web.join("upward")).unwrap();
        let expected: [(&str, &[&str], &[&str]); 5] = [
            ("relative", &["relative", "41"], &["releases/41"]),
            ("absolute", &["absolute", "41"], &["/srv/web/releases/41"]),
            (
                "chained",
                &["chained", "stable", "relative", "41"],
                &["stable", "../web/relative", "releases/41"],
            ),
            ("beside", &["beside", "newest", "42"], &["releases/newest", "releases/42"]),
            ("upward", &["upward", "42"], &["../../../../../srv/web/releases/42"]),
        ];
        for (link, turns, leads) in expected {
            let trail = Trail::follow(root.as_fd(), &Path::new("/srv/web").join(link));
            assert_eq!((names(&trail).as_slice(), targets(&trail).as_slice()), (turns, leads), "{link}");
            let end = trail.end.unwrap().metadata().unwrap();
            let release = if leads.last().unwrap().ends_with('1') { "releases/41" } else { "releases/42" };
            assert_eq!(end.ino(), fs::metadata(web.join(release)).unwrap().ino(), "{link}");
            assert!(trail.changed_unix_ms.is_some());
        }
    }

    #[test]
    fn a_link_among_the_directories_is_a_turn_and_no_target() {
        let (folder, root) = root();
        symlink("web", folder.path().join("srv/app")).unwrap();
        fs::write(folder.path().join("srv/web/releases/41/REVISION"), "a").unwrap();
        let trail = Trail::follow(root.as_fd(), Path::new("/srv/app/releases/41/REVISION"));
        assert_eq!((names(&trail), targets(&trail)), (vec!["app", "REVISION"], vec![]));
        assert!(trail.end.unwrap().metadata().unwrap().is_file());
    }

    #[test]
    fn what_is_missing_is_a_turn_to_wait_at() {
        let (folder, root) = root();
        let trail = Trail::follow(root.as_fd(), Path::new("/srv/other/current"));
        assert_eq!(names(&trail), ["other"]);
        assert_eq!(trail.end.unwrap_err().raw_os_error(), Some(nix::libc::ENOENT));
        symlink("releases/43", folder.path().join("srv/web/current")).unwrap();
        let trail = Trail::follow(root.as_fd(), Path::new("/srv/web/current"));
        assert_eq!((names(&trail), targets(&trail)), (vec!["current", "43"], vec!["releases/43"]));
        assert!(trail.end.is_err());
        symlink("a", folder.path().join("b")).unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        let trail = Trail::follow(root.as_fd(), Path::new("/a"));
        assert_eq!(trail.end.unwrap_err().raw_os_error(), Some(nix::libc::ELOOP));
    }
}
