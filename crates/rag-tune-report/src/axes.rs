//! A plot's place on the canvas, its grid, and round numbers beside it.

use std::ops::Range;

use plotters::prelude::*;

use crate::canvas::{Align, Canvas, DrawResult, Font, INK, SOFT_INK};

/// Grid lines.
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// A plot's rectangle on the canvas, and the values along its sides.
#[derive(Debug, Clone)]
pub(crate) struct Axes {
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
    pub(crate) x: Range<f64>,
    pub(crate) y: Range<f64>,
}

impl Axes {
    /// Where a pair of values lies on the canvas.
    pub(crate) fn point(&self, x: f64, y: f64) -> (f64, f64) {
        let along =
            |value: f64, range: &Range<f64>| (value - range.start) / (range.end - range.start);
        (
            self.left + along(x, &self.x) * (self.right - self.left),
            self.bottom - along(y, &self.y) * (self.bottom - self.top),
        )
    }

    /// Horizontal grid lines with their values to the left, and the line at the bottom.
    pub(crate) fn draw_y<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<DB>,
        title: &str,
        ticks: &[f64],
        label: impl Fn(f64) -> String,
    ) -> DrawResult {
        let font = Font {
            size: 17,
            color: SOFT_INK,
            align: Align::Right,
        };
        for &tick in ticks {
            let (_, y) = self.point(self.x.start, tick);
            canvas.line(&[(self.left, y), (self.right, y)], GRID.into(), 1.0)?;
            canvas.text(&label(tick), font, (self.left - 10.0, y))?;
        }
        let ends = [(self.left, self.bottom), (self.right, self.bottom)];
        canvas.line(&ends, INK.into(), 1.0)?;
        let font = Font {
            align: Align::Center,
            ..font
        };
        canvas.text_upwards(title, font, (26.0, (self.top + self.bottom) / 2.0))
    }
}

/// Round numbers from 0 to at most `end`, `count` of them give or take a few.
pub(crate) fn ticks(end: f64, count: usize) -> Vec<f64> {
    let rough = end / count as f64;
    let magnitude = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * magnitude)
        .into_iter()
        .find(|&step| step >= rough * 0.7)
        .unwrap_or(10.0 * magnitude);
    (0..)
        .map(|i| f64::from(i) * step)
        .take_while(|&tick| tick <= end * 1.0001)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        assert_eq!(
            ticks(0.5, 5),
            [0.0, 0.1, 0.2, 0.30000000000000004, 0.4, 0.5]
        );
        assert_eq!(ticks(248.0, 6), [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(ticks(1.0, 5).len(), 6);
        assert_eq!(ticks(2.2, 5), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks(0.07, 5).len(), 8);
    }

    #[test]
    fn a_point_lies_between_the_sides() {
        let axes = Axes {
            left: 100.0,
            right: 900.0,
            top: 50.0,
            bottom: 450.0,
            x: 0.0..2.0,
            y: 0.0..1.0,
        };
        assert_eq!(axes.point(0.0, 0.0), (100.0, 450.0));
        assert_eq!(axes.point(1.0, 0.5), (500.0, 250.0));
        assert_eq!(axes.point(2.0, 1.0), (900.0, 50.0));
    }
}
