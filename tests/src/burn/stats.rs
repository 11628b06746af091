//! The server's own account, in memory that forked children share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use serde::{Deserialize, Serialize};

use super::meter;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Login,
    ApiLogin,
    Browse,
    Report,
    Unknown,
    Stats,
    Other,
}

impl Endpoint {
    pub const ALL: [Self; 7] =
        [Self::Login, Self::ApiLogin, Self::Browse, Self::Report, Self::Unknown, Self::Stats, Self::Other];

    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::ApiLogin => "api_login",
            Self::Browse => "browse",
            Self::Report => "report",
            Self::Unknown => "unknown",
            Self::Stats => "stats",
            Self::Other => "other",
        }
    }
}

/// Requests of one endpoint and the CPU that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub count: u64,
    /// Nanoseconds of thread CPU, all requests together.
    pub sum_ns: u64,
}

impl Cost {
    /// Nanoseconds per request; 0 without requests.
    pub fn mean_ns(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 }
    }
}

/// The answer of `GET /stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    pub build: String,
    /// The process that answered.
    pub pid: u32,
    /// Nanoseconds of CPU of the server's processes, ended children included, helpers not.
    pub process_cpu_ns: u64,
    /// Nanoseconds of CPU of the helper processes that have ended.
    pub helper_cpu_ns: u64,
    /// By endpoint name; a request counts when its response has been written.
    pub endpoints: BTreeMap<String, Cost>,
}

impl Stats {
    pub fn cost(&self, endpoint: &str) -> Cost {
        self.endpoints.get(endpoint).copied().unwrap_or_default()
    }

    /// Of all endpoints.
    pub fn total(&self) -> Cost {
        self.endpoints.values().fold(Cost::default(), |sum, cost| Cost {
            count: sum.count + cost.count,
            sum_ns: sum.sum_ns + cost.sum_ns,
        })
    }
}

#[derive(Debug)]
struct Cell {
    count: AtomicU64,
    sum_ns: AtomicU64,
}

/// Processes alive at the same time at most.
const MAX_PROCESSES: usize = 256;

/// Counters that every process of the server adds to.
#[derive(Debug)]
pub struct Shared {
    cells: [Cell; Endpoint::ALL.len()],
    processes: [AtomicU32; MAX_PROCESSES],
    ended_ns: AtomicU64,
    helper_ns: AtomicU64,
}

impl Shared {
    /// Zeroed counters that stay shared over a fork, for the life of the process.
    pub fn map() -> nix::Result<&'static Self> {
        let length = NonZeroUsize::new(size_of::<Self>()).expect("the counters have a size");
        // SAFETY: a new anonymous mapping, at an address of the kernel's choice, touches no memory in use.
        let memory = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)?
        };
        // SAFETY: the mapping is page-aligned, large enough, never unmapped, and all-zero bytes are valid atomics.
        Ok(unsafe { memory.cast::<Self>().as_ref() })
    }

    pub fn record(&self, endpoint: Endpoint, cpu_ns: u64) {
        let cell = &self.cells[endpoint as usize];
        cell.sum_ns.fetch_add(cpu_ns, Ordering::Relaxed);
        // Released so that a reader who sees the count also sees its part of the sum.
        cell.count.fetch_add(1, Ordering::Release);
    }

    pub fn record_helper(&self, cpu_ns: u64) {
        self.helper_ns.fetch_add(cpu_ns, Ordering::Relaxed);
    }

    /// Counts a process's CPU from now on.
    pub fn enlist(&self, pid: u32) {
        self.replace(0, pid);
    }

    /// A child has ended, having used so much CPU.
    pub fn retire(&self, pid: u32, cpu_ns: u64) {
        self.ended_ns.fetch_add(cpu_ns, Ordering::Relaxed);
        self.replace(pid, 0);
    }

    fn replace(&self, from: u32, to: u32) {
        for slot in &self.processes {
            if slot.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    pub fn snapshot(&self, build: &str) -> Stats {
        let endpoints = Endpoint::ALL
            .iter()
            .map(|endpoint| {
                let cell = &self.cells[*endpoint as usize];
                let count = cell.count.load(Ordering::Acquire);
                (endpoint.name().to_owned(), Cost { count, sum_ns: cell.sum_ns.load(Ordering::Relaxed) })
            })
            .collect();
        let alive: u64 = self
            .processes
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|pid| *pid != 0)
            .filter_map(meter::process_cpu_ns)
            .sum();
        Stats {
            build: build.to_owned(),
            pid: std::process::id(),
            process_cpu_ns: alive + self.ended_ns.load(Ordering::Relaxed),
            helper_cpu_ns: self.helper_ns.load(Ordering::Relaxed),
            endpoints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_processes_come_and_go() {
        let shared = Shared::map().unwrap();
        shared.record(Endpoint::Login, 10);
        shared.record(Endpoint::Login, 20);
        shared.record(Endpoint::Other, 5);
        shared.enlist(std::process::id());
        let before = shared.snapshot("b1");
        assert_eq!(before.cost("login"), Cost { count: 2, sum_ns: 30 });
        assert_eq!(before.total(), Cost { count: 3, sum_ns: 35 });
        assert!(before.process_cpu_ns > 0);
        shared.retire(std::process::id(), 7);
        assert_eq!(shared.snapshot("b1").process_cpu_ns, 7);
    }
}
