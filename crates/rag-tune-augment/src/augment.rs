//! The driver: a data set's splits in, `<split>.jsonl` with prompts and a manifest out.
//!
//! Nothing is written before everything is computed, and every file appears whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::atomic_file::PendingFile;
use crate::augmented_row::{ADDED_FIELDS, AugmentedRow};
use crate::dataset::read_jsonl;
use crate::embed::{BertEmbedder, Embeddings, embed_cached};
use crate::fingerprint::sha256_of_file;
use crate::knowledge_base::KnowledgeBase;
use crate::manifest::{AugmentSettings, Manifest, SplitRecord};
use crate::prompt::PromptTemplate;
use crate::select::{Eligibility, Example, Origin, random, semantic};
use crate::{
    AugmentError, DataConfig, Hub, Progress, RetrievalConfig, Row, Selector, Task, TaskKind,
};

/// What to augment, how, and where to.
#[derive(Debug, Clone)]
pub struct AugmentRequest<'a> {
    /// The task: columns and template.
    pub task: TaskKind,
    /// The `[data]` section.
    pub data: &'a DataConfig,
    /// The `[retrieval]` section.
    pub retrieval: &'a RetrievalConfig,
    /// The splits to augment.
    pub splits: &'a [&'a str],
    /// The folder that gets `<split>.jsonl` and `manifest.json`.
    pub out: &'a Path,
    /// What the random selector draws by.
    pub seed: u64,
    /// A folder that remembers embedded texts between runs.
    pub cache: Option<PathBuf>,
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
) -> Result<Manifest, AugmentError> {
    let inputs = Inputs::resolve(request, hub)?;
    let settings = inputs.settings(request)?;
    let splits = Splits::read(request, &inputs)?;
    let examples = splits.choose_examples(request, &inputs, progress)?;
    let written = splits.write_pending(request, &examples)?;

    let mut manifest = Manifest {
        splits: kept_splits(request.out, &settings)?,
        settings,
    };
    for (split, (rows, file)) in written {
        file.commit()?;
        let record = SplitRecord {
            rows,
            input_sha256: sha256_of_file(&inputs.splits[split])?,
            output_sha256: sha256_of_file(&output_path(request.out, split))?,
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
        if record.input_sha256 != sha256_of_file(input)?
            || record.output_sha256 != sha256_of_file(&output)?
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
    splits: BTreeMap<&'a str, PathBuf>,
    /// `None` without examples.
    train: Option<PathBuf>,
    /// `None` where no text is embedded.
    embedder: Option<PathBuf>,
}

impl<'a> Inputs<'a> {
    fn resolve(request: &AugmentRequest<'a>, hub: &Hub) -> Result<Self, AugmentError> {
        let AugmentRequest {
            data, retrieval, ..
        } = request;
        let split = |name: &str| hub.dataset(&data.source, name);
        let splits = request.splits.iter().map(|&name| Ok((name, split(name)?)));
        let train = (retrieval.examples > 0).then(|| split(&data.train_split));
        let embedder = retrieval
            .needs_embedder()
            .then(|| hub.model(&retrieval.embedder));
        Ok(Self {
            splits: splits.collect::<Result<_, AugmentError>>()?,
            train: train.transpose()?,
            embedder: embedder.transpose()?,
        })
    }

    fn settings(&self, request: &AugmentRequest<'_>) -> Result<AugmentSettings, AugmentError> {
        let draws =
            request.retrieval.examples > 0 && request.retrieval.selector == Selector::Random;
        let embedder = self.embedder.as_deref().map(BertEmbedder::fingerprint_of);
        let train = self.train.as_deref().map(sha256_of_file);
        Ok(AugmentSettings {
            rag_tune_version: env!("CARGO_PKG_VERSION").into(),
            task: request.task,
            source: request.data.source.clone(),
            train_split: request.data.train_split.clone(),
            retrieval: request.retrieval.clone(),
            seed: draws.then_some(request.seed),
            template_sha256: request.task.task().template_sha256(),
            embedder_sha256: embedder.transpose()?,
            knowledge_base_sha256: train.transpose()?,
        })
    }
}

/// The rows of a request.
struct Splits<'a> {
    task: &'static Task,
    /// The rows that examples are taken from; empty without examples.
    train: Vec<Row>,
    /// The splits to augment.
    queries: BTreeMap<&'a str, Vec<Row>>,
}

/// The examples of each row of each split.
type Chosen<'a> = BTreeMap<&'a str, Vec<Vec<Example>>>;

impl<'a> Splits<'a> {
    fn read(request: &AugmentRequest<'a>, inputs: &Inputs<'a>) -> Result<Self, AugmentError> {
        let task = request.task.task();
        let mut required = task.fields.to_vec();
        if request.retrieval.examples > 0 {
            required.extend(request.retrieval.different.iter().map(String::as_str));
        }
        let train = inputs
            .train
            .as_deref()
            .map(|path| read_jsonl(path, &required));
        let queries = inputs.splits.iter().map(|(&name, path)| {
            let rows = read_jsonl(path, &required)?;
            refuse_added_fields(path, &rows)?;
            Ok((name, rows))
        });
        Ok(Self {
            task,
            train: train.transpose()?.unwrap_or_default(),
            queries: queries.collect::<Result<_, AugmentError>>()?,
        })
    }

    fn choose_examples(
        &self,
        request: &AugmentRequest<'a>,
        inputs: &Inputs<'a>,
        progress: &dyn Progress,
    ) -> Result<Chosen<'a>, AugmentError> {
        let wanted = request.retrieval.examples;
        if wanted == 0 {
            let none = self
                .queries
                .iter()
                .map(|(&name, rows)| (name, vec![Vec::new(); rows.len()]));
            return Ok(none.collect());
        }
        let vectors = match &inputs.embedder {
            Some(folder) => Some(self.embed(folder, request.cache.as_deref(), progress)?),
            None => None,
        };
        let mut chosen = Chosen::new();
        for (&name, rows) in &self.queries {
            let eligible = self.eligibility(request, name, rows);
            let examples = match &vectors {
                Some((train, queries)) => semantic(train, &queries[name], &eligible, wanted),
                None => random(request.seed, name, &eligible, wanted),
            };
            self.require_enough(name, &examples, wanted)?;
            chosen.insert(name, examples);
        }
        Ok(chosen)
    }

    fn eligibility(&self, request: &AugmentRequest<'_>, split: &str, rows: &[Row]) -> Eligibility {
        let origin = if split == request.data.train_split {
            Origin::KnowledgeBase
        } else {
            Origin::OtherSplit
        };
        let different = &request.retrieval.different;
        Eligibility::new(self.task.query_field, different, &self.train, rows, origin)
    }

    fn embed(
        &self,
        folder: &Path,
        cache: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<(KnowledgeBase, BTreeMap<&'a str, Embeddings>), AugmentError> {
        let embedder = BertEmbedder::load(folder)?;
        let embed = |rows: &[Row]| {
            let texts: Vec<&str> = rows
                .iter()
                .map(|row| row.text(self.task.query_field))
                .collect();
            embed_cached(&embedder, cache, &texts, progress)
        };
        let train = KnowledgeBase::new(embed(&self.train)?);
        let queries = self
            .queries
            .iter()
            .map(|(&name, rows)| Ok((name, embed(rows)?)));
        Ok((train, queries.collect::<Result<_, AugmentError>>()?))
    }

    fn require_enough(
        &self,
        split: &str,
        chosen: &[Vec<Example>],
        wanted: usize,
    ) -> Result<(), AugmentError> {
        match chosen
            .iter()
            .enumerate()
            .find(|(_, examples)| examples.len() < wanted)
        {
            None => Ok(()),
            Some((row, examples)) => Err(AugmentError::TooFewExamples {
                split: split.into(),
                row,
                available: examples.len(),
                rows: self.train.len(),
                wanted,
            }),
        }
    }

    /// Number of rows and the uncommitted file of each split.
    fn write_pending(
        &self,
        request: &AugmentRequest<'_>,
        chosen: &Chosen<'a>,
    ) -> Result<BTreeMap<&'a str, (usize, PendingFile)>, AugmentError> {
        let template = PromptTemplate::new(self.task)?;
        let mut files = BTreeMap::new();
        for (&name, rows) in &self.queries {
            let mut file = PendingFile::create(&output_path(request.out, name))?;
            for (row, examples) in rows.iter().zip(&chosen[name]) {
                file.json_line(&self.augmented(&template, row, examples)?)?;
            }
            files.insert(name, (rows.len(), file));
        }
        Ok(files)
    }

    fn augmented(
        &self,
        template: &PromptTemplate,
        row: &Row,
        examples: &[Example],
    ) -> Result<AugmentedRow, AugmentError> {
        let rows: Vec<&Row> = examples
            .iter()
            .map(|example| &self.train[example.row])
            .collect();
        let prompt = template.render(row, &rows)?;
        Ok(AugmentedRow {
            fields: row.fields.clone(),
            inference_prompt: prompt.inference_prompt,
            full_prompt: prompt.full_prompt,
            examples: examples.to_vec(),
        })
    }
}

fn refuse_added_fields(path: &Path, rows: &[Row]) -> Result<(), AugmentError> {
    for row in rows {
        if let Some(&field) = ADDED_FIELDS
            .iter()
            .find(|field| row.fields.contains_key(**field))
        {
            let path = path.to_owned();
            return Err(AugmentError::ReservedField {
                path,
                row: row.index,
                field,
            });
        }
    }
    Ok(())
}
