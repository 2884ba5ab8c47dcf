//! Validation while `train` runs: which rows, and the task's own metric on them.

use std::error::Error;

use rag_tune_augment::{AugmentedRow, Task, read_augmented};
use rag_tune_eval::EvalConfig;
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::tokenizer::Tokenizer;
use rag_tune_train::config::ValidationMetric;
use rag_tune_train::validation::{Measured, Validate, ValidationLoss, spread_rows};

use crate::augmentation::Augmentation;
use crate::config::RunConfig;
use crate::encoding::{encode, ends};
use crate::evaluation::Questions;
use crate::output::Output;
use crate::sample::truncations;

/// What is judged, found and checked before any weights are loaded.
pub enum Prepared {
    /// Rows whose loss is measured.
    Loss(Vec<AugmentedRow>),
    /// Questions that are answered and scored.
    Task(Questions),
}

impl Prepared {
    /// The rows of the config's validation, from files that are there already; `None` where it is off.
    ///
    /// # Errors
    /// When a database is missing, or the split has no row.
    pub fn find(
        config: &RunConfig,
        task: &Task,
        augmentation: &Augmentation<'_>,
        out: &Output,
    ) -> anyhow::Result<Option<Self>> {
        let validation = &config.validation;
        if !validation.is_on() {
            return Ok(None);
        }
        let split = config.validation_split();
        if split == config.eval.split {
            out.note(&format!(
                "note: validation looks at rows of `{split}`, which the final score uses too, so what it chooses is \
                 a little too good there; rows of their own: validation.split, with a file in data.files"
            ));
        }
        let mut rows = read_augmented(&augmentation.file(split))?;
        let mut chosen = spread_rows(rows.len(), validation.rows, config.seed).into_iter();
        let mut next = chosen.next();
        let mut index = 0;
        rows.retain(|_| {
            let is_chosen = next == Some(index);
            if is_chosen {
                next = chosen.next();
            }
            index += 1;
            is_chosen
        });
        anyhow::ensure!(
            !rows.is_empty(),
            "the split `{split}` has no row to validate on"
        );
        Ok(Some(match validation.metric {
            ValidationMetric::Loss => Self::Loss(rows),
            ValidationMetric::Task => Self::Task(Questions::new(rows, task, &config.eval)?),
        }))
    }

    /// The judge of these rows.
    ///
    /// # Errors
    /// When the rows cannot be tokenised or none is short enough.
    pub fn judge<'a>(
        self,
        config: &'a RunConfig,
        model: &'a Llama,
        tokenizer: &'a Tokenizer,
        out: &'a Output,
    ) -> anyhow::Result<Box<dyn Validate + 'a>> {
        match self {
            Self::Loss(rows) => {
                let rows = rows
                    .iter()
                    .map(|row| encode(row, tokenizer))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                let loss = ValidationLoss::new(model, &rows, ends(tokenizer), &config.train)?;
                for note in truncations(&loss.summary()) {
                    out.note(&format!("validation: {note}"));
                }
                Ok(Box::new(loss))
            }
            Self::Task(questions) => Ok(Box::new(TaskScore {
                metric: questions.metric().to_owned(),
                questions,
                limits: &config.eval,
                model,
                tokenizer,
                out,
            })),
        }
    }
}

/// Answers questions with the adapter and scores them, as `rag-tune eval` does.
struct TaskScore<'a> {
    metric: String,
    questions: Questions,
    limits: &'a EvalConfig,
    model: &'a Llama,
    tokenizer: &'a Tokenizer,
    out: &'a Output,
}

impl Validate for TaskScore<'_> {
    fn metric(&self) -> &str {
        &self.metric
    }

    fn rows(&self) -> usize {
        self.questions.rows().len()
    }

    fn validate(&mut self, adapter: &Adapter) -> Result<Measured, Box<dyn Error + Send + Sync>> {
        let predictions = self.questions.answer(
            self.limits,
            self.model,
            Some(adapter),
            self.tokenizer,
            ("answering, validation", self.out),
        )?;
        let (report, _) = self.questions.score(&predictions, None, self.out)?;
        Ok(Measured {
            value: report.accuracy,
            ci95: Some([report.ci95.lo, report.ci95.hi]),
        })
    }

    fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        update(&(self.limits.max_new_tokens as u64).to_le_bytes());
        for row in self.questions.rows() {
            update(&(row.full_prompt.len() as u64).to_le_bytes());
            update(row.full_prompt.as_bytes());
            update(row.inference_prompt.as_bytes());
        }
    }
}
