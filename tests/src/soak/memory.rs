//! A process's memory over time.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Resident memory of a process at moments.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Seconds since the start, KiB.
    points: Vec<(f64, f64)>,
}

/// What the second half of the points says.
#[derive(Clone, Copy, Debug)]
pub struct Trend {
    pub points: usize,
    pub first_kib: f64,
    pub last_kib: f64,
    /// Of the straight line through the points (least squares), KiB per second.
    pub slope: f64,
    /// By how much that line rises over the second half, KiB.
    pub growth_kib: f64,
}

impl Memory {
    pub fn add(&mut self, at: Duration, pid: u32) -> anyhow::Result<()> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().next().context("no VmRSS")?.parse()?;
        self.points.push((at.as_secs_f64(), kib));
        Ok(())
    }

    pub fn second_half(&self) -> Option<Trend> {
        let half = self.points.last()?.0 / 2.0;
        let points: Vec<_> = self.points.iter().copied().filter(|(at, _)| *at >= half).collect();
        let count = points.len() as f64;
        let (first, last) = (points.first()?, points.last()?);
        let mean_at = points.iter().map(|(at, _)| at).sum::<f64>() / count;
        let mean_kib = points.iter().map(|(_, kib)| kib).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|(at, _)| (at - mean_at).powi(2)).sum();
        let slope = points.iter().map(|(at, kib)| (at - mean_at) * (kib - mean_kib)).sum::<f64>() / spread;
        Some(Trend {
            points: points.len(),
            first_kib: first.1,
            last_kib: last.1,
            slope,
            growth_kib: slope * (last.0 - first.0),
        })
        .filter(|trend| trend.slope.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_shows_and_the_warm_up_does_not() {
        let warm_up = |at: f64| if at < 20.0 { 1_000.0 * at } else { 20_000.0 };
        let trend = |leak: f64| {
            let points = (0..100).map(f64::from).map(|at| (at, warm_up(at) + leak * at)).collect();
            Memory { points }.second_half().expect("a trend")
        };
        assert!(trend(0.0).growth_kib.abs() < 1e-6, "{:?}", trend(0.0));
        assert!((trend(30.0).slope - 30.0).abs() < 1e-6);
        assert!((trend(30.0).growth_kib - 30.0 * 49.0).abs() < 1.0);
        assert!(Memory::default().second_half().is_none());
    }
}
