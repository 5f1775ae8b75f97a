//! Kernels on the rows or columns of a matrix.

use super::bench::{Outcome, ROUNDING, each_lanes, sum_error};
use crate::common::check;
use crate::common::random::{Random, wide};
use wgoal::Device;
use wgoal::device::{pad_rows, padded};
use wgoal::kernels::{self, Composition, RightCandidates, mined_keys, reference};

/// (rows, cols)
const SHAPES: &[(usize, usize)] =
    &[(1, 1), (2, 3), (3, 2), (31, 65), (65, 31), (1, 1000), (1000, 5), (257, 127), (64, 257)];

/// The allowed relative error of a norm, a division and a product. WGSL allows each a few units in the last place.
fn norm_error(cols: usize) -> f64 {
    sum_error(cols) + 16.0 * ROUNDING
}

pub fn l2norm(device: &Device) -> Outcome {
    each_lanes(device, SHAPES, |bench, random, (rows, cols)| {
        let mut z = random.matrix(rows, cols);
        // If there are several rows, the first is zero and must stay zero.
        z[..if rows > 1 { cols } else { 0 }].fill(0.0);
        let (mut x, mut norms) = (vec![0.0; z.len()], vec![0.0; rows]);
        reference::l2norm(&wide(&z), cols, &mut x, &mut norms);
        let z = bench.array(&z)?;
        let (mut found, mut found_norms) = (bench.poisoned(x.len())?, bench.poisoned(rows)?);
        bench.run(|commands| {
            kernels::l2norm(commands, z.mat(rows, cols), found.mat_mut(rows, cols), found_norms.get_mut())
        })?;
        bench.near("x", &found, &x, |at| norm_error(cols) * x[at].abs())?;
        bench.near("norms", &found_norms, &norms, |at| norm_error(cols) * norms[at])
    })
}

pub fn neighbourhood(device: &Device) -> Outcome {
    each_lanes(device, SHAPES, |bench, random, (rows, cols)| {
        let (a, b) = (random.matrix(rows, cols), random.matrix(rows, cols));
        let mut expected = wide(&b);
        let (temperature, weight) = (0.125, 2.0);
        reference::neighbourhood(&wide(&a), &mut expected, cols, 1.0 / temperature, weight);
        let (a, mut found) = (bench.array(&a)?, bench.array(&b)?);
        bench.run(|commands| {
            kernels::neighbourhood(
                commands,
                a.mat(rows, cols),
                found.mat_mut(rows, cols),
                temperature,
                weight,
            )
        })?;
        // The exponents are between -16 and 0. Their rounding and that of exp and log (WGSL allows the latter 2^-21 near
        // 1) scale with the weight, the rate 8 and the largest share, 1.
        bench.near("b", &found, &expected, |_| 2.0 * 8.0 * (2f64.powi(-21) + 64.0 * ROUNDING))
    })
}

pub fn l2norm_backward(device: &Device) -> Outcome {
    each_lanes(device, SHAPES, |bench, random, (rows, cols)| {
        let g = random.matrix(rows, cols);
        let mut x = random.matrix(rows, cols);
        // Any x works, because the kernel reads x and the norm as they are. x and the norm of a zero row are zero.
        let mut norms: Vec<f32> = (0..rows).map(|_| 1.5 + random.uniform()).collect();
        if rows > 1 {
            norms[0] = 0.0;
            x[..cols].fill(0.0);
        }
        let mut dz = vec![0.0; g.len()];
        reference::l2norm_backward(&wide(&g), &wide(&x), &wide(&norms), cols, &mut dz);
        let stride = padded(cols);
        let along = |i: usize| {
            let norm = |v: &[f32]| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            norm(&x[i * stride..][..cols]) * norm(&g[i * stride..][..cols])
        };
        let along: Vec<_> = (0..rows).map(along).collect();
        let allowed = |at: usize| match (f64::from(norms[at / stride]), at % stride < cols) {
            (r, true) if r > 0.0 => {
                let from_g = 8.0 * ROUNDING * f64::from(g[at].abs());
                (from_g + norm_error(cols) * f64::from(x[at].abs()) * along[at / stride]) / r
            }
            _ => 0.0,
        };
        let (device_g, device_x, device_norms) = (bench.array(&g)?, bench.array(&x)?, bench.array(&norms)?);
        let mut found = bench.poisoned(dz.len())?;
        bench.run(|commands| {
            let (g, x) = (device_g.mat(rows, cols), device_x.mat(rows, cols));
            kernels::l2norm_backward(commands, g, x, device_norms.get(), found.mat_mut(rows, cols))
        })?;
        bench.near("dz", &found, &dz, allowed)
    })
}

pub fn column_sum(device: &Device) -> Outcome {
    each_lanes(device, SHAPES, |bench, random, (rows, cols)| {
        let a = random.matrix(rows, cols);
        let mut y = vec![0.0; padded(cols)];
        reference::column_sum(&wide(&a), cols, &mut y);
        let a = bench.array(&a)?;
        let mut found = bench.poisoned(y.len())?;
        bench.run(|commands| kernels::column_sum(commands, a.mat(rows, cols), found.get_mut()))?;
        // A column sum is a product with ones, whose norm is the root of their number. The norm of a column is not
        // larger.
        bench.near("y", &found, &y, |k| if k < cols { sum_error(rows) * rows as f64 } else { 0.0 })
    })
}

pub fn compose(device: &Device) -> Outcome {
    const SHAPES: &[(usize, usize)] =
        &[(1, 1), (2, 65), (3, 2), (31, 257), (65, 31), (257, 3), (64, 127), (7, 1000), (130, 64)];
    each_lanes(device, SHAPES, |bench, random, (pairs, cols)| {
        let y = random.matrix(pairs, cols);
        let before = random.matrix(pairs, cols);
        let (own, other) = (random.values(2 * pairs), random.values(2 * pairs));
        let own_index = random.indices(pairs, pairs);
        // Few rows are mined, so that some rows gather many entries and most rows none.
        let other_index = random.indices(pairs, pairs.div_ceil(3));
        let gathered = |i: usize| other_index.iter().filter(|&&g| g as usize == i).count();
        let terms: Vec<_> = (0..pairs).map(|i| 4 + gathered(i)).collect();
        for (positive, accumulate) in [(true, false), (true, true), (false, true)] {
            let mut dx = wide(&before);
            let (wide_own, wide_other) = (wide(&own), wide(&other));
            let mut keys = vec![0; mined_keys(pairs)];
            reference::mined_order(&other_index, &mut keys);
            let (from_own, from_other) = ((&wide_own[..], &own_index[..]), (&wide_other[..], &keys[..]));
            reference::compose((&wide(&y), 0), cols, from_own, from_other, [positive, accumulate], &mut dx);
            let mut found = if accumulate { bench.array(&before)? } else { bench.poisoned(dx.len())? };
            let (y, own, other) = (bench.array(&y)?, bench.array(&own)?, bench.array(&other)?);
            let (own_index, other_keys) = (bench.array(&own_index)?, bench.array(&keys)?);
            let from = Composition {
                own: own.get(),
                own_index: own_index.get(),
                other: other.get(),
                other_keys: other_keys.get(),
                positive,
                accumulate,
            };
            bench.run(|commands| {
                kernels::compose(commands, (y.mat(pairs, cols), 0), from, found.mat_mut(pairs, cols))
            })?;
            // Every summand is at most 1, so a partial sum is at most the number of summands.
            let allowed = |at: usize| match (terms[at / padded(cols)], at % padded(cols) < cols) {
                (terms, true) => (terms * terms) as f64 * ROUNDING,
                _ => 0.0,
            };
            bench.near("dx", &found, &dx, allowed)?;
        }
        Ok(())
    })
}

/// Mined rows outside the batch, from a memory bank, are added to the result of the batch's own rows.
pub fn compose_bank(device: &Device) -> Outcome {
    const SHAPES: &[(usize, usize, usize)] = &[(1, 3, 1), (31, 65, 257), (130, 31, 64), (65, 257, 3)];
    each_lanes(device, SHAPES, |bench, random, (pairs, rows, cols)| {
        let (y, before) = (random.matrix(rows, cols), random.matrix(pairs, cols));
        let (own, other) = (random.values(2 * pairs), random.values(2 * pairs));
        let (own_index, other_index) =
            (random.indices(pairs, pairs + rows), random.indices(pairs, pairs + rows));
        let mut dx = wide(&before);
        for (i, dx) in dx.chunks_exact_mut(padded(cols)).enumerate() {
            if let Some(row) = (own_index[i] as usize).checked_sub(pairs) {
                let y = &y[row * padded(cols)..][..padded(cols)];
                dx.iter_mut().zip(y).for_each(|(d, y)| *d += f64::from(own[2 * i + 1]) * f64::from(*y));
            }
        }
        let mut found = bench.array(&before)?;
        let (y, own, other) = (bench.array(&y)?, bench.array(&own)?, bench.array(&other)?);
        let mut keys = vec![0; mined_keys(pairs)];
        reference::mined_order(&other_index, &mut keys);
        let (own_index, other_keys) = (bench.array(&own_index)?, bench.array(&keys)?);
        let from = Composition {
            own: own.get(),
            own_index: own_index.get(),
            other: other.get(),
            other_keys: other_keys.get(),
            positive: true,
            accumulate: true,
        };
        bench.run(|commands| {
            kernels::compose(commands, (y.mat(rows, cols), pairs), from, found.mat_mut(pairs, cols))
        })?;
        bench.near("dx", &found, &dx, |_| 4.0 * ROUNDING)
    })
}

pub fn mined_order(device: &Device) -> Outcome {
    // (pairs, number of rows that may be mined). The cases include rows that are mined often, no mined row in the
    // batch, and several chunks of keys.
    const SHAPES: &[(usize, usize)] =
        &[(1, 1), (2, 5), (31, 3), (64, 64), (65, 130), (1000, 1), (2048, 900), (5000, 6000)];
    each_lanes(device, SHAPES, |bench, random, (pairs, mined)| {
        let index = random.indices(pairs, mined);
        let mut expected: Vec<_> = (0..pairs).filter(|&j| (index[j] as usize) < pairs).collect();
        expected.sort_by_key(|&j| (index[j], j));
        let mut expected: Vec<_> = expected.iter().map(|&j| index[j] * pairs as u32 + j as u32).collect();
        expected.resize(mined_keys(pairs), u32::MAX);
        let (index, mut keys) = (bench.array(&index)?, bench.poisoned(expected.len())?);
        bench.run(|commands| kernels::mined_order(commands, index.get(), pairs, keys.get_mut()))?;
        bench.equal("keys", &keys, &expected)
    })
}

/// Lists of right candidates: up to `most` of each query, some of none; and where each list begins.
fn right_candidates(random: &mut Random, [queries, candidates, most]: [usize; 3]) -> (Vec<u32>, Vec<u32>) {
    let (mut offsets, mut right) = (vec![0], Vec::new());
    for _ in 0..queries {
        let count = random.below(most + 1);
        right.extend(random.indices(count, candidates));
        offsets.push(right.len() as u32);
    }
    (offsets, right)
}

pub fn ranks(device: &Device) -> Outcome {
    // (queries, candidates, right candidates of a query at most)
    const SHAPES: &[(usize, usize, usize)] =
        &[(1, 1, 1), (3, 2, 3), (2, 65, 2), (65, 31, 9), (31, 257, 4), (130, 64, 5), (5, 1000, 70)];
    each_lanes(device, SHAPES, |bench, random, (queries, candidates, most)| {
        let values: Vec<_> = (0..queries * candidates).map(|_| random.coarse(64)).collect();
        let similarity = pad_rows(&values, candidates);
        let (offsets, right) = right_candidates(random, [queries, candidates, most]);
        let entries = right.len();
        // The place in the fully sorted row: by similarity, then by index.
        let mut expected: Vec<u32> = Vec::new();
        for (query, row) in values.chunks_exact(candidates).enumerate() {
            let mut order: Vec<usize> = (0..candidates).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            for &r in &right[offsets[query] as usize..offsets[query + 1] as usize] {
                expected.push(order.iter().position(|&c| c == r as usize).unwrap() as u32);
            }
        }
        let mut twin = vec![0; entries];
        reference::ranks(&wide(&similarity), candidates, &offsets, &right, &mut twin);
        check(twin == expected, format!("twin: {twin:?}"))?;
        let similarity = bench.array(&similarity)?;
        let (offsets, right) = (bench.array(&offsets)?, bench.array(&right)?);
        let mut found = bench.poisoned(entries)?;
        let of = RightCandidates { offsets: offsets.get(), right: right.get(), entries };
        bench.run(|commands| {
            kernels::ranks(commands, similarity.mat(queries, candidates), of, found.get_mut())
        })?;
        bench.equal("ranks", &found, &expected)
    })
}

/// The rule itself, on rows whose ranks are easy to see.
pub fn ranks_by_hand(device: &Device) -> Outcome {
    let cases: [([f32; 5], &[u32], &[u32]); 6] = [
        ([0.1, 0.2, 0.3, 0.4, 0.5], &[1, 4], &[3, 0]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], &[0, 1, 2, 3, 4], &[4, 3, 2, 1, 0]),
        ([0.5, 0.5, 0.5, 0.5, 0.5], &[3], &[3]), // after the equals with lower indices
        ([0.5, 0.5, 0.5, 0.5, 0.5], &[4, 1], &[4, 1]),
        ([-1.0, -2.0, -1.0, -1.0, -1.0], &[1, 4], &[4, 3]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], &[], &[]), // no right candidate
    ];
    let mut offsets = vec![0];
    cases.iter().for_each(|(_, right, _)| offsets.push(offsets.last().unwrap() + right.len() as u32));
    let right: Vec<u32> = cases.iter().flat_map(|(_, right, _)| right.to_vec()).collect();
    let expected: Vec<u32> = cases.iter().flat_map(|(.., ranks)| ranks.to_vec()).collect();
    let similarity = cases.map(|case| case.0).concat();
    let similarity = pad_rows(&similarity, 5);
    let mut found = vec![0; right.len()];
    reference::ranks(&similarity, 5, &offsets, &right, &mut found);
    check(found == expected, format!("twin: {found:?}"))?;
    each_lanes(device, &[()], |bench, _, ()| {
        let (s, offsets, right) = (bench.array(&similarity)?, bench.array(&offsets)?, bench.array(&right)?);
        let entries = expected.len();
        let of = RightCandidates { offsets: offsets.get(), right: right.get(), entries };
        let mut found = bench.poisoned(entries)?;
        bench.run(|commands| kernels::ranks(commands, s.mat(6, 5), of, found.get_mut()))?;
        bench.equal("ranks", &found, &expected)
    })
}
