//! The plane of the similarities p and n: a signed value as shades with contour lines, and dots on it.
//!
//! Weights span many powers of ten. The limits of the shades are therefore quantiles: each shade covers about as much
//! of the plane as the others.

use super::lines::Axes;
use super::{Drawn, Ink, Root, SHADES, UNIT, anchored, chart, number, step};
use crate::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::collections::HashMap;

/// Values at the centres of the cells of a square grid.
pub struct Field {
    /// Cells per side.
    pub side: usize,
    /// Row by row, from the lowest n; p grows within a row.
    pub values: Vec<f64>,
}

/// Dots of one colour.
pub struct Cloud {
    /// Its name in the legend.
    pub name: String,
    /// Number of its colour.
    pub colour: usize,
    /// (p, n) of each dot.
    pub points: Vec<(f64, f64)>,
}

/// A chart over p and n.
pub struct Plane<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What one sees in it, for readers who cannot see it.
    pub description: &'a str,
    /// Lowest and highest p, and n.
    pub range: [f64; 2],
    /// The shades; `None` leaves the plane blank.
    pub field: Option<&'a Field>,
    /// The dots.
    pub clouds: &'a [Cloud],
}

/// Values below this part of the largest one count as zero.
const NOTHING: f64 = 1e-6;
/// Shades for each sign.
const LEVELS: usize = SHADES / 2;

/// The limits between the shades of one sign, lowest first: at most [`LEVELS`] − 1.
#[derive(Debug, PartialEq)]
struct Scale {
    zero: f64,
    limits: Vec<f64>,
    largest: f64,
}

impl Scale {
    fn of(values: &[f64]) -> Self {
        let largest = values.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let zero = NOTHING * largest;
        let mut sizes: Vec<f64> = values.iter().map(|x| x.abs()).filter(|&x| x > zero).collect();
        sizes.sort_by(f64::total_cmp);
        let mut limits: Vec<f64> = Vec::new();
        for k in 1..LEVELS {
            let Some(&limit) = sizes.get(k * sizes.len() / LEVELS) else { continue };
            // A limit at the end, or beside another one, parts nothing but rounding.
            let apart = |x: f64| (limit - x).abs() > 1e-3 * largest.min(limit.max(x));
            if sizes.first().is_some_and(|&x| apart(x))
                && apart(largest)
                && limits.last().is_none_or(|&x| apart(x))
            {
                limits.push(limit);
            }
        }
        Self { zero, limits, largest }
    }

    /// The shade of the class `k` of a sign, the weakest being 0.
    fn shade(&self, k: usize, positive: bool) -> usize {
        let strength = ((k + 1) * LEVELS).div_ceil(self.limits.len() + 1);
        if positive { LEVELS + strength } else { LEVELS - strength }
    }

    fn shade_of(&self, x: f64) -> usize {
        if x.abs() <= self.zero || !x.is_finite() {
            return LEVELS;
        }
        self.shade(self.limits.iter().filter(|&&limit| limit <= x.abs()).count(), x > 0.0)
    }
}

/// Width and height of the chart, and the edges of its plot: left, right, top, bottom.
const SIZE: [u32; 2] = [400, 344];
const EDGES: [i32; 4] = [46, 74, 22, 36];

impl Plane<'_> {
    /// The chart as SVG.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn draw(&self) -> Result<String> {
        chart(self.title, self.description, SIZE, |root| self.draw_into(root))
    }

    fn draw_into(&self, root: &Root) -> Drawn {
        let unit = UNIT as i32;
        let [left, right, top, bottom] = EDGES.map(|edge| edge * unit);
        let [width, height] = SIZE.map(|side| (side * UNIT) as i32);
        let axes = Axes { x: self.range, y: self.range, area: [left, width - right, top, height - bottom] };
        let distance = step(self.range[1] - self.range[0], 5.0);
        let scale = self.field.map(|field| Scale::of(&field.values));
        if let (Some(field), Some(scale)) = (self.field, &scale) {
            shades(root, &axes, field, scale)?;
            contours(root, &axes, field, scale)?;
        }
        axes.draw(
            root,
            ["p, similarity of the positive", "n, similarity of the negative"],
            [distance; 2],
            true,
        )?;
        let corners = [axes.at(self.range[0], self.range[0]), axes.at(self.range[1], self.range[1])];
        root.draw(&PathElement::new(corners, Ink::Text.dashed().stroke_width(UNIT)))?;
        for cloud in self.clouds {
            let style = Ink::Series(cloud.colour).colour().filled();
            for &(p, n) in cloud.points.iter().filter(|(p, n)| p.is_finite() && n.is_finite()) {
                root.draw(&Circle::new(axes.at(p, n), 2 * UNIT, style))?;
            }
        }
        let (x, y) = axes.at(self.range[1], self.range[1]);
        let style = anchored(11, Ink::Text, HPos::Left, VPos::Top);
        root.draw(&Text::new("p = n", (x + 3 * unit, y), style))?;
        if let (Some(field), Some(scale)) = (self.field, &scale) {
            let signs =
                [field.values.iter().any(|&x| x > scale.zero), field.values.iter().any(|&x| x < -scale.zero)];
            legend(root, &axes, scale, signs)?;
        }
        Ok(())
    }
}

/// Rectangles of neighbouring cells of the same shade.
fn shades(root: &Root, axes: &Axes, field: &Field, scale: &Scale) -> Drawn {
    let side = field.side;
    let cell = (axes.x[1] - axes.x[0]) / side as f64;
    let [left, right, top, bottom] = axes.area;
    root.draw(&Rectangle::new([(left, top), (right, bottom)], Ink::Shade(LEVELS).colour().filled()))?;
    // From the top, so that a row covers the lower edge of the row above it.
    for (row, values) in field.values.chunks_exact(side).enumerate().rev() {
        let mut start = 0;
        let shades: Vec<_> = values.iter().map(|&x| scale.shade_of(x)).collect();
        for same in shades.chunk_by(|a, b| a == b) {
            let end = start + same.len();
            let corner = |column: usize, row: usize| {
                axes.at(axes.x[0] + cell * column as f64, axes.y[0] + cell * row as f64)
            };
            if same[0] != LEVELS {
                let (x, y) = corner(end, row);
                let low = ((x + 2).min(right), (y + 2).min(bottom));
                root.draw(&Rectangle::new(
                    [corner(start, row + 1), low],
                    Ink::Shade(same[0]).colour().filled(),
                ))?;
            }
            start = end;
        }
    }
    Ok(())
}

/// Lines along the limits of the shades.
fn contours(root: &Root, axes: &Axes, field: &Field, scale: &Scale) -> Drawn {
    let cell = (axes.x[1] - axes.x[0]) / field.side as f64;
    let levels = scale.limits.iter().flat_map(|&limit| [limit, -limit]).chain([scale.zero, -scale.zero]);
    let style = Ink::Muted.colour().mix(0.7).stroke_width(UNIT / 2);
    for level in levels {
        for path in paths(field, level) {
            let at = |(x, y): (f64, f64)| axes.at(axes.x[0] + cell * (x + 0.5), axes.y[0] + cell * (y + 0.5));
            root.draw(&PathElement::new(path.into_iter().map(at).collect::<Vec<_>>(), style))?;
        }
    }
    Ok(())
}

/// An edge between a grid point (column, row) and its neighbour on the right, or above it.
type Edge = (usize, usize, bool);

/// The curves on which a field has the value `level`, in grid units: marching squares (Lorensen and Cline, 1987), with
/// the pieces joined.
fn paths(field: &Field, level: f64) -> Vec<Vec<(f64, f64)>> {
    let side = field.side;
    let value = |column: usize, row: usize| field.values[row * side + column] - level;
    let mut pieces: Vec<[Edge; 2]> = Vec::new();
    for (row, column) in (0..side.saturating_sub(1)).flat_map(|row| (0..side - 1).map(move |c| (row, c))) {
        let edges: [Edge; 4] =
            [(column, row, true), (column + 1, row, false), (column, row + 1, true), (column, row, false)];
        let crossed: Vec<Edge> = edges.into_iter().filter(|edge| place(&value, *edge).is_some()).collect();
        match crossed[..] {
            [a, b] => pieces.push([a, b]),
            [a, b, c, d] => pieces.extend([[a, b], [c, d]]),
            _ => {}
        }
    }
    let mut at: HashMap<Edge, Vec<usize>> = HashMap::new();
    for (number, piece) in pieces.iter().enumerate() {
        piece.iter().for_each(|edge| at.entry(*edge).or_default().push(number));
    }
    let mut used = vec![false; pieces.len()];
    let mut found = Vec::new();
    // Open curves begin at an edge that one piece touches. What is left over is closed.
    let ends = |number: &usize| pieces[*number].iter().position(|edge| at[edge].len() == 1);
    let open = (0..pieces.len()).filter_map(|number| Some((number, ends(&number)?)));
    let starts: Vec<_> = open.chain((0..pieces.len()).map(|number| (number, 0))).collect();
    for (start, end) in starts {
        if used[start] {
            continue;
        }
        let mut path = vec![pieces[start][end]];
        let mut next = Some(start);
        while let Some(number) = next {
            used[number] = true;
            let last = path[path.len() - 1];
            let [a, b] = pieces[number];
            let other = if a == last { b } else { a };
            path.push(other);
            next = at[&other].iter().copied().find(|&number| !used[number]);
        }
        found.push(path.into_iter().filter_map(|edge| place(&value, edge)).collect());
    }
    found
}

/// Where the value crosses zero on an edge.
fn place(value: &impl Fn(usize, usize) -> f64, (column, row, right): Edge) -> Option<(f64, f64)> {
    let (dx, dy) = if right { (1, 0) } else { (0, 1) };
    let (from, to) = (value(column, row), value(column + dx, row + dy));
    let share = (from < 0.0).ne(&(to < 0.0)).then(|| from / (from - to)).filter(|share| share.is_finite())?;
    Some((column as f64 + share * dx as f64, row as f64 + share * dy as f64))
}

/// The shades with their limits, beside the plane.
fn legend(root: &Root, axes: &Axes, scale: &Scale, [positive, negative]: [bool; 2]) -> Drawn {
    let unit = UNIT as i32;
    let [_, right, _, bottom] = axes.area;
    let top = axes.area[2] + 24 * unit;
    let classes = scale.limits.len() + 1;
    // From the top: the strongest in the right direction, zero, the strongest in the wrong one.
    let mut shades: Vec<(usize, f64)> = Vec::new();
    let limit = |k: usize| scale.limits.get(k).copied().unwrap_or(scale.largest);
    if positive {
        shades.extend((0..classes).rev().map(|k| (scale.shade(k, true), limit(k))));
    }
    shades.push((LEVELS, 0.0));
    if negative {
        shades.extend((0..classes).map(|k| (scale.shade(k, false), -limit(k))));
    }
    let height = ((bottom - top) / shades.len().max(1) as i32).min(22 * unit);
    let (x, width) = (right + 10 * unit, 12 * unit);
    for (k, (shade, value)) in shades.into_iter().enumerate() {
        let y = top + k as i32 * height;
        root.draw(&Rectangle::new([(x, y), (x + width, y + height)], Ink::Shade(shade).colour().filled()))?;
        root.draw(&Rectangle::new(
            [(x, y), (x + width, y + height)],
            Ink::Grid.colour().stroke_width(UNIT / 2),
        ))?;
        // The limit away from zero.
        let (at, text) = match value {
            0.0 => (y + height / 2, "0".to_string()),
            value if value > 0.0 => (y, short(value)),
            value => (y + height, short(value)),
        };
        let style = anchored(10, Ink::Muted, HPos::Left, VPos::Center);
        root.draw(&Text::new(text, (x + width + 4 * unit, at), style))?;
    }
    Ok(())
}

/// Two digits of a number.
fn short(x: f64) -> String {
    match x.abs() {
        size if (1e-3..1e4).contains(&size) => number(x, 10f64.powf(size.log10().floor() - 1.0)),
        _ => format!("{x:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_cover_equal_parts_of_the_plane() {
        // Over thirty powers of ten.
        let values: Vec<f64> = (0..600).map(|k| 10f64.powf(f64::from(k) / 200.0)).collect();
        let scale = Scale::of(&values);
        assert_eq!(scale.limits.len(), LEVELS - 1);
        for shade in LEVELS + 1..SHADES {
            let count = values.iter().filter(|&&x| scale.shade_of(x) == shade).count();
            assert!((90..=110).contains(&count), "{shade}: {count}");
        }
        assert_eq!((scale.shade_of(0.0), scale.shade_of(-1000.0)), (LEVELS, 0));
        // A constant has one shade, the strongest, and no contour.
        let scale = Scale::of(&[0.5, 0.5 + 1e-12, 0.5]);
        assert_eq!((scale.limits.len(), scale.shade_of(0.5), scale.shade_of(-0.5)), (0, SHADES - 1, 0));
        assert_eq!(Scale::of(&[0.0]).shade_of(0.0), LEVELS);
    }

    #[test]
    fn contours_join_into_lines() {
        // A slope along p has one straight line, a hill one closed line.
        let side = 11;
        let field = |f: &dyn Fn(f64, f64) -> f64| Field {
            side,
            values: (0..side * side).map(|k| f((k % side) as f64, (k / side) as f64)).collect(),
        };
        let slope = paths(&field(&|x, _| x), 4.5);
        assert_eq!((slope.len(), slope[0].len()), (1, side));
        assert!(slope[0].iter().all(|&(x, _)| (x - 4.5).abs() < 1e-12), "{slope:?}");
        let hill = paths(&field(&|x, y| (x - 5.0).powi(2) + (y - 5.0).powi(2)), 9.5);
        assert_eq!((hill.len(), hill[0].first()), (1, hill[0].last()));
        let near = |&(x, y): &(f64, f64)| ((x - 5.0).hypot(y - 5.0) - 9.5f64.sqrt()).abs() < 0.1;
        assert!(hill[0].iter().all(near), "{hill:?}");
        assert!(paths(&field(&|_, _| 1.0), 2.0).is_empty());
    }
}
