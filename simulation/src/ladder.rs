//! A rule that is faster than the agent's, shown beside it: bets on how far up its class's distribution a request lies.
//!
//! For levels `p` with limits `q_p`, `z = average over p of 1{x > q_p} / (1 - p)`. While the build keeps every one of
//! these quantile budgets, `E[1{x > q_p} | past] <= 1 - p`, so `E[z | past] <= 1`, and the average is an e-value like
//! those of the components it is made of: the same products, the same sum over classes and the same bar keep the same
//! promise. It is faster because a request that lies far out pays at once for all levels it exceeds, and bettors on it
//! need not be paid for one by one. What it tests is more than the agent promises to test: all levels, not two.

use watchdog::sequential::{Parameters, Process, released};

use crate::limits::{ClassLimits, Limits};
use crate::world::Request;

/// Part of a class's capital that stays with its mean.
const MEAN_PART: f64 = 0.5;

pub struct Ladder {
    classes: Vec<Class>,
    second: u64,
    released: f64,
    first_stake: f64,
    requests: u64,
    min_requests: u64,
    bar: f64,
    cap: f64,
}

struct Class {
    number: u8,
    weight: f64,
    mean_ms: f64,
    /// Limit and `1 / (1 - p)` over the number of levels.
    steps: Vec<(f64, f64)>,
    mean: Process,
    ladder: Process,
}

impl Ladder {
    pub fn new(limits: &Limits, parameters: &Parameters) -> Self {
        let process = || Process::new(parameters.first_stake, parameters.outlier_allowance);
        let class = |class: &ClassLimits| {
            let levels = class.ladder.len() as f64;
            let steps = class.ladder.iter().map(|&(tail, limit)| (limit, 1.0 / tail / levels)).collect();
            let (number, weight, mean_ms) = (class.number, class.weight, class.mean_ms);
            Class { number, weight, mean_ms, steps, mean: process(), ladder: process() }
        };
        Self {
            classes: limits.classes.iter().map(class).collect(),
            second: 0,
            released: released(0, parameters.first_stake),
            first_stake: parameters.first_stake,
            requests: 0,
            min_requests: parameters.min_requests,
            bar: parameters.bar(),
            cap: parameters.cap,
        }
    }

    pub fn observe(&mut self, request: &Request, class: u8) -> bool {
        if request.second > self.second {
            let now = released(request.second, self.first_stake);
            for class in &mut self.classes {
                class.mean.release(now - self.released);
                class.ladder.release(now - self.released);
            }
            (self.second, self.released) = (request.second, now);
        }
        self.requests += 1;
        let ms = request.ms / request.warm_up;
        let own = self.classes.iter_mut().find(|own| own.number == class);
        let class = own.expect("every class has limits");
        class.mean.settle((ms / class.mean_ms).min(self.cap), 1);
        if !class.steps.is_empty() {
            let z = class.steps.iter().filter(|(limit, _)| ms > *limit).map(|(_, pays)| pays).sum();
            class.ladder.settle(z, 1);
        }
        let of_class = |class: &Class| {
            let (mean, ladder) = (class.mean.value(self.released), class.ladder.value(self.released));
            // Without levels all is the mean's.
            let part = if class.steps.is_empty() { 1.0 } else { MEAN_PART };
            class.weight * (part * mean + (1.0 - part) * ladder)
        };
        let evidence: f64 = self.classes.iter().map(of_class).sum();
        self.requests >= self.min_requests && evidence >= self.bar
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::TAILS;
    use crate::rng::Rng;
    use crate::workload::LOGIN;

    #[test]
    fn a_step_pays_one_on_average_at_its_limit() {
        // Of the good build itself, limits at 1.0: E z = 1.
        let mut rng = Rng::of(1, "ladder", 0);
        let cost = LOGIN.outcomes[0].cost;
        let limits: Vec<(f64, f64)> =
            TAILS.iter().map(|tail| (cost.quantile(1.0 - tail), 1.0 / tail / TAILS.len() as f64)).collect();
        let n = 200_000;
        let mut sum = 0.0;
        for _ in 0..n {
            let ms = cost.draw(&mut rng);
            sum += limits.iter().filter(|(limit, _)| ms > *limit).map(|(_, pays)| pays).sum::<f64>();
        }
        // The variance of z is 1/49 of the sum of 1 / max(tail, tail') over all pairs, about 60.
        let mean = sum / f64::from(n);
        assert!((mean - 1.0).abs() < 5.0 * libm::sqrt(60.0 / f64::from(n)), "{mean}");
    }
}
