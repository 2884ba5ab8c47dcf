//! `rag-tune export`: an adapter for other programs, and whether they will load it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Args, ValueEnum};
use rag_tune_augment::atomic_file::write_file;
use rag_tune_model::checkpoint::Checkpoint;
use rag_tune_model::config::LlamaConfig;
use rag_tune_model::interchange::check::{CheckOptions, Program, Report, Verdict, check};
use rag_tune_model::interchange::{AdapterFiles, ExportDtype, gguf_lora, peft_folder};
use rag_tune_model::lora::Adapter;
use rag_tune_model::peft;
use serde_json::{Value, json};

use super::HubArgs;
use crate::base_model::{BaseRecord, load_adapter};
use crate::error::InputError;
use crate::files::write_atomically;
use crate::model_card::ModelCard;
use crate::output::{Output, table};
use crate::public_name::{is_hub_id, public_name};
use crate::run_folder::RunFolder;

/// Write an adapter for other programs, or say whether they will load it
///
/// --format gguf writes the file that llama.cpp takes as --lora; --format peft the plain folder for PEFT, vLLM and the
/// hub. --check applies the programs' own rules to the folder, and ends with exit code 1 if one of them
/// would refuse the adapter, or load it and compute something else.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("what").required(true).args(["check", "format"])),
    after_help = "Examples:
  rag-tune export --adapter out/sql_rag1 --check
  rag-tune export --adapter out/sql_rag1 --check vllm --max-lora-rank 64
  rag-tune export --adapter out/sql_rag1 --format gguf --out sql_rag1.gguf --dtype f16
  rag-tune export --adapter out/sql_rag1 --format peft --out hub/sql_rag1 --base-name OWNER/NAME"
)]
pub struct ExportArgs {
    /// Run folder, or any folder with an adapter in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Check instead of writing [default: all three]
    #[arg(
        long,
        value_enum,
        value_name = "PROGRAM",
        value_delimiter = ',',
        num_args = 0..=1,
        default_missing_value = "peft,vllm,llama.cpp"
    )]
    check: Option<Vec<ProgramName>>,
    /// vLLM's --max-lora-rank
    #[arg(long, value_name = "RANK", requires = "check", default_value_t = CheckOptions::DEFAULT_MAX_LORA_RANK)]
    max_lora_rank: usize,
    /// Print the check as JSON
    #[arg(long, requires = "check")]
    json: bool,
    /// What to write
    #[arg(long, value_enum, requires = "out", conflicts_with = "check")]
    format: Option<Format>,
    /// The file (gguf) or folder (peft) to write
    #[arg(long, value_name = "PATH", requires = "format")]
    out: Option<PathBuf>,
    /// Precision of the values
    #[arg(long, value_enum, requires = "format", default_value = "f32")]
    dtype: Dtype,
    /// The base model, whose shape is needed [default for gguf: the run's, with the same weights]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// The base model's name in what is written, such as its hub id
    #[arg(long, value_name = "NAME", requires = "format")]
    base_name: Option<String>,
    /// Replace what is at --out
    #[arg(long, requires = "format")]
    force: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A GGUF adapter for llama.cpp
    Gguf,
    /// An adapter folder in PEFT's format
    Peft,
}

/// [`ExportDtype`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for ExportDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// [`Program`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgramName {
    Peft,
    Vllm,
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

impl From<ProgramName> for Program {
    fn from(name: ProgramName) -> Self {
        match name {
            ProgramName::Peft => Self::Peft,
            ProgramName::Vllm => Self::Vllm,
            ProgramName::LlamaCpp => Self::LlamaCpp,
        }
    }
}

/// Runs the command.
pub fn export(args: &ExportArgs, out: &mut Output) -> anyhow::Result<()> {
    let run = RunFolder::new(&args.adapter);
    require_adapter(&run)?;
    if let Some(programs) = &args.check {
        let programs: Vec<Program> = programs.iter().map(|name| (*name).into()).collect();
        return args.check(&run, &programs, out);
    }
    let (Some(format), Some(path)) = (args.format, &args.out) else {
        unreachable!("clap has asked for --format and --out")
    };
    args.require_free(format, path)?;
    match format {
        Format::Gguf => args.write_gguf(&run, path)?,
        Format::Peft => args.write_peft(&run, path, out)?,
    }
    out.data(&format!("{}\n", path.display()))?;
    Ok(())
}

/// Half a run is not exported.
pub fn require_adapter(run: &RunFolder) -> anyhow::Result<()> {
    let path = run.path().display();
    if run.is_finished() {
        return Ok(());
    }
    let (message, hint) = if run.has_checkpoints() {
        (
            format!("the run in `{path}` is not finished"),
            "`rag-tune train --resume` finishes it",
        )
    } else {
        (
            format!("there is no adapter in `{path}`"),
            "name a folder that `rag-tune train` has finished, or one that holds adapter_model.safetensors and \
             adapter_config.json",
        )
    };
    Err(InputError::new(message, hint).into())
}

/// Whether two paths lead to the same file or folder.
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// llama.cpp has no place for the magnitudes; without them the adapter is another one.
fn refuse_dora(run: &RunFolder) -> anyhow::Result<()> {
    let files = AdapterFiles::open(run.path())?;
    if files.config().get("use_dora").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let message = format!(
        "`{}` is a DoRA adapter, which llama.cpp cannot apply",
        run.path().display()
    );
    let hint = "`rag-tune merge` and convert the model that it writes, or train with `lora.use_dora = false`";
    Err(InputError::new(message, hint).into())
}

impl ExportArgs {
    fn check(&self, run: &RunFolder, programs: &[Program], out: &mut Output) -> anyhow::Result<()> {
        let files = AdapterFiles::open(run.path())?;
        let base = self.base.as_deref().map(|base| self.open_base(base));
        let base = base.transpose()?;
        let options = CheckOptions {
            max_lora_rank: self.max_lora_rank,
            base: base.as_ref().map(Checkpoint::config),
        };
        let checked = programs
            .iter()
            .map(|program| check(&files, *program, &options));
        let reports: Vec<Report> = checked.collect();
        out.data(&if self.json {
            as_json(&reports)
        } else {
            as_table(&reports)
        })?;
        refuse_if_any_fails(run, &reports)
    }

    fn write_gguf(&self, run: &RunFolder, path: &Path) -> anyhow::Result<()> {
        refuse_dora(run)?;
        let (adapter, config, base) = self.adapter_with_base(run)?;
        let base = self.base_name.clone().unwrap_or_else(|| public_name(&base));
        let bytes = gguf_lora::bytes(&adapter, &config, &base, self.dtype.into())
            .with_context(|| format!("cannot write `{}` as GGUF", run.path().display()))?;
        write_file(path, &bytes).with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// The adapter, the shape of its base model, and that model's name.
    fn adapter_with_base(&self, run: &RunFolder) -> anyhow::Result<(Adapter, LlamaConfig, String)> {
        if let Some(base) = &self.base {
            let config = self.open_base(base)?.config().clone();
            let adapter = peft::load(run.path(), &config).with_context(|| {
                format!("cannot load the adapter in `{}`", run.path().display())
            })?;
            return Ok((adapter, config, base.clone()));
        }
        if !run.base_record().is_file() {
            let message = format!(
                "`{}` does not say what its base model is",
                run.path().display()
            );
            let hint = "--base MODEL names it: a hub id, a folder or a .gguf file";
            return Err(InputError::new(message, hint).into());
        }
        let base = BaseRecord::load(run)?.base;
        let checkpoint = self.open_base(&base)?;
        let adapter = load_adapter(run, &checkpoint)?;
        Ok((adapter, checkpoint.config().clone(), base))
    }

    fn open_base(&self, base: &str) -> anyhow::Result<Checkpoint> {
        let open = || anyhow::Ok(Checkpoint::open(&self.hub.hub().model(base)?)?);
        open().with_context(|| format!("cannot open the base model `{base}`"))
    }

    fn write_peft(&self, run: &RunFolder, folder: &Path, out: &Output) -> anyhow::Result<()> {
        let files = AdapterFiles::open(run.path())?;
        let stored = files.config().get(peft_folder::BASE_KEY);
        let stored = stored.and_then(|name| name.as_str()).unwrap_or_default();
        let base = match (&self.base_name, &self.base) {
            (Some(name), _) => name.clone(),
            (None, Some(base)) => public_name(base),
            (None, None) => public_name(stored),
        };
        if !is_hub_id(&base) {
            out.note(&format!(
                "the base model is called `{base}` in adapter_config.json; --base-name OWNER/NAME gives its hub id"
            ));
        }
        let weights = peft_folder::weights_bytes(&files, self.dtype.into())?;
        let path = folder.join(peft::WEIGHTS_FILE);
        // A folder with the weights' file holds a whole adapter: an old one goes first, the new one comes last.
        if path.exists() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
        write_atomically(
            &folder.join(peft::CONFIG_FILE),
            &peft_folder::config_text(&files, &base)?,
        )?;
        if run.config().is_file() {
            let card = ModelCard::of(run).context("cannot write the model card")?;
            write_atomically(&folder.join("README.md"), &card.text(Some(&base)))?;
        }
        write_file(&path, &weights).with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// What took hours is not replaced by a slip.
    fn require_free(&self, format: Format, path: &Path) -> anyhow::Result<()> {
        if is_same_place(path, &self.adapter) {
            let message = format!("--out is the adapter's own folder, `{}`", path.display());
            return Err(InputError::new(message, "name another folder").into());
        }
        let is_taken = match format {
            Format::Gguf => path.exists(),
            Format::Peft => path.join(peft::WEIGHTS_FILE).exists() || path.is_file(),
        };
        if is_taken && !self.force {
            let message = format!("`{}` is there already", path.display());
            return Err(InputError::new(message, "--force replaces it").into());
        }
        Ok(())
    }
}

fn as_table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let program = report.program;
        text += &format!(
            "{}: {} ({})\n",
            program.name(),
            report.verdict(),
            program.release()
        );
        let rows = report.rules.iter().map(|rule| {
            let outcome = &rule.outcome;
            let why = outcome.reason().unwrap_or_default().to_owned();
            vec![format!("  {}", rule.name), outcome.name().to_owned(), why]
        });
        text += &table(&["  rule", "result", "why"], &rows.collect::<Vec<_>>());
        text += "\n";
    }
    text.trim_end().to_owned() + "\n"
}

fn as_json(reports: &[Report]) -> String {
    let reports = reports.iter().map(|report| {
        let rules = report.rules.iter().map(|rule| {
            json!({"rule": rule.name, "result": rule.outcome.name(), "why": rule.outcome.reason()})
        });
        json!({
            "program": report.program.name(),
            "release": report.program.release(),
            "verdict": report.verdict().to_string(),
            "rules": rules.collect::<Vec<_>>(),
        })
    });
    format!("{:#}\n", json!(reports.collect::<Vec<_>>()))
}

fn refuse_if_any_fails(run: &RunFolder, reports: &[Report]) -> anyhow::Result<()> {
    let failing = reports
        .iter()
        .filter(|report| report.verdict() != Verdict::Loads);
    let failing = failing.map(|report| {
        let program = report.program.name();
        match report.verdict() {
            Verdict::LoadsWrongly => format!("{program} loads it wrongly"),
            verdict => format!("{program} {verdict} it"),
        }
    });
    let failing: Vec<String> = failing.collect();
    if failing.is_empty() {
        return Ok(());
    }
    let message = format!("`{}`: {}", run.path().display(), failing.join("; "));
    let hint = "a plain LoRA (no DoRA, rsLoRA or patterns, rank at most 16) loads everywhere; \
                `rag-tune export --format gguf` writes rsLoRA and patterns for llama.cpp";
    Err(InputError::new(message, hint).into())
}
