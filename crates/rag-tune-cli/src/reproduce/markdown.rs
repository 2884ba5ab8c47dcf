//! `results.md`: the results for people.

use super::figures::Figure;
use super::recipe::Recipe;
use super::results::{CellResult, FigureResult, Results, StepTime};
use crate::commands::percent;
use crate::files::write_atomically;
use crate::forecast::duration;

/// Writes `results.md`.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(results: &Results, recipe: &Recipe) -> anyhow::Result<()> {
    write_atomically(&recipe.folder.path().join("results.md"), &text(results))
}

fn text(results: &Results) -> String {
    let mut text = format!("# Figures with {}\n\n", results.model);
    if results.synthetic {
        text += "The data is synthetic: the figures show that everything works, and nothing about real data.\n\n";
    }
    text += &format!(
        "Published figures are those of {}.\n",
        results.published_source
    );
    for figure in results
        .figures
        .iter()
        .filter(|figure| !figure.bars.is_empty())
    {
        text += &figure_text(figure);
    }
    text += &cells_text(&results.cells);
    text += &left_out_text(&results.cells);
    text += &predictions_text(&results.predictions);
    text
}

fn figure_text(figure: &FigureResult) -> String {
    let letter = figure.figure;
    let mut text = format!(
        "\n## ({letter}) {}\n\n![figure {letter}](charts/{letter}.svg)\n",
        figure.title
    );
    if letter == Figure::E.letter() {
        return text; // curves, no bars
    }
    let rows = figure.bars.iter().map(|bar| {
        let (lo, hi) = (bar.pooled.ci95.lo, bar.pooled.ci95.hi);
        vec![
            bar.group.clone(),
            bar.series.clone(),
            percent(bar.pooled.accuracy),
            format!("{} to {}", percent(lo), percent(hi)),
            bar.n.to_string(),
            list(&bar.seed_values),
            bar.published.map_or_else(|| "-".to_owned(), percent),
        ]
    });
    text += &table(
        &[
            "",
            "",
            "accuracy",
            "95 % interval",
            "rows",
            "seeds",
            "published",
        ],
        rows,
    );
    let rows = figure.comparisons.iter().map(|pair| {
        let difference = &pair.difference;
        let points = |share: f64| format!("{:+.1}", 100.0 * share);
        vec![
            pair.label(" -> "),
            points(difference.difference),
            format!(
                "{} to {}",
                points(difference.ci95.lo),
                points(difference.ci95.hi)
            ),
            format!("{:.3}", difference.p_value),
            format!("{:.3}", pair.adjusted_p_value),
            if pair.within_noise {
                "within noise"
            } else {
                ""
            }
            .to_owned(),
        ]
    });
    if !figure.comparisons.is_empty() {
        text += &table(
            &["difference", "points", "95 % interval", "p", "adjusted", ""],
            rows,
        );
    }
    for note in &figure.notes {
        text += &format!("\n{note}\n");
    }
    text
}

fn cells_text(cells: &[CellResult]) -> String {
    let rows = cells.iter().filter_map(|cell| {
        let scores = cell.scores.as_ref()?;
        let metrics = scores.metrics.iter().map(|(name, value)| {
            format!("{name} {}", value.map_or_else(|| "-".to_owned(), percent))
        });
        let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), duration);
        Some(vec![
            cell.name.clone(),
            cell.figures.join(", "),
            format!("{}/{}", scores.correct, scores.n),
            metrics.collect::<Vec<_>>().join(", "),
            seconds(cell.taken_s),
            seconds(cell.predicted_s),
        ])
    });
    let header = ["cell", "figures", "correct", "metrics", "took", "predicted"];
    let mut text = format!("\n## Cells\n{}", table(&header, rows));
    let mut notes: Vec<&String> = Vec::new();
    for note in cells
        .iter()
        .filter_map(|cell| cell.scores.as_ref())
        .flat_map(|s| &s.notes)
    {
        if !notes.contains(&note) {
            notes.push(note);
            text += &format!("\n{note}\n");
        }
    }
    text
}

fn left_out_text(cells: &[CellResult]) -> String {
    let left: Vec<&CellResult> = cells
        .iter()
        .filter(|cell| cell.left_out.is_some())
        .collect();
    if left.is_empty() {
        return String::new();
    }
    let rows = left.into_iter().map(|cell| {
        let reason = cell.left_out.clone().unwrap_or_default();
        vec![cell.name.clone(), cell.figures.join(", "), reason]
    });
    format!(
        "\n## Left out\n{}",
        table(&["cell", "figures", "why"], rows)
    )
}

fn predictions_text(predictions: &[StepTime]) -> String {
    if predictions.is_empty() {
        return String::new();
    }
    let total = |of: &dyn Fn(&StepTime) -> f64| predictions.iter().map(of).sum::<f64>();
    let (predicted, taken) = (total(&|step| step.predicted_s), total(&|step| step.taken_s));
    let ratio = |predicted: f64, taken: f64| match predicted > 0.0 {
        true => format!("{:.2}", taken / predicted),
        false => "-".to_owned(),
    };
    let rows = predictions.iter().map(|step| {
        vec![
            step.step.clone(),
            duration(step.predicted_s),
            duration(step.taken_s),
            ratio(step.predicted_s, step.taken_s),
        ]
    });
    format!(
        "\n## How good the predictions were\n\nAll steps: predicted {}, took {}, {} of the prediction.\n{}",
        duration(predicted),
        duration(taken),
        ratio(predicted, taken),
        table(&["step", "predicted", "took", "took / predicted"], rows)
    )
}

/// A Markdown table with a blank line before it.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let plain = |text: &str| text.replace('|', "\\|").replace('\n', "<br>");
    let header: Vec<String> = header.iter().map(|text| text.to_string()).collect();
    let mut text = format!("\n{}|{}\n", line(&header), " --- |".repeat(header.len()));
    for row in rows {
        let row: Vec<String> = row.iter().map(|cell| plain(cell)).collect();
        text += &line(&row);
    }
    text
}

fn list(values: &[u64]) -> String {
    let values: Vec<String> = values.iter().map(u64::to_string).collect();
    values.join(", ")
}
