//! Saving a drawing as SVG and as PNG, each whole or not at all.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::canvas::{Canvas, DrawResult, SIZE, register_fonts};
use crate::error::ReportError;

/// Pixels of a PNG for each unit, so that it stays sharp on dense screens and in print.
const PNG_SCALE: i32 = 2;

/// Something that can be drawn on any canvas.
pub(crate) trait Drawing {
    /// Width and height, in units.
    fn size(&self) -> Result<(i32, i32), String> {
        Ok(SIZE)
    }

    /// Draws itself.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult;
}

/// Draws `name.svg` and `name.png` into `folder`, each whole or not at all.
pub(crate) fn save(
    drawing: &impl Drawing,
    folder: &Path,
    name: &str,
) -> Result<[PathBuf; 2], ReportError> {
    let svg = folder.join(format!("{name}.svg"));
    let png = folder.join(format!("{name}.png"));
    let text = svg_text(drawing).map_err(|reason| draw_error(&svg, reason))?;
    save_text(&svg, &text)?;
    save_with(&png, |path| {
        draw_png(drawing, path).map_err(|reason| draw_error(&png, reason))
    })?;
    Ok([svg, png])
}

fn draw_error(path: &Path, reason: String) -> ReportError {
    let chart = path.display().to_string();
    ReportError::Draw { chart, reason }
}

/// The drawing as the text of an SVG file.
pub(crate) fn svg_text(drawing: &impl Drawing) -> Result<String, String> {
    let (width, height) = drawing.size()?;
    let mut text = String::new();
    let backend = SVGBackend::with_string(&mut text, (width as u32, height as u32));
    draw_and_finish(drawing, backend, 1)?;
    Ok(text)
}

fn draw_png(drawing: &impl Drawing, path: &Path) -> DrawResult {
    let (width, height) = drawing.size()?;
    let pixels = (width * PNG_SCALE, height * PNG_SCALE);
    let backend = BitMapBackend::new(path, (pixels.0 as u32, pixels.1 as u32));
    draw_and_finish(drawing, backend, PNG_SCALE)
}

fn draw_and_finish<DB: DrawingBackend>(
    drawing: &impl Drawing,
    backend: DB,
    scale: i32,
) -> DrawResult {
    register_fonts();
    let canvas = Canvas::new(backend, scale)?;
    drawing.draw(&canvas)?;
    canvas.finish()
}

/// Writes a file, whole or not at all.
pub(crate) fn save_text(path: &Path, text: &str) -> Result<(), ReportError> {
    save_with(path, |file| {
        std::fs::write(file, text).map_err(|source| write_error(path, source))
    })
}

fn write_error(path: &Path, source: std::io::Error) -> ReportError {
    ReportError::Write {
        path: path.to_owned(),
        source,
    }
}

/// Lets `write` make a file beside `path`, and moves it there when it is complete.
fn save_with(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    // The parent of a bare name is empty.
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    // The bitmap backend chooses the format by the name's ending and opens the file itself: it gets
    // a name in a temporary folder, which goes away whatever happens.
    let temporary = tempfile::Builder::new()
        .prefix(".saving-")
        .tempdir_in(folder.unwrap_or(Path::new(".")))
        .map_err(|source| write_error(path, source))?;
    let file = temporary.path().join(path.file_name().unwrap_or_default());
    write(&file)?;
    std::fs::rename(&file, path).map_err(|source| write_error(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_that_fails_leaves_the_old_chart_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        std::fs::write(&path, "old").unwrap();
        let error = save_with(&path, |file| {
            std::fs::write(file, "half").unwrap();
            Err(draw_error(&path, "no ink".to_owned()))
        });
        assert!(error.unwrap_err().to_string().contains("loss.svg`: no ink"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
