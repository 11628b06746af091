//! From windows to costs.

use super::linear::Normal;
use super::windows::{Row, Windows};
use super::{Answer, EndpointEstimate, Estimate, Figure};

/// Fewer windows say nothing.
pub const LEAST_WINDOWS: usize = 24;
/// Nor do fewer requests of an endpoint.
pub const LEAST_REQUESTS: u64 = 30;
/// In so many blocks an endpoint must have had requests.
const LEAST_BLOCKS: usize = 6;
const MOST_BLOCKS: usize = 30;
/// Endpoints with a column of their own; the others share one.
const MOST_COLUMNS: usize = 8;
/// A window is at least so many times as long as requests take, weighed by their CPU time.
const WINDOW_PER_WALL: f64 = 5.0;
/// Requests that come independently vary by 1 (variance over mean, given all else). A quarter of it cannot be chance, and
/// what is left then are the edges of windows.
const LEAST_DISPERSION: f64 = 0.25;
/// The same for the work as a whole.
const LEAST_LOAD_DISPERSION: f64 = 0.5;
/// An empty window weighs at most so many times as much as an average one.
const IDLE_WEIGHT: f64 = 5.0;
const WEIGHING_ROUNDS: usize = 2;
const NS: f64 = 1e-9;

/// Some windows as one.
struct Observed {
    seconds: f64,
    cpu_seconds: f64,
    /// By endpoint: half its beginnings and ends; the first one is everything else.
    counts: Vec<f64>,
}

impl Windows {
    /// Costs of the endpoints by what these windows show. Those in `first` get columns of their own before others.
    pub fn fit(&self, first: &[u16]) -> Estimate {
        let used = self.used();
        let endpoints = used.first().map_or(0, |row| row.cells.len());
        let sum = |figure: &dyn Fn(&Row) -> u64| used.iter().map(|row| figure(row)).sum::<u64>();
        let cpu_ns = sum(&|row| row.grown.cpu_ns);
        let finished: Vec<u64> =
            (0..endpoints).map(|endpoint| sum(&|row| row.cells[endpoint].finished)).collect();
        let observed = observe(&used, self.least_seconds(&used));
        let answers = Fit::new(&observed, &finished, first).answers();
        let endpoints = (1u16..).zip(finished.iter().skip(1)).map(|(endpoint, &requests)| {
            let direct_ns = sum(&|row| row.cells[usize::from(endpoint)].direct_ns);
            let uncharged = sum(&|row| row.cells[usize::from(endpoint)].uncharged);
            let charged = requests.saturating_sub(uncharged);
            EndpointEstimate {
                endpoint,
                requests,
                uncharged,
                direct_mean_ns: (charged > 0).then(|| direct_ns as f64 / charged as f64),
                answer: answers.endpoints[usize::from(endpoint)].clone(),
            }
        });
        Estimate {
            windows: observed.len() as u64,
            span_ns: sum(&|row| row.span_ns),
            cpu_ns,
            unattributed_ns: cpu_ns.saturating_sub(sum(&|row| row.grown.attributed_ns)),
            constant: answers.constant,
            endpoints: endpoints.collect(),
        }
    }

    /// Settled windows whose requests have ended, as far as one can expect.
    fn used(&self) -> Vec<&Row> {
        let settled: Vec<&Row> = self.rows.iter().filter(|row| row.settled).collect();
        let wait_ns = self.least_seconds(&settled) / NS;
        let until_ns = self.until_mono_ns() as f64 - wait_ns;
        settled.into_iter().filter(|row| row.end_mono_ns() as f64 <= until_ns).collect()
    }

    /// How long a window must be beside the duration of the requests that use the CPU.
    #[expect(clippy::unused_self, reason = "a property of windows")]
    fn least_seconds(&self, rows: &[&Row]) -> f64 {
        let cpu_ns: f64 = rows.iter().flat_map(|row| &row.cells).map(|cell| cell.direct_ns as f64).sum();
        let by_wall: f64 = rows.iter().map(|row| row.cpu_by_wall).sum();
        let charged = if cpu_ns > 0.0 { by_wall / cpu_ns } else { 0.0 };
        // Whose CPU time it was is not known: all durations weigh the same.
        let uncharged: f64 = rows.iter().map(|row| row.uncharged as f64).sum();
        let wall_ns: f64 = rows.iter().map(|row| row.uncharged_wall_ns as f64).sum();
        let counted = if uncharged > 0.0 { wall_ns / uncharged } else { 0.0 };
        WINDOW_PER_WALL * NS * charged.max(counted)
    }
}

/// Joins neighbours until each is long enough.
fn observe(rows: &[&Row], least_seconds: f64) -> Vec<Observed> {
    let mut all: Vec<Observed> = Vec::new();
    let mut short = false;
    for row in rows {
        let halves = row.cells.iter().map(|cell| cell.halves as f64 / 2.0);
        let mut counts: Vec<f64> = halves.collect();
        let watched: f64 = counts.iter().skip(1).sum();
        counts[0] = (row.grown.started + row.grown.finished) as f64 / 2.0 - watched;
        let one =
            Observed { seconds: row.span_ns as f64 * NS, cpu_seconds: row.grown.cpu_ns as f64 * NS, counts };
        match all.last_mut() {
            Some(last) if short => {
                last.seconds += one.seconds;
                last.cpu_seconds += one.cpu_seconds;
                last.counts.iter_mut().zip(&one.counts).for_each(|(mine, more)| *mine += more);
            }
            _ => all.push(one),
        }
        short = all.last().is_some_and(|last| last.seconds < least_seconds);
    }
    if short {
        all.pop();
    }
    // A beginning is told late, so "everything else" may be a little less than nothing.
    for one in &mut all {
        one.counts[0] = one.counts[0].max(0.0);
    }
    all
}

struct Answers {
    constant: Option<Figure>,
    /// By endpoint, "other" included.
    endpoints: Vec<Answer>,
}

/// Endpoints that share a column of the design; the constant's column comes before all of them.
type Groups = Vec<Vec<usize>>;

struct Fit<'a> {
    observed: &'a [Observed],
    finished: &'a [u64],
    groups: Groups,
    /// Endpoints in the column of the rest, if there is one: the last of `groups`.
    rest: Vec<usize>,
    /// The design: seconds, then the counts of each group.
    rows: Vec<Vec<f64>>,
}

impl<'a> Fit<'a> {
    fn new(observed: &'a [Observed], finished: &'a [u64], first: &[u16]) -> Self {
        let mut order: Vec<usize> = (1..finished.len()).filter(|&endpoint| finished[endpoint] > 0).collect();
        let is_first = |endpoint: usize| first.iter().any(|first| usize::from(*first) == endpoint);
        order.sort_by_key(|&endpoint| (!is_first(endpoint), std::cmp::Reverse(finished[endpoint])));
        let mut rest = order.split_off(order.len().min(MOST_COLUMNS));
        if observed.iter().any(|one| one.counts[0] > 0.0) {
            rest.insert(0, 0);
        }
        order.sort_unstable();
        let mut groups: Groups = order.into_iter().map(|endpoint| vec![endpoint]).collect();
        if !rest.is_empty() {
            groups.push(rest.clone());
        }
        let mut fit = Self { observed, finished, groups, rest, rows: Vec::new() };
        fit.make_rows();
        fit
    }

    fn make_rows(&mut self) {
        let row = |observed: &Observed| {
            let of = |group: &Vec<usize>| group.iter().map(|&endpoint| observed.counts[endpoint]).sum();
            std::iter::once(observed.seconds).chain(self.groups.iter().map(of)).collect()
        };
        self.rows = self.observed.iter().map(row).collect();
    }

    /// Each window: its row of the design, what was observed and its weight.
    fn weighed<'b>(&'b self, weights: &'b [f64]) -> impl Iterator<Item = (&'b [f64], &'b Observed, f64)> {
        self.rows
            .iter()
            .zip(self.observed)
            .zip(weights)
            .map(|((row, one), weight)| (row.as_slice(), one, *weight))
    }

    fn answers(mut self) -> Answers {
        let needed = LEAST_WINDOWS.max(4 * (self.groups.len() + 1));
        if self.observed.len() < needed || self.groups.is_empty() {
            let answer = Answer::Windows { seen: self.observed.len() as u64, needed: needed as u64 };
            return Answers { constant: None, endpoints: vec![answer; self.finished.len()] };
        }
        let weights = self.weights();
        if self.load_is_even(&weights) {
            return Answers { constant: None, endpoints: vec![Answer::Even; self.finished.len()] };
        }
        self.join_inseparable(&weights);
        let even = self.still_inseparable(&weights);
        let figures = self.figures(&weights);
        let answer = |endpoint: usize| {
            if self.rest.contains(&endpoint) {
                return Answer::Crowded;
            }
            let requests = self.finished[endpoint];
            let few = Answer::Requests { seen: requests, needed: LEAST_REQUESTS };
            let Some(column) = self.groups.iter().position(|group| group.contains(&endpoint)) else {
                return few;
            };
            if even[column] {
                return Answer::Even;
            }
            let Some(figure) = figures[column + 1].filter(|_| requests >= LEAST_REQUESTS) else { return few };
            let others = self.groups[column].iter().filter(|&&other| other != endpoint);
            let with: Vec<u16> = others.filter_map(|&other| u16::try_from(other).ok()).collect();
            if with.is_empty() { Answer::Known { figure } } else { Answer::Together { with, figure } }
        };
        Answers { constant: figures[0], endpoints: (0..self.finished.len()).map(answer).collect() }
    }

    fn normal(&self, weights: &[f64]) -> Normal {
        let mut normal = Normal::new(self.groups.len() + 1);
        for (row, observed, weight) in self.weighed(weights) {
            normal.add(row, observed.cpu_seconds, weight);
        }
        normal
    }

    /// Inverse of what a fit expects of each window, up to a factor.
    fn weights(&self) -> Vec<f64> {
        let mut weights: Vec<f64> = self.observed.iter().map(|one| 1.0 / one.seconds).collect();
        for _ in 0..WEIGHING_ROUNDS {
            let costs = self.normal(&weights).solve_nonnegative();
            let expected: Vec<f64> = self.rows.iter().map(|row| dot(row, &costs)).collect();
            let average = expected.iter().sum::<f64>() / expected.len() as f64;
            let floor = (average / IDLE_WEIGHT).max(NS);
            weights = expected.iter().map(|expected| average / (expected + floor)).collect();
        }
        weights
    }

    /// Whether the work varies less than that of independent requests would: then either their number follows from what
    /// they cost (a server at its limit), or they come like clockwork.
    fn load_is_even(&self, weights: &[f64]) -> bool {
        let mut counts_only = Normal::new(self.groups.len());
        for (row, observed, weight) in self.weighed(weights) {
            counts_only.add(&row[1..], observed.cpu_seconds, weight);
        }
        let costs = counts_only.solve_nonnegative();
        let squares: Vec<f64> = costs.iter().map(|cost| cost * cost).collect();
        // CPU time by the counts, and as it was; each beside the time.
        let mut by_time = [Normal::new(2), Normal::new(2)];
        let mut independent = 0.0;
        for (row, observed, weight) in self.weighed(weights) {
            independent += weight * dot(&row[1..], &squares);
            by_time[0].add(&[observed.seconds, dot(&row[1..], &costs)], 0.0, weight);
            by_time[1].add(&[observed.seconds, observed.cpu_seconds], 0.0, weight);
        }
        by_time.iter().any(|normal| normal.explain(1).0 < LEAST_LOAD_DISPERSION * independent)
    }

    /// Variance over mean of each column's counts, given the other columns, and how those explain it.
    fn dispersion(&self, normal: &Normal, weights: &[f64], column: usize) -> (f64, Vec<f64>) {
        let (unexplained, by) = normal.explain(column + 1);
        let independent: f64 = self.weighed(weights).map(|(row, _, weight)| weight * row[column + 1]).sum();
        (if independent > 0.0 { unexplained / independent } else { f64::INFINITY }, by)
    }

    /// Gives one column to endpoints of which each comes with the other.
    fn join_inseparable(&mut self, weights: &[f64]) {
        // The column of the rest takes no part: whatever is in it, it has no figure.
        for _ in 0..self.groups.len() {
            let normal = self.normal(weights);
            let named = self.groups.len() - usize::from(!self.rest.is_empty());
            let measured: Vec<(f64, Vec<f64>)> =
                (0..named).map(|column| self.dispersion(&normal, weights, column)).collect();
            let dependent = |column: usize| measured[column].0 < LEAST_DISPERSION;
            let pair = (0..named)
                .flat_map(|a| (a + 1..named).map(move |b| (a, b)))
                .filter(|&(a, b)| dependent(a) && dependent(b))
                .map(|(a, b)| (a, b, measured[a].1[b + 1].min(measured[b].1[a + 1])))
                .filter(|(_, _, by)| *by > 0.0)
                .max_by(|x, y| x.2.total_cmp(&y.2));
            let Some((a, b, _)) = pair else { return };
            let joined = self.groups.remove(b);
            self.groups[a].extend(joined);
            self.groups[a].sort_unstable();
            self.make_rows();
        }
    }

    /// Columns that even now follow from the others.
    fn still_inseparable(&self, weights: &[f64]) -> Vec<bool> {
        let normal = self.normal(weights);
        (0..self.groups.len())
            .map(|column| self.dispersion(&normal, weights, column).0 < LEAST_DISPERSION)
            .collect()
    }

    /// Of the constant and each column; `None` where too few blocks have any of it.
    fn figures(&self, weights: &[f64]) -> Vec<Option<Figure>> {
        let blocks = (self.observed.len() / 2).clamp(1, MOST_BLOCKS);
        let columns = self.groups.len() + 1;
        let block_of = |index: usize| index * blocks / self.observed.len();
        let mut parts = vec![Normal::new(columns); blocks];
        let mut present = vec![vec![false; columns]; blocks];
        for (index, (row, observed, weight)) in self.weighed(weights).enumerate() {
            let block = block_of(index);
            parts[block].add(row, observed.cpu_seconds, weight);
            present[block].iter_mut().zip(row).for_each(|(present, count)| *present |= *count > 0.0);
        }
        let without = |left_out: Option<usize>| {
            let mut sum = Normal::new(columns);
            let kept = parts.iter().enumerate().filter(|(block, _)| Some(*block) != left_out);
            kept.for_each(|(_, part)| sum.merge(part));
            sum
        };
        let whole = without(None);
        let (nonnegative, free) = (whole.solve_nonnegative(), whole.solve_all());
        let deleted: Vec<Vec<f64>> = (0..blocks).map(|block| without(Some(block)).solve_all()).collect();
        let figure = |column: usize| {
            let with = present.iter().filter(|present| present[column]).count();
            if with < LEAST_BLOCKS {
                return None;
            }
            let squares: f64 = deleted
                .iter()
                .map(|costs| (costs[column] - free[column]) * (costs[column] - free[column]))
                .sum();
            let share = (blocks - 1) as f64 / blocks as f64;
            Some(Figure {
                mean_ns: nonnegative[column] / NS,
                centre_ns: free[column] / NS,
                error_ns: libm::sqrt(share * squares) / NS,
                degrees: (with - 1) as f64,
            })
        };
        (0..columns).map(figure).collect()
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}
