//! What runtime a process has, where that changes how its work is followed.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use object::{Object as _, ObjectSymbol as _, ReadCache};
use watchdog_common::abi::{RUNTIME_GO, RUNTIME_RUBY};

/// A file that was looked at: device, inode, seconds of its last change.
type FileKey = (u64, u64, i64);

/// Flags by program; programs are few, and each is looked at once.
static KNOWN: Mutex<Option<HashMap<FileKey, u16>>> = Mutex::new(None);
/// A host that runs ever new builds for months must not grow.
const KEPT: usize = 4_096;

/// The runtime flags of a process, 0 for none (also when the process is gone).
pub(super) fn of(tgid: u32) -> u16 {
    of_file(&format!("/proc/{tgid}/exe")).unwrap_or(0)
}

fn of_file(path: &str) -> Option<u16> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let key = (metadata.dev(), metadata.ino(), metadata.mtime());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(flags) = known.get(&key) {
        return Some(*flags);
    }
    let flags = flags_of(&file);
    if known.len() >= KEPT {
        known.clear();
    }
    known.insert(key, flags);
    Some(flags)
}

/// The Go linker leaves a section with the build's settings, also in stripped programs. Ruby's interpreter has this symbol
/// for its extensions, or from its library.
fn flags_of(file: &File) -> u16 {
    let cache = ReadCache::new(file);
    let Ok(elf) = object::File::parse(&cache) else { return 0 };
    if elf.section_by_name(".go.buildinfo").is_some() {
        RUNTIME_GO
    } else if elf.dynamic_symbols().any(|symbol| symbol.name_bytes() == Ok(b"ruby_init")) {
        RUNTIME_RUBY
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_go_has_no_flags() {
        assert_eq!(of(std::process::id()), 0);
        assert_eq!(of_file("/nonexistent"), None);
    }
}
