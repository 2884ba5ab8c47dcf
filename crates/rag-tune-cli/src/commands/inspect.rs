//! `rag-tune inspect`: what training would see, and what it would take.

use clap::Args;

use super::{ConfigArgs, HubArgs};
use crate::augmentation::Augmentation;
use crate::base_model::FoundModel;
use crate::encoding::{encode, training_rows};
use crate::error::InputError;
use crate::forecast::Forecast;
use crate::output::Output;
use crate::probe::Measure;
use crate::run_folder::RunFolder;
use crate::sample;

/// Show one training row as the model will see it, and what the run will take
///
/// Tokens that carry loss stand in green, without colour each between brackets. Below it: how long
/// the rows are, and what `rag-tune plan` says. Augments the data first if needed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune inspect configs/sql_rag1_smollm2.toml --row 7")]
pub struct InspectArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which row of the training split, from 0
    #[arg(long, default_value_t = 0)]
    row: usize,
    #[command(flatten)]
    hub: HubArgs,
}

/// Runs the command.
pub fn inspect(args: &InspectArgs, out: &mut Output) -> anyhow::Result<()> {
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
    let rows = &epochs[0];
    let row = rows.get(args.row).ok_or_else(|| {
        let message = format!(
            "there is no row {} in `{}`",
            args.row, config.data.train_split
        );
        InputError::new(message, format!("its rows are 0 to {}", rows.len() - 1))
    })?;

    let encoded = encode(row, &found.tokenizer)?;
    out.data(&sample::shown(
        &encoded,
        &found.tokenizer,
        &config.train,
        out,
    )?)?;
    out.data(&sample::lengths(&set))?;
    out.data(&sample::packing(&set.summary()))?;
    drop(epochs);
    let forecast = Forecast::measure(&found, &set, &config, Measure::Once, out)?;
    out.data(&format!("\n{forecast}"))?;
    Ok(())
}
