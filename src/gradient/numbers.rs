//! Numbers of images on a device. A row number is a u64, and kernels compare u32.

use std::collections::HashMap;

/// A number for each image row of a batch, for [`GradientOptions::ids`](super::GradientOptions::ids). Numbers are equal
/// where the rows are, and nothing else counts. Rows are their own numbers if all are below 2^32. Otherwise rows are
/// numbered by their first occurrence.
///
/// ```
/// assert_eq!(wgoal::gradient::numbers(&[7_000_000_000, 5, 7_000_000_000]), [0, 1, 0]);
/// ```
pub fn numbers(rows: &[u64]) -> Vec<u32> {
    let own: Result<Vec<u32>, _> = rows.iter().map(|&row| u32::try_from(row)).collect();
    own.unwrap_or_else(|_| {
        let mut known = HashMap::with_capacity(rows.len());
        rows.iter()
            .map(|row| {
                let next = known.len() as u32;
                *known.entry(row).or_insert(next)
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_where_rows_are() {
        assert_eq!(numbers(&[7, 0, 7, u64::from(u32::MAX)]), [7, 0, 7, u32::MAX]);
        // The lower halves of the last two rows are equal.
        let beyond = 1 << 32;
        assert_eq!(numbers(&[7, beyond + 7, 7, 2 * beyond + 7]), [0, 1, 0, 2]);
    }
}
