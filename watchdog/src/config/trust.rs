//! Who may change a file that decides what the agent runs: root, the agent's own user and, for a hook's program, the
//! user that it runs as. Nobody else may write the file, any directory on the way to it, or a link in between.
//!
//! When that holds, nobody else can exchange the file between the check and its use either. A directory with the
//! sticky bit, such as /tmp, may be writable: what others own in it, they cannot move away. The bits that POSIX access
//! lists grant at most are the group's in `st_mode`, so lists are covered too.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

use super::error::Fault;
use super::{ConfigError, ConfigErrors, ExecConfig, HookCall, ServiceConfig};

const OTHERS_WRITE: u32 = 0o022;
const OTHERS_ANYTHING: u32 = 0o077;
const STICKY: u32 = 0o1000;
/// As the kernel's own limit.
const MAX_LINKS: u32 = 40;
/// A key is some 32 bytes; a larger file is something else.
const MAX_SECRET_BYTES: u64 = 4096;

/// Programs that run the script in their first argument.
const INTERPRETERS: [&str; 11] =
    ["sh", "bash", "dash", "zsh", "ksh", "busybox", "env", "perl", "python", "ruby", "node"];

/// Why a file is not used.
#[derive(Debug)]
pub(crate) enum Distrust {
    /// It cannot be looked at: missing, or hidden from this user.
    Unseen { path: PathBuf, error: io::Error },
    /// Somebody may change (or read) it who must not.
    Open(Fault),
}

impl Distrust {
    fn open(problem: String, remedy: impl Into<String>) -> Self {
        Self::Open(Fault::new(problem, remedy))
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Open(fault) => write!(f, "{}; {}", fault.problem, fault.remedy),
        }
    }
}

/// The program of a hook that runs as `user` (`None`: as the agent), and its script where the program is an
/// interpreter. A program without a path is not looked for: the configuration refuses it.
pub(crate) fn program(argv: &[String], user: Option<Uid>) -> Result<(), Distrust> {
    let mut owners = own();
    owners.extend(user);
    let mut files = argv.iter().take(1).chain(script(argv)).filter(|file| file.starts_with('/'));
    files.try_for_each(|file| regular(Path::new(file), &owners).map(drop))
}

/// The script that an interpreter reads: its first argument that is no option.
fn script(argv: &[String]) -> Option<&String> {
    let (program, arguments) = argv.split_first()?;
    let name = program.rsplit('/').next().unwrap_or_default();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let interprets = INTERPRETERS.contains(&name);
    // Behind -c comes a text, not a file.
    let file = arguments.iter().find(|argument| !argument.starts_with('-') || argument.ends_with('c'))?;
    (interprets && !file.starts_with('-')).then_some(file)
}

/// A file that nobody else may change.
pub(crate) fn settings(path: &Path) -> Result<(), Distrust> {
    regular(path, &own()).map(drop)
}

/// The content of a file that nobody else may read or change.
pub(crate) fn secret(path: &Path) -> Result<Vec<u8>, Distrust> {
    let length = private(path)?.len();
    if length > MAX_SECRET_BYTES {
        return Err(Distrust::open(
            format!("{} has {length} bytes", path.display()),
            format!("put nothing but the key into it, at most {MAX_SECRET_BYTES} bytes"),
        ));
    }
    fs::read(path).map_err(|error| Distrust::Unseen { path: path.to_owned(), error })
}

fn private(path: &Path) -> Result<Metadata, Distrust> {
    let metadata = regular(path, &own())?;
    if metadata.mode() & OTHERS_ANYTHING != 0 {
        let path = path.display();
        return Err(Distrust::open(
            format!("{path} holds a secret, and others than its owner may read it"),
            format!("chmod 600 {path}, and change the secret if anybody may have read it"),
        ));
    }
    Ok(metadata)
}

pub(super) fn config_file(path: &Path) -> Result<(), Fault> {
    match check(path, &own()) {
        Err(Distrust::Open(fault)) => Err(fault),
        // Reading it says why it cannot be.
        Ok(_) | Err(Distrust::Unseen { .. }) => Ok(()),
    }
}

/// Looks at every file that a hook of these services needs: refused are those that others may change; those that
/// cannot be seen, by this user or yet, are warned of, as they are looked at again before each run.
pub(super) fn hooks(services: &[ServiceConfig], file: &str) -> Result<Vec<String>, ConfigErrors> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    let rollbacks = services.iter().filter_map(|service| Some((service, service.rollback.as_ref()?)));
    for (service, rollback) in rollbacks {
        for (place, hook) in rollback.hooks() {
            let place = format!("service[{}].{place}", service.name);
            let mut report = |key: &str, seen: Result<(), Distrust>| match seen {
                Ok(()) => {}
                Err(Distrust::Open(fault)) => errors.push(ConfigError {
                    file: file.to_owned(),
                    position: None,
                    key: format!("{place}.{key}"),
                    problem: fault.problem,
                    remedy: fault.remedy,
                }),
                Err(unseen @ Distrust::Unseen { .. }) => {
                    warnings.push(format!("{file}: {place}.{key}: the hook cannot run as it is: {unseen}"));
                }
            };
            match &hook.call {
                HookCall::Exec(exec) => match user(exec) {
                    Ok(user) => report("exec", program(&exec.argv, user)),
                    Err(why) => warnings.push(format!("{file}: {place}.user: {why}")),
                },
                HookCall::Webhook(webhook) => {
                    report("webhook.secret_file", private(&webhook.secret_file).map(drop));
                    if let Some(ca_file) = &webhook.ca_file {
                        report("webhook.ca_file", settings(ca_file));
                    }
                }
            }
        }
    }
    if errors.is_empty() { Ok(warnings) } else { Err(errors.into()) }
}

fn user(exec: &ExecConfig) -> Result<Option<Uid>, String> {
    let Some(name) = &exec.user else { return Ok(None) };
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Some(user.uid)),
        Ok(None) => Err(format!("there is no user {name:?} on this host, so the hook cannot run as it is")),
        Err(errno) => Err(format!("user {name:?} cannot be looked up: {errno}")),
    }
}

/// Root, and whoever the agent is.
fn own() -> Vec<Uid> {
    vec![Uid::from_raw(0), geteuid()]
}

/// Follows the path one component after the other, as the kernel does, and looks at each. Returns what the file is.
fn check(path: &Path, owners: &[Uid]) -> Result<Metadata, Distrust> {
    let unseen = |path: &Path, error| Distrust::Unseen { path: path.to_owned(), error };
    let absolute = std::path::absolute(path).map_err(|error| unseen(path, error))?;
    let mut at = PathBuf::from("/");
    let mut metadata = fs::symlink_metadata(&at).map_err(|error| unseen(&at, error))?;
    judge(&at, &metadata, owners)?;
    let mut rest = parts(&absolute);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            metadata = fs::symlink_metadata(&at).map_err(|error| unseen(&at, error))?;
            continue;
        }
        let next = at.join(&part);
        metadata = fs::symlink_metadata(&next).map_err(|error| unseen(&next, error))?;
        judge(&next, &metadata, owners)?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(unseen(path, io::Error::from_raw_os_error(nix::libc::ELOOP)));
            }
            let target = fs::read_link(&next).map_err(|error| unseen(&next, error))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        } else {
            at = next;
        }
    }
    Ok(metadata)
}

fn regular(path: &Path, owners: &[Uid]) -> Result<Metadata, Distrust> {
    let metadata = check(path, owners)?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
    Err(Distrust::open(format!("{} is {kind}", path.display()), "name the file itself"))
}

/// The components to follow, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

fn judge(path: &Path, metadata: &Metadata, owners: &[Uid]) -> Result<(), Distrust> {
    let owner = Uid::from_raw(metadata.uid());
    let path = path.display();
    if !owners.contains(&owner) {
        let name = |uid: &Uid| {
            let user = User::from_uid(*uid).ok().flatten();
            user.map_or_else(|| format!("user {uid}"), |user| user.name)
        };
        let mut allowed: Vec<String> = owners.iter().map(name).collect();
        allowed.dedup();
        return Err(Distrust::open(
            format!("{path} belongs to {}, who thereby chooses what the agent runs", name(&owner)),
            format!("chown it to {}, or use a file in a place of theirs", allowed.join(" or ")),
        ));
    }
    let sticky_directory = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if !metadata.is_symlink() && metadata.mode() & OTHERS_WRITE != 0 && !sticky_directory {
        return Err(Distrust::open(
            format!("{path} may be written by others than its owner, who thereby choose what the agent runs"),
            format!("chmod go-w {path}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use tempfile::TempDir;

    use super::*;

    /// A folder in which `bin/hook` is as it should be.
    fn folder() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let hook = folder.path().join("bin/hook");
        fs::write(&hook, "#!/bin/sh\n").unwrap();
        set(&hook, 0o755);
        set(&folder.path().join("bin"), 0o755);
        (folder, hook)
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn says(result: Result<(), Distrust>, words: &str) {
        let said = result.map_or_else(|why| why.to_string(), |()| "trusted".to_owned());
        assert!(said.contains(words), "{said} instead of {words}");
    }

    fn runs(path: &Path) -> Result<(), Distrust> {
        program(&[path.to_str().unwrap().to_owned()], None)
    }

    #[test]
    fn a_file_that_others_may_write_is_refused_and_so_is_its_folder() {
        let (folder, hook) = folder();
        says(runs(&hook), "trusted");
        let bin = folder.path().join("bin");
        for mode in [0o775, 0o757, 0o722] {
            set(&hook, mode);
            says(runs(&hook), "bin/hook may be written by others");
            set(&hook, 0o755);
            set(&bin, mode);
            says(runs(&hook), "bin may be written by others");
            set(&bin, 0o755);
        }
        set(&bin, 0o1777);
        says(runs(&hook), "trusted");
    }

    #[test]
    fn links_are_followed_through_folders_that_others_may_write() {
        let (folder, hook) = folder();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        set(&open, 0o777);
        symlink(&hook, open.join("link")).unwrap();
        says(runs(&open.join("link")), "open may be written by others");

        let link = folder.path().join("link");
        symlink("bin/../bin/hook", &link).unwrap();
        says(runs(&link), "trusted");
        let around = folder.path().join("around");
        symlink("open/link", &around).unwrap();
        says(runs(&around), "open may be written by others");
        let turning = folder.path().join("turning");
        symlink("turning", &turning).unwrap();
        says(runs(&turning), "symbolic links");
    }

    #[test]
    fn files_of_strangers_are_refused() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files away");
            return;
        }
        let (folder, hook) = folder();
        let stranger = Uid::from_raw(65_534);
        chown(&hook, Some(stranger.as_raw()), None).unwrap();
        says(runs(&hook), "who thereby chooses");
        let argv = [hook.to_str().unwrap().to_owned()];
        says(program(&argv, Some(stranger)), "trusted");
        says(settings(&hook), "chown it to root");
        chown(&hook, Some(0), None).unwrap();
        chown(folder.path().join("bin"), Some(stranger.as_raw()), None).unwrap();
        says(runs(&hook), "bin belongs to");
    }

    #[test]
    fn the_script_of_an_interpreter_counts_as_the_program() {
        let (_folder, hook) = folder();
        let path = hook.to_str().unwrap();
        let run =
            |argv: &[&str]| program(&argv.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), None);
        set(&hook, 0o777);
        for argv in [&["/bin/sh", path][..], &["/bin/sh", "-e", path], &["/usr/bin/env", path]] {
            says(run(argv), "bin/hook may be written by others");
        }
        says(run(&["/bin/sh", "-c", path]), "trusted");
        says(run(&["/bin/cat", path]), "trusted");
        says(run(&["hook"]), "trusted");
    }

    #[test]
    fn what_is_missing_is_not_called_open() {
        let (folder, _) = folder();
        let missing = runs(&folder.path().join("absent"));
        assert!(matches!(missing, Err(Distrust::Unseen { .. })), "{missing:?}");
        says(runs(folder.path()), "is a directory");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let (_folder, hook) = folder();
        for mode in [0o644, 0o640, 0o604] {
            set(&hook, mode);
            says(secret(&hook).map(drop), "others than its owner may read it");
        }
        set(&hook, 0o600);
        assert_eq!(secret(&hook).unwrap(), b"#!/bin/sh\n");
        fs::write(&hook, "x".repeat(5000)).unwrap();
        says(secret(&hook).map(drop), "has 5000 bytes");
    }
}
