//! Curves over a common horizontal axis.

use super::{Drawn, Ink, Root, SERIES, SIZE, UNIT, anchored, chart, font, marks, number, range, step};
use crate::{Plain, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// A curve.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Number of its colour. Numbers from [`SERIES`] on repeat the colours, dashed.
    pub colour: usize,
    /// Points from left to right. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// A thin line in the background.
    pub thin: bool,
    /// A dashed line.
    pub dashed: bool,
}

impl Line {
    /// A solid line.
    pub fn new(name: impl Into<String>, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), colour, points, thin: false, dashed: colour >= SERIES }
    }

    /// A dashed horizontal line.
    pub fn level(name: impl Into<String>, colour: usize, y: f64, [left, right]: [f64; 2]) -> Self {
        Self { dashed: true, ..Self::new(name, colour, vec![(left, y), (right, y)]) }
    }
}

/// A chart of curves.
pub struct Lines<'a> {
    /// What the chart shows.
    pub title: &'a str,
    /// What one sees in it, for readers who cannot see it.
    pub description: &'a str,
    /// Name of the horizontal axis.
    pub x: &'a str,
    /// Name of the vertical axis.
    pub y: &'a str,
    /// The curves.
    pub lines: &'a [Line],
}

/// The edges of a plot inside its chart, in pixels of the page: left, right, top, bottom.
pub(super) const EDGES: [i32; 4] = [46, 8, 22, 34];

/// A rectangle of the chart with axes: it maps numbers to places.
pub(super) struct Axes {
    pub x: [f64; 2],
    pub y: [f64; 2],
    pub area: [i32; 4],
}

impl Axes {
    pub fn new(x: [f64; 2], y: [f64; 2]) -> Self {
        let [left, right, top, bottom] = EDGES.map(|edge| edge * UNIT as i32);
        let [width, height] = SIZE.map(|side| (side * UNIT) as i32);
        Self { x, y, area: [left, width - right, top, height - bottom] }
    }

    pub fn at(&self, x: f64, y: f64) -> (i32, i32) {
        let [left, right, top, bottom] = self.area.map(f64::from);
        let share = |v: f64, [low, high]: [f64; 2]| ((v - low) / (high - low)).clamp(-0.1, 1.1);
        let (x, y) = (left + share(x, self.x) * (right - left), bottom - share(y, self.y) * (bottom - top));
        (x.round() as i32, y.round() as i32)
    }

    /// Grid, numbers and names. Without `vertical`, there are no vertical lines and no numbers below.
    pub fn draw(&self, root: &Root, names: [&str; 2], [x_step, y_step]: [f64; 2], vertical: bool) -> Drawn {
        let [x_name, y_name] = names.map(|name| Plain(name).to_string());
        let [left, right, top, bottom] = self.area;
        let unit = UNIT as i32;
        let grid = Ink::Grid.colour().stroke_width(UNIT);
        for x in marks(self.x, x_step).into_iter().filter(|_| vertical) {
            let (at, _) = self.at(x, self.y[0]);
            root.draw(&PathElement::new([(at, top), (at, bottom)], grid))?;
            let style = anchored(12, Ink::Muted, HPos::Center, VPos::Top);
            root.draw(&Text::new(number(x, x_step), (at, bottom + 4 * unit), style))?;
        }
        for y in marks(self.y, y_step) {
            let (_, at) = self.at(self.x[0], y);
            root.draw(&PathElement::new([(left, at), (right, at)], grid))?;
            let style = anchored(12, Ink::Muted, HPos::Right, VPos::Center);
            root.draw(&Text::new(number(y, y_step), (left - 5 * unit, at), style))?;
        }
        let style = anchored(12, Ink::Muted, HPos::Center, VPos::Bottom);
        let below = bottom + 33 * unit;
        root.draw(&Text::new(x_name, (i32::midpoint(left, right), below), style))?;
        let style = anchored(12, Ink::Muted, HPos::Left, VPos::Top);
        root.draw(&Text::new(y_name, (4 * unit, 3 * unit), style))
    }
}

impl Lines<'_> {
    /// The chart as SVG. A chart without points says so.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn draw(&self) -> Result<String> {
        chart(self.title, self.description, SIZE, |root| self.draw_into(root))
    }

    fn draw_into(&self, root: &Root) -> Drawn {
        let points = || self.lines.iter().flat_map(|line| &line.points).copied();
        let points = || points().filter(|(x, y)| x.is_finite() && y.is_finite());
        let (Some(x), Some(y)) = (range(points().map(|(x, _)| x)), range(points().map(|(_, y)| y))) else {
            let place = (30 * UNIT as i32, 120 * UNIT as i32);
            return root.draw(&Text::new("no numbers", place, font(13, Ink::Muted)));
        };
        let margin = 0.05 * (y[1] - y[0]);
        let axes = Axes::new(x, [y[0] - margin, y[1] + margin]);
        // Epochs are whole.
        let x_step = step(x[1] - x[0], 6.0).max(1.0);
        axes.draw(root, [self.x, self.y], [x_step, step(y[1] - y[0], 5.0)], true)?;
        for line in self.lines {
            let path: Vec<_> = line
                .points
                .iter()
                .filter(|(x, y)| x.is_finite() && y.is_finite())
                .map(|&(x, y)| axes.at(x, y))
                .collect();
            let ink = Ink::Series(line.colour);
            let colour = if line.dashed { ink.dashed() } else { ink.colour() };
            let style = match line.thin {
                true => colour.mix(0.45).stroke_width(UNIT),
                false => colour.stroke_width(2 * UNIT),
            };
            match path[..] {
                [] => {}
                [point] => root.draw(&Circle::new(point, 3 * UNIT, ink.colour().filled()))?,
                _ => root.draw(&PathElement::new(path, style))?,
            }
        }
        Ok(())
    }
}
