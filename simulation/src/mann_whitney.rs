//! Kayenta's judgement of one metric: `NetflixACAJudge` with its constants, as published at spinnaker/kayenta
//! (`MannWhitneyClassifier.scala`, `MannWhitney.scala`).

/// Upper 1 % of the normal distribution: the 98 % interval of the judge.
const Z: f64 = 2.326_347_874_040_841;
const TOLERANCE: f64 = 0.25;

/// Whether the canary is "High": the lower end of the interval of the Hodges-Lehmann shift is above a quarter of its
/// estimate, and the means are `allowed` times apart at least. Sorts both.
pub fn is_high(canary: &mut [f64], control: &mut [f64], allowed: f64) -> bool {
    if canary.len() < 2 || control.len() < 2 {
        return false;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    if mean(canary) < allowed * mean(control) {
        return false;
    }
    canary.sort_unstable_by(f64::total_cmp);
    control.sort_unstable_by(f64::total_cmp);
    let (n, m) = (canary.len() as f64, control.len() as f64);
    let half = 0.5 * n * m;
    let mut low = canary[0] - control[control.len() - 1];
    let mut high = canary[canary.len() - 1] - control[0];
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if above(canary, control, middle) > half { low = middle } else { high = middle }
    }
    let estimate = 0.5 * (low + high);
    let sd = libm::sqrt(n * m / 12.0 * (n + m + 1.0));
    let distance = above(canary, control, TOLERANCE * estimate.abs()) - half;
    let corrected = if distance > 0.0 { distance - 0.5 } else { distance };
    corrected / sd > Z
}

/// Pairs of which the canary's figure less `shift` is the larger; ties count half. Both are sorted.
fn above(canary: &[f64], control: &[f64], shift: f64) -> f64 {
    let (mut below, mut not_above) = (0, 0);
    let mut pairs = 0.0;
    for value in canary.iter().map(|value| value - shift) {
        while below < control.len() && control[below] < value {
            below += 1;
        }
        not_above = not_above.max(below);
        while not_above < control.len() && control[not_above] <= value {
            not_above += 1;
        }
        pairs += below as f64 + 0.5 * (not_above - below) as f64;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_with_ties() {
        assert!((above(&[1.0, 2.0, 3.0], &[0.0, 2.0], 0.0) - 4.5).abs() < 1e-12);
        assert!((above(&[1.0, 2.0, 3.0], &[0.0, 2.0], 1.0) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn twice_as_dear_is_high_and_the_same_is_not() {
        let control: Vec<f64> = (0..60).map(|i| 100.0 + f64::from(i)).collect();
        let twice: Vec<f64> = control.iter().map(|x| 2.0 * x).collect();
        assert!(is_high(&mut twice.clone(), &mut control.clone(), 1.1));
        assert!(!is_high(&mut control.clone(), &mut control.clone(), 1.0));
        // The same shift on one request in twenty does not move ranks.
        let mut rare = control.clone();
        rare.iter_mut().step_by(20).for_each(|x| *x *= 30.0);
        assert!(!is_high(&mut rare, &mut control.clone(), 1.1));
    }
}
