//! The colours of charts.

use super::{Ink, SERIES, SHADES, escape};
use std::fmt::Write;

/// Colours of the series in light and in dark mode. Their order of hues follows Okabe and Ito (2008), so that readers
/// who see few colours can tell them apart.
const LIGHT: [&str; SERIES] =
    ["#0062a3", "#c2410c", "#00795a", "#a8327d", "#8a6100", "#2f7fb5", "#5b4bb5", "#555555"];
const DARK: [&str; SERIES] =
    ["#5cb8ff", "#ff9a5c", "#3fd0a4", "#f08cc8", "#e8c04a", "#9fd6f5", "#b3a6ff", "#c8c8c8"];

/// Text, muted text and grid in light and in dark mode.
const INKS: [(Ink, &str, &str); 3] = [
    (Ink::Text, "#1a1d21", "#e8eaed"),
    (Ink::Muted, "#555b63", "#a9b0b8"),
    (Ink::Grid, "#e0e3e7", "#34393f"),
];

/// From the wrong direction over zero to the right direction, in light and in dark mode.
const SHADE_ENDS: [[[f64; 3]; 3]; 2] = [
    [[30.0, 60.0, 190.0], [250.0, 250.0, 248.0], [190.0, 40.0, 20.0]],
    [[120.0, 150.0, 255.0], [30.0, 32.0, 36.0], [255.0, 110.0, 70.0]],
];

fn shade(mode: usize, k: usize) -> String {
    let middle = (SHADES / 2) as f64;
    let x = k as f64 / middle - 1.0;
    let [wrong, zero, right] = SHADE_ENDS[mode];
    let end = if x < 0.0 { wrong } else { right };
    let mixed: Vec<u8> =
        zero.iter().zip(end).map(|(a, b)| (a + (b - a) * x.abs().powf(0.85)).round() as u8).collect();
    format!("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2])
}

/// One rule per colour; `b-` colours the background of HTML.
fn rules(mode: usize) -> String {
    let inks = INKS.map(|(ink, light, dark)| (ink.class(), [light, dark][mode].to_string()));
    let series = (0..SERIES).map(|k| (Ink::Series(k).class(), [LIGHT, DARK][mode][k].to_string()));
    let shades = (0..SHADES).map(|k| (Ink::Shade(k).class(), shade(mode, k)));
    let mut text = String::new();
    for (class, colour) in inks.into_iter().chain(series).chain(shades) {
        let _ = write!(
            text,
            ".f-{class}{{fill:{colour}}}.l-{class}{{stroke:{colour}}}.b-{class}{{background:{colour}}}"
        );
    }
    text
}

/// The style sheet of charts: it follows the light or dark mode of the reader.
pub static STYLE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    let (light, dark) = (rules(0), rules(1));
    format!(".dash{{stroke-dasharray:24 14}}{light}@media (prefers-color-scheme:dark){{{dark}}}")
});

/// Charts beside each other under a heading and above a note, as a document of its own with style and background.
pub fn side_by_side(heading: &str, note: &str, charts: &[String]) -> String {
    const WIDTH: usize = 440;
    const HEIGHT: usize = 380;
    const TOP: usize = 50;
    let (width, height) = (WIDTH * charts.len() + 20, HEIGHT + TOP + 40);
    let (heading, note) = (escape(heading), escape(note));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\
         <title>{heading}</title><style>.back{{fill:#fff}}@media (prefers-color-scheme:dark){{.back{{fill:#16181b}}}}\
         rect{{shape-rendering:crispEdges}}{}</style><rect class=\"back\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"f-ink\" x=\"20\" y=\"26\" font-size=\"16\">{heading}</text>\n",
        *STYLE
    );
    for (k, chart) in charts.iter().enumerate() {
        let title = chart.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        let (x, title) = (WIDTH * k, title.map_or("", |(title, _)| title));
        svg += &format!("<text class=\"f-ink\" x=\"{}\" y=\"{TOP}\">{title}</text>\n", x + 20);
        let place = format!("<svg x=\"{x}\" y=\"{}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" ", TOP + 8);
        svg += &chart.replacen("<svg ", &place, 1);
    }
    svg += &format!("<text class=\"f-muted\" x=\"20\" y=\"{}\">{note}</text>\n</svg>\n", height - 14);
    svg
}
