//! The precision of the unit rows that the processes of a job exchange, as an option.

use crate::{Error, Plain, Result};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The numbers in which unit rows go to the other processes of a job (docs/scaling.md). Every process then has the same
/// rounded rows, its own ones included. So the bits do not depend on the number of processes. The gradient of the head
/// is exchanged in f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Gather {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 11 binary digits: half the bytes.
    F16,
}

impl Gather {
    /// Rounds rows to what all processes see. Returns the bits to exchange, unless they are those of the f32 numbers.
    pub(super) fn round(self, rows: &mut [f32]) -> Option<Vec<u16>> {
        if self == Self::F32 {
            return None;
        }
        let mut short = vec![0u16; rows.len()];
        let numbers: &mut [f16] = short.reinterpret_cast_mut();
        numbers.convert_from_f32_slice(rows);
        numbers.convert_to_f32_slice(rows);
        Some(short)
    }
}

/// The rows of the bits that [`Gather::round`] returned.
pub(super) fn widened(short: &[u16]) -> Vec<f32> {
    let numbers: &[f16] = short.reinterpret_cast();
    let mut rows = vec![0.0; numbers.len()];
    numbers.convert_to_f32_slice(&mut rows);
    rows
}

impl fmt::Display for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Gather {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::F32, Self::F16].into_iter().find(|value| value.to_string() == name).ok_or_else(|| {
            let found = format!("'{}'", Plain(name));
            Error::config("--gather", "f32 or f16", found, "name one of the two")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_rows_are_those_that_the_others_receive() {
        let rows: Vec<f32> = (0..37).map(|k| (k as f32 * 0.7).sin()).collect();
        let mut rounded = rows.clone();
        let short = Gather::F16.round(&mut rounded).unwrap();
        assert_eq!(widened(&short), rounded);
        for (exact, rounded) in rows.iter().zip(&rounded) {
            // Half of the last of 11 binary digits.
            assert!((exact - rounded).abs() <= exact.abs().max(6.2e-5) * 0.000_489, "{exact} {rounded}");
        }
        assert!(rounded != rows);
        assert_eq!(Gather::F32.round(&mut rounded), None);
        for gather in [Gather::F32, Gather::F16] {
            assert_eq!(gather.to_string().parse::<Gather>().unwrap(), gather);
        }
    }
}
