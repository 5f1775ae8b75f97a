//! Mean, deviation and the paired t-test, for a handful of seeds.

use serde::Serialize;

/// Mean of `values`.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation (divided by n − 1); `None` for fewer than two values.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// A two-sided paired t-test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TTest {
    /// Mean difference over its standard error.
    pub t: f64,
    /// Degrees of freedom: pairs minus one.
    pub freedom: usize,
    /// Probability of a |t| at least this large if there is no difference.
    pub p: f64,
    /// The same for the whole family of tests that this one belongs to, by Holm's method. For a test that stands alone,
    /// it is p.
    pub holm: f64,
}

impl TTest {
    /// Tests `one` against `other`, pair by pair. `None` if the lengths differ, if there are fewer than two pairs, or
    /// if all differences are equal: without a spread there is no t.
    pub(crate) fn paired(one: &[f64], other: &[f64]) -> Option<Self> {
        if one.len() != other.len() {
            return None;
        }
        let differences: Vec<f64> = one.iter().zip(other).map(|(a, b)| a - b).collect();
        let deviation = deviation(&differences)?;
        // Differences that are equal up to rounding have no spread either.
        let scale = one.iter().chain(other).fold(0.0f64, |largest, x| largest.max(x.abs()));
        if deviation <= 1e-12 * scale {
            return None;
        }
        let t = mean(&differences) / (deviation / (differences.len() as f64).sqrt());
        let freedom = differences.len() - 1;
        let p = two_sided(t, freedom);
        Some(Self { t, freedom, p, holm: p })
    }

    /// Corrects a family of tests for their number (Holm, 1979, "A simple sequentially rejective multiple test
    /// procedure"): sorted by p, the test with rank k (from 0) of m gets the largest (m − j) p_j over j ≤ k, at most 1.
    pub(crate) fn correct(family: &mut [&mut Self]) {
        family.sort_by(|a, b| a.p.total_cmp(&b.p));
        let (tests, mut largest) = (family.len(), 0.0f64);
        for (rank, test) in family.iter_mut().enumerate() {
            largest = largest.max((tests - rank) as f64 * test.p);
            test.holm = largest.min(1.0);
        }
    }
}

/// P(|T| ≥ |t|) of Student's t with a whole number of degrees of freedom. This is one minus the finite sums of
/// Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even), in powers of cos²θ with tan θ = |t| / √ν.
fn two_sided(t: f64, freedom: usize) -> f64 {
    let nu = freedom as f64;
    let theta = (t.abs() / nu.sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    let odd = freedom % 2 == 1;
    // Odd: 1, 2/3, 2·4/(3·5), ...; even: 1, 1/2, 1·3/(2·4), ...
    let (mut term, mut sum) = (1.0, 0.0);
    for k in 0..freedom / 2 {
        sum += term;
        let next = (2 * k + 1) as f64 + f64::from(u8::from(odd));
        term *= cos * cos * next / (next + 1.0);
    }
    let within = if odd { std::f64::consts::FRAC_2_PI * (theta + sin * cos * sum) } else { sin * sum };
    (1.0 - within).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn deviations_are_those_of_a_sample() {
        assert_eq!((mean(&[1.0, 2.0, 6.0]), deviation(&[1.0, 2.0, 6.0])), (3.0, Some(7.0f64.sqrt())));
        assert_eq!(deviation(&[5.0]), None);
    }

    #[test]
    fn p_values_are_those_of_the_tables() {
        // Two-sided critical values of Student's t.
        for (freedom, t, p) in [
            (1, 12.7062, 0.05),
            (2, 4.302653, 0.05),
            (2, 9.924843, 0.01),
            (3, 3.182446, 0.05),
            (4, 2.776445, 0.05),
            (5, 4.032143, 0.01),
            (9, 2.262157, 0.05),
            (10, 3.169273, 0.01),
            (29, 2.045230, 0.05),
            (30, 1.697261, 0.1),
        ] {
            assert_relative_eq!(two_sided(t, freedom), p, max_relative = 1e-5);
            assert_eq!(two_sided(-t, freedom), two_sided(t, freedom));
            assert_relative_eq!(two_sided(0.0, freedom), 1.0);
        }
        // In closed form for one and two degrees of freedom.
        for t in [0.1f64, 1.0, 3.7, 50.0] {
            assert_relative_eq!(
                two_sided(t, 1),
                1.0 - t.atan() / std::f64::consts::FRAC_PI_2,
                epsilon = 1e-14
            );
            assert_relative_eq!(two_sided(t, 2), 1.0 - t / (t * t + 2.0).sqrt(), epsilon = 1e-14);
        }
    }

    #[test]
    fn a_family_of_tests_is_corrected_by_holm() {
        let test = |p| TTest { t: 0.0, freedom: 2, p, holm: p };
        // Sorted: 0.005, 0.01, 0.03, 0.04. Times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last may not be below the third.
        let mut tests = [0.01, 0.04, 0.03, 0.005].map(test);
        TTest::correct(&mut tests.each_mut());
        for (test, expected) in tests.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert_relative_eq!(test.holm, expected, max_relative = 1e-12);
        }
        let mut large = [0.6, 0.7].map(test);
        TTest::correct(&mut large.each_mut());
        assert_eq!(large.map(|test| test.holm), [1.0, 1.0]);
        let mut alone = [0.2].map(test);
        TTest::correct(&mut alone.each_mut());
        assert_eq!((alone[0].holm, alone[0].p), (0.2, 0.2));
    }

    #[test]
    fn paired_tests_by_hand() {
        // Differences 1, 2, 3: mean 2, deviation 1, t = 2 √3 with 2 degrees of freedom, p = 1 − √(12/14).
        let test = TTest::paired(&[11.0, 22.0, 33.0], &[10.0, 20.0, 30.0]).unwrap();
        assert_relative_eq!(test.t, 12.0f64.sqrt(), max_relative = 1e-14);
        assert_relative_eq!(test.p, 1.0 - (12.0f64 / 14.0).sqrt(), max_relative = 1e-12);
        assert_eq!(test.freedom, 2);
        // Two pairs: differences 1 and 3, t = 2 / (√2 / √2) = 2 with one degree of freedom.
        let test = TTest::paired(&[1.0, 3.0], &[0.0, 0.0]).unwrap();
        assert_relative_eq!(test.p, 1.0 - 2.0f64.atan() / std::f64::consts::FRAC_PI_2, max_relative = 1e-12);
        for (one, other) in [
            (&[1.0][..], &[0.0][..]),
            (&[], &[]),
            (&[1.0, 2.0], &[1.0]),
            (&[1.0, 2.0], &[1.0, 2.0]),
            // All differences are 0.1 up to rounding.
            (&[0.3, 100.1, 7.1], &[0.2, 100.0, 7.0]),
        ] {
            assert_eq!(TTest::paired(one, other), None, "{one:?} {other:?}");
        }
    }
}
