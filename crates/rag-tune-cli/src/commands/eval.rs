//! `rag-tune eval`: what a trained adapter, or the base model alone, gets right.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use rag_tune_augment::{Hub, RetrievalRecord};
use rag_tune_eval::ScoreReport;
use rag_tune_model::config::ModelConfig;
use rag_tune_model::llama::Llama;

use super::score::{further_metrics, percent, remarks};
use super::{HubArgs, Overrides};
use crate::base_model::{FoundModel, check_device, load_adapter};
use crate::config::{Override, RunConfig};
use crate::error::InputError;
use crate::evaluation::{Evaluation, TrainedAdapter};
use crate::model_card;
use crate::output::{Output, table};
use crate::run_folder::RunFolder;

/// Answer the questions of a split and score the answers
///
/// With --adapter: every finished run at DIR, each with the config it was trained with, or with --config's. With --config
/// alone: the base model without an adapter. Writes eval/NAME/predictions.jsonl and scores.json below the run folder; NAME is the split and
/// the kind of prompt.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune eval --adapter out/sql_rag1
  rag-tune eval --adapter out/sql_rag1 --adapter out/sql_zero_shot      # the base is loaded once
  rag-tune eval --adapter out/sql_zero_shot --set retrieval.examples=1  # other prompts
  rag-tune eval --config configs/sql_rag1.toml                          # no adapter")]
pub struct EvalArgs {
    /// A run folder, or a folder of several; may be given several times. Adapters of one base share it in memory
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    adapter: Vec<PathBuf>,
    /// The config; without --adapter its base model is scored as it is [default: the one of the training]
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Run folder to write below [default: the adapter's, or OUTPUT of the config]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Name of the evaluation [default: SPLIT-zero_shot or SPLIT-ragN]
    #[arg(long)]
    name: Option<String>,
    /// Folder of DB_ID/DB_ID.sqlite, or "synthetic" to make databases from each row's `context`; stands for --set
    /// eval.databases [also: RAG_TUNE_DATABASES]
    #[arg(long, value_name = "DIR")]
    databases: Option<PathBuf>,
    /// Folder that may hold the prompts already [default: augmented in the run folder]
    #[arg(long, value_name = "DIR")]
    augmented: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn eval(args: &EvalArgs, out: &mut Output) -> anyhow::Result<()> {
    let hub = args.hub.hub();
    let subjects = args.subjects()?;
    let mut loaded = None;
    let mut reports = Vec::new();
    for subject in &subjects {
        let report = evaluate(subject, &mut loaded, &hub, out)
            .with_context(|| format!("cannot evaluate `{}`", subject.evaluation.run))?;
        if let Some(trained) = &subject.evaluation.adapter {
            model_card::refresh(&trained.run)?;
        }
        reports.push((subject, report));
    }
    out.data(&summary(&reports))?;
    Ok(())
}

/// An evaluation, and a folder that may hold its prompts already.
#[derive(Debug)]
struct Subject {
    evaluation: Evaluation,
    augmented: PathBuf,
}

/// The base model of the run before, kept because runs that are compared share it.
struct LoadedBase {
    config: ModelConfig,
    model: Llama,
}

impl LoadedBase {
    /// Whether it is what `config` would load: the same weights, whatever they are called, held and computed alike.
    fn serves(&self, config: &ModelConfig, fingerprint: &str) -> bool {
        let alike = ModelConfig {
            base: self.config.base.clone(),
            cache_weights: self.config.cache_weights,
            ..config.clone()
        };
        self.config == alike && self.model.fingerprint() == fingerprint
    }
}

impl EvalArgs {
    fn subjects(&self) -> anyhow::Result<Vec<Subject>> {
        if let (Some(config), []) = (&self.config, self.adapter.as_slice()) {
            let config = self.load_config(config)?;
            let run = self
                .out
                .clone()
                .map_or_else(|| RunFolder::new(&config.output), RunFolder::new);
            return Ok(vec![self.subject(config, None, &run, &run)?]);
        }
        let mut runs: Vec<RunFolder> = Vec::new();
        for path in &self.adapter {
            for run in RunFolder::finished_at(path)? {
                if !runs.contains(&run) {
                    runs.push(run);
                }
            }
        }
        self.require_own_folders(&runs)?;
        let several = runs.len() > 1;
        runs.iter()
            .map(|run| {
                self.require_records(run)?;
                let path = self.config.clone().unwrap_or_else(|| run.config());
                let config = self.load_config(&path)?;
                let target = match &self.out {
                    Some(out) if several => RunFolder::new(out.join(run.name())),
                    Some(out) => RunFolder::new(out),
                    None => run.clone(),
                };
                let adapter = TrainedAdapter {
                    run: run.clone(),
                    record: RetrievalRecord::load(run.path())?,
                };
                self.subject(config, Some(adapter), run, &target)
            })
            .collect()
    }

    /// An adapter of another program has neither prompts nor settings of its own.
    fn require_records(&self, run: &RunFolder) -> anyhow::Result<()> {
        let config = self.config.is_none().then(|| run.config());
        let needed = [run.retrieval_record(), run.base_record()];
        let mut needed = config.into_iter().chain(needed);
        let Some(missing) = needed.find(|path| !path.is_file()) else {
            return Ok(());
        };
        let message = format!(
            "the adapter in `{}` has no {} beside it: another program made it, or the folder was copied in part",
            run.path().display(),
            missing.file_name().unwrap_or_default().to_string_lossy(),
        );
        let hint = "name a whole run folder of `rag-tune train`; an adapter of another program is merged first (`rag-tune \
                    merge --adapter DIR --base MODEL --out MERGED`) and the merged model evaluated (`--config CONFIG --set \
                    model.base=MERGED`)";
        Err(InputError::new(message, hint).into())
    }

    /// Two runs of one name must not write into one folder.
    fn require_own_folders(&self, runs: &[RunFolder]) -> anyhow::Result<()> {
        let mut names: Vec<String> = runs.iter().map(RunFolder::name).collect();
        names.sort();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        match (&self.out, twice) {
            (Some(out), Some([name, _])) => {
                let message = format!(
                    "two of the runs are called `{name}`: both would write into `{}`",
                    out.join(name).display()
                );
                Err(InputError::new(message, "leave out --out, or evaluate them one by one").into())
            }
            _ => Ok(()),
        }
    }

    fn load_config(&self, path: &Path) -> anyhow::Result<RunConfig> {
        let databases = self.databases.as_deref();
        let flags: Vec<Override> = databases
            .map(|folder| Override::path("--databases", "eval.databases", folder))
            .into_iter()
            .collect();
        Ok(self.overrides.apply_to(path, &flags)?.run)
    }

    fn subject(
        &self,
        config: RunConfig,
        adapter: Option<TrainedAdapter>,
        run: &RunFolder,
        target: &RunFolder,
    ) -> anyhow::Result<Subject> {
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| default_name(&config, adapter.is_some()));
        Ok(Subject {
            augmented: self.augmented.clone().unwrap_or_else(|| run.augmented()),
            evaluation: Evaluation {
                run: target.name(),
                folder: target.evaluation(&name),
                config,
                adapter,
            },
        })
    }
}

/// The split and the kind of prompt; without an adapter that too, because the scores of a trained
/// adapter may stand beside them.
fn default_name(config: &RunConfig, has_adapter: bool) -> String {
    let split = &config.eval.split;
    let prompt = match config.retrieval.examples {
        0 => "zero_shot".to_owned(),
        examples => format!("rag{examples}"),
    };
    if has_adapter {
        format!("{split}-{prompt}")
    } else {
        format!("{split}-{prompt}-no_adapter")
    }
}

fn evaluate(
    subject: &Subject,
    loaded: &mut Option<LoadedBase>,
    hub: &Hub,
    out: &Output,
) -> anyhow::Result<ScoreReport> {
    let Subject {
        evaluation,
        augmented,
    } = subject;
    let config = &evaluation.config.model;
    check_device(config)?;
    let questions = evaluation.questions(augmented, hub, out)?;
    let found = FoundModel::open(config, hub)?;
    let adapter = match &evaluation.adapter {
        Some(trained) => Some(load_adapter(&trained.run, &found.checkpoint)?),
        None => None,
    };
    // Two base models at a time might not fit into memory, so the old one goes first.
    let fingerprint = found.checkpoint.fingerprint();
    let reusable = loaded.take();
    let reusable = reusable.filter(|base| base.serves(config, fingerprint));
    let base = match reusable {
        Some(base) => {
            let run = &evaluation.run;
            out.note(&format!(
                "`{run}` shares the base model, which is loaded already"
            ));
            base
        }
        None => LoadedBase {
            config: config.clone(),
            model: found.load(config, out)?,
        },
    };
    let model = &loaded.insert(base).model;
    evaluation.run(&questions, model, adapter.as_ref(), &found.tokenizer, out)
}

fn summary(reports: &[(&Subject, ScoreReport)]) -> String {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|(subject, report)| {
            vec![
                subject.evaluation.run.clone(),
                subject.evaluation.name(),
                format!("{}/{}", report.correct, report.total),
                percent(report.accuracy),
                format!("{} to {}", percent(report.ci95.lo), percent(report.ci95.hi)),
                further_metrics(report),
            ]
        })
        .collect();
    let mut text = table(
        &[
            "run",
            "evaluation",
            "correct",
            "accuracy",
            "95 % interval",
            "other metrics",
        ],
        &rows,
    );
    text += &remarks(reports.iter().map(|(_, report)| report));
    text
}
