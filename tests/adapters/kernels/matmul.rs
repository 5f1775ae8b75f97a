//! The matrix product: all shaders, variants and orientations.

use super::bench::{Bench, Outcome, ROUNDING, each_optional_product, each_product, sum_error};
use crate::common::random::{Random, wide};
use wgoal::Device;
use wgoal::device::padded;
use wgoal::kernels::{self, Product, reference};

/// (rows, cols, inner) of the product, all different where that can matter.
const SHAPES: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 65, 2],
    [64, 3, 1],
    [3, 2, 31],
    [31, 64, 65],
    [65, 31, 64],
    [2, 257, 127],
    [127, 5, 257],
    [67, 130, 18],
    [9, 6, 1000],
    // Shapes for operands in images: one row of the image, and several rows and a part.
    [128, 5, 64],
    [257, 33, 260],
];

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

pub fn matmul(device: &Device) -> Outcome {
    each_product(device, SHAPES, product)
}

pub fn matmul_subgroups(device: &Device) -> Outcome {
    each_optional_product(device, SHAPES, product)
}

fn product(bench: &Bench, random: &mut Random, [rows, cols, inner]: [usize; 3]) -> Outcome {
    for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false)] {
        let a_shape = if a_transposed { [inner, rows] } else { [rows, inner] };
        let b_shape = if b_transposed { [cols, inner] } else { [inner, cols] };
        let (a, b) = (random.matrix(a_shape[0], a_shape[1]), random.matrix(b_shape[0], b_shape[1]));
        let (bias, c) = (random.values(cols), random.matrix(rows, cols));
        let [wide_a, wide_b, wide_bias, wide_c] = [&a, &b, &bias, &c].map(|values| wide(values));
        // The norms of the rows of op(A) and of the columns of op(B).
        let (a_stride, b_stride) = (padded(a_shape[1]), padded(b_shape[1]));
        let a_at = |i: usize, k: usize| if a_transposed { k * a_stride + i } else { i * a_stride + k };
        let b_at = |k: usize, j: usize| if b_transposed { j * b_stride + k } else { k * b_stride + j };
        let a_norms: Vec<_> = (0..rows).map(|i| norm((0..inner).map(|k| wide_a[a_at(i, k)]))).collect();
        let b_norms: Vec<_> = (0..cols).map(|j| norm((0..inner).map(|k| wide_b[b_at(k, j)]))).collect();
        let (device_a, device_b, device_bias) = (bench.array(&a)?, bench.array(&b)?, bench.array(&bias)?);
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        for ((add_bias, accumulate), split) in ways.into_iter().flat_map(|w| [(w, false), (w, true)]) {
            let mut expected = wide_c.clone();
            reference::matmul(
                (&wide_a, a_shape, a_transposed),
                (&wide_b, b_shape, b_transposed),
                add_bias.then_some(&wide_bias[..]),
                accumulate,
                &mut expected,
            );
            let mut out = if accumulate { bench.array(&c)? } else { bench.poisoned(c.len())? };
            let product = Product {
                a: device_a.mat(a_shape[0], a_shape[1]),
                b: device_b.mat(b_shape[0], b_shape[1]),
                a_transposed,
                b_transposed,
                bias: add_bias.then_some(device_bias.get()),
                accumulate,
                sliced: false,
                variant: bench.product(),
            };
            bench.run_split(split, |commands| kernels::matmul(commands, product, out.mat_mut(rows, cols)))?;
            // The summands added to the product are at most 1, and each sum is rounded once.
            let added = f64::from(u8::from(add_bias) + u8::from(accumulate));
            let what = format!("a_transposed {a_transposed}, b_transposed {b_transposed}, ");
            let what = format!("{what}bias {add_bias}, accumulate {accumulate}, split {split}: c");
            bench.near(&what, &out, &expected, |at| match (at / padded(cols), at % padded(cols)) {
                (_, j) if j >= cols => 0.0,
                (i, j) => {
                    sum_error(inner) * a_norms[i] * b_norms[j]
                        + 2.0 * added * ROUNDING * (1.0 + expected[at].abs())
                }
            })?;
        }
    }
    Ok(())
}
