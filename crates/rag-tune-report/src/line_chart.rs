//! Lines over a quantity that doubles from point to point, such as threads or tokens.

use std::path::Path;

use plotters::prelude::*;

use crate::axes::{Axes, ticks};
use crate::canvas::{Align, Canvas, DrawResult, Font, SIZE, SOFT_INK, palette};
use crate::error::ReportError;
use crate::heading::{Heading, Legend, Swatch};
use crate::save::{Drawing, save_text, svg_text};

/// A chart of lines through measured points. Its horizontal axis is logarithmic, its vertical one begins at 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineChart {
    /// Above the plot.
    pub title: String,
    /// Two lines below the title: what was measured on what, and how.
    pub subtitle: [String; 2],
    /// What the horizontal axis counts.
    pub x_title: String,
    /// What the vertical axis counts, and its unit.
    pub y_title: String,
    /// Name and points of each line; an `x` is above 0, a `y` not below it.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl LineChart {
    /// Draws it as an SVG file, whole or not at all.
    ///
    /// # Errors
    /// [`ReportError::Write`]; [`ReportError::Draw`], also if there is no point or one lies outside the axes.
    pub fn save_svg(&self, path: &Path) -> Result<(), ReportError> {
        let text = self.check().and_then(|()| svg_text(self));
        let text = text.map_err(|reason| ReportError::Draw {
            chart: self.title.clone(),
            reason,
        })?;
        save_text(path, &text)
    }

    fn check(&self) -> Result<(), String> {
        let mut points = self.points().peekable();
        if points.peek().is_none() {
            return Err("there are no points".to_owned());
        }
        let is_inside =
            |(x, y): &(f64, f64)| x.is_finite() && *x > 0.0 && y.is_finite() && *y >= 0.0;
        match points.find(|point| !is_inside(point)) {
            Some((x, y)) => Err(format!("the point ({x}, {y}) lies outside the axes")),
            None => Ok(()),
        }
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.lines.iter().flat_map(|(_, points)| points).copied()
    }

    /// Every `x` that has a point, in order.
    fn stops(&self) -> Vec<f64> {
        let mut stops: Vec<f64> = self.points().map(|(x, _)| x).collect();
        stops.sort_by(f64::total_cmp);
        stops.dedup();
        stops
    }

    fn axes(&self, legend: &Legend) -> Axes {
        let stops = self.stops();
        let (first, last) = (stops[0].log2(), stops[stops.len() - 1].log2());
        // A single stop stands in the middle.
        let room = 0.06 * (last - first).max(1.0);
        let highest = self.points().map(|(_, y)| y).fold(0.0, f64::max);
        Axes {
            left: 96.0,
            right: f64::from(SIZE.0) - 32.0,
            top: 120.0,
            bottom: f64::from(SIZE.1) - 64.0 - legend.height(),
            x: first - room..last + room,
            y: 0.0..highest.max(f64::MIN_POSITIVE) * 1.08,
        }
    }
}

impl Drawing for LineChart {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        let heading = Heading {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            is_synthetic: false,
        };
        heading.draw(canvas)?;
        let lines = self.lines.iter().enumerate();
        let entries: Vec<_> = lines
            .map(|(i, (name, _))| (name.as_str(), Swatch::Color(palette(i))))
            .collect();
        let legend = Legend::new(&entries)?;
        legend.draw(canvas, f64::from(SIZE.1))?;

        let axes = self.axes(&legend);
        let y_ticks = ticks(axes.y.end, 5);
        axes.draw_y(canvas, &self.y_title, &y_ticks, |tick| format!("{tick}"))?;
        self.draw_stops(canvas, &axes)?;
        for (i, (_, points)) in self.lines.iter().enumerate() {
            let mut points: Vec<_> = points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let points: Vec<_> = points
                .iter()
                .map(|&(x, y)| axes.point(x.log2(), y))
                .collect();
            canvas.line(&points, palette(i).into(), 2.5)?;
            for (x, y) in points {
                let corners = [(x - 5.0, y), (x, y - 5.0), (x + 5.0, y), (x, y + 5.0)];
                canvas.polygon(&corners, palette(i), WHITE)?;
            }
        }
        Ok(())
    }
}

impl LineChart {
    fn draw_stops<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, axes: &Axes) -> DrawResult {
        let font = Font {
            size: 17,
            color: SOFT_INK,
            align: Align::Center,
        };
        for stop in self.stops() {
            let (x, y) = axes.point(stop.log2(), 0.0);
            canvas.line(&[(x, y), (x, y + 5.0)], SOFT_INK.into(), 1.0)?;
            canvas.text(&format!("{stop}"), font, (x, y + 18.0))?;
        }
        let middle = (axes.left + axes.right) / 2.0;
        canvas.text(&self.x_title, font, (middle, axes.bottom + 44.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> LineChart {
        LineChart {
            title: "Training".to_owned(),
            subtitle: ["SmolLM2".to_owned(), "8 x 256".to_owned()],
            x_title: "threads".to_owned(),
            y_title: "tokens a second".to_owned(),
            lines: vec![
                ("rag-tune".to_owned(), vec![(2.0, 505.0), (1.0, 250.0)]),
                ("PyTorch".to_owned(), vec![(2.0, 320.0)]),
            ],
        }
    }

    #[test]
    fn lines_are_named_and_stops_stand_at_equal_distances() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("threads.svg");
        let mut chart = chart();
        chart.lines[0].1.push((4.0, 900.0));
        chart.save_svg(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in [
            "Training",
            "threads",
            "tokens a second",
            "rag-tune",
            "PyTorch",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        let axes = chart.axes(&Legend::new(&[]).unwrap());
        let [one, two, four] = [1.0_f64, 2.0, 4.0].map(|x| axes.point(x.log2(), 0.0).0);
        assert!((two - one - (four - two)).abs() < 1e-9);
        assert!(one > axes.left && four < axes.right);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        for point in [(0.0, 1.0), (1.0, -1.0), (1.0, f64::NAN)] {
            let mut chart = chart();
            chart.lines[1].1.push(point);
            let error = chart.save_svg(&path).unwrap_err();
            assert!(error.to_string().contains("outside the axes"), "{error}");
        }
        let error = LineChart::default().save_svg(&path).unwrap_err();
        assert!(error.to_string().contains("no points"), "{error}");
        assert!(!path.exists());
    }
}
