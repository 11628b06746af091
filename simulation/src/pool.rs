//! Runs on all threads, with the same results whatever their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::deploy::Outcome;
use crate::rng::Rng;

/// Something to be repeated with other random figures.
pub struct Cell {
    /// Names its random figures and its results; cells of one label are the same.
    pub label: String,
    pub runs: u64,
    /// Of one run, in requests times components: for the order of work and the time left.
    pub cost: f64,
    pub run: Box<dyn Fn(Rng) -> Outcome + Send + Sync>,
}

/// By label of the cell.
pub type Results = BTreeMap<String, Vec<Outcome>>;

/// Runs all cells; `progress` is told the share of the work that is done, a few times a second.
pub fn run(cells: &[Cell], seed: u64, threads: usize, mut progress: impl FnMut(f64)) -> Results {
    let mut jobs: Vec<(usize, u64)> =
        cells.iter().enumerate().flat_map(|(cell, c)| (0..c.runs).map(move |run| (cell, run))).collect();
    // The long ones first, so that no thread is left with one at the end.
    jobs.sort_by(|a, b| cells[b.0].cost.total_cmp(&cells[a.0].cost).then(a.cmp(b)));
    let total: f64 = jobs.iter().map(|job| cells[job.0].cost).sum();
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut results: Vec<Vec<Option<Outcome>>> =
        cells.iter().map(|cell| (0..cell.runs).map(|_| None).collect()).collect();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, jobs, next) = (sender.clone(), &jobs, &next);
            scope.spawn(move || {
                while let Some(&(cell, run)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = (cells[cell].run)(Rng::of(seed, &cells[cell].label, run));
                    if sender.send((cell, run, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0.0;
        loop {
            match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok((cell, run, outcome)) => {
                    done += cells[cell].cost;
                    let run = usize::try_from(run).expect("runs fit into memory");
                    results[cell][run] = Some(outcome);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            progress(done / total);
        }
    });
    let complete = |runs: Vec<Option<Outcome>>| {
        runs.into_iter().map(|run| run.expect("a thread that fails ends the program")).collect()
    };
    cells.iter().zip(results).map(|(cell, runs)| (cell.label.clone(), complete(runs))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::Trigger;

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let cell = |label: &str, runs| Cell {
            label: label.into(),
            runs,
            cost: 1.0,
            run: Box::new(|mut rng| vec![Some(Trigger { seconds: rng.uniform(), requests: 1 })]),
        };
        let cells = [cell("a", 50), cell("b", 30)];
        let mut last = 0.0;
        let one = run(&cells, 7, 1, |share| last = share);
        assert!((last - 1.0_f64).abs() < 1e-9);
        assert_eq!(one, run(&cells, 7, 5, |_| ()));
        assert_ne!(one, run(&cells, 8, 5, |_| ()));
        assert_eq!((one["a"].len(), one["b"].len()), (50, 30));
    }
}
