//! Vectors in a Chroma server: for more of them than one machine should hold, or where one runs anyway.
//!
//! A collection per [`StoreIdentity`], named by its hash; ids are row numbers. Chroma's index (HNSW) is
//! approximate: `docs/augmentation.md` states how often its first pick is the exact one. What the constraints
//! rule out is found too, and left out here: see [`ChromaStore::nearest`].

mod client;
mod error;

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

pub use self::error::ChromaError;

use self::client::{ChromaClient, Collection, Hit, Hnsw};
use super::{Push, Store, StoreError, StoreIdentity};
use crate::AugmentError;
use crate::embed::Embeddings;
use crate::select::{Allowed, Example};

/// Twice Chroma's defaults (100, 100, 16) and more: on the text-to-SQL rows the first pick is then the exact one,
/// for about twice the time to build. All vectors have length 1, so `ip` orders as the cosine does.
const HNSW: Hnsw = Hnsw {
    space: "ip",
    ef_construction: 200,
    ef_search: 256,
    max_neighbors: 32,
};

/// Changes when collections made by an earlier version must not be used any more.
const LAYOUT: u32 = 1;

/// Queries a call.
const QUERY_BATCH: usize = 64;
/// Results that are asked for at first, beyond the ones wanted: constraints such as "another database" rule out
/// the nearest rows.
const SPARE_RESULTS: usize = 31;
/// Results a call, over all of its queries: some megabytes of answer.
const CALL_RESULTS: usize = 1 << 18;
/// Rows whose vectors are fetched in one call.
const FETCHED_ROWS: usize = 1024;
/// Numbers in one call that adds rows: some 10 MB of JSON.
const UPSERT_VALUES: usize = 1 << 20;

/// The train rows' vectors in a collection of a Chroma server.
///
/// Queries go out several at a time, as many as rayon has threads.
#[derive(Debug)]
pub struct ChromaStore {
    client: ChromaClient,
    /// The collection's name, for people.
    name: String,
    /// The collection's id, for calls.
    collection: String,
    rows: usize,
    dimension: usize,
}

impl ChromaStore {
    /// Opens the collection of `identity` in the server at `url`, or makes it from what `fill` pushes: the vectors
    /// of all rows, in order. Rows that an interrupted run left there are kept.
    ///
    /// # Errors
    /// [`AugmentError::Store`] with a [`ChromaError`], or with [`StoreError::WrongCount`],
    /// [`StoreError::WrongDimension`] or [`StoreError::NotFinite`] of what `fill` pushes; what `fill` returns.
    pub fn open(
        url: &str,
        identity: &StoreIdentity,
        fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
    ) -> Result<Self, AugmentError> {
        let client = ChromaClient::new(url);
        let name = collection_name(identity);
        let collection = match client.collection(&name)? {
            Some(collection) => collection,
            None => client.create(&name, &metadata(identity, None), HNSW)?,
        };
        refuse_other_source(&name, &collection, identity)?;
        let mut store = Self {
            name,
            rows: identity.rows,
            // Of a collection that is not complete, the first vectors tell.
            dimension: collection.dimension.unwrap_or(0),
            collection: collection.id.clone(),
            client,
        };
        if !is_complete(&collection) {
            store.fill(fill)?;
            store.check_held()?;
            let complete = metadata(identity, Some(store.dimension));
            store.client.set_metadata(&store.collection, &complete)?;
        }
        store.check_held()?;
        Ok(store)
    }

    /// Adds the rows that are not there yet.
    fn fill(
        &mut self,
        fill: impl FnOnce(&mut Push<'_>) -> Result<(), AugmentError>,
    ) -> Result<(), AugmentError> {
        // Rows are added in order, a call whole or not at all: what is there are the first rows.
        let held = self.client.count(&self.collection)?;
        let largest = self.client.max_batch_size()?.unwrap_or(usize::MAX);
        let mut next = 0;
        fill(&mut |vectors| {
            if self.dimension == 0 {
                self.dimension = vectors.dimension();
            }
            self.check(vectors)?;
            let batch = (UPSERT_VALUES / self.dimension).clamp(1, largest);
            let rows: Vec<&[f32]> = (0..vectors.len()).map(|row| vectors.row(row)).collect();
            let known = held.saturating_sub(next).min(rows.len());
            for (number, rows) in rows[known..].chunks(batch).enumerate() {
                let start = next + known + number * batch;
                self.client.upsert(&self.collection, start, rows)?;
            }
            next += rows.len();
            Ok(())
        })?;
        if next != self.rows {
            let (expected, found) = (self.rows, next);
            return Err(StoreError::WrongCount { expected, found }.into());
        }
        Ok(())
    }

    /// The server has as many rows as there should be.
    fn check_held(&self) -> Result<(), ChromaError> {
        let found = self.client.count(&self.collection)?;
        if found == self.rows {
            return Ok(());
        }
        Err(ChromaError::WrongCount {
            collection: self.name.clone(),
            expected: self.rows,
            found,
        })
    }

    /// The vectors fit the collection, and are numbers in JSON too.
    fn check(&self, vectors: &Embeddings) -> Result<(), StoreError> {
        let (expected, found) = (self.dimension, vectors.dimension());
        if found != expected {
            return Err(StoreError::WrongDimension { expected, found });
        }
        match vectors.values().iter().position(|value| !value.is_finite()) {
            Some(value) => Err(StoreError::NotFinite {
                row: value / expected,
            }),
            None => Ok(()),
        }
    }

    /// The nearest allowed rows of the queries at `positions`.
    fn nearest_to_batch(
        &self,
        queries: &Embeddings,
        positions: std::ops::Range<usize>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let mut found: HashMap<usize, Vec<Example>> = HashMap::new();
        let mut open: Vec<usize> = positions.clone().collect();
        let mut results = self.rows.min(n.saturating_add(SPARE_RESULTS));
        while !open.is_empty() {
            let mut unanswered = Vec::new();
            for some in open.chunks((CALL_RESULTS / results.max(1)).max(1)) {
                let vectors: Vec<&[f32]> = some.iter().map(|&query| queries.row(query)).collect();
                let hits = self.client.query(&self.collection, &vectors, results)?;
                for (&query, hits) in some.iter().zip(hits) {
                    match self.first_allowed(query, &hits, n, allowed)? {
                        Some(examples) => drop(found.insert(query, examples)),
                        None => unanswered.push((query, hits.len())),
                    }
                }
            }
            open.clear();
            for (query, hits) in unanswered {
                let rows: Vec<usize> = (0..self.rows).filter(|&row| allowed(query, row)).collect();
                // Few rows are allowed, or the graph leads to no more: more results would not help.
                if rows.len() <= results || hits < results {
                    found.insert(query, self.nearest_of(queries.row(query), &rows, n)?);
                } else {
                    open.push(query);
                }
            }
            results = self.rows.min(2 * results);
        }
        Ok(positions
            .map(|query| found.remove(&query).unwrap_or_default())
            .collect())
    }

    /// The first `n` allowed rows of `hits`; `None` if more hits are needed to tell.
    fn first_allowed(
        &self,
        query: usize,
        hits: &[Hit],
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Option<Vec<Example>>, ChromaError> {
        if let Some(Hit { row, .. }) = hits.iter().find(|hit| hit.row >= self.rows) {
            return Err(ChromaError::Answer {
                address: format!("a query of `{}`", self.name),
                problem: format!("it found row {row}, and there are {} rows", self.rows),
            });
        }
        let permitted = hits.iter().filter(|hit| allowed(query, hit.row));
        let mut examples: Vec<Example> = permitted
            .map(|&Hit { row, score }| Example { row, score })
            .collect();
        sort_by_score(&mut examples);
        examples.truncate(n);
        let furthest = hits.iter().map(|hit| hit.score).reduce(f32::min);
        // Beyond the last hit there may be a lower row of the same score.
        let settled = examples.len() == n
            && examples
                .last()
                .zip(furthest)
                .is_none_or(|(last, furthest)| last.score > furthest);
        Ok((settled || hits.len() >= self.rows).then_some(examples))
    }

    /// The `n` nearest of `rows`, compared one by one.
    fn nearest_of(
        &self,
        query: &[f32],
        rows: &[usize],
        n: usize,
    ) -> Result<Vec<Example>, AugmentError> {
        let mut nearest = Vec::new();
        for rows in rows.chunks(FETCHED_ROWS) {
            let vectors = self.vectors(rows)?;
            nearest.extend(rows.iter().enumerate().map(|(position, &row)| {
                let score = query.iter().zip(vectors.row(position)).map(|(a, b)| a * b);
                Example {
                    row,
                    // -0 becomes 0: the order below tells them apart.
                    score: score.sum::<f32>() + 0.0,
                }
            }));
            sort_by_score(&mut nearest);
            nearest.truncate(n);
        }
        Ok(nearest)
    }
}

impl Store for ChromaStore {
    fn len(&self) -> usize {
        self.rows
    }

    /// Asks for more rows than `n`, leaves out what `allowed` rules out, and asks for twice as many where too few
    /// are left. Where few rows are allowed at all, their vectors are fetched and compared one by one.
    fn nearest(
        &self,
        queries: &Embeddings,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        if n == 0 || self.rows == 0 {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        self.check(queries)?;
        let starts: Vec<usize> = (0..queries.len()).step_by(QUERY_BATCH).collect();
        let batches = starts.into_par_iter().map(|start| {
            let end = queries.len().min(start + QUERY_BATCH);
            self.nearest_to_batch(queries, start..end, n, allowed)
        });
        Ok(batches.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn vectors(&self, rows: &[usize]) -> Result<Embeddings, AugmentError> {
        let mut distinct = rows.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let mut values = Vec::with_capacity(distinct.len() * self.dimension);
        for rows in distinct.chunks(FETCHED_ROWS) {
            let vectors = self
                .client
                .vectors(&self.collection, rows, self.dimension)?;
            values.extend_from_slice(vectors.values());
        }
        let fetched = Embeddings::new(self.dimension.max(1), values);
        let ordered = rows.iter().flat_map(|row| {
            let position = distinct.binary_search(row).expect("every row was fetched");
            fetched.row(position).iter().copied()
        });
        Ok(Embeddings::new(self.dimension.max(1), ordered.collect()))
    }
}

fn sort_by_score(examples: &mut [Example]) {
    examples.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
}

/// Chroma takes names of 3 to 512 letters, digits, dots, hyphens and underscores.
fn collection_name(identity: &StoreIdentity) -> String {
    format!("rag-tune-{LAYOUT}-{}", identity.digest())
}

/// `dimension` once all rows are there.
fn metadata(identity: &StoreIdentity, dimension: Option<usize>) -> Map<String, Value> {
    let fields = json!({
        "layout": LAYOUT,
        "embedder": identity.embedder,
        "texts": identity.texts,
        "rows": identity.rows,
        "complete": dimension.is_some(),
        "dimension": dimension.unwrap_or(0),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => unreachable!("braces make an object"),
    }
}

/// The name is a hash, so this happens where someone made or changed the collection by other means.
fn refuse_other_source(
    name: &str,
    collection: &Collection,
    identity: &StoreIdentity,
) -> Result<(), ChromaError> {
    let found = collection.metadata.clone().unwrap_or_default();
    let expected = metadata(identity, None);
    for field in ["layout", "embedder", "texts", "rows"] {
        let (expected, found) = (&expected[field], found.get(field).unwrap_or(&Value::Null));
        if expected != found {
            return Err(ChromaError::OtherSource {
                collection: name.into(),
                field,
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }
    Ok(())
}

fn is_complete(collection: &Collection) -> bool {
    let metadata = collection.metadata.as_ref();
    metadata.and_then(|metadata| metadata.get("complete")) == Some(&Value::Bool(true))
}
