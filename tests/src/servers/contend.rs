//! Loops that compete for the CPUs, as a noisy neighbour does.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LOOPS: usize = 2;
/// In case nobody stops them.
const AT_MOST: Duration = Duration::from_mins(2);

/// Two busy threads, ended when dropped.
#[derive(Debug)]
pub struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Instant::now() + AT_MOST;
        let threads = (0..LOOPS)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                        for _ in 0..10_000 {
                            spin_loop();
                        }
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // They cannot panic.
            let _ = thread.join();
        }
    }
}
