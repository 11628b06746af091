//! Cycles and instructions of a thread, where the machine has counters and lets them be read. Virtual machines mostly have
//! none.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use nix::libc;

/// `perf_event_attr` of the first version of the system call, which every kernel takes (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    config1: u64,
}
const _: () = assert!(size_of::<Attributes>() == 64);

const PERF_TYPE_HARDWARE: u32 = 0;
const CPU_CYCLES: u64 = 0;
const INSTRUCTIONS: u64 = 1;
const PERF_FORMAT_GROUP: u64 = 1 << 3;
const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Since the counters were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub cycles: u64,
    pub instructions: u64,
}

impl Counts {
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            cycles: self.cycles.wrapping_sub(before.cycles),
            instructions: self.instructions.wrapping_sub(before.instructions),
        }
    }
}

/// Of the thread that opened them, in user space.
#[derive(Debug)]
pub struct Counters {
    leader: File,
    /// Counted as long as it is open, and read with its leader.
    _instructions: File,
}

impl Counters {
    /// What is missing, in words, where they cannot be had.
    pub fn open() -> Result<Self, String> {
        let leader = open(CPU_CYCLES, -1).map_err(|error| explain(&error))?;
        let instructions = open(INSTRUCTIONS, leader.as_raw_fd()).map_err(|error| explain(&error))?;
        let counters = Self { leader, _instructions: instructions };
        // Some machines take the events and never count.
        let counts = counters.read().ok_or("they can be opened, but not read")?;
        let spent = (0..1000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i));
        std::hint::black_box(spent);
        match counters.read() {
            Some(after) if after.since(counts).instructions > 0 => Ok(counters),
            _ => Err("they can be opened, but do not count".to_owned()),
        }
    }

    pub fn read(&self) -> Option<Counts> {
        let mut bytes = [0; 24];
        (&self.leader).read_exact(&mut bytes).ok()?;
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
        // The number of events comes first.
        Some(Counts { cycles: word(8)?, instructions: word(16)? })
    }
}

fn open(config: u64, group: i32) -> io::Result<File> {
    let attributes = Attributes {
        kind: PERF_TYPE_HARDWARE,
        size: 64,
        config,
        read_format: PERF_FORMAT_GROUP,
        flags: EXCLUDE_KERNEL_AND_HYPERVISOR,
        ..Attributes::default()
    };
    // SAFETY: the attributes are as large as their size says and outlive the call; thread 0 is the calling one, and CPU -1
    // any.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            0 as libc::pid_t,
            -1_i32,
            group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let descriptor = i32::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it, for nobody else.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => {
            "this machine has none (virtual machines mostly do not)".to_owned()
        }
        Some(libc::EACCES | libc::EPERM) => {
            format!("not allowed ({error}): needs CAP_PERFMON, or kernel.perf_event_paranoid of 2 or less")
        }
        Some(libc::ENOSYS) => "this kernel has no perf_event_open".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_count_or_say_why_there_are_none() {
        match Counters::open() {
            Ok(counters) => {
                let before = counters.read().unwrap();
                let sum = (0..1_000_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i));
                std::hint::black_box(sum);
                let spent = counters.read().unwrap().since(before);
                assert!(spent.instructions > 1_000_000 && spent.cycles > 100_000, "{spent:?}");
            }
            Err(why) => assert!(!why.is_empty()),
        }
        assert!(explain(&io::Error::from_raw_os_error(libc::ENOENT)).contains("has none"));
        assert!(explain(&io::Error::from_raw_os_error(libc::EACCES)).contains("CAP_PERFMON"));
    }
}
