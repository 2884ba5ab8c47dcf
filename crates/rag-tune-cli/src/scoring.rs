//! From a task to the scorer of its rows.

use std::path::Path;

use anyhow::Context;
use rag_tune_augment::{Scoring, Task};
use rag_tune_eval::sql::{
    DatabaseSource, QueryLimits, SqlCase, SqlJudge, SqlScorer, SyntheticCase, SyntheticDatabases,
};
use rag_tune_eval::{EvalError, Scorer, TextScorer};
use serde_json::{Map, Value};

use crate::commands::sandbox;

/// Synthetic databases are the same for every run, so that runs can be compared.
const SYNTHETIC_SEED: u64 = 0;

/// The columns that scoring needs, beside the answer, with what [`databases`] found.
pub fn columns(databases: Option<&DatabaseSource>) -> &'static [&'static str] {
    match databases {
        Some(DatabaseSource::Folder(_)) => &["db_id"],
        Some(DatabaseSource::Synthetic) => &["context"],
        None => &[],
    }
}

/// The databases, for a task that runs queries.
///
/// # Errors
/// When they are not named, or not there.
pub fn databases(task: &Task, named: Option<&Path>) -> Result<Option<DatabaseSource>, EvalError> {
    match task.scoring {
        Scoring::Sql => DatabaseSource::locate(named, None).map(Some),
        Scoring::Exact | Scoring::Gsm8k | Scoring::Functional => Ok(None),
    }
}

/// The scorer of `rows`, each given by its fields, with what [`databases`] found.
///
/// # Errors
/// When a row lacks a column, its database is missing, or none can be made for it.
pub fn scorer<'a>(
    task: &Task,
    rows: impl Iterator<Item = &'a Map<String, Value>>,
    databases: Option<DatabaseSource>,
) -> anyhow::Result<Box<dyn Scorer>> {
    let text = |row: &Map<String, Value>, field: &str| -> anyhow::Result<String> {
        let value = row.get(field).and_then(Value::as_str);
        Ok(value
            .with_context(|| format!("a row has no text `{field}`"))?
            .to_owned())
    };
    let rows: Vec<(&Map<String, Value>, String)> = rows
        .map(|row| Ok((row, text(row, &task.answer_column)?)))
        .collect::<anyhow::Result<_>>()?;
    let all_gold = |rows: Vec<(_, String)>| rows.into_iter().map(|(_, gold)| gold).collect();
    Ok(match task.scoring {
        Scoring::Sql => {
            let judge = SqlJudge::new(sandbox()?, QueryLimits::default());
            match databases.ok_or(EvalError::DatabasesNotSet)? {
                DatabaseSource::Folder(folder) => {
                    let cases = rows.into_iter().enumerate().map(|(i, (row, gold))| {
                        let db_id = text(row, "db_id")?;
                        Ok(SqlCase {
                            gold,
                            databases: folder.files(i, &db_id)?,
                            db_id,
                        })
                    });
                    let cases = cases.collect::<anyhow::Result<_>>()?;
                    Box::new(SqlScorer::new(judge, cases))
                }
                DatabaseSource::Synthetic => Box::new(on_synthetic(judge, &rows)?),
            }
        }
        Scoring::Gsm8k => Box::new(TextScorer::gsm8k(all_gold(rows))),
        Scoring::Functional => Box::new(TextScorer::functional(all_gold(rows))),
        Scoring::Exact => Box::new(TextScorer::exact(task.name.clone(), all_gold(rows))),
    })
}

/// The scorer of `rows`, each with its gold query, on databases made from their schemas.
fn on_synthetic(
    judge: SqlJudge,
    rows: &[(&Map<String, Value>, String)],
) -> anyhow::Result<SqlScorer> {
    let schemas = rows.iter().map(|(row, gold)| {
        let context = row.get("context").and_then(Value::as_str);
        let context = context.with_context(
            || "a row has no text `context`, from which --databases synthetic makes databases",
        )?;
        Ok(SyntheticCase { context, gold })
    });
    let schemas: Vec<SyntheticCase> = schemas.collect::<anyhow::Result<_>>()?;
    let made = SyntheticDatabases::build(&schemas, SyntheticDatabases::PER_ROW, SYNTHETIC_SEED)?;
    let cases = rows.iter().enumerate().map(|(i, (row, gold))| SqlCase {
        db_id: row
            .get("db_id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        gold: gold.clone(),
        databases: made.files(i).to_vec(),
    });
    Ok(SqlScorer::on_synthetic(judge, cases.collect(), made))
}
