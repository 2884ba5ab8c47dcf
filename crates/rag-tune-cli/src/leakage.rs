//! The leakage report as people read it.

use rag_tune_augment::LeakageReport;
use rag_tune_augment::leakage::{Distribution, SplitLeakage};

use crate::output::table;

/// Each split's figures as columns of a table, and the likest pairs below it.
pub fn in_words(report: &LeakageReport) -> String {
    let names: Vec<&str> = report.splits.keys().map(String::as_str).collect();
    let mut header = vec![""];
    header.extend(&names);
    let splits: Vec<&SplitLeakage> = report.splits.values().collect();
    let near = report.near_threshold;
    let mut rows = Vec::new();
    let mut line = |what: String, of: &dyn Fn(&SplitLeakage) -> String| {
        let mut row = vec![what];
        row.extend(splits.iter().map(|split| of(split)));
        rows.push(row);
    };
    line("rows".into(), &|split| split.rows.to_string());
    line("question is a training question".into(), &|split| {
        share(split.equal_questions, split.rows)
    });
    line(
        "question and answer are a training row's".into(),
        &|split| or_dash(split.equal_rows.map(|rows| share(rows, split.rows))),
    );
    line(
        format!("question shares {:.0} % of its words", 100.0 * near),
        &|split| or_dash(split.near_questions.map(|rows| share(rows, split.rows))),
    );
    for column in columns(&splits) {
        line(format!("values of `{column}` shared"), &|split| {
            let overlap = split.columns.get(&column);
            or_dash(overlap.map(|o| format!("{} of {}", o.shared, o.split_values)))
        });
    }
    line("prompts with examples".into(), &|split| {
        share(split.with_examples, split.rows)
    });
    line("an example's answer is the row's".into(), &|split| {
        share(split.example_answers_it, split.with_examples)
    });
    line(
        "an example's question is nearly the row's".into(),
        &|split| share(split.near_examples, split.with_examples),
    );
    line("best example's score: 5 %".into(), &|split| {
        quantile(split, |d| d.p05)
    });
    line("  25 %".into(), &|split| quantile(split, |d| d.p25));
    line("  median".into(), &|split| quantile(split, |d| d.median));
    line("  75 %".into(), &|split| quantile(split, |d| d.p75));
    line("  95 %".into(), &|split| quantile(split, |d| d.p95));
    table(&header, &rows) + &pairs(report)
}

/// The compared columns, each once.
fn columns(splits: &[&SplitLeakage]) -> Vec<String> {
    let mut columns: Vec<String> = splits
        .iter()
        .flat_map(|split| split.columns.keys().cloned())
        .collect();
    columns.sort();
    columns.dedup();
    columns
}

fn pairs(report: &LeakageReport) -> String {
    let mut text = String::new();
    for (name, split) in &report.splits {
        for pair in &split.near_pairs {
            text += &format!(
                "\n{name} {} and {} {} ({:.0} % of the words):\n  {}\n  {}\n",
                pair.row,
                report.train_split,
                pair.train_row,
                100.0 * pair.likeness,
                pair.question,
                pair.train_question
            );
        }
    }
    text
}

fn share(part: usize, whole: usize) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{part} ({:.1} %)", 100.0 * part as f64 / whole as f64),
    }
}

fn quantile(split: &SplitLeakage, of: impl Fn(&Distribution) -> f32) -> String {
    or_dash(
        split
            .scores
            .as_ref()
            .map(|scores| format!("{:.3}", of(scores))),
    )
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}
