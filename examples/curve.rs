//! Draws the validation rsum of a run over its epochs, as an SVG file.
//!
//!     cargo run --release --example curve -- RUN/metrics.jsonl OUT.svg [RSUM "LABEL"]
//!
//! RSUM adds a horizontal line: what another method, such as `wgoal baseline cca`, reaches on the validation split.

use std::error::Error;
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Left, right, top and bottom edge of the plot.
const EDGES: [f64; 4] = [60.0, 620.0, 40.0, 255.0];
/// Grid lines, and epochs with a number, of which there are at most so many.
const MARKS: f64 = 6.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (metrics, out, line) = match &arguments[..] {
        [metrics, out] => (metrics, out, None),
        [metrics, out, rsum, label] => (metrics, out, Some((rsum.parse::<f64>()?, label.as_str()))),
        _ => return Err("usage: curve METRICS.jsonl OUT.svg [RSUM LABEL]".into()),
    };
    let mut points = Vec::new();
    let text = std::fs::read_to_string(metrics).map_err(|error| format!("{metrics}: {error}"))?;
    for line in text.lines() {
        let epoch: serde_json::Value = serde_json::from_str(line)?;
        let number = |value: &serde_json::Value| value.as_f64().ok_or("an epoch without a number or an rsum");
        points.push((number(&epoch["epoch"])?, number(&epoch["val"]["rsum"])?));
    }
    if points.is_empty() {
        return Err(format!("{metrics}: expected a line per epoch, found none").into());
    }
    std::fs::write(out, draw(&points, line)).map_err(|error| format!("{out}: {error}").into())
}

/// The distance of grid lines that divide `span` into at most [`MARKS`] parts: 1, 2 or 5 times a power of ten.
fn distance(span: f64) -> f64 {
    let ten = 10f64.powf((span / MARKS).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * ten).into_iter().find(|d| span / d <= MARKS).unwrap_or(ten)
}

fn draw(points: &[(f64, f64)], line: Option<(f64, &str)>) -> String {
    let rsums = || points.iter().map(|&(_, rsum)| rsum).chain(line.map(|(rsum, _)| rsum));
    let (low, high) = (rsums().fold(f64::INFINITY, f64::min), rsums().fold(f64::NEG_INFINITY, f64::max));
    let step = distance((high - low).max(1.0));
    let (low, high) = ((low / step).floor() * step, (high / step).floor() * step + step);
    // A start that is not random is epoch 0.
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let [left, right, top, bottom] = EDGES;
    let x = |epoch: f64| left + (right - left) * (epoch - first) / (last - first).max(1.0);
    let y = |rsum: f64| bottom - (bottom - top) * (rsum - low) / (high - low);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut add = |element: String| writeln!(svg, "{element}").expect("a string takes any text");
    add(format!(
        "<text x=\"{left}\" y=\"22\" font-size=\"14\">validation rsum after each epoch (higher is better)</text>"
    ));
    for mark in 0..=((high - low) / step).round() as u32 {
        let rsum = low + step * f64::from(mark);
        let y = y(rsum);
        add(format!("<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"));
        add(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rsum}</text>", left - 8.0, y + 4.0));
    }
    let every = distance(last).ceil() as usize;
    for &(epoch, _) in
        points.iter().filter(|(epoch, _)| *epoch == first || (*epoch as usize).is_multiple_of(every))
    {
        add(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{epoch}</text>",
            x(epoch),
            bottom + 18.0
        ));
    }
    add(format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>",
        (left + right) / 2.0,
        bottom + 36.0
    ));
    if let Some((rsum, label)) = line {
        let (y, label) = (y(rsum), label.replace('&', "&amp;").replace('<', "&lt;"));
        add(format!(
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#c60\" stroke-width=\"2\" \
             stroke-dasharray=\"6 4\"/>"
        ));
        add(format!(
            "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#c60\">{label}</text>",
            y - 6.0
        ));
    }
    let path: Vec<_> =
        points.iter().map(|&(epoch, rsum)| format!("{:.1},{:.1}", x(epoch), y(rsum))).collect();
    add(format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
        path.join(" ")
    ));
    svg + "</svg>\n"
}
