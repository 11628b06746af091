//! How often a build was seen starting.

use serde::{Deserialize, Serialize};

/// Starts after which the warm-up of a build is known.
pub const NEEDED_STARTS: usize = 3;
/// Processes that start within so many seconds are one start: eight workers of one deploy warm up in the same minute, and
/// say nothing of the next one.
const APART_SECONDS: u64 = 100;

/// Starts of a build, [`NEEDED_STARTS`] at most. By time since boot, which nobody can set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts(Vec<Start>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    /// The kernel's boot id.
    boot: String,
    second: u64,
}

impl Starts {
    /// A process began `second` seconds after the boot. Whether it counts as a start of its own.
    pub fn record(&mut self, boot: &str, second: u64) -> bool {
        let same = |start: &Start| start.boot == boot && start.second.abs_diff(second) < APART_SECONDS;
        let counts = self.0.len() < NEEDED_STARTS && !self.0.iter().any(same);
        if counts {
            self.0.push(Start { boot: boot.to_owned(), second });
        }
        counts
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn merge(&mut self, other: &Self) {
        for start in &other.0 {
            self.record(&start.boot, start.second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_start_together_are_one_start() {
        let mut starts = Starts::default();
        assert!(starts.record("a", 1000));
        assert!(!starts.record("a", 1099) && !starts.record("a", 901));
        assert!(starts.record("a", 1100));
        // The same second after another boot.
        assert!(starts.record("b", 1000));
        assert!(!starts.record("b", 9000), "three are enough");
        assert_eq!(starts.count(), NEEDED_STARTS);
        let mut merged = starts.clone();
        merged.merge(&starts);
        assert_eq!(merged, starts);
    }
}
