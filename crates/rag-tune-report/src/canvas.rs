//! What all charts draw with: text, lines and colours, onto SVG and PNG alike.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};

/// Size of a chart, in the units that drawing functions use; one with much to say below its plot is higher.
pub(crate) const SIZE: (i32, i32) = (960, 600);

/// SVG viewers use their own font of this family; for PNG we bring one, because a bare machine has
/// none.
pub(crate) const FONT_FAMILY: &str = "sans-serif";

/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Text of less weight.
pub(crate) const SOFT_INK: RGBColor = RGBColor(0x55, 0x55, 0x55);

/// Greys for the baselines that others are compared with.
const NEUTRALS: [RGBColor; 3] = [
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xc4, 0xc4, 0xc4),
    RGBColor(0x6e, 0x6e, 0x6e),
];

/// The colours of Okabe and Ito, which colour-blind people can tell apart, less black and yellow; then four
/// of Paul Tol's "muted" scheme, for charts of many things. All light enough for a dark whisker.
const PALETTE: [RGBColor; 10] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0xaa, 0x44, 0x99),
    RGBColor(0xdd, 0xcc, 0x77),
    RGBColor(0x44, 0xaa, 0x99),
    RGBColor(0xcc, 0x66, 0x77),
];

/// The colour of the `i`-th thing that is compared.
pub(crate) fn palette(i: usize) -> RGBColor {
    PALETTE[i % PALETTE.len()]
}

/// The colour of the `i`-th baseline.
pub(crate) fn neutral(i: usize) -> RGBColor {
    NEUTRALS[i % NEUTRALS.len()]
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

/// A surface that is [`SIZE`] wide.
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

    /// Draws `text` with the middle of its capitals at `y`.
    pub(crate) fn text(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        // From the top that backends take to the middle of the capitals; SVG and bitmap differ by
        // a tenth of the size, and this is between them.
        let top = y - 0.26 * f64::from(font.size);
        self.draw_text(text, style(font, self.scale), (x, top))
    }

    /// Draws centred `text` and keeps grid lines from striking it through.
    pub(crate) fn text_on_white(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        let half = (
            text_width(text, font)? / 2.0 + 2.0,
            0.45 * f64::from(font.size),
        );
        self.rectangle([(x - half.0, y - half.1), (x + half.0, y + half.1)], WHITE)?;
        self.text(text, font, (x, y))
    }

    /// Draws `text` upwards; `align` says which part of it lies at the point.
    pub(crate) fn text_upwards(&self, text: &str, font: Font, (x, y): (f64, f64)) -> DrawResult {
        let style = style(font, self.scale).transform(FontTransform::Rotate270);
        self.draw_text(text, style, (x - 0.26 * f64::from(font.size), y))
    }

    fn draw_text(&self, text: &str, style: TextStyle, at: (f64, f64)) -> DrawResult {
        // SVG allows no control characters, not even escaped.
        let text = text.replace(char::is_control, " ");
        self.area
            .draw_text(&text, &style, self.pixel(at))
            .map_err(|error| error.to_string())
    }

    /// A line through `points`, `width` units wide.
    pub(crate) fn line(&self, points: &[(f64, f64)], color: RGBAColor, width: f64) -> DrawResult {
        let width = (width * f64::from(self.scale)).round().max(1.0) as u32;
        let points: Vec<_> = points.iter().map(|&point| self.pixel(point)).collect();
        let path = PathElement::new(points, color.stroke_width(width));
        self.area.draw(&path).map_err(|error| error.to_string())
    }

    /// A filled shape with an edge.
    pub(crate) fn polygon(
        &self,
        corners: &[(f64, f64)],
        fill: RGBColor,
        edge: RGBColor,
    ) -> DrawResult {
        let pixels: Vec<_> = corners.iter().map(|&corner| self.pixel(corner)).collect();
        self.area
            .draw(&Polygon::new(pixels, fill.filled()))
            .map_err(|error| error.to_string())?;
        let outline: Vec<_> = corners.iter().chain(corners.first()).copied().collect();
        self.line(&outline, edge.into(), 1.5)
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

fn style(font: Font, scale: i32) -> TextStyle<'static> {
    let h_pos = match font.align {
        Align::Left => HPos::Left,
        Align::Center => HPos::Center,
        Align::Right => HPos::Right,
    };
    (FONT_FAMILY, f64::from(font.size * scale))
        .into_font()
        .color(&font.color)
        .pos(Pos::new(h_pos, VPos::Top))
}

/// Width of `text`, in units. Measured finely, as the larger of our formats draws it.
pub(crate) fn text_width(text: &str, font: Font) -> Result<f64, String> {
    const SCALE: i32 = 2;
    register_fonts();
    let ((left, _), (right, _)) = style(font, SCALE)
        .font
        .layout_box(text)
        .map_err(|error| error.to_string())?;
    Ok(f64::from(right - left) / f64::from(SCALE))
}

/// `text`, shortened with an ellipsis to at most `width` units.
pub(crate) fn fit(text: &str, font: Font, width: f64) -> Result<String, String> {
    let mut kept: Vec<char> = text.chars().collect();
    let mut fitted = text.to_owned();
    while text_width(&fitted, font)? > width && kept.pop().is_some() {
        fitted = kept.iter().collect::<String>().trim_end().to_owned() + "…";
    }
    Ok(fitted)
}

/// `text` in lines of at most `width` units, broken at spaces; a longer word is shortened.
pub(crate) fn wrap(text: &str, font: Font, width: f64) -> Result<Vec<String>, String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word = fit(word, font, width)?;
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line} {word}");
            if text_width(&longer, font)? <= width {
                *line = longer;
                continue;
            }
        }
        lines.push(word);
    }
    Ok(lines)
}

/// Makes the font that we bring known to plotters.
pub(crate) fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        let registered = register_font(FONT_FAMILY, FontStyle::Normal, font);
        assert!(registered.is_ok(), "the embedded font is a font");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const FONT: Font = Font {
        size: 17,
        color: INK,
        align: Align::Left,
    };

    #[test]
    fn wrapping_keeps_every_word_and_the_width() {
        let text = "zero-shot against RAG is within noise, p = 0.47, on these 568 rows";
        let lines = wrap(text, FONT, 180.0).unwrap();
        assert!(lines.len() > 2, "{lines:?}");
        assert_eq!(lines.join(" "), text);
        for line in &lines {
            assert!(text_width(line, FONT).unwrap() <= 180.0, "{line}");
        }
        assert!(wrap("", FONT, 180.0).unwrap().is_empty());
    }

    #[test]
    fn a_word_without_room_is_shortened() {
        let lines = wrap(&"x".repeat(1000), FONT, 100.0).unwrap();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with('…') && lines[0].chars().count() > 5);
        assert_eq!(fit("short", FONT, 100.0).unwrap(), "short");
    }
}
