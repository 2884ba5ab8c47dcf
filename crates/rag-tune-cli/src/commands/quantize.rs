//! `rag-tune quantize`: a model in 8 bits, on disk, for bitsandbytes and for a quicker download.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::quantize::write_int8;
use serde::Serialize;

use super::HubArgs;
use crate::files::write_atomically;
use crate::model_folder::{ModelFolder, copy_companions};
use crate::output::Output;
use crate::public_name::public_name;

/// Says how a quantised model was made; without it a folder is not replaced.
const RECORD: &str = "rag_tune_quantize.json";

/// Write a model in 8 bits, as transformers and bitsandbytes store it
///
/// The linear layers of the blocks become 8-bit codes with one scale a row (LLM.int8), bit for bit as bitsandbytes makes them; everything else
/// is copied. `from_pretrained` of transformers reads the folder, and so does `model.base` with `model.quantization = "int8"`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  rag-tune quantize codellama/CodeLlama-7b-hf --out models/CodeLlama-7b-int8")]
pub struct QuantizeArgs {
    /// The model: a hub id, or a folder with safetensors in 16 or 32 bits
    model: String,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace an earlier quantized model at --out
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// The text of [`RECORD`].
#[derive(Serialize)]
struct Record<'a> {
    rag_tune_version: &'a str,
    model: String,
    fingerprint: &'a str,
    quantization: &'a str,
}

/// Runs the command.
pub fn quantize(args: &QuantizeArgs, out: &mut Output) -> anyhow::Result<()> {
    let open = || anyhow::Ok(Checkpoint::open(&args.hub.hub().model(&args.model)?)?);
    let context = || format!("cannot quantize `{}`", args.model);
    let checkpoint = open().with_context(context)?;
    let folder = ModelFolder {
        out: &args.out,
        record: RECORD,
        kind: "quantized model",
        force: args.force,
    };
    folder.require_free(&[("the model's", checkpoint.path())])?;
    let temporary = folder.temporary()?;
    let progress = out.progress();
    progress.start("quantizing", 1);
    let written = write_int8(temporary.path(), &checkpoint, &mut |done, total| {
        progress.resize(total as u64);
        progress.move_to(done as u64);
    });
    progress.finish();
    let bytes = written.with_context(context)?;
    copy_companions(checkpoint.path(), temporary.path())?;
    let record = Record {
        rag_tune_version: env!("CARGO_PKG_VERSION"),
        model: public_name(&args.model),
        fingerprint: checkpoint.fingerprint(),
        quantization: "int8",
    };
    let text = serde_json::to_string_pretty(&record).context("cannot write the record")?;
    write_atomically(&temporary.path().join(RECORD), &(text + "\n"))?;
    folder.publish(temporary)?;
    out.note(&format!(
        "{:.2} GB of weights, from {:.2} GB",
        bytes as f64 / 1e9,
        checkpoint.file_bytes() as f64 / 1e9
    ));
    out.data(&format!("{}\n", args.out.display()))?;
    Ok(())
}
