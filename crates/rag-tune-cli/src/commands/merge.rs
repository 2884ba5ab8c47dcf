//! `rag-tune merge`: base model and adapter as one model, and how far it is from the two.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::{ModelConfig, Quantization, StoredQuantization};
use rag_tune_model::interchange::ExportDtype;
use rag_tune_model::merge::{Merge, write_gguf, write_merged};
use rag_tune_model::peft;
use serde::Serialize;

use super::HubArgs;
use super::export::{Dtype, require_adapter};
use crate::base_model::{BaseRecord, load_adapter};
use crate::config::{Environment, ResolvedConfig, RunConfig};
use crate::error::InputError;
use crate::files::write_atomically;
use crate::merge_drift::Texts;
use crate::model_folder::{ModelFolder, copy_companions, copy_licence};
use crate::output::Output;
use crate::public_name::public_name;
use crate::run_folder::RunFolder;

mod merging;

use self::merging::{Base, Merging};

/// Says how a merged model was made; without it a folder is not replaced.
const RECORD: &str = "rag_tune_merge.json";

/// Write base model and adapter as one model, and say how far it is from the two
///
/// The base's weights are written tensor by tensor with the adapter's update added, as safetensors or as a GGUF for llama.cpp; DoRA,
/// rsLoRA and patterns are part of it. Then the merged model's logits are compared with those of the adapter on the base
/// as training held it, and on the base as it is stored; rag_tune_merge.json keeps the figures. Neither a merge nor the
/// comparison holds a whole model in memory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune merge --adapter out/sql_rag1 --out merged/sql_rag1
  rag-tune merge --adapter out/sql_rag1 --out merged/sql_rag1 --dtype bf16
  rag-tune merge --adapter out/sql_rag1 --out merged/sql_rag1_gguf --gguf
  rag-tune merge --adapter out/sql_rag1 --out merged/sql_rag1 --base-weights dequantized
  rag-tune merge --adapter peft_folder --base OWNER/NAME --out merged/model --text sample.txt")]
pub struct MergeArgs {
    /// Run folder, or any folder with an adapter in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The folder to write, which is a model for any program that reads Hugging Face's format; with --gguf, for llama.cpp
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write one file in Q8_0 in place of safetensors: ADAPTER-Q8_0.gguf, with the tokenizer, in the folder
    #[arg(long, conflicts_with = "dtype")]
    gguf: bool,
    /// Type of the weights [default: each tensor's own in the base; bf16 if the base is stored quantized]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// The model to merge into [default: the run's own base, with the same weights]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Which weights the update is added to
    #[arg(long, value_enum, default_value = "original")]
    base_weights: BaseWeights,
    /// How the base was held in training [default: as the run's config says; `none` for an adapter without one]
    #[arg(long, value_enum, value_name = "KIND")]
    quantization: Option<HeldAs>,
    /// A text to compare the models on [default: answers of the run's evaluation split]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Rows, or pieces of 512 tokens of --text, that the models are compared on; 0 compares nothing
    #[arg(long, value_name = "N", default_value_t = 16)]
    rows: usize,
    /// Replace an earlier merged model at --out
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// What the update is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseWeights {
    /// The base's weights as they are stored
    Original,
    /// What they were rounded to in training
    Dequantized,
}

/// [`Quantization`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HeldAs {
    Int8,
    Nf4,
    None,
}

impl From<HeldAs> for Quantization {
    fn from(held: HeldAs) -> Self {
        match held {
            HeldAs::Int8 => Self::Int8,
            HeldAs::Nf4 => Self::Nf4,
            HeldAs::None => Self::None,
        }
    }
}

/// Runs the command.
pub fn merge(args: &MergeArgs, out: &mut Output) -> anyhow::Result<()> {
    let run = RunFolder::new(&args.adapter);
    require_adapter(&run)?;
    let folder = args.folder();
    folder.require_free(&[("the adapter's", &args.adapter)])?;
    let merging = args.prepare(&run, out)?;
    folder.require_free(&[("the base model's", folder_of(&merging.base.checkpoint))])?;
    let temporary = folder.temporary()?;
    args.write(&merging, &run, temporary.path(), out)?;
    let report = merging.drift(temporary.path(), out)?;
    let written_as = args.written_as();
    let record = merging.record(&run, args.base_weights, written_as, report.as_ref());
    let text = serde_json::to_string_pretty(&record).context("cannot write the record")?;
    write_atomically(&temporary.path().join(RECORD), &(text + "\n"))?;
    folder.publish(temporary)?;
    if let Some(report) = &report {
        out.data(&format!("{}\n", report.as_table()))?;
    }
    out.data(&format!("{}\n", args.out.display()))?;
    Ok(())
}

/// Where the weights lie.
fn folder_of(checkpoint: &Checkpoint) -> &Path {
    let path = checkpoint.path();
    match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(path),
    }
}

impl MergeArgs {
    fn written_as(&self) -> &'static str {
        match (self.gguf, self.dtype) {
            (true, _) => "q8_0",
            (false, Some(dtype)) => ExportDtype::from(dtype).name(),
            (false, None) => "base",
        }
    }

    fn folder(&self) -> ModelFolder<'_> {
        ModelFolder {
            out: &self.out,
            record: RECORD,
            kind: "merged model",
            force: self.force,
        }
    }

    fn prepare(&self, run: &RunFolder, out: &Output) -> anyhow::Result<Merging> {
        let config = self.run_config(run)?;
        let (base, trained_on, adapter) = match (&self.base, run.base_record().is_file()) {
            (None, false) => {
                let message = format!(
                    "`{}` does not say what its base model is",
                    run.path().display()
                );
                let hint = "--base MODEL names it: a hub id or a folder";
                return Err(InputError::new(message, hint).into());
            }
            (None, true) => {
                let base = self.open(&BaseRecord::load(run)?.base)?;
                let adapter = load_adapter(run, &base.checkpoint)?;
                (base, None, adapter)
            }
            (Some(name), has_record) => {
                let base = self.open(name)?;
                let trained_on = match has_record {
                    true => self.trained_on(run, &base, out)?,
                    false => None,
                };
                let adapter =
                    peft::load(run.path(), base.checkpoint.config()).with_context(|| {
                        format!("cannot load the adapter in `{}`", run.path().display())
                    })?;
                (base, trained_on, adapter)
            }
        };
        let mut held = match &config {
            Some(config) => config.model.clone(),
            None => held_as_stored(&base.checkpoint),
        };
        if let Some(quantization) = self.quantization {
            held.quantization = quantization.into();
        }
        if self.base_weights == BaseWeights::Dequantized && held.quantization == Quantization::None
        {
            let message =
                "the base was not quantised in training, so there is nothing to dequantise";
            let hint =
                "leave out --base-weights, or say how it was held: --quantization int8 or nf4";
            return Err(InputError::new(message, hint).into());
        }
        let texts = self.texts(run, config.as_ref(), &base)?;
        Ok(Merging {
            base,
            trained_on,
            adapter,
            held,
            texts,
        })
    }

    fn run_config(&self, run: &RunFolder) -> anyhow::Result<Option<RunConfig>> {
        let path = run.config();
        if !path.is_file() {
            return Ok(None);
        }
        let resolved = ResolvedConfig::load(&path, &[], &Environment::from_process())?;
        Ok(Some(resolved.run))
    }

    fn open(&self, name: &str) -> anyhow::Result<Base> {
        let open = || anyhow::Ok(Checkpoint::open(&self.hub.hub().model(name)?)?);
        let checkpoint = open().with_context(|| format!("cannot open the base model `{name}`"))?;
        Ok(Base {
            name: public_name(name),
            checkpoint,
        })
    }

    /// The run's own base where `base` is another, or the same in another precision.
    fn trained_on(
        &self,
        run: &RunFolder,
        base: &Base,
        out: &Output,
    ) -> anyhow::Result<Option<Base>> {
        let record = BaseRecord::load(run)?;
        if record.fingerprint == base.checkpoint.fingerprint() {
            return Ok(None);
        }
        let found = self.open(&record.base).ok();
        let found = found.filter(|own| own.checkpoint.fingerprint() == record.fingerprint);
        let name = public_name(&record.base);
        match found {
            Some(own)
                if own
                    .checkpoint
                    .config()
                    .has_shapes_of(base.checkpoint.config()) =>
            {
                Ok(Some(own))
            }
            Some(_) => {
                let message = format!("`{}` has other shapes than `{name}`", base.name);
                let hint = "--base must be the model that the adapter was trained on; only its precision may differ";
                Err(InputError::new(message, hint).into())
            }
            None => {
                out.note(&format!(
                    "`{name}`, which the adapter was trained on, is not here: `{}` stands for it",
                    base.name
                ));
                Ok(None)
            }
        }
    }

    fn texts(
        &self,
        run: &RunFolder,
        config: Option<&RunConfig>,
        base: &Base,
    ) -> anyhow::Result<Option<Texts>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let tokenizer = base.checkpoint.tokenizer()?;
        if let Some(path) = &self.text {
            return Ok(Some(Texts::of_file(path, &tokenizer, self.rows)?));
        }
        let found = match config {
            Some(config) => Texts::of_run(run, config, &tokenizer, self.rows)?,
            None => None,
        };
        if found.is_none() {
            let message = format!(
                "`{}` has no prompts to compare the models on",
                run.path().display()
            );
            let hint = "--text FILE names a text; --rows 0 merges without comparing";
            return Err(InputError::new(message, hint).into());
        }
        Ok(found)
    }

    /// Weights, and what stands beside them.
    fn write(
        &self,
        merging: &Merging,
        run: &RunFolder,
        folder: &Path,
        out: &Output,
    ) -> anyhow::Result<()> {
        let held = ModelConfig {
            quantization: match self.base_weights {
                BaseWeights::Original => Quantization::None,
                BaseWeights::Dequantized => merging.held.quantization,
            },
            ..merging.held.clone()
        };
        let base = &merging.base.checkpoint;
        let merge = Merge {
            base,
            adapter: &merging.adapter,
            held: &held,
        };
        let progress = out.progress();
        progress.start("merging", 1);
        let mut step = |done: usize, total: usize| {
            progress.resize(total as u64);
            progress.move_to(done as u64);
        };
        let written = match self.gguf {
            true => {
                let file = folder.join(format!("{}-Q8_0.gguf", run.name()));
                write_gguf(&file, merge, &run.name(), &mut step).map(|_| ())
            }
            false => write_merged(folder, merge, self.dtype.map(Into::into), &mut step),
        };
        progress.finish();
        written.with_context(|| format!("cannot merge into `{}`", merging.base.name))?;
        match self.gguf {
            // The rest is in the file.
            true => copy_licence(folder_of(base), folder),
            false => {
                copy_companions(folder_of(base), folder)?;
                Ok(base.write_tokenizer(folder)?)
            }
        }
    }
}

/// How a base is held where no config says it: as it is stored.
fn held_as_stored(base: &Checkpoint) -> ModelConfig {
    let default = ModelConfig::default();
    let (quantization, double_quantization) = match base.stored_quantization() {
        None => (Quantization::None, default.double_quantization),
        Some(StoredQuantization::Int8) => (Quantization::Int8, default.double_quantization),
        Some(StoredQuantization::Nf4 {
            double_quantization,
        }) => (Quantization::Nf4, double_quantization),
    };
    ModelConfig {
        quantization,
        double_quantization,
        ..default
    }
}
