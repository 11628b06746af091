//! Student's t distribution: how far off a mean of few blocks may be.

/// `P(T > t)` with `degrees` of freedom, `t` at least 0.
pub fn upper_tail(t: f64, degrees: f64) -> f64 {
    0.5 * incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t))
}

/// `t` with `P(T > t) = tail`, `tail` in 0 to 1/2.
pub fn upper_quantile(tail: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while upper_tail(high, degrees) > tail && high < 1e12 {
        low = high;
        high *= 2.0;
    }
    while high - low > 1e-9 * high {
        let middle = 0.5 * (low + high);
        if upper_tail(middle, degrees) > tail { low = middle } else { high = middle }
    }
    high
}

/// The regularised incomplete beta function `I_x(a, b)`, by the continued fraction of DLMF 8.17.22.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side of the mean only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = libm::exp(
        libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log1p(-x),
    ) / a;
    front * fraction(a, b, x)
}

/// Lentz's method.
#[expect(clippy::many_single_char_names, reason = "as in the reference")]
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    const TERMS: u32 = 300;
    let at_least_tiny = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / at_least_tiny(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in (1..TERMS).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / at_least_tiny(1.0 + term * d);
            c = at_least_tiny(1.0 + term / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        // Any table of the t distribution; the last rows from its closed forms for 1 and 2 degrees.
        for (tail, degrees, expected) in [
            (0.025, 5.0, 2.570_582),
            (0.025, 29.0, 2.045_230),
            (0.005, 10.0, 3.169_273),
            (0.0005, 30.0, 3.645_959),
            (0.025, 1e7, 1.959_964),
            (0.025, 1.0, 12.706_205),
            (0.001, 2.0, 22.327_125),
        ] {
            let found = upper_quantile(tail, degrees);
            assert!((found / expected - 1.0).abs() < 1e-6, "{tail} {degrees}: {found} for {expected}");
            assert!((upper_tail(found, degrees) / tail - 1.0).abs() < 1e-6);
        }
    }
}
