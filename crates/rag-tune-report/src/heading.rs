//! What stands above and below every plot: title, subtitle, warning and legend.

use plotters::prelude::*;

use crate::canvas::{Align, Canvas, DrawResult, Font, INK, SIZE, SOFT_INK, fit, text_width};

/// Free space at the left and right edges.
pub(crate) const MARGIN: f64 = 24.0;

/// Colour of the warning: vermilion, dark enough for white text.
pub(crate) const WARNING: RGBColor = RGBColor(0xb8, 0x45, 0x00);

/// Title, two lines of subtitle, and a warning where the figures are of made-up data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heading {
    pub(crate) title: String,
    pub(crate) subtitle: [String; 2],
    pub(crate) is_synthetic: bool,
}

impl Heading {
    pub(crate) fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        let room = f64::from(SIZE.0) - 2.0 * MARGIN;
        let badge = if self.is_synthetic { 184.0 } else { 0.0 };
        let (title, font) = fit_title(&self.title, room - badge)?;
        canvas.text(&title, font, (MARGIN, 34.0))?;
        let font = Font {
            size: 17,
            color: SOFT_INK,
            align: Align::Left,
        };
        for (line, y) in self.subtitle.iter().zip([66.0, 90.0]) {
            canvas.text(&fit(line, font, room)?, font, (MARGIN, y))?;
        }
        if self.is_synthetic {
            let right = f64::from(SIZE.0) - MARGIN;
            canvas.rectangle([(right - 168.0, 18.0), (right, 50.0)], WARNING)?;
            let font = Font {
                size: 19,
                color: WHITE,
                align: Align::Center,
            };
            canvas.text("synthetic data", font, (right - 84.0, 34.0))?;
        }
        Ok(())
    }
}

/// A long title is set smaller, and only then shortened.
fn fit_title(title: &str, room: f64) -> Result<(String, Font), String> {
    let font = |size| Font {
        size,
        color: INK,
        align: Align::Left,
    };
    for size in [29, 25, 21] {
        if text_width(title, font(size))? <= room {
            return Ok((title.to_owned(), font(size)));
        }
    }
    Ok((fit(title, font(21), room)?, font(21)))
}

/// What a thing in a plot looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Swatch {
    /// Drawn in this colour.
    Color(RGBColor),
    /// A figure that others published: see [`draw_published_mark`].
    Published,
}

/// A diamond, pale with a dark edge, so that it stands out from bars and from paper.
pub(crate) fn draw_published_mark<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    (x, y): (f64, f64),
    half: f64,
) -> DrawResult {
    let corners = [(x - half, y), (x, y - half), (x + half, y), (x, y + half)];
    canvas.polygon(&corners, WHITE, INK)
}

/// A swatch and a label for each thing in a plot, in centred lines below it.
#[derive(Debug)]
pub(crate) struct Legend {
    lines: Vec<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    label: String,
    swatch: Swatch,
    /// With the swatch and the space to the next entry.
    width: f64,
}

impl Legend {
    const FONT: Font = Font {
        size: 18,
        color: INK,
        align: Align::Left,
    };
    const LINE: f64 = 28.0;
    const SWATCH: f64 = 16.0;
    /// Between a swatch and its label.
    const GAP: f64 = 8.0;
    /// Between entries.
    const SPACE: f64 = 36.0;

    /// Arranges the entries; a line takes as many as it has room for.
    pub(crate) fn new(entries: &[(&str, Swatch)]) -> Result<Self, String> {
        let room = f64::from(SIZE.0) - 2.0 * MARGIN + Self::SPACE;
        let around = Self::SWATCH + Self::GAP + Self::SPACE;
        let mut lines: Vec<Vec<Entry>> = Vec::new();
        let mut left = 0.0;
        for &(label, swatch) in entries {
            let label = fit(label, Self::FONT, room - around)?;
            let width = around + text_width(&label, Self::FONT)?;
            let entry = Entry {
                label,
                swatch,
                width,
            };
            match lines.last_mut() {
                Some(line) if width <= left => line.push(entry),
                _ => {
                    lines.push(vec![entry]);
                    left = room;
                }
            }
            left -= width;
        }
        Ok(Self { lines })
    }

    /// Height that the legend takes.
    pub(crate) fn height(&self) -> f64 {
        Self::LINE * self.lines.len() as f64 + 8.0
    }

    /// Draws it above `bottom`.
    pub(crate) fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, bottom: f64) -> DrawResult {
        for (i, line) in self.lines.iter().enumerate() {
            let width: f64 = line.iter().map(|entry| entry.width).sum();
            let mut x = (f64::from(SIZE.0) - width + Self::SPACE) / 2.0;
            let y = bottom - Self::LINE * (self.lines.len() - i) as f64 + 4.0;
            for entry in line {
                let (half, right) = (Self::SWATCH / 2.0, x + Self::SWATCH);
                match entry.swatch {
                    Swatch::Color(color) => {
                        canvas.rectangle([(x, y - half), (right, y + half)], color)?;
                    }
                    Swatch::Published => draw_published_mark(canvas, (x + half, y), half)?,
                }
                canvas.text(&entry.label, Self::FONT, (right + Self::GAP, y))?;
                x += entry.width;
            }
        }
        Ok(())
    }
}
