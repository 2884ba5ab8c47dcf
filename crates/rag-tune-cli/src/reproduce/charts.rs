//! The figures as charts: a to d as bars, e as curves.

use std::path::PathBuf;

use anyhow::Context;
use rag_tune_report::{Bar, BarChart, loss_chart};

use super::cell::Cell;
use super::figures::Figure;
use super::published;
use super::recipe::Recipe;
use super::results::{FigureResult, Results};

/// Draws every figure of which something is there, and takes away those of which nothing is.
///
/// # Errors
/// When a chart cannot be written.
pub fn draw(results: &Results, recipe: &Recipe) -> anyhow::Result<Vec<PathBuf>> {
    let folder = recipe.folder.charts();
    let mut files = Vec::new();
    for figure in &results.figures {
        if figure.bars.is_empty() {
            remove(recipe, figure.figure)?;
            continue;
        }
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
        let drawn = if figure.figure == Figure::E.letter() {
            let runs: Vec<PathBuf> = loss_runs(results, figure, recipe);
            loss_chart(&runs, results.synthetic, &folder, figure.figure)
        } else {
            bar_chart(results, figure).save(&folder, figure.figure)
        };
        files.extend(drawn.with_context(|| format!("cannot draw figure {}", figure.figure))?);
    }
    Ok(files)
}

/// A chart of results that no longer hold would pass for one of this grid.
fn remove(recipe: &Recipe, letter: &str) -> anyhow::Result<()> {
    for ending in ["svg", "png"] {
        let path = recipe.folder.charts().join(format!("{letter}.{ending}"));
        if path.exists() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// The adapters of the figure, of all seeds.
fn loss_runs(results: &Results, figure: &FigureResult, recipe: &Recipe) -> Vec<PathBuf> {
    let is_shown = |cell: &Cell| {
        let bars = figure
            .bars
            .iter()
            .map(|bar| &figure.grid.bars[bar.bar].cell);
        bars.into_iter().any(|shown| {
            let shown = Cell {
                seed: cell.seed,
                ..*shown
            };
            shown == *cell
        })
    };
    let done = results.cells.iter().filter(|cell| cell.scores.is_some());
    done.filter(|result| is_shown(&result.cell))
        .map(|result| recipe.folder.run(&result.cell).path().to_owned())
        .collect()
}

fn bar_chart(results: &Results, figure: &FigureResult) -> BarChart {
    let model = results.model.rsplit('/').next().unwrap_or(&results.model);
    let most_seeds = figure.bars.iter().map(|bar| bar.seed_values.len()).max();
    let seeds = match most_seeds {
        Some(seeds) if seeds > 1 => format!(", mean over up to {seeds} seeds"),
        _ => String::new(),
    };
    let rows: Vec<usize> = figure.bars.iter().map(|bar| bar.n).collect();
    let rows = match (rows.iter().min(), rows.iter().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (_, most) => most.copied().unwrap_or(0).to_string(),
    };
    let has_published = figure.bars.iter().any(|bar| bar.published.is_some());
    let published = match has_published {
        true => format!("; published: {}", published::SHORT_SOURCE),
        false => String::new(),
    };
    let warnings = figure.comparisons.iter().filter_map(|pair| pair.warning());
    // Series and groups without a bar would only take room.
    let grid_bar = |bar: usize| &figure.grid.bars[bar];
    let shown = |of: &dyn Fn(usize) -> usize, all: &[String]| -> Vec<usize> {
        let has_bar = |place: &usize| figure.bars.iter().any(|bar| of(bar.bar) == *place);
        (0..all.len()).filter(has_bar).collect()
    };
    let groups = shown(&|bar| grid_bar(bar).group, &figure.grid.groups);
    let series = shown(&|bar| grid_bar(bar).series, &figure.grid.series);
    let place = |places: &[usize], wanted| places.iter().position(|place| *place == wanted);
    BarChart {
        title: figure.title.to_owned(),
        subtitle: [
            format!("{model}, accuracy on {rows} rows{seeds}"),
            format!("whiskers: 95 % intervals{published}"),
        ],
        synthetic: results.synthetic,
        groups: groups
            .iter()
            .map(|&group| figure.grid.groups[group].clone())
            .collect(),
        series: series
            .iter()
            .map(|&series| figure.grid.series[series].clone())
            .collect(),
        baselines: series
            .iter()
            .filter(|series| **series < figure.grid.baselines)
            .count(),
        bars: figure
            .bars
            .iter()
            .filter_map(|bar| {
                Some(Bar {
                    group: place(&groups, grid_bar(bar.bar).group)?,
                    series: place(&series, grid_bar(bar.bar).series)?,
                    value: bar.pooled.accuracy,
                    ci95: bar.pooled.ci95.into(),
                    published: bar.published,
                })
            })
            .collect(),
        notes: warnings.chain(figure.notes.iter().cloned()).collect(),
    }
}
