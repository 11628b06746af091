//! CPU clocks, and spinning them.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::gil::Gil;

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of all threads of a process, nanoseconds; `None` once it is gone.
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let time = clock_gettime(clock_getcpuclockid(pid).ok()?).ok()?;
    u64::try_from(Duration::from(time).as_nanos()).ok()
}

/// What one request has cost: the CPU time of the threads that worked on it, each from taking it up to putting it down.
#[derive(Debug)]
pub struct Meter {
    since_ns: u64,
    carried_ns: u64,
}

impl Meter {
    /// Begins on the calling thread.
    pub fn start() -> Self {
        Self { since_ns: thread_cpu_ns(), carried_ns: 0 }
    }

    /// Nanoseconds so far; to be asked on the thread that started or resumed it.
    pub fn elapsed_ns(&self) -> u64 {
        self.carried_ns + thread_cpu_ns().saturating_sub(self.since_ns)
    }

    /// The calling thread puts the request down; another one will [`Meter::resume`] it.
    pub fn pause(&mut self) {
        self.carried_ns = self.elapsed_ns();
    }

    pub fn resume(&mut self) {
        self.since_ns = thread_cpu_ns();
    }
}

/// Spins until the calling thread has used `amount` more CPU time, holding the lock, if there is one, as Python would.
pub fn spin(amount: Duration, gil: Option<&Gil>) {
    if amount.is_zero() {
        return;
    }
    let end = thread_cpu_ns() + u64::try_from(amount.as_nanos()).unwrap_or(u64::MAX);
    let mut held = gil.map(Gil::acquire);
    while thread_cpu_ns() < end {
        // About 5 us, so that reading the clock (a system call) is a small part of the work.
        let mut value = 1_u64;
        for step in 0..4_000_u64 {
            value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step));
        }
        if let Some(held) = &mut held {
            held.hand_over_if_asked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_costs_what_was_asked_for() {
        let meter = Meter::start();
        spin(Duration::from_millis(5), None);
        let spent = meter.elapsed_ns();
        assert!((5_000_000..5_500_000).contains(&spent), "{spent} ns");
    }

    #[test]
    fn a_paused_meter_does_not_count() {
        let mut meter = Meter::start();
        spin(Duration::from_millis(1), None);
        meter.pause();
        spin(Duration::from_millis(5), None);
        meter.resume();
        let spent = meter.elapsed_ns();
        assert!((1_000_000..2_000_000).contains(&spent), "{spent} ns");
    }

    #[test]
    fn own_process_has_a_clock_and_a_missing_one_has_none() {
        assert!(process_cpu_ns(std::process::id()).is_some());
        assert_eq!(process_cpu_ns(u32::MAX), None);
    }
}
