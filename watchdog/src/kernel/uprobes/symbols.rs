//! Where the functions that can be probed lie in a file.

use std::fs::File;
use std::io::BufReader;

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache};
use watchdog_common::abi::program;

use super::golang;

/// A function of a known library, and the programs that belong on it.
struct Known {
    symbol: &'static str,
    programs: &'static [&'static str],
}

const JOB: &[&str] = &[program::POOL_START, program::POOL_END];
const JOB_DONE: &[&str] = &[program::POOL_DONE];

/// libuv's pool: work that was queued by the program (cryptography, compression, addons) and file operations. The
/// others, which look up names, hardly use a CPU. Only the first is exported; a binary that was not stripped has all.
const POOL: [Known; 6] = [
    Known { symbol: POOL_EXPORTS, programs: &[program::POOL_QUEUE] },
    Known { symbol: "uv__work_submit", programs: &[program::POOL_SUBMIT] },
    Known { symbol: "uv__queue_work", programs: JOB },
    Known { symbol: "uv__queue_done", programs: JOB_DONE },
    Known { symbol: "uv__fs_work", programs: JOB },
    Known { symbol: "uv__fs_done", programs: JOB_DONE },
];
/// Without these there is no use in the others.
const POOL_NEEDS: [&str; 3] = [POOL_EXPORTS, "uv__queue_work", "uv__queue_done"];
/// What a library with a pool exports even if it was stripped.
const POOL_EXPORTS: &str = "uv_queue_work";

/// OpenSSL's interface, also that of its descendants.
const TLS: [Known; 5] = [
    Known { symbol: "SSL_read", programs: &[program::TLS_READ, program::TLS_READ_END] },
    Known { symbol: "SSL_read_ex", programs: &[program::TLS_READ_EX, program::TLS_READ_END] },
    Known { symbol: "SSL_write", programs: &[program::TLS_WRITE] },
    Known { symbol: "SSL_write_ex", programs: &[program::TLS_WRITE] },
    Known { symbol: "SSL_free", programs: &[program::TLS_FREE] },
];
const TLS_NEEDS: [&str; 3] = ["SSL_read", "SSL_write", "SSL_free"];

/// A program, and where in the file it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) program: &'static str,
    pub(super) file_offset: u64,
}

/// What can be probed in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pool: Vec<Point>,
    pub(super) tls: Vec<Point>,
    /// There is a pool, but its functions cannot be found.
    pub(super) stripped_pool: bool,
    /// It is a Go program, and why its TLS cannot be found.
    pub(super) go_problem: Option<&'static str>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads the symbols of an ELF file, as much of the file as that takes. A file that is none has none.
pub(super) fn find(file: &File) -> Found {
    let cache = ReadCache::new(BufReader::new(file));
    object::File::parse(&cache).map(|elf| of(&elf)).unwrap_or_default()
}

/// Where in its file a program begins.
pub(super) fn entry(file: &File) -> Option<u64> {
    let cache = ReadCache::new(BufReader::new(file));
    let elf = object::File::parse(&cache).ok()?;
    file_offset(&elf, elf.entry())
}

fn of<'d>(elf: &impl object::Object<'d>) -> Found {
    let mut functions = Vec::new();
    let mut has_exports = false;
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        if !symbol.is_definition() {
            continue;
        }
        let Ok(name) = symbol.name() else { continue };
        has_exports |= name == POOL_EXPORTS;
        if let Some(known) = POOL.iter().chain(&TLS).find(|known| known.symbol == name)
            && let Some(file_offset) = file_offset(elf, symbol.address())
            && !functions.contains(&(known.symbol, file_offset))
        {
            functions.push((known.symbol, file_offset));
        }
    }
    let has = |needs: &[&str]| needs.iter().all(|need| functions.iter().any(|(symbol, _)| symbol == need));
    let points = |known: &[Known]| {
        let of_symbol = |(symbol, file_offset): &(&str, u64)| {
            let programs =
                known.iter().filter(|known| known.symbol == *symbol).flat_map(|known| known.programs);
            let file_offset = *file_offset;
            programs.map(move |program| Point { program, file_offset }).collect::<Vec<_>>()
        };
        functions.iter().flat_map(of_symbol).collect()
    };
    let has_pool = has(&POOL_NEEDS);
    let mut found = Found {
        pool: if has_pool { points(&POOL) } else { Vec::new() },
        tls: if has(&TLS_NEEDS) { points(&TLS) } else { Vec::new() },
        stripped_pool: has_exports && !has_pool,
        go_problem: None,
    };
    match golang::tls(elf) {
        Ok(points) => found.tls.extend(points),
        Err(problem) => found.go_problem = Some(problem),
    }
    found
}

/// The place of an address in the file: behind a landing pad (`endbr64`), because the kernel executes the instruction
/// under a probe in a slower way when it is one.
pub(super) fn file_offset<'d>(elf: &impl object::Object<'d>, address: u64) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let segment = elf.segments().find(|segment| {
        let (begin, size) = (segment.address(), segment.file_range().1);
        (begin..begin.saturating_add(size)).contains(&address)
    })?;
    let pad = match segment.data_range(address, 4) {
        Ok(Some(bytes)) if bytes == ENDBR64 => 4,
        _ => 0,
    };
    Some(address - segment.address() + segment.file_range().0 + pad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_known_functions_has_no_points() {
        // This test's own binary: an ELF file that was not stripped, and uses none of those libraries.
        let file = File::open("/proc/self/exe").unwrap();
        assert!(find(&file).is_empty());
    }

    #[test]
    fn what_is_no_elf_file_has_no_points() {
        let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert!(find(&file).is_empty());
    }

    #[test]
    fn every_program_of_the_tier_has_a_function() {
        let known = POOL.iter().chain(&TLS).flat_map(|known| known.programs);
        let used: Vec<&str> = known.chain(&golang::PROGRAMS).copied().collect();
        for program in program::POOL.iter().chain(&program::TLS) {
            assert!(used.contains(program), "{program} is put on nothing");
        }
        assert!(used.iter().all(|name| program::POOL.contains(name) || program::TLS.contains(name)));
    }
}
