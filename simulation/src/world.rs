//! The world a build is deployed in: when requests come, and what disturbs them without being the build's fault.

use std::f64::consts::TAU;

use crate::rng::Rng;
use crate::workload::{Fault, LOGIN, Slower, Workload};

pub const HOUR: f64 = 3600.0;
pub const DAY: f64 = 24.0 * HOUR;

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Independently of each other.
    Poisson,
    /// At the same distance.
    Regular,
    /// So many at once; the groups independently of each other.
    Groups(u32),
}

/// Something that holds between two times, in seconds after the deploy.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    pub factor: f64,
    pub from: f64,
    pub to: f64,
}

impl Between {
    fn at(this: Option<Self>, t: f64) -> f64 {
        this.filter(|between| t >= between.from && t < between.to).map_or(1.0, |between| between.factor)
    }
}

/// Everything but the rules. Times in seconds after the deploy.
#[derive(Clone, Debug)]
pub struct World {
    pub workload: Workload,
    /// Requests per second on all hosts.
    pub rate: f64,
    pub arrivals: Arrivals,
    pub horizon: f64,
    pub fault: Fault,
    pub fault_from: f64,
    /// A slower or faster host.
    pub environment: Option<Between>,
    /// By so much the main path's share rises and falls over a day.
    pub mix_swing: f64,
    /// Storms in which all requests take the main path: one every so often, and how long.
    pub storms: Option<(f64, f64)>,
    pub warm_up: Option<Between>,
    /// What the configuration says of the warm-up.
    pub declared: Option<Between>,
    /// So many requests of five seconds more, within so long.
    pub outliers: (u32, f64),
}

const OUTLIER_MS: f64 = 5000.0;
/// Relative error of one reading of the calibration loop.
const READING_NOISE: f64 = 0.03;
/// Time constant of the smoothing of its readings, seconds.
const SMOOTHING: f64 = 30.0;

impl World {
    pub fn quiet(rate: f64, horizon: f64) -> Self {
        Self {
            workload: LOGIN,
            rate,
            arrivals: Arrivals::Poisson,
            horizon,
            fault: Fault::None,
            fault_from: 0.0,
            environment: None,
            mix_swing: 0.0,
            storms: None,
            warm_up: None,
            declared: None,
            outliers: (0, DAY),
        }
    }

    /// Added to the share of the main path at a time.
    fn shift(&self, t: f64, phase: f64, storm: bool) -> f64 {
        if storm {
            return 1.0 - self.workload.outcomes[0].share;
        }
        if self.mix_swing > 0.0 { self.mix_swing * libm::sin(TAU * (t + phase) / DAY) } else { 0.0 }
    }

    fn storm_at(&self, t: f64) -> bool {
        self.storms.is_some_and(|(every, length)| t % every >= every - length)
    }
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Seconds after the deploy.
    pub t: f64,
    /// Whole ones of them.
    pub second: u64,
    pub class: u8,
    /// CPU milliseconds.
    pub ms: f64,
    /// How much slower the host is, as the calibration loop says.
    pub environment: f64,
    /// Declared factor of the warm-up.
    pub warm_up: f64,
}

/// The requests of one deploy, in the order in which they end.
pub struct Traffic<'a> {
    world: &'a World,
    slower: Slower,
    rng: Rng,
    t: f64,
    /// Left of the present group.
    group: u32,
    /// Of the day at which the deploy is.
    phase: f64,
    /// Times, the next one last.
    outliers: Vec<f64>,
    calibration: Calibration,
}

impl<'a> Traffic<'a> {
    pub fn new(world: &'a World, mut rng: Rng) -> Self {
        let phase = if world.mix_swing > 0.0 { rng.uniform() * DAY } else { 0.0 };
        let (count, span) = world.outliers;
        let mut outliers: Vec<f64> = (0..count).map(|_| rng.uniform() * span).collect();
        outliers.sort_by(|a, b| b.total_cmp(a));
        let calibration = Calibration::new(rng.fork());
        let slower = world.fault.of(&world.workload);
        Self { world, slower, rng, t: 0.0, group: 0, phase, outliers, calibration }
    }

    /// What the good build would have needed for as many requests at about the same time, in milliseconds.
    pub fn control(&self, t: f64, requests: usize, rng: &mut Rng) -> Vec<f64> {
        let world = self.world;
        let shift = world.shift(t, self.phase, world.storm_at(t - 30.0));
        let environment = Between::at(world.environment, t);
        (0..requests)
            .map(|_| {
                let class = world.workload.pick(rng, shift);
                world.workload.outcomes[usize::from(class)].cost.draw(rng) * environment
            })
            .collect()
    }

    fn arrive(&mut self) {
        let rate = self.world.rate;
        match self.world.arrivals {
            Arrivals::Poisson => self.t += self.rng.exponential() / rate,
            Arrivals::Regular => self.t += 1.0 / rate,
            Arrivals::Groups(size) => {
                if self.group == 0 {
                    self.group = size;
                    self.t += self.rng.exponential() * f64::from(size) / rate;
                }
                self.group -= 1;
            }
        }
    }
}

impl Iterator for Traffic<'_> {
    type Item = Request;

    /// `None` from the horizon on.
    fn next(&mut self) -> Option<Request> {
        self.arrive();
        let (world, t) = (self.world, self.t);
        if t > world.horizon {
            return None;
        }
        let class = world.workload.pick(&mut self.rng, world.shift(t, self.phase, world.storm_at(t)));
        let mut ms = world.workload.outcomes[usize::from(class)].cost.draw(&mut self.rng);
        if t >= world.fault_from {
            ms = self.slower.make(ms, class, &mut self.rng);
        }
        let environment = Between::at(world.environment, t);
        ms *= environment * Between::at(world.warm_up, t);
        if self.outliers.last().is_some_and(|&at| t >= at) {
            self.outliers.pop();
            ms += OUTLIER_MS;
        }
        let environment = self.calibration.read(t, environment);
        let warm_up = Between::at(world.declared, t);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of some days")]
        let second = t as u64;
        Some(Request { t, second, class, ms, environment, warm_up })
    }
}

/// A loop that runs once a second, read with noise and smoothed.
struct Calibration {
    rng: Rng,
    /// Value and time of the last reading.
    last: Option<(f64, f64)>,
}

impl Calibration {
    fn new(rng: Rng) -> Self {
        Self { rng, last: None }
    }

    /// Only readings from before the request count.
    fn read(&mut self, t: f64, truth: f64) -> f64 {
        if let Some((value, at)) = self.last
            && t - at < 1.0
        {
            return value;
        }
        let steps = self.last.map_or(1.0, |(_, at)| t - at);
        // The mean of the readings since the last look.
        let noise = READING_NOISE * self.rng.normal() / libm::sqrt(steps.clamp(1.0, SMOOTHING));
        let reading = truth * (1.0 + noise);
        let weight = 1.0 - libm::exp(-steps / SMOOTHING);
        let value = self.last.map_or(reading, |(value, _)| (1.0 - weight) * value + weight * reading);
        self.last = Some((value, t));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::quiet(5.0, 2000.0)
    }

    #[test]
    fn requests_come_at_their_rate() {
        for arrivals in [Arrivals::Poisson, Arrivals::Regular, Arrivals::Groups(10)] {
            let world = World { arrivals, ..world() };
            let count = Traffic::new(&world, Rng::of(1, "rate", 0)).count();
            assert!((9_000..11_000).contains(&count), "{arrivals:?}: {count}");
        }
    }

    #[test]
    fn the_calibration_follows_the_host_and_not_the_build() {
        let slow = Between { factor: 1.15, from: 1000.0, to: 2000.0 };
        let fault = Fault::MainPath { effect: 2.0 };
        let world = World { environment: Some(slow), fault, ..world() };
        for request in Traffic::new(&world, Rng::of(1, "loop", 0)) {
            let truth = match request.t {
                t if t > 500.0 && t < 1000.0 => 1.0,
                t if t > 1200.0 => 1.15,
                _ => continue,
            };
            assert!((request.environment / truth - 1.0).abs() < 0.03, "{request:?}");
        }
    }

    #[test]
    fn outliers_come_once_each() {
        let world = World { outliers: (5, 600.0), ..world() };
        let outliers = Traffic::new(&world, Rng::of(1, "outliers", 0)).filter(|r| r.ms > 4_999.0);
        assert_eq!(outliers.filter(|request| request.t < 610.0).count(), 5);
    }
}
