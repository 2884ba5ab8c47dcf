//! Saving a drawing as SVG and as PNG, each whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;

use crate::canvas::{Canvas, DrawResult, FONT_FAMILY, SIZE};
use crate::error::ReportError;

/// Pixels of a PNG for each unit, so that it stays sharp on dense screens and in print.
const PNG_SCALE: i32 = 2;

/// Something that can be drawn on any canvas.
pub(crate) trait Drawing {
    /// Draws itself.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult;
}

/// Draws `name.svg` and `name.png` into `folder`, each whole or not at all.
pub(crate) fn save(
    drawing: &impl Drawing,
    folder: &Path,
    name: &str,
) -> Result<[PathBuf; 2], ReportError> {
    register_fonts();
    let svg = folder.join(format!("{name}.svg"));
    let png = folder.join(format!("{name}.png"));
    let (width, height) = SIZE;
    save_with(&svg, |path| {
        let backend = SVGBackend::new(path, (width as u32, height as u32));
        draw_and_finish(drawing, backend, 1)
    })?;
    save_with(&png, |path| {
        let pixels = (width * PNG_SCALE, height * PNG_SCALE);
        let backend = BitMapBackend::new(path, (pixels.0 as u32, pixels.1 as u32));
        draw_and_finish(drawing, backend, PNG_SCALE)
    })?;
    Ok([svg, png])
}

fn draw_and_finish<DB: DrawingBackend>(
    drawing: &impl Drawing,
    backend: DB,
    scale: i32,
) -> DrawResult {
    let canvas = Canvas::new(backend, scale)?;
    drawing.draw(&canvas)?;
    canvas.finish()
}

/// Lets `write` make a file beside `path`, and moves it there when it is complete.
fn save_with(path: &Path, write: impl FnOnce(&Path) -> DrawResult) -> Result<(), ReportError> {
    let write_error = |source| ReportError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    // The backends choose the format by the name's ending and open the file themselves: they get a
    // name in a temporary folder, which goes away whatever happens.
    let temporary = tempfile::Builder::new()
        .prefix(".saving-")
        .tempdir_in(folder)
        .map_err(write_error)?;
    let file = temporary.path().join(path.file_name().unwrap_or_default());
    write(&file).map_err(|reason| ReportError::Draw {
        path: path.to_owned(),
        reason,
    })?;
    std::fs::rename(&file, path).map_err(write_error)
}

fn register_fonts() {
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

    #[test]
    fn a_drawing_that_fails_leaves_the_old_chart_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        std::fs::write(&path, "old").unwrap();
        let error = save_with(&path, |file| {
            std::fs::write(file, "half").unwrap();
            Err("no ink".to_owned())
        });
        assert!(error.unwrap_err().to_string().contains("loss.svg`: no ink"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
