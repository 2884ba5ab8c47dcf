//! The part of Chroma's v2 HTTP API that a store of vectors needs.

use std::collections::HashMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ureq::Agent;
use ureq::http::Response;

use super::ChromaError;
use crate::embed::Embeddings;

/// The tenant and database that a server has from the start.
const DATABASE: &str = "tenants/default_tenant/databases/default_database";

/// A server that is there answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Adding a batch includes growing the index by it.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest answer that is read: many times what a batch of vectors needs.
const ANSWER_BYTES: u64 = 1 << 30;
/// How much of an answer that is no error message of Chroma's is quoted.
const QUOTED_CHARS: usize = 200;

/// A Chroma server, and its default database.
#[derive(Debug)]
pub(super) struct ChromaClient {
    agent: Agent,
    /// Without a slash at the end.
    url: String,
}

/// A collection as the server describes it.
#[derive(Debug, Deserialize)]
pub(super) struct Collection {
    /// What calls name it by.
    pub(super) id: String,
    /// `null` where there is none.
    pub(super) metadata: Option<Map<String, Value>>,
    /// `null` as long as it is empty.
    pub(super) dimension: Option<usize>,
}

/// How a new collection's index is built and searched.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Hnsw {
    /// `ip`: the distance is 1 minus the dot product.
    pub(super) space: &'static str,
    /// Candidates that are looked at when a row is linked into the graph.
    pub(super) ef_construction: usize,
    /// Candidates that are looked at in a search.
    pub(super) ef_search: usize,
    /// Links of a row.
    pub(super) max_neighbors: usize,
}

/// A row that a query found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hit {
    pub(super) row: usize,
    /// The dot product with the query.
    pub(super) score: f32,
}

#[derive(Deserialize)]
struct PreFlight {
    max_batch_size: Option<i64>,
}

#[derive(Serialize)]
struct Records<'a> {
    ids: Vec<String>,
    embeddings: Vec<&'a [f32]>,
}

#[derive(Serialize)]
struct Query<'a> {
    query_embeddings: Vec<&'a [f32]>,
    n_results: usize,
    include: [&'static str; 1],
}

#[derive(Deserialize)]
struct QueryAnswer {
    ids: Vec<Vec<String>>,
    distances: Option<Vec<Vec<Option<f32>>>>,
}

#[derive(Deserialize)]
struct GetAnswer {
    ids: Vec<String>,
    embeddings: Option<Vec<Vec<f32>>>,
}

/// What the server says of a call that failed.
#[derive(Deserialize)]
struct Complaint {
    message: String,
}

impl ChromaClient {
    /// For the server at `url`, such as `http://127.0.0.1:8000`. Nothing is sent yet.
    pub(super) fn new(url: &str) -> Self {
        let config = Agent::config_builder()
            // The body says what was wrong.
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(CALL_TIMEOUT));
        Self {
            agent: config.build().into(),
            url: url.trim().trim_end_matches('/').to_owned(),
        }
    }

    /// Rows that one call may add; `None` where the server names no limit.
    pub(super) fn max_batch_size(&self) -> Result<Option<usize>, ChromaError> {
        let answer: PreFlight = self.get(&self.address("pre-flight-checks"))?;
        Ok(answer
            .max_batch_size
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size > 0))
    }

    /// A collection by its name; `None` if there is none.
    pub(super) fn collection(&self, name: &str) -> Result<Option<Collection>, ChromaError> {
        let address = self.collections(name);
        match self.get(&address) {
            // Chroma's own word; any other server's 404 names no collection.
            Err(ChromaError::Status {
                status: 404,
                message,
                ..
            }) if message.contains(name) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Makes a collection, or returns the one that another process made meanwhile.
    pub(super) fn create(
        &self,
        name: &str,
        metadata: &Map<String, Value>,
        hnsw: Hnsw,
    ) -> Result<Collection, ChromaError> {
        let body = json!({
            "name": name,
            "metadata": metadata,
            "configuration": {"hnsw": hnsw},
        });
        match self.post(&self.collections(""), &body) {
            Err(conflict @ ChromaError::Status { status: 409, .. }) => {
                self.collection(name)?.ok_or(conflict)
            }
            answer => answer,
        }
    }

    /// Replaces a collection's metadata.
    pub(super) fn set_metadata(
        &self,
        collection: &str,
        metadata: &Map<String, Value>,
    ) -> Result<(), ChromaError> {
        let address = self.collections(collection);
        let body = bytes(&json!({"new_metadata": metadata}));
        let request = self.agent.put(&address);
        let sent = request.content_type("application/json").send(&body[..]);
        let _: Value = self.answer(&address, sent)?;
        Ok(())
    }

    /// Number of rows of a collection.
    pub(super) fn count(&self, collection: &str) -> Result<usize, ChromaError> {
        self.get(&self.collections(&format!("{collection}/count")))
    }

    /// Adds vectors as the rows from `start`, or sets them anew.
    pub(super) fn upsert(
        &self,
        collection: &str,
        start: usize,
        vectors: &[&[f32]],
    ) -> Result<(), ChromaError> {
        let ids = start..start + vectors.len();
        let body = Records {
            ids: ids.map(|row| row.to_string()).collect(),
            embeddings: vectors.to_vec(),
        };
        let address = self.collections(&format!("{collection}/upsert"));
        let _: Value = self.post(&address, &body)?;
        Ok(())
    }

    /// The rows nearest to each query, closest first: `results` of them, or as many as the index finds.
    pub(super) fn query(
        &self,
        collection: &str,
        queries: &[&[f32]],
        results: usize,
    ) -> Result<Vec<Vec<Hit>>, ChromaError> {
        let address = self.collections(&format!("{collection}/query"));
        let body = Query {
            query_embeddings: queries.to_vec(),
            n_results: results,
            include: ["distances"],
        };
        let answer: QueryAnswer = self.post(&address, &body)?;
        let distances = answer.distances.unwrap_or_default();
        if answer.ids.len() != queries.len() || distances.len() != queries.len() {
            let (ids, asked) = (answer.ids.len(), queries.len());
            return Err(bad_answer(
                &address,
                format!(
                    "it answers {asked} queries with {ids} lists of ids and {} of distances",
                    distances.len()
                ),
            ));
        }
        let lists = answer.ids.iter().zip(&distances);
        lists
            .map(|(ids, distances)| hits(&address, ids, distances))
            .collect()
    }

    /// The vectors of some rows, each named once, in the order asked for.
    pub(super) fn vectors(
        &self,
        collection: &str,
        rows: &[usize],
        dimension: usize,
    ) -> Result<Embeddings, ChromaError> {
        let address = self.collections(&format!("{collection}/get"));
        let ids: Vec<String> = rows.iter().map(usize::to_string).collect();
        let body = json!({"ids": ids, "include": ["embeddings"]});
        let answer: GetAnswer = self.post(&address, &body)?;
        let vectors = answer.embeddings.unwrap_or_default();
        // The server answers in an order of its own.
        let by_id: HashMap<_, _> = answer.ids.iter().zip(&vectors).collect();
        let mut values = Vec::with_capacity(rows.len() * dimension);
        for id in &ids {
            let vector = by_id
                .get(id)
                .ok_or_else(|| bad_answer(&address, format!("it has no vector of row {id}")))?;
            if vector.len() != dimension {
                let found = vector.len();
                let problem = format!("row {id} has {found} numbers, not {dimension}");
                return Err(bad_answer(&address, problem));
            }
            values.extend_from_slice(vector);
        }
        Ok(Embeddings::new(dimension, values))
    }

    fn address(&self, path: &str) -> String {
        format!("{}/api/v2/{path}", self.url)
    }

    fn collections(&self, path: &str) -> String {
        let slash = if path.is_empty() { "" } else { "/" };
        self.address(&format!("{DATABASE}/collections{slash}{path}"))
    }

    fn get<T: DeserializeOwned>(&self, address: &str) -> Result<T, ChromaError> {
        self.answer(address, self.agent.get(address).call())
    }

    fn post<T: DeserializeOwned>(
        &self,
        address: &str,
        body: &impl Serialize,
    ) -> Result<T, ChromaError> {
        let body = bytes(body);
        let request = self.agent.post(address).content_type("application/json");
        self.answer(address, request.send(&body[..]))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        address: &str,
        sent: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ChromaError> {
        let unreachable = |error: ureq::Error| ChromaError::Unreachable {
            url: self.url.clone(),
            problem: error.to_string(),
        };
        let mut answer = sent.map_err(unreachable)?;
        let status = answer.status();
        let limited = answer.body_mut().with_config().limit(ANSWER_BYTES);
        let body = limited.read_to_vec().map_err(unreachable)?;
        if !status.is_success() {
            return Err(ChromaError::Status {
                address: address.into(),
                status: status.as_u16(),
                message: message(&body),
            });
        }
        serde_json::from_slice(&body)
            .map_err(|error| bad_answer(address, format!("{error}; it begins {:?}", quote(&body))))
    }
}

fn bytes(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("numbers and texts become JSON")
}

fn hits(address: &str, ids: &[String], distances: &[Option<f32>]) -> Result<Vec<Hit>, ChromaError> {
    if ids.len() != distances.len() {
        let problem = format!("it has {} ids and {} distances", ids.len(), distances.len());
        return Err(bad_answer(address, problem));
    }
    let hit = |(id, distance): (&String, &Option<f32>)| {
        let row = id.parse().ok();
        let distance = distance.filter(|distance| distance.is_finite());
        let (Some(row), Some(distance)) = (row, distance) else {
            let problem = format!("it found the row {id:?} at the distance {distance:?}");
            return Err(bad_answer(address, problem));
        };
        Ok(Hit {
            row,
            score: 1.0 - distance,
        })
    };
    ids.iter().zip(distances).map(hit).collect()
}

fn bad_answer(address: &str, problem: String) -> ChromaError {
    ChromaError::Answer {
        address: address.into(),
        problem,
    }
}

/// Chroma's own words, or the beginning of whatever came instead.
fn message(body: &[u8]) -> String {
    match serde_json::from_slice::<Complaint>(body) {
        Ok(complaint) => complaint.message,
        Err(_) => quote(body),
    }
}

fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().chars().take(QUOTED_CHARS).collect()
}
