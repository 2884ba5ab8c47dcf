//! Grouped bars with intervals, whatever they compare.

use std::path::{Path, PathBuf};

use crate::error::ReportError;

/// A chart of bars: a group for each thing along the axis, in each group at most one bar a series.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarChart {
    /// Above the plot.
    pub title: String,
    /// Two lines below the title: what was measured on what, and how.
    pub subtitle: [String; 2],
    /// Whether a badge says that the data was made up.
    pub synthetic: bool,
    /// What stands below each group.
    pub groups: Vec<String>,
    /// What stands in the legend.
    pub series: Vec<String>,
    /// The bars, in any order.
    pub bars: Vec<Bar>,
    /// Warnings below the plot, such as differences that are within noise.
    pub notes: Vec<String>,
}

/// A bar of a [`BarChart`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Index into [`BarChart::groups`].
    pub group: usize,
    /// Index into [`BarChart::series`].
    pub series: usize,
    /// Height, between 0 and 1.
    pub value: f64,
    /// Ends of the whisker.
    pub ci95: [f64; 2],
    /// A figure that others published for the same cell; drawn as a mark beside the bar and named in the legend.
    pub published: Option<f64>,
}

impl BarChart {
    /// Draws `name.svg` and `name.png` into `folder`, each whole or not at all.
    ///
    /// # Errors
    /// [`ReportError::Write`], [`ReportError::Draw`].
    pub fn save(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], ReportError> {
        let _ = (folder, name);
        unimplemented!("drawn by the next commit")
    }

    /// The chart as the text of an SVG file.
    ///
    /// # Errors
    /// [`ReportError::Draw`].
    pub fn svg(&self) -> Result<String, ReportError> {
        unimplemented!("drawn by the next commit")
    }
}
