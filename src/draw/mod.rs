//! Charts as SVG text.
//!
//! Charts are drawn with placeholder colours. [`finish`] replaces them by classes, and [`STYLE`] gives the classes
//! their colours in light and dark mode.

mod bars;
mod lines;
mod plane;
mod style;

pub use bars::{Bars, Group, histogram};
pub use lines::{Line, Lines};
pub use plane::{Cloud, Field, Plane};
pub use style::{STYLE, side_by_side};

use crate::{Error, Plain, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

/// Plotters rounds coordinates to whole units. One pixel of the page has this many.
pub(crate) const UNIT: u32 = 4;

/// The role of a colour in a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Titles, and the line p = n.
    Text,
    /// Numbers and names of axes.
    Muted,
    /// Grid lines.
    Grid,
    /// One of [`SERIES`] lines, bars or dots.
    Series(usize),
    /// One of [`SHADES`] classes of a signed value; the middle one is zero.
    Shade(usize),
}

/// Number of colours for series. Later series repeat them with another dash.
pub const SERIES: usize = 8;
/// Number of shades for a signed value. It is odd.
pub const SHADES: usize = 13;

impl Ink {
    fn number(self) -> usize {
        match self {
            Self::Text => 0,
            Self::Muted => 1,
            Self::Grid => 2,
            Self::Series(k) => 16 + k % SERIES,
            Self::Shade(k) => 32 + k.min(SHADES - 1),
        }
    }

    /// The class of the colour in [`STYLE`], without the letter for fill or stroke.
    pub fn class(self) -> String {
        match self {
            Self::Text => "ink".into(),
            Self::Muted => "muted".into(),
            Self::Grid => "grid".into(),
            Self::Series(k) => format!("s{}", k % SERIES),
            Self::Shade(k) => format!("h{}", k.min(SHADES - 1)),
        }
    }

    /// A placeholder that occurs nowhere else.
    pub(crate) fn colour(self) -> RGBColor {
        RGBColor(254, 1, self.number() as u8)
    }

    /// A placeholder for a dashed line of this colour.
    pub(crate) fn dashed(self) -> RGBColor {
        RGBColor(254, 2, self.number() as u8)
    }

    fn all() -> impl Iterator<Item = Self> {
        let series = (0..SERIES).map(Self::Series);
        [Self::Text, Self::Muted, Self::Grid].into_iter().chain(series).chain((0..SHADES).map(Self::Shade))
    }
}

/// The size of a chart in pixels of the page.
pub(crate) const SIZE: [u32; 2] = [400, 260];

/// Draws a chart of `size` pixels and gives it a title and a description for readers who cannot see it.
pub(crate) fn chart(
    title: &str,
    description: &str,
    size: [u32; 2],
    draw: impl FnOnce(&Root) -> Drawn,
) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (size[0] * UNIT, size[1] * UNIT)).into_drawing_area();
    let drawn = draw(&root).and_then(|()| root.present());
    drop(root);
    drawn.map_err(|e| Error::config("chart", "numbers that can be drawn", e, "report this as a bug"))?;
    Ok(finish(&svg, title, description))
}

pub(crate) type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(crate) type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Replaces the placeholder colours by classes, and adds title and description.
fn finish(svg: &str, title: &str, description: &str) -> String {
    let mut svg = svg.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", "").replace("/>\n", "/>");
    for ink in Ink::all() {
        for (attribute, letter, colour, dash) in [
            ("fill", 'f', ink.colour(), ""),
            ("stroke", 'l', ink.colour(), ""),
            ("stroke", 'l', ink.dashed(), " dash"),
        ] {
            let RGBColor(r, g, b) = colour;
            let placeholder = format!(" {attribute}=\"#{r:02X}{g:02X}{b:02X}\"");
            svg = svg.replace(&placeholder, &format!(" class=\"{letter}-{}{dash}\"", ink.class()));
        }
    }
    // The size of the page decides. The box stays.
    let start = svg.find("viewBox").unwrap_or_default();
    let (label, description) = (escape(title), escape(description));
    let body = svg[start..].split_once(">\n").map_or("", |(_, body)| body);
    let shape = svg[start..].split_once(">\n").map_or("", |(shape, _)| shape);
    format!("<svg {shape} role=\"img\"><title>{label}</title><desc>{description}</desc>{body}")
}

/// Text inside an SVG element.
pub(crate) fn escape(text: impl Display) -> String {
    Plain(text).to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Text of a chart in pixels of the page. Plotters divides the size of a font by 1.24.
pub(crate) fn font(size: u32, ink: Ink) -> TextStyle<'static> {
    ("sans-serif", f64::from(size * UNIT) * 1.24).into_font().color(&ink.colour())
}

/// The same text, anchored at a point.
pub(crate) fn anchored(size: u32, ink: Ink, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    font(size, ink).pos(Pos::new(horizontal, vertical))
}

/// The lowest and the highest of finite numbers, made wider where they are equal; `None` if there is none.
pub(crate) fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let mut range: Option<[f64; 2]> = None;
    for x in values.filter(|x| x.is_finite()) {
        range = Some(range.map_or([x, x], |[low, high]| [low.min(x), high.max(x)]));
    }
    let [low, high] = range?;
    let wider = (1e-3 * low.abs().max(high.abs())).max(1e-6);
    Some(if high - low > 1e-9 * low.abs().max(high.abs()) {
        [low, high]
    } else {
        [low - wider, high + wider]
    })
}

/// A number with as many digits as tell values apart that differ by `step`.
pub(crate) fn number(x: f64, step: f64) -> String {
    if x != 0.0 && (x.abs() >= 1e6 || (x.abs() < 1e-3 && step < 1e-3)) {
        return format!("{x:.1e}");
    }
    let digits = (-step.abs().max(1e-12).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{x:.digits$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".into() } else { text }
}

/// The distance of marks that divide `span` into at most `marks` parts: 1, 2 or 5 times a power of ten.
pub(crate) fn step(span: f64, marks: f64) -> f64 {
    let ten = 10f64.powf((span / marks).log10().floor());
    let fits = |d: &f64| span / d <= marks * (1.0 + 1e-9);
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * ten).into_iter().find(fits).unwrap_or(10.0 * ten)
}

/// Multiples of `step` in a range.
pub(crate) fn marks([low, high]: [f64; 2], step: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_inside_the_range() {
        assert_eq!(step(100.0, 5.0), 20.0);
        assert_eq!(marks([-0.31, 0.52], 0.2), [-0.2, 0.0, 0.2, 0.4]);
        let shown = |x, step| number(x, step);
        assert_eq!([shown(0.30000000000000004, 0.1), shown(250.0, 50.0)], ["0.3", "250"]);
        assert_eq!([shown(-0.0, 0.1), shown(2e-5, 1e-5)], ["0", "2.0e-5"]);
        assert_eq!(range([f64::NAN, 2.0, 1.0].into_iter()), Some([1.0, 2.0]));
        assert_eq!(range([f64::NAN].into_iter()), None);
        let [low, high] = range([5.0].into_iter()).unwrap();
        assert!(low < 5.0 && high > 5.0);
    }

    #[test]
    fn a_chart_has_no_placeholder_and_no_markup_of_its_texts() {
        let lines = [Line::new("a <b> & c", 3, vec![(0.0, 1.0), (1.0, 2.0)])];
        let chart = Lines { title: "x < y", description: "1 & 2", x: "<i>", y: "\u{202e}", lines: &lines };
        let svg = chart.draw().unwrap();
        assert!(!svg.contains("#FE01") && !svg.contains("<i>") && !svg.contains('\u{202e}'), "{svg}");
        assert!(svg.contains("<title>x &lt; y</title><desc>1 &amp; 2</desc>"), "{svg}");
        assert!(svg.contains("class=\"l-s3\""), "{svg}");
    }
}
