//! A little work that is the same every second: what it costs now, against what it used to, is the host's doing.
//!
//! Integer arithmetic and a walk through 256 KiB of memory, so that it feels the clock's frequency, a neighbour on the same
//! core and a crowded cache. It costs at most a millisecond of CPU time each second, 0.1 % of a core, in a thread of its own;
//! the time is the thread's CPU time, so that waiting for a CPU counts for nothing.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use super::counters::{Counters, Counts};
use crate::clock;
use crate::model::EndpointName;

const EVERY: Duration = Duration::from_secs(1);
/// After a second of sleep caches are cold and the clock is low: that is not what requests find.
const SETTLE_NS: u64 = 150_000;
const MEASURE_NS: u64 = 650_000;
/// Between two looks at the clock.
const STEPS: u32 = 1_000;
const WORDS: usize = 64 << 10;
/// A reading rests on at least so many stretches, also where one takes long.
const LEAST_STRETCHES: usize = 3;

/// What a reading is stored under, beside the endpoints of a build: no configured name has a space. Changes with the work
/// and with how it was compiled, as readings of another loop compare with nothing.
pub fn stored_as() -> EndpointName {
    EndpointName::from(if cfg!(debug_assertions) {
        "calibration loop 1, unoptimized"
    } else {
        "calibration loop 1"
    })
}

/// One run of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// On-CPU time of 1,000 steps, the middle one of many such stretches.
    pub stretch_ns: u64,
    /// What the run cost in all.
    pub cost_ns: u64,
    /// Of the measured stretches together, where the machine can tell.
    pub counts: Option<Counts>,
}

/// The thread that runs the loop, until this is dropped.
#[derive(Debug)]
pub struct Calibration {
    readings: Receiver<Reading>,
    /// For looks that cannot wait.
    own: Work,
}

impl Calibration {
    pub fn start() -> std::io::Result<Self> {
        let (send, readings) = channel();
        thread::Builder::new().name("calibration".to_owned()).spawn(move || run(&send))?;
        Ok(Self { readings, own: Work::new() })
    }

    /// Runs the loop now, in the calling thread: a millisecond.
    pub fn look(&mut self) -> Reading {
        self.own.read(None)
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<Reading> {
        let mut taken = Vec::new();
        loop {
            match self.readings.try_recv() {
                Ok(reading) => taken.push(reading),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return taken,
            }
        }
    }
}

fn run(send: &Sender<Reading>) {
    let counters = Counters::open().ok();
    let mut work = Work::new();
    while send.send(work.read(counters.as_ref())).is_ok() {
        thread::sleep(EVERY);
    }
}

#[derive(Debug)]
struct Work {
    memory: Vec<u32>,
    stretches: Vec<u64>,
}

impl Work {
    fn new() -> Self {
        Self { memory: vec![1; WORDS], stretches: Vec::new() }
    }

    fn read(&mut self, counters: Option<&Counters>) -> Reading {
        let began = clock::thread_cpu_ns();
        let settled = began + SETTLE_NS;
        let end = settled + MEASURE_NS;
        let mut now = began;
        while now < settled {
            self.stretch();
            now = clock::thread_cpu_ns();
        }
        self.stretches.clear();
        let before = counters.and_then(Counters::read);
        while now < end || self.stretches.len() < LEAST_STRETCHES {
            self.stretch();
            let then = std::mem::replace(&mut now, clock::thread_cpu_ns());
            self.stretches.push(now - then);
        }
        let after = counters.and_then(Counters::read);
        self.stretches.sort_unstable();
        Reading {
            stretch_ns: self.stretches[self.stretches.len() / 2],
            cost_ns: now - began,
            counts: before.zip(after).map(|(before, after)| after.since(before)),
        }
    }

    /// The same steps each time; each needs the result of the one before, and where it looks nobody can foresee.
    fn stretch(&mut self) {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..STEPS {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let place = (state >> 33) as usize % WORDS;
            let word = &mut self.memory[place];
            // Always one more than it was: the next steps do not depend on how often this ran.
            state ^= u64::from(*word & 1) << 7;
            *word = word.wrapping_add(2);
        }
        std::hint::black_box(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_costs_at_most_a_millisecond_and_repeats_itself() {
        let mut work = Work::new();
        work.read(None);
        let mut readings: Vec<Reading> = (0..21).map(|_| work.read(None)).collect();
        readings.sort_by_key(|reading| reading.cost_ns);
        assert!(readings[10].cost_ns <= 1_000_000, "{:?}", readings[10]);
        readings.sort_by_key(|reading| reading.stretch_ns);
        let (low, high) = (readings[5].stretch_ns, readings[15].stretch_ns);
        // Other builds run on the same machine; a loop that measured nothing would be off by far more.
        assert!(low > 1_000 && high < 2 * low, "{low} to {high} ns for {STEPS} steps");
    }

    #[test]
    fn the_thread_sends_readings() {
        let calibration = Calibration::start().unwrap();
        let mut taken = Vec::new();
        for _ in 0..200 {
            taken.extend(calibration.take());
            if !taken.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no reading within two seconds");
    }
}
