//! Random figures that are the same on every machine.

/// `SplitMix64`; logarithms and the like in software, from `libm`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of one run: of the whole simulation's seed, what is simulated, and the number of the run. No other run
    /// shares it, so the order in which threads take up runs changes nothing.
    pub fn of(seed: u64, label: &str, run: u64) -> Self {
        // FNV-1a.
        let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = Self(seed ^ hash);
        let mut rng = Self(rng.next_u64().wrapping_add(run));
        Self(rng.next_u64())
    }

    /// A stream of its own that depends on this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let mut rng = Self(self.next_u64() ^ 0x5851_f42d_4c95_7f2d);
        Self(rng.next_u64())
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In 0 to 1, 1 excluded.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(2.0 * self.exponential());
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(1.0 - self.uniform())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_streams_of_their_own() {
        let first = |label, run| Rng::of(1, label, run).next_u64();
        assert_eq!(first("a", 0), first("a", 0));
        assert_ne!(first("a", 0), first("a", 1));
        assert_ne!(first("a", 0), first("b", 0));
        // Not one stream, shifted.
        let (mut one, mut next) = (Rng::of(1, "a", 0), Rng::of(1, "a", 1));
        one.next_u64();
        assert_ne!(one.next_u64(), next.next_u64());
    }

    #[test]
    fn normal_and_exponential_have_their_moments() {
        let mut rng = Rng::of(1, "moments", 0);
        let n = 20_000;
        let (mut sum, mut squares, mut times) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let normal = rng.normal();
            sum += normal;
            squares += normal * normal;
            times += rng.exponential();
        }
        let n = f64::from(n);
        // Five standard deviations of each.
        assert!(
            (sum / n).abs() < 0.036 && (squares / n - 1.0).abs() < 0.05 && (times / n - 1.0).abs() < 0.036
        );
    }
}
