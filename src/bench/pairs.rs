//! Measures the time and the memory of one gradient for batches of many pairs.

use super::products::Products;
use super::{median, numbers, peak_memory, unit_rows, wrong};
use crate::Result;
use crate::device::Device;
use crate::gradient::GradientOptions;
use crate::objective::Objective;
use serde::Serialize;
use std::fmt::Write as _;

/// The time and the memory of a gradient.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PairsTimes {
    /// The number of pairs in the batch.
    pub pairs: usize,
    /// The seconds of the gradient at given embeddings, including the transfers to and from the device.
    pub seconds: f64,
    /// The seconds of the similarity product alone.
    pub product: f64,
    /// `seconds` divided by `product`.
    pub ratio: f64,
    /// The growth of the largest resident memory of the process in MB, not counting the embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grown_mb: Option<u64>,
}

/// Times the gradient of a batch of `pairs` embeddings of width `dim`.
///
/// # Errors
/// The device fails, or the loss is not finite.
pub fn pairs(device: &Device, objective: &Objective, pairs: usize, dim: usize) -> Result<PairsTimes> {
    let mut images: Vec<_> = numbers().take(pairs * dim).collect();
    let mut texts: Vec<_> = numbers().skip(1).take(pairs * dim).collect();
    unit_rows(&mut images, dim);
    unit_rows(&mut texts, dim);
    let before = peak_memory();
    let options = GradientOptions::default();
    let mut loss = 0.0;
    let seconds = median(|| {
        loss = objective.gradients(device, (&images, dim), (&texts, dim), options)?.loss;
        Ok(())
    })?;
    let grown_mb = peak_memory().zip(before).map(|(after, before)| after - before);
    if !loss.is_finite() {
        return Err(wrong("the gradient", "a finite loss", loss));
    }
    // One strip, scaled up: the whole product may not fit into memory. The gradient works in strips too.
    let strip = pairs.min(1024);
    let alone = Products::new(device, &[([strip, pairs, dim], false)])?.seconds()?;
    let product = alone * pairs as f64 / strip as f64;
    Ok(PairsTimes { pairs, seconds, product, ratio: seconds / product, grown_mb })
}

/// Plots both times over the number of pairs, with logarithmic axes, as an SVG document.
pub fn plot(objective: &str, device: &str, rows: &[PairsTimes]) -> String {
    const SIZE: [f64; 2] = [520.0, 300.0];
    let logs =
        |of: &dyn Fn(&PairsTimes) -> f64| -> Vec<f64> { rows.iter().map(|row| of(row).log10()).collect() };
    let (pairs, seconds, products) =
        (logs(&|row| row.pairs as f64), logs(&|row| 1e3 * row.seconds), logs(&|row| 1e3 * row.product));
    let low = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let both = [&seconds[..], &products[..]].concat();
    let ([x0, x1], [y0, y1]) = ([low(&pairs), high(&pairs)], [low(&both).floor(), high(&both).ceil()]);
    let x = |value: f64| 70.0 + SIZE[0] * (value - x0) / (x1 - x0).max(1e-9);
    let y = |value: f64| 40.0 + SIZE[1] * (y1 - value) / (y1 - y0).max(1e-9);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"400\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"640\" height=\"400\" fill=\"white\"/>\n",
    );
    let _ = writeln!(
        svg,
        "<text x=\"70\" y=\"22\">gradient of {objective} on {device}: ms over pairs; grey: its product alone</text>"
    );
    for power in y0 as i32..=y1 as i32 {
        let at = y(f64::from(power));
        let _ = writeln!(svg, "<line x1=\"70\" x2=\"590\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let label = 10f64.powi(power);
        let _ = writeln!(svg, "<text x=\"64\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", at + 4.0);
    }
    for (row, &at) in rows.iter().zip(&pairs) {
        let _ =
            writeln!(svg, "<text x=\"{:.1}\" y=\"360\" text-anchor=\"middle\">{}</text>", x(at), row.pairs);
    }
    for (values, colour) in [(&products, "#999"), (&seconds, "#06c")] {
        let points: Vec<_> =
            pairs.iter().zip(values).map(|(&px, &py)| format!("{:.1},{:.1}", x(px), y(py))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
    svg + "</svg>\n"
}
