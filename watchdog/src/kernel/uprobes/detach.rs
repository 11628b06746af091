//! Taking probes out takes the kernel about 90 ms each (it waits for everybody who might be in one, under a lock of
//! its own that putting probes in needs too): a thread does it beside the agent's loop.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::programs::uprobe::UProbeLink;

/// Between two probes, so that whoever waits to put some in gets its turn.
const PAUSE: Duration = Duration::from_millis(5);

/// Probes on their way out.
pub(super) struct Detacher {
    to: Option<Sender<(u32, UProbeLink)>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Probes that each process has still to lose.
    left: Mutex<BTreeMap<u32, usize>>,
    /// Held while probes are put in, and while one is taken out.
    turn: Mutex<()>,
}

impl Shared {
    fn left(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_out(&self, tgid: u32) {
        let mut left = self.left();
        if let Some(count) = left.get_mut(&tgid) {
            *count -= 1;
            if *count == 0 {
                left.remove(&tgid);
            }
        }
    }
}

impl Detacher {
    pub(super) fn new() -> Self {
        Self { to: None, shared: Arc::default(), thread: None }
    }

    /// Takes a process's probes out, soon.
    pub(super) fn take_out(&mut self, tgid: u32, links: Vec<UProbeLink>) {
        if links.is_empty() {
            return;
        }
        *self.shared.left().entry(tgid).or_default() += links.len();
        for link in links {
            // Without the thread, here and now.
            if let Some(Err(mpsc::SendError((_, link)))) = self.sender().map(|to| to.send((tgid, link))) {
                drop(link);
                self.shared.is_out(tgid);
            }
        }
    }

    /// Whether a process still has probes that are on their way out.
    pub(super) fn is_busy_with(&self, tgid: u32) -> bool {
        self.shared.left().contains_key(&tgid)
    }

    /// While this is held, no probe is taken out, and putting some in waits for nobody.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.shared.turn()
    }

    fn sender(&mut self) -> Option<&Sender<(u32, UProbeLink)>> {
        if self.to.is_none() {
            let (to, from) = mpsc::channel::<(u32, UProbeLink)>();
            let shared = Arc::clone(&self.shared);
            let take_out = move || {
                for (tgid, link) in from {
                    let turn = shared.turn();
                    drop(link);
                    drop(turn);
                    shared.is_out(tgid);
                    std::thread::sleep(PAUSE);
                }
            };
            self.thread = std::thread::Builder::new().name("uprobes-out".to_owned()).spawn(take_out).ok();
            self.to = Some(to);
        }
        self.to.as_ref()
    }
}

impl Drop for Detacher {
    /// Returns when all are out.
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
