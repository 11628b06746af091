//! The rules that are deployed today, as their documentation shows them: windows of a minute, looked at every 15 s.

use crate::mann_whitney;
use crate::rng::Rng;

/// Seconds between two looks.
const LOOK: f64 = 15.0;
/// Looks that a window lasts.
const LOOKS: usize = 4;
/// More requests of a minute are thinned to so many, at random.
const KEPT: usize = 600;

/// Which of them, by index of [`Windows::triggered`].
pub const MEAN: usize = 0;
pub const PROMETHEUS: usize = 1;
pub const ARGO: usize = 2;
pub const FLAGGER: usize = 3;
pub const KAYENTA: usize = 4;

/// State of all five for one deploy.
pub struct Windows {
    limit_ms: f64,
    /// Effect that Kayenta is told to allow.
    allowed: f64,
    /// Sum and count of the last looks.
    ring: [(f64, f64); LOOKS],
    look: usize,
    next: f64,
    in_a_row: u32,
    bad_minutes: u32,
    kayenta: bool,
    minute: Vec<f64>,
    of_minute: usize,
    rng: Rng,
    /// Time of the first trigger of each.
    pub triggered: [Option<f64>; 5],
}

impl Windows {
    pub fn new(limit_ms: f64, allowed: f64, kayenta: bool, rng: Rng) -> Self {
        Self {
            limit_ms,
            allowed,
            ring: [(0.0, 0.0); LOOKS],
            look: 0,
            next: LOOK,
            in_a_row: 0,
            bad_minutes: 0,
            kayenta,
            minute: Vec::new(),
            of_minute: 0,
            rng,
            triggered: [None; 5],
        }
    }

    /// Looks as often as is due before `t`. `control` gives as many figures of the good build, for the time given.
    pub fn look(&mut self, t: f64, horizon: f64, control: impl Fn(f64, usize, &mut Rng) -> Vec<f64>) {
        while self.next <= t && self.next <= horizon {
            let (sum, count) =
                self.ring.iter().fold((0.0, 0.0), |all, part| (all.0 + part.0, all.1 + part.1));
            let over = count > 0.0 && sum / count > self.limit_ms;
            self.in_a_row = if over { self.in_a_row + 1 } else { 0 };
            self.trigger(MEAN, over);
            self.trigger(PROMETHEUS, self.in_a_row >= 5);
            if (self.look + 1).is_multiple_of(LOOKS) {
                self.bad_minutes += u32::from(over);
                self.trigger(ARGO, self.bad_minutes > 3);
                self.trigger(FLAGGER, self.bad_minutes >= 5);
                if self.kayenta && self.triggered[KAYENTA].is_none() && self.minute.len() >= 5 {
                    let mut good = control(self.next, self.minute.len(), &mut self.rng);
                    let high = mann_whitney::is_high(&mut self.minute, &mut good, self.allowed);
                    self.trigger(KAYENTA, high);
                }
                self.minute.clear();
                self.of_minute = 0;
            }
            self.look += 1;
            self.ring[self.look % LOOKS] = (0.0, 0.0);
            self.next += LOOK;
        }
    }

    pub fn record(&mut self, ms: f64) {
        let part = &mut self.ring[self.look % LOOKS];
        part.0 += ms;
        part.1 += 1.0;
        if !self.kayenta || self.triggered[KAYENTA].is_some() {
            return;
        }
        self.of_minute += 1;
        if self.minute.len() < KEPT {
            self.minute.push(ms);
        } else {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let place = (self.rng.uniform() * self.of_minute as f64) as usize;
            if let Some(kept) = self.minute.get_mut(place) {
                *kept = ms;
            }
        }
    }

    fn trigger(&mut self, rule: usize, holds: bool) {
        if holds && self.triggered[rule].is_none() {
            self.triggered[rule] = Some(self.next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request a second, for ten minutes.
    fn run(ms: impl Fn(f64) -> f64) -> [Option<f64>; 5] {
        let mut windows = Windows::new(110.0, 1.1, true, Rng::of(1, "naive", 0));
        for t in (1..600).map(f64::from) {
            let t = t - 0.5;
            windows.look(t, 600.0, |_, n, _| (0..n).map(|i| 100.0 + 0.01 * i as f64).collect());
            windows.record(ms(t));
        }
        windows.triggered
    }

    #[test]
    fn a_slow_build_takes_them_as_long_as_they_say() {
        let expected = [15.0, 75.0, 240.0, 300.0, 60.0];
        for (triggered, expected) in run(|t| 200.0 + 0.01 * t).iter().zip(expected) {
            assert!(triggered.is_some_and(|t| (t - expected).abs() < 1e-9), "{triggered:?}, not {expected}");
        }
    }

    #[test]
    fn one_bad_minute_is_not_enough_for_those_that_wait() {
        let triggered = run(|t| if (100.0..130.0).contains(&t) { 300.0 } else { 100.0 });
        assert!(triggered[MEAN].is_some() && triggered[ARGO].is_none() && triggered[FLAGGER].is_none());
        assert_eq!(run(|_| 100.0), [None; 5]);
    }
}
