//! Weighted least squares of a handful of columns, by their normal equations.

/// Of a column's own square, so much must not be explained by the columns before it, or it adds nothing.
const SINGULAR: f64 = 1e-10;

/// `gram` = X'WX (row by row) and `moment` = X'Wy of rows added one by one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Normal {
    columns: usize,
    gram: Vec<f64>,
    moment: Vec<f64>,
}

impl Normal {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, gram: vec![0.0; columns * columns], moment: vec![0.0; columns] }
    }

    pub(super) fn add(&mut self, row: &[f64], y: f64, weight: f64) {
        for (i, left) in row.iter().enumerate() {
            let weighted = weight * left;
            self.moment[i] += weighted * y;
            for (sum, right) in self.gram[i * self.columns..][..self.columns].iter_mut().zip(row) {
                *sum += weighted * right;
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.gram.iter_mut().zip(&other.gram).for_each(|(mine, theirs)| *mine += theirs);
        self.moment.iter_mut().zip(&other.moment).for_each(|(mine, theirs)| *mine += theirs);
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.gram[i * self.columns + j]
    }

    /// Least squares over the columns in `kept`; the others, and those that add nothing to the ones before, are 0.
    pub(super) fn solve(&self, kept: &[bool]) -> Vec<f64> {
        let factor = Factor::new(self, kept);
        factor.solve(&self.moment)
    }

    pub(super) fn solve_all(&self) -> Vec<f64> {
        self.solve(&vec![true; self.columns])
    }

    /// Least squares with no coefficient below 0 (Lawson and Hanson 1974, chapter 23; on the normal equations as in
    /// Bro and de Jong 1997).
    pub(super) fn solve_nonnegative(&self) -> Vec<f64> {
        let mut free = vec![false; self.columns];
        let mut x = vec![0.0; self.columns];
        // Each round frees one column; more rounds than this come from rounding only.
        for _ in 0..4 * self.columns {
            let Some(next) = self.steepest(&x, &free) else { break };
            free[next] = true;
            loop {
                let wanted = self.solve(&free);
                let blocked = (0..self.columns)
                    .filter(|&j| free[j] && wanted[j] <= 0.0)
                    .map(|j| (j, x[j] / (x[j] - wanted[j]).max(f64::MIN_POSITIVE)))
                    .min_by(|a, b| a.1.total_cmp(&b.1));
                let Some((first, step)) = blocked else {
                    x = wanted;
                    break;
                };
                for j in 0..self.columns {
                    x[j] = (x[j] + step * (wanted[j] - x[j])).max(0.0);
                }
                (free[first], x[first]) = (false, 0.0);
                if !free.contains(&true) {
                    break;
                }
            }
            if !free[next] {
                // Rounding freed it; the fit gets no better.
                break;
            }
        }
        x
    }

    /// The column at 0 that would lower the sum of squares fastest, each measured in its own length.
    fn steepest(&self, x: &[f64], free: &[bool]) -> Option<usize> {
        let slope = |j: usize| {
            let fitted: f64 = x.iter().enumerate().map(|(i, x)| self.at(j, i) * x).sum();
            let length = libm::sqrt(self.at(j, j));
            if length > 0.0 {
                ((self.moment[j] - fitted) / length, self.moment[j].abs() / length)
            } else {
                (0.0, 0.0)
            }
        };
        (0..self.columns)
            .filter(|&j| !free[j])
            .map(|j| (j, slope(j)))
            .filter(|(_, (slope, scale))| *slope > 1e-12 * scale)
            .max_by(|a, b| a.1.0.total_cmp(&b.1.0))
            .map(|(j, _)| j)
    }

    /// What of column `j` the other columns do not explain: its residual sum of squares, and the coefficients with which
    /// they explain the rest (its own is 0).
    pub(super) fn explain(&self, j: usize) -> (f64, Vec<f64>) {
        let mut others = vec![true; self.columns];
        others[j] = false;
        let target = Self {
            columns: self.columns,
            gram: self.gram.clone(),
            moment: (0..self.columns).map(|i| self.at(i, j)).collect(),
        };
        let by = target.solve(&others);
        let explained: f64 = by.iter().zip(&target.moment).map(|(by, moment)| by * moment).sum();
        ((self.at(j, j) - explained).max(0.0), by)
    }
}

/// Cholesky factor of the Gram matrix scaled to a diagonal of 1.
struct Factor {
    columns: usize,
    lower: Vec<f64>,
    /// 0 for a column that is left out.
    scale: Vec<f64>,
}

impl Factor {
    fn new(normal: &Normal, kept: &[bool]) -> Self {
        let columns = normal.columns;
        let scale_of = |j: usize| {
            let square = normal.at(j, j);
            if kept[j] && square > 0.0 { 1.0 / libm::sqrt(square) } else { 0.0 }
        };
        let mut scale: Vec<f64> = (0..columns).map(scale_of).collect();
        let mut lower = vec![0.0; columns * columns];
        for i in 0..columns {
            for j in 0..=i {
                let before: f64 = (0..j).map(|k| lower[i * columns + k] * lower[j * columns + k]).sum();
                let rest = normal.at(i, j) * scale[i] * scale[j] - before;
                if i != j {
                    let pivot = lower[j * columns + j];
                    lower[i * columns + j] = if pivot > 0.0 { rest / pivot } else { 0.0 };
                } else if scale[i] > 0.0 && rest > SINGULAR {
                    lower[i * columns + i] = libm::sqrt(rest);
                } else {
                    scale[i] = 0.0;
                    lower[i * columns..i * columns + i].fill(0.0);
                }
            }
        }
        Self { columns, lower, scale }
    }

    fn solve(&self, moment: &[f64]) -> Vec<f64> {
        let n = self.columns;
        let mut x = vec![0.0; n];
        for i in 0..n {
            if self.scale[i] > 0.0 {
                let before: f64 = (0..i).map(|k| self.lower[i * n + k] * x[k]).sum();
                x[i] = (moment[i] * self.scale[i] - before) / self.lower[i * n + i];
            }
        }
        for i in (0..n).rev() {
            if self.scale[i] > 0.0 {
                let after: f64 = (i + 1..n).map(|k| self.lower[k * n + i] * x[k]).sum();
                x[i] = (x[i] - after) / self.lower[i * n + i];
            }
        }
        x.iter_mut().zip(&self.scale).for_each(|(x, scale)| *x *= scale);
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(rows: &[([f64; 3], f64)]) -> Normal {
        let mut normal = Normal::new(3);
        for (row, y) in rows {
            normal.add(row, *y, 1.0);
        }
        normal
    }

    #[test]
    fn an_exact_system_is_solved_exactly() {
        let rows: Vec<([f64; 3], f64)> = (0..12)
            .map(|i| {
                let row = [1.0, f64::from(i % 5), f64::from(i * i % 7)];
                (row, 0.5 * row[0] + 20.0 * row[1] + 0.3 * row[2])
            })
            .collect();
        for found in [normal(&rows).solve_all(), normal(&rows).solve_nonnegative()] {
            for (found, true_one) in found.iter().zip([0.5, 20.0, 0.3]) {
                assert!((found - true_one).abs() < 1e-9, "{found} for {true_one}");
            }
        }
    }

    #[test]
    fn a_copy_of_a_column_adds_nothing_and_an_absent_one_neither() {
        let rows: Vec<([f64; 3], f64)> =
            (1..9).map(|i| ([f64::from(i), f64::from(i), 0.0], 3.0 * f64::from(i))).collect();
        let found = normal(&rows).solve_all();
        assert!((found[0] - 3.0).abs() < 1e-9 && found[1].abs() < 1e-9 && found[2].abs() < 1e-9, "{found:?}");
        let (unexplained, by) = normal(&rows).explain(1);
        assert!(unexplained < 1e-6 && (by[0] - 1.0).abs() < 1e-9, "{unexplained} {by:?}");
    }

    proptest! {
        /// The conditions of Karush, Kuhn and Tucker, which hold at the minimum and nowhere else.
        #[test]
        fn the_nonnegative_fit_is_the_best_one(
            rows in prop::collection::vec((prop::array::uniform3(0.0_f64..10.0), -20.0_f64..50.0), 6..40)
        ) {
            let normal = normal(&rows);
            let x = normal.solve_nonnegative();
            for j in 0..3 {
                let fitted: f64 = (0..3).map(|i| normal.at(j, i) * x[i]).sum();
                let slope = (normal.moment[j] - fitted) / normal.at(j, j).max(1.0);
                prop_assert!(x[j] >= 0.0);
                prop_assert!(slope < 1e-6, "{j}: {slope} {x:?}");
                prop_assert!(x[j] <= 0.0 || slope.abs() < 1e-6, "{j}: {slope} {x:?}");
            }
        }
    }
}
