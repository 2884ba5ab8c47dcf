//! `rag-tune augment`: rows become prompts with retrieved examples.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::LeakageReport;

use super::{ConfigArgs, HubArgs};
use crate::augmentation::{Augmentation, Freshness};
use crate::leakage;
use crate::output::Output;
use crate::run_folder::RunFolder;

/// Put retrieved examples into the prompts and write them as JSON lines
///
/// Writes DIR/<split>.jsonl for the training and the eval split: the source fields, `inference_prompt`,
/// `full_prompt`, and `examples` (row of the training split and score). Examples only ever come from the
/// training split.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune augment configs/sql_rag1.toml --out augmented --set retrieval.examples=2
  rag-tune augment configs/gsm8k_rag1.toml --report  # what the splits share")]
pub struct AugmentArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder to write [default: OUTPUT/augmented of the config]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also measure leakage: rows that two splits share, examples that give the answer away; writes
    /// DIR/leakage.json
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn augment(args: &AugmentArgs, out: &mut Output) -> anyhow::Result<()> {
    let config = args.config.load(&[])?.run;
    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| RunFolder::new(&config.output).augmented());
    let task = config.task.load()?;
    let augmentation = Augmentation {
        config: &config,
        task: &task,
        splits: &config.splits(),
        folder: &folder,
    };
    let hub = args.hub.hub();
    if augmentation.ensure(&hub, out)? == Freshness::WasCurrent {
        out.note("nothing to do: the files were made with these settings");
    }
    if args.report {
        let report = LeakageReport::measure(&augmentation.request(1), &hub);
        let report = report.context("cannot measure leakage")?;
        report.save(&folder)?;
        return Ok(out.data(&leakage::in_words(&report))?);
    }
    for split in config.splits() {
        out.data(&format!("{}\n", augmentation.file(split).display()))?;
    }
    Ok(())
}
