//! The maps of a running agent, read from outside by their ids: what is in them is counted without the agent's help.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use crate::agent::bpf::programs_of;
use anyhow::{Context as _, bail, ensure};
use watchdog_common::abi::{MAX_BUILD_SLOTS, MAX_ONGOING, MAX_TGID, map};
use watchdog_common::types::{Conservation, OngoingRequest, TAKEN, VACANT};

/// Of the command `bpf(2)`.
const LOOKUP: libc::c_int = 1;
const NEXT_KEY: libc::c_int = 4;
const MAP_BY_ID: libc::c_int = 14;
const PROGRAM_BY_ID: libc::c_int = 13;
const INFO_BY_FD: libc::c_int = 15;
/// `pidfd_open(2)`: a thread, not only a thread group's leader (kernel 6.9).
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
/// Of `struct bpf_map_info`: where the name begins.
const INFO_NAME_AT: usize = 24;
/// Of `struct bpf_prog_info`: the word that tells the number of maps; the address for their ids follows it.
const PROGRAM_MAPS_AT: usize = 13;
const MAX_MAPS: usize = 64;

/// The part of `union bpf_attr` for elements.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    /// The value, or the next key.
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> std::io::Result<i32> {
    // SAFETY: the kernel reads and writes at most this many bytes of the structure, and the memory that callers
    // name in it, which they own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
}

/// A descriptor that a system call has just made for this process.
fn owned(fd: libc::c_long) -> Option<OwnedFd> {
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: just made by the system call for the caller, and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[derive(Debug)]
struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

/// The agent's maps by name.
#[derive(Debug)]
pub struct Maps {
    maps: BTreeMap<String, Map>,
    ids: Vec<u32>,
}

/// How much is in the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Thread-group ids with a slot.
    pub watched: usize,
    /// Of these, whose process does not run any more.
    pub watched_dead: usize,
    /// Requests under way.
    pub ongoing: usize,
    pub series: usize,
    /// Living threads with a state.
    pub threads: usize,
    /// Open sockets with a state.
    pub sockets: usize,
    /// Memory of all maps as the kernel charges it, KiB; task and socket storage tells its buckets only.
    pub memory_kib: u64,
}

impl Maps {
    /// Opens the maps of the programs that a process holds (some maps it holds no descriptor of, as they are mapped
    /// into it). Needs root.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut ids = Vec::new();
        for program in programs_of(pid)? {
            ids.extend(
                maps_of(program).with_context(|| format!("asking for the maps of program {program}"))?,
            );
        }
        ids.sort_unstable();
        ids.dedup();
        let mut maps = BTreeMap::new();
        for &id in &ids {
            let fd = by_id(MAP_BY_ID, id).with_context(|| format!("opening map {id} of process {pid}"))?;
            let mut info = [0_u8; 80];
            describe(&fd, &mut info).with_context(|| format!("asking what map {id} is"))?;
            let name =
                info[INFO_NAME_AT..INFO_NAME_AT + 16].split(|byte| *byte == 0).next().unwrap_or_default();
            let [_, _, key_size, value_size] = [0, 1, 2, 3].map(|index| word(&info, index) as usize);
            maps.insert(String::from_utf8_lossy(name).into_owned(), Map { fd, key_size, value_size });
        }
        for name in [map::TGID_SLOTS, map::ONGOING, map::SERIES, map::TASKS, map::CONNECTIONS] {
            ensure!(maps.contains_key(name), "process {pid} has no map {name} of {:?}", maps.keys());
        }
        Ok(Self { maps, ids })
    }

    /// Whether none of the maps is left; call it after the agent has ended and [`Maps`] is dropped.
    pub fn ids(&self) -> Vec<u32> {
        self.ids.clone()
    }

    fn map(&self, name: &str) -> anyhow::Result<&Map> {
        self.maps.get(name).with_context(|| format!("no map {name}"))
    }

    pub fn entries(&self) -> anyhow::Result<Entries> {
        let watched = self.watched()?;
        let mut dead = watched.clone();
        dead.retain(|tgid| !fs::exists(format!("/proc/{tgid}")).unwrap_or(false));
        // What ended while this looked is not watched any more by now.
        if !dead.is_empty() {
            let now = self.watched()?;
            dead.retain(|tgid| now.contains(tgid));
        }
        let owners = self.storage()?;
        let of = |kind: &str| owners.iter().filter(|owner| owner.starts_with(kind)).count();
        let (threads, sockets) = (of("thread "), of("socket "));
        Ok(Entries {
            watched: watched.len(),
            watched_dead: dead.len(),
            ongoing: self.ongoing()?,
            series: self.keys(map::SERIES)?,
            threads,
            sockets,
            memory_kib: self.memory_kib()?,
        })
    }

    /// Slot of every thread-group id.
    fn slots(&self) -> anyhow::Result<Vec<u16>> {
        let value = self.lookup(map::TGID_SLOTS, &0_u32.to_ne_bytes())?.context("no process table")?;
        let slots: Vec<u16> = value.chunks_exact(2).map(|two| u16::from_ne_bytes([two[0], two[1]])).collect();
        ensure!(slots.len() >= MAX_TGID as usize, "the process table has {} places", slots.len());
        Ok(slots)
    }

    fn watched(&self) -> anyhow::Result<Vec<usize>> {
        let slots = self.slots()?;
        Ok((0..slots.len()).filter(|&tgid| slots[tgid] != 0).collect())
    }

    pub fn slot_of(&self, tgid: u32) -> anyhow::Result<u16> {
        Ok(self.slots()?[tgid as usize])
    }

    /// Figures of a slot, over all CPUs.
    pub fn conservation(&self, slot: u16) -> anyhow::Result<Conservation> {
        ensure!(u32::from(slot) < MAX_BUILD_SLOTS, "no slot {slot}");
        let value = self.lookup(map::CONSERVATION, &u32::from(slot).to_ne_bytes())?.context("no figures")?;
        let mut sum = Conservation::default();
        for cpu in value.chunks_exact(size_of::<Conservation>()) {
            let number = |at: usize| u64::from_ne_bytes(cpu[at..at + 8].try_into().expect("eight bytes"));
            sum.process_ns += number(offset_of!(Conservation, process_ns));
            sum.attributed_ns += number(offset_of!(Conservation, attributed_ns));
            sum.shared_ns += number(offset_of!(Conservation, shared_ns));
            sum.unattributed_ns += number(offset_of!(Conservation, unattributed_ns));
            sum.started += number(offset_of!(Conservation, started));
            sum.finished += number(offset_of!(Conservation, finished));
        }
        Ok(sum)
    }

    /// Places of the table of requests that are taken.
    fn ongoing(&self) -> anyhow::Result<usize> {
        let table = self.map(map::ONGOING)?;
        let bytes = MAX_ONGOING as usize * size_of::<OngoingRequest>();
        // SAFETY: a new shared mapping of an array whose values take exactly this many bytes.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, table.fd.as_raw_fd(), 0)
        };
        ensure!(base != libc::MAP_FAILED, "mapping the requests: {}", std::io::Error::last_os_error());
        let taken = (0..MAX_ONGOING as usize).filter(|&place| {
            // SAFETY: inside the mapping; the identity is a place's first field. Volatile: programs write it.
            let identity = unsafe { base.cast::<OngoingRequest>().add(place).cast::<u64>().read_volatile() };
            identity != VACANT && identity != TAKEN
        });
        let taken = taken.count();
        // SAFETY: exactly what was mapped above.
        unsafe { libc::munmap(base, bytes) };
        Ok(taken)
    }

    /// Threads and sockets that have a state, of all that the host has. A state dies with its owner, so these are all.
    fn storage(&self) -> anyhow::Result<Vec<String>> {
        let mut owners = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // Processes and threads may end while they are looked at.
            for task in fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten() {
                let Some(tid) = task.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                    continue;
                };
                // What has ended keeps its state until its parent has asked how.
                if has_ended(&task.path()) {
                    continue;
                }
                let thread = pidfd(tid, PIDFD_THREAD).or_else(|| pidfd(tid, 0));
                if thread.is_some_and(|fd| self.has(map::TASKS, &fd)) {
                    owners.push(format!("thread {tid} of {}", command_line(pid)));
                }
            }
            let Some(process) = pidfd(pid, 0) else { continue };
            for link in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(link.path()).unwrap_or_default();
                if !target.to_string_lossy().starts_with("socket:") {
                    continue;
                }
                let number = link.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
                let copy = number.and_then(|number| {
                    // SAFETY: a system call on numbers; it makes a descriptor of this process.
                    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
                });
                if copy.is_some_and(|fd| self.has(map::CONNECTIONS, &fd)) {
                    owners
                        .push(format!("{} of {}", target.display(), command_line(pid)).replacen(':', " ", 1));
                }
            }
        }
        Ok(owners)
    }

    /// Whose states there are, in words.
    pub fn owners(&self) -> anyhow::Result<Vec<String>> {
        self.storage()
    }

    /// Whether the thread or socket behind a descriptor has a state in a storage map.
    fn has(&self, name: &str, owner: &OwnedFd) -> bool {
        self.lookup(name, &owner.as_raw_fd().to_ne_bytes()).is_ok_and(|value| value.is_some())
    }

    fn lookup(&self, name: &str, key: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let map = self.map(name)?;
        // Values of per-CPU maps come for each CPU.
        let cpus = if name == map::CONSERVATION { possible_cpus()? } else { 1 };
        let mut value = vec![0_u8; map.value_size.next_multiple_of(8) * cpus];
        let mut element = Element {
            map_fd: map.fd.as_raw_fd().cast_unsigned(),
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            ..Element::default()
        };
        match bpf(LOOKUP, &mut element) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking into the map {name}")),
        }
    }

    fn keys(&self, name: &str) -> anyhow::Result<usize> {
        let map = self.map(name)?;
        let mut key: Option<Vec<u8>> = None;
        for count in 0..=1_000_000 {
            let mut next = vec![0_u8; map.key_size];
            let mut element = Element {
                map_fd: map.fd.as_raw_fd().cast_unsigned(),
                key: key.as_ref().map_or(0, |key| key.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                ..Element::default()
            };
            match bpf(NEXT_KEY, &mut element) {
                Ok(_) => key = Some(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
                Err(error) => return Err(error).with_context(|| format!("counting the map {name}")),
            }
        }
        bail!("the keys of the map {name} do not end")
    }

    fn memory_kib(&self) -> anyhow::Result<u64> {
        let own = std::process::id();
        let mut bytes = 0;
        for map in self.maps.values() {
            let text = fs::read_to_string(format!("/proc/{own}/fdinfo/{}", map.fd.as_raw_fd()))?;
            bytes += field(&text, "memlock:").context("the kernel tells no memory of a map")?;
        }
        Ok(bytes / 1024)
    }
}

/// Whether the kernel still has a map.
pub fn is_there(id: u32) -> bool {
    by_id(MAP_BY_ID, id).is_ok()
}

fn by_id(command: libc::c_int, id: u32) -> anyhow::Result<OwnedFd> {
    let mut attributes = [id, 0, 0, 0];
    let fd = bpf(command, &mut attributes)?;
    owned(fd.into()).context("no descriptor")
}

/// Fills `info` with what the kernel tells of a map or a program, as far as it fits.
fn describe(fd: &OwnedFd, info: &mut [u8]) -> anyhow::Result<()> {
    let length = (info.len() as u64) << 32;
    let mut attributes = [u64::from(fd.as_raw_fd().cast_unsigned()) | length, info.as_mut_ptr() as u64];
    bpf(INFO_BY_FD, &mut attributes)?;
    Ok(())
}

fn word(info: &[u8], index: usize) -> u32 {
    u32::from_ne_bytes(info[4 * index..4 * index + 4].try_into().expect("four bytes"))
}

/// Ids of the maps that a program uses.
fn maps_of(program: u32) -> anyhow::Result<Vec<u32>> {
    let fd = by_id(PROGRAM_BY_ID, program)?;
    let mut ids = [0_u32; MAX_MAPS];
    let mut info = [0_u8; 64];
    let room = 4 * PROGRAM_MAPS_AT;
    info[room..room + 4].copy_from_slice(&u32::try_from(MAX_MAPS)?.to_ne_bytes());
    info[room + 4..room + 12].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
    describe(&fd, &mut info)?;
    let count = word(&info, PROGRAM_MAPS_AT) as usize;
    ensure!(count <= MAX_MAPS, "it has {count} maps");
    Ok(ids[..count].to_vec())
}

fn pidfd(pid: i32, flags: libc::c_int) -> Option<OwnedFd> {
    // SAFETY: a system call on numbers; it makes a descriptor of this process.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })
}

/// Whether a thread is a zombie, or gone.
fn has_ended(task: &Path) -> bool {
    let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid}: {}", String::from_utf8_lossy(&bytes).replace('\0', " ").trim())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// How many values a per-CPU map gives.
fn possible_cpus() -> anyhow::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<usize>().context("the kernel's list of CPUs")? + 1)
}
