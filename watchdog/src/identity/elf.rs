//! The build-id of a program: what the linker derived from its contents.

use std::fmt::Write;
use std::fs::File;
use std::path::Path;

use object::{Object, ObjectSection, ReadCache};

/// Programs that run code they load at run time: their own build-id says nothing about the application.
const HOSTS: [&str; 32] = [
    "python", "pypy", "node", "nodejs", "bun", "deno", "ruby", "jruby", "java", "php", "php-fpm", "perl",
    "lua", "luajit", "tclsh", "erl", "beam.smp", "dotnet", "mono", "Rscript", "R", "sh", "bash", "dash",
    "zsh", "ksh", "busybox", "uwsgi", "unitd", "apache2", "httpd", "env",
];

/// Whether a program of this name only hosts the application: `python3.11`, `php-fpm8.2` and the like included.
pub(super) fn is_host(exe: &Path) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    HOSTS.contains(&name.as_ref()) || HOSTS.contains(&stem)
}

/// The GNU build-id as hexadecimal digits, else the content part of Go's; `None` when there is neither.
///
/// `path` may be `/proc/PID/exe`, which opens the program even when its file was replaced.
pub(super) fn build_id(path: &Path) -> Result<Option<String>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).map_err(|error| format!("not an ELF program ({error})"))?;
    if let Ok(Some(id)) = elf.build_id() {
        let mut digits = String::with_capacity(2 * id.len());
        for byte in id {
            // Writing to a string cannot fail.
            write!(digits, "{byte:02x}").ok();
        }
        return Ok(Some(digits));
    }
    let note = elf.section_by_name(".note.go.buildid").and_then(|section| section.data().ok());
    Ok(note.and_then(go_build_id))
}

/// `actionID/.../contentID` behind a note's header (three words, then the name "Go").
fn go_build_id(note: &[u8]) -> Option<String> {
    let length = u32::from_le_bytes(note.get(4..8)?.try_into().ok()?);
    let text = note.get(16..)?.get(..usize::try_from(length).ok()?)?;
    let content = std::str::from_utf8(text).ok()?.rsplit('/').next()?;
    (!content.is_empty()).then(|| content.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_with_their_versions() {
        for name in ["python3.11", "python3", "node", "ruby3.1", "php-fpm8.2", "beam.smp", "bash", "uwsgi"] {
            assert!(is_host(Path::new("/usr/bin").join(name).as_path()), "{name}");
        }
        for name in ["shop", "nginx", "nodeexporter", "javac2go", "pythonista"] {
            assert!(!is_host(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn the_content_part_of_gos_id() {
        let text = b"aaaa/bbbb/cccc";
        let mut note = vec![4, 0, 0, 0, 14, 0, 0, 0, 4, 0, 0, 0, b'G', b'o', 0, 0];
        note.extend(text);
        assert_eq!(go_build_id(&note).as_deref(), Some("cccc"));
        assert_eq!(go_build_id(&note[..20]), None);
        assert_eq!(go_build_id(&[]), None);
    }

    #[test]
    fn what_is_no_program_is_told() {
        assert!(build_id(Path::new("/proc/self/status")).unwrap_err().starts_with("not an ELF program"));
        assert!(build_id(Path::new("/nonexistent")).is_err());
    }
}
