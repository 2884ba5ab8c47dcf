//! What the user sees: data on stdout, talk and progress bars on stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes a line to stderr.
pub fn talk(text: &str) {
    // Where stderr is closed there is nobody left to tell, and the work itself is fine.
    writeln!(io::stderr(), "{text}").ok();
}

/// Whether somebody can see a progress bar.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// How a piece of text is set off on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Less important than its surroundings.
    Dim,
    /// The part to look at.
    Green,
}

/// The program's stdout and stderr.
#[derive(Debug)]
pub struct Output {
    coloured: bool,
    is_hushed: bool,
}

impl Output {
    /// Colour only where a person reads: stdout is a terminal and `NO_COLOR` is not set.
    pub fn from_terminal() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            coloured: io::stdout().is_terminal() && !no_color,
            is_hushed: false,
        }
    }

    /// Whether [`Output::paint`] colours.
    pub fn is_coloured(&self) -> bool {
        self.coloured
    }

    /// Writes text to stdout as it is.
    ///
    /// # Errors
    /// When stdout cannot be written; a closed pipe ends the program quietly.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Tells the user something that is not data.
    pub fn note(&self, text: &str) {
        if !self.is_hushed {
            talk(text);
        }
    }

    /// From now on no notes and no bars: another process of the run tells the same.
    pub fn hush(&mut self) {
        self.is_hushed = true;
    }

    /// `text` in `colour` where stdout shows colours, else as it is.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Dim => "2",
            Colour::Green => "32",
        };
        if self.coloured {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// A progress bar; invisible where stderr is no terminal.
    pub fn progress(&self) -> Progress {
        Progress {
            is_hushed: self.is_hushed,
            ..Progress::default()
        }
    }
}

/// One visible progress bar at a time, usable from every library's reporting hook. Work within work
/// has its own bar, after which the outer one is shown again.
#[derive(Debug, Default)]
pub struct Progress {
    /// The innermost work last.
    bars: Mutex<Vec<ProgressBar>>,
    is_hushed: bool,
}

impl Progress {
    const TEMPLATE: &str = "{msg} [{bar:30}] {human_pos}/{human_len} {elapsed} (left {eta})";

    /// Begins a bar of `total` units.
    pub fn start(&self, what: &str, total: u64) {
        let style = ProgressStyle::with_template(Self::TEMPLATE)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        // indicatif draws nothing where stderr is no terminal.
        let bar = ProgressBar::new(total)
            .with_style(style)
            .with_message(what.to_owned());
        if self.is_hushed {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let mut bars = self.bars();
        if let Some(outer) = bars.last() {
            outer.set_draw_target(ProgressDrawTarget::hidden());
        }
        bars.push(bar);
    }

    /// Moves the bar on by `units`.
    pub fn advance(&self, units: u64) {
        self.with(|bar| bar.inc(units));
    }

    /// Moves the bar to `position`.
    pub fn move_to(&self, position: u64) {
        self.with(|bar| bar.set_position(position));
    }

    /// Changes how many units there are.
    pub fn resize(&self, total: u64) {
        self.with(|bar| bar.set_length(total));
    }

    /// Changes what stands before the bar.
    pub fn say(&self, text: &str) {
        self.with(|bar| bar.set_message(text.to_owned()));
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        let mut bars = self.bars();
        if let Some(ended) = bars.pop() {
            ended.finish_and_clear();
        }
        if let Some(outer) = bars.last().filter(|_| !self.is_hushed) {
            outer.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    fn with(&self, action: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars().last() {
            action(bar);
        }
    }

    fn bars(&self) -> MutexGuard<'_, Vec<ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl rag_tune_augment::Progress for Progress {
    fn start(&self, what: &str, total: u64) {
        self.start(what, total);
    }

    fn advance(&self, n: u64) {
        self.advance(n);
    }

    fn finish(&self) {
        self.finish();
    }
}

/// Left-aligned text columns, numbers and all: short enough to read without rules.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "0.3".to_owned()],
            vec!["longer".to_owned(), "1".to_owned()],
        ];
        assert_eq!(
            table(&["run", "accuracy"], &rows),
            "run     accuracy\na       0.3\nlonger  1\n"
        );
    }

    #[test]
    fn colour_is_left_out_where_nobody_sees_it() {
        let of = |coloured| Output {
            coloured,
            is_hushed: false,
        };
        assert_eq!(of(false).paint(Colour::Green, "x"), "x");
        assert_eq!(of(true).paint(Colour::Green, "x"), "\u{1b}[32mx\u{1b}[0m");
    }

    #[test]
    fn progress_without_a_bar_is_silent() {
        let progress = Progress::default();
        progress.advance(3);
        progress.start("rows", 10);
        progress.move_to(4);
        progress.say("rows, loss 0.3");
        progress.finish();
        progress.advance(1);
    }
}
