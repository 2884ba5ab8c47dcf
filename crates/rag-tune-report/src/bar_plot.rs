//! How a [`BarChart`] is laid out and drawn.

use plotters::prelude::*;

use crate::arms::percent;
use crate::axes::{Axes, ticks};
use crate::bar_chart::{Bar, BarChart};
use crate::canvas::{
    Align, Canvas, DrawResult, Font, INK, SIZE, SOFT_INK, fit, neutral, palette, text_width, wrap,
};
use crate::heading::{Heading, Legend, MARGIN, Swatch, WARNING, draw_published_mark};
use crate::save::Drawing;

/// Share of a group's width that its bars take; the rest keeps groups apart.
const BARS_SHARE: f64 = 0.8;

/// Bars narrower than this have no room for a percent sign, in units.
const NARROW_BAR: f64 = 56.0;
/// Above bars narrower than this, values are turned.
const TURNED_BAR: f64 = 32.0;
/// Bars narrower than this have no values: they would be too small to read.
const BARE_BAR: f64 = 9.0;

/// Left and right ends of the plot.
const SIDES: [f64; 2] = [96.0, SIZE.0 as f64 - 24.0];

/// Height below the plot that the canvas has for labels; it grows for more.
const LABEL_ROOM: f64 = 68.0;

/// Lines that a label of a group may take before it is turned.
const LABEL_LINES: usize = 3;

/// Notes that are drawn, and lines of each.
const NOTES: usize = 6;
const NOTE_LINES: usize = 3;
const NOTE_FONT: Font = Font {
    size: 17,
    color: INK,
    align: Align::Left,
};

/// A chart with everything measured.
#[derive(Debug)]
pub(crate) struct BarPlot<'a> {
    chart: &'a BarChart,
    legend: Legend,
    /// Where the legend ends and the notes start.
    legend_bottom: f64,
    labels: GroupLabels,
    /// The lines of each note.
    notes: Vec<Vec<String>>,
    axes: Axes,
}

impl<'a> BarPlot<'a> {
    pub(crate) fn new(chart: &'a BarChart) -> Result<Self, String> {
        let has_published = chart.bars.iter().any(|bar| bar.published.is_some());
        let mut entries: Vec<(&str, Swatch)> = chart
            .series
            .iter()
            .enumerate()
            .map(|(i, label)| (label.as_str(), Swatch::Color(color(chart, i))))
            .collect();
        if has_published {
            entries.push(("published", Swatch::Published));
        }
        let legend = Legend::new(&entries)?;
        let groups = chart.groups.len().max(1) as f64;
        let labels = GroupLabels::new(&chart.groups, (SIDES[1] - SIDES[0]) / groups)?;
        let legend_bottom = f64::from(SIZE.1) + (labels.height - LABEL_ROOM).max(0.0);
        let mut axes = Axes {
            left: SIDES[0],
            right: SIDES[1],
            top: 112.0,
            bottom: legend_bottom - legend.height() - labels.height.max(LABEL_ROOM),
            x: 0.0..groups,
            y: 0.0..1.0,
        };
        axes.y.end = highest(chart, &axes, has_published);
        Ok(Self {
            chart,
            legend,
            legend_bottom,
            labels,
            notes: note_lines(&chart.notes)?,
            axes,
        })
    }

    fn draw_bars<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        let width = BARS_SHARE / self.chart.series.len().max(1) as f64;
        for bar in &self.chart.bars {
            let left = bar.group as f64 + (1.0 - BARS_SHARE) / 2.0 + width * bar.series as f64;
            let [(left, bottom), (right, top)] = [
                self.axes.point(left, 0.0),
                self.axes.point(left + width, bar.value),
            ];
            let place = Place {
                left,
                right,
                top,
                bottom,
            };
            draw_bar(
                canvas,
                &self.axes,
                place,
                color(self.chart, bar.series),
                bar,
            )?;
        }
        Ok(())
    }

    fn draw_notes<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        let mut y = self.legend_bottom + 14.0;
        for note in &self.notes {
            let height = note_height(note);
            let bar = [(MARGIN, y - 10.0), (MARGIN + 4.0, y + height - 18.0)];
            canvas.rectangle(bar, WARNING)?;
            for (i, line) in note.iter().enumerate() {
                canvas.text(line, NOTE_FONT, (MARGIN + 14.0, y + 22.0 * i as f64))?;
            }
            y += height;
        }
        Ok(())
    }
}

impl Drawing for BarPlot<'_> {
    fn size(&self) -> Result<(i32, i32), String> {
        let notes: f64 = self.notes.iter().map(|note| note_height(note)).sum();
        let space = if self.notes.is_empty() { 0.0 } else { 10.0 };
        Ok((SIZE.0, (self.legend_bottom + notes + space).ceil() as i32))
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> DrawResult {
        let heading = Heading {
            title: self.chart.title.clone(),
            subtitle: self.chart.subtitle.clone(),
            is_synthetic: self.chart.synthetic,
        };
        heading.draw(canvas)?;
        self.legend.draw(canvas, self.legend_bottom)?;
        let ticks = ticks(self.axes.y.end.min(1.0), 5);
        self.axes.draw_y(canvas, "accuracy", &ticks, |tick| {
            format!("{:.0} %", 100.0 * tick)
        })?;
        self.draw_bars(canvas)?;
        self.labels.draw(canvas, &self.axes)?;
        self.draw_notes(canvas)
    }
}

/// Greys for the baselines, then the palette.
fn color(chart: &BarChart, series: usize) -> RGBColor {
    match series.checked_sub(chart.baselines) {
        None => neutral(series),
        Some(i) => palette(i),
    }
}

/// Where the axis ends, so that everything above the highest bar has room.
fn highest(chart: &BarChart, axes: &Axes, has_published: bool) -> f64 {
    let highest = chart
        .bars
        .iter()
        .flat_map(|bar| {
            [
                bar.value,
                bar.ci95[1].min(1.0),
                bar.published.unwrap_or(0.0),
            ]
        })
        .fold(0.0, f64::max);
    let label = if has_published { 62.0 } else { 44.0 };
    let plot = axes.bottom - axes.top;
    (highest * plot / (plot - label)).max(0.1)
}

/// A bar on the canvas, with its share of the space between bars.
struct Place {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// What a value above its whisker takes at most, also where it is turned.
const VALUE_ROOM: f64 = 64.0;

/// A bar, its whisker, its value above both, and what others published for it.
fn draw_bar<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    axes: &Axes,
    place: Place,
    color: RGBColor,
    bar: &Bar,
) -> DrawResult {
    let width = place.right - place.left;
    let center = (place.left + place.right) / 2.0;
    let height = |value| axes.point(0.0, value).1;
    let [left, right] = [place.left + 0.06 * width, place.right - 0.06 * width];
    canvas.rectangle([(left, place.top), (right, place.bottom)], color)?;

    let [low, high] = bar.ci95.map(|end| height(end.clamp(0.0, 1.0)));
    let mut top = high.min(place.top);
    if let Some(published) = bar.published {
        let y = height(published);
        draw_published(canvas, [left, right], y)?;
        // Far above the bar, the mark keeps its number to itself: ours would look as if it were up there too.
        let is_far_above = y < top - VALUE_ROOM;
        let mut above = if is_far_above { y } else { top.min(y) } - 4.0;
        if width >= 1.5 * TURNED_BAR {
            draw_published_value(canvas, published, (center, above - 12.0))?;
            above -= 18.0;
        }
        if !is_far_above {
            top = above;
        }
    }
    let cap = (0.12 * width).min(8.0);
    canvas.line(&[(center, low), (center, high)], INK.into(), 1.5)?;
    for y in [low, high] {
        canvas.line(&[(center - cap, y), (center + cap, y)], INK.into(), 1.5)?;
    }
    draw_value(canvas, bar.value, width, (center, top))
}

/// A dashed line across the bar, with a diamond near its right end.
fn draw_published<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    [left, right]: [f64; 2],
    y: f64,
) -> DrawResult {
    const DASH: f64 = 5.0;
    canvas.line(&[(left, y), (right, y)], WHITE.into(), 3.0)?;
    let mut x = left;
    while x < right {
        canvas.line(&[(x, y), ((x + DASH).min(right), y)], INK.into(), 1.5)?;
        x += 1.8 * DASH;
    }
    let half = (0.1 * (right - left)).clamp(3.0, 7.0);
    draw_published_mark(canvas, (right - 1.5 * half, y), half)
}

/// A small diamond and the number.
fn draw_published_value<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    published: f64,
    (x, y): (f64, f64),
) -> DrawResult {
    let font = Font {
        size: 15,
        color: SOFT_INK,
        align: Align::Center,
    };
    let text = format!("{:.1}", 100.0 * published);
    let half = text_width(&text, font)? / 2.0;
    canvas.text_on_white(&text, font, (x + 7.0, y))?;
    draw_published_mark(canvas, (x - half - 1.0, y), 4.0)
}

/// The value above `top`.
fn draw_value<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    value: f64,
    width: f64,
    (x, top): (f64, f64),
) -> DrawResult {
    let font = |size, align| Font {
        size,
        color: INK,
        align,
    };
    let number = format!("{:.1}", 100.0 * value);
    if width >= NARROW_BAR {
        canvas.text_on_white(&percent(value), font(19, Align::Center), (x, top - 14.0))
    } else if width >= TURNED_BAR {
        canvas.text_on_white(&number, font(15, Align::Center), (x, top - 13.0))
    } else if width >= BARE_BAR {
        let size = (1.1 * width).min(15.0) as i32;
        canvas.text_upwards(&number, font(size, Align::Left), (x, top - 5.0))
    } else {
        Ok(())
    }
}

/// What stands below the groups: in lines, or turned where they have no room.
#[derive(Debug)]
struct GroupLabels {
    lines: Vec<Vec<String>>,
    font: Font,
    is_turned: bool,
    height: f64,
}

impl GroupLabels {
    /// `room` is the width of a group.
    fn new(groups: &[String], room: f64) -> Result<Self, String> {
        for size in [19, 16] {
            let font = Font {
                size,
                color: INK,
                align: Align::Center,
            };
            let lines = groups
                .iter()
                .map(|group| lines_within(group, font, room - 8.0))
                .collect::<Result<Option<Vec<_>>, String>>()?;
            if let Some(lines) = lines {
                let most = lines.iter().map(Vec::len).max().unwrap_or(0);
                return Ok(Self {
                    lines,
                    font,
                    is_turned: false,
                    height: 24.0 + 22.0 * most as f64,
                });
            }
        }
        Self::turned(groups, room)
    }

    fn turned(groups: &[String], room: f64) -> Result<Self, String> {
        let font = Font {
            size: (room as i32).clamp(9, 16),
            color: INK,
            align: Align::Right,
        };
        let mut height: f64 = 0.0;
        let mut lines = Vec::new();
        for group in groups {
            let label = fit(&group.replace('\n', ", "), font, 220.0)?;
            height = height.max(text_width(&label, font)?);
            lines.push(vec![label]);
        }
        Ok(Self {
            lines,
            font,
            is_turned: true,
            height: height + 24.0,
        })
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, axes: &Axes) -> DrawResult {
        for (group, lines) in self.lines.iter().enumerate() {
            let (x, bottom) = axes.point(group as f64 + 0.5, 0.0);
            for (i, line) in lines.iter().enumerate() {
                if self.is_turned {
                    canvas.text_upwards(line, self.font, (x, bottom + 10.0))?;
                } else {
                    let y = bottom + 20.0 + 22.0 * i as f64;
                    canvas.text(line, self.font, (x, y))?;
                }
            }
        }
        Ok(())
    }
}

/// The lines of a label, unless they are too many or a word is too long.
fn lines_within(text: &str, font: Font, width: f64) -> Result<Option<Vec<String>>, String> {
    let mut lines = Vec::new();
    for part in text.lines() {
        let wrapped = wrap(part, font, width)?;
        if !part
            .split_whitespace()
            .eq(wrapped.iter().flat_map(|line| line.split(' ')))
        {
            return Ok(None);
        }
        lines.extend(wrapped);
    }
    Ok((lines.len() <= LABEL_LINES).then_some(lines))
}

/// The lines of each note that is drawn, and how many are not.
fn note_lines(notes: &[String]) -> Result<Vec<Vec<String>>, String> {
    let width = f64::from(SIZE.0) - 2.0 * MARGIN - 14.0;
    let mut drawn = Vec::new();
    for note in notes.iter().take(NOTES) {
        let mut lines = wrap(note, NOTE_FONT, width)?;
        if lines.len() > NOTE_LINES {
            // Longer than a line on purpose: `fit` then ends it with an ellipsis.
            let rest = lines.split_off(NOTE_LINES - 1).join(" ");
            lines.push(fit(&rest, NOTE_FONT, width)?);
        }
        drawn.push(lines);
    }
    if notes.len() > NOTES {
        drawn.push(vec![format!("and {} more", notes.len() - NOTES)]);
    }
    Ok(drawn)
}

fn note_height(lines: &[String]) -> f64 {
    22.0 * lines.len() as f64 + 8.0
}
