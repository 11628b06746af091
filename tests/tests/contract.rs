//! Does the built object hold what `watchdog_common::abi` says, and nothing else? Needs no privileges.

use std::collections::BTreeSet;
use std::mem::size_of;

use aya_obj::generated::bpf_map_type::{
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
    BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_TASK_STORAGE,
};
use aya_obj::{Object, ProgramSection};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};
use watchdog::kernel::OBJECT;
use watchdog_common::abi::{self, global, map, program};
use watchdog_common::types::{
    Blind, BuildSlot, Conservation, EndpointKey, Habit, Losses, OngoingRequest, Series, SeriesKey,
    ServicePatterns,
};

/// The kernel cuts names after this many bytes.
const NAME_BYTES: usize = 15;
const LICENSE: &str = "Dual MIT/GPL";

struct Map {
    name: &'static str,
    kind: u32,
    key: usize,
    /// `None`: private to the kernel programs.
    value: Option<usize>,
    entries: u32,
}

/// Sizes as the agent reads and writes them.
fn maps() -> Vec<Map> {
    let array = |name, value: usize, entries| Map {
        name,
        kind: BPF_MAP_TYPE_ARRAY as u32,
        key: 4,
        value: Some(value),
        entries,
    };
    let hash = |name, key, value: usize, entries| Map {
        name,
        kind: BPF_MAP_TYPE_HASH as u32,
        key,
        value: Some(value),
        entries,
    };
    let per_cpu = |name, value: Option<usize>, entries| Map {
        name,
        kind: BPF_MAP_TYPE_PERCPU_ARRAY as u32,
        key: 4,
        value,
        entries,
    };
    let private = |name, entries| Map { name, kind: BPF_MAP_TYPE_ARRAY as u32, key: 4, value: None, entries };
    let ring =
        |name, bytes| Map { name, kind: BPF_MAP_TYPE_RINGBUF as u32, key: 0, value: Some(0), entries: bytes };
    let storage = |name, kind: u32| Map { name, kind, key: 4, value: None, entries: 0 };
    vec![
        array(map::TGID_SLOTS, abi::MAX_TGID as usize * size_of::<u16>(), 1),
        array(map::BUILD_SLOTS, size_of::<BuildSlot>(), abi::MAX_BUILD_SLOTS),
        array(map::SERVICES, size_of::<ServicePatterns>(), abi::MAX_SERVICES),
        hash(map::ENDPOINTS, size_of::<EndpointKey>(), size_of::<u32>(), abi::MAX_ENDPOINT_RULES),
        array(map::ONGOING, size_of::<OngoingRequest>(), abi::MAX_ONGOING),
        hash(map::SERIES, size_of::<SeriesKey>(), size_of::<Series>(), abi::MAX_SERIES),
        per_cpu(map::CONSERVATION, Some(size_of::<Conservation>()), abi::MAX_BUILD_SLOTS),
        per_cpu(map::LOSSES, Some(size_of::<Losses>()), abi::MAX_BUILD_SLOTS),
        per_cpu(map::BLIND, Some(size_of::<Blind>()), abi::MAX_BUILD_SLOTS),
        private(map::LOCKS, abi::LOCK_PLACES),
        array(map::HABITS, size_of::<Habit>(), abi::MAX_BUILD_SLOTS * abi::MAX_ENDPOINTS),
        private(map::PARKED, abi::PARKED_PROCESSES),
        private(map::LED, abi::LED_PLACES),
        private(map::GOROUTINES, abi::MAX_ONGOING),
        per_cpu(map::SLICE, None, 1),
        storage(map::TASKS, BPF_MAP_TYPE_TASK_STORAGE as u32),
        storage(map::CONNECTIONS, BPF_MAP_TYPE_SK_STORAGE as u32),
        hash(map::JOBS, 16, abi::JOB_BYTES, abi::MAX_JOBS),
        hash(map::TLS, 16, abi::CONNECTION_BYTES, abi::MAX_TLS_SESSIONS),
        hash(map::GO_READS, 16, abi::GO_READ_BYTES, abi::MAX_GO_READS),
        array(map::BLANK, abi::CONNECTION_BYTES, 1),
        array(map::TLS_SESSIONS, size_of::<u64>(), 1),
        hash(map::TLS_SERVED, size_of::<u32>(), size_of::<u32>(), abi::MAX_TLS_SERVED),
        Map { name: map::NO_TAIL, kind: BPF_MAP_TYPE_PROG_ARRAY as u32, key: 4, value: Some(4), entries: 1 },
        storage(map::PACKETS, BPF_MAP_TYPE_SK_STORAGE as u32),
        ring(map::SAMPLES, abi::SAMPLE_RING_BYTES),
        ring(map::STREAMS, abi::STREAM_RING_BYTES),
        ring(map::PROCESSES, abi::PROCESS_RING_BYTES),
        ring(map::LOG, abi::LOG_RING_BYTES),
    ]
}

fn parsed() -> Object {
    Object::parse(OBJECT).expect("the embedded object is read by the loader's own parser")
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    names.into_iter().collect()
}

#[test]
fn every_map_has_its_kind_sizes_and_capacity() {
    let object = parsed();
    for map in maps() {
        let Some(built) = object.maps.get(map.name) else { panic!("the object has no map {}", map.name) };
        assert_eq!(built.map_type(), map.kind, "{}: type", map.name);
        assert_eq!(built.key_size() as usize, map.key, "{}: key size", map.name);
        assert_eq!(built.max_entries(), map.entries, "{}: max entries", map.name);
        if let Some(value) = map.value {
            assert_eq!(built.value_size() as usize, value, "{}: value size", map.name);
        }
    }
}

#[test]
fn no_map_is_there_that_the_agent_does_not_know() {
    let object = parsed();
    let known = names(maps().iter().map(|map| map.name));
    // Sections of globals are maps too: read-only ones are the agent's, writable ones would be state that nobody reads.
    let built = names(object.maps.keys().map(String::as_str).filter(|name| !name.starts_with(".rodata")));
    assert_eq!(built, known);
}

#[test]
fn every_program_hangs_on_the_hook_it_is_named_after() {
    let object = parsed();
    let extra = || program::POOL.into_iter().chain(program::TLS);
    let tiers = program::ALWAYS.into_iter().chain(program::CORE).chain(program::TIER_A);
    let known = names(tiers.chain([program::CPU_CLOCK]).chain(extra()));
    assert_eq!(names(object.programs.keys().map(String::as_str)), known);
    for (name, built) in &object.programs {
        let fits = if program::TIER_A.contains(&name.as_str()) {
            matches!(built.section, ProgramSection::FExit { sleepable: false })
        } else if extra().any(|extra| extra == name) {
            // Where it is put, the agent decides for each process.
            match built.section {
                ProgramSection::UProbe { sleepable: false } => !name.ends_with("_end"),
                ProgramSection::URetProbe { sleepable: false } => name.ends_with("_end"),
                _ => false,
            }
        } else if name == program::CPU_CLOCK {
            matches!(built.section, ProgramSection::PerfEvent)
        } else {
            matches!(built.section, ProgramSection::BtfTracePoint)
        };
        assert!(fits, "{name} is a {:?}", built.section);
    }
}

/// Without it they get a stack per CPU where they can be preempted: see `watchdog-ebpf/src/probe.rs`. The compiler drops
/// a tail call of which it can see that it is never made.
#[test]
fn every_user_probe_has_the_tail_call_that_is_never_made() {
    const CALL: u8 = 0x85;
    const TAIL_CALL: i32 = 12;
    let object = parsed();
    for name in program::POOL.into_iter().chain(program::TLS) {
        let function = &object.functions[&object.programs[name].function_key()];
        let has = |insn: &aya_obj::generated::bpf_insn| {
            insn.code == CALL && insn.src_reg() == 0 && insn.imm == TAIL_CALL
        };
        assert!(function.instructions.iter().any(has), "{name} has none");
    }
}

#[test]
fn every_global_that_the_agent_sets_is_read_only_and_has_its_width() {
    let file = object::File::parse(OBJECT).expect("an ELF file");
    let widths = [
        (global::TASK_PID, 4),
        (global::TASK_TGID, 4),
        (global::TASK_SUM_EXEC, 4),
        (global::TASK_PREV_SUM_EXEC, 4),
        (global::TASK_COMM, 4),
        (global::TASK_TLS, 4),
        (global::TASK_SIGNAL, 4),
        (global::SIGNAL_LIVE, 4),
        (global::SOCK_ADDRESS, 4),
        (global::SOCK_PEER_ADDRESS, 4),
        (global::SOCK_PORT, 4),
        (global::SOCK_PEER_PORT, 4),
        (global::UNIX_PEER, 4),
        (global::SOCKET_SK, 4),
        (global::HASH_KEY, 8),
        (global::ABI_VERSION, 4),
        (global::LOG_LEVEL, 1),
    ];
    let mut built = BTreeSet::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data && symbol.is_global()) {
        let Some(section) = symbol.section_index().and_then(|index| file.section_by_index(index).ok()) else {
            continue;
        };
        if section.name().unwrap().starts_with(".rodata") {
            built.insert((symbol.name().unwrap(), symbol.size()));
        }
    }
    assert_eq!(built, widths.into_iter().collect());
}

#[test]
fn names_fit_the_kernel() {
    for map in maps() {
        assert!(map.name.len() <= NAME_BYTES, "{} is longer than {NAME_BYTES} bytes", map.name);
    }
}

#[test]
fn the_license_lets_the_programs_call_the_tracing_helpers() {
    assert_eq!(parsed().license.to_str(), Ok(LICENSE));
}

#[test]
fn the_object_carries_no_path_of_the_machine_that_built_it() {
    let home = std::env::var("HOME").unwrap_or_default();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_str().unwrap();
    for path in [home.as_str(), root].into_iter().filter(|path| path.len() > 1) {
        let found = OBJECT.windows(path.len()).position(|window| window == path.as_bytes());
        assert_eq!(found, None, "{path} is in the object");
    }
}
