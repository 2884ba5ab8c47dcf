//! The Chroma store against a server that the test makes: what it finds, what it survives, what it reports.

mod fake_chroma;

use fake_chroma::FakeChroma;
use proptest::prelude::*;
use rag_tune_augment::AugmentError;
use rag_tune_augment::embed::Embeddings;
use rag_tune_augment::stores::{ChromaError, ChromaStore, Store, StoreError, StoreIdentity};
use serde_json::json;

fn identity(rows: usize) -> StoreIdentity {
    StoreIdentity {
        embedder: "some embedder".into(),
        texts: "some texts".into(),
        rows,
    }
}

/// Small whole numbers: sums are exact in any order, and ties abound.
fn vectors(rows: usize, dimension: usize) -> Embeddings {
    let values = (0..rows * dimension).map(|at| ((at * at * 7 + at / 3) % 5) as f32 - 2.0);
    Embeddings::new(dimension, values.collect())
}

fn slice(vectors: &Embeddings, rows: std::ops::Range<usize>) -> Embeddings {
    let dimension = vectors.dimension();
    let values = &vectors.values()[rows.start * dimension..rows.end * dimension];
    Embeddings::new(dimension, values.to_vec())
}

fn open(url: &str, vectors: &Embeddings) -> Result<ChromaStore, AugmentError> {
    ChromaStore::open(url, &identity(vectors.len()), |push| push(vectors))
}

fn store_error<T>(result: Result<T, AugmentError>) -> StoreError {
    match result.err().expect("an error") {
        AugmentError::Store(error) => error,
        other => panic!("{other}"),
    }
}

fn plain_search(
    rows: &Embeddings,
    query: &[f32],
    n: usize,
    allowed: impl Fn(usize) -> bool,
) -> Vec<(usize, f32)> {
    let score = |row: usize| rows.row(row).iter().zip(query).map(|(a, b)| a * b).sum();
    let permitted = (0..rows.len()).filter(|&row| allowed(row));
    let mut all: Vec<(usize, f32)> = permitted.map(|row| (row, score(row))).collect();
    // A stable sort: of equal scores the lower row stays first.
    // Not `total_cmp`, which takes 0 and -0 for two scores.
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("finite"));
    all.truncate(n);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// However strict the constraints and however little the index reaches.
    #[test]
    fn search_equals_sorting_all_rows(
        rows in 1usize..150,
        dimension in 1usize..6,
        n in 0usize..6,
        strictness in 1usize..60,
        reach in prop_oneof![Just(usize::MAX), 0usize..40],
    ) {
        let server = FakeChroma::start();
        let vectors = vectors(rows, dimension);
        let store = open(&server.url, &vectors).unwrap();
        let whole = reach == usize::MAX;
        server.state().reach = reach;
        let queries = slice(&vectors, 0..rows.min(70));
        let allowed = |query: usize, row: usize| (query + row).is_multiple_of(strictness);
        let found = store.nearest(&queries, n, &allowed).unwrap();
        prop_assert_eq!(found.len(), queries.len());
        for (query, found) in found.iter().enumerate() {
            let found: Vec<_> = found.iter().map(|example| (example.row, example.score)).collect();
            let expected = plain_search(&vectors, queries.row(query), n, |row| allowed(query, row));
            if whole {
                prop_assert_eq!(found, expected);
            } else {
                // Ties with rows out of reach may be broken otherwise.
                let scores = |list: &[(usize, f32)]| list.iter().map(|e| e.1).collect::<Vec<_>>();
                prop_assert_eq!(scores(&found), scores(&expected));
                prop_assert!(found.iter().all(|&(row, _)| allowed(query, row)));
            }
        }
    }
}

/// The comparison one by one once took a score of 0 for larger than one of -0.
#[test]
fn zeros_of_either_sign_are_one_score() {
    let server = FakeChroma::start();
    let vectors = Embeddings::new(1, vec![-1.0, 1.0]);
    let store = open(&server.url, &vectors).unwrap();
    let query = Embeddings::new(1, vec![0.0]);
    for reach in [usize::MAX, 0] {
        server.state().reach = reach;
        let found = store.nearest(&query, 2, &|_, _| true).unwrap();
        let rows: Vec<usize> = found[0].iter().map(|example| example.row).collect();
        assert_eq!(rows, [0, 1], "reach {reach}");
    }
}

#[test]
fn a_finished_store_is_opened_without_being_filled() {
    let server = FakeChroma::start();
    let vectors = vectors(30, 4);
    open(&server.url, &vectors).unwrap();
    // A slash at the end of the address changes nothing.
    let url = format!("{}/", server.url);
    let store = ChromaStore::open(&url, &identity(30), |_| panic!("it is complete")).unwrap();
    assert_eq!(store.len(), 30);
    let found = store.nearest(&slice(&vectors, 3..4), 1, &|_, row| row == 17);
    assert_eq!(found.unwrap()[0][0].row, 17);
}

#[test]
fn an_interrupted_build_resumes_and_loses_nothing() {
    let server = FakeChroma::start();
    let vectors = vectors(50, 4);
    server.state().max_batch_size = 7;
    let interrupted = ChromaStore::open(&server.url, &identity(50), |push| {
        push(&slice(&vectors, 0..20))?;
        server.state().fault = Some(("upsert", 500, "gone".into()));
        push(&slice(&vectors, 20..50))
    });
    assert!(matches!(
        store_error(interrupted),
        StoreError::Chroma(ChromaError::Status { status: 500, .. })
    ));
    server.state().fault = None;
    let store = ChromaStore::open(&server.url, &identity(50), |push| {
        push(&slice(&vectors, 0..13))?;
        push(&slice(&vectors, 13..50))
    });
    let all: Vec<usize> = (0..50).collect();
    assert_eq!(store.unwrap().vectors(&all).unwrap(), vectors);
    let state = server.state();
    assert_eq!(state.added.concat(), all, "every row once");
    assert!(state.added.iter().all(|ids| ids.len() <= 7));
}

#[test]
fn vectors_come_in_the_order_asked_for() {
    let server = FakeChroma::start();
    let vectors = vectors(2500, 3);
    let store = open(&server.url, &vectors).unwrap();
    let rows: Vec<usize> = (0..2500).rev().chain([7, 7, 3]).collect();
    let found = store.vectors(&rows).unwrap();
    assert_eq!(found.len(), rows.len());
    for (position, &row) in rows.iter().enumerate() {
        assert_eq!(found.row(position), vectors.row(row));
    }
    assert!(store.vectors(&[]).unwrap().is_empty());
    let error = store_error(store.vectors(&[2500]));
    assert!(error.to_string().contains("no vector of row 2500"));
}

#[test]
fn a_collection_of_another_embedder_is_refused() {
    let server = FakeChroma::start();
    let vectors = vectors(5, 2);
    open(&server.url, &vectors).unwrap();
    let mut state = server.state();
    let metadata = state.metadata.as_mut().unwrap();
    metadata.insert("embedder".into(), json!("another"));
    drop(state);
    let error = store_error(open(&server.url, &vectors));
    let text = error.to_string();
    assert!(
        text.contains(r#"its `embedder` is "another", expected "some embedder""#),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("delete"));
    server.state().metadata = Some(serde_json::Map::new());
    assert!(matches!(
        store_error(open(&server.url, &vectors)),
        StoreError::Chroma(ChromaError::OtherSource {
            field: "layout",
            ..
        })
    ));
}

#[test]
fn another_number_of_vectors_is_refused() {
    let server = FakeChroma::start();
    let vectors = vectors(5, 2);
    let fewer = ChromaStore::open(&server.url, &identity(6), |push| push(&vectors));
    let expected = "the store of vectors holds 5 vectors, expected 6";
    assert_eq!(store_error(fewer).to_string(), expected);

    let server = FakeChroma::start();
    open(&server.url, &vectors).unwrap();
    server.state().rows.remove(&3);
    assert!(matches!(
        store_error(open(&server.url, &vectors)),
        StoreError::Chroma(ChromaError::WrongCount {
            expected: 5,
            found: 4,
            ..
        })
    ));
}

#[test]
fn vectors_of_another_length_are_refused() {
    let server = FakeChroma::start();
    let store = open(&server.url, &vectors(5, 2)).unwrap();
    let error = store_error(store.nearest(&vectors(1, 3), 1, &|_, _| true));
    assert!(matches!(
        error,
        StoreError::WrongDimension {
            expected: 2,
            found: 3
        }
    ));

    let changed = ChromaStore::open(&FakeChroma::start().url, &identity(10), |push| {
        push(&vectors(5, 2))?;
        push(&vectors(5, 3))
    });
    assert!(matches!(
        store_error(changed),
        StoreError::WrongDimension {
            expected: 2,
            found: 3
        }
    ));
}

#[test]
fn vectors_that_json_cannot_say_are_refused() {
    let server = FakeChroma::start();
    let vectors = Embeddings::new(2, vec![1.0, 0.0, f32::NAN, 0.0]);
    let error = store_error(open(&server.url, &vectors));
    assert!(matches!(error, StoreError::NotFinite { row: 1 }));
    assert!(server.state().rows.is_empty());
}

#[test]
fn a_missing_server_is_named_with_the_command_that_starts_one() {
    // Bound and dropped: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for url in [url.as_str(), "no address at all", ""] {
        let error = store_error(open(url, &vectors(5, 2)));
        assert!(
            matches!(error, StoreError::Chroma(ChromaError::Unreachable { .. })),
            "{url:?}: {error}"
        );
        assert!(error.hint().unwrap().contains("chroma run --path"));
    }
}

#[test]
fn a_refusal_carries_the_servers_words() {
    let server = FakeChroma::start();
    let vectors = vectors(5, 2);
    let store = open(&server.url, &vectors).unwrap();
    let words = json!({"error": "InternalError", "message": "the disk is full"}).to_string();
    server.state().fault = Some(("query", 503, words));
    let error = store_error(store.nearest(&vectors, 1, &|_, _| true));
    let text = error.to_string();
    assert!(text.contains("answered 503 to http://"), "{text}");
    assert!(text.ends_with("/query: the disk is full"), "{text}");

    server.state().fault = Some(("", 404, "<html>nothing here</html>".into()));
    let error = store_error(open(&server.url, &vectors));
    let text = error.to_string();
    assert!(text.ends_with(": <html>nothing here</html>"), "{text}");
    assert!(error.hint().unwrap().contains("1.0 or newer"));
}

/// A proxy, another service, a later version: none may end in a panic or in a wrong example.
#[test]
fn odd_answers_are_errors() {
    let server = FakeChroma::start();
    let vectors = vectors(3, 2);
    let store = open(&server.url, &vectors).unwrap();
    let query = slice(&vectors, 0..1);
    let nearest = |answer: &str| {
        server.state().fault = Some(("query", 200, answer.into()));
        store_error(store.nearest(&query, 1, &|_, _| true)).to_string()
    };
    for (answer, problem) in [
        ("", "EOF"),
        ("[]", "invalid length"),
        ("<html>", "it begins \"<html>\""),
        (r#"{"ids": []}"#, "1 queries with 0 lists"),
        (r#"{"ids": [["0"]]}"#, "0 of distances"),
        (r#"{"ids": [["0"]], "distances": [[]]}"#, "1 ids and 0"),
        (r#"{"ids": [["0"]], "distances": [[null]]}"#, "None"),
        (r#"{"ids": [["0"]], "distances": [[1e99]]}"#, "distance"),
        (r#"{"ids": [["one"]], "distances": [[0.5]]}"#, "\"one\""),
        (r#"{"ids": [["3"]], "distances": [[0.5]]}"#, "found row 3"),
    ] {
        let text = nearest(answer);
        assert!(text.contains(problem), "{answer}: {text}");
    }
    let fetch = |answer: &str| {
        server.state().fault = Some(("get", 200, answer.into()));
        store_error(store.vectors(&[0])).to_string()
    };
    for (answer, problem) in [
        (r#"{"ids": []}"#, "no vector of row 0"),
        (
            r#"{"ids": ["0"], "embeddings": null}"#,
            "no vector of row 0",
        ),
        (
            r#"{"ids": ["0"], "embeddings": [[1, 2, 3]]}"#,
            "row 0 has 3 numbers, not 2",
        ),
        (
            r#"{"ids": ["0"], "embeddings": [["a"]]}"#,
            "invalid type: string",
        ),
    ] {
        let text = fetch(answer);
        assert!(text.contains(problem), "{answer}: {text}");
    }
}
