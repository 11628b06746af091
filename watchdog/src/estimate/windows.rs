//! What a build did in recent windows of a second or more: whole CPU time, and which requests.
//!
//! A request that straddles an edge has its CPU time in two windows. It is counted half where it began and half where it
//! ended. Whatever part of its CPU time comes when, the slope of CPU time on such counts has no bias for requests that
//! arrive independently and last `D` within windows of length `T > D`: both the covariance and the variance are
//! `rate * (T - D/2)`. Counting ends (or beginnings) alone makes every figure too small by `D/2T`, and an even spread
//! over the request's time is right only if its CPU time is spread so too.

use std::collections::VecDeque;

/// The shortest window. Each holds what several ticks brought.
const WINDOW_NS: u64 = 1_000_000_000;
/// Windows without any request are one up to this length: a quiet night must not push the requests out.
const IDLE_WINDOW_NS: u64 = 60_000_000_000;
/// The oldest go first: ten minutes of a busy service, more of a quiet one.
const KEPT: usize = 600;
/// What of a request's duration is believed to be work, where nobody knows: a stream of messages may last for hours.
const MOST_WALL_NS: u64 = 1_000_000_000;

/// What grew since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Whole CPU time of the build's processes, by the scheduler.
    pub cpu_ns: u64,
    /// Of that, what direct attribution gave to requests.
    pub attributed_ns: u64,
    /// Requests begun and ended, watched or not.
    pub started: u64,
    pub finished: u64,
}

/// Requests of one kind that began and ended at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// As the kernel counts: 0 is "other".
    pub endpoint: u16,
    pub began_mono_ns: u64,
    pub ended_mono_ns: u64,
    pub count: u64,
    /// What direct attribution says that each used.
    pub direct_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cell {
    /// One for each beginning and one for each end.
    pub(super) halves: u64,
    pub(super) finished: u64,
    /// Of these, what direct attribution only counts.
    pub(super) uncharged: u64,
    pub(super) direct_ns: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) begin_mono_ns: u64,
    pub(super) span_ns: u64,
    /// The processes were not busy starting.
    pub(super) settled: bool,
    pub(super) grown: Growth,
    /// By endpoint; the first one stays empty, as requests on "other" are known by their sum only.
    pub(super) cells: Box<[Cell]>,
    /// Sum over ended requests of direct CPU time x duration, ns x ns.
    pub(super) cpu_by_wall: f64,
    /// Of requests that are only counted: how many ended, and the sum of their durations, each up to [`MOST_WALL_NS`].
    pub(super) uncharged: u64,
    pub(super) uncharged_wall_ns: u64,
}

impl Row {
    fn new(begin_mono_ns: u64, endpoints: usize) -> Self {
        Self {
            begin_mono_ns,
            span_ns: 0,
            settled: true,
            grown: Growth::default(),
            cells: vec![Cell::default(); endpoints].into(),
            cpu_by_wall: 0.0,
            uncharged: 0,
            uncharged_wall_ns: 0,
        }
    }

    pub(super) fn end_mono_ns(&self) -> u64 {
        self.begin_mono_ns + self.span_ns
    }

    fn is_idle(&self) -> bool {
        self.grown.started == 0 && self.grown.finished == 0 && self.cells.iter().all(|cell| cell.halves == 0)
    }

    fn add(&mut self, span_ns: u64, grown: &Growth, settled: bool) {
        self.span_ns += span_ns;
        self.settled &= settled;
        self.grown.cpu_ns += grown.cpu_ns;
        self.grown.attributed_ns += grown.attributed_ns;
        self.grown.started += grown.started;
        self.grown.finished += grown.finished;
    }
}

/// The recent windows of one build, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    pub(super) rows: VecDeque<Row>,
    current: Row,
}

impl Windows {
    /// `endpoints` includes "other".
    pub fn new(endpoints: usize, now_mono_ns: u64) -> Self {
        Self { rows: VecDeque::new(), current: Row::new(now_mono_ns, endpoints) }
    }

    /// Requests that have ended. They may be told before or after the tick in which they did.
    pub fn ended(&mut self, requests: &Requests) {
        let index = usize::from(requests.endpoint);
        if index == 0 || index >= self.current.cells.len() {
            return;
        }
        let wall_ns = requests.ended_mono_ns.saturating_sub(requests.began_mono_ns);
        let cpu_ns = requests.direct_ns.saturating_mul(requests.count);
        if let Some(row) = self.row_at(requests.ended_mono_ns) {
            let cell = &mut row.cells[index];
            cell.halves += requests.count;
            cell.finished += requests.count;
            cell.direct_ns += cpu_ns;
            row.cpu_by_wall += cpu_ns as f64 * wall_ns as f64;
        }
        if let Some(row) = self.row_at(requests.began_mono_ns) {
            row.cells[index].halves += requests.count;
        }
    }

    /// Requests that have ended and that direct attribution only counts, on watched endpoints or not; they are in no
    /// [`Growth`].
    pub fn counted(&mut self, requests: &Requests) {
        let index = usize::from(requests.endpoint);
        let wall_ns = requests.ended_mono_ns.saturating_sub(requests.began_mono_ns).min(MOST_WALL_NS);
        if let Some(row) = self.row_at(requests.ended_mono_ns) {
            row.grown.finished += requests.count;
            row.uncharged += requests.count;
            row.uncharged_wall_ns += wall_ns.saturating_mul(requests.count);
            if let Some(cell) = row.cells.get_mut(index).filter(|_| index > 0) {
                cell.halves += requests.count;
                cell.finished += requests.count;
                cell.uncharged += requests.count;
            }
        }
        if let Some(row) = self.row_at(requests.began_mono_ns) {
            row.grown.started += requests.count;
            if let Some(cell) = row.cells.get_mut(index).filter(|_| index > 0) {
                cell.halves += requests.count;
            }
        }
    }

    /// CPU time that direct attribution gives to a request that was told already.
    pub fn continued(&mut self, endpoint: u16, direct_ns: u64) {
        if let Some(cell) = self.current.cells.get_mut(usize::from(endpoint)) {
            cell.direct_ns += direct_ns;
        }
    }

    /// A tick: what grew since the one before. `settled` is false while a process of the build is starting.
    pub fn advance(&mut self, now_mono_ns: u64, grown: &Growth, settled: bool) {
        let span_ns = now_mono_ns.saturating_sub(self.current.end_mono_ns());
        self.current.add(span_ns, grown, settled);
        if self.current.span_ns < WINDOW_NS {
            return;
        }
        let next = Row::new(self.current.end_mono_ns(), self.current.cells.len());
        let row = std::mem::replace(&mut self.current, next);
        match self.rows.back_mut() {
            Some(last)
                if row.is_idle()
                    && last.is_idle()
                    && last.settled == row.settled
                    && last.span_ns + row.span_ns <= IDLE_WINDOW_NS =>
            {
                last.add(row.span_ns, &row.grown, row.settled);
            }
            _ => self.rows.push_back(row),
        }
        if self.rows.len() > KEPT {
            self.rows.pop_front();
        }
    }

    /// End of the last tick.
    pub fn until_mono_ns(&self) -> u64 {
        self.current.end_mono_ns()
    }

    /// `None` for what was before all windows.
    fn row_at(&mut self, mono_ns: u64) -> Option<&mut Row> {
        if mono_ns >= self.current.begin_mono_ns {
            return Some(&mut self.current);
        }
        let after = self.rows.partition_point(|row| row.begin_mono_ns <= mono_ns);
        self.rows.get_mut(after.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn halves(windows: &Windows) -> Vec<u64> {
        windows.rows.iter().chain([&windows.current]).map(|row| row.cells[1].halves).collect()
    }

    #[test]
    fn a_request_counts_half_where_it_began_and_half_where_it_ended() {
        let mut windows = Windows::new(2, 0);
        let one = |began: u64, ended: u64| Requests {
            endpoint: 1,
            began_mono_ns: began,
            ended_mono_ns: ended,
            count: 1,
            direct_ns: 5,
        };
        let busy = Growth { cpu_ns: 5, attributed_ns: 5, started: 1, finished: 1 };
        windows.advance(S, &busy, true);
        windows.advance(2 * S, &busy, true);
        windows.ended(&one(S / 2, 2 * S - 1));
        windows.ended(&one(2 * S, 2 * S + 5));
        windows.advance(3 * S, &busy, true);
        windows.ended(&one(S + S / 2, 3 * S + 5));
        assert_eq!(halves(&windows), [1, 2, 2, 1]);
        assert_eq!(windows.rows[1].cells[1].finished, 1);
        // Of another life of the slot.
        windows.ended(&Requests { endpoint: 9, ..one(0, 3 * S) });
        assert_eq!(halves(&windows), [1, 2, 2, 1]);
    }

    #[test]
    fn requests_that_are_only_counted_are_in_the_counts_and_in_no_direct_figure() {
        let mut windows = Windows::new(2, 0);
        let one = |endpoint, began: u64, ended: u64| Requests {
            endpoint,
            began_mono_ns: began,
            ended_mono_ns: ended,
            count: 1,
            direct_ns: 0,
        };
        windows.advance(S, &Growth::default(), true);
        windows.counted(&one(1, S / 2, S + 1));
        windows.counted(&one(0, S + 5, 90 * S));
        assert_eq!(halves(&windows), [1, 1]);
        let told = |row: &Row| (row.grown.started, row.grown.finished, row.uncharged, row.uncharged_wall_ns);
        assert_eq!(told(&windows.rows[0]), (1, 0, 0, 0));
        assert_eq!(told(&windows.current), (1, 2, 2, S / 2 + 1 + S));
        assert_eq!((windows.current.cells[1].uncharged, windows.current.cells[0]), (1, Cell::default()));
    }

    #[test]
    fn a_quiet_hour_is_few_windows_and_the_memory_is_bounded() {
        let mut windows = Windows::new(2, 0);
        for second in 1..=3600 {
            windows.advance(second * S, &Growth { cpu_ns: 7, ..Growth::default() }, true);
        }
        assert_eq!(windows.rows.len(), 60);
        assert_eq!(windows.rows.iter().map(|row| row.grown.cpu_ns).sum::<u64>(), 3600 * 7);
        for second in 3601..=8000 {
            windows.advance(second * S, &Growth { started: 1, finished: 1, ..Growth::default() }, true);
        }
        assert_eq!(windows.rows.len(), KEPT);
        assert_eq!(windows.until_mono_ns(), 8000 * S);
    }
}
