//! One run of the driver: rows stream from the source through selection into prompts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use crate::atomic_file::PendingFile;
use crate::augment::{Inputs, output_paths};
use crate::augmented_row::{ADDED_FIELDS, AugmentedRow};
use crate::dataset::{DataError, LeakedRows, Reading, Split};
use crate::embed::Embedder;
use crate::leakage::EvalRows;
use crate::prompt::PromptTemplate;
use crate::select::{
    Constraints, Example, Noise, Queries, RandomSelector, Select, Sources, arrange,
};
use crate::{AugmentError, AugmentRequest, Progress, Row};

/// Rows that are read, given examples and written together.
const CHUNK: usize = 4096;

/// The opened splits of a request.
pub(crate) struct Run<'a> {
    request: &'a AugmentRequest<'a>,
    template: PromptTemplate,
    queries: BTreeMap<&'a str, Arc<Split>>,
    /// `None` without examples.
    knowledge: Option<Knowledge>,
    embedder: Option<&'a dyn Embedder>,
    progress: &'a dyn Progress,
}

/// A split, of which every row has what the task and the constraints read.
pub(crate) fn open_split(
    request: &AugmentRequest<'_>,
    files: &[PathBuf],
) -> Result<Split, AugmentError> {
    let constraints = constraints(request)?;
    let mut required = request.task.columns();
    if request.retrieval.examples > 0 {
        required.extend(constraints.columns());
    }
    let further = request.task.further_columns();
    let given: Vec<&str> = further.iter().map(String::as_str).collect();
    let reading = Reading {
        columns: &request.data.columns,
        required: &required,
        given: &given,
        filled: &[&request.task.query_column, &request.task.answer_column],
        id: request.data.id(),
        bad_rows: request.data.bad_rows,
    };
    Split::open(files, &reading)
}

fn constraints(request: &AugmentRequest<'_>) -> Result<Constraints, AugmentError> {
    Ok(Constraints::new(
        request.task,
        request.retrieval,
        request.data.id(),
    )?)
}

/// What examples are taken from.
struct Knowledge {
    /// The train split itself where that is augmented too: it is read and checked once.
    train: Arc<Split>,
    constraints: Constraints,
    excluded: usize,
}

/// A split whose files still have temporary names.
pub(crate) struct Pending {
    pub(crate) rows: usize,
    pub(crate) skipped: usize,
    /// One an epoch.
    pub(crate) files: Vec<PendingFile>,
}

impl<'a> Run<'a> {
    pub(crate) fn open(
        request: &'a AugmentRequest<'a>,
        inputs: &'a Inputs<'a>,
        progress: &'a dyn Progress,
    ) -> Result<Self, AugmentError> {
        let open = |files: &[PathBuf]| open_split(request, files).map(Arc::new);
        let splits = inputs.splits.iter();
        let queries = splits.map(|(name, files)| Ok((*name, open(files)?)));
        let queries = queries.collect::<Result<BTreeMap<_, _>, AugmentError>>()?;
        let own = request.data.train_split.as_str();
        let knowledge = match (&inputs.train, queries.get(own)) {
            (None, _) => None,
            (Some(_), Some(train)) => Some(Arc::clone(train)),
            (Some(files), None) => Some(open(files)?),
        };
        let knowledge = knowledge.map(|train| Knowledge::new(train, request, &queries));
        let knowledge = knowledge.transpose()?;
        Ok(Self {
            request,
            template: PromptTemplate::new(request.task)?,
            queries,
            knowledge,
            embedder: inputs.embedder.as_deref(),
            progress,
        })
    }

    /// Train rows that equal an eval row.
    pub(crate) fn excluded(&self) -> usize {
        self.knowledge
            .as_ref()
            .map_or(0, |knowledge| knowledge.excluded)
    }

    /// The uncommitted files of each split.
    pub(crate) fn write_pending(&self) -> Result<BTreeMap<&'a str, Pending>, AugmentError> {
        let chooser = self
            .knowledge
            .as_ref()
            .map(|knowledge| Chooser::new(self, knowledge));
        let chooser = chooser.transpose()?;
        let mut pending = BTreeMap::new();
        for (&name, split) in &self.queries {
            self.progress
                .start(&format!("augment {name}"), split.len() as u64);
            let files = self.write_split(name, split, chooser.as_ref())?;
            self.progress.finish();
            let written = Pending {
                rows: split.len(),
                skipped: split.skipped(),
                files,
            };
            pending.insert(name, written);
        }
        Ok(pending)
    }

    fn write_split(
        &self,
        name: &str,
        split: &Split,
        chooser: Option<&Chooser<'_>>,
    ) -> Result<Vec<PendingFile>, AugmentError> {
        let paths = output_paths(self.request, name);
        let mut files = paths
            .iter()
            .map(|path| PendingFile::create(path))
            .collect::<Result<Vec<_>, _>>()?;
        for range in split.chunks(CHUNK) {
            let start = range.start;
            let rows = split.rows(range)?;
            refuse_added_fields(split, &rows)?;
            let queries = Queries {
                split: name,
                own: name == self.request.data.train_split,
                start,
                split_rows: split.len(),
                rows: &rows,
            };
            let examples = match chooser {
                Some(chooser) => chooser.choose(&queries, files.len())?,
                None => vec![vec![Vec::new(); rows.len()]; files.len()],
            };
            for (file, examples) in files.iter_mut().zip(examples) {
                let augmented = rows.par_iter().zip(examples);
                let lines = augmented
                    .map(|(row, examples)| self.line(row, examples))
                    .collect::<Result<Vec<_>, AugmentError>>()?;
                for line in lines {
                    file.json_line(&line)?;
                }
            }
            self.progress.advance(rows.len() as u64);
        }
        Ok(files)
    }

    /// A question that is in no split, with its prompt and the train rows in it.
    pub(crate) fn question(&self, mut row: Row) -> Result<(AugmentedRow, Vec<Row>), AugmentError> {
        // Nobody has answered it, and the full prompt of a row has an answer.
        let answer = self.request.task.answer_column.clone();
        row.fields.insert(answer, Value::String(String::new()));
        let queries = Queries {
            split: "question",
            own: false,
            start: 0,
            split_rows: 1,
            rows: std::slice::from_ref(&row),
        };
        let examples = match &self.knowledge {
            Some(knowledge) => {
                let mut chosen = Chooser::new(self, knowledge)?.choose(&queries, 1)?;
                chosen.remove(0).remove(0)
            }
            None => Vec::new(),
        };
        let rows = self.example_rows(&examples)?;
        Ok((self.line(&row, examples)?, rows))
    }

    fn example_rows(&self, examples: &[Example]) -> Result<Vec<Row>, AugmentError> {
        let Some(knowledge) = &self.knowledge else {
            return Ok(Vec::new());
        };
        let rows = examples
            .iter()
            .map(|example| knowledge.train.row(example.row));
        rows.collect()
    }

    fn line(&self, row: &Row, examples: Vec<Example>) -> Result<AugmentedRow, AugmentError> {
        let rows = self.example_rows(&examples)?;
        let prompt = self
            .template
            .render(row, &rows.iter().collect::<Vec<_>>())?;
        Ok(AugmentedRow {
            fields: row.fields.clone(),
            inference_prompt: prompt.inference_prompt,
            full_prompt: prompt.full_prompt,
            examples,
        })
    }
}

impl Knowledge {
    fn new(
        train: Arc<Split>,
        request: &AugmentRequest<'_>,
        queries: &BTreeMap<&str, Arc<Split>>,
    ) -> Result<Self, AugmentError> {
        let mut constraints = constraints(request)?;
        let own = &request.data.train_split;
        let others = queries.iter().filter(|(name, _)| *name != own);
        let others = others.map(|(name, split)| (*name, split.as_ref()));
        let eval_rows = EvalRows::read(request.task, others)?;
        let mut excluded = 0;
        for range in train.chunks(CHUNK) {
            let rows = train.rows(range)?;
            constraints.push(&rows);
            for row in &rows {
                match (eval_rows.equal_to(row), request.data.leaked_rows) {
                    (None, _) => {}
                    (Some(leak), LeakedRows::Refuse) => return Err(leak.as_error(own, row)),
                    (Some(_), LeakedRows::Exclude) => {
                        constraints.exclude(row.index);
                        excluded += 1;
                    }
                }
            }
        }
        Ok(Self {
            train,
            constraints,
            excluded,
        })
    }
}

/// Chooses examples: the selector, within the constraints, and the noise of training prompts.
struct Chooser<'a> {
    request: &'a AugmentRequest<'a>,
    knowledge: &'a Knowledge,
    selector: Box<dyn Select + 'a>,
}

impl<'a> Chooser<'a> {
    fn new(run: &'a Run<'a>, knowledge: &'a Knowledge) -> Result<Self, AugmentError> {
        let sources = Sources {
            task: run.request.task,
            retrieval: run.request.retrieval,
            train: &knowledge.train,
            seed: run.request.seed,
            embedder: run.embedder,
            cache: run.request.cache.as_deref(),
            progress: run.progress,
        };
        Ok(Self {
            request: run.request,
            knowledge,
            selector: sources.selector()?,
        })
    }

    /// For each epoch, the examples of each query in the order of the prompt.
    fn choose(
        &self,
        queries: &Queries<'_>,
        epochs: usize,
    ) -> Result<Vec<Vec<Vec<Example>>>, AugmentError> {
        let retrieval = self.request.retrieval;
        let own_start = queries.own.then_some(queries.start);
        let constraints = self
            .knowledge
            .constraints
            .of_queries(queries.rows, own_start);
        let allowed = |query, row| constraints.allows(query, row);
        let wanted = retrieval.examples;
        let select = |selector: &dyn Select| -> Result<_, AugmentError> {
            let mut chosen = selector.select(queries, wanted, &allowed)?;
            if let Some(problem) = constraints.problem() {
                return Err(problem.into());
            }
            let too_few = chosen
                .iter()
                .position(|examples: &Vec<Example>| examples.len() < wanted);
            if let Some(query) = too_few {
                let found = chosen[query].len();
                let error = constraints.too_few_examples(queries, query, found, wanted);
                return Err(error.into());
            }
            for examples in &mut chosen {
                arrange(examples, retrieval.order);
            }
            Ok(chosen)
        };
        let nearest = select(self.selector.as_ref())?;
        if !queries.own || !retrieval.has_noise() {
            return Ok(vec![nearest; epochs]);
        }
        let with_noise = |epoch: usize| {
            let seed = Noise::seed(self.request.seed, epoch);
            let drawn = select(&RandomSelector::new(seed, self.knowledge.train.len()))?;
            let rows = nearest.iter().zip(drawn).enumerate();
            let noisy = rows.map(|(query, (nearest, drawn))| {
                let row = queries.start + query;
                match Noise::of(self.request.seed, epoch, row, retrieval) {
                    Noise::Keep => nearest.clone(),
                    Noise::Random => drawn,
                    Noise::None => Vec::new(),
                }
            });
            Ok(noisy.collect())
        };
        (0..epochs).map(with_noise).collect()
    }
}

fn refuse_added_fields(split: &Split, rows: &[Row]) -> Result<(), AugmentError> {
    for row in rows {
        if let Some(&field) = ADDED_FIELDS
            .iter()
            .find(|field| row.fields.contains_key(**field))
        {
            return Err(DataError::ReservedField {
                path: split.path().to_owned(),
                row: row.index,
                field,
            }
            .into());
        }
    }
    Ok(())
}
