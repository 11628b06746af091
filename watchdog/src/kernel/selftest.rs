//! Before anything is believed: the kernel programs must see this process's own CPU time as the kernel tells it.
//! A wrong offset of the right type would pass the verifier.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::slots::SELF_TEST_SLOT;
use super::{Kernel, KernelError};

const BURN: Duration = Duration::from_millis(4);

impl Kernel {
    pub(super) fn self_test(&mut self) -> Result<(), KernelError> {
        let tgid = std::process::id();
        self.occupy(SELF_TEST_SLOT, 0, 0)?;
        self.watch(tgid, SELF_TEST_SLOT);
        // A switch out and in, so that the slice to come has a known start.
        std::thread::sleep(Duration::from_millis(1));
        let before = self.read_conservation(SELF_TEST_SLOT)?.process_ns;
        let (burnt, seen) = std::thread::scope(|scope| {
            // A thread of its own: its last switch-out is over when it has been joined.
            let burnt = scope.spawn(burn).join().unwrap_or_default();
            std::thread::sleep(Duration::from_millis(1));
            (burnt, self.read_conservation(SELF_TEST_SLOT).map(|figures| figures.process_ns - before))
        });
        self.unwatch(tgid);
        let seen = Duration::from_nanos(seen?);
        self.close_slot(SELF_TEST_SLOT)?;
        if seen < burnt.mul_f64(0.8) || seen > burnt.mul_f64(2.0) + Duration::from_millis(2) {
            return Err(KernelError::Cannot {
                what: "checking the measurement against this process's own CPU time".into(),
                why: format!("{burnt:?} were used, {seen:?} were measured"),
                remedy: "this kernel lays its structures out in a way this release does not know: please report it".into(),
            });
        }
        Ok(())
    }
}

/// Uses the CPU for a while; how long, by the thread's own clock.
fn burn() -> Duration {
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    let start = clock();
    while clock() - start < BURN {
        std::hint::spin_loop();
    }
    clock()
}
