use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::embed::Done;

const FINGERPRINT: &str = "f";
const DIMENSION: usize = 3;
const BATCH: usize = 2;

/// Embeds two texts at a time, and fails when it is to embed a text too many.
struct Fake {
    embedded: AtomicUsize,
    limit: usize,
    at_limit: fn() -> AugmentError,
}

impl Fake {
    fn new() -> Self {
        Self::failing_after(usize::MAX)
    }

    fn failing_after(limit: usize) -> Self {
        Self {
            embedded: AtomicUsize::new(0),
            limit,
            at_limit: || AugmentError::PathNotFound {
                path: "limit".into(),
            },
        }
    }

    fn embedded(&self) -> usize {
        self.embedded.load(Ordering::Relaxed)
    }
}

/// A vector of length 1 that tells texts apart, but for a few texts that no embedder should make so.
fn vector_of(text: &str) -> Vec<f32> {
    match text {
        "not finite" => return vec![f32::NAN, 0.0, 0.0],
        "too long" => return vec![2.0, 0.0, 0.0],
        "another dimension" => return vec![1.0, 0.0],
        "nothing" => return vec![0.0; DIMENSION],
        _ => {}
    }
    let digest = sha256_of_text(text);
    let angle = f32::from(u16::from_le_bytes([digest[0], digest[1]]));
    vec![angle.cos(), angle.sin(), 0.0]
}

impl Embedder for Fake {
    fn fingerprint(&self) -> &str {
        FINGERPRINT
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let positions: Vec<_> = (0..texts.len()).collect();
        for batch in positions.chunks(BATCH) {
            if self.embedded.fetch_add(batch.len(), Ordering::Relaxed) + batch.len() > self.limit {
                return Err((self.at_limit)());
            }
            let vectors: Vec<_> = batch.iter().map(|&at| vector_of(texts[at])).collect();
            done(batch, &Embeddings::new(vectors[0].len(), vectors.concat()))?;
        }
        Ok(())
    }
}

fn open(folder: &TempDir) -> VectorCache {
    VectorCache::open(Some(folder.path()), FINGERPRINT).unwrap()
}

/// Embeds with all vectors right, and says how many texts were not known.
fn embed(folder: &TempDir, texts: &[&str]) -> usize {
    let embedder = Fake::new();
    let vectors = open(folder).embed(&embedder, texts, &()).unwrap();
    let expected: Vec<_> = texts.iter().map(|text| vector_of(text)).collect();
    assert_eq!(vectors.values(), expected.concat());
    embedder.embedded()
}

fn file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(FINGERPRINT).join(name)
}

fn cut(path: &Path, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("text {number}")).collect()
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn a_second_run_embeds_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(embed(&folder, &["a", "b", "a"]), 2);
    assert_eq!(embed(&folder, &["b", "a"]), 0);
    assert_eq!(embed(&folder, &["new", "b", "newer"]), 2);
    assert_eq!(embed(&folder, &[]), 0);

    let other = Fake::new();
    let mut cache = VectorCache::open(Some(folder.path()), "another model").unwrap();
    cache.embed(&other, &["a"], &()).unwrap();
    assert_eq!(other.embedded(), 1);
}

#[test]
fn one_cache_serves_call_after_call() {
    for folder in [None, Some(tempfile::tempdir().unwrap())] {
        let embedder = Fake::new();
        let mut cache = VectorCache::open(folder.as_ref().map(TempDir::path), FINGERPRINT).unwrap();
        for texts in [&["a", "b", "c"][..], &["c", "d"], &["d", "a"], &[]] {
            let vectors = cache.embed(&embedder, texts, &()).unwrap();
            let expected: Vec<_> = texts.iter().map(|text| vector_of(text)).collect();
            assert_eq!(vectors.values(), expected.concat());
        }
        assert_eq!(embedder.embedded(), 4);
    }
}

#[test]
fn without_a_folder_nothing_outlives_the_cache() {
    let embedder = Fake::new();
    for _ in 0..2 {
        let mut cache = VectorCache::open(None, FINGERPRINT).unwrap();
        cache.embed(&embedder, &["x", "x"], &()).unwrap();
    }
    assert_eq!(embedder.embedded(), 2);
}

#[test]
fn a_vector_of_nothing_is_remembered_too() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(embed(&folder, &["nothing", "a"]), 2);
    assert_eq!(embed(&folder, &["nothing", "a"]), 0);
}

#[test]
fn a_hole_in_the_file_is_embedded_again_and_stays_mended() {
    let folder = tempfile::tempdir().unwrap();
    embed(&folder, &["a", "b", "c"]);
    let path = file(&folder, "vectors.f32");
    let mut bytes = fs::read(&path).unwrap();
    bytes[12..24].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(embed(&folder, &["a", "b", "c"]), 1);
    assert_eq!(embed(&folder, &["a", "b", "c"]), 0);
}

#[test]
fn vectors_that_no_embedder_may_make_are_refused_with_their_text() {
    let refused = |texts: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let error = open(&folder).embed(&Fake::new(), texts, &()).unwrap_err();
        let mut in_memory = VectorCache::open(None, FINGERPRINT).unwrap();
        let same = in_memory.embed(&Fake::new(), texts, &()).unwrap_err();
        assert_eq!(error.to_string(), same.to_string());
        error
    };
    let error = refused(&["good", "good too", "not finite"]);
    assert!(matches!(error, AugmentError::NotFinite { text } if text == "not finite"));
    let error = refused(&["good", "too long"]);
    assert!(
        matches!(&error, AugmentError::NotUnit { text, length: 2.0 } if text == "too long"),
        "{error}"
    );
    let error = refused(&["good", "good too", "another dimension"]);
    assert!(
        matches!(
            error,
            AugmentError::OtherDimension {
                expected: 3,
                found: 2
            }
        ),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn another_dimension_than_in_an_earlier_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    embed(&folder, &["a"]);
    let error = open(&folder).embed(&Fake::new(), &["another dimension"], &());
    assert!(matches!(
        error,
        Err(AugmentError::OtherDimension { expected: 3, .. })
    ));
    assert_eq!(embed(&folder, &["a"]), 0, "what was there stays");
}

#[test]
fn a_text_of_a_megabyte_is_embedded_and_does_not_flood_a_message() {
    let long = "é".repeat(1 << 19);
    let folder = tempfile::tempdir().unwrap();
    embed(&folder, &[&long]);
    assert_eq!(embed(&folder, &[&long]), 0);

    struct NotANumber;
    impl Embedder for NotANumber {
        fn fingerprint(&self) -> &str {
            "n"
        }
        fn embed(&self, _: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
            done(&[0], &Embeddings::new(1, vec![f32::INFINITY]))
        }
    }
    let mut cache = VectorCache::open(None, "n").unwrap();
    let error = cache.embed(&NotANumber, &[&long], &()).unwrap_err();
    let message = error.to_string();
    assert!(message.len() < 300 && message.contains("éé"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_a_failure_only_the_rest_is_embedded(texts in 1_usize..12, limit in 0_usize..12) {
        let folder = tempfile::tempdir().unwrap();
        let texts = numbered(0..texts);
        let texts = borrowed(&texts);
        let failing = Fake::failing_after(limit);
        let failed = open(&folder).embed(&failing, &texts, &()).is_err();
        let finished = if failed { limit / BATCH * BATCH } else { texts.len() };
        prop_assert_eq!(embed(&folder, &texts), texts.len() - finished);
        prop_assert_eq!(embed(&folder, &texts), 0);
    }

    #[test]
    fn a_torn_tail_costs_the_torn_records_only(
        texts in 1_usize..8,
        in_keys in any::<bool>(),
        share in 0.0_f64..1.0,
        more in 0_usize..5,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let texts = numbered(0..texts);
        let texts = borrowed(&texts);
        embed(&folder, &texts);
        let (name, record_bytes) = if in_keys { ("keys.bin", 32) } else { ("vectors.f32", 4 * DIMENSION) };
        let bytes = (share * (texts.len() * record_bytes) as f64) as usize;
        cut(&file(&folder, name), bytes as u64);
        let whole = bytes / record_bytes;
        // Others first: the tail is cut off before they are written behind it.
        let others = numbered(100..100 + more);
        prop_assert_eq!(embed(&folder, &borrowed(&others)), more);
        prop_assert_eq!(embed(&folder, &texts), texts.len() - whole);
        prop_assert_eq!(embed(&folder, &texts), 0);
        prop_assert_eq!(embed(&folder, &borrowed(&others)), 0);
    }
}

/// The test runs itself as another process, which dies in the middle without any clean-up.
#[test]
fn a_killed_run_loses_no_finished_batch() {
    const FOLDER: &str = "RAG_TUNE_TEST_KILLED_RUN";
    let texts = numbered(0..10);
    let texts = borrowed(&texts);
    if let Some(folder) = std::env::var_os(FOLDER) {
        let killed = Fake {
            at_limit: || std::process::abort(),
            ..Fake::failing_after(7)
        };
        let mut cache = VectorCache::open(Some(Path::new(&folder)), FINGERPRINT).unwrap();
        cache.embed(&killed, &texts, &()).unwrap();
        unreachable!("it is killed before");
    }
    let folder = tempfile::tempdir().unwrap();
    let this = concat!(module_path!(), "::a_killed_run_loses_no_finished_batch");
    let (_crate, name) = this.split_once("::").unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success(), "it was to be killed: {output:?}");
    assert_eq!(embed(&folder, &texts), 4, "three batches of two were done");
}

#[test]
fn handles_at_work_at_the_same_time_share_what_they_make() {
    let folder = tempfile::tempdir().unwrap();
    let texts = numbered(0..400);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (folder, texts) = (&folder, &texts);
            scope.spawn(move || {
                let mut cache = open(folder);
                // Halves overlap, and come in small pieces.
                let own = &texts[worker * 66..worker * 66 + 200];
                for piece in own.chunks(7) {
                    let piece = borrowed(piece);
                    let vectors = cache.embed(&Fake::new(), &piece, &()).unwrap();
                    let expected: Vec<_> = piece.iter().map(|text| vector_of(text)).collect();
                    assert_eq!(vectors.values(), expected.concat());
                }
            });
        }
    });
    assert_eq!(embed(&folder, &borrowed(&texts[..398])), 0);
}

#[test]
fn a_handle_finds_what_another_has_made_since() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = open(&folder);
    let mut second = open(&folder);
    let embedder = Fake::new();
    first.embed(&embedder, &["a", "b"], &()).unwrap();
    second.embed(&embedder, &["b", "c"], &()).unwrap();
    first.embed(&embedder, &["c", "a"], &()).unwrap();
    assert_eq!(embedder.embedded(), 3);
}

#[test]
fn damage_is_named_with_the_way_out() {
    let with_meta = |meta: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        embed(&folder, &["a"]);
        match meta {
            Some(meta) => fs::write(file(&folder, "meta.json"), meta).unwrap(),
            None => fs::remove_file(file(&folder, "meta.json")).unwrap(),
        }
        let error = VectorCache::open(Some(folder.path()), FINGERPRINT);
        let error = error.err().unwrap();
        let hint = error.hint().unwrap();
        assert!(
            hint.starts_with("delete `") && hint.contains("/f`"),
            "{hint}"
        );
        error.to_string()
    };
    let meta = |format: &str, fingerprint: &str, dimension: usize| {
        serde_json::json!({"format": format, "fingerprint": fingerprint, "dimension": dimension})
            .to_string()
    };
    let format = "rag-tune vectors 1, little-endian";
    for (meta, problem) in [
        (None, "it has no `meta.json`"),
        (Some("{".into()), "`meta.json`: EOF"),
        (Some(meta("other", "f", 3)), "its format is `other`"),
        (Some(meta(format, "g", 3)), "it is of the embedder g"),
        (Some(meta(format, "f", 0)), "said to have 0 numbers"),
    ] {
        let message = with_meta(meta.as_deref());
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn another_dimension_in_the_meta_file_gives_no_wrong_vectors() {
    let folder = tempfile::tempdir().unwrap();
    embed(&folder, &["a", "b"]);
    let path = file(&folder, "meta.json");
    let meta = fs::read_to_string(&path).unwrap();
    fs::write(&path, meta.replace("\"dimension\": 3", "\"dimension\": 6")).unwrap();
    let error = open(&folder).embed(&Fake::new(), &["a", "b"], &());
    assert!(matches!(
        error,
        Err(AugmentError::OtherDimension {
            expected: 6,
            found: 3
        })
    ));
}

#[test]
fn a_file_of_the_earlier_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.safetensors");
    fs::write(&path, "old").unwrap();
    embed(&folder, &["a"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
#[ignore = "writes 1.5 GB, for the figure in docs"]
fn a_million_vectors_open_in_about_a_second() {
    const TEXTS: usize = 1_000_000;
    const DIMENSION: usize = 384;
    let folder = tempfile::tempdir().unwrap();
    let mut files = VectorFiles::new(folder.path().join(FINGERPRINT), FINGERPRINT);
    let mut unit = vec![0.0; DIMENSION];
    unit[0] = 1.0;
    for start in (0..TEXTS).step_by(10_000) {
        let keys: Vec<Key> = (start..start + 10_000)
            .map(|number| sha256_of_text(&number.to_string()))
            .collect();
        let vectors = Embeddings::new(DIMENSION, unit.repeat(keys.len()));
        files.append(&keys, &vectors, &mut |_, _| {}).unwrap();
    }
    drop(files);
    let start = Instant::now();
    let cache = open(&folder);
    let elapsed = start.elapsed();
    assert_eq!(cache.positions.len(), TEXTS);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}
