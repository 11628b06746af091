//! The decision engine by itself: against reference values, and how fast it is. `cargo xtask vectors` and
//! `cargo xtask bench engine` run it.
//!
//! An example, and not a program of its own: it needs the library alone, is built when it is asked for, and is not
//! installed.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::time::{ClockId, clock_gettime};
use watchdog::sequential::vectors::{Vector, check, parse};
use watchdog::sequential::{
    Collector, Component, Conditions, Engine, Kind, Parameters, Pool, PoolLimit, Scope,
};

#[derive(Parser)]
enum Command {
    /// Check files of reference values.
    Vectors { files: Vec<PathBuf> },
    /// Print nanoseconds per sample and component, as JSON, a line each.
    Speed {
        /// Requests of each measurement.
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
        /// Of so many runs the middle one is told.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Vectors { files } => vectors(&files),
        Command::Speed { requests, runs } => {
            speed(requests, runs);
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all sequences of all files agree.
fn vectors(files: &[PathBuf]) -> Result<bool> {
    let mut first = None;
    for file in files {
        let all = read(file)?;
        println!("{}: {} sequences", file.display(), all.len());
        for vector in &all {
            match check(vector) {
                Ok(agreement) => {
                    let error = agreement.largest_error;
                    let full = agreement.full_from.map_or_else(String::new, |n| {
                        format!(
                            "; M not compared from request {n} on, where it passes what the engine counts"
                        )
                    });
                    println!(
                        "ok      {}: {} requests, {} after {}, {} figures, largest relative error {error:.1e}{full}",
                        vector.name,
                        agreement.requests,
                        vector.verdict,
                        vector.decided_at_n,
                        agreement.compared,
                    );
                }
                Err(difference) => {
                    println!("DIFFERS {difference}");
                    first.get_or_insert(difference);
                }
            }
        }
    }
    match &first {
        None => println!("All agree."),
        Some(difference) => println!("The first difference: {difference}"),
    }
    Ok(first.is_none())
}

fn read(file: &Path) -> Result<Vec<Vector>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read: want a file of reference values", file.display()))?;
    parse(&text).with_context(|| format!("{} is no file of reference values", file.display()))
}

/// One measurement.
struct Setting {
    name: &'static str,
    endpoints: u16,
    /// A mean, and as many quantiles as it takes.
    components_each: u16,
    pool: bool,
    outlier_allowance: usize,
    /// Requests of one second.
    per_second: u64,
}

const SETTINGS: [Setting; 7] = [
    Setting {
        name: "one mean",
        endpoints: 1,
        components_each: 1,
        pool: false,
        outlier_allowance: 0,
        per_second: 1000,
    },
    Setting {
        name: "bundle of 12",
        endpoints: 1,
        components_each: 12,
        pool: false,
        outlier_allowance: 0,
        per_second: 1000,
    },
    Setting {
        name: "bundle of 12, a request a second",
        endpoints: 1,
        components_each: 12,
        pool: false,
        outlier_allowance: 0,
        per_second: 1,
    },
    Setting {
        name: "one mean, 3 outliers left out",
        endpoints: 1,
        components_each: 1,
        pool: false,
        outlier_allowance: 3,
        per_second: 1000,
    },
    Setting {
        name: "bundle of 12, 3 outliers left out",
        endpoints: 1,
        components_each: 12,
        pool: false,
        outlier_allowance: 3,
        per_second: 1000,
    },
    Setting {
        name: "20 endpoints of 3 and the pool",
        endpoints: 20,
        components_each: 3,
        pool: true,
        outlier_allowance: 0,
        per_second: 1000,
    },
    Setting {
        name: "64 endpoints of 1 and the pool",
        endpoints: 64,
        components_each: 1,
        pool: true,
        outlier_allowance: 0,
        per_second: 1000,
    },
];

impl Setting {
    fn components(&self) -> (Vec<Component>, Option<Pool>) {
        let of_pool = if self.pool { 0.5 } else { 0.0 };
        let weight = (1.0 - of_pool) / f64::from(self.endpoints) / f64::from(self.components_each);
        let kind = |index| if index == 0 { Kind::Mean } else { Kind::Quantile { p: 0.99 } };
        let scope = |endpoint| Scope { endpoint, class: None };
        let components = (0..self.endpoints)
            .flat_map(|endpoint| (0..self.components_each).map(move |index| (endpoint, index)))
            .map(|(endpoint, index)| Component {
                weight,
                scope: scope(endpoint),
                kind: kind(index),
                limit: if index == 0 { 1.1 } else { 3.0 },
                confirmation: Vec::new(),
            })
            .collect();
        let limit = |endpoint| PoolLimit { scope: scope(endpoint), overall: 1.1, of_build: 1.1 };
        let limits = || (0..self.endpoints).map(limit).collect();
        (components, self.pool.then(|| Pool { weight: of_pool, limits: limits() }))
    }

    /// Bets that a request settles.
    fn settled(&self) -> u16 {
        self.components_each + u16::from(self.pool)
    }

    /// Nanoseconds per request of the engine, and of a host's collector.
    fn measure(&self, requests: u64) -> (f64, f64) {
        let (components, pool) = self.components();
        let parameters = Parameters { outlier_allowance: self.outlier_allowance, ..Parameters::default() };
        let valid = "weights sum to 1, limits are positive";
        let mut engine =
            Engine::with_pool(parameters.clone(), components.clone(), pool.clone()).expect(valid);
        let mut collector = Collector::new(parameters, components, pool).expect(valid);
        // Drawn before: what is measured is the engine.
        let mut state = 1_u64;
        let figures: Vec<f64> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                2.0 * (state >> 11) as f64 / (1_u64 << 53) as f64
            })
            .collect();
        let run = |observe: &mut dyn FnMut(u64, u16, f64)| {
            let began = cpu_ns();
            for (n, &x) in (0..requests).zip(figures.iter().cycle()) {
                let endpoint = u16::try_from(n % u64::from(self.endpoints)).unwrap_or_default();
                observe(n / self.per_second, endpoint, x);
            }
            (cpu_ns() - began) / requests as f64
        };
        let of_engine = run(&mut |second, endpoint, x| {
            engine.observe(second, endpoint, 0, x, 1, Conditions::NORMAL);
        });
        black_box(engine.evidence());
        let of_collector = run(&mut |second, endpoint, x| {
            black_box(collector.observe(second, endpoint, 0, x, 1, Conditions::NORMAL));
        });
        (of_engine, of_collector)
    }
}

/// Of this thread: what else the machine does is not in it.
fn cpu_ns() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock");
    now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64
}

fn speed(requests: u64, runs: usize) {
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for setting in &SETTINGS {
        let (engine, collector): (Vec<f64>, Vec<f64>) =
            (0..runs.max(1)).map(|_| setting.measure(requests)).unzip();
        let each = f64::from(setting.settled());
        let row = serde_json::json!({
            "setting": setting.name,
            "settled": setting.settled(),
            "engine_ns": middle(engine) / each,
            "collector_ns": middle(collector) / each,
        });
        println!("{row}");
    }
}
