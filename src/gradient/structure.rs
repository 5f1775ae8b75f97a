//! The neighbourhood-preserving regularisation STRUCTURE (docs/math.md, "Neighbourhoods"): the gradient, at the
//! embeddings of a side, of the distance between the neighbourhoods of a batch before and after the head.
//!
//! The similarities are computed in strips of rows, so the whole N x N matrix is never in memory.

use crate::Result;
use crate::device::{Buffer, Commands, Device, Mat, MatMut, Matrix};
use crate::kernels::{Product, accumulate, column_sum, l2norm, matmul, neighbourhood};

/// The buffers of one side for batches of one size.
pub(crate) struct Structure {
    /// Of each row of a batch.
    weight: f64,
    temperature: f64,
    /// Features as unit rows less their mean.
    features: Matrix,
    /// Embeddings less their mean, and the gradient at them.
    embeddings: Matrix,
    gradient: Matrix,
    norms: Buffer<f32>,
    /// Sums of columns `[1, cols]`, of features and of embeddings.
    sums: [Matrix; 2],
    /// -1 / N in every row `[N, 1]`.
    shares: Matrix,
    /// Strips of the similarities of features and of embeddings.
    strips: [Matrix; 2],
}

impl Structure {
    /// One for images and one for texts; `None` if the strength is 0.
    pub fn both(
        device: &Device,
        options: [f64; 2],
        pairs: usize,
        dims: [usize; 2],
        embed: usize,
    ) -> Result<Option<[Self; 2]>> {
        let side = |dim| Self::new(device, options, pairs, [dim, embed]);
        let both = || Ok([side(dims[0])?, side(dims[1])?]);
        (options[0] > 0.0).then(both).transpose()
    }

    /// For `pairs` rows of features of width `dim` and of embeddings of width `embed`.
    pub fn new(
        device: &Device,
        [strength, temperature]: [f64; 2],
        pairs: usize,
        [dim, embed]: [usize; 2],
    ) -> Result<Self> {
        let rows = device.strip_rows(pairs, pairs, dim.max(embed))?;
        let matrix = |rows, cols| Matrix::new(device, "structure", rows, cols);
        let share = vec![-1.0 / pairs as f32; pairs];
        Ok(Self {
            // The mean over the rows of both sides.
            weight: 0.5 * strength / pairs as f64,
            temperature,
            features: matrix(pairs, dim)?,
            embeddings: matrix(pairs, embed)?,
            gradient: matrix(pairs, embed)?,
            norms: Buffer::new(device, "structure.norms", pairs)?,
            sums: [matrix(1, dim)?, matrix(1, embed)?],
            shares: Matrix::from_rows(device, "structure.shares", pairs, 1, &share)?,
            strips: [matrix(rows, pairs)?, matrix(rows, pairs)?],
        })
    }

    /// Adds the gradient at the unit rows `unit` to `d_unit`. `features` are the rows that the head embedded.
    pub fn add(&mut self, commands: &mut Commands, features: Mat, unit: Mat, d_unit: MatMut) -> Result<()> {
        let Self {
            features: f, embeddings: e, gradient, norms, sums: [f_sum, e_sum], shares, strips, ..
        } = self;
        l2norm(commands, features, f.view_mut(), norms.view_mut())?;
        centre(commands, f, f_sum, shares)?;
        accumulate(commands, (unit.data, e.buffer.len()), 1.0, (e.buffer.view_mut(), 0), false)?;
        centre(commands, e, e_sum, shares)?;
        let [before, after] = strips;
        let (pairs, most) = (f.rows, before.rows);
        for first in (0..pairs).step_by(most) {
            let rows = first..pairs.min(first + most);
            let len = 0..rows.len();
            matmul(commands, Product::nt(f.rows(rows.clone()), f.view()), before.rows_mut(len.clone()))?;
            matmul(commands, Product::nt(e.rows(rows.clone()), e.view()), after.rows_mut(len.clone()))?;
            let (a, b) = (before.rows(len.clone()), after.rows_mut(len.clone()));
            neighbourhood(commands, a, b, self.temperature, self.weight)?;
            // A similarity depends on the row and on the column.
            let b = after.rows(len);
            let by_column = Product { accumulate: first > 0, ..Product::tn(b, e.rows(rows.clone())) };
            matmul(commands, by_column, gradient.view_mut())?;
            let by_row = Product { accumulate: true, ..Product::nn(b, e.view()) };
            matmul(commands, by_row, gradient.rows_mut(rows))?;
        }
        centre(commands, gradient, e_sum, shares)?;
        let from = (gradient.buffer.view(), gradient.buffer.len());
        accumulate(commands, from, 1.0, (d_unit.data, 0), true)
    }
}

/// Subtracts the mean of its column from each element of `x`. `sum` receives the sums of the columns.
fn centre(commands: &mut Commands, x: &mut Matrix, sum: &mut Matrix, shares: &Matrix) -> Result<()> {
    column_sum(commands, x.view(), sum.view_mut().data)?;
    let product = Product { accumulate: true, ..Product::nn(shares.view(), sum.view()) };
    matmul(commands, product, x.view_mut())
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use super::*;
    use crate::device::{pad_rows, unpad_rows};

    const PAIRS: usize = 9;
    const DIMS: [usize; 2] = [6, 5];

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n)
            .map(|k| ((k as u32 ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    /// The softmax of the similarities of all rows, which are first normalised if `normalise` is set, then centred.
    fn neighbours(rows: &[f64], dim: usize, normalise: bool, temperature: f64) -> Vec<Vec<f64>> {
        let mut rows: Vec<Vec<f64>> = rows.chunks(dim).map(<[f64]>::to_vec).collect();
        for row in rows.iter_mut().filter(|_| normalise) {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        for k in 0..dim {
            let mean = rows.iter().map(|row| row[k]).sum::<f64>() / rows.len() as f64;
            rows.iter_mut().for_each(|row| row[k] -= mean);
        }
        let softmax = |i: usize| {
            let dots = rows.iter().map(|row| row.iter().zip(&rows[i]).map(|(a, b)| a * b).sum::<f64>());
            let values: Vec<f64> = dots.map(|dot| (dot / temperature).exp()).collect();
            let sum: f64 = values.iter().sum();
            values.into_iter().map(|x| x / sum).collect()
        };
        (0..rows.len()).map(softmax).collect()
    }

    /// Half the strength times the mean divergence of the rows.
    fn loss(features: &[f64], unit: &[f64], [strength, temperature]: [f64; 2]) -> f64 {
        let p = neighbours(features, DIMS[0], true, temperature);
        let q = neighbours(unit, DIMS[1], false, temperature);
        let divergence = |p: &f64, q: &f64| {
            let m = 0.5 * (p + q);
            0.5 * (p * (p / m).ln() + q * (q / m).ln())
        };
        let all = p.iter().zip(&q).flat_map(|(p, q)| p.iter().zip(q).map(|(p, q)| divergence(p, q)));
        0.5 * strength * all.sum::<f64>() / PAIRS as f64
    }

    #[test]
    fn the_gradient_is_that_of_the_divergence_and_is_added() {
        let device = Device::cpu();
        let (features, unit) = (numbers(PAIRS * DIMS[0], 1), numbers(PAIRS * DIMS[1], 2));
        let before = numbers(PAIRS * DIMS[1], 3);
        let options = [4.0, 0.5];
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        // Strips of all rows, and of four.
        for rows in [PAIRS, 4] {
            let mut structure = Structure::new(&device, options, PAIRS, DIMS).unwrap();
            for strip in &mut structure.strips {
                *strip = Matrix::new(&device, "strip", rows, PAIRS).unwrap();
            }
            let matrix =
                |dim, values: &[f32]| Matrix::from_rows(&device, "rows", PAIRS, dim, values).unwrap();
            let (f, u) = (matrix(DIMS[0], &features), matrix(DIMS[1], &unit));
            let mut d_unit = matrix(DIMS[1], &before);
            structure.add(&mut device.commands(), f.view(), u.view(), d_unit.view_mut()).unwrap();
            let found = device.wait(d_unit.buffer.read(&device, 0..d_unit.buffer.len())).unwrap();
            let found = unpad_rows(found, DIMS[1]);
            let (f, u) = (wide(&features), wide(&unit));
            for k in 0..u.len() {
                let at = |step: f64| {
                    let mut moved = u.clone();
                    moved[k] += step;
                    loss(&f, &moved, options)
                };
                let expected = f64::from(before[k]) + (at(1e-5) - at(-1e-5)) / 2e-5;
                // f32 rounds sums of a few values of the order of 1.
                assert!((f64::from(found[k]) - expected).abs() < 2e-6, "{k}: {} {expected}", found[k]);
            }
        }
        assert_eq!(pad_rows(&unit, DIMS[1]).len(), PAIRS * 8);
    }
}
