//! The hubness of an item, from its similarities to a bank.

use super::Hubness;
use rayon::prelude::*;

/// The hubness of each row of similarities, by each of `kinds`: `[rows, kinds]`.
pub(super) fn of_rows<'a>(rows: impl Iterator<Item = &'a [f32]>, kinds: &[Hubness]) -> Vec<f64> {
    let rows: Vec<&[f32]> = rows.collect();
    // Every row is summed by one thread, so the number of threads changes nothing.
    let by_row: Vec<Vec<f64>> = rows.par_iter().map(|row| of_row(row, kinds)).collect();
    by_row.concat()
}

fn of_row(row: &[f32], kinds: &[Hubness]) -> Vec<f64> {
    let neighbours = |kind: &Hubness| match kind {
        Hubness::Csls { k } => *k,
        Hubness::InvertedSoftmax { .. } => 0,
    };
    let most = kinds.iter().map(neighbours).max().unwrap_or(0).min(row.len());
    let nearest = largest(row, most);
    kinds.iter().map(|kind| of_kind(row, &nearest, *kind)).collect()
}

/// The `count` largest values, in descending order.
fn largest(row: &[f32], count: usize) -> Vec<f32> {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let mut values = row.to_vec();
    if count > 0 && count < values.len() {
        values.select_nth_unstable_by(count - 1, descending);
    }
    values.truncate(count);
    values.sort_unstable_by(descending);
    values
}

/// The hubness by one kind. `nearest` are the largest values of the row, in descending order.
fn of_kind(row: &[f32], nearest: &[f32], kind: Hubness) -> f64 {
    match kind {
        Hubness::Csls { k } => {
            let k = k.min(nearest.len());
            nearest[..k].iter().map(|&s| f64::from(s)).sum::<f64>() / k.max(1) as f64
        }
        Hubness::InvertedSoftmax { temperature } => {
            let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let temperature = f64::from(temperature);
            let mean = row.iter().map(|&s| ((f64::from(s) - largest) / temperature).exp()).sum::<f64>()
                / row.len().max(1) as f64;
            largest + temperature * mean.ln()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn hubness_is_that_worked_out_by_hand() {
        let row = [0.1f32, 0.9, -0.3, 0.5];
        let of = |kind| of_row(&row, &[kind])[0];
        assert_relative_eq!(of(Hubness::Csls { k: 2 }), 0.7, max_relative = 1e-6);
        // Fewer items than neighbours: all of them.
        assert_relative_eq!(of(Hubness::Csls { k: 9 }), 0.3, max_relative = 1e-6);
        let sum: f64 = row.iter().map(|&s| (f64::from(s) / 0.5).exp()).sum();
        let expected = 0.5 * (sum / 4.0).ln();
        assert_relative_eq!(of(Hubness::InvertedSoftmax { temperature: 0.5 }), expected, max_relative = 1e-6);
        // Together they are as alone.
        let kinds = [Hubness::Csls { k: 1 }, Hubness::Csls { k: 3 }];
        assert_eq!(of_row(&row, &kinds), [of(kinds[0]), of(kinds[1])]);
    }
}
