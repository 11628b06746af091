//! The only place that reads clocks.

#[cfg(debug_assertions)]
use std::path::PathBuf;
#[cfg(debug_assertions)]
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the kernel's `bpf_ktime_get_ns`.
pub fn mono_ns() -> u64 {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `CLOCK_BOOTTIME`: time since the boot with the time that the host slept, the clock of processes' start times.
pub fn since_boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// CPU time of the calling thread in nanoseconds: what it waited for a CPU is not in it.
pub fn thread_cpu_ns() -> u64 {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    let time = nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Wall clock in milliseconds since 1970, for people and for the ledger; compared with nothing but a release window, which is
/// a matter of the calendar.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(stepped_ms())
}

/// Names a file with whole seconds by which the wall clock of an agent of a debug build is stepped. It is read each time, so
/// that a test steps it while the agent runs, and no clock of the machine. A release build knows nothing of it.
pub const CLOCK_STEP: &str = "LOAD_WATCHDOG_CLOCK_STEP";

#[cfg(debug_assertions)]
fn stepped_ms() -> i64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os(CLOCK_STEP).map(PathBuf::from)) else { return 0 };
    let seconds = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i64>().ok());
    seconds.unwrap_or(0).saturating_mul(1000)
}

#[cfg(not(debug_assertions))]
fn stepped_ms() -> i64 {
    0
}
