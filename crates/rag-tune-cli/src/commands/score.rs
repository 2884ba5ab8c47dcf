//! `rag-tune score`: predictions that are already there.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::{TaskName, read_jsonl};
use rag_tune_eval::{Answer, RowScore, ScoreReport, Scorer, read_predictions, save_answers};

use crate::output::{Output, table};
use crate::scoring::{columns, databases, scorer};
use crate::synthetic;

/// Score predictions from any program
///
/// sql: a prediction is right when its query returns what the gold query returns: the same rows, in any order unless the
/// gold query sorts, columns in any order. `execution` leaves DISTINCT out of both queries, `execution_strict` does not.
/// `exact_set_match` compares the clauses as Spider does, without values; classes are Spider's hardness of the gold query.
///
/// gsm8k: an answer is right when the number behind its first `#### ` is the gold one (`strict`). `flexible` takes the last
/// number of the answer, `calculator` is the share of its calculations `<<48+24=72>>` that are right.
///
/// functional: a meaning is right when function, attributes and values are the gold ones, in any order
/// (`exact_order_free`). `exact_line` compares the text, `attribute_f1` counts pairs of attribute and value, and
/// `character` is the original experiment's character accuracy.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rag-tune score --task sql --data data.jsonl --predictions answers.txt --databases spider"
)]
pub struct ScoreArgs {
    /// What was predicted: sql, gsm8k, functional, or the path of a task file
    #[arg(long)]
    task: String,
    /// JSON lines with the gold answer of each row; for sql also its `db_id`, or its `context` for synthetic databases
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// JSON lines with a `prediction`, or plain text with one prediction a line, in the order of the data
    ///
    /// A prediction of several lines needs JSON lines, or a space in the place of each line end.
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Folder of DB_ID/DB_ID.sqlite, or "synthetic" to make databases from each row's `context`
    /// [also: RAG_TUNE_DATABASES]
    #[arg(long, value_name = "DIR")]
    databases: Option<PathBuf>,
    /// Print the score as one JSON object
    #[arg(long)]
    json: bool,
    /// Also write one JSON line a row: prediction, gold, whether it is correct, and why not
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
}

/// Runs the command.
pub fn score(args: &ScoreArgs, out: &mut Output) -> anyhow::Result<()> {
    let task = TaskName::new(&args.task).load()?;
    let databases = databases(&task, args.databases.as_deref())?;
    let needed = [&[task.answer_column.as_str()], columns(databases.as_ref())].concat();
    let rows = read_jsonl(&args.data, &needed).context("cannot read the data")?;
    let predictions =
        read_predictions(&args.predictions, rows.len()).context("cannot read the predictions")?;
    let scorer = scorer(&task, rows.iter().map(|row| &row.fields), databases)?;
    let progress = out.progress();
    progress.start("scoring", rows.len() as u64);
    let scored = scorer.score(&predictions, &|| progress.advance(1));
    progress.finish();
    let scores = scored.context("cannot score the predictions")?;
    let mut report = ScoreReport::new(&*scorer, &scores, None);
    report.synthetic = args.data.parent().is_some_and(synthetic::is_synthetic);
    if let Some(file) = &args.rows {
        save_answers(file, &answers(&*scorer, predictions, scores))?;
    }
    let text = if args.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        as_table(&report)
    };
    out.data(&text)?;
    Ok(())
}

fn answers(scorer: &dyn Scorer, predictions: Vec<String>, scores: Vec<RowScore>) -> Vec<Answer> {
    let rows = predictions.into_iter().zip(scores);
    rows.map(|(prediction, score)| Answer {
        gold: scorer.gold(score.index).to_owned(),
        prediction,
        score,
        inference_prompt: None,
        examples: Vec::new(),
    })
    .collect()
}

fn as_table(report: &ScoreReport) -> String {
    let main = [&report.metric];
    let others = report.metrics.keys().filter(|name| **name != report.metric);
    let rows: Vec<Vec<String>> = main
        .into_iter()
        .chain(others)
        .map(|name| {
            let interval = &report.intervals[name];
            vec![
                name.clone(),
                report.metrics[name].map_or_else(|| "-".to_owned(), percent),
                format!("{} to {}", percent(interval.lo), percent(interval.hi)),
            ]
        })
        .collect();
    let mut text = format!("{} of {} rows are right\n", report.correct, report.total);
    text += &table(&["metric", "value", "95 % interval"], &rows);
    if !report.classes.is_empty() {
        let classes: Vec<Vec<String>> = report
            .classes
            .iter()
            .map(|(name, class)| {
                let (lo, hi) = (percent(class.ci95.lo), percent(class.ci95.hi));
                let counts = format!("{}/{}", class.correct, class.total);
                vec![
                    name.clone(),
                    counts,
                    percent(class.accuracy),
                    format!("{lo} to {hi}"),
                ]
            })
            .collect();
        text += &table(&["class", "correct", "accuracy", "95 % interval"], &classes);
    }
    for (count, what) in [
        (report.prediction_errors, "predictions that are no answer"),
        (report.timeouts, "predictions that ran out of time"),
        (report.gold_errors, "gold answers that are unusable"),
    ] {
        if count > 0 {
            text += &format!("{what}: {count}\n");
        }
    }
    text + &remarks([report].into_iter())
}

/// The metrics beside the main one, in a line.
pub fn further_metrics(report: &ScoreReport) -> String {
    let others = report
        .metrics
        .iter()
        .filter(|(name, _)| **name != report.metric);
    let values: Vec<String> = others
        .map(|(name, value)| format!("{name} {}", value.map_or_else(|| "-".to_owned(), percent)))
        .collect();
    values.join(", ")
}

/// What a reader of these figures must know, each once, a line each.
pub fn remarks<'a>(reports: impl Iterator<Item = &'a ScoreReport>) -> String {
    let mut remarks: Vec<String> = Vec::new();
    for report in reports {
        let synthetic = report.synthetic.then(|| "the data is synthetic".to_owned());
        for remark in report.notes.iter().cloned().chain(synthetic) {
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
    }
    remarks.iter().map(|remark| format!("{remark}\n")).collect()
}

/// A share as people read it.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
