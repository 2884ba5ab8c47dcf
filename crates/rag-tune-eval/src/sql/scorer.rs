//! Text to SQL as a [`Scorer`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::judge::{SqlCase, SqlJudge};
use super::structure::{Query, Schema, exact_set_match, hardness, parse};
use super::synthetic::SyntheticDatabases;
use crate::error::EvalError;
use crate::rows::{RowScore, Share};
use crate::scorer::Scorer;

/// Class of the rows whose gold query Spider's grammar does not read.
const UNKNOWN_HARDNESS: &str = "unknown";

/// Scores queries by what they return, and by their clauses.
#[derive(Debug)]
pub struct SqlScorer {
    judge: SqlJudge,
    cases: Vec<SqlCase>,
    /// By row; read when it is first needed.
    structures: OnceLock<Vec<Structure>>,
    /// Keeps the files, where they are made up.
    synthetic: Option<SyntheticDatabases>,
}

/// What the clauses of a row's predictions are compared with.
#[derive(Debug)]
struct Structure {
    schema: Arc<Schema>,
    /// The gold query; none where the grammar does not read it.
    gold: Option<Query>,
}

impl Structure {
    /// Reads each schema once; that of a row is in the first of its databases.
    fn of_cases(cases: &[SqlCase]) -> Result<Vec<Self>, EvalError> {
        let mut schemas: HashMap<&Path, Arc<Schema>> = HashMap::new();
        let mut structures = Vec::with_capacity(cases.len());
        for case in cases {
            let path = case.databases[0].as_path();
            let schema = match schemas.get(path) {
                Some(schema) => Arc::clone(schema),
                None => Arc::new(Schema::read(path)?),
            };
            schemas.insert(path, Arc::clone(&schema));
            let gold = parse(&case.gold, &schema).ok();
            structures.push(Self { schema, gold });
        }
        Ok(structures)
    }

    /// A prediction that the grammar does not read matches nothing; where it does not read gold, nothing is compared.
    fn exact_set_match(&self, prediction: &str) -> Share {
        match &self.gold {
            None => Share::count(0, 0),
            Some(gold) => Share::of(
                parse(prediction, &self.schema)
                    .is_ok_and(|prediction| exact_set_match(gold, &prediction, &self.schema)),
            ),
        }
    }

    fn class(&self) -> &'static str {
        let gold = self.gold.as_ref();
        gold.map_or(UNKNOWN_HARDNESS, |gold| hardness(gold).name())
    }
}

impl SqlScorer {
    /// A scorer of these rows.
    pub fn new(judge: SqlJudge, cases: Vec<SqlCase>) -> Self {
        Self {
            judge,
            cases,
            structures: OnceLock::new(),
            synthetic: None,
        }
    }

    /// A scorer of these rows, whose databases are those of `synthetic`.
    pub fn on_synthetic(
        judge: SqlJudge,
        cases: Vec<SqlCase>,
        synthetic: SyntheticDatabases,
    ) -> Self {
        Self {
            synthetic: Some(synthetic),
            ..Self::new(judge, cases)
        }
    }

    fn structures(&self) -> Result<&[Structure], EvalError> {
        if let Some(structures) = self.structures.get() {
            return Ok(structures);
        }
        let structures = Structure::of_cases(&self.cases)?;
        Ok(self.structures.get_or_init(|| structures))
    }
}

impl Scorer for SqlScorer {
    fn task(&self) -> &str {
        "sql"
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["execution", "execution_strict", "exact_set_match"]
    }

    fn rows(&self) -> usize {
        self.cases.len()
    }

    fn gold(&self, row: usize) -> &str {
        &self.cases[row].gold
    }

    fn notes(&self) -> Vec<String> {
        let structures = self.structures.get().map_or(&[][..], Vec::as_slice);
        let unread = structures.iter().filter(|it| it.gold.is_none()).count();
        let note = (unread > 0).then(|| {
            format!(
                "exact_set_match and hardness leave out {unread} of {} rows: Spider's grammar does not read their gold query",
                structures.len()
            )
        });
        let synthetic = self.synthetic.as_ref();
        let synthetic = synthetic.map_or_else(Vec::new, SyntheticDatabases::notes);
        synthetic.into_iter().chain(note).collect()
    }

    fn prepare(&self) -> Result<(), EvalError> {
        // Finds a damaged database, and a worker that does not start.
        self.structures()?;
        let gold: Vec<String> = self.cases.iter().map(|case| case.gold.clone()).collect();
        self.judge.judge(&self.cases, &gold, &|| ())?;
        Ok(())
    }

    fn score(
        &self,
        predictions: &[String],
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<RowScore>, EvalError> {
        let structures = self.structures()?;
        let scores = self.judge.judge(&self.cases, predictions, on_row)?;
        let with_structure = |score: RowScore| {
            let structure = &structures[score.index];
            let share = structure.exact_set_match(&predictions[score.index]);
            RowScore {
                class: Some(structure.class().to_owned()),
                ..score.with("exact_set_match", share)
            }
        };
        Ok(scores.into_iter().map(with_structure).collect())
    }
}
