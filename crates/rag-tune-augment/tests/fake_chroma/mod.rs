//! As much of a Chroma server as the client speaks to, with an exact index, in this process: it can be made to
//! fail, to find little, and it remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Map, Value, json};

/// Runs until the test process ends.
pub struct FakeChroma {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// What the server holds, and how it behaves.
pub struct State {
    /// Metadata of the one collection; `None` as long as there is none.
    pub metadata: Option<Map<String, Value>>,
    pub rows: BTreeMap<usize, Vec<f32>>,
    /// Ids of each call that added rows.
    pub added: Vec<Vec<usize>>,
    pub max_batch_size: usize,
    /// A query finds no more than this many rows, like a graph that falls apart.
    pub reach: usize,
    /// Calls whose path ends so are answered with this status and body.
    pub fault: Option<(&'static str, u16, String)>,
}

const ID: &str = "0c96c99d-b983-44dc-8325-9ad530e30d7b";

impl FakeChroma {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            metadata: None,
            rows: BTreeMap::new(),
            added: Vec::new(),
            max_batch_size: 5461,
            reach: usize::MAX,
            fault: None,
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
        Self { url, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// One connection: calls until the client hangs up.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let path = path.to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = state.lock().unwrap().answer(&method, &path, &body);
        let head = format!(
            "HTTP/1.1 {status} Any\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, String) {
        if let Some((end, status, answer)) = &self.fault
            && path.ends_with(end)
        {
            return (*status, answer.clone());
        }
        let last = path.rsplit('/').next().unwrap();
        let answer = match (method, last) {
            ("GET", "pre-flight-checks") => json!({"max_batch_size": self.max_batch_size}),
            ("GET", "count") => json!(self.rows.len()),
            ("POST", "collections") => {
                self.metadata = body["metadata"].as_object().cloned();
                self.collection()
            }
            ("PUT", ID) => {
                self.metadata = body["new_metadata"].as_object().cloned();
                json!({})
            }
            ("POST", "upsert") => return self.upsert(body),
            ("POST", "query") => self.query(body),
            ("POST", "get") => self.get(body),
            ("GET", _) if self.metadata.is_some() => self.collection(),
            (_, name) => return complaint(404, &format!("Collection [{name}] does not exist")),
        };
        (200, answer.to_string())
    }

    fn collection(&self) -> Value {
        let dimension = self.rows.values().next().map(Vec::len);
        json!({"id": ID, "name": "any", "metadata": self.metadata, "dimension": dimension})
    }

    fn upsert(&mut self, body: &Value) -> (u16, String) {
        let ids: Vec<usize> = ids(body);
        if ids.len() > self.max_batch_size {
            return complaint(400, "the batch is too large");
        }
        let embeddings = body["embeddings"].as_array().unwrap();
        for (id, embedding) in ids.iter().zip(embeddings) {
            self.rows.insert(*id, vector(embedding));
        }
        self.added.push(ids);
        (200, "{}".into())
    }

    fn query(&self, body: &Value) -> Value {
        let results = body["n_results"].as_u64().unwrap() as usize;
        let mut ids = Vec::new();
        let mut distances = Vec::new();
        for query in body["query_embeddings"].as_array().unwrap() {
            let query = vector(query);
            let distance = |row: &[f32]| {
                let dot: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
                1.0 - dot
            };
            let mut hits: Vec<(f32, usize)> = self
                .rows
                .iter()
                .map(|(&id, row)| (distance(row), id))
                .collect();
            // Of equal distances the higher id first: the client's order must not rest on this one.
            hits.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            hits.truncate(results.min(self.reach));
            ids.push(hits.iter().map(|hit| hit.1.to_string()).collect::<Vec<_>>());
            distances.push(hits.iter().map(|hit| hit.0).collect::<Vec<_>>());
        }
        json!({"ids": ids, "distances": distances, "include": ["distances"]})
    }

    /// As the real one: in the order of the ids, whatever order was asked for.
    fn get(&self, body: &Value) -> Value {
        let asked = ids(body);
        let held = self.rows.iter().filter(|(id, _)| asked.contains(id));
        let (ids, embeddings): (Vec<_>, Vec<_>) =
            held.map(|(id, row)| (id.to_string(), row)).unzip();
        json!({"ids": ids, "embeddings": embeddings, "include": ["embeddings"]})
    }
}

fn complaint(status: u16, message: &str) -> (u16, String) {
    (
        status,
        json!({"error": "Error", "message": message}).to_string(),
    )
}

fn ids(body: &Value) -> Vec<usize> {
    let ids = body["ids"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().parse().unwrap())
        .collect()
}

fn vector(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}
