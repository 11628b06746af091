//! Before anything is believed: the kernel programs must see this process's own CPU time as the kernel tells it.
//! A wrong offset of the right type would pass the verifier.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::slots::SELF_TEST_SLOT;
use super::{Kernel, KernelError};

const BURN: Duration = Duration::from_millis(4);
/// How often the figures are compared, a millisecond or more apart, before they count as different.
const LOOKS: u32 = 200;
/// A few slices in a thousand begin unseen: one that does must not stop the agent, a wrong offset misses every one.
const ATTEMPTS: u32 = 3;

impl Kernel {
    pub(super) fn self_test(&mut self) -> Result<(), KernelError> {
        let tgid = std::process::id();
        self.occupy(SELF_TEST_SLOT, 0, 0)?;
        self.watch(tgid, SELF_TEST_SLOT);
        let (mut own, mut seen) = (Duration::ZERO, Duration::ZERO);
        let mut agrees = false;
        for _ in 0..ATTEMPTS {
            let (own_before, seen_before) = self.figures()?;
            // A thread of its own, so that it is switched out for good; on a busy machine that may take a while.
            std::thread::scope(|scope| scope.spawn(burn).join()).unwrap_or_default();
            agrees = (0..LOOKS).any(|_| {
                let Ok((own_after, seen_after)) = self.figures() else { return false };
                (own, seen) = (own_after.saturating_sub(own_before), seen_after.saturating_sub(seen_before));
                seen > own.mul_f64(0.7) && seen < own.mul_f64(1.3) + Duration::from_millis(2)
            });
            if agrees {
                break;
            }
        }
        self.unwatch(tgid);
        self.close_slot(SELF_TEST_SLOT)?;
        if !agrees {
            return Err(KernelError::Cannot {
                what: "checking the measurement against this process's own CPU time".into(),
                why: format!("{own:?} were used, {seen:?} were measured"),
                remedy: "this kernel lays its structures out in a way this release does not know: please report it".into(),
            });
        }
        Ok(())
    }

    /// This process's CPU time by its own clock and by the programs, just after a switch of the calling thread.
    fn figures(&self) -> Result<(Duration, Duration), KernelError> {
        std::thread::sleep(Duration::from_millis(1));
        let own = cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        Ok((own, Duration::from_nanos(self.read_conservation(SELF_TEST_SLOT)?.process_ns)))
    }
}

fn cpu(clock: ClockId) -> Duration {
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

/// Uses the CPU for a while, by the thread's own clock.
fn burn() {
    let start = cpu(ClockId::CLOCK_THREAD_CPUTIME_ID);
    while cpu(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(start) < BURN {
        std::hint::spin_loop();
    }
}
