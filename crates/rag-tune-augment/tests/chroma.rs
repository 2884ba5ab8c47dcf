//! The Chroma store against a real server, which the test starts: CHROMA_BIN, or what `scripts/chroma-server.sh`
//! installed. Skipped without one.
#![allow(
    clippy::print_stderr,
    reason = "a skipped test says so, the comparison what it saw"
)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::mirror_with;
use rag_tune_augment::embed::Embeddings;
use rag_tune_augment::select::StoreKind;
use rag_tune_augment::stores::{ChromaStore, Store, StoreIdentity};
use rag_tune_augment::{
    AugmentError, AugmentRequest, DataConfig, Hub, RetrievalConfig, Task, augment, read_augmented,
};

const MODEL: &str = "models/sentence-transformers/all-MiniLM-L6-v2";
const DATA: &str = "datasets/samlhuillier/sql-create-context-spider-intersect";

/// A server with a folder of its own; ends with the test.
struct Server {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// `None` where Chroma is not installed.
fn start_server() -> Option<Server> {
    let installed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/chroma-venv/bin/chroma");
    let program = std::env::var_os("CHROMA_BIN").map_or(installed, PathBuf::from);
    if !program.exists() {
        eprintln!("skipped: no Chroma server (CHROMA_BIN, or scripts/chroma-server.sh --install)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let process = Command::new(program)
        .args(["run", "--host", "127.0.0.1", "--port", &port, "--path"])
        .arg(folder.path())
        .env("ANONYMIZED_TELEMETRY", "False")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server {
        process,
        url: format!("http://127.0.0.1:{port}"),
        _folder: folder,
    };
    let started = Instant::now();
    let heartbeat = format!("{}/api/v2/heartbeat", server.url);
    while ureq::get(&heartbeat).call().is_err() {
        let ended = server.process.try_wait().unwrap();
        assert_eq!(ended, None, "Chroma ended");
        assert!(started.elapsed() < Duration::from_secs(120), "no heartbeat");
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(server)
}

/// Free a moment ago: as near to a port of its own as a server that takes a number can come.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn identity(rows: usize) -> StoreIdentity {
    StoreIdentity {
        embedder: "some embedder".into(),
        texts: "some texts".into(),
        rows,
    }
}

/// Unit vectors from a fixed sequence of numbers, around 50 directions: texts come in clusters too.
fn unit_vectors(rows: usize, dimension: usize) -> Embeddings {
    let mut state = 42u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let centres: Vec<f32> = (0..50 * dimension).map(|_| uniform()).collect();
    let mut values = Vec::with_capacity(rows * dimension);
    for row in 0..rows {
        let centre = &centres[row % 50 * dimension..][..dimension];
        let vector: Vec<f32> = centre.iter().map(|value| value + uniform()).collect();
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.extend(vector.iter().map(|value| value / length));
    }
    Embeddings::new(dimension, values)
}

#[test]
fn a_real_server_finds_what_exact_search_finds() {
    let Some(server) = start_server() else { return };
    let vectors = unit_vectors(3000, 48);
    let half = Embeddings::new(48, vectors.values()[..1500 * 48].to_vec());
    let interrupted = ChromaStore::open(&server.url, &identity(3000), |push| {
        push(&half)?;
        Err(AugmentError::PathNotFound {
            path: "stop".into(),
        })
    });
    assert!(matches!(
        interrupted,
        Err(AugmentError::PathNotFound { .. })
    ));
    let store = ChromaStore::open(&server.url, &identity(3000), |push| push(&vectors)).unwrap();
    assert_eq!(store.vectors(&[2999, 0]).unwrap().row(0), vectors.row(2999));

    let allowed = |query: usize, row: usize| query % 50 != row % 50;
    let found = store.nearest(&vectors, 2, &allowed).unwrap();
    let mut equal = 0;
    for (query, examples) in found.iter().enumerate() {
        let score = |row: usize| -> f32 {
            let pairs = vectors.row(query).iter().zip(vectors.row(row));
            pairs.map(|(a, b)| a * b).sum()
        };
        let rows = (0..3000).filter(|&row| allowed(query, row));
        let best = rows.map(score).max_by(f32::total_cmp).unwrap();
        assert_eq!(examples.len(), 2);
        assert!((score(examples[0].row) - examples[0].score).abs() < 1e-5);
        assert!(examples[0].score >= examples[1].score);
        equal += usize::from(examples[0].score >= best - 1e-6);
    }
    assert!(equal >= 2850, "recall of the first pick: {equal} of 3000");

    // Strict constraints go beyond any index: the one allowed row is found all the same.
    let last = store
        .nearest(&half, 1, &|query, row| row == (query + 1500) % 3000)
        .unwrap();
    assert!(
        last.iter()
            .enumerate()
            .all(|(query, found)| found[0].row == query + 1500)
    );
    let again = ChromaStore::open(&server.url, &identity(3000), |_| panic!("it is complete"));
    assert_eq!(again.unwrap().len(), 3000);
}

/// All 3,961 + 568 rows of the original experiment's data.
#[test]
fn both_stores_choose_the_same_examples_for_the_sql_data() {
    let Some(mirror) = mirror_with(&[MODEL, DATA]) else {
        return;
    };
    let Some(server) = start_server() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = DataConfig {
        source: DATA.trim_start_matches("datasets/").into(),
        ..DataConfig::default()
    };
    let chosen = |store: StoreKind| {
        let retrieval = RetrievalConfig {
            different: vec!["db_id".into()],
            store,
            chroma_url: server.url.clone(),
            ..RetrievalConfig::default()
        };
        let out = folder.path().join(format!("{store:?}"));
        let request = AugmentRequest {
            task: &Task::sql(),
            data: &data,
            retrieval: &retrieval,
            splits: &["train", "validation"],
            out: &out,
            seed: 42,
            epochs: 1,
            cache: Some(folder.path().join("cache")),
        };
        let started = Instant::now();
        augment(&request, &Hub::from_env(Some(mirror.clone())), &()).unwrap();
        eprintln!("{store:?}: {:.1} s", started.elapsed().as_secs_f32());
        ["train", "validation"]
            .map(|split| read_augmented(&out.join(format!("{split}.jsonl"))).unwrap())
    };
    let (exact, chroma) = (chosen(StoreKind::Exact), chosen(StoreKind::Chroma));
    for (split, (exact, chroma)) in exact.iter().zip(&chroma).enumerate() {
        let pairs = exact.iter().zip(chroma);
        let same = pairs
            .filter(|(a, b)| a.examples[0].row == b.examples[0].row)
            .count();
        let share = same as f64 / exact.len() as f64;
        eprintln!("split {split}: {:.2} % of first picks equal", 100.0 * share);
        assert!(share >= 0.99, "split {split}: {same} of {}", exact.len());
    }
}
