//! Standardisation of input columns.

/// Shift and scale of every column of one side: `x' = (x - mean) * inverse_std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    /// Mean of each column.
    pub mean: Vec<f32>,
    /// One over the (population) standard deviation of each column; 0 for a constant column.
    pub inverse_std: Vec<f32>,
}
