//! The numbers of the accuracy chart as a Markdown table, which also reads well as plain text.

use crate::arms::{Arms, percent, prompt_label};
use crate::runs::Run;

/// A row for each evaluation.
pub(crate) fn accuracy_table(runs: &[Run]) -> String {
    let header = [
        "prompt",
        "adapter",
        "correct",
        "accuracy",
        "95 % interval",
        "strict",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    let arms = Arms::of(runs);
    for &examples in &arms.prompts {
        for series in &arms.series {
            let Some(evaluation) = series.with_examples(examples) else {
                continue;
            };
            let scores = &evaluation.scores;
            let strict = scores.metrics.get(&format!("{}_strict", scores.metric));
            let strict = strict.copied().flatten();
            rows.push([
                prompt_label(examples),
                series.label.clone(),
                format!("{} of {}", scores.correct, scores.total),
                percent(scores.accuracy),
                format!("{} to {}", percent(scores.ci95[0]), percent(scores.ci95[1])),
                strict.map_or_else(|| "-".to_owned(), percent),
            ]);
        }
    }
    let mut text = markdown(&rows);
    if runs.iter().any(Run::is_synthetic) {
        text.push_str("\nSynthetic data: these figures say that the pieces work, and no more.\n");
    }
    text
}

/// The first two columns are text, the others numbers.
fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let cell = if column < 2 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            };
            text.push_str(&format!("| {cell} "));
        }
        text.push_str("|\n");
        if i == 0 {
            for column in 0..N {
                let dashes = "-".repeat(width(column));
                text.push_str(&if column < 2 {
                    format!("|-{dashes}-")
                } else {
                    format!("|-{dashes}:")
                });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::read_runs;
    use crate::samples::write_experiment;

    #[test]
    fn the_table_has_every_evaluation() {
        let folder = tempfile::tempdir().unwrap();
        let runs = read_runs(&write_experiment(folder.path(), true)).unwrap();
        insta::assert_snapshot!(accuracy_table(&runs));
    }
}
