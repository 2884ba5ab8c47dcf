//! Question and SQL pairs about one database.
//!
//! A [`Kind`] is one shape of query. Its function draws tables, columns and values, and gives a
//! [`Draft`], or nothing where the draw does not fit. [`ask`] keeps the drafts that are good: the
//! SQL runs, its result says something, and the order that it asks for has no ties.

mod aggregate;
mod asker;
mod bound;
mod condition;
mod filter;
mod group;
mod join;
mod join_group;
mod nested;
mod order;
mod select;
mod set;

use std::collections::HashSet;

use anyhow::{Result, ensure};
use rusqlite::types::Value;

use super::database::Database;
use super::rng::Rng;
use asker::{Asker, Draft};

/// One shape of query.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What it is called in the statistics.
    pub name: &'static str,
    ask: fn(&mut Asker<'_>) -> Option<Draft>,
}

/// A row of the data set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Question {
    /// Which kind of query it is; not part of the data set.
    #[serde(skip)]
    pub kind: &'static str,
    /// The database.
    pub db_id: String,
    /// CREATE TABLE of the tables and columns that the answer needs.
    pub context: String,
    /// The question in English.
    pub question: String,
    /// The SQL that answers it.
    pub answer: String,
}

/// How often a kind may draw before it counts as not fitting the database.
const DRAWS: usize = 40;

/// Every kind of query there is.
pub fn kinds() -> impl Iterator<Item = Kind> {
    [
        select::KINDS,
        filter::KINDS,
        order::KINDS,
        aggregate::KINDS,
        group::KINDS,
        join::KINDS,
        join_group::KINDS,
        nested::KINDS,
        set::KINDS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// `wanted` questions about `database`, each of another kind while kinds last, and none that is
/// in `seen`, which they are added to.
///
/// # Errors
/// If an answer does not run, or so many questions cannot be found.
pub fn ask(
    database: &Database,
    seed: u64,
    wanted: usize,
    seen: &mut HashSet<String>,
) -> Result<Vec<Question>> {
    let rng = Rng::named(seed, &format!("{} questions", database.domain.id));
    let mut asker = Asker { database, rng };
    let mut order: Vec<Kind> = kinds().collect();
    asker.rng.shuffle(&mut order);
    let mut questions = Vec::with_capacity(wanted);
    // Twice: kinds that fit come again if too many others do not.
    for kind in order.iter().chain(&order) {
        if questions.len() < wanted
            && let Some(draft) = draw(&mut asker, *kind, seen)?
        {
            questions.push(question(database, *kind, draft));
        }
    }
    let found = questions.len();
    ensure!(
        found == wanted,
        "only {found} of {wanted} questions about `{}`",
        database.domain.id
    );
    Ok(questions)
}

fn draw(asker: &mut Asker<'_>, kind: Kind, seen: &mut HashSet<String>) -> Result<Option<Draft>> {
    for _ in 0..DRAWS {
        if let Some(draft) = (kind.ask)(asker)
            && !seen.contains(&draft.question)
            && is_good(asker.database, &draft)?
        {
            seen.insert(draft.question.clone());
            return Ok(Some(draft));
        }
    }
    Ok(None)
}

fn question(database: &Database, kind: Kind, draft: Draft) -> Question {
    Question {
        kind: kind.name,
        db_id: database.domain.id.clone(),
        context: draft.context,
        question: draft.question,
        answer: draft.answer,
    }
}

fn is_good(database: &Database, draft: &Draft) -> Result<bool> {
    let rows = database.query(&draft.answer)?;
    let says_nothing = |value: &Value| matches!(value, Value::Null | Value::Integer(0));
    let empty = rows.is_empty() || (rows.len() == 1 && rows[0].iter().all(says_nothing));
    if empty {
        return Ok(false);
    }
    let Some(query) = &draft.untied else {
        return Ok(true);
    };
    let keys = database.query(query)?;
    let different: HashSet<String> = keys.iter().map(|row| format!("{:?}", row[0])).collect();
    Ok(different.len() == keys.len())
}
