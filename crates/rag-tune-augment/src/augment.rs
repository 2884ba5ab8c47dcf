//! The driver: a data set's splits in, `<split>.jsonl` with prompts and a manifest out.
//!
//! Rows stream from file to file, a chunk at a time; no file gets its name before all are whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::embed::{self, Embedder, Usage};
use crate::fingerprint::sha256_of_files;
use crate::manifest::{AugmentSettings, Manifest, SplitRecord};
use crate::run::{Pending, Run};
use crate::{
    AugmentError, AugmentedRow, DataConfig, Hub, Progress, RetrievalConfig, Row, Selector, Task,
};

/// What to augment, how, and where to.
#[derive(Clone)]
pub struct AugmentRequest<'a> {
    /// The task: columns and templates.
    pub task: &'a Task,
    /// The `[data]` section.
    pub data: &'a DataConfig,
    /// The `[retrieval]` section.
    pub retrieval: &'a RetrievalConfig,
    /// The splits to augment.
    pub splits: &'a [&'a str],
    /// The folder that gets `<split>.jsonl` and `manifest.json`.
    pub out: &'a Path,
    /// What random choices are drawn by.
    pub seed: u64,
    /// How many epochs' prompts of the train split are wanted, where the noise is drawn for each
    /// epoch; else 1 serves all.
    pub epochs: usize,
    /// A folder that remembers embedded texts between runs.
    pub cache: Option<PathBuf>,
}

/// What [`augment`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmented {
    /// What the files were made from, as `manifest.json` says.
    pub manifest: Manifest,
    /// What an embedding endpoint used.
    pub usage: Usage,
    /// Train rows that equal an eval row, and so are nobody's example.
    pub excluded: usize,
}

/// Augments the requested splits.
///
/// # Errors
/// Any [`AugmentError`]; no file of `request.out` has changed then, unless the error is
/// [`AugmentError::Write`].
pub fn augment(
    request: &AugmentRequest<'_>,
    hub: &Hub,
    progress: &dyn Progress,
) -> Result<Augmented, AugmentError> {
    let inputs = Inputs::resolve(request, hub)?;
    let settings = inputs.settings(request)?;
    let run = Run::open(request, &inputs, progress)?;
    let written = run.write_pending()?;

    let mut manifest = Manifest {
        splits: kept_splits(request.out, &settings)?,
        settings,
    };
    for (
        split,
        Pending {
            rows,
            skipped,
            files,
        },
    ) in written
    {
        let outputs = output_paths(request, split);
        for file in files {
            file.commit()?;
        }
        let output_sha256 = outputs.iter().map(|path| sha256_of_files(&[path]));
        let record = SplitRecord {
            rows,
            skipped,
            input_sha256: inputs.sha256_of(split, &manifest.settings)?,
            output_sha256: output_sha256.collect::<Result<_, _>>()?,
        };
        manifest.splits.insert(split.to_owned(), record);
    }
    manifest.save(request.out)?;
    let usage = inputs.embedder.as_ref().map(|embedder| embedder.usage());
    Ok(Augmented {
        manifest,
        usage: usage.unwrap_or_default(),
        excluded: run.excluded(),
    })
}

/// A question with its prompt, and what that was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedRow {
    /// The question's fields, its prompt and the positions of its examples.
    pub row: AugmentedRow,
    /// The train rows in the prompt, as `row.examples` has them.
    pub examples: Vec<Row>,
    /// As a manifest would say.
    pub settings: AugmentSettings,
}

/// The prompt of a question that is in no split, as [`augment`] would make it for a row of an eval split. Writes nothing;
/// `request.splits` must be empty, and `request.out` is not looked at.
///
/// `fields` need no answer; constraints on columns that they lack hold for no train row (`same`) or for all (`different`).
///
/// # Errors
/// Any [`AugmentError`] but [`AugmentError::Write`].
///
/// # Panics
/// If `fields` lack a text of [`Task::asked_columns`].
pub fn augment_question(
    request: &AugmentRequest<'_>,
    fields: Map<String, Value>,
    hub: &Hub,
    progress: &dyn Progress,
) -> Result<AskedRow, AugmentError> {
    let inputs = Inputs::resolve(request, hub)?;
    let settings = inputs.settings(request)?;
    let run = Run::open(request, &inputs, progress)?;
    let (row, examples) = run.question(Row { index: 0, fields })?;
    Ok(AskedRow {
        row,
        examples,
        settings,
    })
}

/// Whether the requested splits lie in `request.out` as [`augment`] would make them now.
///
/// # Errors
/// As [`augment`], where a source cannot be found or read.
pub fn is_current(request: &AugmentRequest<'_>, hub: &Hub) -> Result<bool, AugmentError> {
    let Some(manifest) = Manifest::load(request.out)? else {
        return Ok(false);
    };
    let inputs = Inputs::resolve(request, hub)?;
    if manifest.settings != inputs.settings(request)? {
        return Ok(false);
    }
    for &split in inputs.splits.keys() {
        let outputs = output_paths(request, split);
        let there = outputs.iter().all(|output| output.is_file());
        let Some(record) = manifest.splits.get(split).filter(|_| there) else {
            return Ok(false);
        };
        // There may be more epochs than are asked for.
        if record.output_sha256.len() < outputs.len()
            || record.input_sha256 != inputs.sha256_of(split, &manifest.settings)?
        {
            return Ok(false);
        }
        for (output, expected) in outputs.iter().zip(&record.output_sha256) {
            if *expected != sha256_of_files(&[output])? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The augmented file of a split as `epoch`, from 0, sees it.
pub fn output_path(out: &Path, split: &str, epoch: usize) -> PathBuf {
    match epoch {
        0 => out.join(format!("{split}.jsonl")),
        _ => out.join(format!("{split}.epoch{}.jsonl", epoch + 1)),
    }
}

/// All files that a split becomes.
pub(crate) fn output_paths(request: &AugmentRequest<'_>, split: &str) -> Vec<PathBuf> {
    let each_epoch = split == request.data.train_split && request.retrieval.draws_each_epoch();
    let epochs = if each_epoch { request.epochs.max(1) } else { 1 };
    (0..epochs)
        .map(|epoch| output_path(request.out, split, epoch))
        .collect()
}

/// The splits of an earlier run with the same settings, whose files stay as they are.
fn kept_splits(
    out: &Path,
    settings: &AugmentSettings,
) -> Result<BTreeMap<String, SplitRecord>, AugmentError> {
    let earlier = Manifest::load(out)?.filter(|manifest| manifest.settings == *settings);
    Ok(earlier.map(|manifest| manifest.splits).unwrap_or_default())
}

/// The local files of a request.
pub(crate) struct Inputs<'a> {
    pub(crate) splits: BTreeMap<&'a str, Vec<PathBuf>>,
    /// `None` without examples.
    pub(crate) train: Option<Vec<PathBuf>>,
    /// `None` where no text is embedded.
    pub(crate) embedder: Option<Box<dyn Embedder>>,
}

impl<'a> Inputs<'a> {
    fn resolve(request: &AugmentRequest<'a>, hub: &Hub) -> Result<Self, AugmentError> {
        let AugmentRequest {
            data, retrieval, ..
        } = request;
        let files = |split: &str| hub.split_files(data, split);
        let splits = request.splits.iter().map(|&name| Ok((name, files(name)?)));
        let train = (retrieval.examples > 0).then(|| files(&data.train_split));
        let embedder = retrieval
            .needs_embedder()
            .then(|| embed::open(retrieval, hub));
        Ok(Self {
            splits: splits.collect::<Result<_, AugmentError>>()?,
            train: train.transpose()?,
            embedder: embedder.transpose()?,
        })
    }

    /// The digest of a split's files; the train split's was taken for `settings` already.
    fn sha256_of(&self, split: &str, settings: &AugmentSettings) -> Result<String, AugmentError> {
        match &settings.knowledge_base_sha256 {
            Some(known) if split == settings.data.train_split => Ok(known.clone()),
            _ => sha256_of_files(&self.splits[split]),
        }
    }

    fn settings(&self, request: &AugmentRequest<'_>) -> Result<AugmentSettings, AugmentError> {
        let retrieval = request.retrieval;
        let draws = retrieval.examples > 0
            && (retrieval.selector == Selector::Random || retrieval.has_noise());
        let train = self.train.as_deref().map(sha256_of_files);
        let drafts = retrieval
            .reads_drafts()
            .then(|| sha256_of_files(&[&retrieval.drafts]));
        Ok(AugmentSettings {
            rag_tune_version: env!("CARGO_PKG_VERSION").into(),
            task: request.task.clone(),
            data: request.data.clone(),
            retrieval: retrieval.clone(),
            seed: draws.then_some(request.seed),
            template_sha256: request.task.template_sha256(),
            embedder_sha256: self
                .embedder
                .as_ref()
                .map(|embedder| embedder.fingerprint().to_owned()),
            knowledge_base_sha256: train.transpose()?,
            drafts_sha256: drafts.transpose()?,
        })
    }
}
