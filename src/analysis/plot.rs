//! T P⁺ and T P⁻ over p and n as charts.

use super::{WORK, steps};
use crate::draw::{Field, Plane, side_by_side};
use crate::objective::Objective;
use crate::{Error, Result};

/// Fewest and most cells per side. A weight file with long loops gets fewer.
const CELLS: [usize; 2] = [25, 100];

/// T P⁺ and T P⁻ in the cells of a square of the plane, with empty relative sets; `None` if the objective has no such
/// weights.
///
/// # Errors
/// A weight file that cannot be evaluated.
pub(crate) fn fields(objective: &Objective, [low, high]: [f64; 2]) -> Result<Option<[Field; 2]>> {
    let side = (WORK / steps(objective).max(1)).isqrt().clamp(CELLS[0], CELLS[1]);
    let along = |k: usize| low + (high - low) * (k as f64 + 0.5) / side as f64;
    let mut values = [(); 2].map(|()| Vec::with_capacity(side * side));
    for (n, p) in (0..side).flat_map(|n| (0..side).map(move |p| (n, p))) {
        let Some([triplet, positive, negative]) = objective.weights_at(along(p), along(n))? else {
            return Ok(None);
        };
        values[0].push(triplet * positive);
        values[1].push(triplet * negative);
    }
    Ok(Some(values.map(|values| Field { side, values })))
}

/// What the two charts show.
pub(crate) const NAMES: [&str; 2] = ["T P⁺, the pull on the positive", "T P⁻, the push on the negative"];

/// T P⁺ and T P⁻ over p and n as two charts side by side, as an SVG document that follows light and dark mode.
///
/// Each shade covers about the same part of the plane, so that weights over many powers of ten stay visible.
///
/// # Errors
/// An objective without such weights.
pub fn plot(objective: &Objective) -> Result<String> {
    let range = [-1.0, 1.0];
    let Some(fields) = fields(objective, range)? else {
        let expected = "an objective with weights over p and n";
        return Err(Error::config("--plot", expected, objective, "leave --plot out"));
    };
    let mut charts = Vec::new();
    for (field, title) in fields.iter().zip(NAMES) {
        let description = "Shades and contour lines of the weight over p and n, from -1 to 1. Above zero, the weight \
                           acts in the right direction.";
        charts.push(Plane { title, description, range, field: Some(field), clouds: &[] }.draw()?);
    }
    let note = "Each shade covers about the same part of the plane. Numbers beside a shade are its limit away from 0.";
    Ok(side_by_side(&objective.to_string(), note, &charts))
}
