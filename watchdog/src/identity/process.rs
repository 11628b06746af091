//! What `/proc` says about one process.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use procfs::process::Stat;
use procfs::{ProcError, ProcResult, ProcessCGroup};

use super::IdentityError;

/// `PF_KTHREAD` of the kernel's `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;
/// Longest command line that is looked at.
const MAX_CMDLINE_BYTES: u64 = 64 << 10;
const MAX_MAPS_BYTES: u64 = 4 << 20;
const DELETED: &[u8] = b" (deleted)";

/// One program run by one process: changes with every `exec`, and is shared by a parent and the children that it forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Program {
    code: u64,
    pub(super) stack: u64,
}

/// Device and inode of a directory or program.
pub(super) type FileId = (u64, u64);

/// A root directory in a mount namespace: a path leads processes with the same one to the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RootId {
    mounts: u64,
    directory: FileId,
}

/// A process as it is now. The pid is only a name: `start_time` tells whether it is still the same process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// Clock ticks since boot.
    pub(super) start_time: u64,
    pub(super) program: Program,
    proc: procfs::process::Process,
}

impl Process {
    /// `None` when there is no such process, or it has ended, or it belongs to the kernel.
    pub(super) fn open(pid: u32) -> Result<Option<Self>, IdentityError> {
        let Ok(number) = i32::try_from(pid) else { return Ok(None) };
        let opened =
            procfs::process::Process::new(number).and_then(|proc| proc.stat().map(|stat| (proc, stat)));
        match opened {
            Ok((proc, stat)) => Ok(Self::alive(pid, proc, &stat)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(IdentityError::new(pid, "stat", &error)),
        }
    }

    fn alive(pid: u32, proc: procfs::process::Process, stat: &Stat) -> Option<Self> {
        if matches!(stat.state, 'Z' | 'X' | 'x') || stat.flags & PF_KTHREAD != 0 {
            return None;
        }
        Some(Self {
            pid,
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            start_time: stat.starttime,
            program: Program { code: stat.startcode, stack: stat.startstack },
            proc,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Arguments joined by single spaces.
    pub(super) fn cmdline(&self) -> Result<String, IdentityError> {
        let mut bytes = Vec::new();
        self.proc
            .open_relative("cmdline")
            .and_then(|file| Ok(file.take(MAX_CMDLINE_BYTES).read_to_end(&mut bytes)?))
            .map_err(|error| IdentityError::new(self.pid, "cmdline", &error))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches('\0').replace('\0', " "))
    }

    /// The program's path as its own mount namespace names it, without the mark of a replaced file.
    pub(super) fn exe(&self) -> Result<PathBuf, IdentityError> {
        self.proc
            .exe()
            .map(|path| undeleted(path).0)
            .map_err(|error| IdentityError::new(self.pid, "exe", &error))
    }

    /// The working directory's path, and whether it was deleted.
    pub(super) fn cwd(&self) -> Result<(PathBuf, bool), IdentityError> {
        self.proc.cwd().map(undeleted).map_err(|error| IdentityError::new(self.pid, "cwd", &error))
    }

    /// Identity of the working directory itself, whatever its name is now.
    pub(super) fn cwd_id(&self) -> Option<FileId> {
        file_id(&self.path("cwd"))
    }

    /// What is mapped into it, as the kernel lists it.
    pub(super) fn maps(&self) -> std::io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.path("maps"))?.take(MAX_MAPS_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its root directory, and what tells it from the roots that other processes see.
    pub(super) fn root(&self) -> std::io::Result<(OwnedFd, RootId)> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(&self.path("root"), flags, nix::sys::stat::Mode::empty())?;
        let mounts = std::fs::metadata(self.path("ns/mnt"))?.ino();
        let directory = File::from(root.try_clone()?).metadata()?;
        Ok((root, RootId { mounts, directory: (directory.dev(), directory.ino()) }))
    }

    /// A path as the process would open it, from its own root.
    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf, IdentityError> {
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        let (cwd, _) = self.cwd()?;
        // The kernel names directories from the reader's root; a changed root is a part of the name.
        let root = self.proc.root().unwrap_or_else(|_| PathBuf::from("/"));
        Ok(Path::new("/").join(cwd.strip_prefix(&root).unwrap_or(&cwd)).join(path))
    }

    /// A variable of the environment that the program was started with.
    pub(super) fn env(&self, names: &[&str]) -> Result<Option<(String, OsString)>, IdentityError> {
        let environment =
            self.proc.environ().map_err(|error| IdentityError::new(self.pid, "environ", &error))?;
        Ok(names.iter().find_map(|name| {
            let value = environment.get(std::ffi::OsStr::new(name))?;
            (!value.is_empty()).then(|| ((*name).to_owned(), value.clone()))
        }))
    }

    pub(super) fn cgroups(&self) -> Result<Vec<ProcessCGroup>, IdentityError> {
        self.proc
            .cgroups()
            .map(|groups| groups.0)
            .map_err(|error| IdentityError::new(self.pid, "cgroup", &error))
    }

    pub(super) fn read_net<T>(
        &self,
        read: impl FnOnce(&procfs::process::Process) -> ProcResult<T>,
    ) -> Option<T> {
        read(&self.proc).ok()
    }

    /// Inodes of the sockets that it holds.
    pub(super) fn sockets(&self) -> Result<Vec<u64>, IdentityError> {
        let io = |error: std::io::Error| IdentityError::new(self.pid, "fd", &ProcError::Io(error, None));
        let mut inodes = Vec::new();
        for entry in std::fs::read_dir(self.path("fd")).map_err(io)? {
            // A descriptor that was closed meanwhile is no socket of it any more.
            let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            inodes.extend(inode);
        }
        Ok(inodes)
    }

    /// Opens a file as the process itself would: relative to its working directory, inside its root.
    pub(super) fn open_file(&self, path: &Path, flags: OFlag) -> std::io::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC;
        if path.is_relative() {
            // By the directory itself: its name may be gone, or name another release by now.
            match self.open_at("cwd", path, flags, ResolveFlag::RESOLVE_BENEATH) {
                // A link that leads out of the directory: only names can be followed.
                Err(Errno::EXDEV) => {}
                result => return Ok(File::from(result?)),
            }
            let path = self.absolute(path).map_err(|error| std::io::Error::other(error.to_string()))?;
            return self.open_file(&path, flags);
        }
        let inside = path.strip_prefix("/").unwrap_or(path);
        Ok(File::from(self.open_at("root", inside, flags, ResolveFlag::RESOLVE_IN_ROOT)?))
    }

    fn open_at(&self, base: &str, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let directory = nix::fcntl::open(
            &self.path(base),
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )?;
        let how = OpenHow::new().flags(flags).resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&directory, path, how)
    }
}

pub(super) fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

pub(super) fn is_gone(error: &ProcError) -> bool {
    match error {
        ProcError::NotFound(_) => true,
        // Open files of a process that has ended answer the one, their names the other.
        ProcError::Io(error, _) => {
            matches!(error.raw_os_error(), Some(nix::libc::ESRCH | nix::libc::ENOENT))
        }
        _ => false,
    }
}

fn undeleted(path: PathBuf) -> (PathBuf, bool) {
    let bytes = path.as_os_str().as_bytes();
    match bytes.strip_suffix(DELETED) {
        Some(name) => (PathBuf::from(OsString::from_vec(name.to_vec())), true),
        None => (path, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_deleted_file_is_told_from_its_name() {
        assert_eq!(undeleted("/srv/a (deleted)".into()), ("/srv/a".into(), true));
        assert_eq!(undeleted("/srv/a(deleted)".into()), ("/srv/a(deleted)".into(), false));
    }

    #[test]
    fn a_process_that_ends_while_it_is_read_is_gone_and_no_fault() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert!(process.sockets().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        let errors =
            [process.sockets().unwrap_err(), process.cmdline().unwrap_err(), process.exe().unwrap_err()];
        assert!(errors.iter().all(|error| error.gone), "{errors:?}");
    }

    #[test]
    fn this_process() {
        let me = Process::open(std::process::id()).unwrap().unwrap();
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert!(me.start_time > 0 && me.program.code > 0 && me.program.stack > 0);
        assert_eq!(me.exe().unwrap(), std::env::current_exe().unwrap());
        assert_eq!(me.cwd().unwrap(), (std::env::current_dir().unwrap(), false));
        assert!(Process::open(2).unwrap().is_none(), "a kernel thread is no service");
        assert!(Process::open(u32::MAX).unwrap().is_none());
    }
}
