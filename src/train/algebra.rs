//! Linear algebra of the closed forms in f64, on all cores. The bits of a result do not depend on the number of
//! threads: work is divided into chunks of fixed size, and what cannot be divided runs on one thread.

use crate::{Error, Result};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Columns of a chunk.
const COLUMNS: usize = 64;

/// The matrix of `of(row, column)`.
pub(super) fn filled(rows: usize, cols: usize, of: impl Fn(usize, usize) -> f64 + Sync) -> Mat<f64> {
    let mut out = Mat::zeros(rows, cols);
    out.par_col_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, part)| {
        for (column, values) in part.col_iter_mut().enumerate() {
            let column = chunk * COLUMNS + column;
            values.iter_mut().enumerate().for_each(|(row, value)| *value = of(row, column));
        }
    });
    out
}

pub(super) fn times(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    add_product(&mut out, a, b);
    out
}

/// out += a b.
pub(super) fn add_product(out: &mut Mat<f64>, a: MatRef<f64>, b: MatRef<f64>) {
    out.par_col_chunks_mut(COLUMNS).zip(b.par_col_chunks(COLUMNS)).for_each(|(out, b)| {
        matmul(out, Accum::Add, a, b, 1.0, Par::Seq);
    });
}

/// The eigenvectors of a symmetric matrix by descending eigenvalue. Eigenvalues that rounding made negative are set to
/// 0.
pub(super) fn eigen(symmetric: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    let n = symmetric.nrows();
    let (mut vectors, mut values) = (Mat::zeros(n, n), Diag::zeros(n));
    let (par, params) = (Par::Seq, Default::default());
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, params);
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let out = Some(vectors.as_mut());
    self_adjoint_evd(symmetric.as_ref(), values.as_mut(), out, par, stack, params)
        .map_err(|e| fault("an eigendecomposition", format!("{e:?}")))?;
    let vectors = vectors.reverse_cols().to_owned();
    let mut values: Vec<f64> = values.column_vector().iter().map(|&x| x.max(0.0)).collect();
    values.reverse();
    Ok((vectors, values))
}

fn fault(expected: &str, found: String) -> Error {
    let advice = "check the features for values that are extremely large";
    Error::data("covariance of the features", expected, found, advice)
}

/// The lower triangle L of a positive definite matrix C = L Lᵀ. What is above the diagonal is undefined.
pub(super) fn cholesky(mut positive: Mat<f64>) -> Result<Mat<f64>> {
    let (par, params) = (Par::Seq, Default::default());
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(positive.nrows(), par, params));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(positive.as_mut(), Default::default(), par, stack, params)
        .map_err(|e| fault("a Cholesky decomposition", format!("{e:?}")))?;
    Ok(positive)
}

/// b := L^-1 b, of the lower triangle of `l`.
pub(super) fn solve_lower(l: &Mat<f64>, b: &mut Mat<f64>) {
    b.par_col_chunks_mut(COLUMNS).for_each(|b| solve_lower_triangular_in_place(l.as_ref(), b, Par::Seq));
}

/// b := L^-T b, of the lower triangle of `l`.
pub(super) fn solve_upper(l: &Mat<f64>, b: &mut Mat<f64>) {
    b.par_col_chunks_mut(COLUMNS).for_each(|b| solve_upper_triangular_in_place(l.transpose(), b, Par::Seq));
}

/// Orthonormal columns that span those of `y`. Directions that rounding cannot tell from 0 become columns of zeros.
pub(super) fn orthonormal(y: &Mat<f64>) -> Result<Mat<f64>> {
    let (vectors, squares) = eigen(&times(y.transpose(), y.as_ref()))?;
    let floor = squares.first().map_or(0.0, |largest| 1e-12 * largest);
    let inverse = |square: f64| if square > floor { 1.0 / square.sqrt() } else { 0.0 };
    let inverses: Vec<f64> = squares.into_iter().map(inverse).collect();
    let scaled = Mat::from_fn(vectors.nrows(), vectors.ncols(), |i, j| vectors[(i, j)] * inverses[j]);
    Ok(times(y.as_ref(), scaled.as_ref()))
}

/// The leading singular triplets of a matrix N, of which `transposed` is Nᵀ.
pub(super) struct Triplets {
    /// U S, as columns.
    pub left: Mat<f64>,
    /// V S, as columns.
    pub right: Mat<f64>,
    /// S, in descending order.
    pub values: Vec<f64>,
}

/// At most `width` triplets by subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4) from the columns
/// that `start` fills with random numbers. A matrix that is hardly larger than the subspace is decomposed exactly.
pub(super) fn leading_triplets(
    transposed: &Mat<f64>,
    width: usize,
    mut start: impl FnMut() -> f64,
) -> Result<Triplets> {
    let (n, nt) = (transposed.transpose(), transposed.as_ref());
    let (rows, cols) = (n.nrows(), n.ncols());
    let width = width.min(rows).min(cols);
    // The further columns make the iteration converge faster.
    let subspace = width + width / 4 + 32;
    let basis = if 2 * subspace >= rows.min(cols) {
        Mat::identity(cols, cols)
    } else {
        let mut v = Mat::zeros(cols, subspace);
        v.col_iter_mut().for_each(|column| column.iter_mut().for_each(|x| *x = start()));
        for _ in 0..ITERATIONS {
            v = orthonormal(&times(nt, times(n, v.as_ref()).as_ref()))?;
        }
        v
    };
    let mapped = times(n, basis.as_ref());
    let (vectors, squares) = eigen(&times(mapped.transpose(), mapped.as_ref()))?;
    let values: Vec<f64> = squares[..width].iter().map(|x| x.sqrt()).collect();
    let vectors = vectors.subcols(0, width);
    let scaled = Mat::from_fn(vectors.nrows(), width, |i, j| vectors[(i, j)] * values[j]);
    let right = times(basis.as_ref(), scaled.as_ref());
    Ok(Triplets { left: times(mapped.as_ref(), vectors), right, values })
}

/// Iterations. In each, what does not belong to a direction shrinks by the square of the ratio of the singular values.
const ITERATIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in [-1, 1), of a linear congruential sequence.
    fn numbers() -> impl FnMut() -> f64 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as f64 / f64::from(1u32 << 31) - 1.0
        }
    }

    #[test]
    fn leading_triplets_are_those_of_the_whole_decomposition() {
        // Singular values that fall slowly, as canonical correlations do, and a matrix of low rank.
        for rank in [400, 30] {
            let (rows, cols, width) = (310, 290, 40);
            let mut number = numbers();
            let mut random = |rows, cols| Mat::from_fn(rows, cols, |_, _| number());
            let (a, b) = (random(rows, rank), random(cols, rank));
            let a = Mat::from_fn(rows, rank, |i, j| a[(i, j)] / (1.0 + 0.02 * j as f64));
            let transposed = times(b.as_ref(), a.transpose());
            let Triplets { left, right, values } = leading_triplets(&transposed, width, numbers()).unwrap();
            let (_, squares) = eigen(&times(transposed.transpose(), transposed.as_ref())).unwrap();
            for (k, value) in values.iter().enumerate() {
                assert!(
                    (value - squares[k].sqrt()).abs() < 1e-3 * values[0],
                    "{k}: {value} {}",
                    squares[k].sqrt()
                );
            }
            // The directions are orthogonal, and N V = U S on those that have converged.
            let grams = [&left, &right].map(|side| times(side.transpose(), side.as_ref()));
            for gram in grams {
                for (i, j) in (0..width).flat_map(|i| (0..i).map(move |j| (i, j))) {
                    assert!(gram[(i, j)].abs() < 1e-6 * values[0].powi(2), "{i} {j}");
                }
            }
            let mapped = times(transposed.transpose(), right.as_ref());
            for j in 0..10 {
                for i in 0..rows {
                    let expected = left[(i, j)] * values[j];
                    assert!((mapped[(i, j)] - expected).abs() < 1e-6 * values[0].powi(2), "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn solutions_of_triangles_multiply_back() {
        let mut number = numbers();
        let a = Mat::from_fn(150, 150, |_, _| number());
        let positive = times(a.as_ref(), a.transpose()) + Mat::<f64>::identity(150, 150);
        let b = Mat::from_fn(150, 70, |_, _| number());
        let l = cholesky(positive.clone()).unwrap();
        let mut x = b.clone();
        solve_lower(&l, &mut x);
        solve_upper(&l, &mut x);
        let back = times(positive.as_ref(), x.as_ref()) - b;
        assert!(back.norm_max() < 1e-9, "{}", back.norm_max());
        assert!(cholesky(Mat::from_fn(3, 3, |_, _| -1.0)).is_err());
    }
}
