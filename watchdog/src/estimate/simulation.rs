//! The promises of the estimate on seeded traffic: intervals that cover, figures without bias, and silence where nothing
//! can be told. Hosts of two cores that serve in the order of arrival.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and counts of a few minutes, none below 0"
)]

use super::{Answer, Estimate, Growth, Requests, Windows};
use crate::sequential::workload::Rng;

const S: f64 = 1e9;
const TICK_NS: f64 = 1e8;

/// What a request costs, milliseconds.
#[derive(Clone, Copy)]
enum Cost {
    /// Log-normal with this mean and shape.
    Usual(f64, f64),
    /// Pareto of index 2.5 with this mean: the fourth moment is infinite.
    Heavy(f64),
}

impl Cost {
    fn draw_ns(self, rng: &mut Rng) -> f64 {
        1e6 * match self {
            Self::Usual(mean, sigma) => rng.log_normal(mean / libm::exp(sigma * sigma / 2.0), sigma),
            Self::Heavy(mean) => rng.pareto(mean * 1.5 / 2.5, 2.5),
        }
    }
}

#[derive(Clone, Copy)]
struct Endpoint {
    /// Share of the requests.
    share: f64,
    cost: Cost,
    /// Waits so long (nanoseconds) before it uses the CPU, and as long after.
    waits_ns: f64,
}

const LOGIN: Endpoint = Endpoint { share: 0.5, cost: Cost::Usual(20.0, 0.4), waits_ns: 0.0 };
const BROWSE: Endpoint = Endpoint { share: 0.5, cost: Cost::Usual(3.0, 0.6), waits_ns: 2e7 };

#[derive(Clone, Copy)]
enum Arrivals {
    /// Independent, so many per second; the rate rises and falls by this share over a minute.
    Open { rate: f64, swing: f64 },
    /// Independent visitors; each asks for every endpoint in turn, as fast as it is answered.
    Visits { rate: f64 },
    /// So many clients, each of which asks again once it is answered; in pauses (of a minute, so many seconds) none.
    Closed { clients: usize, pause: f64 },
    /// One by one at the same distance, endpoints at random.
    Metronome { rate: f64 },
}

#[derive(Clone)]
struct World {
    endpoints: Vec<Endpoint>,
    arrivals: Arrivals,
    seconds: f64,
    /// Nanoseconds per second without a request.
    constant_ns: f64,
    /// Once in so many seconds, at random, half a second of CPU time that belongs to nobody; 0: never.
    burst_every: f64,
}

impl World {
    fn new(endpoints: &[Endpoint], arrivals: Arrivals) -> Self {
        Self { endpoints: endpoints.to_vec(), arrivals, seconds: 240.0, constant_ns: 2e7, burst_every: 0.0 }
    }

    fn pick(&self, rng: &mut Rng) -> usize {
        let mut left = rng.uniform() * self.endpoints.iter().map(|endpoint| endpoint.share).sum::<f64>();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            left -= endpoint.share;
            if left < 0.0 {
                return index;
            }
        }
        self.endpoints.len() - 1
    }

    /// (arrival, endpoints one after the other)
    fn arrivals(&self, rng: &mut Rng) -> Vec<(f64, Vec<usize>)> {
        let end = self.seconds * S;
        let mut all = Vec::new();
        let mut now = 0.0;
        while now < end {
            let (rate, swing) = match self.arrivals {
                Arrivals::Open { rate, swing } => (rate, swing),
                Arrivals::Visits { rate } => (rate, 0.0),
                Arrivals::Metronome { rate } => {
                    all.push((now, vec![self.pick(rng)]));
                    now += S / rate;
                    continue;
                }
                Arrivals::Closed { .. } => break,
            };
            now -= libm::log(1.0 - rng.uniform()) * S / (rate * (1.0 + swing));
            let phase = libm::sin(now / S * std::f64::consts::TAU / 60.0);
            if rng.uniform() * (1.0 + swing) < 1.0 + swing * phase {
                let which = match self.arrivals {
                    Arrivals::Visits { .. } => (0..self.endpoints.len()).collect(),
                    _ => vec![self.pick(rng)],
                };
                all.push((now, which));
            }
        }
        all
    }

    fn run(&self, seed: u64) -> Estimate {
        let mut rng = Rng::new(seed);
        let ticks = (self.seconds * S / TICK_NS) as usize;
        let mut cpu_ns = vec![self.constant_ns * TICK_NS / S; ticks];
        let mut began = vec![0; ticks];
        let mut ended: Vec<Vec<Requests>> = vec![Vec::new(); ticks];
        let mut pending = self.arrivals(&mut rng);
        if let Arrivals::Closed { clients, .. } = self.arrivals {
            pending = (0..clients).map(|_| (0.0, vec![self.pick(&mut rng)])).collect();
        }
        pending.reverse();
        let mut free = [0.0_f64; 2];
        while let Some((began_ns, mut which)) = pending.pop() {
            let endpoint = self.endpoints[which[0]];
            let cost = endpoint.cost.draw_ns(&mut rng);
            let core = usize::from(free[1] < free[0]);
            let from = (began_ns + endpoint.waits_ns).max(free[core]);
            free[core] = from + cost;
            spread(&mut cpu_ns, from, from + cost);
            let ended_ns = from + cost + endpoint.waits_ns;
            let (first, last) = ((began_ns / TICK_NS) as usize, (ended_ns / TICK_NS) as usize);
            if first < ticks {
                began[first] += 1;
            }
            if last < ticks {
                ended[last].push(Requests {
                    endpoint: u16::try_from(which[0] + 1).unwrap(),
                    began_mono_ns: began_ns as u64,
                    ended_mono_ns: ended_ns as u64,
                    count: 1,
                    direct_ns: cost as u64,
                });
            }
            which.remove(0);
            if let Arrivals::Closed { pause, .. } = self.arrivals {
                which = vec![self.pick(&mut rng)];
                let minute = (ended_ns / S / 60.0).floor() * 60.0;
                let resumed = if ended_ns / S - minute < pause { (minute + pause) * S } else { ended_ns };
                if resumed < self.seconds * S {
                    queue(&mut pending, resumed, which);
                }
            } else if !which.is_empty() {
                queue(&mut pending, ended_ns, which);
            }
        }
        if self.burst_every > 0.0 {
            for _ in 0..(self.seconds / self.burst_every) as usize {
                let at = rng.uniform() * self.seconds * S;
                spread(&mut cpu_ns, at, at + S / 2.0);
            }
        }
        let mut windows = Windows::new(self.endpoints.len() + 1, 0);
        for tick in 0..ticks {
            ended[tick].iter().for_each(|requests| windows.ended(requests));
            let direct_ns = ended[tick].iter().map(|requests| requests.direct_ns).sum();
            let grown = Growth {
                cpu_ns: cpu_ns[tick] as u64,
                attributed_ns: direct_ns,
                started: began[tick],
                finished: ended[tick].len() as u64,
            };
            windows.advance((tick as u64 + 1) * TICK_NS as u64, &grown, true);
        }
        windows.fit(&[1])
    }
}

/// By arrival, the earliest last.
fn queue(pending: &mut Vec<(f64, Vec<usize>)>, at: f64, which: Vec<usize>) {
    let place = pending.partition_point(|(other, _)| *other > at);
    pending.insert(place, (at, which));
}

/// A core was busy from then to then.
fn spread(cpu_ns: &mut [f64], from: f64, to: f64) {
    let mut at = from;
    while at < to {
        let tick = (at / TICK_NS) as usize;
        let until = ((tick + 1) as f64 * TICK_NS).min(to);
        match cpu_ns.get_mut(tick) {
            Some(cpu) => *cpu += until - at,
            None => return,
        }
        at = until;
    }
}

/// Share of the runs whose 95 % interval of the endpoint covers the truth, and the mean error of the figure.
fn coverage(world: &World, endpoint: u16, truth_ms: f64, runs: u64) -> (f64, f64) {
    let (mut covered, mut sum) = (0, 0.0);
    for seed in 0..runs {
        let estimate = world.run(seed);
        let Answer::Known { figure } = &estimate.endpoint(endpoint).unwrap().answer else {
            panic!("seed {seed}: {:?}", estimate.endpoint(endpoint));
        };
        let (lower, upper) = figure.interval_ns(0.05);
        assert!(0.0 <= lower && lower <= figure.mean_ns && figure.mean_ns <= upper, "{figure:?}");
        covered += u64::from((lower..=upper).contains(&(truth_ms * 1e6)));
        sum += figure.mean_ns * 1e-6;
    }
    (covered as f64 / runs as f64, sum / runs as f64 / truth_ms - 1.0)
}

fn check(name: &str, world: &World, truths_ms: &[f64], bias: f64) {
    for (endpoint, &truth_ms) in (1..).zip(truths_ms) {
        let (covered, error) = coverage(world, endpoint, truth_ms, 100);
        println!("{name}, endpoint {endpoint}: covered {covered}, bias {error:.4}");
        assert!((0.90..=0.99).contains(&covered), "{name}, endpoint {endpoint}: covered {covered}");
        // Of a light endpoint, what is a hundredth of the dearest one's cost says nothing.
        let dearest_ms = truths_ms.iter().copied().fold(0.0, f64::max);
        let allowed = bias + 0.01 * dearest_ms / truth_ms;
        assert!(error.abs() < allowed, "{name}, endpoint {endpoint}: bias {error}");
    }
}

#[test]
fn steady_visitors() {
    let world = World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.0 });
    check("steady", &world, &[20.0, 3.0], 0.01);
}

#[test]
fn a_load_that_rises_and_falls() {
    let world = World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 30.0, swing: 1.0 });
    check("swinging", &world, &[20.0, 3.0], 0.01);
}

#[test]
fn requests_longer_than_half_a_window() {
    let slow = Endpoint { waits_ns: 3e8, ..LOGIN };
    let world =
        World { seconds: 590.0, ..World::new(&[slow, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.5 }) };
    check("straddling", &world, &[20.0, 3.0], 0.01);
}

#[test]
fn costs_with_a_heavy_tail() {
    let heavy = Endpoint { cost: Cost::Heavy(20.0), ..LOGIN };
    let world = World::new(&[heavy, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.5 });
    check("heavy", &world, &[20.0, 3.0], 0.03);
}

#[test]
fn cpu_time_of_nobody() {
    let world = World {
        burst_every: 12.0,
        ..World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.5 })
    };
    check("outliers", &world, &[20.0], 0.02);
}

#[test]
fn an_endpoint_that_is_rare() {
    let rare = Endpoint { share: 0.02, cost: Cost::Usual(120.0, 0.4), waits_ns: 0.0 };
    let world = World::new(&[rare, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.5 });
    check("rare", &world, &[120.0, 3.0], 0.01);
}

#[test]
fn a_server_at_its_limit_with_pauses() {
    let world = World::new(&[LOGIN, BROWSE], Arrivals::Closed { clients: 8, pause: 20.0 });
    check("limit with pauses", &world, &[20.0, 3.0], 0.04);
}

#[test]
fn the_constant_is_told_from_the_requests() {
    let world = World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 20.0, swing: 1.0 });
    let covered = (0..100).filter(|&seed| {
        let (lower, upper) = world.run(seed).constant.unwrap().interval_ns(0.05);
        (lower..=upper).contains(&2e7)
    });
    assert!((88..=100).contains(&covered.count()));
}

#[test]
fn a_server_at_its_limit_says_that_it_cannot_tell() {
    for (clients, seeds) in [(2, 0..10), (8, 0..10), (32, 0..10)] {
        let world = World::new(&[LOGIN, BROWSE], Arrivals::Closed { clients, pause: 0.0 });
        for seed in seeds {
            let estimate = world.run(seed);
            assert!(
                estimate.endpoints.iter().all(|endpoint| endpoint.answer == Answer::Even),
                "{clients} clients, seed {seed}: {estimate:?}"
            );
        }
    }
}

#[test]
fn a_metronome_says_that_it_cannot_tell() {
    let world = World::new(&[LOGIN], Arrivals::Metronome { rate: 20.0 });
    for seed in 0..10 {
        assert_eq!(world.run(seed).endpoint(1).unwrap().answer, Answer::Even);
    }
}

#[test]
fn endpoints_that_always_come_together_get_one_figure() {
    let mut covered = 0;
    for seed in 0..100 {
        let estimate = World::new(&[LOGIN, BROWSE], Arrivals::Visits { rate: 12.0 }).run(seed);
        let Answer::Together { with, figure } = &estimate.endpoint(1).unwrap().answer else {
            panic!("seed {seed}: {estimate:?}");
        };
        assert_eq!(*with, [2]);
        let (lower, upper) = figure.interval_ns(0.05);
        covered += u32::from((lower..=upper).contains(&11.5e6));
    }
    assert!((88..=100).contains(&covered), "{covered}");
}

#[test]
fn with_little_it_says_what_is_missing() {
    let short =
        World { seconds: 15.0, ..World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.0 }) };
    let estimate = short.run(1);
    assert!(
        matches!(estimate.endpoints[0].answer, Answer::Windows { seen: 14..=15, needed: 24 }),
        "{estimate:?}"
    );
    let rare = Endpoint { share: 0.002, ..LOGIN };
    let estimate = World::new(&[rare, BROWSE], Arrivals::Open { rate: 30.0, swing: 0.0 }).run(1);
    assert!(
        matches!(estimate.endpoints[0].answer, Answer::Requests { seen: 1..30, needed: 30 }),
        "{estimate:?}"
    );
    assert!(matches!(estimate.endpoints[1].answer, Answer::Known { .. }), "{estimate:?}");
}

#[test]
fn a_replay_gives_the_same_bits() {
    let world = World::new(&[LOGIN, BROWSE], Arrivals::Open { rate: 30.0, swing: 1.0 });
    let text = |estimate: &Estimate| serde_json::to_string(estimate).unwrap();
    assert_eq!(text(&world.run(5)), text(&world.run(5)));
}
