//! What both charts draw with: text, lines and colours, onto SVG and PNG alike.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Size of a chart, in the units that drawing functions use.
pub(crate) const SIZE: (i32, i32) = (960, 600);

/// SVG viewers use their own font of this family; for PNG we bring one, because a bare machine has
/// none.
pub(crate) const FONT_FAMILY: &str = "sans-serif";

/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Text of less weight.
pub(crate) const SOFT_INK: RGBColor = RGBColor(0x55, 0x55, 0x55);
/// The baseline that others are compared with.
pub(crate) const NEUTRAL: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// The colours of Okabe and Ito, which colour-blind people can tell apart, less black and yellow.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
];

/// The colour of the `i`-th thing that is compared.
pub(crate) fn palette(i: usize) -> RGBColor {
    PALETTE[i % PALETTE.len()]
}

/// Why drawing failed, from whichever backend.
pub(crate) type DrawResult = Result<(), String>;

/// How a text lies to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Center,
    Right,
}

/// Size, colour and place of a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Font {
    pub(crate) size: i32,
    pub(crate) color: RGBColor,
    pub(crate) align: Align,
}

/// A surface of [`SIZE`] units.
pub(crate) struct Canvas<DB: DrawingBackend> {
    area: DrawingArea<DB, Shift>,
    scale: i32,
}

impl<DB: DrawingBackend> Canvas<DB> {
    /// An empty canvas, `scale` pixels of the backend to a unit.
    pub(crate) fn new(backend: DB, scale: i32) -> Result<Self, String> {
        let area = backend.into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        Ok(Self { area, scale })
    }

    fn pixel(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let pixel = |value: f64| (value * f64::from(self.scale)).round() as i32;
        (pixel(x), pixel(y))
    }

    fn style(&self, font: Font) -> TextStyle<'static> {
        let h_pos = match font.align {
            Align::Left => HPos::Left,
            Align::Center => HPos::Center,
            Align::Right => HPos::Right,
        };
        (FONT_FAMILY, f64::from(font.size * self.scale))
            .into_font()
            .color(&font.color)
            .pos(Pos::new(h_pos, VPos::Top))
    }

    /// Draws `text` with the middle of its capitals at `y`.
    pub(crate) fn text(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        // From the top that backends take to the middle of the capitals; SVG and bitmap differ by
        // a tenth of the size, and this is between them.
        let top = y - 0.26 * f64::from(font.size);
        let at = self.pixel((x, top));
        self.area
            .draw_text(text, &self.style(font), at)
            .map_err(|error| error.to_string())
    }

    /// Draws centred `text` and keeps grid lines from striking it through.
    pub(crate) fn text_on_white(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        let half = (
            self.text_width(text, font)? / 2.0 + 2.0,
            0.45 * f64::from(font.size),
        );
        self.rectangle([(x - half.0, y - half.1), (x + half.0, y + half.1)], WHITE)?;
        self.text(text, font, (x, y))
    }

    /// Draws `text` upwards, centred on the point.
    pub(crate) fn text_upwards(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        let style = self.style(font).transform(FontTransform::Rotate270);
        let at = self.pixel((x - 0.26 * f64::from(font.size), y));
        self.area
            .draw_text(text, &style, at)
            .map_err(|error| error.to_string())
    }

    /// Width of `text`, in units.
    pub(crate) fn text_width(&self, text: &str, font: Font) -> Result<f64, String> {
        let (width, _) = self
            .area
            .estimate_text_size(text, &self.style(font))
            .map_err(|error| error.to_string())?;
        Ok(f64::from(width) / f64::from(self.scale))
    }

    /// `text`, shortened with an ellipsis to at most `width` units.
    pub(crate) fn fit(&self, text: &str, font: Font, width: f64) -> Result<String, String> {
        let mut kept: Vec<char> = text.chars().collect();
        let mut fitted = text.to_owned();
        while self.text_width(&fitted, font)? > width && kept.pop().is_some() {
            fitted = kept.iter().collect::<String>().trim_end().to_owned() + "…";
        }
        Ok(fitted)
    }

    /// A line through `points`, `width` units wide.
    pub(crate) fn line(&self, points: &[(f64, f64)], color: RGBAColor, width: f64) -> DrawResult {
        let width = (width * f64::from(self.scale)).round().max(1.0) as u32;
        let points: Vec<_> = points.iter().map(|&point| self.pixel(point)).collect();
        let path = PathElement::new(points, color.stroke_width(width));
        self.area.draw(&path).map_err(|error| error.to_string())
    }

    /// A filled rectangle between two corners.
    pub(crate) fn rectangle(&self, corners: [(f64, f64); 2], color: RGBColor) -> DrawResult {
        let rectangle = Rectangle::new(corners.map(|corner| self.pixel(corner)), color.filled());
        self.area
            .draw(&rectangle)
            .map_err(|error| error.to_string())
    }

    /// Hands everything drawn to the backend.
    pub(crate) fn finish(self) -> DrawResult {
        self.area.present().map_err(|error| error.to_string())
    }
}
