//! The files that a process executes, and what was found in them.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::symbols::{self, Found};

/// A file in a certain state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl FileKey {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A file in which something can be probed, and is.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) key: FileKey,
    /// As the process that it was first seen in calls it, for people.
    pub(super) name: String,
    pub(super) found: Arc<Found>,
    /// Kept open while a process is probed there: its name may lie in another mount namespace, or lead to another
    /// file by now.
    file: File,
}

/// This program, and where in its file it begins: never executed again.
pub(super) struct Own {
    pub(super) file: Probed,
    pub(super) entry: u64,
}

impl Probed {
    pub(super) fn own() -> io::Result<Own> {
        let file = File::open("/proc/self/exe")?;
        let entry = symbols::entry(&file).ok_or_else(|| io::Error::other("it is no ELF file"))?;
        let (key, found) = (FileKey::of(&file.metadata()?), Arc::new(Found::default()));
        Ok(Own { file: Self { key, name: "this program".into(), found, file }, entry })
    }

    /// A path to this very file.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// Every file that was looked at: reading its symbols may take some tens of milliseconds.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `None` for those without anything to probe.
    known: HashMap<FileKey, Option<Arc<Found>>>,
    open: HashMap<FileKey, Weak<Probed>>,
}

/// More files than this, and all are forgotten.
const MAX_KNOWN: usize = 4_096;

impl Files {
    /// The files in which a process executes something that can be probed.
    pub(super) fn of_process(&mut self, tgid: u32) -> io::Result<Vec<Arc<Probed>>> {
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        self.open.retain(|_, file| file.strong_count() > 0);
        let maps = fs::read_to_string(format!("/proc/{tgid}/maps"))?;
        let mut files: Vec<Arc<Probed>> = Vec::new();
        for mapping in maps.lines().filter_map(Mapping::of_line) {
            let Some((path, metadata)) = mapping.file(tgid) else { continue };
            let key = FileKey::of(&metadata);
            if files.iter().all(|seen| seen.key != key) {
                files.extend(self.file(key, &path, mapping.name));
            }
        }
        Ok(files)
    }

    fn file(&mut self, key: FileKey, path: &Path, name: &str) -> Option<Arc<Probed>> {
        if let Some(file) = self.open.get(&key).and_then(Weak::upgrade) {
            return Some(file);
        }
        if let Some(None) = self.known.get(&key) {
            return None;
        }
        let file = File::open(path).ok()?;
        let found = self.known.entry(key).or_insert_with(|| {
            let found = symbols::find(&file);
            (!found.is_empty()).then(|| Arc::new(found))
        });
        let found = Arc::clone(found.as_ref()?);
        let probed = Arc::new(Probed { key, name: name.to_owned(), found, file });
        self.open.insert(key, Arc::downgrade(&probed));
        Some(probed)
    }
}

/// A line of `/proc/PID/maps` that maps a file to be executed.
struct Mapping<'l> {
    range: &'l str,
    name: &'l str,
}

impl<'l> Mapping<'l> {
    fn of_line(line: &'l str) -> Option<Self> {
        // Address range, permissions, offset, device, inode, and behind blanks the name, which may hold blanks.
        let mut fields = line.splitn(6, ' ');
        let range = fields.next()?;
        let executed = fields.next()?.as_bytes().get(2) == Some(&b'x');
        let inode = fields.nth(2)?;
        let name = fields.next()?.trim_start();
        (executed && inode != "0" && name.starts_with('/')).then_some(Self { range, name })
    }

    /// The mapped file itself, whatever its name leads to by now; where the kernel does not let us use that link, its
    /// name as the process sees it.
    fn file(&self, tgid: u32) -> Option<(PathBuf, Metadata)> {
        let candidates =
            [format!("/proc/{tgid}/map_files/{}", self.range), format!("/proc/{tgid}/root{}", self.name)];
        candidates.into_iter().map(PathBuf::from).find_map(|path| {
            let metadata = fs::metadata(&path).ok().filter(Metadata::is_file)?;
            Some((path, metadata))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executed_files_are_taken_from_the_map() {
        let name = |line| Mapping::of_line(line).map(|mapping| mapping.name);
        assert_eq!(
            name("7f0000-7f1000 r-xp 00001000 fd:00 4711                       /usr/lib/a b.so (deleted)"),
            Some("/usr/lib/a b.so (deleted)")
        );
        assert_eq!(name("7f0000-7f1000 r--p 00000000 fd:00 4711                       /usr/lib/a.so"), None);
        assert_eq!(name("7f0000-7f1000 r-xp 00000000 00:00 0                          [vdso]"), None);
        assert_eq!(name("7f0000-7f1000 rwxp 00000000 00:00 0 "), None);
    }

    #[test]
    fn a_process_that_is_gone_is_told() {
        assert!(Files::default().of_process(u32::MAX).is_err());
    }
}
