//! `rag-tune debug-logits`: the raw logits of the last token, for comparison with other programs.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_kernels::Sequences;
use serde_json::json;

use super::{HubArgs, Overrides};
use crate::base_model::{FoundModel, load_adapter};
use crate::output::Output;
use crate::run_folder::RunFolder;

/// Print the logits that follow some token ids
#[derive(Debug, Args)]
pub struct DebugLogitsArgs {
    /// Run folder of an adapter
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    adapter: Option<PathBuf>,
    /// Config whose base model is run without an adapter
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Print `{"ids", "logits_last"}` instead of one logit a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn debug_logits(args: &DebugLogitsArgs, out: &mut Output) -> anyhow::Result<()> {
    let run = args.adapter.as_ref().map(RunFolder::new);
    let path = run
        .as_ref()
        .map(RunFolder::config)
        .or_else(|| args.config.clone());
    let path = path.context("--adapter or --config is required")?;
    let config = args.overrides.apply_to(&path, &[])?.run;
    let found = FoundModel::open(&config.model, &args.hub.hub())?;
    let adapter = run
        .map(|run| load_adapter(&run, &found.checkpoint))
        .transpose()?;
    let model = found.load(&config.model, out)?;
    let sequences = Sequences::from_lengths(&[args.ids.len()])?;
    let last = args.ids.len() - 1;
    let logits = model.logits_at(adapter.as_ref(), &args.ids, &sequences, &[last])?;
    let logits = logits.row(0);
    let text = if args.json {
        format!("{}\n", json!({ "ids": args.ids, "logits_last": logits }))
    } else {
        logits.iter().map(|logit| format!("{logit}\n")).collect()
    };
    out.data(&text)?;
    Ok(())
}
