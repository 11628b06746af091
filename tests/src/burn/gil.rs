//! One lock that all working threads hold in turn, after the model of Python's global interpreter lock: a thread that
//! has waited 5 ms asks the holder to drop it, and the holder waits until somebody else has taken it.
//!
//! For the kernel each hand-over looks like a thread waking another one of its own process, which must not be taken for
//! a hand-over of work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SWITCH_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    held: bool,
    /// Times that the lock was taken.
    taken: u64,
}

#[derive(Debug, Default)]
pub struct Gil {
    state: Mutex<State>,
    freed: Condvar,
    switched: Condvar,
    drop_asked: AtomicBool,
}

/// Proof that the calling thread holds the lock.
#[derive(Debug)]
pub struct Held<'a>(&'a Gil);

impl Gil {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acquire(&self) -> Held<'_> {
        self.take();
        Held(self)
    }

    fn take(&self) {
        let mut state = self.state();
        while state.held {
            let seen = state.taken;
            let (next, timeout) =
                self.freed.wait_timeout(state, SWITCH_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if timeout.timed_out() && state.held && state.taken == seen {
                self.drop_asked.store(true, Ordering::Relaxed);
            }
        }
        state.held = true;
        state.taken += 1;
        self.drop_asked.store(false, Ordering::Relaxed);
        self.switched.notify_one();
    }

    fn release(&self) -> u64 {
        let mut state = self.state();
        state.held = false;
        self.freed.notify_one();
        state.taken
    }
}

impl Held<'_> {
    /// If another thread has asked: lets it have the lock and takes it back in turn.
    pub fn hand_over_if_asked(&mut self) {
        if !self.0.drop_asked.load(Ordering::Relaxed) {
            return;
        }
        let seen = self.0.release();
        let mut state = self.0.state();
        while state.taken == seen {
            state = self.0.switched.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.0.take();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burn::meter::spin;

    #[test]
    fn threads_take_turns_while_each_spins() {
        let gil = Gil::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| spin(Duration::from_millis(30), Some(&gil)));
            }
        });
        assert!(gil.state().taken > 6, "taken {} times", gil.state().taken);
        assert!(!gil.state().held);
    }
}
