//! The endpoint embedder against a real HTTP server, faults included.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod common;
mod embedding_server;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{mirror_with, write_toy_data};
use embedding_server::{
    EmbeddingServer, Received, Reply, answer, answer_with, error, error_with, vector_of,
};
use rag_tune_augment::embed::{
    self, Embedder, EndpointEmbedder, EndpointError, Limits, RetryPolicy, VectorCache,
};
use rag_tune_augment::{
    AugmentError, AugmentRequest, DataConfig, Hub, RetrievalConfig, Task, augment, is_current,
    read_augmented,
};
use serde_json::{Value, json};

const KEY: &str = "sk-very-secret-key";

fn config(server: &EmbeddingServer) -> RetrievalConfig {
    RetrievalConfig {
        endpoint: server.url(),
        embedder: "toy".into(),
        different: vec!["db_id".into()],
        ..RetrievalConfig::default()
    }
}

/// With a key, and hardly a wait between attempts.
fn embedder(server: &EmbeddingServer) -> EndpointEmbedder {
    let variable = |name: &str| (name == "OPENAI_API_KEY").then(|| KEY.to_owned());
    let embedder = EndpointEmbedder::from_variables(&config(server), &variable).unwrap();
    embedder.with_retry(RetryPolicy {
        attempts: 4,
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(4),
        ..RetryPolicy::default()
    })
}

fn limits(texts: usize, requests: usize) -> Limits {
    Limits {
        texts_per_request: NonZeroUsize::new(texts).unwrap(),
        requests_at_a_time: NonZeroUsize::new(requests).unwrap(),
        ..Limits::default()
    }
}

/// The vectors by position, each handed over once.
fn embed(embedder: &dyn Embedder, texts: &[&str]) -> Result<Vec<Vec<f32>>, AugmentError> {
    let made = Mutex::new(vec![Vec::new(); texts.len()]);
    embedder.embed(texts, &|positions, vectors| {
        let mut made = made.lock().unwrap();
        for (index, position) in positions.iter().enumerate() {
            assert!(made[*position].is_empty(), "{position} came twice");
            made[*position] = vectors.row(index).to_vec();
        }
        Ok(())
    })?;
    Ok(made.into_inner().unwrap())
}

fn assert_right(vectors: &[Vec<f32>], texts: &[&str]) {
    assert_eq!(vectors.len(), texts.len());
    for (vector, text) in vectors.iter().zip(texts) {
        let expected = vector_of(text);
        let length = expected
            .iter()
            .map(|value| value * value)
            .sum::<f32>()
            .sqrt();
        let near = |(value, expected): (&f32, &f32)| (value - expected / length).abs() < 1e-6;
        assert!(
            vector.len() == expected.len() && vector.iter().zip(&expected).all(near),
            "{text}: {vector:?}"
        );
    }
}

/// The endpoint's error, and all that it says. The key is in nothing of it.
fn failure(server: &EmbeddingServer, texts: &[&str]) -> (EndpointError, String) {
    let embedder = embedder(server);
    let error = embed(&embedder, texts).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    let text = format!("{error}; {hint}");
    for shown in [&text, &format!("{error:?}"), &format!("{embedder:?}")] {
        assert!(!shown.contains(KEY) && !shown.contains("Bearer"), "{shown}");
    }
    match error {
        AugmentError::Endpoint(error) => (error, text),
        other => panic!("another error: {other}"),
    }
}

/// Fails with `reply` for the first `times` requests.
fn failing(times: usize, reply: fn(&Received) -> Reply) -> EmbeddingServer {
    EmbeddingServer::start(move |number, received| match number < times {
        true => reply(received),
        false => answer(&received.texts()),
    })
}

#[test]
fn vectors_come_back_in_the_order_of_the_texts_and_of_length_1() {
    let server = EmbeddingServer::well_behaved();
    let texts = ["one", "two two", "three four", "five"];
    let embedder = embedder(&server);
    assert_right(&embed(&embedder, &texts).unwrap(), &texts);
    assert_eq!(embedder.usage().tokens, 6);
    assert_eq!(
        embedder.usage().dollars,
        None,
        "of this server no price is known"
    );

    let [received] = &server.received()[..] else {
        panic!("four texts are one request")
    };
    assert_eq!(received.target, "POST /v1/embeddings");
    assert_eq!(received.header("content-type"), Some("application/json"));
    let authorization = format!("Bearer {KEY}");
    assert_eq!(received.header("authorization"), Some(&authorization[..]));
    assert_eq!(
        received.body,
        json!({"model": "toy", "input": texts, "encoding_format": "float"})
    );
}

#[test]
fn texts_go_in_batches_and_several_requests_are_under_way_at_a_time() {
    let server = EmbeddingServer::start(|_, received| {
        std::thread::sleep(Duration::from_millis(100));
        answer(&received.texts())
    });
    let texts: Vec<_> = (0..45).map(|number| format!("text {number}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let embedder = embedder(&server).with_limits(limits(5, 4));
    assert_right(&embed(&embedder, &texts).unwrap(), &texts);
    assert_eq!(embedder.usage().tokens, 90, "summed over requests");
    assert!(
        server
            .received()
            .iter()
            .all(|received| received.texts().len() == 5)
    );
    assert_eq!(server.requests(), 9);
    assert!((2..=4).contains(&server.most_under_way()));
}

#[test]
fn without_a_key_none_is_sent() {
    let server = EmbeddingServer::well_behaved();
    let embedder = EndpointEmbedder::from_variables(&config(&server), &|_| None).unwrap();
    embed(&embedder, &["one"]).unwrap();
    assert_eq!(server.received()[0].header("authorization"), None);
}

#[test]
fn a_rate_limit_is_waited_out_for_as_long_as_the_server_says() {
    let server = failing(2, |_| error_with(429, "Retry-After: 0.3\r\n", "slow down"));
    let start = Instant::now();
    assert_right(&embed(&embedder(&server), &["one"]).unwrap(), &["one"]);
    assert!(
        start.elapsed() >= Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(server.requests(), 3);

    let server = failing(1, |_| error_with(429, "Retry-After: 3600\r\n", "slow down"));
    let start = Instant::now();
    let (error, text) = failure(&server, &["one"]);
    assert!(
        matches!(error, EndpointError::Status { status: 429, .. }),
        "{text}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "an hour is too long"
    );
}

#[test]
fn an_account_without_money_is_no_rate_limit() {
    let server = failing(9, |_| {
        let body = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
        Reply::Answer(429, "", body.into())
    });
    let (_, text) = failure(&server, &["one"]);
    assert!(text.contains("plan and billing"), "{text}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_passing_fault_of_the_server_is_survived_and_a_lasting_one_named() {
    let server = failing(2, |_| error(500, "oh no"));
    assert_right(&embed(&embedder(&server), &["one"]).unwrap(), &["one"]);
    assert_eq!(server.requests(), 3);

    let server = failing(99, |_| error(503, "overloaded"));
    let (_, text) = failure(&server, &["one"]);
    assert_eq!(server.requests(), 4);
    assert!(
        text.contains("answered 503 after 4 attempts: overloaded"),
        "{text}"
    );
    assert!(text.contains("kept in the cache"), "{text}");
}

#[test]
fn a_connection_that_breaks_off_is_made_again() {
    let cut_head = |_: &Received| Reply::Bytes(b"HTTP/1.1 200 O".to_vec());
    let cut_body = |_: &Received| {
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{\"data\": [".to_vec())
    };
    // Without a length, only the JSON tells that it is cut.
    let cut_json = |_: &Received| Reply::Bytes(b"HTTP/1.1 200 OK\r\n\r\n{\"data\": [".to_vec());
    let nothing = |_: &Received| Reply::Bytes(Vec::new());
    for fault in [cut_head, cut_body, cut_json, nothing] {
        let server = failing(2, fault);
        assert_right(&embed(&embedder(&server), &["one"]).unwrap(), &["one"]);
        assert_eq!(server.requests(), 3);
        failure(&failing(99, fault), &["one"]);
    }
}

#[test]
fn a_server_that_is_not_there_is_named_soon() {
    let server = EmbeddingServer::well_behaved();
    let mut config = config(&server);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let embedder = EndpointEmbedder::from_variables(&config, &|_| None).unwrap();
    let start = Instant::now();
    let error = embed(&embedder, &["one"]).unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    assert!(
        error
            .to_string()
            .contains("cannot reach `http://127.0.0.1:"),
        "{error}"
    );
    assert!(error.to_string().contains("after 4 attempts"), "{error}");
    assert!(error.hint().unwrap().contains("that the server runs"));
}

#[test]
fn a_refused_key_is_named_by_its_variable_and_never_shown() {
    let server = failing(9, |received| {
        let said = received.header("authorization").unwrap();
        error(401, &format!("Incorrect API key: {said}"))
    });
    let (error_401, text) = failure(&server, &["one"]);
    assert!(matches!(
        error_401,
        EndpointError::NotAllowed { key_sent: true, .. }
    ));
    assert!(text.contains("the key in OPENAI_API_KEY"), "{text}");
    assert_eq!(server.requests(), 1);

    let server = failing(9, |received| {
        let said = received
            .header("authorization")
            .unwrap()
            .replace("Bearer ", "");
        error(403, &format!("{said} may not use the model"))
    });
    let (_, text) = failure(&server, &["one"]);
    assert!(
        text.contains("403: (the key) may not use the model"),
        "{text}"
    );

    let server = failing(9, |_| error(401, "no key"));
    let mut config = config(&server);
    config.endpoint_key = "MY_KEY".into();
    let embedder = EndpointEmbedder::from_variables(&config, &|_| None).unwrap();
    let hint = embed(&embedder, &["one"]).unwrap_err().hint().unwrap();
    assert!(hint.contains("put the service's key into MY_KEY"), "{hint}");
}

#[test]
fn other_refusals_carry_the_servers_words() {
    let server = failing(9, |_| error(404, "The model `toy` does not exist"));
    let (_, text) = failure(&server, &["one", "two"]);
    assert!(
        text.contains("404: The model `toy` does not exist"),
        "{text}"
    );
    assert!(text.contains("`retrieval.embedder`"), "{text}");
    assert_eq!(server.requests(), 1, "neither repeated nor bisected");

    let server = failing(9, |_| {
        Reply::Answer(302, "Location: http://elsewhere/\r\n", String::new())
    });
    let (_, text) = failure(&server, &["one"]);
    assert!(
        text.contains("answered 302") && text.contains("moved"),
        "{text}"
    );
}

fn refusing_long_texts() -> EmbeddingServer {
    EmbeddingServer::start(|_, received| {
        let texts = received.texts();
        match texts.iter().any(|text| text.len() > 1000) {
            true => error(400, "This model's maximum context length is 8192 tokens"),
            false => answer(&texts),
        }
    })
}

#[test]
fn a_text_that_is_too_long_is_found_among_its_batch() {
    let server = refusing_long_texts();
    let long = format!("the long one {}", "é".repeat(1 << 19));
    let mut texts = vec!["one"; 100];
    texts[61] = &long;
    let (_, text) = failure(&server, &texts);
    assert!(
        text.len() < 500,
        "a megabyte does not flood the message: {}",
        text.len()
    );
    assert!(text.contains("\"the long one ééé"), "{text}");
    assert!(
        text.contains("of 524301 characters: This model's maximum"),
        "{text}"
    );
    assert!(text.contains("shorten the text"), "{text}");
    assert!(server.requests() < 16, "{} requests", server.requests());
}

#[test]
fn a_server_that_takes_fewer_texts_gets_fewer() {
    let server = EmbeddingServer::start(|_, received| match received.texts().len() {
        0..=32 => answer(&received.texts()),
        n => error(
            422,
            &format!("batch size {n} > maximum allowed batch size 32"),
        ),
    });
    let texts: Vec<_> = (0..512).map(|number| format!("text {number}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let embedder = embedder(&server).with_limits(limits(128, 1));
    assert_right(&embed(&embedder, &texts).unwrap(), &texts);
    assert_eq!(server.requests(), 16 + 3, "it is found out once");
}

#[test]
fn an_empty_text_is_refused_before_any_request() {
    let server = EmbeddingServer::well_behaved();
    let (error, text) = failure(&server, &["one", ""]);
    assert!(matches!(error, EndpointError::EmptyText { .. }));
    assert!(text.contains("empty"), "{text}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn answers_that_are_wrong_are_refused_and_not_asked_for_again() {
    let item = |index: usize, text: &str| json!({"index": index, "embedding": vector_of(text)});
    let one_missing = move |received: &Received| {
        let texts = received.texts();
        answer_with(&texts, vec![item(0, texts[0])])
    };
    let server = EmbeddingServer::start(move |_, received| one_missing(received));
    let (error, text) = failure(&server, &["one", "two"]);
    assert!(
        matches!(
            error,
            EndpointError::Count {
                expected: 2,
                found: 1,
                ..
            }
        ),
        "{text}"
    );
    assert_eq!(server.requests(), 1);

    for (vector, said) in [
        (
            json!([1.0, 0.0]),
            "a vector of 2 numbers for the text \"two\", and before of 6",
        ),
        (
            json!([null, 1, 1, 1, 1, 1]),
            "that is not finite for the text \"two\"",
        ),
        (json!([0, 0, 0, 0, 0, 0]), "of zeros for the text \"two\""),
        (
            json!([1, 1, 1, 1, 1, "x"]),
            "cannot be used: invalid type: string \"x\"",
        ),
        (json!({"a": 1}), "expected numbers, or base64 of f32"),
    ] {
        let server = EmbeddingServer::start(move |_, received| {
            let texts = received.texts();
            let second = json!({"index": 1, "embedding": vector});
            answer_with(&texts, vec![item(0, texts[0]), second])
        });
        let (_, text) = failure(&server, &["one", "two"]);
        assert!(text.contains(said), "{text}");
        assert_eq!(server.requests(), 1);
    }
    let nan = r#"{"data": [{"index": 0, "embedding": [NaN]}]}"#;
    for body in [nan, "<html>It works!</html>", r#"{"error": "no"}"#] {
        let server = EmbeddingServer::start(move |_, _| Reply::Answer(200, "", body.into()));
        let (error, text) = failure(&server, &["one"]);
        assert!(matches!(error, EndpointError::BadResponse { .. }), "{text}");
        assert_eq!(server.requests(), 1, "{text}");
    }
}

#[test]
fn another_dimension_in_a_later_answer_is_refused() {
    let server = EmbeddingServer::start(|number, received| {
        let texts = received.texts();
        let vector = vec![1.0; 3 + number];
        answer_with(&texts, vec![json!({"index": 0, "embedding": vector})])
    });
    let embedder = embedder(&server);
    embed(&embedder, &["one"]).unwrap();
    let error = embed(&embedder, &["two"]).unwrap_err().to_string();
    assert!(
        error.contains("of 4 numbers") && error.contains("before of 3"),
        "{error}"
    );
}

#[test]
fn what_was_made_before_a_failure_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<_> = (0..40).map(|number| format!("text {number}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let run = |server: &EmbeddingServer, fingerprint: &str| {
        let embedder = embedder(server).with_limits(limits(4, 1));
        let mut cache = VectorCache::open(Some(folder.path()), fingerprint).unwrap();
        cache.embed(&embedder, &texts, &()).map(|_| ())
    };
    let failing = EmbeddingServer::start(|number, received| match number {
        0..6 => answer(&received.texts()),
        _ => error(500, "gone"),
    });
    run(&failing, "f").unwrap_err();
    let server = EmbeddingServer::well_behaved();
    run(&server, "f").unwrap();
    assert_eq!(server.requests(), 4, "16 of 40 texts were left");
    let sent = server.received();
    assert_eq!(sent[0].texts()[0], "text 24");
}

#[test]
fn the_first_failure_ends_the_waits_of_all_workers() {
    let server = EmbeddingServer::start(|_, received| match received.texts()[0] {
        "one" => error_with(429, "Retry-After: 300\r\n", "slow down"),
        _ => {
            std::thread::sleep(Duration::from_millis(200));
            error(404, "no such model")
        }
    });
    let start = Instant::now();
    let embedder = embedder(&server).with_limits(limits(1, 2));
    let error = embed(&embedder, &["one", "two"]).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_second_augmentation_makes_no_request() {
    let root = tempfile::tempdir().unwrap();
    write_toy_data(&root.path().join("data"));
    let server = EmbeddingServer::well_behaved();
    let data = DataConfig {
        source: root.path().join("data").to_str().unwrap().into(),
        ..DataConfig::default()
    };
    let retrieval = config(&server);
    let (task, out) = (Task::sql(), root.path().join("out"));
    let request = AugmentRequest {
        task: &task,
        data: &data,
        retrieval: &retrieval,
        splits: &["train", "validation"],
        out: &out,
        seed: 1,
        epochs: 1,
        cache: Some(root.path().join("cache")),
    };
    let hub = Hub::from_env(Some(root.path().join("mirror")));
    augment(&request, &hub, &()).unwrap();
    let texts = |server: &EmbeddingServer| -> usize {
        server
            .received()
            .iter()
            .map(|received| received.texts().len())
            .sum()
    };
    assert_eq!(
        texts(&server),
        9,
        "8 train texts, and one more of validation"
    );
    let rows = read_augmented(&out.join("validation.jsonl")).unwrap();
    assert_eq!(rows[0].examples[0].row, nearest_by_hand("two five", &out));

    let requests = server.requests();
    assert!(is_current(&request, &hub).unwrap());
    augment(&request, &hub, &()).unwrap();
    assert_eq!(server.requests(), requests);
}

/// The train row whose question has the largest cosine with `question`.
fn nearest_by_hand(question: &str, out: &Path) -> usize {
    let cosine = |other: &str| {
        let (a, b) = (vector_of(question), vector_of(other));
        let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let train = read_augmented(&out.join("train.jsonl")).unwrap();
    let cosines: Vec<_> = train
        .iter()
        .map(|row| cosine(row.text("question").unwrap()))
        .collect();
    let largest = (0..cosines.len()).max_by(|a, b| cosines[*a].total_cmp(&cosines[*b]));
    largest.unwrap()
}

/// A server of other people's, such as infinity (`pip install "infinity-emb[torch,server]"`), started as
/// `infinity_emb v2 --model-id MIRROR/models/sentence-transformers/all-MiniLM-L6-v2 --dtype float32
/// --served-model-name minilm --url-prefix /v1 --api-key KEY --port PORT`, its address in
/// `RAG_TUNE_TEST_ENDPOINT` and its key in `RAG_TUNE_TEST_ENDPOINT_KEY`.
#[test]
fn a_server_of_other_people_gives_the_vectors_of_the_local_model() {
    const MODEL: &str = "models/sentence-transformers/all-MiniLM-L6-v2";
    const DATA: &str = "datasets/samlhuillier/sql-create-context-spider-intersect/validation.jsonl";
    let Some(mirror) = mirror_with(&[MODEL, DATA]) else {
        return;
    };
    let Ok(endpoint) = std::env::var("RAG_TUNE_TEST_ENDPOINT") else {
        eprintln!("skipped: no server (RAG_TUNE_TEST_ENDPOINT)");
        return;
    };
    let lines = std::fs::read_to_string(mirror.join(DATA)).unwrap();
    let rows = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows: Vec<_> = rows.collect();
    let texts: Vec<&str> = rows
        .iter()
        .map(|row| row["question"].as_str().unwrap())
        .collect();
    let vectors = |config: &RetrievalConfig| {
        let embedder = embed::open(config, &Hub::from_env(Some(mirror.clone()))).unwrap();
        let vectors = embed(embedder.as_ref(), &texts).unwrap();
        (vectors, embedder.usage())
    };
    let (local, _) = vectors(&RetrievalConfig::default());
    let (remote, usage) = vectors(&RetrievalConfig {
        endpoint,
        embedder: "minilm".into(),
        endpoint_key: "RAG_TUNE_TEST_ENDPOINT_KEY".into(),
        ..RetrievalConfig::default()
    });
    for ((local, remote), text) in local.iter().zip(&remote).zip(&texts) {
        let dot: f32 = local.iter().zip(remote).map(|(a, b)| a * b).sum();
        assert!(dot > 0.9999, "{text:?}: cosine {dot}");
    }
    assert!(usage.tokens > 0, "{usage:?}");
}
