//! The matrix product on the CPU. Its bits depend on nothing but the operands.
//!
//! Two crates compute it, with the same bits. `private-gemm-x86`, the one that `faer` multiplies with, uses the widest
//! vectors of an x86-64 processor. It reserves twice the L3 cache of address space for each thread, and aborts if there
//! is none. So `gemm` computes where the address space is limited (`ulimit -v`), and on all other processors.
//!
//! An element of C has the same bits for any number of threads, for any number of rows and columns of C, and at any
//! place in C. Equal rows of features therefore get equal embeddings, and a row gets the same embedding alone as among
//! others.
//!
//! The crates choose a kernel for each part of C. Most kernels sum an element in one chain: they start at 0, add the
//! products in the order of the inner dimension, and add C last. Two things break the chain, and this file avoids both:
//!
//! - `gemm` splits the inner dimension depending on the shape of C. It never splits one of [`INNER`] or less.
//! - It has other kernels for thin, short and tiny products.
//!
//! The file is long because a third of it is the test of these bits.

use super::chunks;
use rayon::prelude::*;
use std::ops::Range;

/// Largest inner dimension that `gemm` never splits, whatever the shape of C.
const INNER: usize = 512;
/// Largest number of elements of C for which `gemm` may sum by inner products.
const TINY: usize = 256;
/// Smallest inner dimension for which `gemm` uses no other kernel.
const SHORTEST: usize = 3;
/// The number of rows or columns per thread is a multiple of this.
const SHARE: usize = 64;
/// The least number of multiplications for which starting threads pays.
const SHARED: usize = 64 * 64 * 64;

/// The crate that multiplies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Crate {
    #[cfg(all(feature = "native", target_arch = "x86_64"))]
    Wide(private_gemm_x86::InstrSet),
    Gemm,
}

impl Crate {
    fn of_process() -> Self {
        use std::sync::OnceLock;
        static CHOSEN: OnceLock<Crate> = OnceLock::new();
        *CHOSEN.get_or_init(|| if address_space_is_limited() { Self::Gemm } else { Self::of_processor() })
    }

    #[cfg(all(feature = "native", target_arch = "x86_64"))]
    fn of_processor() -> Self {
        use private_gemm_x86::InstrSet::{Avx256, Avx512};
        if is_x86_feature_detected!("avx512f") {
            Self::Wide(Avx512)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Wide(Avx256)
        } else {
            Self::Gemm
        }
    }

    #[cfg(not(all(feature = "native", target_arch = "x86_64")))]
    fn of_processor() -> Self {
        Self::Gemm
    }
}

fn address_space_is_limited() -> bool {
    #[cfg(all(feature = "native", unix))]
    {
        use rustix::process::{Resource, getrlimit};
        [Resource::As, Resource::Data].into_iter().any(|limit| getrlimit(limit).current.is_some())
    }
    #[cfg(not(all(feature = "native", unix)))]
    false
}

/// An operand: its values and its strides along the inner dimension and across it.
type Operand<'a> = (&'a [f32], isize, isize);

/// C = A B, or C += A B if `accumulate` is set. C is `[rows, cols]`, stored in rows of `stride`. A and B come with
/// their strides along the inner dimension and across it. The slices must hold all that the shapes and strides reach.
///
/// If C is wide or high enough to give every thread a share, each thread packs the operands of its own share. The
/// crate's own threads would share the packing and wait for each other.
pub(super) fn cpu_product(
    shape: [usize; 3],
    operands: [Operand; 2],
    c: (&mut [f32], usize),
    accumulate: bool,
) {
    product_by(Crate::of_process(), shape, operands, c, accumulate);
}

fn product_by(
    by: Crate,
    [rows, cols, inner]: [usize; 3],
    [a, b]: [Operand; 2],
    (c, stride): (&mut [f32], usize),
    accumulate: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    if inner == 0 && !accumulate {
        c.chunks_mut(stride).take(rows).for_each(|row| row[..cols].fill(0.0));
    }
    let target = Target(c.as_mut_ptr());
    let part = |r: Range<usize>, k: Range<usize>| {
        let c = Part { by, c: &target, stride, rows: r, cols: k };
        for inner in chunks(inner, INNER) {
            let accumulate = accumulate || inner.start > 0;
            if c.has_chains(inner.len(), a, b) {
                // SAFETY: the caller guarantees the shapes; no other thread writes an element of this part.
                unsafe { c.multiply(&inner, [a, b], c.place(), accumulate) };
            } else {
                c.multiply_thin(&inner, [a, b], accumulate);
            }
        }
    };
    let threads = rayon::current_num_threads();
    let parts = |n: usize, share: usize| {
        let share = n.div_ceil(threads).next_multiple_of(share);
        chunks(n, share).collect::<Vec<_>>().into_par_iter()
    };
    // Each thread packs the operands of its own share.
    if threads == 1 || rows.saturating_mul(cols).saturating_mul(inner) < SHARED {
        part(0..rows, 0..cols);
    } else if cols >= threads * SHARE || (cols >= rows && rows < threads * SHARE) {
        parts(cols, SHARE.min(cols.div_ceil(threads))).for_each(|k| part(0..rows, k));
    } else {
        parts(rows, SHARE.min(rows.div_ceil(threads))).for_each(|r| part(r, 0..cols));
    }
}

/// C, which several threads write.
struct Target(*mut f32);

// SAFETY: the threads write disjoint parts of C.
unsafe impl Sync for Target {}

/// Some rows and columns of C.
struct Part<'a> {
    by: Crate,
    c: &'a Target,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Part<'_> {
    /// Whether the crates sum every element of this part in one chain.
    fn has_chains(&self, inner: usize, a: Operand, b: Operand) -> bool {
        let (rows, cols) = (self.rows.len(), self.cols.len());
        let inner_products = a.1 == 1 && b.1 == 1 && rows * cols <= TINY;
        rows > 1 && cols > 1 && inner >= SHORTEST && !inner_products
    }

    /// Address of the first element, with the strides from column to column and from row to row.
    fn place(&self) -> (*mut f32, isize, isize) {
        let at = self.rows.start * self.stride + self.cols.start;
        (self.c.0.wrapping_add(at), 1, self.stride as isize)
    }

    /// Writes the product over the steps `inner` to `c`, or adds it.
    ///
    /// # Safety
    /// The operands hold the steps `inner` of this part's rows and columns. `c` has room for the part, and nothing else
    /// uses it.
    unsafe fn multiply(
        &self,
        inner: &Range<usize>,
        [(a, a_along, a_across), (b, b_along, b_across)]: [Operand; 2],
        (c, c_cs, c_rs): (*mut f32, isize, isize),
        accumulate: bool,
    ) {
        let a =
            a.as_ptr().wrapping_offset(self.rows.start as isize * a_across + inner.start as isize * a_along);
        let b =
            b.as_ptr().wrapping_offset(self.cols.start as isize * b_across + inner.start as isize * b_along);
        let (rows, cols, inner) = (self.rows.len(), self.cols.len(), inner.len());
        // SAFETY: the caller guarantees what this function demands.
        unsafe {
            match self.by {
                #[cfg(all(feature = "native", target_arch = "x86_64"))]
                Crate::Wide(vectors) => {
                    let operands = [(a, a_across, a_along), (b, b_across, b_along)];
                    multiply_wide(vectors, [rows, cols, inner], operands, (c, c_rs, c_cs), accumulate);
                }
                Crate::Gemm => gemm::gemm(
                    rows,
                    cols,
                    inner,
                    c,
                    c_cs,
                    c_rs,
                    accumulate,
                    a,
                    a_along,
                    a_across,
                    b,
                    b_across,
                    b_along,
                    1.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                ),
            }
        }
    }

    /// The same for a part that the crates would not sum in one chain. It copies the operands, one inner step after the
    /// other. It adds a row or a column of zeros if there is only one, and steps of zeros if there are few.
    fn multiply_thin(&self, inner: &Range<usize>, [a, b]: [Operand; 2], accumulate: bool) {
        let padded = Part {
            by: self.by,
            c: self.c,
            stride: self.cols.len().max(2),
            rows: 0..self.rows.len().max(2),
            cols: 0..self.cols.len().max(2),
        };
        let steps = inner.len().max(SHORTEST);
        let (a, b) = (
            copied(a, &self.rows, inner, [steps, padded.rows.len()]),
            copied(b, &self.cols, inner, [steps, padded.cols.len()]),
        );
        let mut c = vec![0.0; padded.rows.len() * padded.stride];
        // SAFETY: the part lies within C, and no other thread uses an element of it.
        let row = |r: usize| unsafe {
            std::slice::from_raw_parts_mut(self.place().0.add(r * self.stride), self.cols.len())
        };
        if accumulate {
            for (r, c) in c.chunks_exact_mut(padded.stride).take(self.rows.len()).enumerate() {
                c[..self.cols.len()].copy_from_slice(row(r));
            }
        }
        let [a_along, b_along] = [&padded.rows, &padded.cols].map(|part| part.len() as isize);
        let place = (c.as_mut_ptr(), 1, padded.stride as isize);
        // SAFETY: the copies hold `steps` steps of all rows and columns, and only this call uses `c`.
        unsafe {
            let operands = [(&a[..], a_along, 1), (&b[..], b_along, 1)];
            padded.multiply(&(0..steps), operands, place, accumulate);
        }
        for (r, c) in c.chunks_exact(padded.stride).take(self.rows.len()).enumerate() {
            row(r).copy_from_slice(&c[..self.cols.len()]);
        }
    }
}

/// The product by `private-gemm-x86`. Pointers come with their strides across the inner dimension and along it, and from
/// row to row and from column to column.
///
/// # Safety
/// The operands hold all that shape and strides reach. C has room for it, and nothing else uses it.
#[cfg(all(feature = "native", target_arch = "x86_64"))]
unsafe fn multiply_wide(
    vectors: private_gemm_x86::InstrSet,
    [rows, cols, inner]: [usize; 3],
    [(a, a_across, a_along), (b, b_across, b_along)]: [(*const f32, isize, isize); 2],
    (c, c_rs, c_cs): (*mut f32, isize, isize),
    accumulate: bool,
) {
    use private_gemm_x86::{Accum, DType, DstKind, IType, gemm};
    use std::ptr::{from_ref, null};
    let before = if accumulate { Accum::Add } else { Accum::Replace };
    // Neither C nor the inner dimension has a list of indices, and there is no diagonal between A and B.
    let (one, indices, diagonal) = (from_ref(&1.0f32).cast(), null(), null());
    let (a, b) = (a.cast(), b.cast());
    // SAFETY: the caller guarantees what this function demands.
    unsafe {
        gemm(
            DType::F32,
            IType::U64,
            vectors,
            rows,
            cols,
            inner,
            c.cast(),
            c_rs,
            c_cs,
            indices,
            indices,
            DstKind::Full,
            before,
            a,
            a_across,
            a_along,
            false,
            diagonal,
            0,
            b,
            b_along,
            b_across,
            false,
            one,
            1,
        );
    }
}

/// Copies some rows of A, or columns of B, over the steps `inner` to `[steps, width]`. The rest is zero.
fn copied(
    (values, along, across): Operand,
    places: &Range<usize>,
    inner: &Range<usize>,
    [steps, width]: [usize; 2],
) -> Vec<f32> {
    let mut out = vec![0.0; steps * width];
    for (step, out) in inner.clone().zip(out.chunks_exact_mut(width)) {
        for (place, out) in places.clone().zip(out) {
            *out = values[(place as isize * across + step as isize * along) as usize];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers in [-1, 1).
    fn values(seed: u32, len: usize) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    const ROWS: usize = 200;
    const COLS: usize = 330;

    /// Some rows and columns of the product of two fixed matrices, added to a third if `accumulate` is set. `along`
    /// says for each operand whether it is stored along the inner dimension.
    fn product(
        by: Crate,
        part: &[Range<usize>; 2],
        inner: usize,
        along: [bool; 2],
        accumulate: bool,
    ) -> Vec<f32> {
        let sizes = part.clone().map(|part| part.len());
        let operand = |which: usize| {
            let (whole, part) = (values(which as u32, [ROWS, COLS][which] * inner), part[which].clone());
            let n = part.len();
            if along[which] {
                (whole[part.start * inner..part.end * inner].to_vec(), 1, inner as isize)
            } else {
                let steps = (0..inner).flat_map(|k| part.clone().map(move |i| i * inner + k));
                (steps.map(|at| whole[at]).collect(), n as isize, 1)
            }
        };
        let (a, b) = (operand(0), operand(1));
        // Rows of C end in padding, which the product must not touch.
        let stride = sizes[1].next_multiple_of(4) + 4;
        let before = values(3, ROWS * COLS);
        let mut c = vec![7.0; sizes[0] * stride];
        for (row, c) in part[0].clone().zip(c.chunks_exact_mut(stride)) {
            c[..sizes[1]].copy_from_slice(&before[row * COLS..][part[1].clone()]);
        }
        let operands = [(&a.0[..], a.1, a.2), (&b.0[..], b.1, b.2)];
        product_by(by, [sizes[0], sizes[1], inner], operands, (&mut c, stride), accumulate);
        assert!(c.chunks_exact(stride).all(|row| row[sizes[1]..].iter().all(|&x| x == 7.0)));
        c.chunks_exact(stride).flat_map(|row| row[..sizes[1]].to_vec()).collect()
    }

    /// A part of a large C has the same bits as the same part computed alone, by either crate.
    #[test]
    fn an_element_has_the_same_bits_in_every_part_and_on_every_number_of_threads() {
        let pools = [1, 2, 3, 7].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
        let whole = [0..ROWS, 0..COLS];
        let parts = [
            whole.clone(),
            [0..1, 0..1],
            [3..4, 0..COLS],
            [0..ROWS, 5..6],
            [7..12, 40..55],
            [10..26, 10..26],
            [1..18, 0..17],
            [0..64, 0..64],
            [60..65, 0..COLS],
            [0..ROWS, 100..164],
            [0..130, 0..129],
        ];
        for inner in [1, 2, 3, 512, 513, 1280] {
            for (along, accumulate) in [[true, true], [true, false], [false, true], [false, false]]
                .into_iter()
                .flat_map(|a| [(a, false), (a, true)])
            {
                let all = product(Crate::of_processor(), &whole, inner, along, accumulate);
                let by =
                    pools.iter().map(|pool| (Crate::of_processor(), pool)).chain([(Crate::Gemm, &pools[1])]);
                for ((by, pool), part) in by.flat_map(|by| parts.iter().map(move |part| (by, part))) {
                    let found = pool.install(|| product(by, part, inner, along, accumulate));
                    let [rows, cols] = part.clone();
                    let expected = rows.flat_map(|row| &all[row * COLS..][cols.clone()]);
                    let differ =
                        found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                    let threads = pool.current_num_threads();
                    assert_eq!(
                        differ, 0,
                        "{by:?}, {part:?}, inner {inner}, along {along:?}, accumulate {accumulate}, {threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    fn without_inner_steps_a_product_is_zero_or_what_was_there() {
        for (accumulate, expected) in [(false, 0.0), (true, 5.0)] {
            let mut c = [5.0; 8];
            cpu_product([2, 3, 0], [(&[], 1, 0), (&[], 1, 0)], (&mut c, 4), accumulate);
            assert_eq!(c, [expected, expected, expected, 5.0, expected, expected, expected, 5.0]);
        }
    }
}
