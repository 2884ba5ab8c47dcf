//! The driver: a data set's splits in, `<split>.jsonl` with prompts and a manifest out.
//!
//! Rows stream from file to file, a chunk at a time; no file gets its name before all are whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::atomic_file::PendingFile;
use crate::augmented_row::{ADDED_FIELDS, AugmentedRow};
use crate::dataset::{DataError, Reading, Split};
use crate::embed::{self, Embedder};
use crate::fingerprint::sha256_of_files;
use crate::manifest::{AugmentSettings, Manifest, SplitRecord};
use crate::prompt::PromptTemplate;
use crate::select::{Constraints, Example, Queries, Select, Sources};
use crate::{AugmentError, DataConfig, Hub, Progress, RetrievalConfig, Row, Selector, Task};

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
    /// A folder that remembers embedded texts between runs.
    pub cache: Option<PathBuf>,
}

/// Rows that are read, given examples and written together.
const CHUNK: usize = 4096;

/// Augments the requested splits.
///
/// # Errors
/// Any [`AugmentError`]; no file of `request.out` has changed then, unless the error is
/// [`AugmentError::Write`].
pub fn augment(
    request: &AugmentRequest<'_>,
    hub: &Hub,
    progress: &dyn Progress,
) -> Result<Manifest, AugmentError> {
    let inputs = Inputs::resolve(request, hub)?;
    let settings = inputs.settings(request)?;
    let run = Run::open(request, &inputs, progress)?;
    let written = run.write_pending()?;

    let mut manifest = Manifest {
        splits: kept_splits(request.out, &settings)?,
        settings,
    };
    for (split, (rows, file)) in written {
        file.commit()?;
        let record = SplitRecord {
            rows,
            input_sha256: sha256_of_files(&inputs.splits[split])?,
            output_sha256: sha256_of_files(&[output_path(request.out, split)])?,
        };
        manifest.splits.insert(split.to_owned(), record);
    }
    manifest.save(request.out)?;
    Ok(manifest)
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
    for (&split, input) in &inputs.splits {
        let output = output_path(request.out, split);
        let Some(record) = manifest.splits.get(split).filter(|_| output.is_file()) else {
            return Ok(false);
        };
        if record.input_sha256 != sha256_of_files(input)?
            || record.output_sha256 != sha256_of_files(&[output])?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn output_path(out: &Path, split: &str) -> PathBuf {
    out.join(format!("{split}.jsonl"))
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
struct Inputs<'a> {
    splits: BTreeMap<&'a str, Vec<PathBuf>>,
    /// `None` without examples.
    train: Option<Vec<PathBuf>>,
    /// `None` where no text is embedded.
    embedder: Option<Box<dyn Embedder>>,
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

    fn settings(&self, request: &AugmentRequest<'_>) -> Result<AugmentSettings, AugmentError> {
        let draws =
            request.retrieval.examples > 0 && request.retrieval.selector == Selector::Random;
        let train = self.train.as_deref().map(sha256_of_files);
        Ok(AugmentSettings {
            rag_tune_version: env!("CARGO_PKG_VERSION").into(),
            task: request.task.clone(),
            data: request.data.clone(),
            retrieval: request.retrieval.clone(),
            seed: draws.then_some(request.seed),
            template_sha256: request.task.template_sha256(),
            embedder_sha256: self
                .embedder
                .as_ref()
                .map(|embedder| embedder.fingerprint().to_owned()),
            knowledge_base_sha256: train.transpose()?,
        })
    }
}

/// The opened splits of a request.
struct Run<'a> {
    request: &'a AugmentRequest<'a>,
    template: PromptTemplate,
    queries: BTreeMap<&'a str, Split>,
    /// `None` without examples.
    knowledge: Option<Knowledge>,
    embedder: Option<&'a dyn Embedder>,
    progress: &'a dyn Progress,
}

/// What examples are taken from.
struct Knowledge {
    train: Split,
    constraints: Constraints,
}

impl<'a> Run<'a> {
    fn open(
        request: &'a AugmentRequest<'a>,
        inputs: &'a Inputs<'a>,
        progress: &'a dyn Progress,
    ) -> Result<Self, AugmentError> {
        let mut required = request.task.columns();
        let id = Some(request.data.id.as_str()).filter(|id| !id.is_empty());
        let constraints = Constraints::new(request.task, request.retrieval, id)?;
        if request.retrieval.examples > 0 {
            required.extend(constraints.columns());
        }
        let reading = Reading {
            columns: &request.data.columns,
            required: &required,
            filled: &[&request.task.query_column, &request.task.answer_column],
            id,
            bad_rows: request.data.bad_rows,
        };
        let open = |files: &Vec<PathBuf>| Split::open(files, &reading);
        let train = inputs.train.as_ref().map(open).transpose()?;
        let queries = inputs
            .splits
            .iter()
            .map(|(name, files)| Ok((*name, open(files)?)));
        Ok(Self {
            request,
            template: PromptTemplate::new(request.task)?,
            queries: queries.collect::<Result<_, AugmentError>>()?,
            knowledge: train
                .map(|train| Knowledge::new(train, request))
                .transpose()?,
            embedder: inputs.embedder.as_deref(),
            progress,
        })
    }

    /// Number of rows and the uncommitted file of each split.
    fn write_pending(&self) -> Result<BTreeMap<&'a str, (usize, PendingFile)>, AugmentError> {
        let knowledge = self.knowledge.as_ref();
        let selector = knowledge.map(|knowledge| self.sources(knowledge).selector());
        let selector = selector.transpose()?;
        let mut files = BTreeMap::new();
        for (&name, split) in &self.queries {
            let mut file = PendingFile::create(&output_path(self.request.out, name))?;
            for start in (0..split.len()).step_by(CHUNK) {
                let rows = split.rows(start..split.len().min(start + CHUNK))?;
                refuse_added_fields(split.path(), &rows)?;
                let queries = Queries {
                    split: name,
                    own: name == self.request.data.train_split,
                    start,
                    split_rows: split.len(),
                    rows: &rows,
                };
                let examples = match (knowledge, &selector) {
                    (Some(knowledge), Some(selector)) => {
                        self.choose(knowledge, selector.as_ref(), &queries)?
                    }
                    _ => vec![Vec::new(); rows.len()],
                };
                let augmented = rows
                    .into_par_iter()
                    .zip(examples)
                    .map(|(row, examples)| self.augmented(row, examples));
                for row in augmented.collect::<Result<Vec<_>, AugmentError>>()? {
                    file.json_line(&row)?;
                }
            }
            files.insert(name, (split.len(), file));
        }
        Ok(files)
    }

    fn sources<'s>(&'s self, knowledge: &'s Knowledge) -> Sources<'s> {
        Sources {
            task: self.request.task,
            retrieval: self.request.retrieval,
            train: &knowledge.train,
            seed: self.request.seed,
            embedder: self.embedder,
            cache: self.request.cache.as_deref(),
            progress: self.progress,
        }
    }

    fn choose(
        &self,
        knowledge: &Knowledge,
        selector: &dyn Select,
        queries: &Queries<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let wanted = self.request.retrieval.examples;
        let own_start = queries.own.then_some(queries.start);
        let constraints = knowledge.constraints.of_queries(queries.rows, own_start);
        let allowed = |query, row| constraints.allows(query, row);
        let chosen = selector.select(queries, wanted, &allowed)?;
        if let Some(problem) = constraints.problem() {
            return Err(problem.into());
        }
        let found = |query: usize| chosen[query].len();
        match (0..chosen.len()).find(|query| found(*query) < wanted) {
            None => Ok(chosen),
            Some(query) => Err(constraints
                .too_few_examples(queries, query, found(query), wanted)
                .into()),
        }
    }

    fn augmented(&self, row: Row, examples: Vec<Example>) -> Result<AugmentedRow, AugmentError> {
        let rows = match &self.knowledge {
            Some(knowledge) => examples
                .iter()
                .map(|example| knowledge.train.row(example.row))
                .collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let prompt = self
            .template
            .render(&row, &rows.iter().collect::<Vec<_>>())?;
        Ok(AugmentedRow {
            fields: row.fields,
            inference_prompt: prompt.inference_prompt,
            full_prompt: prompt.full_prompt,
            examples,
        })
    }
}

impl Knowledge {
    fn new(train: Split, request: &AugmentRequest<'_>) -> Result<Self, AugmentError> {
        let id = &request.data.id;
        let id = (!id.is_empty()).then_some(id.as_str());
        let mut constraints = Constraints::new(request.task, request.retrieval, id)?;
        for start in (0..train.len()).step_by(CHUNK) {
            constraints.push(&train.rows(start..train.len().min(start + CHUNK))?);
        }
        Ok(Self { train, constraints })
    }
}

fn refuse_added_fields(path: &Path, rows: &[Row]) -> Result<(), AugmentError> {
    for row in rows {
        if let Some(&field) = ADDED_FIELDS
            .iter()
            .find(|field| row.fields.contains_key(**field))
        {
            let path = path.to_owned();
            return Err(DataError::ReservedField {
                path,
                row: row.index,
                field,
            }
            .into());
        }
    }
    Ok(())
}
