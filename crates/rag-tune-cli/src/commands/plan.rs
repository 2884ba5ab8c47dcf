//! `rag-tune plan`: what a training run will take.

use clap::Args;

use super::{ConfigArgs, HubArgs};
use crate::augmentation::Augmentation;
use crate::base_model::FoundModel;
use crate::encoding::training_rows;
use crate::forecast::Forecast;
use crate::output::Output;
use crate::probe::Measure;
use crate::run_folder::RunFolder;

/// Predict what a training run will take: memory, tokens, steps, time
///
/// The weights are not loaded: memory is counted from the model's shape, and time is measured on a few blocks of that
/// shape, so that a run can be planned where it does not fit. Says what to change if it does not. Augments the data
/// first if needed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune plan configs/sql_rag1_smollm2.toml")]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Time the passes again: speeds are remembered, and may have been measured on a busy machine
    #[arg(long)]
    remeasure: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn plan(args: &PlanArgs, out: &mut Output) -> anyhow::Result<()> {
    let config = args.config.load(&[])?.run;
    let hub = args.hub.hub();
    let found = FoundModel::open(&config.model, &hub)?;
    found.check(&config.lora)?;
    let folder = RunFolder::new(&config.output).augmented();
    let splits = config.splits();
    let task = config.task.load()?;
    let augmentation = Augmentation {
        config: &config,
        task: &task,
        splits: &splits,
        folder: &folder,
    };
    let (epochs, set) = training_rows(&augmentation, &found.tokenizer, &hub, out)?;
    // Training holds the token ids alone.
    drop(epochs);
    let measure = match args.remeasure {
        true => Measure::Afresh,
        false => Measure::Once,
    };
    let forecast = Forecast::measure(&found, &set, &config, measure, out)?;
    match args.json {
        true => out.data(&(serde_json::to_string_pretty(&forecast)? + "\n"))?,
        false => out.data(&forecast.to_string())?,
    }
    if let Some(warning) = forecast.warning() {
        out.note(&warning);
    }
    Ok(())
}
