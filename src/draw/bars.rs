//! Histograms: groups of bars over the same bins.

use super::lines::Axes;
use super::{Drawn, Ink, Root, SIZE, UNIT, chart, step};
use crate::Result;
use plotters::prelude::*;

/// Bars of one colour, one per bin.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name in the legend.
    pub name: String,
    /// Number of its colour.
    pub colour: usize,
    /// Heights, in percent.
    pub heights: Vec<f64>,
}

/// A histogram.
pub struct Bars<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What one sees in it, for readers who cannot see it.
    pub description: &'a str,
    /// Name of the horizontal axis.
    pub x: &'a str,
    /// Name of the vertical axis.
    pub y: &'a str,
    /// Lowest and highest number of the horizontal axis, divided into equal bins. `None` for bins with names.
    pub range: Option<[f64; 2]>,
    /// Names of the bins, if they have names.
    pub names: &'a [String],
    /// The highest bar of all charts that are shown side by side.
    pub top: f64,
    /// Groups are drawn over each other if there is a range, else side by side.
    pub groups: &'a [Group],
}

impl Bars<'_> {
    /// The chart as SVG.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn draw(&self) -> Result<String> {
        chart(self.title, self.description, SIZE, |root| self.draw_into(root))
    }

    fn draw_into(&self, root: &Root) -> Drawn {
        use plotters::style::text_anchor::{HPos, VPos};
        let bins = self.groups.iter().map(|group| group.heights.len()).max().unwrap_or(1).max(1);
        let top = self.top.max(1e-9);
        let axes = Axes::new(self.range.unwrap_or([0.0, bins as f64]), [0.0, 1.05 * top]);
        let x_step = self.range.map_or(f64::INFINITY, |[low, high]| step(high - low, 6.0));
        // Named bins have no numbers below them.
        let x_step = if x_step.is_finite() { x_step } else { 1e9 };
        axes.draw(root, [self.x, self.y], [x_step, step(top, 5.0)], self.range.is_some())?;
        let width = (axes.x[1] - axes.x[0]) / bins as f64;
        let (parts, opacity) = match self.range {
            Some(_) => (1, 0.6),
            None => (self.groups.len().max(1), 1.0),
        };
        for (k, group) in self.groups.iter().enumerate() {
            for (bin, &height) in group.heights.iter().enumerate().filter(|(_, height)| **height > 0.0) {
                let part = if parts > 1 { (k as f64 + 0.1) / parts as f64 * 0.9 } else { 0.0 };
                let left = axes.x[0] + width * (bin as f64 + 0.05 + part);
                let right = left + width * 0.9 / parts as f64 * if parts > 1 { 0.9 } else { 1.0 };
                let corners = [axes.at(left, height), axes.at(right, 0.0)];
                let style = Ink::Series(group.colour).colour().mix(opacity).filled();
                root.draw(&Rectangle::new(corners, style))?;
            }
        }
        for (bin, name) in self.names.iter().enumerate() {
            let (at, bottom) = axes.at(bin as f64 + 0.5, 0.0);
            let style = super::anchored(12, Ink::Muted, HPos::Center, VPos::Top);
            root.draw(&Text::new(name.clone(), (at, bottom + 4 * UNIT as i32), style))?;
        }
        Ok(())
    }
}

/// The share in percent of `values` in each of `bins` equal bins of a range. Values outside count in the outer bins.
pub fn histogram(values: &[f32], [low, high]: [f64; 2], bins: usize) -> Vec<f64> {
    let mut counts = vec![0.0; bins];
    for &value in values {
        let share = (f64::from(value) - low) / (high - low);
        counts[((share * bins as f64).max(0.0) as usize).min(bins - 1)] += 100.0 / values.len() as f64;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_counts_once() {
        assert_eq!(histogram(&[-2.0, -1.0, 0.0, 0.9, 1.0, 5.0, 0.1, 0.2], [-1.0, 1.0], 2), [25.0, 75.0]);
        assert_eq!(histogram(&[], [0.0, 1.0], 3), [0.0; 3]);
    }
}
