//! Loops that the compiler turns into vector instructions of the processor, and the ranges of such loops.

use super::Real;
use std::ops::Range;

/// 0..n in chunks of `step`.
pub(crate) fn chunks(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step.max(1)).map(move |first| first..(first + step).min(n))
}

/// Runs work compiled for the vector instructions that the processor has. Functions that the work calls must be
/// inlined.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Inner product of slices of the same length. The sums run in independent lanes, so that the compiler can vectorise
/// them. Their order is fixed.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 64;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [T::zero(); LANES];
    // The chunks have a known length. With a checked index, the compiler would keep the lanes in memory.
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (&a, &b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Sigmoid, stable on both tails.
pub(crate) fn sigma<T: Real>(z: T) -> T {
    T::one() / (T::one() + (-z).exp())
}
