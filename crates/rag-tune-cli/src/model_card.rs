//! The model card, `README.md` beside an adapter: what it is, what it was made from, how good it is.
//!
//! Everything comes from the run folder's own files, so the card can be written again at any time:
//! training writes it, and each evaluation writes it again with its scores. Names of folders on this
//! machine are left out.

use std::path::Path;

use anyhow::Context;
use rag_tune_augment::task::Layout;
use rag_tune_augment::{RetrievalRecord, Selector};
use rag_tune_eval::ScoreReport;
use serde_json::Value;

use crate::base_model::BaseRecord;
use crate::commands::percent;
use crate::files::write_atomically;
use crate::public_name::{is_hub_id, public_name};
use crate::run_folder::RunFolder;
use crate::sample::truncations;
use crate::training_record::TrainingRecord;

/// A card with this line is ours to write again.
const MARKER: &str =
    "<!-- rag-tune writes this file again after each evaluation, unless this line is removed. -->";

/// Writes a run's card, unless somebody has made it their own.
///
/// # Errors
/// When a file of the run is missing or damaged, or the card cannot be written.
pub fn refresh(run: &RunFolder) -> anyhow::Result<()> {
    let path = run.card();
    let is_ours = match std::fs::read_to_string(&path) {
        Ok(text) => text.contains(MARKER),
        Err(_) => true,
    };
    if is_ours {
        let card = ModelCard::of(run).context("cannot write the model card")?;
        write_atomically(&path, &format!("{}\n{MARKER}\n", card.text(None)))?;
    }
    Ok(())
}

/// What a card says.
#[derive(Debug)]
pub struct ModelCard {
    name: String,
    base: BaseRecord,
    retrieval: RetrievalRecord,
    training: Option<TrainingRecord>,
    /// The resolved config.
    config: toml::Table,
    /// Loss of each step, in nats per supervised token.
    losses: Vec<f64>,
    evaluations: Vec<(String, ScoreReport)>,
}

impl ModelCard {
    /// That of a finished run.
    ///
    /// # Errors
    /// When a file of the run is missing or damaged.
    pub fn of(run: &RunFolder) -> anyhow::Result<Self> {
        let path = run.config();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let config =
            toml::from_str(&text).with_context(|| format!("`{}` is damaged", path.display()))?;
        let evaluations = run.evaluations().context("cannot read the evaluations")?;
        let evaluations = evaluations.iter().map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let report = ScoreReport::load(&folder.join("scores.json"))?;
            Ok((name.into_owned(), report))
        });
        Ok(Self {
            name: run.name(),
            base: BaseRecord::load(run)?,
            retrieval: RetrievalRecord::load(run.path())?,
            training: TrainingRecord::load(run)?,
            config,
            losses: losses(&run.path().join("metrics.jsonl")),
            evaluations: evaluations.collect::<anyhow::Result<_>>()?,
        })
    }

    /// The file, with `base` in place of the base model's name where one is given.
    pub fn text(&self, base: Option<&str>) -> String {
        let base = base.map_or_else(|| public_name(&self.base.base), str::to_owned);
        let sections = [
            self.front_matter(&base),
            self.introduction(&base),
            self.how_to_use(&base),
            self.prompt(),
            self.training(),
            self.results(),
            self.limits(),
        ];
        sections.join("\n")
    }

    /// The YAML that the hub reads. Hub ids need no quotes in it.
    fn front_matter(&self, base: &str) -> String {
        let mut yaml = "---\n".to_owned();
        if is_hub_id(base) {
            yaml += &format!("base_model: {base}\n");
        }
        yaml += "library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- text-generation\n- rag-tune\n";
        if self.retrieval.settings.retrieval.examples > 0 {
            yaml += "- retrieval-augmented\n";
        }
        let source = self.data_set();
        if is_hub_id(&source) {
            yaml += &format!("datasets:\n- {source}\n");
        }
        yaml + "---\n"
    }

    fn introduction(&self, base: &str) -> String {
        let settings = &self.retrieval.settings;
        let version = self.version();
        let (name, task) = (&self.name, &settings.task.name);
        let examples = match settings.retrieval.examples {
            0 => "prompts without examples".to_owned(),
            1 => "one retrieved example in each prompt".to_owned(),
            count => format!("{count} retrieved examples in each prompt"),
        };
        let fingerprint = &self.base.fingerprint;
        format!(
            "# {name}\n\n\
             A LoRA adapter for `{base}`, trained by rag-tune {version} for the task `{task}` with {examples}.\n\n\
             The base's weights had the fingerprint `{fingerprint}`.\n"
        )
    }

    fn how_to_use(&self, base: &str) -> String {
        format!(
            "## How to use\n\n\
             In a run folder of rag-tune, which retrieves the examples as in training:\n\n\
             ```\nrag-tune eval --adapter FOLDER\n```\n\n\
             With PEFT, which leaves the prompt to you:\n\n\
             ```python\n\
             from peft import PeftModel\n\
             from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             base = \"{base}\"\n\
             tokenizer = AutoTokenizer.from_pretrained(base)\n\
             model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), \"FOLDER\")\n\
             ```\n"
        )
    }

    /// The prompt's templates: what the adapter expects to read.
    fn prompt(&self) -> String {
        let settings = &self.retrieval.settings;
        let (task, retrieval) = (&settings.task, &settings.retrieval);
        let templates = &task.templates;
        let mut examples = String::new();
        if retrieval.examples > 0 {
            examples = format!("{}\n\n{}\n\n", templates.header, templates.example);
        }
        let instruction = match templates.instruction.as_str() {
            "" => String::new(),
            text => format!("{text}\n\n"),
        };
        let above = match task.layout {
            Layout::InstructionFirst => instruction + &examples,
            Layout::ExamplesFirst => examples + &instruction,
        };
        let end = match task.stop.as_str() {
            "" => "the end-of-sequence token ends it".to_owned(),
            stop => format!("the end-of-sequence token or {stop:?} ends it"),
        };
        let query = &templates.query;
        let mut text = format!(
            "## Prompt\n\nThe adapter expects this text (minijinja templates; a blank line between the parts), then a line \
             break. The answer follows; {end}.\n\n````\n{above}{query}\n````\n"
        );
        if retrieval.examples > 0 {
            text += &format!("\n{}", self.retrieval_in_words());
        }
        text
    }

    fn retrieval_in_words(&self) -> String {
        let settings = &self.retrieval.settings;
        let retrieval = &settings.retrieval;
        let selector = serde_json::to_value(retrieval.selector);
        let selector = selector
            .ok()
            .and_then(|name| Some(name.as_str()?.to_owned()));
        let mut text = format!(
            "Examples are rows of the training split: {} a prompt, chosen by the selector `{}`",
            retrieval.examples,
            selector.unwrap_or_default()
        );
        if let Some(fingerprint) = &settings.embedder_sha256 {
            let embedder = public_name(&retrieval.embedder);
            text += &format!(" with the embedder `{embedder}` (sha256 `{fingerprint}`)");
        }
        text += ", never the row itself nor the same question";
        if retrieval.selector == Selector::Random {
            text += ", drawn by the seed";
        }
        let columns = |names: &[String]| format!("`{}`", names.join("`, `"));
        if !retrieval.different.is_empty() {
            text += &format!(", with another {}", columns(&retrieval.different));
        }
        if !retrieval.same.is_empty() {
            text += &format!(", with the same {}", columns(&retrieval.same));
        }
        if !retrieval.r#where.is_empty() {
            text += &format!(", where `{}`", retrieval.r#where);
        }
        if retrieval.near_duplicate < 1.0 {
            text += &format!(
                ", no question that shares {} or more of its words",
                percent(f64::from(retrieval.near_duplicate))
            );
        }
        text + ".\n"
    }

    fn training(&self) -> String {
        let settings = &self.retrieval.settings;
        let mut text = format!(
            "## Training\n\n- Data set: `{}`, split `{}`\n",
            self.data_set(),
            settings.data.train_split
        );
        if let Some(training) = &self.training {
            text += &format!("- Rows: {}\n", training.data.rows);
            for note in truncations(&training.data) {
                text += &format!("- Of the split, {note}\n");
            }
        }
        if !self.losses.is_empty() {
            let tail = &self.losses[self.losses.len().saturating_sub(10)..];
            text += &format!(
                "- Steps: {}; loss of the last {}: {:.3} nats per supervised token\n",
                self.losses.len(),
                tail.len(),
                tail.iter().sum::<f64>() / tail.len() as f64
            );
        }
        if let Some(seed) = self.config.get("seed") {
            text += &format!("- Seed: {seed}\n");
        }
        let mut sections = toml::Table::new();
        for name in ["lora", "train"] {
            if let Some(section) = self.config.get(name) {
                sections.insert(name.to_owned(), without_paths(section.clone()));
            }
        }
        let model = self.config.get("model").and_then(toml::Value::as_table);
        if let Some(quantization) = model.and_then(|model| model.get("quantization")) {
            text += &format!("- The base was held as {quantization}\n");
        }
        text + &format!(
            "\n```toml\n{}```\n",
            toml::to_string(&sections).unwrap_or_default()
        )
    }

    fn results(&self) -> String {
        if self.evaluations.is_empty() {
            return "## Results\n\nThere is no evaluation yet.\n".to_owned();
        }
        let mut text = "## Results\n\n\
             | evaluation | metric | correct | accuracy | 95 % interval |\n\
             | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for (name, report) in &self.evaluations {
            let synthetic = if report.synthetic {
                " (synthetic data)"
            } else {
                ""
            };
            text += &format!(
                "| {name}{synthetic} | {} | {} of {} | {} | {} to {} |\n",
                report.metric,
                report.correct,
                report.total,
                percent(report.accuracy),
                percent(report.ci95.lo),
                percent(report.ci95.hi),
            );
        }
        text
    }

    fn limits(&self) -> String {
        let mut text = "## Limits\n\n".to_owned();
        let is_synthetic = self
            .training
            .as_ref()
            .is_some_and(|record| record.synthetic)
            || self.evaluations.iter().any(|(_, report)| report.synthetic);
        if is_synthetic {
            text +=
                "- The figures are from synthetic data: they say nothing about real questions.\n";
        }
        text += "- The adapter was trained for the prompt above, and on the base with the fingerprint above; \
                 with other prompts, or a base of another precision, it answers differently.\n\
                 - The base model's and the data set's licences apply.\n";
        text
    }

    fn data_set(&self) -> String {
        let source = &self.retrieval.settings.data.source;
        // Behind `:` may stand a configuration.
        match source.rsplit_once(':') {
            Some((id, _)) if is_hub_id(id) => id.to_owned(),
            _ => public_name(source),
        }
    }

    fn version(&self) -> &str {
        match &self.training {
            Some(record) => &record.rag_tune_version,
            None => &self.retrieval.settings.rag_tune_version,
        }
    }
}

/// The losses in metrics.jsonl; none where there is no such file.
fn losses(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let records = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    records
        .filter_map(|record: Value| record.get("loss")?.as_f64())
        .collect()
}

/// Settings whose texts name no folder of this machine.
fn without_paths(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) if text.starts_with(['/', '~', '.']) => {
            toml::Value::String(public_name(&text))
        }
        toml::Value::Array(values) => {
            toml::Value::Array(values.into_iter().map(without_paths).collect())
        }
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| (key, without_paths(value)))
            .collect::<toml::Table>()
            .into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rag_tune_augment::manifest::AugmentSettings;
    use rag_tune_augment::{DataConfig, RetrievalConfig, Task};
    use serde_json::json;

    use super::*;
    use rag_tune_train::batch::{DataSummary, Epoch};
    use rag_tune_train::config::Truncation;

    fn card(examples: usize) -> ModelCard {
        let settings = AugmentSettings {
            rag_tune_version: "0.1.0".to_owned(),
            task: Task::sql(),
            data: DataConfig {
                source: "owner/questions:hard".to_owned(),
                ..DataConfig::default()
            },
            retrieval: RetrievalConfig {
                examples,
                different: vec!["db_id".to_owned()],
                near_duplicate: 0.9,
                ..RetrievalConfig::default()
            },
            seed: None,
            template_sha256: "t".to_owned(),
            embedder_sha256: (examples > 0).then(|| "e5".to_owned()),
            knowledge_base_sha256: None,
            drafts_sha256: None,
        };
        let config = "seed = 42\n[model]\nbase = \"/home/me/llama\"\nquantization = \"int8\"\n\
                      [lora]\nrank = 16\n[train]\nbatch_size = 8\nfile = \"/home/me/x.json\"\n";
        ModelCard {
            name: "sql_rag".to_owned(),
            base: BaseRecord {
                base: "owner/llama".to_owned(),
                fingerprint: "sha256:f0".to_owned(),
            },
            retrieval: RetrievalRecord { settings },
            training: Some(TrainingRecord {
                rag_tune_version: "0.1.0".to_owned(),
                data: DataSummary {
                    rows_given: 3963,
                    rows: 3961,
                    truncation: Truncation::Drop,
                    max_length: 512,
                    too_long: 2,
                    cut: 0,
                    answer_too_long: 0,
                    epoch: Epoch {
                        steps: 31,
                        micro_batches: 300,
                        tokens_per_micro_batch: 2048,
                        tokens: 600_000,
                        supervised_tokens: 90_000,
                    },
                },
                synthetic: false,
            }),
            config: toml::from_str(config).unwrap(),
            losses: vec![1.0, 0.5, 0.25],
            evaluations: Vec::new(),
        }
    }

    fn scores(synthetic: bool) -> ScoreReport {
        serde_json::from_value(json!({
            "task": "sql", "metric": "execution", "correct": 197, "total": 568, "accuracy": 0.34683,
            "ci95": [0.3081, 0.3873], "metrics": {}, "intervals": {}, "gold_errors": 0,
            "prediction_errors": 218, "timeouts": 0, "synthetic": synthetic,
        }))
        .unwrap()
    }

    #[test]
    fn a_card_says_what_the_adapter_is_and_was_made_from() {
        let mut card = card(1);
        card.evaluations = vec![("validation-rag1".to_owned(), scores(false))];
        insta::assert_snapshot!("rag_card", card.text(None));
    }

    #[test]
    fn without_examples_nothing_is_said_of_retrieval() {
        let text = card(0).text(None);
        assert!(
            !text.contains("retriev") || !text.contains("selector"),
            "{text}"
        );
        assert!(!text.contains("example.question"), "{text}");
        assert!(text.contains("There is no evaluation yet."), "{text}");
    }

    #[test]
    fn figures_from_synthetic_data_are_called_so() {
        let mut card = card(1);
        card.evaluations = vec![("validation-rag1".to_owned(), scores(true))];
        let text = card.text(None);
        assert!(
            text.contains("validation-rag1 (synthetic data) |"),
            "{text}"
        );
        assert!(
            text.contains("The figures are from synthetic data"),
            "{text}"
        );
    }

    /// Elsewhere a name that is no hub id would be taken for one.
    #[test]
    fn only_hub_ids_stand_in_the_front_matter() {
        let mut card = card(1);
        card.base.base = "/home/me/llama".to_owned();
        card.retrieval.settings.data.source = "/home/me/questions".to_owned();
        let text = card.text(None);
        let (front, rest) = text[4..].split_once("---\n").unwrap();
        assert!(
            !front.contains("base_model:") && !front.contains("datasets:"),
            "{front}"
        );
        assert!(
            rest.contains("`llama`") && rest.contains("`questions`"),
            "{rest}"
        );
        assert!(!text.contains("/home"), "{text}");
    }
}
