//! Answers and scores of one model, with or without an adapter, on the rows of a split.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rag_tune_augment::{
    AugmentSettings, AugmentedRow, Hub, Manifest, RetrievalRecord, Task, read_augmented,
};
use rag_tune_eval::sql::DatabaseSource;
use rag_tune_eval::{
    Answer, Arm, EvalConfig, RowScore, RunInfo, ScoreReport, Scorer, save_answers,
};
use rag_tune_model::generate::{Event, GenerateOptions, Sampling, generate};
use rag_tune_model::llama::Llama;
use rag_tune_model::lora::Adapter;
use rag_tune_model::tokenizer::Tokenizer;
use serde_json::json;

use crate::augmentation::Augmentation;
use crate::config::RunConfig;
use crate::encoding::question;
use crate::output::Output;
use crate::run_folder::RunFolder;
use crate::scoring::{databases, scorer};
use crate::synthetic;

/// What is to be scored, and where the result goes.
#[derive(Debug)]
pub struct Evaluation {
    /// Data, retrieval, limits.
    pub config: RunConfig,
    /// Name of the run, for tables and charts.
    pub run: String,
    /// The adapter's folder, and how many examples its prompts had in training.
    pub adapter: Option<TrainedAdapter>,
    /// Folder of `predictions.jsonl` and `scores.json`.
    pub folder: PathBuf,
}

/// An adapter on disk.
#[derive(Debug, Clone)]
pub struct TrainedAdapter {
    /// Its run.
    pub run: RunFolder,
    /// How the prompts that it was trained with were made.
    pub record: RetrievalRecord,
}

/// The rows of an evaluation, checked before any weights are loaded.
pub struct Questions {
    rows: Vec<AugmentedRow>,
    scorer: Box<dyn Scorer>,
    /// The text at which an answer ends, if any.
    stop: Option<String>,
}

impl Evaluation {
    /// The evaluation's own name, below the run's.
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The prompts and gold answers, augmented first if needed. `made` is a folder that may hold
    /// them already.
    ///
    /// # Errors
    /// When the data, an embedder or a database is missing.
    pub fn questions(&self, made: &Path, hub: &Hub, out: &Output) -> anyhow::Result<Questions> {
        let splits = [self.config.eval.split.as_str()];
        let own = self.folder.join("augmented");
        // An adapter brings its task along: the file that described it may be gone.
        let task = match &self.adapter {
            Some(adapter) => adapter.record.settings.task.clone(),
            None => self.config.task.load()?,
        };
        let databases = databases(&task, self.config.eval.databases.as_deref())?;
        let in_folder = |folder| Augmentation {
            config: &self.config,
            task: &task,
            splits: &splits,
            folder,
        };
        let augmentation = if in_folder(made).is_current(hub)? {
            in_folder(made)
        } else {
            in_folder(&own)
        };
        augmentation.ensure(hub, out)?;
        self.note_other_prompts(augmentation.folder, out)?;
        let mut rows = read_augmented(&augmentation.file(splits[0]))?;
        rows.truncate(self.config.eval.limit.unwrap_or(usize::MAX));
        Questions::on(databases, rows, &task)
    }

    /// Answers the questions, scores the answers, and writes both.
    ///
    /// # Errors
    /// When generation fails, or the files cannot be written.
    pub fn run(
        &self,
        questions: &Questions,
        model: &Llama,
        adapter: Option<&Adapter>,
        tokenizer: &Tokenizer,
        out: &Output,
    ) -> anyhow::Result<ScoreReport> {
        let label = format!("answering, {}", self.run);
        let (limits, shown) = (&self.config.eval, (label.as_str(), out));
        let predictions = questions.answer(limits, model, adapter, tokenizer, shown)?;
        let (report, scores) = questions.score(&predictions, Some(self.run_info()), out)?;
        let answers = answers(questions, predictions, scores);
        save_answers(&self.folder.join("predictions.jsonl"), &answers)?;
        report.save(&self.folder.join("scores.json"))?;
        Ok(report)
    }

    /// Prompts made from something else than in training are allowed, and worth knowing.
    fn note_other_prompts(&self, augmented: &Path, out: &Output) -> anyhow::Result<()> {
        let (Some(adapter), Some(manifest)) = (&self.adapter, Manifest::load(augmented)?) else {
            return Ok(());
        };
        for what in changed_since_training(&adapter.record.settings, &manifest.settings) {
            let run = &self.run;
            out.note(&format!(
                "note: the {what} of the prompts changed since `{run}` was trained"
            ));
        }
        Ok(())
    }

    fn run_info(&self) -> RunInfo {
        let config = &self.config;
        RunInfo {
            name: self.run.clone(),
            arm: Arm::from_examples(
                self.adapter
                    .as_ref()
                    .map(|adapter| adapter.record.settings.retrieval.examples),
                config.retrieval.examples,
            ),
            adapter: self
                .adapter
                .as_ref()
                .map(|adapter| adapter.run.path().to_owned()),
            base: config.model.base.clone(),
            examples: config.retrieval.examples,
            selector: config.retrieval.selector.name().to_owned(),
            data: config.data.source.clone(),
            split: config.eval.split.clone(),
            seed: config.seed,
            synthetic: synthetic::is_synthetic(Path::new(&config.data.source)),
            rag_tune_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Questions {
    /// Rows with their gold answers and what scores them.
    ///
    /// # Errors
    /// When a database is missing, or a row lacks a column.
    pub fn new(rows: Vec<AugmentedRow>, task: &Task, eval: &EvalConfig) -> anyhow::Result<Self> {
        Self::on(databases(task, eval.databases.as_deref())?, rows, task)
    }

    fn on(
        databases: Option<DatabaseSource>,
        rows: Vec<AugmentedRow>,
        task: &Task,
    ) -> anyhow::Result<Self> {
        let scorer = scorer(task, rows.iter().map(|row| &row.fields), databases)?;
        scorer.prepare()?;
        Ok(Self {
            rows,
            scorer,
            stop: Some(task.stop.clone()).filter(|stop| !stop.is_empty()),
        })
    }

    /// The rows.
    pub fn rows(&self) -> &[AugmentedRow] {
        &self.rows
    }

    /// Name of the main metric.
    pub fn metric(&self) -> &str {
        self.scorer.metrics()[0]
    }

    /// Answers in the order of the rows; `shown` is the progress bar's text, and where it is.
    ///
    /// # Errors
    /// When generation fails.
    pub fn answer(
        &self,
        limits: &EvalConfig,
        model: &Llama,
        adapter: Option<&Adapter>,
        tokenizer: &Tokenizer,
        (label, out): (&str, &Output),
    ) -> anyhow::Result<Vec<String>> {
        let prompts = self
            .rows
            .iter()
            .map(|row| tokenizer.encode(&question(row)))
            .collect::<Result<Vec<_>, _>>()?;
        let options = GenerateOptions {
            max_new_tokens: limits.max_new_tokens,
            batch_size: limits.batch_size,
            stop_texts: self.stop.iter().cloned().collect(),
            sampling: Sampling::Greedy,
        };
        let progress = out.progress();
        progress.start(label, prompts.len() as u64);
        let answers = generate(
            model,
            adapter,
            tokenizer,
            &prompts,
            &options,
            &mut |event| {
                if let Event::Done { .. } = event {
                    progress.advance(1);
                }
            },
        );
        progress.finish();
        let generation = answers.context("cannot generate the answers")?;
        Ok(generation
            .answers
            .iter()
            .map(|answer| before_stop(answer, self.stop.as_deref()).to_owned())
            .collect())
    }

    /// Scores the answers.
    ///
    /// # Errors
    /// When they cannot be judged.
    pub fn score(
        &self,
        predictions: &[String],
        run: Option<RunInfo>,
        out: &Output,
    ) -> anyhow::Result<(ScoreReport, Vec<RowScore>)> {
        let progress = out.progress();
        progress.start("scoring", predictions.len() as u64);
        let scored = self.scorer.score(predictions, &|| progress.advance(1));
        progress.finish();
        let scores = scored?;
        Ok((ScoreReport::new(&*self.scorer, &scores, run), scores))
    }
}

/// What prompts are made from now that they were not made from in training.
pub fn changed_since_training(
    trained: &AugmentSettings,
    asked: &AugmentSettings,
) -> Vec<&'static str> {
    let mut differences = Vec::new();
    if trained.template_sha256 != asked.template_sha256 {
        differences.push("template");
    }
    for (what, trained, asked) in [
        ("embedder", &trained.embedder_sha256, &asked.embedder_sha256),
        (
            "training rows",
            &trained.knowledge_base_sha256,
            &asked.knowledge_base_sha256,
        ),
    ] {
        // Zero-shot prompts have neither.
        if trained.is_some() && asked.is_some() && trained != asked {
            differences.push(what);
        }
    }
    differences
}

/// An answer up to the text that ends it.
fn before_stop<'a>(answer: &'a str, stop: Option<&str>) -> &'a str {
    let end = stop.and_then(|stop| answer.find(stop));
    answer[..end.unwrap_or(answer.len())].trim()
}

/// What is kept of each row.
fn answers(questions: &Questions, predictions: Vec<String>, scores: Vec<RowScore>) -> Vec<Answer> {
    let rows = questions.rows.iter().zip(predictions).zip(scores);
    rows.map(|((row, prediction), score)| Answer {
        gold: questions.scorer.gold(score.index).to_owned(),
        prediction,
        inference_prompt: Some(row.inference_prompt.clone()),
        examples: row.examples.iter().map(|example| json!(example)).collect(),
        score,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_at_its_stop() {
        assert_eq!(before_stop(" SELECT 1\n###", Some("\n")), "SELECT 1");
        assert_eq!(before_stop("1 + 1\n#### 2\n", None), "1 + 1\n#### 2");
    }
}
