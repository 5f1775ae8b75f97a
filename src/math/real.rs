//! The number types of the CPU references: f32 for use, f64 as the oracle.

/// A number type of the CPU references.
pub trait Real:
    num_traits::Float + num_traits::NumAssign + Default + std::fmt::Display + Send + Sync + 'static
{
    /// The nearest number to `value`.
    fn of(value: f64) -> Self;

    /// e to this power, in a form that the compiler can vectorise. In f32 the result is right to 2 units in the last
    /// place, and the power is clamped to -87 to 88.
    fn power_of_e(self) -> Self;

    /// log(1 + u) of a u from 0 to 1, in a form that the compiler can vectorise. A small u keeps its digits. In f32 the
    /// result is right to 2 units in the last place.
    fn ln_of_one_plus(self) -> Self;
}

/// Replaces a subnormal number with 0. The moments of a parameter without gradients become subnormal after some hundred
/// steps, and processors are several times slower with such numbers. GPUs may do the same replacement by themselves.
#[inline(always)]
pub(crate) fn without_subnormals<T: Real>(x: T) -> T {
    if x.abs() < T::min_positive_value() { T::zero() } else { x }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn power_of_e(self) -> Self {
        // e^x = 2^k e^r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
        const ROUNDER: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
        let k = shifted - ROUNDER;
        // ln 2 in two parts. The first part has so few bits that its product with k is exact.
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let r = x - k * LN_2[0] - k * LN_2[1];
        // The series of e^r to r^7, with a remainder below 6e-9. It is split into halves that do not wait for each
        // other.
        let (r2, one) = (r * r, 1.0 + r);
        let low = one + (0.5 + r * (1.0 / 6.0)) * r2;
        let high = (1.0 / 24.0 + r * (1.0 / 120.0)) + (1.0 / 720.0 + r * (1.0 / 5040.0)) * r2;
        let sum = low + high * (r2 * r2);
        sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
    }

    #[inline(always)]
    fn ln_of_one_plus(self) -> Self {
        // log(1 + u) = 2 artanh w. The series goes to w^15, with a remainder below 2e-9 of the result.
        let w = self / (2.0 + self);
        let (w2, w4) = (w * w, w * w * w * w);
        let low = (1.0 / 3.0 + w2 * (1.0 / 5.0)) + w4 * (1.0 / 7.0 + w2 * (1.0 / 9.0));
        let high = (1.0 / 11.0 + w2 * (1.0 / 13.0)) + w4 * (1.0 / 15.0);
        2.0 * w + 2.0 * w * w2 * (low + w4 * w4 * high)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn power_of_e(self) -> Self {
        self.exp()
    }

    fn ln_of_one_plus(self) -> Self {
        self.ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn logarithms_of_one_plus_are_right_to_two_units_in_the_last_place() {
        let small = (1..=1000).map(|k| 1e-30 * f32::from(k as u16));
        let numbers = small.chain((0..=1 << 20).map(|k| k as f32 / (1 << 20) as f32));
        let mut worst = 0.0f64;
        for u in numbers {
            let (found, exact) = (u.ln_of_one_plus(), f64::from(u).ln_1p());
            let unit = f64::from(f32::from_bits(found.to_bits() + 1)) - f64::from(found);
            worst = worst.max((f64::from(found) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
    }

    #[test]
    fn powers_of_e_are_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for k in 0..175_000 * 8 {
            let x = -87.0 + k as f32 / 8000.0;
            let (found, exact) = (x.power_of_e(), f64::from(x).exp());
            let unit = f64::from(f32::from_bits(found.to_bits() + 1)) - f64::from(found);
            worst = worst.max((f64::from(found) - exact).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units");
        // Outside the range, the result is that of the nearest end, so sums of results stay finite.
        assert_eq!((-1e9f32).power_of_e(), (-87.0f32).power_of_e());
        assert!(1e9f32.power_of_e().is_finite() && 0.0f32.power_of_e() == 1.0);
        assert_eq!(f32::NEG_INFINITY.power_of_e(), (-87.0f32).power_of_e());
    }
}
