//! From a task to the scorer of its rows.

use std::path::Path;

use anyhow::Context;
use rag_tune_augment::{Scoring, Task};
use rag_tune_eval::functional::FunctionalScorer;
use rag_tune_eval::sql::{Databases, QueryLimits, SqlCase, SqlJudge, SqlScorer};
use rag_tune_eval::{EvalError, ExactScorer, Gsm8kScorer, Scorer};
use serde_json::{Map, Value};

use crate::commands::sandbox;

/// The columns that scoring needs, beside the answer.
pub fn columns(task: &Task) -> &'static [&'static str] {
    match task.scoring {
        Scoring::Sql => &["db_id"],
        Scoring::Exact | Scoring::Gsm8k | Scoring::Functional => &[],
    }
}

/// The databases, for a task that runs queries.
///
/// # Errors
/// When they are not named, or not there.
pub fn databases(task: &Task, folder: Option<&Path>) -> Result<Option<Databases>, EvalError> {
    match task.scoring {
        Scoring::Sql => Databases::locate(folder, None).map(Some),
        Scoring::Exact | Scoring::Gsm8k | Scoring::Functional => Ok(None),
    }
}

/// The scorer of `rows`, each given by its fields, with what [`databases`] found.
///
/// # Errors
/// When a row lacks a column, or its database is missing.
pub fn scorer<'a>(
    task: &Task,
    rows: impl Iterator<Item = &'a Map<String, Value>>,
    databases: Option<Databases>,
) -> anyhow::Result<Box<dyn Scorer>> {
    let text = |row: &Map<String, Value>, field: &str| -> anyhow::Result<String> {
        let value = row.get(field).and_then(Value::as_str);
        Ok(value
            .with_context(|| format!("a row has no text `{field}`"))?
            .to_owned())
    };
    let gold = |row: &Map<String, Value>| text(row, &task.answer_column);
    Ok(match task.scoring {
        Scoring::Sql => {
            let databases = databases.ok_or(EvalError::DatabasesNotSet)?;
            let cases = rows.enumerate().map(|(i, row)| {
                let db_id = text(row, "db_id")?;
                Ok(SqlCase {
                    gold: gold(row)?,
                    databases: databases.files(i, &db_id)?,
                    db_id,
                })
            });
            let cases = cases.collect::<anyhow::Result<_>>()?;
            let judge = SqlJudge::new(sandbox()?, QueryLimits::default());
            Box::new(SqlScorer::new(judge, cases))
        }
        Scoring::Gsm8k => Box::new(Gsm8kScorer::new(
            rows.map(gold).collect::<anyhow::Result<_>>()?,
        )),
        Scoring::Functional => {
            let gold = rows.map(gold).collect::<anyhow::Result<_>>()?;
            Box::new(FunctionalScorer::new(gold))
        }
        Scoring::Exact => {
            let gold = rows.map(gold).collect::<anyhow::Result<_>>()?;
            Box::new(ExactScorer::new(task.name.clone(), gold))
        }
    })
}
