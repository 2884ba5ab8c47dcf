//! `rag-tune score`: predictions that are already there.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::read_jsonl;
use rag_tune_eval::sql::{Databases, QueryLimits, SqlCase, SqlJudge};
use rag_tune_eval::{ScoreReport, read_predictions, save_rows};
use serde_json::json;

use crate::output::{Output, table};
use crate::synthetic;

/// Score predictions from any program against the databases
///
/// A prediction is right when its query returns what the gold query returns: the same rows, in any order unless the
/// gold query sorts, columns in any order. `execution` leaves DISTINCT out of both queries, `execution_strict` does not.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rag-tune score --task sql --data data.jsonl --predictions answers.txt --databases spider"
)]
pub struct ScoreArgs {
    /// What was predicted
    #[arg(long, value_parser = ["sql"])]
    task: String,
    /// JSON lines with the gold `answer` and the `db_id` of each row
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// JSON lines with a `prediction`, or plain text with one prediction a line, in the order of the data
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// Folder of DB_ID/DB_ID.sqlite [also: RAG_TUNE_DATABASES]
    #[arg(long, value_name = "DIR")]
    databases: Option<PathBuf>,
    /// Print the score as one JSON object
    #[arg(long)]
    json: bool,
    /// Also write one JSON line a row: its index, whether it is correct, and why not
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
}

/// Runs the command.
pub fn score(args: &ScoreArgs, out: &mut Output) -> anyhow::Result<()> {
    let rows = read_jsonl(&args.data, &["answer", "db_id"]).context("cannot read the data")?;
    let cases: Vec<SqlCase> = rows
        .iter()
        .map(|row| SqlCase {
            db_id: row.text("db_id").into_owned(),
            gold: row.text("answer").into_owned(),
        })
        .collect();
    let predictions =
        read_predictions(&args.predictions, rows.len()).context("cannot read the predictions")?;
    let databases = Databases::locate(args.databases.as_deref(), None)?;
    let judge = SqlJudge::new(databases, QueryLimits::default());
    let progress = out.progress();
    progress.start("scoring", rows.len() as u64);
    let scored = rag_tune_eval::score(&judge, &cases, &predictions, None, &|| progress.advance(1));
    progress.finish();
    let (report, scores) = scored.context("cannot score the predictions")?;
    if let Some(file) = &args.rows {
        save_rows(file, &scores)?;
    }
    let synthetic = args.data.parent().is_some_and(synthetic::is_synthetic);
    let text = if args.json {
        as_json(&report, synthetic)
    } else {
        as_table(&report, synthetic)
    };
    out.data(&text)?;
    Ok(())
}

fn as_json(report: &ScoreReport, synthetic: bool) -> String {
    let mut score = json!({
        "task": report.task,
        "metric": report.metric,
        "correct": report.correct,
        "total": report.total,
        "accuracy": report.accuracy,
        "ci95": report.ci95,
    });
    if synthetic {
        score["synthetic"] = json!(true);
    }
    format!("{score}\n")
}

fn as_table(report: &ScoreReport, synthetic: bool) -> String {
    let metrics = [
        ("execution", &report.metrics.execution),
        ("execution_strict", &report.metrics.execution_strict),
    ];
    let rows: Vec<Vec<String>> = metrics
        .iter()
        .map(|(name, score)| {
            vec![
                (*name).to_owned(),
                format!("{}/{}", score.correct, score.total),
                percent(score.accuracy),
                format!("{} to {}", percent(score.ci95.lo), percent(score.ci95.hi)),
            ]
        })
        .collect();
    let mut text = table(&["metric", "correct", "accuracy", "95 % interval"], &rows);
    for (count, what) in [
        (report.prediction_errors, "predictions that do not run"),
        (report.timeouts, "predictions that ran out of time"),
        (report.gold_errors, "gold queries that do not run"),
    ] {
        if count > 0 {
            text += &format!("{what}: {count}\n");
        }
    }
    if synthetic {
        text += "the data is synthetic\n";
    }
    text
}

/// A share as people read it.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
