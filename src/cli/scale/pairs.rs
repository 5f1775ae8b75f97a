//! Batches of many pairs: the time and the memory of one gradient as they grow.

use super::{Products, median, numbers, peak_memory, unit_rows};
use crate::cli::bench::wrong;
use crate::cli::{DeviceArg, ObjectiveArgs, print_json, refuse_overwriting, say};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use wgoal::data::write_file;
use wgoal::{GradientOptions, Result, TrainConfig};

#[derive(Args)]
pub struct PairsBench {
    /// Sizes of batches
    #[arg(
        long,
        value_name = "PAIRS",
        value_delimiter = ',',
        default_value = "128,256,512,1024,2048,4096,8192,16384,32768"
    )]
    pairs: Vec<usize>,
    /// Width of the embeddings
    #[arg(long, default_value_t = 256, value_parser = super::width)]
    embed: usize,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Time and memory over pairs, as an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct PairsTimes {
    pairs: usize,
    /// The gradient at given embeddings, the way there and back included.
    seconds: f64,
    /// The product of the similarities alone.
    product: f64,
    ratio: f64,
    /// What the largest resident memory of the process has grown by, from the embeddings on.
    #[serde(skip_serializing_if = "Option::is_none")]
    grown_mb: Option<u64>,
}

impl PairsBench {
    pub fn run(self) -> Result<()> {
        if let Some(out) = &self.plot {
            refuse_overwriting("--plot", out, self.objective.weights.clone())?;
        }
        let objective = self.objective.apply(TrainConfig::default().objective)?;
        let device = self.device.open()?;
        let dim = self.embed;
        let mut rows = Vec::new();
        if !self.json {
            say(format!("gradient of {objective} at embeddings of width {dim}, on {device}"))?;
            say("  pairs          ms   product ms   ratio   memory MB")?;
        }
        for &pairs in &self.pairs {
            let mut images: Vec<_> = numbers().take(pairs * dim).collect();
            let mut texts: Vec<_> = numbers().skip(1).take(pairs * dim).collect();
            unit_rows(&mut images, dim);
            unit_rows(&mut texts, dim);
            let before = peak_memory();
            let options = GradientOptions::default();
            let mut loss = 0.0;
            let seconds = median(|| {
                loss = objective.gradients(&device, (&images, dim), (&texts, dim), options)?.loss;
                Ok(())
            })?;
            let grown_mb = peak_memory().zip(before).map(|(after, before)| after - before);
            if !loss.is_finite() {
                return Err(wrong("the gradient", "a finite loss", loss));
            }
            // In strips, as the gradient has them: the whole may be beyond memory.
            let strip = pairs.min(1024);
            let alone = Products::new(&device, &[([strip, pairs, dim], false)])?.seconds()?;
            let product = alone * pairs as f64 / strip as f64;
            let row = PairsTimes { pairs, seconds, product, ratio: seconds / product, grown_mb };
            if !self.json {
                let memory = grown_mb.map_or("-".into(), |mb| mb.to_string());
                let (ms, product) = (1e3 * seconds, 1e3 * product);
                say(format!("{pairs:7} {ms:11.2} {product:12.2} {:7.2} {memory:>11}", row.ratio))?;
            }
            rows.push(row);
        }
        if let Some(path) = &self.plot {
            write_file(path, plot(&objective.to_string(), &device.to_string(), &rows).as_bytes())?;
        }
        if self.json { print_json(&rows) } else { Ok(()) }
    }
}

/// Both times over pairs, both axes logarithmic, as an SVG document.
fn plot(objective: &str, device: &str, rows: &[PairsTimes]) -> String {
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
