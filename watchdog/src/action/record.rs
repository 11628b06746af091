//! What the supervisors of hooks leave for the next agent: `hooks/` in the state directory, mode 0700.
//!
//! Two files for each attempt of a rollback hook. `INCIDENT.ATTEMPT.run` is locked as long as its supervisor has not
//! recorded the end, and names the hook's process; `INCIDENT.ATTEMPT.json` is the record of the end, written in one step.
//! Both go when the ledger has the end.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HookRun;
use super::rollback::last_step;
use crate::incident::{HookProcess, Incident, IncidentId, Moment, Step};
use crate::store::{Store, StoreError};

/// Name of the folder in the state directory.
const FOLDER: &str = "hooks";
/// Version of a record's schema.
const VERSION: u32 = 1;
/// Longer ones are nobody's: two outputs of 64 KiB, each byte written out in six.
const MAX_BYTES: u64 = 1024 * 1024;
/// What is of no incident that the ledger knows goes after that.
const KEEP_S: i64 = 30 * 24 * 3600;
/// How long a supervisor that was just started may take to name the hook's process.
const NAMED_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// How one attempt of a hook ended, as its supervisor saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    pub incident: IncidentId,
    pub attempt: u32,
    /// `None`: it could not be started.
    pub process: Option<HookProcess>,
    pub ended: Moment,
    pub run: HookRun,
}

impl Record {
    pub(super) fn new(attempt: Attempt, process: Option<HookProcess>, run: HookRun) -> Self {
        let Attempt { incident, attempt } = attempt;
        Self { version: VERSION, incident, attempt, process, ended: Moment::now(), run }
    }

    /// Whether it is of the process that the ledger names.
    pub(super) fn is_of(&self, process: &HookProcess) -> bool {
        let is_it = self.process.as_ref() == Some(process);
        if !is_it {
            let (incident, attempt, pid) = (&self.incident, self.attempt, process.pid);
            tracing::warn!(
                %incident, attempt, pid,
                "ignored: the record of the hook's end is of another process than the one that was started"
            );
        }
        is_it
    }

    /// The step that follows. Whether an attempt is left is known where the next one would be made.
    pub(super) fn step(&self) -> Step {
        if self.run.outcome.asks_again() { Step::TryAgain } else { last_step(&self.run.outcome) }
    }

    /// Writes the end into the ledger, as of when it happened. Blocks for the disk.
    pub(super) fn enter(&self, store: &Store) -> Result<Incident, StoreError> {
        let mut end = self.run.end();
        end.outcome.push_str("; recorded by its supervisor, as the agent that started it was gone");
        store.hook_ended(&self.incident, self.attempt, &end, self.step(), &self.ended)
    }
}

/// Which run of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) incident: IncidentId,
    pub(super) attempt: u32,
}

/// What is found of an attempt that an earlier agent began.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Neither a supervisor nor a record.
    Nothing,
    /// Its supervisor lives, and will record the end; the hook's process, where it has named it.
    Supervised(Option<HookProcess>),
    Ended(Box<Record>),
}

/// The folder of the records, and the program that supervises.
#[derive(Clone, Debug)]
pub struct Recorder {
    folder: PathBuf,
    /// Executed with [`super::SUPERVISE`] as its only argument.
    pub(super) program: PathBuf,
}

impl Recorder {
    /// Of the agent that runs: it supervises with its own executable, also when that was exchanged on the disk since.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        Self::with_program(state_dir, Path::new("/proc/self/exe"))
    }

    #[doc(hidden)]
    pub fn with_program(state_dir: &Path, program: &Path) -> io::Result<Self> {
        let folder = state_dir.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder: fs::canonicalize(folder)?, program: program.to_owned() })
    }

    fn path(&self, incident: &IncidentId, attempt: u32, kind: &str) -> io::Result<PathBuf> {
        let id = incident.as_str();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(io::Error::other(format!("{id:?} is no incident's name")));
        }
        Ok(self.folder.join(format!("{id}.{attempt}.{kind}")))
    }

    /// The lock of an attempt that is about to begin. It is held as long as one process has the file open that inherited it.
    pub(super) fn begin(&self, of: &Attempt) -> io::Result<File> {
        let path = self.path(&of.incident, of.attempt, "run")?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another supervisor has this attempt"),
            TryLockError::Error(error) => error,
        })?;
        file.set_len(0)?;
        Ok(file)
    }

    /// Where the record of an attempt is to be written.
    pub(super) fn record_path(&self, of: &Attempt) -> io::Result<PathBuf> {
        self.path(&of.incident, of.attempt, "json")
    }

    /// What is there of an attempt. Waits up to two seconds for a supervisor that was just started.
    pub(super) fn seen(&self, incident: &IncidentId, attempt: u32) -> Seen {
        let begun = std::time::Instant::now();
        loop {
            // In this order: a supervisor that lets go of the lock has written its record.
            if !self.is_held(incident, attempt) {
                return self
                    .read(incident, attempt)
                    .map_or(Seen::Nothing, |record| Seen::Ended(record.into()));
            }
            let process = self.process(incident, attempt);
            if process.is_some() || begun.elapsed() > NAMED_WITHIN {
                return Seen::Supervised(process);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether the supervisor of an attempt lives and has not recorded its end.
    pub(super) fn is_held(&self, incident: &IncidentId, attempt: u32) -> bool {
        let file = self.path(incident, attempt, "run").and_then(|path| open(&path));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The hook's process as the supervisor named it.
    fn process(&self, incident: &IncidentId, attempt: u32) -> Option<HookProcess> {
        let file = self.path(incident, attempt, "run").and_then(|path| open(&path)).ok()?;
        serde_json::from_reader(file.take(MAX_BYTES)).ok()
    }

    /// The record of an attempt; one that cannot be believed is as good as none, and said so.
    pub(super) fn read(&self, incident: &IncidentId, attempt: u32) -> Option<Record> {
        let path = self.path(incident, attempt, "json").ok()?;
        match read(&path) {
            Ok(record) if record.incident == *incident && record.attempt == attempt => Some(record),
            Ok(record) => {
                let (of, number) = (&record.incident, record.attempt);
                tracing::warn!(path = %path.display(), "ignored: this record is of attempt {number} of {of}");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "ignored: this record of a hook's end cannot be believed: {error}");
                None
            }
        }
    }

    /// Removes what is there of an attempt whose end the ledger has.
    pub(super) fn forget(&self, incident: &IncidentId, attempt: u32) {
        for kind in ["json", "run"] {
            if let Ok(path) = self.path(incident, attempt, kind) {
                remove(&path);
            }
        }
    }

    /// Removes what incidents left that have come to their end, and what is older than 30 days; names what is not its own.
    ///
    /// `is_under_way`: of an incident; `None` for one that the ledger does not know.
    pub(super) fn sweep(&self, is_under_way: impl Fn(&IncidentId) -> Option<bool>) {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(path = %self.folder.display(), "the records of hooks cannot be read: {error}");
                return;
            }
        };
        let oldest_s = crate::clock::unix_ms() / 1000 - KEEP_S;
        for entry in entries.flatten() {
            let path = entry.path();
            let is_old = entry.metadata().is_ok_and(|metadata| metadata.mtime() < oldest_s);
            let Some((incident, attempt)) = attempt_of(&entry.file_name()) else {
                tracing::warn!(path = %path.display(), "ignored: this file is no record of a hook");
                continue;
            };
            if self.is_held(&incident, attempt) {
                continue;
            }
            match is_under_way(&incident) {
                Some(true) if !is_old => {}
                None if !is_old => {
                    tracing::warn!(path = %path.display(), "ignored: the ledger knows no such incident");
                }
                _ => remove(&path),
            }
        }
    }
}

/// Of a file that a recorder or a supervisor made.
fn attempt_of(name: &OsString) -> Option<(IncidentId, u32)> {
    let mut parts = name.to_str()?.splitn(3, '.');
    let (incident, attempt) = (parts.next()?, parts.next()?.parse().ok()?);
    matches!(parts.next()?, "json" | "run" | "json.new").then(|| (IncidentId::from(incident), attempt))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "cannot be removed: {error}");
        }
        _ => {}
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Neither a link nor a pipe of somebody else's can hold it up.
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn read(path: &Path) -> io::Result<Record> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    if !metadata.is_file()
        || metadata.uid() != own
        || metadata.mode() & 0o022 != 0
        || metadata.len() > MAX_BYTES
    {
        return Err(io::Error::other("it is not a file that this agent alone could write, of at most 1 MiB"));
    }
    let record: Record = serde_json::from_reader(io::BufReader::new(file))?;
    if record.version != VERSION {
        let version = record.version;
        return Err(io::Error::other(format!("it is of version {version}, and this agent knows {VERSION}")));
    }
    Ok(record)
}

/// Writes a record durably: there is the whole of it or none, also after a power cut.
pub(super) fn write(path: &Path, record: &Record) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::HookOutcome;
    use super::*;

    fn recorder() -> (TempDir, Recorder) {
        let dir = TempDir::new().unwrap();
        let recorder = Recorder::open(dir.path()).unwrap();
        (dir, recorder)
    }

    fn of(incident: &str) -> Attempt {
        Attempt { incident: incident.into(), attempt: 1 }
    }

    /// With two outputs of nothing but `byte`.
    fn write_record(recorder: &Recorder, incident: &str, byte: char) -> PathBuf {
        let said = byte.to_string().repeat(64 * 1024);
        let run = HookRun {
            outcome: HookOutcome::Done,
            stdout: said.clone(),
            stderr: said,
            took_ms: 1,
            notes: Vec::new(),
        };
        let path = recorder.record_path(&of(incident)).unwrap();
        write(&path, &Record::new(of(incident), None, run)).unwrap();
        path
    }

    #[test]
    fn the_longest_outputs_fit_into_a_record() {
        let (_dir, recorder) = recorder();
        for byte in ['\u{1}', '\u{fffd}', '"'] {
            write_record(&recorder, "20170127-a", byte);
            let record = recorder.read(&"20170127-a".into(), 1).unwrap();
            assert_eq!(record.run.stdout.chars().count(), 64 * 1024);
        }
    }

    #[test]
    fn a_held_lock_means_that_the_end_is_still_to_come() {
        let (_dir, recorder) = recorder();
        let id = "20170127-a".into();
        assert_eq!(recorder.seen(&id, 1), Seen::Nothing);
        let mut lock = recorder.begin(&of("20170127-a")).unwrap();
        assert!(recorder.begin(&of("20170127-a")).is_err(), "two supervisors for one attempt");
        let process = HookProcess { pid: 4711, start_ticks: 99, boot: "boot".to_owned() };
        lock.write_all(&serde_json::to_vec(&process).unwrap()).unwrap();
        assert_eq!(recorder.seen(&id, 1), Seen::Supervised(Some(process)));
        write_record(&recorder, "20170127-a", 'a');
        drop(lock);
        assert!(matches!(recorder.seen(&id, 1), Seen::Ended(record) if record.attempt == 1));
        recorder.forget(&id, 1);
        assert_eq!(recorder.seen(&id, 1), Seen::Nothing);
    }

    #[test]
    fn what_incidents_left_goes_with_them_and_after_thirty_days() {
        let (dir, recorder) = recorder();
        let now = Duration::from_millis(u64::try_from(crate::clock::unix_ms()).unwrap());
        let days = |days: u64| std::time::UNIX_EPOCH + now - Duration::from_hours(days * 24);
        for (name, age_days) in
            [("open", 0), ("openold", 31), ("ended", 0), ("unknown", 29), ("unknownold", 31), ("runs", 31)]
        {
            let path = write_record(&recorder, name, 'a');
            File::options().write(true).open(path).unwrap().set_modified(days(age_days)).unwrap();
        }
        let _runs = recorder.begin(&of("runs")).unwrap();
        fs::write(dir.path().join("hooks/notes.txt"), "somebody's").unwrap();
        recorder.sweep(|id| match id.as_str() {
            "open" | "openold" => Some(true),
            "ended" | "runs" => Some(false),
            _ => None,
        });
        let mut left: Vec<_> = fs::read_dir(dir.path().join("hooks"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["notes.txt", "open.1.json", "runs.1.json", "runs.1.run", "unknown.1.json"]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        let (_dir, recorder) = recorder();
        for name in ["", "../a", "a/b", "a.b", "a\0"] {
            assert!(recorder.record_path(&of(name)).is_err(), "{name:?}");
        }
    }
}
